-- The times of events rise with their ids, as far as the clock does: each is taken when it is its event's turn, not when
-- its transaction began, which may have waited for another one in between.

alter table cms.instance_events alter column created_at set default clock_timestamp();
