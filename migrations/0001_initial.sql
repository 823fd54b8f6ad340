-- The metadata of toygres. Migrations expand first and contract in a later release, so that the release before still
-- works on the new tables. A file that has been released is never changed.
--
-- Lock order of every transaction: an idempotency key, then the instance's row, then anything else. All writes about
-- an instance hold its row, so they cannot deadlock, and the ids of its events rise in the order of their commits.

create table cms.instances (
    id                   uuid primary key,
    name                 text not null,
    user_name            text not null,
    state                text not null,
    desired_state        text not null default 'running',
    state_reason         text,
    health_status        text not null default 'unknown',
    consecutive_failures integer not null default 0,
    -- The fence: rises when the instance's actor is replaced. Every write of an actor names it.
    incarnation          bigint not null default 1,
    postgres_version     integer not null,
    storage_size_gb      integer not null,
    cpu                  text,
    memory_mb            integer,
    internal             boolean not null,
    namespace            text,
    tags                 jsonb not null,
    deletion_protection  boolean not null,
    -- The only machine that may act on it, on platforms where that matters.
    host                 text,
    endpoint_host        text,
    endpoint_port        integer,
    -- An unsigned 64-bit number, which bigint cannot hold. Written once, at first readiness.
    system_identifier    numeric(20, 0),
    created_at           timestamptz not null default now(),
    -- Changes with what people see, not with each health check.
    updated_at           timestamptz not null default now(),
    deleted_at           timestamptz,
    first_ready_at       timestamptz,
    last_checked_at      timestamptz,
    -- When somebody last wanted something new of it, or its actor was replaced.
    intent_at            timestamptz not null default now(),
    -- When its actor last got something done.
    progressed_at        timestamptz not null default now(),
    constraint instances_state check
        (state in ('creating', 'running', 'degraded', 'updating', 'deleting', 'deleted', 'failed')),
    constraint instances_desired_state check (desired_state in ('running', 'deleted')),
    constraint instances_health_status check (health_status in ('unknown', 'healthy', 'unhealthy')),
    constraint instances_name_length check (length(name) between 1 and 40),
    constraint instances_incarnation check (incarnation >= 1),
    constraint instances_tags check (jsonb_typeof(tags) = 'object'),
    constraint instances_endpoint check ((endpoint_host is null) = (endpoint_port is null)),
    constraint instances_endpoint_port check (endpoint_port between 1 and 65535),
    constraint instances_deleted_at check ((state = 'deleted') = (deleted_at is not null))
-- Each health check updates the row: room for the new version on the same page, and none of those columns indexed.
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200);

create unique index instances_name_live on cms.instances (name) where state not in ('deleted', 'failed');
create index instances_name on cms.instances (name, created_at);
create index instances_listed on cms.instances (created_at, id) where state <> 'deleted';
create index instances_deleted on cms.instances (created_at, id) where state = 'deleted';
create index instances_user_name on cms.instances (user_name, created_at, id) where state <> 'deleted';
create index instances_tags on cms.instances using gin (tags) where state <> 'deleted';

create table cms.credentials (
    instance_id uuid primary key references cms.instances,
    -- Which master key encrypted it: tells a wrong key from damaged data.
    key_id      bytea not null,
    nonce       bytea not null,
    ciphertext  bytea not null,
    created_at  timestamptz not null default now(),
    constraint credentials_nonce check (octet_length(nonce) = 24)
);

-- One row once a server has started: the key that this database's passwords are encrypted with.
create table cms.master_key (
    only_row boolean primary key default true,
    key_id   bytea not null,
    constraint master_key_only_row check (only_row)
);

