//! The engine as operators see it.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use common::Bench;
use common::work::{Plan, Planned, Task};
use std::time::{Duration, Instant};
use toygres_engine::store::Guards;
use toygres_engine::{EngineClient, OrchestrationFilter, actor_id};
use toygres_models::orchestrations::{
    EngineStats, HistoryEvent, Orchestration, OrchestrationNode, OrchestrationStatus as Status,
};
use toygres_models::{ErrorKind, InstanceId};
use toygres_testing::wait_for;

const LIMIT: Duration = Duration::from_secs(30);
const HOUR: Plan = Plan::Timer { ms: 3_600_000 };

fn all() -> OrchestrationFilter {
    OrchestrationFilter {
        limit: 100,
        ..OrchestrationFilter::default()
    }
}

async fn ids(client: &EngineClient, filter: OrchestrationFilter) -> Vec<String> {
    let found = client.list(&filter).await.unwrap();
    found.into_iter().map(|found| found.id).collect()
}

/// Waits until an orchestration has something in its history, and answers it.
async fn taken_up(client: &EngineClient, id: &str) -> Orchestration {
    wait_for("it to be taken up", LIMIT, || async {
        client.details(id).await.ok()
    })
    .await
    .orchestration
}

/// Puts orchestrations into the store that no engine has seen.
async fn pretend(bench: &Bench, sql: &str) {
    let pool = common::pool(&bench.url);
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
}

fn short(events: &[HistoryEvent]) -> Vec<(&str, Option<&str>)> {
    events
        .iter()
        .map(|event| (event.kind.as_str(), event.name.as_deref()))
        .collect()
}

/// A tree as lines: depth, id, name, status.
fn outline(tree: &OrchestrationNode) -> Vec<String> {
    fn add(node: &OrchestrationNode, depth: usize, lines: &mut Vec<String>) {
        lines.push(format!("{depth} {} {} {}", node.id, node.name, node.status));
        for child in &node.children {
            add(child, depth + 1, lines);
        }
    }
    let mut lines = Vec::new();
    add(tree, 0, &mut lines);
    lines
}

#[tokio::test]
async fn orchestrations_are_listed_by_how_they_are_what_they_do_and_what_they_are_about() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    let instance_id = InstanceId::generate();
    bench.run("ends", Plan::Tasks(vec![Task::Nothing])).await.unwrap();
    bench
        .run("fails", Plan::Tasks(vec![Task::Refuse]))
        .await
        .unwrap_err();
    bench.start("waits", HOUR).await;
    taken_up(&client, "waits").await;
    bench.start("waits-no-more", HOUR).await;
    taken_up(&client, "waits-no-more").await;
    client.cancel("waits-no-more", "test").await.unwrap();
    bench.end("waits-no-more").await.unwrap_err();
    let actor = actor_id(instance_id, 7);
    let plan = Plan::Child {
        id: "child".to_owned(),
        period_ms: 9_000,
        plan: Box::new(Plan::Timer { ms: 1 }),
    };
    bench.run(&actor, plan).await.unwrap();

    let newest_first = ["child", &actor, "waits-no-more", "waits", "fails", "ends"];
    assert_eq!(ids(&client, all()).await, newest_first);
    let with = |status| OrchestrationFilter {
        status: Some(status),
        ..all()
    };
    assert_eq!(ids(&client, with(Status::Running)).await, ["waits"]);
    assert_eq!(
        ids(&client, with(Status::Completed)).await,
        ["child", &actor, "ends"]
    );
    assert_eq!(
        ids(&client, with(Status::Failed)).await,
        ["waits-no-more", "fails"]
    );
    assert!(ids(&client, with(Status::ContinuedAsNew)).await.is_empty());
    let named = |name: &str| OrchestrationFilter {
        name: Some(name.to_owned()),
        ..all()
    };
    assert_eq!(ids(&client, named("planned")).await.len(), 6);
    assert!(ids(&client, named("plan_ed")).await.is_empty());
    let filter = OrchestrationFilter {
        id_prefix: Some("waits".to_owned()),
        status: Some(Status::Running),
        name: Some("planned".to_owned()),
        ..all()
    };
    assert_eq!(ids(&client, filter).await, ["waits"]);
    let about = OrchestrationFilter {
        instance_id: Some(instance_id),
        ..all()
    };
    assert_eq!(ids(&client, about.clone()).await, ["child", &actor]);

    let found = client.list(&about).await.unwrap();
    assert_eq!(found[0].parent_id.as_ref(), Some(&actor));
    assert_eq!(found[1].parent_id, None);
    for found in &found {
        assert_eq!(
            (found.name.as_str(), found.version.as_str()),
            ("planned", "1.0.0")
        );
        assert_eq!((found.instance_id, found.execution_id), (Some(instance_id), 1));
        assert!(found.updated_at >= found.created_at && found.error.is_none());
    }
    let failed = client.list(&with(Status::Failed)).await.unwrap();
    let error = failed[0].error.as_ref().unwrap();
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("cancelled", ErrorKind::Superseded)
    );
    let error = failed[1].error.as_ref().unwrap();
    assert_eq!((error.code.as_str(), error.retryable), ("refused", false));
    bench.stop().await;
}

