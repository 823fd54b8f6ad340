//! The engine's metrics against what happened: each row of the table, its labels, values and buckets.
//!
//! A process has one recorder, so all of it is one test, one part after the other.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod activities;
#[path = "../common/mod.rs"]
mod common;
mod orchestrations;
mod store;
mod workers;

use common::Bench;
use common::faulty::terminated;
use common::recorded::{Recorded, gauge};
use common::work::{self, Plan, Planned, Task};
use duroxide::providers::{Provider, ProviderError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use toygres_engine::store::Guards;
use toygres_engine::{Context, Engine, EngineClient, Failure, Orchestration, Turn};
use toygres_telemetry::Event;
use toygres_telemetry::events::ReportingEnded;
use toygres_telemetry::metric::{Family, Metric};
use toygres_telemetry::testing::metrics;
use toygres_testing::wait_for;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_tell_what_happened() {
    metrics();
    activities::tries_of_activities().await;
    activities::activities_that_nobody_waits_for().await;
    orchestrations::ends_of_orchestrations().await;
    orchestrations::executions_and_children().await;
    orchestrations::what_is_given_up().await;
    orchestrations::defects_of_orchestrations().await;
    store::answers_that_are_lost_count_once().await;
    activities::what_a_shutdown_drops_counts_nothing().await;
    store::calls_of_the_store().await;
    store::errors_of_the_store().await;
    store::calls_that_are_given_up().await;
    store::clients().await;
    workers::the_backlog().await;
    workers::workers_and_those_that_do_not_listen().await;
    workers::turns_of_two_servers().await;
    nothing_is_forgotten();
    // From now on another node tells what is the same for all.
    ReportingEnded.emit();
    for metric in [Metric::WorkerQueueDepth, Metric::ActiveOrchestrations] {
        assert_eq!(gauge(metric), [].into(), "{metric:?}");
    }
}

/// An orchestration that no process knows.
struct Unregistered;

impl Orchestration for Unregistered {
    const NAME: &'static str = "unregistered";
    type Input = ();
    type Output = ();

    async fn run(_: Context, (): ()) -> Result<Turn<(), ()>, Failure> {
        Ok(Turn::Done(()))
    }
}

/// Every metric of the engine was seen by now. The gauges of workers were looked at while there were some.
fn nothing_is_forgotten() {
    for metric in Metric::ALL {
        let is_engines = match metric.definition().family {
            Family::Orchestration | Family::Activity | Family::Provider => true,
            Family::Worker => !matches!(metric, Metric::WorkerCount | Metric::WorkerProcessingRate),
            Family::Toygres => false,
        };
        let was_seen = !metrics().series(*metric).is_empty();
        assert!(was_seen || !is_engines, "{metric:?} was never seen");
    }
}

fn tasks(tasks: &[Task]) -> Plan {
    Plan::Tasks(tasks.to_vec())
}

/// Turns that left something in the history, by orchestration and execution; all of them once the engine has stopped.
fn turns(store: &common::faulty::Faulty) -> std::collections::BTreeMap<(String, u64), u64> {
    store.turns.lock().unwrap().clone()
}

/// From the first to the last event of each orchestration's last execution, in seconds.
async fn times(bench: &Bench) -> std::collections::BTreeMap<String, f64> {
    let query = "select instance_id, (max(at) - min(at))::float8 / 1000
                   from (select i.instance_id, (event_data::jsonb ->> 'timestamp_ms')::bigint as at
                           from duroxide.history h join duroxide.instances i
                             on i.instance_id = h.instance_id and i.current_execution_id = h.execution_id) events
                  group by instance_id";
    let pool = common::pool(&bench.url);
    let times: Vec<(String, f64)> = sqlx::query_as(query).fetch_all(&pool).await.unwrap();
    times.into_iter().collect()
}

/// A client of an engine that does no work.
async fn observer(bench: &Bench) -> EngineClient {
    let config = common::config(&bench.url, Guards::all());
    let engine = Engine::connect(config, common::pool(&bench.url)).await.unwrap();
    engine.client()
}

async fn execute(bench: &Bench, query: &str) -> u64 {
    let pool = common::pool(&bench.url);
    sqlx::query(query).execute(&pool).await.unwrap().rows_affected()
}

/// Waits until so many activities have begun.
async fn runs(bench: &Bench, count: usize) {
    wait_for("activities to run", LIMIT, || async {
        (bench.world.runs().len() >= count).then_some(())
    })
    .await;
}

async fn has_rows(bench: &Bench, from: &str) {
    wait_for(from, LIMIT, || async {
        let query = format!("select exists (select from duroxide.{from})");
        let pool = common::pool(&bench.url);
        let found: bool = sqlx::query_scalar(&query).fetch_one(&pool).await.unwrap();
        found.then_some(())
    })
    .await;
}

/// Has what nobody can do given up at once instead of after five minutes.
async fn give_up(bench: &Bench, queue: &str, which: &str) {
    let query = format!(
        "update duroxide.{queue} set attempt_count = 20, visible_at = now() - interval '1 second'
          where attempt_count > 0 and lock_token is null and {which}"
    );
    wait_for(&query, LIMIT, || async {
        (execute(bench, &query).await > 0).then_some(())
    })
    .await;
}
