//! Executions of orchestrations.

use super::*;

pub(super) async fn ends_of_orchestrations() {
    let seen = Recorded::from_now();
    let bench = Bench::new(Guards::all()).await;
    bench.run("done", tasks(&[Task::Nothing])).await.unwrap();
    for (id, plan) in [
        ("refused", tasks(&[Task::Refuse])),
        ("away", tasks(&[Task::FailUntil { attempt: 99 }])),
        ("set-up", tasks(&[Task::Misconfigured])),
        ("slow", Plan::TooSlow),
        ("large", tasks(&[Task::Answer { bytes: 300_000 }])),
    ] {
        bench.run(id, plan).await.unwrap_err();
    }
    let store = Arc::clone(&bench.store);
    bench.stop().await;
    let turns = turns(&store);

    seen.assert(Metric::OrchestrationStarts, &[("planned 1.0.0 client", 6.0)]);
    // Five tries, four pauses, and the beginning: ten turns.
    seen.assert(
        Metric::OrchestrationCompletions,
        &[
            ("planned 1.0.0 success 1-5", 1.0),
            ("planned 1.0.0 failed 1-5", 4.0),
            ("planned 1.0.0 failed 6-10", 1.0),
        ],
    );
    seen.assert(
        Metric::OrchestrationFailures,
        &[
            ("planned 1.0.0 app_error validation", 2.0),
            ("planned 1.0.0 infrastructure_error network", 1.0),
            ("planned 1.0.0 config_error configuration", 1.0),
            ("planned 1.0.0 timeout timeout", 1.0),
        ],
    );
    seen.assert(
        Metric::OrchestrationInfrastructureErrors,
        &[("planned network", 1.0)],
    );
    seen.assert(
        Metric::OrchestrationConfigurationErrors,
        &[("planned configuration", 1.0)],
    );
    seen.assert(Metric::OrchestrationPoison, &[]);
    seen.assert(
        Metric::OrchestrationExecutions,
        &[("planned success", 1.0), ("planned failed", 5.0)],
    );
    // The pauses between the tries alone take 40 ms.
    let (seconds, _) = seen.measured(Metric::OrchestrationDuration, "planned 1.0.0 failed");
    assert!((0.04..60.0).contains(&seconds), "{seconds}");
    let (counted, buckets) = seen.measured(Metric::OrchestrationTurns, "planned");
    assert_eq!(counted, turns.values().sum::<u64>() as f64);
    assert_eq!(turns[&("away".to_owned(), 1)], 10);
    assert_eq!(buckets, [(2.0, 5), (10.0, 1)]);
}

pub(super) async fn executions_and_children() {
    let seen = Recorded::from_now();
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    bench.run("many", Plan::Executions { left: 3 }).await.unwrap();
    let child = |id: &str, plan| Plan::Child {
        id: id.to_owned(),
        period_ms: 9_000,
        plan: Box::new(plan),
    };
    bench
        .run("parent", child("child", Plan::Timer { ms: 600 }))
        .await
        .unwrap();
    let output = bench
        .run("parent-2", child("child-2", tasks(&[Task::Refuse])))
        .await;
    assert!(output.unwrap().contains("refused"));
    client
        .restart::<Planned>("again", Plan::Timer { ms: 1 })
        .await
        .unwrap();
    bench.end("again").await.unwrap();
    let events = bench.count("history").await;
    let times = times(&bench).await;
    let store = Arc::clone(&bench.store);
    bench.stop().await;
    let turns = turns(&store);

    seen.assert(
        Metric::OrchestrationStarts,
        &[
            ("planned 1.0.0 client", 3.0),
            ("planned 1.0.0 suborchestration", 2.0),
            ("planned 1.0.0 continueAsNew", 3.0),
            ("planned 1.0.0 signal", 1.0),
        ],
    );
    seen.assert(
        Metric::OrchestrationExecutions,
        &[
            ("planned success", 5.0),
            ("planned failed", 1.0),
            ("planned continuedAsNew", 3.0),
        ],
    );
    seen.assert(Metric::OrchestrationContinueAsNew, &[("planned", 3.0)]);
    // What continues as new has not ended.
    seen.assert(
        Metric::OrchestrationCompletions,
        &[
            ("planned 1.0.0 success 1-5", 5.0),
            ("planned 1.0.0 failed 1-5", 1.0),
        ],
    );
    seen.assert(
        Metric::OrchestrationDuration,
        &[
            ("planned 1.0.0 success", 5.0),
            ("planned 1.0.0 failed", 1.0),
            ("planned 1.0.0 continuedAsNew", 3.0),
        ],
    );
    seen.assert(Metric::OrchestrationHistorySize, &[("planned", 9.0)]);
    let (size, buckets) = seen.measured(Metric::OrchestrationHistorySize, "planned");
    assert_eq!((size, buckets), (events as f64, vec![(10.0, 9)]));
    let (counted, _) = seen.measured(Metric::OrchestrationTurns, "planned");
    assert_eq!(counted, turns.values().sum::<u64>() as f64);
    // By the clocks in the history.
    let (seconds, _) = seen.measured(Metric::OrchestrationDuration, "planned 1.0.0 success");
    let ended = ["many", "parent", "child", "parent-2", "again"];
    let expected: f64 = ended.iter().map(|id| times[*id]).sum();
    assert!((seconds - expected).abs() < 0.0001, "{seconds}, {expected}");

    seen.assert(
        Metric::SuborchestrationCalls,
        &[("planned planned success", 1.0), ("planned planned failed", 1.0)],
    );
    let (seconds, buckets) = seen.measured(Metric::SuborchestrationDuration, "planned planned success");
    // Computed in another way.
    let longest = times["parent"] + 0.0001;
    assert!((times["child"]..=longest).contains(&seconds), "{seconds}");
    assert!(
        seconds >= 0.6 && matches!(buckets[..], [(1.0 | 2.0 | 5.0, 1)]),
        "{buckets:?}"
    );
}

