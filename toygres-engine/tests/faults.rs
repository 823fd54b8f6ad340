//! What a failing database may not do, each shown to happen without the guard.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests may panic and print"
)]

mod common;

use common::Bench;
use common::faulty::{Faulty, terminated};
use common::work::{Plan, Task};
use duroxide::providers::{Provider, ProviderError, WorkItem};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use toygres_engine::store::{Guards, Store};
use toygres_engine::{EngineStatus, FailureClass};
use toygres_testing::wait_for;

const LIMIT: Duration = Duration::from_secs(30);

/// Locks of 4 s, renewed after 2 s; those renewals fail of which it is said, by their number and the time since the
/// first one.
async fn with_failing_renewals(
    guards: Guards,
    fails: impl Fn(u32, Duration) -> bool + Send + Sync + 'static,
) -> Bench {
    let bench = Bench::with(guards, |config| {
        config.worker_lock_timeout = Duration::from_secs(4)
    })
    .await;
    let (first, tried) = (std::sync::OnceLock::new(), AtomicU32::new(0));
    bench.store.fail_before(move |call| {
        let fails = call.method == "renew_work_item_lock"
            && fails(
                tried.fetch_add(1, Ordering::SeqCst),
                first.get_or_init(Instant::now).elapsed(),
            );
        fails.then(terminated)
    });
    bench
        .start("a", Plan::Tasks(vec![Task::Take { ms: 5_000 }]))
        .await;
    bench
}

#[tokio::test]
async fn failed_renewals_do_not_lose_an_activity() {
    let bench = with_failing_renewals(Guards::all(), |tried, _| tried < 3).await;
    assert_eq!(bench.end("a").await.unwrap(), "done");
    assert_eq!(bench.world.runs(), [1], "the lock was kept, so it ran once");
    bench.stop().await;
}

#[tokio::test]
async fn renewals_that_fail_longer_than_the_lock_have_the_activity_run_again() {
    let guards = Guards::all();
    let bench = with_failing_renewals(guards, |_, since| since < Duration::from_secs(6)).await;
    // Its lock has run out: the regular look of 60 s would find it, so have somebody look.
    wait_for("the second run", LIMIT, || async {
        bench.start("look", Plan::Tasks(vec![Task::Nothing])).await;
        (bench.world.runs().len() > 2).then_some(())
    })
    .await;
    assert_eq!(bench.end("a").await.unwrap(), "done");
    bench.stop().await;
}

#[tokio::test]
async fn without_the_guard_a_failed_renewal_loses_the_activity() {
    let guards = Guards {
        renewals: false,
        ..Guards::all()
    };
    let bench = with_failing_renewals(guards, |tried, _| tried < 3).await;
    wait_for("the activity", LIMIT, || async {
        (!bench.world.runs().is_empty()).then_some(())
    })
    .await;
    wait_for("its loss", LIMIT, || async {
        (bench.count("worker_queue").await == 0).then_some(())
    })
    .await;
    // Nothing is left that could ever move it.
    assert_eq!(bench.count("orchestrator_queue").await, 0);
    let statuses = bench.engine.client().statuses(&["a".to_owned()]).await.unwrap();
    assert_eq!(statuses["a"], EngineStatus::Running);
    bench.stop().await;
}