#[tokio::test]
async fn pages_follow_each_other_while_new_ones_begin() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    // All of the same moment, so that only their ids tell them apart.
    pretend(
        &bench,
        "insert into duroxide.instances (instance_id, orchestration_name, created_at, updated_at)
         select 'old-' || n, 'x::orchestration::old', '2020-01-01Z', now() from generate_series(1, 7) n;
         insert into duroxide.executions (instance_id, execution_id, started_at)
         select instance_id, 1, created_at from duroxide.instances",
    )
    .await;
    let mut filter = OrchestrationFilter { limit: 3, ..all() };
    let mut seen = Vec::new();
    for round in 0.. {
        let page = ids(&client, filter.clone()).await;
        let Some(last) = page.last() else { break };
        filter.after = Some(last.clone());
        seen.extend(page);
        bench
            .run(&format!("new-{round}"), Plan::Timer { ms: 1 })
            .await
            .unwrap();
    }
    assert_eq!(
        seen,
        (1..=7).rev().map(|n| format!("old-{n}")).collect::<Vec<_>>()
    );
    let first = ids(&client, OrchestrationFilter { limit: 3, ..all() }).await;
    assert_eq!(first, ["new-2", "new-1", "new-0"]);

    filter.after = Some("never-was".to_owned());
    let error = client.list(&filter).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Invalid, "unknown_cursor")
    );
    let none = OrchestrationFilter { limit: 0, ..all() };
    assert_eq!(ids(&client, none).await.len(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn executions_tell_how_each_of_them_ended() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    bench.run("over", Plan::Executions { left: 2 }).await.unwrap();
    let details = client.details("over").await.unwrap();
    let seen: Vec<_> = details
        .executions
        .iter()
        .map(|one| (one.execution_id, one.status, one.events))
        .collect();
    let expected = [
        (3, Status::Completed, 2),
        (2, Status::ContinuedAsNew, 2),
        (1, Status::ContinuedAsNew, 2),
    ];
    assert_eq!(seen, expected);
    for pair in details.executions.windows(2) {
        assert!(pair[1].finished_at.unwrap() >= pair[1].started_at);
        assert!(pair[0].started_at >= pair[1].finished_at.unwrap());
    }
    assert_eq!(
        (details.orchestration.status, details.orchestration.execution_id),
        (Status::Completed, 3)
    );

    bench.start("goes-on", Plan::Woken { times: 2 }).await;
    taken_up(&client, "goes-on").await;
    client.wake("goes-on").await.unwrap();
    let details = wait_for("the second execution", LIMIT, || async {
        let details = client.details("goes-on").await.unwrap();
        (details.executions.len() == 2).then_some(details)
    })
    .await;
    assert_eq!(details.orchestration.status, Status::Running);
    assert_eq!(
        (details.executions[0].status, details.executions[0].finished_at),
        (Status::Running, None)
    );
    assert_eq!(details.executions[1].status, Status::ContinuedAsNew);

    // The moment in which the next execution has not begun.
    pretend(
        &bench,
        "update duroxide.executions set status = 'ContinuedAsNew' where instance_id = 'goes-on'",
    )
    .await;
    let details = client.details("goes-on").await.unwrap();
    assert_eq!(details.orchestration.status, Status::Running);
    assert_eq!(details.executions[0].status, Status::ContinuedAsNew);

    bench
        .run("fails", Plan::Tasks(vec![Task::Refuse]))
        .await
        .unwrap_err();
    let details = client.details("fails").await.unwrap();
    assert_eq!(details.executions[0].status, Status::Failed);
    assert_eq!(details.orchestration.error.unwrap().code, "refused");
    bench.stop().await;
}

#[tokio::test]
async fn a_tree_holds_children_and_their_children_within_bounds() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    let child = |id: &str, plan| Plan::Child {
        id: id.to_owned(),
        period_ms: 9_000,
        plan: Box::new(plan),
    };
    bench.start("top", child("mid", child("low", HOUR))).await;
    taken_up(&client, "low").await;
    pretend(
        &bench,
        "insert into duroxide.instances
             (instance_id, orchestration_name, parent_instance_id, created_at, updated_at)
         values ('first', 'x::orchestration::elder', 'top', '2020-01-01Z', now())",
    )
    .await;
    let details = client.details("top").await.unwrap();
    let expected = [
        "0 top planned running",
        "1 first elder running",
        "1 mid planned running",
        "2 low planned running",
    ];
    assert_eq!(outline(&details.tree), expected);
    assert_eq!(details.orchestration.parent_id, None);
    let details = client.details("mid").await.unwrap();
    assert_eq!(
        outline(&details.tree),
        ["0 mid planned running", "1 low planned running"]
    );
    assert_eq!(details.orchestration.parent_id.as_deref(), Some("top"));

    pretend(
        &bench,
        "insert into duroxide.instances
             (instance_id, orchestration_name, parent_instance_id, created_at, updated_at)
         select 'wide-' || n, 'x', nullif('wide-0', 'wide-' || n), now(), now() from generate_series(0, 1000) n
          union all
         select 'deep-' || n, 'x', 'deep-' || n - 1, now(), now() from generate_series(0, 20) n",
    )
    .await;
    let wide = client.details("wide-0").await.unwrap().tree;
    assert_eq!(outline(&wide).len(), 500);
    let deep = outline(&client.details("deep-0").await.unwrap().tree);
    assert_eq!(deep.last().unwrap(), "8 deep-8 x running");
    bench.stop().await;
}

