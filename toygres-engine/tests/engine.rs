//! The engine as its users see it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests may panic and print"
)]

mod common;

use common::Bench;
use common::work::{self, Plan, Planned, Task};
use duroxide::ErrorDetails;
use duroxide::providers::{ExecutionMetadata, Provider, ProviderError, TagFilter, WorkItem};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use toygres_engine::store::{Guards, Store};
use toygres_engine::{
    Engine, EngineConfig, EngineStatus, FailureClass, MAX_PAYLOAD_BYTES, PrunePolicy, Pruned,
};
use toygres_models::ErrorKind;
use toygres_testing::{TestPostgres, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn calls_are_tried_again_only_where_that_can_help() {
    let bench = Bench::new(Guards::all()).await;
    let output = bench
        .run("passes", Plan::Tasks(vec![Task::FailUntil { attempt: 3 }]))
        .await;
    assert_eq!(output.unwrap(), "done");
    assert_eq!(bench.world.runs(), [1, 2, 3]);
    bench.world.runs.lock().unwrap().clear();

    let failure = bench
        .failure("stays", Plan::Failing(Task::FailUntil { attempt: 99 }))
        .await;
    assert_eq!(bench.world.runs(), [1, 2, 3, 4, 5]);
    assert_eq!(
        (failure.code.as_str(), failure.attempts, failure.retryable),
        ("away", 5, true)
    );
    assert_eq!(failure.class, FailureClass::Infrastructure);
    bench.world.runs.lock().unwrap().clear();

    let failure = bench.failure("refused", Plan::Failing(Task::Refuse)).await;
    assert_eq!(bench.world.runs(), [1], "a fatal failure ends it at once");
    assert_eq!(
        (failure.kind, failure.attempts, failure.retryable),
        (ErrorKind::Invalid, 1, false)
    );
    let failure = bench
        .run("fails", Plan::Tasks(vec![Task::Refuse]))
        .await
        .unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.class),
        ("refused", FailureClass::App)
    );

    // The inward side never gets into the store.
    assert_eq!(bench.count("history where event_data like '%canary%'").await, 0);
    bench.stop().await;
}

#[tokio::test]
async fn time_outs_and_panics_are_failures() {
    let bench = Bench::new(Guards::all()).await;
    let failure = bench.failure("slow", Plan::Slow).await;
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (FailureClass::Timeout, "activity_timeout")
    );
    let failure = bench.failure("panic", Plan::Failing(Task::Panic)).await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("activity_panicked", false)
    );
    // A defect of the orchestration itself: its wake-up did not come.
    let failure = bench
        .run("defect", Plan::Failing(Task::Nothing))
        .await
        .unwrap_err();
    assert_eq!(failure.code, "orchestration_panicked");
    bench.stop().await;
}

#[tokio::test]
async fn payloads_have_a_limit_both_ways() {
    let bench = Bench::new(Guards::all()).await;
    let fits = Task::Answer {
        bytes: MAX_PAYLOAD_BYTES - 2,
    };
    assert_eq!(
        bench
            .run("fits", Plan::Tasks(vec![fits, Task::Nothing]))
            .await
            .unwrap(),
        "done"
    );
    let failure = bench
        .failure(
            "out",
            Plan::Failing(Task::Answer {
                bytes: MAX_PAYLOAD_BYTES,
            }),
        )
        .await;
    assert_eq!(
        (failure.code.as_str(), failure.attempts, failure.retryable),
        ("payload_too_large", 1, false)
    );
    let text = "x".repeat(MAX_PAYLOAD_BYTES);
    let start = bench
        .engine
        .client()
        .start::<Planned>("in", Plan::Tasks(vec![Task::Bytes { text }]))
        .await;
    assert_eq!(start.unwrap_err().kind(), ErrorKind::TooLarge);
    bench.stop().await;
}

