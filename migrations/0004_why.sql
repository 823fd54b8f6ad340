-- Why an instance is not running, not running yet, or does not answer: a word and a sentence, null if there is nothing to
-- say. What it waits for stands in its operation, what is wrong with it in an alarm or in its last health check.

create function cms.why(i cms.instances) returns text[] language sql stable as $$
select case
    when i.state in ('creating', 'updating', 'deleting') then
        (select array[s.reason, s.message]
         from cms.operations o join cms.operation_steps s on s.operation_id = o.id
         where o.instance_id = i.id and o.state = 'running' and s.state = 'running' and s.reason is not null
         order by s.position desc limit 1)
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