#[tokio::test]
async fn a_history_tells_what_happened_in_short_words() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    let history = async |id: &str| client.history(id, None, 0, 100).await.unwrap();

    let text = "x".repeat(3_000);
    let tasks = vec![Task::Bytes { text }, Task::Answer { bytes: 5_000 }, Task::Refuse];
    bench.run("works", Plan::Tasks(tasks)).await.unwrap_err();
    let events = history("works").await;
    let expected = [
        ("orchestration_started", Some("planned")),
        ("activity_scheduled", Some("work")),
        ("activity_completed", Some("work")),
        ("activity_scheduled", Some("work")),
        ("activity_completed", Some("work")),
        ("activity_scheduled", Some("work")),
        ("activity_failed", Some("work")),
        ("orchestration_failed", None),
    ];
    assert_eq!(short(&events), expected);
    assert_eq!(events[0].input.as_ref().unwrap()["Tasks"][2], "Refuse");
    assert_eq!(
        events[1].input.as_ref().unwrap()["Bytes"]["text"]
            .as_str()
            .unwrap()
            .len(),
        3_000
    );
    assert_eq!(events[2].output.as_ref().unwrap(), "done");
    assert_eq!((events[2].event_id, events[2].source_event_id), (3, Some(2)));
    assert_eq!(events[4].output, None, "too large to be shown");
    for event in &events[6..] {
        let error = event.error.as_ref().unwrap();
        assert_eq!((error.code.as_str(), error.kind), ("refused", ErrorKind::Invalid));
    }
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0].event_id + 1 == pair[1].event_id && pair[0].at <= pair[1].at)
    );

    // Pages.
    let page = client.history("works", Some(1), 2, 3).await.unwrap();
    assert_eq!(
        page.iter().map(|event| event.event_id).collect::<Vec<_>>(),
        [3, 4, 5]
    );
    assert!(client.history("works", Some(1), 8, 3).await.unwrap().is_empty());

    // Far too large to be fetched.
    let text = "x".repeat(100_000);
    bench
        .run("large", Plan::Tasks(vec![Task::Bytes { text }]))
        .await
        .unwrap();
    let events = history("large").await;
    assert_eq!(short(&events)[1], ("activity_scheduled", Some("work")));
    assert!(events[0].input.is_none() && events[1].input.is_none());
    assert_eq!(short(&events)[2], ("activity_completed", Some("work")));

    let plan = Plan::Child {
        id: "child".to_owned(),
        period_ms: 9_000,
        plan: Box::new(Plan::Timer { ms: 1 }),
    };
    bench.run("parent", plan).await.unwrap();
    let events = history("parent").await;
    let expected = [
        ("orchestration_started", Some("planned")),
        ("sub_orchestration_scheduled", Some("planned")),
        ("timer_created", None),
        ("sub_orchestration_completed", Some("planned")),
        ("orchestration_completed", None),
    ];
    assert_eq!(short(&events), expected);
    assert_eq!(events[1].child_id.as_deref(), Some("child"));
    assert_eq!(events[1].input.as_ref().unwrap()["Timer"]["ms"], 1);
    assert_eq!(events[3].output.as_ref().unwrap(), "rung");
    assert!(events[2].fire_at.unwrap() > events[2].at);
    let events = history("child").await;
    assert_eq!(
        short(&events)[1..3],
        [("timer_created", None), ("timer_fired", None)]
    );
    assert_eq!(events[1].fire_at, events[2].fire_at);

    bench.start("woken", Plan::Woken { times: 2 }).await;
    taken_up(&client, "woken").await;
    client.wake("woken").await.unwrap();
    wait_for("the second execution", LIMIT, || async {
        (taken_up(&client, "woken").await.execution_id == 2).then_some(())
    })
    .await;
    let first = client.history("woken", Some(1), 0, 100).await.unwrap();
    let words = short(&first);
    for expected in ["queue_subscribed", "queue_event_delivered"] {
        assert!(words.contains(&(expected, Some("wake"))), "{words:?}");
    }
    let last = first.last().unwrap();
    assert_eq!(last.kind, "orchestration_continued_as_new");
    assert_eq!(last.input.as_ref().unwrap()["Woken"]["times"], 1);
    client.cancel("woken", "by hand").await.unwrap();
    bench.end("woken").await.unwrap_err();
    let second = history("woken").await;
    let cancel = second
        .iter()
        .find(|event| event.kind == "orchestration_cancel_requested");
    assert_eq!(cancel.unwrap().input.as_ref().unwrap(), "by hand");
    assert_eq!(second.last().unwrap().error.as_ref().unwrap().code, "cancelled");

    // What a later duroxide may write.
    pretend(
        &bench,
        r#"insert into duroxide.history (instance_id, execution_id, event_id, event_type, event_data, created_at)
           values ('works', 1, 9, 'Event', '{"type":"BrandNew","name":{"of":"another sort"}}', now()),
                  ('works', 1, 10, 'Event', '[]', now())"#,
    )
    .await;
    let events = client.history("works", None, 8, 100).await.unwrap();
    assert_eq!(short(&events), [("brand_new", None), ("unknown", None)]);
    bench.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_missing() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    let missing = [
        client.details("never").await.unwrap_err(),
        client.history("never", None, 0, 10).await.unwrap_err(),
        client.history("never", Some(1), 0, 10).await.unwrap_err(),
    ];
    for error in missing {
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::NotFound, "orchestration_not_found")
        );
        assert!(
            error
                .next_step()
                .unwrap()
                .contains("toygres server orchestrations")
        );
    }
    bench.run("o", Plan::Timer { ms: 1 }).await.unwrap();
    let error = client.history("o", Some(2), 0, 10).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::NotFound, "execution_not_found")
    );
    bench.stop().await;
}