#[tokio::test]
async fn the_store_alone_keeps_payloads_beyond_the_limit_out() {
    let bare = common::bare_provider(&common::fresh_database().await).await;
    let store = Store::new(bare, Guards::all(), LIMIT);
    let beyond = "x".repeat(MAX_PAYLOAD_BYTES + 1);
    let refused = |answer: Result<(), ProviderError>| {
        let error = answer.unwrap_err();
        assert!(error.message.starts_with("payload too large"), "{error}");
    };
    let start = |input: &str| WorkItem::StartOrchestration {
        instance: "o".to_owned(),
        orchestration: "x".to_owned(),
        input: input.to_owned(),
        version: None,
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        execution_id: 1,
    };
    let activity = |input: &str| WorkItem::ActivityExecute {
        instance: "o".to_owned(),
        execution_id: 1,
        id: 1,
        name: "x".to_owned(),
        input: input.to_owned(),
        session_id: None,
        tag: None,
    };
    refused(store.enqueue_for_orchestrator(start(&beyond), None).await);
    refused(store.enqueue_for_worker(activity(&beyond)).await);

    store.enqueue_for_orchestrator(start(""), None).await.unwrap();
    let turn = store.fetch_orchestration_item(LIMIT, LIMIT, None).await;
    let (_, turn, _) = turn.unwrap().unwrap();
    let ack = |item, output: Option<&str>| {
        let metadata = ExecutionMetadata {
            status: Some("Running".to_owned()),
            output: output.map(str::to_owned),
            orchestration_name: Some("x".to_owned()),
            orchestration_version: Some("1.0.0".to_owned()),
            ..ExecutionMetadata::default()
        };
        store.ack_orchestration_item(&turn, 1, Vec::new(), vec![item], Vec::new(), metadata, Vec::new())
    };
    refused(ack(activity(&beyond), None).await);
    refused(ack(activity(""), Some(&beyond)).await);
    ack(activity(""), None).await.unwrap();

    // Refused, it would be run again and again.
    let run = store
        .fetch_work_item(LIMIT, LIMIT, None, &TagFilter::default())
        .await;
    let (_, run, _) = run.unwrap().unwrap();
    let completed = WorkItem::ActivityCompleted {
        instance: "o".to_owned(),
        execution_id: 1,
        id: 1,
        result: beyond.clone(),
    };
    store.ack_work_item(&run, Some(completed)).await.unwrap();
    let turn = store.fetch_orchestration_item(LIMIT, LIMIT, None).await;
    let (item, ..) = turn.unwrap().unwrap();
    let [WorkItem::ActivityFailed { details, .. }] = &item.messages[..] else {
        panic!("{:?}", item.messages);
    };
    let ErrorDetails::Application { message, .. } = details else {
        panic!("{details:?}");
    };
    assert!(message.contains("\"payload_too_large\""), "{message}");
}

#[tokio::test]
async fn starts_are_idempotent_and_statuses_are_told_by_one_query() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    bench.start("ends", Plan::Tasks(vec![Task::Nothing])).await;
    bench.start("ends", Plan::Tasks(vec![Task::Nothing])).await;
    assert_eq!(bench.end("ends").await.unwrap(), "done");
    bench.start("ends", Plan::Tasks(vec![Task::Nothing])).await;
    bench
        .run("fails", Plan::Tasks(vec![Task::Refuse]))
        .await
        .unwrap_err();
    bench.start("waits", Plan::Timer { ms: 3_600_000 }).await;
    bench.start("goes", Plan::Timer { ms: 3_600_000 }).await;
    wait_for("the wait", LIMIT, || async {
        (bench.count("history").await > 10).then_some(())
    })
    .await;
    client.cancel("goes", "test").await.unwrap();
    assert_eq!(bench.end("goes").await.unwrap_err().code, "cancelled");
    let ids: Vec<_> = ["ends", "fails", "waits", "goes", "never"]
        .map(str::to_owned)
        .into();
    let statuses = client.statuses(&ids).await.unwrap();
    assert_eq!(statuses.len(), 4);
    assert_eq!(statuses["ends"], EngineStatus::Completed);
    assert_eq!(statuses["fails"], EngineStatus::Failed);
    assert_eq!(statuses["waits"], EngineStatus::Running);
    assert_eq!(statuses["goes"], EngineStatus::Failed);
    assert_eq!(
        bench.world.runs(),
        [1, 1],
        "the second and third start did nothing"
    );
    bench.stop().await;
}

#[tokio::test]
async fn wake_ups_wake_and_ten_cause_one_round() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    bench.start("o", Plan::Woken { times: 2 }).await;
    wait_for("the wait", LIMIT, || async {
        (bench.count("history").await > 2).then_some(())
    })
    .await;
    for _ in 0..10 {
        client.wake("o").await.unwrap();
    }
    wait_for("the second round", LIMIT, || async {
        (bench.count("history where execution_id = 2").await > 2).then_some(())
    })
    .await;
    // Wake-ups that came in time are used up, so the second round waits for another one.
    wait_for("the end", LIMIT, || async {
        client.wake("o").await.unwrap();
        let statuses = client.statuses(&["o".to_owned()]).await.unwrap();
        (statuses["o"] == EngineStatus::Completed).then_some(())
    })
    .await;
    assert_eq!(bench.world.runs().len(), 2);
    bench.stop().await;
}

