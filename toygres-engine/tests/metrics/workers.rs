//! Workers, queues, and two servers on one database.

use super::*;

pub(super) async fn the_backlog() {
    let bench = Bench::with(Guards::all(), |config| config.worker_concurrency = 2).await;
    let client = bench.engine.client();
    client.observe_backlog().await.unwrap();
    let queue = |orchestrations: f64, activities: f64| {
        [
            ("orchestration".to_owned(), orchestrations),
            ("activity".to_owned(), activities),
        ]
        .into()
    };
    assert_eq!(gauge(Metric::WorkerQueueDepth), queue(0.0, 0.0));
    assert_eq!(gauge(Metric::WorkerQueueAge), queue(0.0, 0.0));
    assert_eq!(gauge(Metric::ActiveOrchestrations), [(String::new(), 0.0)].into());
    assert_eq!(gauge(Metric::OrchestrationActiveInstances), [].into());

    // Two activities run, three wait for a slot; two orchestrations wait, and one is over.
    bench.run("over", Plan::Executions { left: 1 }).await.unwrap();
    for n in 0..5 {
        bench
            .start(&format!("w{n}"), tasks(&[Task::Take { ms: 60_000 }]))
            .await;
    }
    for n in 0..2 {
        bench.start(&format!("t{n}"), Plan::Timer { ms: 3_600_000 }).await;
    }
    runs(&bench, 2).await;
    has_rows(&bench, "worker_queue offset 4").await;
    has_rows(&bench, "history where event_data like '%TimerCreated%' offset 1").await;
    execute(
        &bench,
        "update duroxide.worker_queue set visible_at = visible_at - interval '90 seconds'",
    )
    .await;
    // One that no worker takes up: it is not there for this engine, but for its database.
    let idle = observer(&bench).await;
    bench.running.shutdown(Duration::from_millis(200)).await;
    idle.start::<Unregistered>("u", ()).await.unwrap();
    idle.observe_backlog().await.unwrap();
    assert_eq!(gauge(Metric::WorkerQueueDepth), queue(1.0, 3.0));
    let age = gauge(Metric::WorkerQueueAge);
    assert!((90.0..150.0).contains(&age["activity"]), "{age:?}");
    assert!((0.0..30.0).contains(&age["orchestration"]), "{age:?}");
    assert_eq!(gauge(Metric::ActiveOrchestrations), [(String::new(), 8.0)].into());
    let active = [
        ("planned running", 5.0),
        ("planned waiting", 2.0),
        ("unregistered running", 1.0),
        ("unregistered waiting", 0.0),
    ];
    let active = active.map(|(labels, count)| (labels.to_owned(), count)).into();
    assert_eq!(gauge(Metric::OrchestrationActiveInstances), active);
}

pub(super) async fn workers_and_those_that_do_not_listen() {
    let seen = Recorded::from_now();
    let bench = Bench::with(Guards::all(), |config| {
        config.worker_concurrency = 3;
        config.orchestration_concurrency = 2;
        config.worker_lock_timeout = Duration::from_secs(2);
    })
    .await;
    bench.start("deaf", Plan::Deaf).await;
    runs(&bench, 1).await;
    bench.engine.client().cancel("deaf", "test").await.unwrap();
    // One slot is held by it all the while, so these have the next.
    bench
        .run("o", tasks(&vec![Task::Take { ms: 20 }; 20]))
        .await
        .unwrap();
    let count = [("orchestration".to_owned(), 2.0), ("activity".to_owned(), 3.0)].into();
    wait_for("a look at the workers", LIMIT, || async {
        let rates = gauge(Metric::WorkerProcessingRate);
        rates
            .get("activity 1")
            .is_some_and(|rate| *rate > 0.0)
            .then_some(())
    })
    .await;
    assert_eq!(gauge(Metric::WorkerCount), count);
    let rates = gauge(Metric::WorkerProcessingRate);
    let slots: Vec<_> = rates.keys().map(String::as_str).collect();
    let expected = [
        "activity 0",
        "activity 1",
        "activity 2",
        "orchestration 0",
        "orchestration 1",
    ];
    assert_eq!(slots, expected);
    // Twenty in ten seconds; the turn of the deaf one and its end besides those of the other.
    assert!((1.5..2.1).contains(&rates["activity 1"]), "{rates:?}");
    assert_eq!(rates["activity 0"] + rates["activity 2"], 0.0, "{rates:?}");
    let turns = rates["orchestration 0"] + rates["orchestration 1"];
    assert!((2.0..3.0).contains(&turns), "{rates:?}");
    // Who does not listen is put out after ten seconds.
    seen.wait(
        Metric::ActivityExecutions,
        &[("deaf cancelled 0", 1.0), ("work success 0", 20.0)],
    )
    .await;
    bench.stop().await;
    let (deaf, _) = seen.measured(Metric::ActivityDuration, "deaf cancelled");
    let (work, _) = seen.measured(Metric::ActivityDuration, "work success");
    assert!((10.0..20.0).contains(&deaf) && work >= 0.4, "{deaf}, {work}");
    let busy = seen.rises(Metric::WorkerActiveTime);
    assert!(
        (busy["activity"] - deaf - work).abs() < 0.5,
        "{busy:?}, {deaf}, {work}"
    );
    assert!((0.01..10.0).contains(&busy["orchestration"]), "{busy:?}");
    // Nobody works any more.
    assert_eq!(gauge(Metric::WorkerCount), [].into());
    assert_eq!(gauge(Metric::WorkerProcessingRate), [].into());
}

