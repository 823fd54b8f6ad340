//! Calls of the store, and of clients.

use super::*;

pub(super) async fn answers_that_are_lost_count_once() {
    let seen = Recorded::from_now();
    let bench = Bench::new(Guards::all()).await;
    for method in ["ack_orchestration_item", "ack_work_item"] {
        let calls = AtomicU32::new(0);
        bench.store.fail_after(move |call| {
            let fails = call.method == method && calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            fails.then(terminated)
        });
        for n in 0..5 {
            let child = Plan::Child {
                id: format!("{method}-child-{n}"),
                period_ms: 60_000,
                plan: Box::new(tasks(&[Task::Nothing])),
            };
            bench.run(&format!("{method}-{n}"), child).await.unwrap();
        }
    }
    let store = Arc::clone(&bench.store);
    bench.stop().await;
    let turns = turns(&store);
    seen.assert(
        Metric::OrchestrationStarts,
        &[
            ("planned 1.0.0 client", 10.0),
            ("planned 1.0.0 suborchestration", 10.0),
        ],
    );
    seen.assert(Metric::OrchestrationExecutions, &[("planned success", 20.0)]);
    seen.assert(
        Metric::SuborchestrationCalls,
        &[("planned planned success", 10.0)],
    );
    seen.assert(Metric::ActivityExecutions, &[("work success 0", 10.0)]);
    let (counted, _) = seen.measured(Metric::OrchestrationTurns, "planned");
    assert_eq!(counted, turns.values().sum::<u64>() as f64);
    let retries = seen.rises(Metric::ProviderRetries);
    assert!(retries["ack"] >= 10.0, "{retries:?}");
}

pub(super) async fn calls_of_the_store() {
    let seen = Recorded::from_now();
    let bench = Bench::with(Guards::all(), |config| {
        config.worker_lock_timeout = Duration::from_secs(2)
    })
    .await;
    bench
        .run("o", tasks(&[Task::Take { ms: 1_500 }, Task::Nothing]))
        .await
        .unwrap();
    bench.start("waits", Plan::Woken { times: 1 }).await;
    has_rows(&bench, "history where event_data like '%TimerCreated%'").await;
    bench.engine.client().wake("waits").await.unwrap();
    bench.end("waits").await.unwrap();
    let store = Arc::clone(&bench.store);
    bench.stop().await;

    // Nothing is left out, and nothing counts twice.
    let measured = seen.rises(Metric::ProviderOperationDuration);
    let mut by_method = std::collections::BTreeMap::<&str, u64>::new();
    for (labels, count) in &measured {
        let words: Vec<_> = labels.split(' ').collect();
        assert_eq!(words[2], "success", "{labels}");
        *by_method.entry(words[1]).or_default() += *count as u64;
    }
    assert_eq!(by_method, *store.calls.lock().unwrap());
    for (labels, count) in [
        // Two starts, and two to four turns each.
        ("create_instance enqueue_for_orchestrator success", 2.0),
        ("enqueue enqueue_for_orchestrator success", 1.0),
        ("fetch fetch_work_item success", 3.0),
        ("ack ack_work_item success", 3.0),
    ] {
        assert_eq!(measured.get(labels), Some(&count), "{labels}: {measured:?}");
    }
    let turns = measured["ack ack_orchestration_item success"];
    assert_eq!(measured["fetch fetch_orchestration_item success"], turns);
    for labels in [
        "fetch_empty fetch_work_item success",
        "fetch_empty fetch_orchestration_item success",
        "query read success",
        "renew renew_work_item_lock success",
    ] {
        assert!(measured.contains_key(labels), "{labels}: {measured:?}");
    }
    seen.assert(Metric::ProviderErrors, &[]);
    seen.assert(Metric::ProviderRetries, &[]);
    let label = "ack ack_work_item success";
    let (seconds, buckets) = seen.measured(Metric::ProviderOperationDuration, label);
    assert!(seconds > 0.0, "{seconds}");
    assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 3);
}