/// Fails every third call of this method.
fn every_third(
    method: &'static str,
) -> impl Fn(&common::faulty::Call<'_>) -> Option<ProviderError> + Send + Sync + 'static {
    let calls = AtomicU32::new(0);
    move |call| {
        let fails = call.method == method && calls.fetch_add(1, Ordering::SeqCst) % 3 == 1;
        fails.then(terminated)
    }
}

async fn run_some(bench: &Bench) -> Vec<Result<String, toygres_engine::Failure>> {
    let ids: Vec<_> = (0..10).map(|n| format!("o{n}")).collect();
    for id in &ids {
        bench.start(id, Plan::Tasks(vec![Task::Nothing; 3])).await;
    }
    let mut ends = Vec::new();
    for id in &ids {
        ends.push(bench.end(id).await);
    }
    ends
}

#[tokio::test]
async fn acks_that_fail_before_or_after_they_are_done_fail_nothing() {
    for method in ["ack_orchestration_item", "ack_work_item"] {
        let bench = Bench::new(Guards::all()).await;
        bench.store.fail_before(every_third(method));
        bench.store.fail_after(every_third(method));
        assert!(run_some(&bench).await.iter().all(Result::is_ok), "{method}");
        assert_eq!(bench.world.runs().len(), 30, "{method}: nothing ran twice");
        bench.stop().await;
    }
}

#[tokio::test]
async fn without_the_guard_a_failed_ack_fails_the_orchestration() {
    let guards = Guards {
        retries: false,
        ..Guards::all()
    };
    let bench = Bench::new(guards).await;
    bench.store.fail_before(every_third("ack_orchestration_item"));
    let ends = run_some(&bench).await;
    let failed = ends
        .into_iter()
        .find_map(Result::err)
        .expect("one at least fails for good");
    assert_eq!(
        (failed.code.as_str(), failed.class),
        ("engine_unavailable", FailureClass::Infrastructure)
    );
    bench.stop().await;
}

#[tokio::test]
async fn terminated_backends_fail_nothing() {
    let bench = Bench::with(Guards::all(), |config| {
        config.fallback_poll = Duration::from_millis(500)
    })
    .await;
    let ids: Vec<_> = (0..40).map(|n| format!("o{n}")).collect();
    for id in &ids {
        bench.start(id, Plan::Tasks(vec![Task::Take { ms: 20 }; 5])).await;
    }
    let killer = common::pool(&bench.url);
    let query = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()";
    let mut killed = 0;
    let client = bench.engine.client();
    let mut rounds = 0;
    loop {
        let statuses = client.statuses(&ids).await.unwrap_or_default();
        let ended = statuses
            .values()
            .filter(|status| **status != EngineStatus::Running)
            .count();
        if ended == ids.len() {
            break;
        }
        if rounds < 15 {
            rounds += 1;
            killed += sqlx::query_scalar::<_, i64>(query)
                .fetch_one(&killer)
                .await
                .unwrap_or_default();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(killed > 15, "{killed} backends were terminated");
    for id in &ids {
        assert_eq!(bench.end(id).await.unwrap(), "done", "{id}");
    }
    bench.stop().await;
}

fn child(id: &str, period_ms: u64, plan: Plan) -> Plan {
    Plan::Child {
        id: id.to_owned(),
        period_ms,
        plan: Box::new(plan),
    }
}

#[tokio::test]
async fn a_child_that_ends_without_a_word_does_not_hang_its_parent() {
    let bench = Bench::new(Guards::all()).await;
    bench.store.lose(|item| {
        matches!(
            item,
            WorkItem::SubOrchCompleted { .. } | WorkItem::SubOrchFailed { .. }
        )
    });
    let output = bench
        .run("p1", child("c1", 200, Plan::Tasks(vec![Task::Nothing])))
        .await;
    assert_eq!(output.unwrap(), "done");
    let failure = bench
        .failure("p2", child("c2", 200, Plan::Tasks(vec![Task::Refuse])))
        .await;
    assert_eq!(failure.code, "refused");
    // The one that duroxide itself fails, and never tells of.
    bench.store.fail_before(|call| {
        let fails = call.method == "ack_orchestration_item" && call.instance == Some("c3");
        static ONCE: AtomicU32 = AtomicU32::new(0);
        let message = "Duplicate detected: test";
        (fails && ONCE.fetch_add(1, Ordering::SeqCst) == 1)
            .then(|| ProviderError::permanent("ack_orchestration_item", message))
    });
    let failure = bench
        .failure("p3", child("c3", 200, Plan::Tasks(vec![Task::Nothing])))
        .await;
    assert_eq!(failure.code, "child_lost");
    bench.stop().await;
}

#[tokio::test]
async fn a_child_that_was_never_started_does_not_hang_its_parent() {
    let bench = Bench::new(Guards::all()).await;
    bench
        .store
        .lose(|item| matches!(item, WorkItem::StartOrchestration { .. }));
    let failure = bench
        .failure("p", child("c", 10, Plan::Tasks(vec![Task::Nothing])))
        .await;
    assert_eq!(failure.code, "child_lost");
    // A start that is only late is waited for.
    let asked = bench
        .count("history where event_data like '%::child-status%'")
        .await;
    assert!(asked > 10, "given up after {asked} questions");
    bench.stop().await;
}

#[tokio::test]
async fn without_asking_the_parent_hangs() {
    let bench = Bench::new(Guards::all()).await;
    bench
        .store
        .lose(|item| matches!(item, WorkItem::SubOrchCompleted { .. }));
    bench
        .start("p", child("c", 3_600_000, Plan::Tasks(vec![Task::Nothing])))
        .await;
    assert_eq!(bench.end("c").await.unwrap(), "done");
    let statuses = bench.engine.client().statuses(&["p".to_owned()]).await.unwrap();
    assert_eq!(statuses["p"], EngineStatus::Running);
    // Nothing is left for it but the timer of an hour.
    assert_eq!(
        bench
            .count("orchestrator_queue where visible_at < now() + interval '1 minute'")
            .await,
        0
    );
    bench.stop().await;
}

/// Has the activity that nobody knows given up at once instead of after five minutes.
async fn give_up_unknown(bench: &Bench) {
    let query =
        "update duroxide.worker_queue set attempt_count = 20, visible_at = now() - interval '1 second'
                  where attempt_count > 0 and lock_token is null";
    let pool = common::pool(&bench.url);
    wait_for("the unknown activity", LIMIT, || async {
        (sqlx::query(query).execute(&pool).await.unwrap().rows_affected() > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_activity_that_is_given_up_is_a_failure_like_others() {
    let bench = Bench::with(Guards::all(), |config| {
        config.fallback_poll = Duration::from_millis(200)
    })
    .await;
    bench.start("o", Plan::Unknown).await;
    give_up_unknown(&bench).await;
    let output = bench.end("o").await.expect("the orchestration sees the failure");
    assert!(output.contains("\"poisoned\""), "{output}");
    bench.stop().await;
}

#[tokio::test]
async fn without_the_guard_an_activity_that_is_given_up_fails_the_orchestration() {
    let guards = Guards {
        failures: false,
        ..Guards::all()
    };
    let bench = Bench::with(guards, |config| config.fallback_poll = Duration::from_millis(200)).await;
    bench.start("o", Plan::Unknown).await;
    give_up_unknown(&bench).await;
    assert_eq!(bench.end("o").await.unwrap_err().code, "poisoned");
    bench.stop().await;
}

#[tokio::test]
async fn a_look_that_fails_is_made_again_by_and_by() {
    let second = Duration::from_secs(1);
    let faulty = Faulty::new(common::bare_provider(&common::fresh_database().await).await);
    let looks = AtomicU32::new(0);
    faulty.fail_before(move |_| {
        assert!(looks.fetch_add(1, Ordering::SeqCst) < 6, "looks at every moment");
        Some(terminated())
    });
    let inner = Arc::clone(&faulty) as Arc<dyn Provider>;
    let store = Store::new(inner, Guards::all(), LIMIT);
    let begin = Instant::now();
    let found = store.fetch_orchestration_item(second, second, None).await;
    assert!(found.unwrap().is_none());
    assert!(begin.elapsed() >= second, "{:?}", begin.elapsed());
    assert!(faulty.fetches.load(Ordering::SeqCst) > 1);
}
