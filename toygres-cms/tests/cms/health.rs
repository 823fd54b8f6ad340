//! From health checks and alarms to health and state.

use crate::support::{Fixture, check, endpoint};
use std::sync::Arc;
use toygres_models::Scope;
use toygres_models::health::HealthStatus::{Healthy, Unhealthy, Unknown};
use toygres_models::instances::InstanceState::{Creating, Degraded, Deleted, Deleting, Running};
use toygres_models::instances::{DesiredState, Endpoint, Instance};
use toygres_models::operations::{OperationKind, Reason};

#[tokio::test]
async fn three_failures_degrade_and_one_success_heals() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    let watching = Scope {
        operation_id: None,
        ..fresh.scope
    };
    let course = [
        (false, Running, Healthy, 1),
        (false, Running, Healthy, 2),
        (true, Running, Healthy, 0),
        (false, Running, Healthy, 1),
        (false, Running, Healthy, 2),
        (false, Degraded, Unhealthy, 3),
        (false, Degraded, Unhealthy, 4),
        (true, Running, Healthy, 0),
    ];
    for (n, (healthy, state, health, failures)) in (1..).zip(course) {
        let intent = fixture
            .cms
            .record_health_check(&watching, &check(n, healthy), None, None)
            .await
            .unwrap();
        assert_eq!(
            (intent.state, intent.failed_checks),
            (state, failures),
            "check {n}"
        );
        let instance = fixture.instance(fresh.instance.id).await;
        assert_eq!(
            (instance.state, instance.health_status),
            (state, health),
            "check {n}"
        );
        // What the last check found.
        let reason = (!healthy).then(|| format!("refused, check {n}"));
        assert_eq!(instance.state_reason, reason, "check {n}");
        assert_eq!(instance.endpoint, Some(endpoint()));
    }
    let events = fixture.events(fresh.instance.id).await;
    assert_eq!(
        events,
        [
            "create_requested",
            "state_changed",
            "health_changed",
            "health_changed"
        ]
    );

    let checks = fixture
        .cms
        .list_health_checks(fresh.instance.id, 3)
        .await
        .unwrap();
    let times: Vec<_> = checks.iter().map(|check| check.checked_at).collect();
    // The database keeps microseconds.
    assert!(
        times
            .iter()
            .zip([8, 7, 6])
            .all(|(at, n)| (check(n, true).checked_at - at).num_microseconds() == Some(0))
    );
    assert_eq!(checks[0].server_version.as_deref(), Some("15.18"));
    assert_eq!(checks[1].error_code.as_deref(), Some("connection_refused"));
}

#[tokio::test]
async fn the_row_changes_for_people_only_when_there_is_something_to_see() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    let before = fixture.instance(fresh.instance.id).await.updated_at;
    fixture
        .cms
        .record_health_check(&fresh.scope, &check(1, true), Some(&endpoint()), None)
        .await
        .unwrap();
    assert_eq!(fixture.instance(fresh.instance.id).await.updated_at, before);
    let moved = Endpoint {
        port: 6000,
        ..endpoint()
    };
    fixture
        .cms
        .record_health_check(&fresh.scope, &check(2, true), Some(&moved), None)
        .await
        .unwrap();
    let instance = fixture.instance(fresh.instance.id).await;
    assert!(instance.updated_at > before);
    assert_eq!(instance.endpoint, Some(moved));
}

#[tokio::test]
async fn an_address_for_outside_comes_changes_and_goes_with_the_checks() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    let outside = |port| {
        Some(Endpoint {
            host: "db.example.org".to_owned(),
            port,
        })
    };
    // The address that the check has found, whether one for outside was with it, and what the row says then.
    let course = [
        (None, None, None),
        (Some(endpoint()), outside(1), outside(1)),
        (Some(endpoint()), outside(1), outside(1)),
        // Found no address at all: nothing new is known.
        (None, None, outside(1)),
        (Some(endpoint()), outside(2), outside(2)),
        (Some(endpoint()), None, None),
    ];
    for (n, (found, external, expected)) in (1..).zip(course) {
        let before = fixture.instance(fresh.instance.id).await;
        fixture
            .cms
            .record_health_check(&fresh.scope, &check(n, true), found.as_ref(), external.as_ref())
            .await
            .unwrap();
        let instance = fixture.instance(fresh.instance.id).await;
        assert_eq!(instance.external_endpoint, expected, "check {n}");
        assert_eq!(instance.endpoint, Some(endpoint()), "check {n}");
        let changed = expected != before.external_endpoint;
        assert_eq!(instance.updated_at > before.updated_at, changed, "check {n}");
    }

    let there = outside(3);
    fixture
        .cms
        .record_health_check(&fresh.scope, &check(9, true), Some(&endpoint()), there.as_ref())
        .await
        .unwrap();
    fixture.delete(fresh.instance.id).await;
    assert_eq!(fixture.instance(fresh.instance.id).await.external_endpoint, None);
}

#[tokio::test]
async fn a_new_instance_may_have_an_address_for_outside_from_the_start() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    fixture.cms.begin_operation(&fresh.scope).await.unwrap();
    let outside = Endpoint {
        host: "db.example.org".to_owned(),
        port: 1,
    };
    fixture
        .cms
        .record_running(&fresh.scope, &endpoint(), Some(&outside), None, &check(0, true))
        .await
        .unwrap();
    let instance = fixture.instance(fresh.instance.id).await;
    assert_eq!(instance.external_endpoint, Some(outside));
}