pub(super) async fn errors_of_the_store() {
    let bench = Bench::new(Guards::all()).await;
    // Each fails once, as the server words it, and is done by the next try.
    for (method, operation, message, error_type) in [
        (
            "ack_work_item",
            "ack",
            "canceling statement due to statement timeout",
            "timeout",
        ),
        (
            "ack_work_item",
            "ack",
            "Serialization failure: x",
            "serialization",
        ),
        (
            "ack_orchestration_item",
            "ack",
            "Deadlock detected: x",
            "deadlock",
        ),
        (
            "fetch_work_item",
            "fetch",
            "the database system is starting up",
            "connection",
        ),
        ("fetch_orchestration_item", "fetch", "I/O error: x", "connection"),
        (
            "read",
            "query",
            "Connection pool error: pool timed out while waiting",
            "timeout",
        ),
        (
            "enqueue_for_orchestrator",
            "create_instance",
            "terminating connection",
            "connection",
        ),
        ("ack_work_item", "ack", "la connexion se termine", "other"),
        ("ack_work_item", "ack", "could not read block 0", "corruption"),
    ] {
        let seen = Recorded::from_now();
        let failed = AtomicU32::new(0);
        bench.store.fail_before(move |call| {
            let fails = call.method == method && failed.fetch_add(1, Ordering::SeqCst) == 0;
            fails.then(|| ProviderError::permanent(call.method, message))
        });
        bench
            .run(&format!("{method} {message}"), tasks(&[Task::Nothing]))
            .await
            .unwrap();
        seen.wait(
            Metric::ProviderErrors,
            &[(format!("{operation} {error_type}").as_str(), 1.0)],
        )
        .await;
        seen.wait(Metric::ProviderRetries, &[(operation, 1.0)]).await;
        let labels = format!("{operation} {method} error");
        assert_eq!(seen.rises(Metric::ProviderOperationDuration)[&labels], 1.0);
    }
    bench.stop().await;
}

pub(super) async fn calls_that_are_given_up() {
    let seen = Recorded::from_now();
    let bench = Bench::with(Guards::all(), |config| {
        config.worker_lock_timeout = Duration::from_secs(4)
    })
    .await;
    bench.start("o", tasks(&[Task::Take { ms: 4_000 }])).await;
    runs(&bench, 1).await;
    let pool = common::pool(&bench.url);
    // However late it gets on, nobody else takes its work.
    let kept = "update duroxide.worker_queue set locked_until = locked_until + 60000";
    sqlx::query(kept).execute(&pool).await.unwrap();
    // The database does not answer the renewal, which has less than two seconds for it.
    let mut silence = pool.begin().await.unwrap();
    let lock = "lock table duroxide.worker_queue in access exclusive mode";
    sqlx::query(lock).execute(&mut *silence).await.unwrap();
    seen.wait(Metric::ProviderErrors, &[("renew timeout", 1.0)]).await;
    silence.rollback().await.unwrap();
    assert_eq!(bench.end("o").await.unwrap(), "done");
    bench.stop().await;
    let label = "renew renew_work_item_lock error";
    let (seconds, _) = seen.measured(Metric::ProviderOperationDuration, label);
    assert!((1.5..4.0).contains(&seconds), "{seconds}");
    seen.assert(Metric::ProviderErrors, &[("renew timeout", 1.0)]);
}

pub(super) async fn clients() {
    let seen = Recorded::from_now();
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    for _ in 0..2 {
        client
            .start::<Planned>("o", Plan::Timer { ms: 3_000 })
            .await
            .unwrap();
    }
    client.restart::<Unregistered>("u", ()).await.unwrap();
    for _ in 0..3 {
        client.wake("o").await.unwrap();
    }
    client.cancel("u", "test").await.unwrap();
    bench.end("o").await.unwrap();
    client
        .start::<Planned>("", Plan::Timer { ms: 1 })
        .await
        .unwrap_err();
    client
        .wait::<Planned>("never", Duration::from_millis(20))
        .await
        .unwrap_err();
    bench.stop().await;
    seen.assert(
        Metric::ClientOrchestrationStarts,
        &[("planned", 2.0), ("unregistered", 1.0)],
    );
    seen.assert(Metric::ClientExternalEventsRaised, &[("wake", 3.0)]);
    seen.assert(Metric::ClientCancellations, &[("", 1.0)]);
    seen.assert(Metric::ClientWaitDuration, &[("", 2.0)]);
    let (seconds, buckets) = seen.measured(Metric::ClientWaitDuration, "");
    assert!((0.5..60.0).contains(&seconds), "{seconds}");
    assert!(buckets[0].0 < 3.0, "the wait that was given up: {buckets:?}");
    assert_eq!(
        buckets.iter().map(|(_, count)| count).sum::<u64>(),
        2,
        "{buckets:?}"
    );
}
