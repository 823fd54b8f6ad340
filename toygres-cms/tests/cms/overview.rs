//! What those who look after the server see: the audit, its processes, how many there are of each.

use crate::support::TRACE_ID;
use crate::support::{Fixture, check, error, origin};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;
use toygres_cms::{AuditFilter, Fleet, Origin};
use toygres_models::InstanceId;
use toygres_models::operations::Reason;
use toygres_models::server::{Count, Worker};
use uuid::Uuid;

#[tokio::test]
async fn the_audit_newest_first_by_what_it_is_about() {
    let fixture = Fixture::start().await;
    let (cms, all) = (&fixture.cms, AuditFilter::default());
    let one = fixture.create("one").await;
    fixture.create("two").await;
    fixture.request_delete(one.instance.id).await;
    let other = Origin {
        actor: "token:ops".to_owned(),
        traceparent: None,
        owner: None,
    };
    for instance_id in [Some(one.instance.id), Some(InstanceId::generate()), None] {
        cms.record_audit(&other, "cancel_orchestration", Some("actor-1"), instance_id)
            .await
            .unwrap();
    }
    cms.record_audit(&origin(), "prune", None, None).await.unwrap();

    let listed = cms.list_audit(&all).await.unwrap();
    assert_eq!(listed.len(), 7);
    assert!(listed.windows(2).all(|pair| pair[0].id > pair[1].id));
    let created = &listed[6];
    assert_eq!(
        (created.action.as_str(), created.actor.as_str()),
        ("create_instance", "tester")
    );
    assert_eq!(created.operation_id, Some(one.operation.id));
    assert_eq!(created.trace_id.as_deref(), Some(TRACE_ID));
    let outside: Vec<_> = listed[1..4]
        .iter()
        .map(|event| (event.object.as_deref(), event.instance_id, event.operation_id))
        .collect();
    let object = Some("actor-1");
    assert_eq!(
        outside,
        [
            (object, None, None),
            (object, None, None),
            (object, Some(one.instance.id), None)
        ]
    );

    let actions = async |filter: AuditFilter| {
        let events = cms.list_audit(&filter).await.unwrap();
        events.into_iter().map(|event| event.action).collect::<Vec<_>>()
    };
    let by_actor = AuditFilter {
        actor: Some(other.actor.clone()),
        limit: Some(2),
        ..all.clone()
    };
    assert_eq!(actions(by_actor).await, ["cancel_orchestration"; 2]);
    let by_action = AuditFilter {
        action: Some("delete_instance".to_owned()),
        ..all.clone()
    };
    assert_eq!(actions(by_action).await, ["delete_instance"]);
    let about_one = AuditFilter {
        instance_id: Some(one.instance.id),
        ..all.clone()
    };
    assert_eq!(
        actions(about_one).await,
        ["cancel_orchestration", "delete_instance", "create_instance"]
    );
    let second_page = AuditFilter {
        before: Some(listed[4].id),
        limit: Some(1),
        ..all
    };
    assert_eq!(cms.list_audit(&second_page).await.unwrap()[0].id, listed[5].id);
}

fn worker(activities_running: i32) -> Worker {
    let long_ago: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    Worker {
        id: Uuid::new_v4(),
        host: "here".to_owned(),
        pid: 42,
        version: "0.1.0".to_owned(),
        mode: "all".to_owned(),
        started_at: long_ago,
        // Of a clock that is wrong: the database's counts.
        last_seen_at: long_ago,
        orchestration_slots: 4,
        activity_slots: 8,
        activities_running,
    }
}

#[tokio::test]
async fn processes_are_seen_while_they_say_that_they_live() {
    let fixture = Fixture::start().await;
    let (cms, minute) = (&fixture.cms, Duration::from_secs(60));
    let (mut one, two) = (worker(1), worker(2));
    for worker in [&one, &two] {
        cms.heartbeat(worker).await.unwrap();
    }
    one.activities_running = 7;
    cms.heartbeat(&one).await.unwrap();
    let seen = async |within| {
        let mut workers = cms.list_workers(within).await.unwrap();
        workers.sort_by_key(|worker| worker.activities_running);
        workers
    };
    let mut workers = seen(minute).await;
    assert!((Utc::now() - workers[1].last_seen_at).abs() < TimeDelta::seconds(30));
    for worker in &mut workers {
        worker.last_seen_at = one.last_seen_at;
    }
    assert_eq!(
        serde_json::to_value(&workers).unwrap(),
        serde_json::to_value([&two, &one]).unwrap()
    );

    fixture
        .execute("update cms.workers set last_seen_at = now() - interval '59 minutes' where activities_running = 2")
        .await;
    cms.heartbeat(&one).await.unwrap();
    assert_eq!(seen(minute).await.len(), 1);
    assert_eq!(seen(60 * minute).await.len(), 2);
    fixture
        .execute("update cms.workers set last_seen_at = now() - interval '61 minutes'")
        .await;
    cms.heartbeat(&one).await.unwrap();
    assert_eq!(fixture.count("workers").await, 1, "the other one is forgotten");
    cms.heartbeat(&two).await.unwrap();
    cms.remove_worker(one.id).await.unwrap();
    cms.remove_worker(one.id).await.unwrap();
    assert_eq!(seen(minute).await[0].id, two.id);
}