pub(super) async fn turns_of_two_servers() {
    const TIMERS: u32 = 999;
    let seen = Recorded::from_now();
    let bench = Bench::with(Guards::all(), |config| {
        config.fallback_poll = Duration::from_millis(50)
    })
    .await;
    let store = common::faulty::Faulty::new(common::bare_provider(&bench.url).await);
    let mut config = common::config(&bench.url, Guards::all());
    config.fallback_poll = Duration::from_millis(50);
    let provider = Arc::clone(&store) as Arc<dyn Provider>;
    let other = Engine::with_provider(config, common::pool(&bench.url), provider);
    let world = work::World::new(1);
    let running = other
        .start(work::activities(&world), work::orchestrations())
        .await;

    bench.start("long", Plan::Timers { count: TIMERS }).await;
    for n in 0..20 {
        let client = if n % 2 == 0 {
            bench.engine.client()
        } else {
            other.client()
        };
        let plan = tasks(&[Task::Nothing, Task::FailUntil { attempt: 2 }]);
        client.start::<Planned>(&format!("o{n}"), plan).await.unwrap();
    }
    for n in 0..20 {
        bench.end(&format!("o{n}")).await.unwrap();
    }
    let client = bench.engine.client();
    let long = client.wait::<Planned>("long", Duration::from_secs(240)).await;
    assert_eq!(long.unwrap().unwrap(), "rung");
    let times = times(&bench).await;
    let events = bench.count("history where instance_id = 'long'").await;
    let own = Arc::clone(&bench.store);
    bench.stop().await;
    running.shutdown(Duration::from_secs(5)).await;
    let (here, there) = (turns(&own), turns(&store));

    let long = ("long".to_owned(), 1);
    let on_both = (here.get(&long).copied(), there.get(&long).copied());
    let (Some(a), Some(b)) = on_both else {
        panic!("one server did all of it: {on_both:?}");
    };
    assert_eq!(a + b, u64::from(TIMERS) + 1);
    seen.assert(
        Metric::OrchestrationCompletions,
        &[
            ("planned 1.0.0 success 1-5", 20.0),
            ("planned 1.0.0 success 50+", 1.0),
        ],
    );
    seen.assert(Metric::OrchestrationStarts, &[("planned 1.0.0 client", 21.0)]);
    let (counted, buckets) = seen.measured(Metric::OrchestrationTurns, "planned");
    let made: u64 = here.values().chain(there.values()).sum();
    assert_eq!(counted, made as f64);
    assert_eq!(buckets, [(5.0, 20), (f64::INFINITY, 1)]);
    let (_, buckets) = seen.measured(Metric::OrchestrationHistorySize, "planned");
    assert_eq!(
        (events, buckets),
        (2 * i64::from(TIMERS) + 2, vec![(10.0, 20), (5000.0, 1)])
    );
    let (seconds, _) = seen.measured(Metric::OrchestrationDuration, "planned 1.0.0 success");
    let expected: f64 = times.values().sum();
    assert!((seconds - expected).abs() < 0.0001, "{seconds}, {expected}");
    seen.assert(
        Metric::ActivityExecutions,
        &[
            ("work success 0", 20.0),
            ("work retry 0", 20.0),
            ("work success 1", 20.0),
        ],
    );
}