pub(super) async fn what_is_given_up() {
    let seen = Recorded::from_now();
    let bench = Bench::with(Guards::all(), |config| {
        config.fallback_poll = Duration::from_millis(200)
    })
    .await;
    let client = bench.engine.client();
    // An activity that nobody knows.
    bench.start("o", Plan::Unknown).await;
    give_up(&bench, "worker_queue", "true").await;
    assert!(bench.end("o").await.unwrap().contains("poisoned"));
    // An orchestration that nobody knows.
    client.start::<Unregistered>("u", ()).await.unwrap();
    give_up(&bench, "orchestrator_queue", "instance_id = 'u'").await;
    client
        .wait::<Unregistered>("u", LIMIT)
        .await
        .unwrap()
        .unwrap_err();
    // A history that nobody can read.
    bench.start("h", Plan::Timer { ms: 3_600_000 }).await;
    has_rows(
        &bench,
        "history where instance_id = 'h' and event_data like '%TimerCreated%'",
    )
    .await;
    let garbage = "update duroxide.history set event_data = '{\"event_id\":1}' where instance_id = 'h'";
    execute(&bench, garbage).await;
    client.wake("h").await.unwrap();
    give_up(&bench, "orchestrator_queue", "work_item like '%QueueMessage%'").await;
    has_rows(&bench, "executions where instance_id = 'h' and status = 'Failed'").await;
    bench.stop().await;

    seen.assert(Metric::ActivityPoison, &[("unknown", 1.0)]);
    seen.assert(Metric::ActivityExecutions, &[]);
    seen.assert(
        Metric::OrchestrationPoison,
        &[("unregistered", 1.0), ("planned", 1.0)],
    );
    let failures = seen.rises(Metric::OrchestrationFailures);
    assert_eq!(failures.values().sum::<f64>(), 2.0, "{failures:?}");
    assert_eq!(failures["planned 1.0.0 poison database"], 1.0);
    assert_eq!(failures["unregistered unknown poison configuration"], 1.0);
    seen.assert(
        Metric::OrchestrationStarts,
        &[
            ("planned 1.0.0 client", 2.0),
            ("unregistered unknown client", 1.0),
        ],
    );
    seen.assert(Metric::OrchestrationInfrastructureErrors, &[]);
    seen.assert(Metric::OrchestrationConfigurationErrors, &[]);
}

pub(super) async fn defects_of_orchestrations() {
    let seen = Recorded::from_now();
    let bench = Bench::new(Guards::all()).await;
    let failure = bench.run("fickle", Plan::Fickle).await.unwrap_err();
    assert_eq!(failure.code, "nondeterminism");
    let failure = bench
        .run("panic", Plan::Failing(Task::Nothing))
        .await
        .unwrap_err();
    assert_eq!(failure.code, "orchestration_panicked");
    // The store refuses for good what an orchestration wants to write.
    let acks = AtomicU32::new(0);
    bench.store.fail_before(move |call| {
        let refused = call.method == "ack_orchestration_item" && acks.fetch_add(1, Ordering::SeqCst) == 1;
        refused.then(|| ProviderError::permanent(call.method, "Duplicate detected: test"))
    });
    let failure = bench.run("refused", tasks(&[Task::Nothing])).await.unwrap_err();
    assert_eq!(failure.code, "engine_unavailable");
    bench.stop().await;
    seen.assert(
        Metric::OrchestrationFailures,
        &[
            ("planned 1.0.0 nondeterminism logic", 1.0),
            ("planned 1.0.0 app_error logic", 1.0),
            ("planned 1.0.0 infrastructure_error database", 1.0),
        ],
    );
    seen.assert(
        Metric::OrchestrationConfigurationErrors,
        &[("planned logic", 1.0)],
    );
    seen.assert(
        Metric::OrchestrationInfrastructureErrors,
        &[("planned database", 1.0)],
    );
    seen.assert(Metric::OrchestrationStarts, &[("planned 1.0.0 client", 3.0)]);
    seen.assert(Metric::ProviderErrors, &[("ack constraint_violation", 1.0)]);
}