#[tokio::test]
async fn processes_that_forget_the_same_ones_do_not_wait_for_each_other() {
    let fixture = Fixture::start().await;
    for _ in 0..20 {
        fixture.cms.heartbeat(&worker(0)).await.unwrap();
    }
    fixture
        .execute("update cms.workers set last_seen_at = now() - interval '2 hours'")
        .await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("select from cms.workers limit 1 for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let cms = fixture.cms.clone();
            tokio::spawn(async move { cms.heartbeat(&worker(0)).await.unwrap() })
        })
        .collect();
    for task in tasks {
        let done = tokio::time::timeout(Duration::from_secs(20), task).await;
        done.expect("it waits").unwrap();
    }
    assert_eq!(fixture.count("workers").await, 9);
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn how_many_there_are_of_each() {
    fn there(counts: &[Count]) -> Vec<(&str, i64)> {
        let there = counts.iter().filter(|count| count.count > 0);
        there.map(|count| (count.name.as_str(), count.count)).collect()
    }
    let fixture = Fixture::start().await;
    let none = fixture.cms.counts().await.unwrap();
    assert_eq!(
        (
            none.instances_by_state.len(),
            none.instances_by_health.len(),
            none.operations_by_state.len()
        ),
        (6, 3, 5)
    );
    assert!(there(&none.instances_by_state).is_empty());
    assert_eq!(fixture.cms.fleet().await.unwrap(), Fleet::default());
    assert!(
        none.instances_by_state
            .iter()
            .all(|count| count.name != "deleted")
    );

    fixture.create("creating").await;
    fixture.create_running("one").await;
    let two = fixture.create_running("two").await;
    for n in 1..4 {
        fixture
            .cms
            .record_health_check(&two.scope, &check(n, false), None, None)
            .await
            .unwrap();
    }
    let failed = fixture.create("failed").await;
    fixture.cms.record_failed(&failed.scope, &error()).await.unwrap();
    let deleted = fixture.create_running("deleted").await;
    fixture.delete(deleted.instance.id).await;
    let counts = fixture.cms.counts().await.unwrap();
    assert_eq!(
        there(&counts.instances_by_state),
        [("creating", 1), ("running", 1), ("degraded", 1), ("failed", 1)]
    );
    assert_eq!(
        there(&counts.instances_by_health),
        [("unknown", 2), ("healthy", 1), ("unhealthy", 1)]
    );
    assert_eq!(
        there(&counts.operations_by_state),
        [("pending", 1), ("succeeded", 4), ("failed", 1)]
    );

    // The same as the metrics show it.
    fixture
        .cms
        .record_alarm(&two.scope, Reason::StorageMissing, "it is not there")
        .await
        .unwrap();
    fixture
        .execute(
            "update cms.instances set last_checked_at = now() - case name when 'two' then interval '5 minutes' \
             else interval '1 minute' end",
        )
        .await;
    let mut fleet = fixture.cms.fleet().await.unwrap();
    fleet.instances.sort();
    let instances: Vec<_> = fleet
        .instances
        .iter()
        .map(|(state, health, count)| (state.as_str(), health.as_str(), *count))
        .collect();
    assert_eq!(
        instances,
        [
            ("creating", "unknown", 1),
            ("degraded", "unhealthy", 1),
            ("failed", "unknown", 1),
            ("running", "healthy", 1),
        ]
    );
    assert_eq!(fleet.drift, [("storage_missing".to_owned(), 1)]);
    let oldest = fleet.oldest_check.unwrap().as_secs();
    assert!((300..360).contains(&oldest), "{oldest}");
}
