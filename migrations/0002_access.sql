-- Who may do what, and news of what changes: tokens that expire, quotas, the audit of what is no instance, the
-- processes of the control plane, events in the order of their ids, notifications. Nothing is taken away, so the
-- release before works on these tables too.
--
-- Lock order of every transaction, 0001's with two more: an idempotency key, the owner's quota, the instance's row,
-- anything else, the order of events. Whoever has the last waits afterwards for nothing but rows of the instance that
-- it holds, so it cannot deadlock either.

alter table cms.api_tokens add column expires_at timestamptz;
comment on column cms.api_tokens.scopes is 'One word: each scope allows all that the lesser ones do.';

alter table cms.audit_events add column object text;
comment on column cms.audit_events.object is 'What it was done to beside an instance, such as a token or an owner.';

create index audit_events_actor on cms.audit_events (actor, id);
create index audit_events_action on cms.audit_events (action, id);

-- So that pages of what there is little of don't read all there is.
create index operations_kind on cms.operations (kind, id);
create index instances_owner on cms.instances (user_name, id);
create index instances_state on cms.instances (state, created_at, id) where state <> 'deleted';

create table cms.quotas (
    user_name      text primary key,
    -- Not limited if null.
    max_instances  bigint,
    max_storage_gb bigint,
    constraint quotas_max_instances check (max_instances >= 0),
    constraint quotas_max_storage_gb check (max_storage_gb >= 0)
);

create table cms.workers (
    id                  uuid primary key,
    host                text not null,
    pid                 integer not null,
    version             text not null,
    mode                text not null,
    -- By the clock of its machine.
    started_at          timestamptz not null,
    -- By the clock of this database.
    last_seen_at        timestamptz not null,
    orchestration_slots integer not null,
    activity_slots      integer not null,
    activities_running  integer not null
);

-- Events become visible in the order of their ids, so that who follows them all by the last id seen misses none: one
-- transaction at a time draws ids, and the next one when the first has ended. A statement's trigger, since a row's
-- would come after the id is drawn.
create function cms.order_events() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('toygres: order of events', 0));
    -- All others wait: a process that stands still, or whose machine is gone, loses its transaction.
    perform set_config('idle_in_transaction_session_timeout', '10s', true);
    return null;
end
$$;

create trigger instance_events_ordered before insert on cms.instance_events
for each statement execute function cms.order_events();

-- The notifications say what to look at again; what is new there stands in the tables.
create function cms.notify_event() returns trigger language plpgsql as $$
begin
    perform pg_notify('toygres_changes', 'event');
    return null;
end
$$;

create trigger instance_events_notify after insert on cms.instance_events
for each statement execute function cms.notify_event();

-- Its argument: the column with the operation's id.
create function cms.notify_operation() returns trigger language plpgsql as $$
begin
    perform pg_notify('toygres_changes', 'operation:' || (to_jsonb(new) ->> tg_argv[0]));
    return null;
end
$$;

create trigger operations_notify_insert after insert on cms.operations
for each row execute function cms.notify_operation('id');

create trigger operations_notify_update after update on cms.operations
for each row when (old is distinct from new) execute function cms.notify_operation('id');

create trigger operation_steps_notify_insert after insert on cms.operation_steps
for each row execute function cms.notify_operation('operation_id');

create trigger operation_steps_notify_update after update on cms.operation_steps
for each row when (old is distinct from new) execute function cms.notify_operation('operation_id');