#[tokio::test]
async fn more_wake_ups_than_a_turn_can_take_fail_nothing() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    bench.start("o", Plan::Woken { times: 1 }).await;
    wait_for("the wait", LIMIT, || async {
        (bench.count("history").await > 2).then_some(())
    })
    .await;
    bench.running.shutdown(Duration::from_millis(200)).await;
    for _ in 0..150 {
        client.wake("o").await.unwrap();
    }
    let config = common::config(&bench.url, Guards::all());
    let other = Engine::connect(config, common::pool(&bench.url)).await.unwrap();
    let running = other
        .start(work::activities(&bench.world), work::orchestrations())
        .await;
    let end = other.client().wait::<Planned>("o", LIMIT).await.unwrap();
    assert_eq!(end.unwrap(), "woken");
    assert_eq!(bench.world.runs(), [1]);
    running.shutdown(Duration::from_millis(200)).await;
}

#[tokio::test]
async fn a_clock_that_is_away_starts_wakes_and_takes_nothing() {
    const SOON: Plan = Plan::Timer { ms: 1 };
    let bench = Bench::with(Guards::all(), |config| {
        config.fallback_poll = Duration::from_millis(100)
    })
    .await;
    let client = bench.engine.client();
    client.clock_seen(3_600_000);
    let start = client.start::<Planned>("o", SOON).await.unwrap_err();
    let wake = client.wake("o").await.unwrap_err();
    let refused = "database_unavailable";
    assert_eq!((start.code(), wake.code()), (refused, refused));
    assert_eq!(bench.count("orchestrator_queue").await, 0);

    // Another process, whose clock is right.
    let config = common::config(&bench.url, Guards::all());
    let other = Engine::connect(config, common::pool(&bench.url)).await.unwrap();
    other.client().start::<Planned>("late", SOON).await.unwrap();
    let (looks, begin) = (bench.store.fetches.load(Ordering::SeqCst), Instant::now());
    wait_for("a look", LIMIT, || async {
        (client.since_last_fetch() < begin.elapsed()).then_some(())
    })
    .await;
    assert_eq!(bench.store.fetches.load(Ordering::SeqCst), looks);
    let ids = ["late".to_owned()];
    assert_eq!(
        client.statuses(&ids).await.unwrap()["late"],
        EngineStatus::Running
    );

    // As if its clock had been an hour ahead.
    sqlx::query("update duroxide.orchestrator_queue set visible_at = visible_at + interval '1 hour'")
        .execute(&common::pool(&bench.url))
        .await
        .unwrap();
    assert!(client.statuses(&ids).await.unwrap().is_empty());

    client.clock_seen(0);
    client.wake("o").await.unwrap();
    for id in ["o", "late"] {
        assert_eq!(bench.run(id, SOON).await.unwrap(), "rung");
    }
    bench.stop().await;
}

#[tokio::test]
async fn timers_wake_when_they_are_due() {
    let bench = Bench::new(Guards::all()).await;
    let begin = Instant::now();
    assert_eq!(bench.run("o", Plan::Timer { ms: 300 }).await.unwrap(), "rung");
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "the regular look comes after 60 s only"
    );
    bench.stop().await;
}

#[tokio::test]
async fn every_slot_is_woken_when_there_is_work_for_all() {
    let bench = Bench::with(Guards::all(), |config| config.worker_concurrency = 32).await;
    let begin = Instant::now();
    // Each of them waits until all 32 run.
    assert_eq!(
        bench
            .run("o", Plan::Together(vec![Task::Meet; 32]))
            .await
            .unwrap(),
        "met"
    );
    assert_eq!(bench.world.runs(), [1; 32], "none was tried again");
    // The regular look comes after 60 s only.
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    bench.stop().await;
}

#[tokio::test]
async fn an_idle_store_is_left_alone() {
    async fn rate(guards: Guards) -> f64 {
        let bench = Bench::with(guards, |config| {
            config.orchestration_concurrency = 16;
            config.worker_concurrency = 32;
            config.fallback_poll = Duration::from_secs(1);
        })
        .await;
        let before = bench.store.fetches.load(Ordering::SeqCst);
        let begin = Instant::now();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let asked = bench.store.fetches.load(Ordering::SeqCst) - before;
        let rate = f64::from(u32::try_from(asked).unwrap()) / begin.elapsed().as_secs_f64();
        bench.stop().await;
        rate
    }
    let (bare, decorated) = tokio::join!(rate(Guards::none()), rate(Guards::all()));
    println!("asked a second: bare {bare:.1}, decorated {decorated:.1}");
    assert!(decorated <= 15.0, "{decorated} times a second");
    assert!(bare > 5.0 * decorated, "{bare} times a second");
}

