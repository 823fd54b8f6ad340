-- Each machine's sweep resolves what it has found itself. Nothing is taken away: the release before writes no machine.

alter table cms.drift_findings add column host text;
comment on column cms.drift_findings.host is 'The machine it was found on, where only that one can see it.';

comment on column cms.operations.error_code is
    'What it ended with; while it goes on, what the last try to remove its instance failed with.';

-- As that of 0004; what can't be removed comes before what its steps wait for.
create or replace function cms.why(i cms.instances) returns text[] language sql stable as $$
select case
    when i.state in ('creating', 'updating', 'deleting') then coalesce(
        (select array[d.kind, d.message] from cms.drift_findings d
         where d.instance_id = i.id and d.kind = 'removal_stuck' and d.resolved_at is null),
        (select array[s.reason, s.message]
         from cms.operations o join cms.operation_steps s on s.operation_id = o.id
         where o.instance_id = i.id and o.state = 'running' and s.state = 'running' and s.reason is not null
         order by s.position desc limit 1))
    when i.state = 'failed' then
        (select array[o.error_code, i.state_reason] from cms.operations o
         where o.instance_id = i.id and o.state = 'failed' order by o.id desc limit 1)
    when i.state = 'degraded' or i.consecutive_failures > 0 then coalesce(
        (select array[d.kind, d.message] from cms.drift_findings d
         where d.instance_id = i.id and d.source = 'actor' and d.resolved_at is null
         order by d.last_seen_at desc limit 1),
        (select array[c.error_code, c.error_message] from cms.health_checks c
         where c.instance_id = i.id and c.checked_at = i.last_checked_at and not c.healthy))
end
$$;
