//! What is counted in the database is what the database holds, and what was promised.

use super::Run;
use crate::PATIENCE;
use reqwest::Method;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};
use toygres_models::health::HealthStatus;
use toygres_models::instances::InstanceState;
use toygres_models::operations::OperationState;
use toygres_models::server::ServerStats;
use toygres_testing::OtlpReceiver;

/// Instances, operations and orchestrations.
const STATS: &str = "
    select 'instances ' || state as name, count(*) from cms.instances where state <> 'deleted' group by 1
    union all select 'health ' || health_status, count(*) from cms.instances where state <> 'deleted' group by 1
    union all select 'operations ' || state, count(*) from cms.operations group by 1
    union all select 'engine ' || lower(status), count(*)
        from duroxide.executions e join duroxide.instances i using (instance_id)
        where e.execution_id = i.current_execution_id group by 1
    union all select 'messages', count(*) from duroxide.orchestrator_queue
        where visible_at <= now() and coalesce(locked_until, 0) <= extract(epoch from now()) * 1000
    union all select 'activities', count(*) from duroxide.worker_queue where visible_at <= now()
    union all select 'timers', count(*) from duroxide.orchestrator_queue
        where visible_at > now() and work_item::json -> 'TimerFired' is not null
    union all select 'history', case when (select reltuples from pg_class where oid = 'duroxide.history'::regclass) < 0
        then (select count(*) from duroxide.history)
        else (select reltuples::bigint from pg_class where oid = 'duroxide.history'::regclass) end";

/// What gauges show of the database.
const GAUGES: &str = "
    select 'instances ' || state || ' ' || health_status, count(*) from cms.instances where state <> 'deleted' group by 1
    union all select 'drift ' || kind, count(*) from cms.drift_findings where resolved_at is null group by 1
    union all select regexp_replace(orchestration_name, '.*::', ''), count(*)
        from duroxide.executions e join duroxide.instances i using (instance_id)
        where e.execution_id = i.current_execution_id and status not in ('Completed', 'Failed') group by 1
    union all select 'orchestrations', count(*)
        from duroxide.executions e join duroxide.instances i using (instance_id)
        where e.execution_id = i.current_execution_id and status not in ('Completed', 'Failed')";

/// How many there are of each, but for those of which there is none.
type Totals = BTreeMap<String, i64>;

async fn totals(database: &mut PgConnection, sql: &'static str) -> Totals {
    let rows: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(database).await.unwrap();
    rows.into_iter().filter(|(_, count)| *count != 0).collect()
}