create table cms.operations (
    -- Version 7: sorts by the time it was requested.
    id            uuid primary key,
    instance_id   uuid not null references cms.instances,
    kind          text not null,
    state         text not null default 'pending',
    error_code    text,
    error_message text,
    requested_at  timestamptz not null default now(),
    started_at    timestamptz,
    finished_at   timestamptz,
    constraint operations_kind check (kind in ('create', 'delete')),
    constraint operations_state check (state in ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    constraint operations_error check ((error_code is null) = (error_message is null)),
    constraint operations_finished_at check
        ((state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null))
) with (fillfactor = 80);

create unique index operations_open on cms.operations (instance_id, kind) where state in ('pending', 'running');
create index operations_instance on cms.operations (instance_id, id);
create index operations_state on cms.operations (state, id);
create index operations_finished_at on cms.operations (finished_at) where finished_at is not null;

create table cms.operation_steps (
    operation_id uuid not null references cms.operations on delete cascade,
    name         text not null,
    -- In the order they were begun, also of two that began in the same instant.
    position     bigint not null generated always as identity,
    state        text not null,
    attempts     integer not null,
    reason       text,
    message      text,
    started_at   timestamptz not null default now(),
    finished_at  timestamptz,
    primary key (operation_id, name),
    constraint operation_steps_state check (state in ('running', 'succeeded', 'failed')),
    constraint operation_steps_reason check (reason ~ '^[a-z_]+$'),
    constraint operation_steps_finished_at check ((state = 'running') = (finished_at is null))
) with (fillfactor = 80);

create table cms.instance_events (
    id           bigint primary key generated always as identity,
    instance_id  uuid not null references cms.instances,
    operation_id uuid references cms.operations on delete set null,
    kind         text not null,
    message      text not null,
    created_at   timestamptz not null default now(),
    constraint instance_events_kind check (kind ~ '^[a-z_]+$')
);

create index instance_events_instance on cms.instance_events (instance_id, id);
create index instance_events_operation on cms.instance_events (operation_id) where operation_id is not null;
create index instance_events_created_at on cms.instance_events (created_at);

create table cms.health_checks (
    instance_id      uuid not null references cms.instances,
    checked_at       timestamptz not null,
    healthy          boolean not null,
    response_time_ms double precision,
    server_version   text,
    error_code       text,
    error_message    text,
    -- The same check written twice is one check.
    primary key (instance_id, checked_at)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

create index health_checks_checked_at on cms.health_checks (checked_at);

create table cms.idempotency_keys (
    -- A key belongs to who sent it: nobody is answered with what another one asked for.
    actor        text not null,
    key          text not null,
    -- Keyed (HMAC), since the request holds a password that could be guessed from a plain hash.
    request_hash bytea not null,
    -- Null only inside the transaction that does the work.
    response     jsonb,
    created_at   timestamptz not null default now(),
    primary key (actor, key),
    constraint idempotency_keys_request_hash check (octet_length(request_hash) = 32)
);

create index idempotency_keys_created_at on cms.idempotency_keys (created_at);

create table cms.api_tokens (
    id           uuid primary key,
    name         text not null,
    -- Of the token's random text; the text itself is shown once and never stored.
    hash         bytea not null,
    scopes       text[] not null,
    -- The only owner it may act for; any if null.
    user_name    text,
    created_at   timestamptz not null default now(),
    last_used_at timestamptz,
    revoked_at   timestamptz,
    constraint api_tokens_hash unique (hash),
    constraint api_tokens_hash_length check (octet_length(hash) = 32),
    constraint api_tokens_scopes check (cardinality(scopes) > 0 and scopes <@ array['read', 'write', 'admin'])
);

create unique index api_tokens_name on cms.api_tokens (name) where revoked_at is null;

create table cms.drift_findings (
    id            bigint primary key generated always as identity,
    -- Who found it: the sweep resolves what it does not find again, an actor's alarm ends with a good health check.
    source        text not null,
    kind          text not null,
    object        text not null,
    -- No foreign key: what was found may name an instance that no row knows.
    instance_id   uuid,
    message       text not null,
    first_seen_at timestamptz not null default now(),
    last_seen_at  timestamptz not null default now(),
    resolved_at   timestamptz,
    constraint drift_findings_source check (source in ('sweep', 'actor')),
    constraint drift_findings_kind check (kind ~ '^[a-z_]+$')
);

create unique index drift_findings_open on cms.drift_findings (source, kind, object) where resolved_at is null;
create index drift_findings_instance on cms.drift_findings (instance_id) where resolved_at is null;

create table cms.leases (
    name       text primary key,
    holder     uuid not null,
    expires_at timestamptz not null
);

create table cms.audit_events (
    id           bigint primary key generated always as identity,
    actor        text not null,
    action       text not null,
    instance_id  uuid references cms.instances,
    -- No foreign key: the audit outlives operations.
    operation_id uuid,
    trace_id     text,
    created_at   timestamptz not null default now(),
    constraint audit_events_action check (action ~ '^[a-z_]+$')
);

create index audit_events_instance on cms.audit_events (instance_id, id);
create index audit_events_created_at on cms.audit_events (created_at);

-- What is wanted of each instance: the deletion if there is one, else the oldest operation that has not ended.
create view cms.intents as
select i.id as instance_id, i.incarnation, i.state, i.desired_state, i.consecutive_failures,
       o.id as operation_id, o.kind as operation_kind
from cms.instances i
left join lateral (
    select id, kind from cms.operations
    where instance_id = i.id and state in ('pending', 'running')
    order by kind = 'delete' desc, id
    limit 1
) o on true;

-- Records one health check and what follows from it. A function, since it runs for every instance every 30 seconds:
-- one round trip, and each of its statements sees what was committed before it got the row's lock.
-- No row: the incarnation is not the instance's any more.
create function cms.record_health_check(
    p_instance_id uuid, p_incarnation bigint, p_checked_at timestamptz, p_healthy boolean,
    p_response_time_ms double precision, p_server_version text, p_error_code text, p_error_message text,
    p_endpoint_host text, p_endpoint_port integer, p_unhealthy_after integer
) returns setof cms.intents language plpgsql as $$
declare
    v_old      cms.instances%rowtype;
    v_failures integer;
    v_health   text;
    v_state    text;
    v_seen     boolean;
begin
    select * into v_old from cms.instances
    where id = p_instance_id and incarnation = p_incarnation
    for no key update;
    if not found then
        return;
    end if;

    if v_old.state not in ('deleted', 'failed') then
        insert into cms.health_checks
            (instance_id, checked_at, healthy, response_time_ms, server_version, error_code, error_message)
        values
            (p_instance_id, p_checked_at, p_healthy, p_response_time_ms, p_server_version, p_error_code,
             p_error_message)
        on conflict do nothing;
        -- Else the same check was recorded before and the answer got lost: counted once.
        if found then
            v_failures := case when p_healthy then 0 else v_old.consecutive_failures + 1 end;
            v_health := case
                when p_healthy then 'healthy'
                when v_failures >= p_unhealthy_after then 'unhealthy'
                else v_old.health_status
            end;
            v_state := case
                when v_old.state not in ('running', 'degraded') then v_old.state
                when p_healthy then 'running'
                when v_health = 'unhealthy' then 'degraded'
                else v_old.state
            end;
            v_seen := v_health <> v_old.health_status or v_state <> v_old.state
                or (p_endpoint_host, p_endpoint_port) is distinct from (v_old.endpoint_host, v_old.endpoint_port)
                   and p_endpoint_host is not null;
            update cms.instances set
                state = v_state,
                state_reason = case
                    when v_state = v_old.state then v_old.state_reason
                    when v_state = 'degraded' then p_error_message
                end,
                health_status = v_health,
                consecutive_failures = v_failures,
                endpoint_host = coalesce(p_endpoint_host, v_old.endpoint_host),
                endpoint_port = coalesce(p_endpoint_port, v_old.endpoint_port),
                last_checked_at = p_checked_at,
                progressed_at = now(),
                updated_at = case when v_seen then now() else v_old.updated_at end
            where id = p_instance_id;

            if v_health <> v_old.health_status or v_state <> v_old.state then
                insert into cms.instance_events (instance_id, kind, message)
                values (p_instance_id, 'health_changed',
                    case when p_healthy then 'healthy: it answers queries'
                    else format('unhealthy: %s', coalesce(p_error_message, 'it does not answer queries')) end);
            end if;
            if p_healthy and v_state <> v_old.state then
                update cms.drift_findings set resolved_at = now()
                where instance_id = p_instance_id and source = 'actor' and resolved_at is null;
            end if;
        end if;
    end if;

    return query select * from cms.intents where instance_id = p_instance_id;
end
$$;
