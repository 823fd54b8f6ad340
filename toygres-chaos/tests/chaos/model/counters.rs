//! What is counted while it is done is what was done, where nothing failed.

use super::Run;
use std::collections::{BTreeMap, BTreeSet};
use toygres_testing::{OtlpReceiver, ReceivedPoint};

/// The engine's history, with the names that metrics have: what happened in which orchestration, and what it answers.
pub(super) const HISTORY: &str = "
    create view public.events as
    select h.instance_id, h.execution_id, h.event_id, regexp_replace(i.orchestration_name, '.*::', '') as orchestration,
        h.event_data::json as event, h.event_data::json ->> 'type' as type,
        regexp_replace(h.event_data::json ->> 'name', '.*::', '') as name
    from duroxide.history h join duroxide.instances i using (instance_id);
    create view public.ended as
    select instance_id, execution_id, orchestration, case type when 'OrchestrationCompleted' then 'success'
        when 'OrchestrationFailed' then 'failed' else 'continuedAsNew' end as status
    from public.events
    where type in ('OrchestrationCompleted', 'OrchestrationFailed', 'OrchestrationContinuedAsNew');
    create view public.answered as
    select s.name, a.result::json as result
    from public.events s join (
        select instance_id, execution_id, (event ->> 'source_event_id')::bigint as event_id, event ->> 'result' as result
        from public.events where type in ('ActivityCompleted', 'ActivityFailed')
        union all
        -- What no turn has taken up yet.
        select answer ->> 'instance', (answer ->> 'execution_id')::bigint, (answer ->> 'id')::bigint, answer ->> 'result'
        from (select coalesce(item -> 'ActivityCompleted', item -> 'ActivityFailed') as answer
              from (select work_item::json as item from duroxide.orchestrator_queue) items) answers
        where answer is not null) a using (instance_id, execution_id, event_id)";

/// By kind and outcome.
const OPERATIONS: &str = "select kind || ' ' || state, count(*) from cms.operations group by 1";
const PHASES: &str = "
    select case s.name when 'deploy-postgres' then 'deploy' else replace(s.name, '-', '_') end, count(*)
        from cms.operation_steps s join cms.operations o on o.id = s.operation_id
        where o.kind = 'create' and s.state = 'succeeded' group by 1
    union all select 'record', count(*) from cms.operations
        where kind = 'create' and state = 'succeeded' having count(*) > 0";
const STARTS: &str = "
    select orchestration || ' ' || case when execution_id > 1 then 'continueAsNew'
        when event ->> 'parent_instance' is not null then 'suborchestration' else 'client' end, count(*)
    from public.events where type = 'OrchestrationStarted' group by 1";
const EXECUTIONS: &str = "select orchestration || ' ' || status, count(*) from public.ended group by 1";
const COMPLETIONS: &str = "
    select orchestration || ' ' || status, count(*) from public.ended where status <> 'continuedAsNew' group by 1";
const FAILURES: &str = "select orchestration, count(*) from public.ended where status = 'failed' group by 1";
const CONTINUED: &str = "
    select orchestration, count(*) from public.ended where status = 'continuedAsNew' group by 1";
const ENDED: &str = "select orchestration, count(*) from public.ended group by 1";
const CHILDREN: &str = "
    select e.orchestration || ' ' || s.name || ' ' ||
        case e.type when 'SubOrchestrationCompleted' then 'success' else 'failed' end, count(*)
    from public.events e join public.events s on s.instance_id = e.instance_id and s.execution_id = e.execution_id
        and s.event_id = (e.event ->> 'source_event_id')::bigint
    where e.type in ('SubOrchestrationCompleted', 'SubOrchestrationFailed') group by 1";
const ACTIVITIES: &str = "select name, count(*) from public.answered group by 1";
const ERRORS: &str = "select name, count(*) from public.answered where result is null group by 1";
const CHECKS: &str = "
    select 'healthy', count(*) from public.answered
    where name = 'test-connection' and (result -> 'check' ->> 'healthy')::boolean having count(*) > 0";

/// Counters and histograms, the labels they are told apart by, and where it stands how often it was done.
const COUNTED: [(&str, &[&str], &str); 16] = [
    ("toygres_operations_total", &["kind", "outcome"], OPERATIONS),
    (
        "toygres_operation_duration_seconds",
        &["kind", "outcome"],
        OPERATIONS,
    ),
    ("toygres_provision_phase_duration_seconds", &["phase"], PHASES),
    ("toygres_health_check_duration_seconds", &["outcome"], CHECKS),
    (
        "duroxide_orchestration_starts_total",
        &["orchestration_name", "initiated_by"],
        STARTS,
    ),
    (
        "duroxide_orchestration_executions_total",
        &["orchestration_name", "status"],
        EXECUTIONS,
    ),
    (
        "duroxide_orchestration_duration_seconds",
        &["orchestration_name", "status"],
        EXECUTIONS,
    ),
    (
        "duroxide_orchestration_completions_total",
        &["orchestration_name", "status"],
        COMPLETIONS,
    ),
    (
        "duroxide_orchestration_failures_total",
        &["orchestration_name"],
        FAILURES,
    ),
    (
        "duroxide_orchestration_continue_as_new_total",
        &["orchestration_name"],
        CONTINUED,
    ),
    ("duroxide_orchestration_turns", &["orchestration_name"], ENDED),
    (
        "duroxide_orchestration_history_size",
        &["orchestration_name"],
        ENDED,
    ),
    (
        "duroxide_suborchestration_calls_total",
        &["parent_orchestration", "child_orchestration", "outcome"],
        CHILDREN,
    ),
    (
        "duroxide_activity_executions_total",
        &["activity_name"],
        ACTIVITIES,
    ),
    (
        "duroxide_activity_duration_seconds",
        &["activity_name"],
        ACTIVITIES,
    ),
    ("duroxide_activity_errors_total", &["activity_name"], ERRORS),
];

