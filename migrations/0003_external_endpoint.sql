-- Where clients outside the platform's network reach an instance. Nothing is taken away: the release before goes on
-- calling the function of 0001, which leaves these columns as they are.

alter table cms.instances add column external_host text, add column external_port integer;
comment on column cms.instances.external_host is 'Known only while a platform with such addresses has given one.';

-- As that of 0001, and for a check that knows the instance's address also whether there is one for outside.
create function cms.record_health_check(
    p_instance_id uuid, p_incarnation bigint, p_checked_at timestamptz, p_healthy boolean,
    p_response_time_ms double precision, p_server_version text, p_error_code text, p_error_message text,
    p_endpoint_host text, p_endpoint_port integer, p_external_host text, p_external_port integer,
    p_unhealthy_after integer
) returns setof cms.intents language plpgsql as $$
begin
    -- Writes only what has changed: this runs for every instance every 30 seconds.
    update cms.instances
    set external_host = p_external_host, external_port = p_external_port, updated_at = now()
    where id = p_instance_id and incarnation = p_incarnation and state not in ('deleted', 'failed')
      and p_endpoint_host is not null
      and (external_host, external_port) is distinct from (p_external_host, p_external_port);

    return query select * from cms.record_health_check(
        p_instance_id, p_incarnation, p_checked_at, p_healthy, p_response_time_ms, p_server_version, p_error_code,
        p_error_message, p_endpoint_host, p_endpoint_port, p_unhealthy_after);
end
$$;