/// Waits until two views of what goes on all the time are the same.
async fn agree<T: PartialEq + Debug>(what: &str, mut views: impl AsyncFnMut() -> (T, T)) {
    let begun = Instant::now();
    loop {
        let (told, there) = views().await;
        if told == there {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: told is {told:#?}, there is {there:#?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Run {
    /// The numbers of the server, when nothing is underway.
    pub(super) async fn is_counted(&self) {
        let Self { load, fleet, .. } = self;
        let mut database = fleet.connect().await;
        let live = self.model.live.len() as i64;
        let gone = self.model.gone.len() as i64;
        let mut last = None;
        agree("GET /api/server/stats", async || {
            let (_, stats) = load.ask(Method::GET, "/api/server/stats", None, None).await;
            let stats: ServerStats = serde_json::from_value(stats).unwrap();
            let mut there = totals(&mut database, STATS).await;
            // No orchestration is left but the actors of those that live.
            if live > 0 {
                there.insert("engine running".to_owned(), live);
            } else {
                there.remove("engine running");
            }
            let waits = there.contains_key("messages") || there.contains_key("activities");
            let told = (told(&stats), stats.engine.oldest_wait_seconds > 0.0);
            last = Some(stats);
            (told, (there, waits))
        })
        .await;
        let stats = last.unwrap();
        let told = told(&stats);
        let total = |of: &str| told.get(of).copied().unwrap_or_default();
        assert_eq!(total("instances running"), live, "{stats:#?}");
        assert_eq!(total("health healthy"), live, "{stats:#?}");
        let ended = total("operations succeeded") + total("operations cancelled");
        assert_eq!(ended, live + 2 * gone, "{stats:#?}");
        assert!(total("operations succeeded") >= live + gone, "{stats:#?}");
        let (open, idle) = (stats.database_connections, stats.database_connections_idle);
        let seen = "select count(*) from pg_stat_activity where datname = current_database()";
        let seen = fleet.count(seen).await;
        assert!(
            open > 0 && idle <= open && i64::from(open) <= seen,
            "{stats:#?}, {seen}"
        );
        assert!(
            stats.uptime_seconds > 0.0 && stats.resident_memory_bytes > 0,
            "{stats:#?}"
        );
        assert_eq!(
            (stats.version.as_str(), stats.open_streams),
            (env!("CARGO_PKG_VERSION"), 0)
        );
    }

    /// The gauges of what is the same for all servers. Who sweeps looks every few seconds, and tells it then.
    pub(super) async fn is_shown(&self, receiver: &OtlpReceiver) {
        let mut database = self.fleet.connect().await;
        agree("the gauges", async || {
            (shown(receiver), totals(&mut database, GAUGES).await)
        })
        .await;
        let ages = receiver.last_metric("toygres_health_check_age_seconds");
        assert_eq!(ages.len(), usize::from(!self.model.live.is_empty()), "{ages:?}");
        let longest = self.begun.elapsed().as_secs_f64();
        assert!(
            ages.iter().all(|age| (0.0..=longest).contains(&age.value)),
            "{ages:?}"
        );
        let queues = receiver.last_metric("duroxide_worker_queue_depth");
        assert_eq!(queues.len(), 2, "{queues:?}");
    }
}

/// What the gauges show of the database.
fn shown(receiver: &OtlpReceiver) -> Totals {
    let mut shown = Totals::new();
    for (metric, of, labels) in [
        ("toygres_instances", "instances ", ["state", "health"].as_slice()),
        ("toygres_drift", "drift ", &["kind"]),
        (
            "duroxide_orchestration_active_instances",
            "",
            &["orchestration_name"],
        ),
        ("duroxide_active_orchestrations", "orchestrations", &[]),
    ] {
        for point in receiver.last_metric(metric) {
            let labels: Vec<&str> = labels.iter().map(|label| point.labels[*label].as_str()).collect();
            *shown.entry(format!("{of}{}", labels.join(" "))).or_default() += point.value as i64;
        }
    }
    shown.retain(|_, count| *count != 0);
    shown
}

/// What the server says that the database holds. Every state has a number, also that of which there is none.
fn told(stats: &ServerStats) -> Totals {
    let instances = InstanceState::ALL
        .iter()
        .filter(|state| **state != InstanceState::Deleted);
    let lists: [(&str, &Vec<_>, Vec<&str>); 3] = [
        (
            "instances",
            &stats.instances_by_state,
            instances.map(|state| state.as_str()).collect(),
        ),
        (
            "health",
            &stats.instances_by_health,
            HealthStatus::ALL.iter().map(|health| health.as_str()).collect(),
        ),
        (
            "operations",
            &stats.operations_by_state,
            OperationState::ALL.iter().map(|state| state.as_str()).collect(),
        ),
    ];
    let mut told = Totals::new();
    for (of, list, words) in lists {
        let names: Vec<&str> = list.iter().map(|count| count.name.as_str()).collect();
        assert_eq!(names, words, "{of}");
        told.extend(
            list.iter()
                .map(|count| (format!("{of} {}", count.name), count.count)),
        );
    }
    let engine = &stats.engine;
    let numbers = [
        ("engine running", engine.running),
        ("engine completed", engine.completed),
        ("engine failed", engine.failed),
        ("messages", engine.orchestrator_queue),
        ("activities", engine.worker_queue),
        ("timers", engine.timers),
        ("history", engine.history_rows),
    ];
    told.extend(numbers.map(|(name, number)| (name.to_owned(), number)));
    told.retain(|_, count| *count != 0);
    told
}