const SECONDS: &str = "
    select kind || ' ' || state, sum(extract(epoch from finished_at - requested_at))::float8
    from cms.operations group by 1";
/// All events of a turn have the same time, and no two turns do.
const TURNS: &str = "
    select orchestration, sum(turns)::float8 from (
        select n.orchestration, count(distinct e.event ->> 'timestamp_ms') as turns
        from public.ended n join public.events e using (instance_id, execution_id)
        group by instance_id, execution_id, n.orchestration) executions group by 1";
const EVENTS: &str = "
    select n.orchestration, count(*)::float8
    from public.ended n join public.events e using (instance_id, execution_id) group by 1";

/// Histograms of what is exactly known, and where it stands how much it was in all.
const SUMMED: [(&str, &[&str], &str); 3] = [
    (
        "toygres_operation_duration_seconds",
        &["kind", "outcome"],
        SECONDS,
    ),
    ("duroxide_orchestration_turns", &["orchestration_name"], TURNS),
    (
        "duroxide_orchestration_history_size",
        &["orchestration_name"],
        EVENTS,
    ),
];

/// How often something was done, but for what was never done.
type Counts = BTreeMap<String, u64>;

impl Run {
    /// The counters of the server, which has just been told to stop: the last that it exports is all that it did.
    pub(super) async fn was_counted(&self, receiver: &OtlpReceiver) {
        let Self {
            fleet, load, model, ..
        } = self;
        let mut database = fleet.connect().await;
        for (metric, labels, sql) in COUNTED {
            let rows: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(&mut database).await.unwrap();
            let done: Counts = rows
                .into_iter()
                .map(|(name, count)| (name, count.unsigned_abs()))
                .collect();
            assert_eq!(counted(receiver, metric, labels), done, "{metric}");
        }
        for (metric, labels, sql) in SUMMED {
            let rows: Vec<(String, f64)> = sqlx::query_as(sql).fetch_all(&mut database).await.unwrap();
            let mut told = BTreeMap::<String, f64>::new();
            for point in receiver.metric(metric) {
                *told.entry(named(&point, labels)).or_default() += point.value;
            }
            let names: Vec<&String> = rows.iter().map(|(name, _)| name).collect();
            assert!(
                told.keys().collect::<BTreeSet<_>>() == names.into_iter().collect(),
                "{metric}: {told:?}, {rows:?}"
            );
            let near = rows.iter().all(|(name, sum)| (told[name] - sum).abs() < 1e-3);
            assert!(near, "{metric}: {told:?}, {rows:?}");
        }

        let mut run = Counts::new();
        for activity in fleet.servers[0].activities() {
            *run.entry(activity).or_default() += 1;
        }
        let activities = counted(receiver, "duroxide_activity_executions_total", &["activity_name"]);
        assert_eq!(activities, run, "activities");

        let labels = ["http_request_method", "http_route", "http_response_status_code"];
        let mut requests = counted(receiver, "http_server_request_duration_seconds", &labels);
        // What is asked beside the load: whether it is ready.
        requests.retain(|request, _| request.contains(" /api"));
        assert_eq!(requests, load.answered(), "requests");

        let started = counted(
            receiver,
            "duroxide_client_orchestration_starts_total",
            &["orchestration_name"],
        );
        let made = model.lives().count() as u64;
        assert_eq!(started, of("instance-actor", made), "actors that were asked for");
        let woken = counted(receiver, "duroxide_client_external_events_raised_total", &[]);
        assert_eq!(woken, of("", model.deletions_accepted), "actors that were woken");
        for never in [
            "duroxide_client_cancellations_total",
            "duroxide_activity_retries_total",
        ] {
            assert_eq!(counted(receiver, never, &[]), Counts::new(), "{never}");
        }
    }
}

/// The count of one thing; of none if that is 0.
fn of(name: &str, count: u64) -> Counts {
    let counts = [(name.to_owned(), count)].into_iter();
    counts.filter(|(_, count)| *count > 0).collect()
}

fn counted(receiver: &OtlpReceiver, metric: &str, labels: &[&str]) -> Counts {
    let mut counts = Counts::new();
    for point in receiver.metric(metric) {
        // Of a histogram it is the number of measurements.
        let count = if point.buckets.is_empty() {
            point.value as u64
        } else {
            point.count
        };
        *counts.entry(named(&point, labels)).or_default() += count;
    }
    counts.retain(|_, count| *count > 0);
    counts
}

fn named(point: &ReceivedPoint, labels: &[&str]) -> String {
    let labels: Vec<&str> = labels.iter().map(|label| point.labels[*label].as_str()).collect();
    labels.join(" ")
}