#[tokio::test]
async fn numbers_are_those_of_the_situation() {
    let bench = Bench::with(Guards::all(), |config| {
        config.worker_concurrency = 1;
        config.orchestration_concurrency = 3;
    })
    .await;
    let client = bench.engine.client();
    assert_eq!((client.activity_slots(), client.orchestration_slots()), (1, 3));
    bench.run("ends", Plan::Tasks(vec![Task::Nothing])).await.unwrap();
    bench.run("over", Plan::Executions { left: 3 }).await.unwrap();
    bench.failure("panic", Plan::Failing(Task::Panic)).await;
    bench
        .run("fails", Plan::Tasks(vec![Task::Refuse]))
        .await
        .unwrap_err();
    bench.start("rings", HOUR).await;
    // One has the only slot, one waits for it.
    for id in ["long", "later"] {
        let plan = Plan::Tasks(vec![Task::Take { ms: 3_600_000 }]);
        bench.start(id, plan).await;
    }
    let busy = wait_for("the queues to settle", LIMIT, || async {
        let stats = client.stats().await.unwrap();
        (stats.worker_queue == 2 && stats.timers == 1 && client.activities_running() == 1).then_some(stats)
    })
    .await;
    let rows = bench.count("history").await;
    let expected = EngineStats {
        running: 3,
        completed: 3,
        failed: 1,
        orchestrator_queue: 0,
        worker_queue: 2,
        timers: 1,
        oldest_wait_seconds: busy.oldest_wait_seconds,
        history_rows: rows,
    };
    assert_eq!(format!("{busy:?}"), format!("{expected:?}"));
    pretend(&bench, "analyze duroxide.history").await;
    assert_eq!(client.stats().await.unwrap().history_rows, rows);

    // Stopping aborts what runs, and what is asked for from then on stays where it is.
    bench.running.shutdown(Duration::from_millis(200)).await;
    wait_for("the activity to be gone", LIMIT, || async {
        (client.activities_running() == 0).then_some(())
    })
    .await;
    client.start::<Planned>("waits", HOUR).await.unwrap();
    client.wake("rings").await.unwrap();
    let waiting = wait_for("a second to pass", LIMIT, || async {
        Some(client.stats().await.unwrap()).filter(|stats| stats.oldest_wait_seconds > 1.0)
    })
    .await;
    assert_eq!((waiting.orchestrator_queue, waiting.running), (2, 3));
    assert!(waiting.oldest_wait_seconds < LIMIT.as_secs_f64());
}

