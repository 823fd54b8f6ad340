//! Tries of activities.

use super::*;

pub(super) async fn tries_of_activities() {
    let seen = Recorded::from_now();
    let bench = Bench::new(Guards::all()).await;
    let passes = Plan::Tasks(vec![Task::FailUntil { attempt: 3 }, Task::Nothing]);
    bench.run("passes", passes).await.unwrap();
    let away = Task::FailUntil { attempt: 99 };
    bench.failure("away", Plan::Failing(away)).await;
    bench.failure("refused", Plan::Failing(Task::Refuse)).await;
    bench.failure("set-up", Plan::Failing(Task::Misconfigured)).await;
    bench.failure("panic", Plan::Failing(Task::Panic)).await;
    bench.failure("slow", Plan::Slow).await;
    let bytes = toygres_engine::MAX_PAYLOAD_BYTES;
    bench
        .failure("large", Plan::Failing(Task::Answer { bytes }))
        .await;
    bench.stop().await;

    seen.assert(
        Metric::ActivityExecutions,
        &[
            ("work success 0", 1.0),
            ("work success 2", 1.0),
            // Two of the first one, four of the second.
            ("work retry 0", 2.0),
            ("work retry 1", 2.0),
            ("work retry 2", 1.0),
            ("work retry 3+", 1.0),
            ("work infra_error 3+", 1.0),
            ("work app_error 0", 3.0),
            ("work config_error 0", 1.0),
            ("slow timeout 0", 1.0),
        ],
    );
    seen.assert(
        Metric::ActivityDuration,
        &[
            ("work success", 2.0),
            ("work retry", 6.0),
            ("work infra_error", 1.0),
            ("work app_error", 3.0),
            ("work config_error", 1.0),
            ("slow timeout", 1.0),
        ],
    );
    // It has 50 ms.
    let (seconds, buckets) = seen.measured(Metric::ActivityDuration, "slow timeout");
    assert!((0.05..10.0).contains(&seconds), "{seconds}");
    assert!(
        matches!(buckets[..], [(bound, 1)] if seconds <= bound),
        "{buckets:?}"
    );
    seen.assert(
        Metric::ActivityErrors,
        &[
            ("work infrastructure_error away true", 7.0),
            ("work app_error refused false", 1.0),
            ("work app_error activity_panicked false", 1.0),
            ("work app_error payload_too_large false", 1.0),
            ("work config_error no_such_thing false", 1.0),
            ("slow timeout activity_timeout true", 1.0),
        ],
    );
    seen.assert(Metric::ActivityRetries, &[("work", 6.0)]);
    seen.assert(Metric::ActivityInfrastructureErrors, &[("work", 7.0)]);
    seen.assert(Metric::ActivityConfigurationErrors, &[("work", 1.0)]);
    seen.assert(Metric::ActivityPoison, &[]);
}

pub(super) async fn activities_that_nobody_waits_for() {
    let seen = Recorded::from_now();
    let bench = Bench::with(Guards::all(), |config| {
        config.worker_lock_timeout = Duration::from_secs(2)
    })
    .await;
    bench
        .start("o", Plan::Tasks(vec![Task::Take { ms: 60_000 }]))
        .await;
    runs(&bench, 1).await;
    bench.engine.client().cancel("o", "test").await.unwrap();
    assert_eq!(bench.end("o").await.unwrap_err().code, "cancelled");
    seen.wait(Metric::ActivityExecutions, &[("work cancelled 0", 1.0)])
        .await;
    bench.stop().await;
    // It answered by an error of its own, which nobody sees.
    seen.assert(Metric::ActivityErrors, &[]);
    seen.assert(Metric::ActivityDuration, &[("work cancelled", 1.0)]);
    // And the orchestration did not fail, it was cancelled.
    let ended = [("planned 1.0.0 cancelled 1-5", 1.0)];
    seen.assert(Metric::OrchestrationCompletions, &ended);
    seen.assert(Metric::OrchestrationExecutions, &[("planned cancelled", 1.0)]);
    seen.assert(Metric::OrchestrationFailures, &[]);
}

pub(super) async fn what_a_shutdown_drops_counts_nothing() {
    let seen = Recorded::from_now();
    let bench = Bench::new(Guards::all()).await;
    bench.start("o", Plan::Deaf).await;
    runs(&bench, 1).await;
    bench.stop().await;
    seen.assert(Metric::ActivityExecutions, &[]);
    seen.assert(Metric::ActivityDuration, &[]);
    seen.assert(Metric::OrchestrationExecutions, &[]);
}
