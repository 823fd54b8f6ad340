//! What one server tells the metrics of all instances. Alone in its process, which has one recorder.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use sqlx::{Connection as _, PgConnection};
use std::time::Duration;
use toygres_telemetry::metric::Metric;
use toygres_telemetry::testing::metrics;
use toygres_testing::{TestServer, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_sweeps_tells_of_all_instances() {
    let metrics = metrics();
    let server = TestServer::start().await;
    let accepted = server.create("shown", "fleet-secret").await;
    server.ended(&accepted).await;
    let shown = async |metric, labels: &[(&str, &str)], expected: f64| {
        let what = format!("{metric:?} {labels:?} to show {expected}");
        wait_for(&what, LIMIT, || async {
            (metrics.value(metric, labels) == expected).then_some(())
        })
        .await;
    };
    let labels = [("state", "running"), ("health", "healthy")];
    shown(Metric::Instances, &labels, 1.0).await;
    // Its actor, and nothing else.
    shown(Metric::ActiveOrchestrations, &[], 1.0).await;
    let actor = [("orchestration_name", "instance-actor"), ("state", "waiting")];
    shown(Metric::OrchestrationActiveInstances, &actor, 1.0).await;
    assert_eq!(metrics.series(Metric::HealthCheckAge).len(), 1);
    assert!(metrics.value(Metric::HealthCheckAge, &[]) < 60.0);
    assert_eq!(metrics.series(Metric::WorkerQueueAge).len(), 2);
    assert!(metrics.value(Metric::DatabasePoolConnections, &[("state", "max")]) >= 2.0);

    // Another process on another machine sweeps from now on, and has seen drift that this one need not tell.
    let mut connection = PgConnection::connect(&server.database_url).await.unwrap();
    let sql = "insert into cms.drift_findings (source, kind, object, message) values ('actor', 'storage_missing', 'x', 'x')";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    shown(Metric::Drift, &[("kind", "storage_missing")], 1.0).await;
    let sql = "update cms.leases set holder = gen_random_uuid(), expires_at = now() + interval '1 hour'";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    wait_for("its gauges to end", LIMIT, || async {
        let shared = [Metric::Instances, Metric::Drift, Metric::ActiveOrchestrations];
        let ended = |metric: &Metric| metrics.series(*metric).is_empty();
        shared.iter().all(ended).then_some(())
    })
    .await;
    assert_eq!(metrics.series(Metric::DatabasePoolConnections).len(), 3);
    server.stop().await;
}