#[tokio::test]
async fn questions_stay_quick_with_a_hundred_thousand_orchestrations() {
    let bench = Bench::new(Guards::all()).await;
    let client = bench.engine.client();
    let instance_id = InstanceId::generate();
    let sql = format!(
        "insert into duroxide.instances
             (instance_id, orchestration_name, orchestration_version, current_execution_id, parent_instance_id,
              created_at, updated_at)
         select case when n % 10 = 0 then 'actor-' || gen_random_uuid() || '-1' else 'create-' || n end,
                'toygres-orchestrations::orchestration::' || case when n % 10 = 0 then 'instance-actor'
                    else 'create-instance' end, '1.0.0', 2,
                case when n % 10 = 1 then '{}' end, now() - n * interval '1 s', now()
           from generate_series(1, 100000) n;
         insert into duroxide.executions (instance_id, execution_id, status, output, started_at)
         select i.instance_id, x, case when x = 1 then 'ContinuedAsNew' when i.instance_id ~ '^actor' then 'Running'
                    when i.instance_id ~ '77$' then 'Failed' else 'Completed' end, 'null', i.created_at
           from duroxide.instances i, generate_series(1, 2) x;
         analyze duroxide.instances; analyze duroxide.executions",
        actor_id(instance_id, 1)
    );
    pretend(&bench, &sql).await;
    let after = ids(&client, all()).await.pop();
    let filters = [
        all(),
        OrchestrationFilter { after, ..all() },
        OrchestrationFilter {
            status: Some(Status::Failed),
            name: Some("create-instance".to_owned()),
            ..all()
        },
        OrchestrationFilter {
            status: Some(Status::Running),
            ..all()
        },
        OrchestrationFilter {
            instance_id: Some(instance_id),
            ..all()
        },
    ];
    for filter in &filters {
        let took = quickest(async || assert_eq!(client.list(filter).await.unwrap().len(), 100)).await;
        assert!(took < Duration::from_secs(1), "{took:?} for {filter:?}");
    }
    let took = quickest(async || {
        let stats = client.stats().await.unwrap();
        assert_eq!(
            (stats.running, stats.failed, stats.completed),
            (10_000, 1_000, 89_000)
        );
    });
    let took = took.await;
    assert!(took < Duration::from_secs(1), "{took:?} for the numbers");
    bench.stop().await;
}

/// The best of some tries, since the machine may be busy.
async fn quickest(ask: impl AsyncFn()) -> Duration {
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let begin = Instant::now();
        ask().await;
        quickest = quickest.min(begin.elapsed());
    }
    quickest
}