#[tokio::test]
async fn what_is_made_right_again_and_again_is_said_once_an_hour() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    let watching = Scope {
        operation_id: None,
        ..fresh.scope
    };
    let (service, policy) = (
        "the service is missing".to_owned(),
        "the policy differs".to_owned(),
    );
    let repaired = async |differences: &[String]| {
        fixture.cms.record_repaired(&watching, differences).await.unwrap();
        let events = fixture.list_events(Some(fresh.instance.id), Some(0)).await;
        let repaired = events.into_iter().filter(|event| event.kind == "repaired");
        repaired.map(|event| event.message).collect::<Vec<_>>()
    };
    assert_eq!(repaired(std::slice::from_ref(&service)).await, [service.as_str()]);
    let both = [service.clone(), policy.clone()];
    for _ in 0..2 {
        assert_eq!(repaired(&both).await, both);
    }
    fixture
        .execute("update cms.instance_events set created_at = created_at - interval '61 minutes'")
        .await;
    assert_eq!(
        repaired(std::slice::from_ref(&service)).await,
        [service.as_str(), policy.as_str(), service.as_str()]
    );
}

#[tokio::test]
async fn health_moves_no_other_state() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    for n in 0..3 {
        fixture
            .cms
            .record_health_check(&fresh.scope, &check(n, false), None, None)
            .await
            .unwrap();
    }
    let instance = fixture.instance(fresh.instance.id).await;
    assert_eq!((instance.state, instance.health_status), (Creating, Unhealthy));
    let scope = fixture.request_delete(fresh.instance.id).await;
    let intent = fixture
        .cms
        .record_health_check(&scope, &check(3, true), None, None)
        .await
        .unwrap();
    assert_eq!(
        (intent.state, intent.desired_state),
        (Deleting, DesiredState::Deleted)
    );
    assert_eq!(
        intent.operation.map(|pending| pending.kind),
        Some(OperationKind::Delete)
    );

    fixture.cms.record_deleted(&scope).await.unwrap();
    let checks = fixture.count("health_checks").await;
    let intent = fixture
        .cms
        .record_health_check(&scope, &check(4, true), None, None)
        .await
        .unwrap();
    assert_eq!((intent.state, intent.operation), (Deleted, None));
    assert_eq!(fixture.instance(fresh.instance.id).await.health_status, Unknown);
    assert_eq!(fixture.count("health_checks").await, checks);
}

#[tokio::test]
async fn an_alarm_lasts_until_the_next_good_check_and_is_said_once() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    for _ in 0..3 {
        fixture
            .cms
            .record_alarm(&fresh.scope, Reason::StorageMissing, "the data is not there")
            .await
            .unwrap();
    }
    let instance = fixture.instance(fresh.instance.id).await;
    let said = |instance: &Instance| (instance.state_reason_code.clone(), instance.state_reason.clone());
    let alarm = (
        Some("storage_missing".to_owned()),
        Some("the data is not there".to_owned()),
    );
    assert_eq!((instance.state, said(&instance)), (Degraded, alarm.clone()));
    let drift = fixture.cms.list_drift().await.unwrap();
    assert_eq!(drift.len(), 1);
    assert_eq!(drift[0].kind, "storage_missing");
    assert_eq!(drift[0].instance_id, Some(instance.id));
    // A sweep knows nothing of alarms and must not resolve them.
    fixture.cms.record_drift(&[], None).await.unwrap();
    assert_eq!(fixture.cms.list_drift().await.unwrap().len(), 1);
    let events = fixture.events(instance.id).await;
    assert_eq!(events.iter().filter(|kind| *kind == "alarm").count(), 1);

    fixture
        .cms
        .record_health_check(&fresh.scope, &check(1, false), None, None)
        .await
        .unwrap();
    let instance = fixture.instance(instance.id).await;
    assert_eq!((instance.state, said(&instance)), (Degraded, alarm));
    fixture
        .cms
        .record_health_check(&fresh.scope, &check(2, true), None, None)
        .await
        .unwrap();
    let instance = fixture.instance(instance.id).await;
    assert_eq!((instance.state, said(&instance)), (Running, (None, None)));
    assert!(fixture.cms.list_drift().await.unwrap().is_empty());

    fixture
        .cms
        .record_alarm(&fresh.scope, Reason::StorageMissing, "the data is not there")
        .await
        .unwrap();
    let events = fixture.events(instance.id).await;
    assert_eq!(events.iter().filter(|kind| *kind == "alarm").count(), 2);
}

#[tokio::test]
async fn checks_at_the_same_time_are_all_counted() {
    let fixture = Arc::new(Fixture::start().await);
    let fresh = fixture.create_running("demo").await;
    let tasks: Vec<_> = (1..=40)
        .map(|n| {
            let (fixture, scope) = (Arc::clone(&fixture), fresh.scope);
            tokio::spawn(async move {
                fixture
                    .cms
                    .record_health_check(&scope, &check(n, false), None, None)
                    .await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let intent = fixture.cms.intent(&fresh.scope).await.unwrap();
    assert_eq!((intent.failed_checks, intent.state), (40, Degraded));
}

#[tokio::test]
async fn whoever_sees_that_deletion_is_wanted_sees_the_deletion() {
    let fixture = Arc::new(Fixture::start().await);
    for round in 0..20 {
        let fresh = fixture.create_running(&format!("db-{round}")).await;
        let (checking, scope) = (Arc::clone(&fixture), fresh.scope);
        let checks = tokio::spawn(async move {
            for n in 1.. {
                let intent = checking
                    .cms
                    .record_health_check(&scope, &check(n, true), None, None)
                    .await
                    .unwrap();
                if intent.desired_state == DesiredState::Deleted {
                    return intent;
                }
            }
            unreachable!("the loop ends by a deletion")
        });
        fixture.request_delete(fresh.instance.id).await;
        let intent = checks.await.unwrap();
        assert_eq!(
            intent.operation.map(|pending| pending.kind),
            Some(OperationKind::Delete)
        );
        assert_eq!(intent.state, Deleting);
    }
}