#[tokio::test]
async fn other_processes_are_told_of_work() {
    let bench = Bench::new(Guards::all()).await;
    // Another process that starts orchestrations and does no work itself.
    let config = common::config(&bench.url, Guards::all());
    let other = Engine::connect(config, common::pool(&bench.url)).await.unwrap();
    let channels =
        "select count(*) from pg_stat_activity where query like 'LISTEN%' and datname = current_database()";
    wait_for("both listen", LIMIT, || async {
        let count: i64 = sqlx::query_scalar(channels)
            .fetch_one(&common::pool(&bench.url))
            .await
            .unwrap();
        (count == 2).then_some(())
    })
    .await;
    for round in 0..3 {
        let id = format!("o{round}");
        let begin = Instant::now();
        other
            .client()
            .start::<Planned>(&id, Plan::Tasks(vec![Task::Nothing; 2]))
            .await
            .unwrap();
        assert_eq!(
            other.client().wait::<Planned>(&id, LIMIT).await.unwrap().unwrap(),
            "done"
        );
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "the regular look comes after 60 s only"
        );
    }
    bench.stop().await;
}

#[tokio::test]
async fn old_history_is_taken_away() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    bench.run("many", Plan::Executions { left: 30 }).await.unwrap();
    bench
        .run("short", Plan::Tasks(vec![Task::Nothing]))
        .await
        .unwrap();
    let plan = Plan::Child {
        id: "child".to_owned(),
        period_ms: 9_000,
        plan: Box::new(Plan::Timer { ms: 1 }),
    };
    bench.run("parent", plan).await.unwrap();
    assert_eq!(bench.count("executions").await, 34);

    let policy = PrunePolicy {
        keep_executions: 20,
        batch: 1,
        ..PrunePolicy::default()
    };
    let pruned = client.prune(&policy).await.unwrap();
    assert_eq!((pruned.instances, pruned.executions), (0, 11));
    assert_eq!(client.prune(&policy).await.unwrap(), Pruned::default());

    let policy = PrunePolicy {
        ended_after: Duration::ZERO,
        batch: 2,
        ..PrunePolicy::default()
    };
    let pruned = client.prune(&policy).await.unwrap();
    assert_eq!((pruned.instances, pruned.executions), (4, 23));
    assert_eq!(bench.count("history").await, 0);
    bench.stop().await;
}

#[tokio::test]
async fn work_outlives_the_database() {
    let server = TestPostgres::start().await;
    let url = server.new_database().await;
    let pool = common::pool(&url);
    let engine = Engine::connect(EngineConfig::new(common::secret(&url)), pool)
        .await
        .unwrap();
    let client = engine.client();
    let world = work::World::new(1);
    let running = engine
        .start(work::activities(&world), work::orchestrations())
        .await;
    client
        .start::<Planned>("o", Plan::Tasks(vec![Task::Take { ms: 300 }; 4]))
        .await
        .unwrap();
    wait_for("some work", LIMIT, || async {
        (world.runs().len() > 1).then_some(())
    })
    .await;
    server.crash();
    let away = wait_for("the silence to show", LIMIT, || async {
        Some(client.since_last_fetch()).filter(|since| *since > Duration::from_secs(3))
    })
    .await;
    let refused = client
        .start::<Planned>("refused", Plan::Timer { ms: 1 })
        .await
        .unwrap_err();
    assert_eq!(
        refused.code(),
        "database_unavailable",
        "after {away:?}: {refused:?}"
    );
    server.restart().await;
    wait_for("the end", Duration::from_secs(60), || async {
        client.wait::<Planned>("o", Duration::from_secs(1)).await.ok()
    })
    .await
    .unwrap();
    assert!(client.since_last_fetch() < Duration::from_secs(3));
    running.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn work_that_runs_may_end_while_stopping() {
    let bench = Bench::new(Guards::all()).await;
    bench.start("o", Plan::Tasks(vec![Task::Take { ms: 500 }])).await;
    wait_for("the activity", LIMIT, || async {
        (!bench.world.runs().is_empty()).then_some(())
    })
    .await;
    bench.running.shutdown(Duration::from_secs(5)).await;
    let pool = common::pool(&bench.url);
    let left: i64 = sqlx::query_scalar("select count(*) from duroxide.worker_queue")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(left, 0, "its result is written, and no lock is left");
}

#[tokio::test]
async fn names_are_qualified() {
    let world = work::World::new(1);
    let activities = work::activities(&world);
    assert_eq!(activities.names()[0], "toygres-activities::activity::work");
    assert_eq!(
        work::orchestrations().names(),
        ["toygres-orchestrations::orchestration::planned@1.0.0"]
    );
    assert_eq!(Arc::strong_count(&world), 5);
}
