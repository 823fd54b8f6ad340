//! Doing again what has failed: once, with a new actor, and only as long as it makes sense.

use crate::support::{Fixture, Fresh, PASSWORD, assert_error, check, endpoint, error, origin};
use std::sync::Arc;
use std::time::Duration;
use toygres_cms::{InstanceSelector, Retried};
use toygres_models::instances::{DesiredState, InstanceState};
use toygres_models::operations::{OperationKind, OperationState};
use toygres_models::quotas::QuotaLimits;
use toygres_models::{ErrorKind, OperationId, Result, Scope};
use toygres_testing::wait_for;

async fn retry(fixture: &Fixture, id: OperationId) -> Result<Retried> {
    fixture
        .cms
        .retry_operation(id, QuotaLimits::default(), &origin())
        .await
}

/// The scope of the actor that works on the new operation.
fn scope(retried: &Retried) -> Scope {
    Scope {
        instance_id: retried.instance.id,
        incarnation: retried.incarnation,
        operation_id: Some(retried.operation.id),
    }
}

#[tokio::test]
async fn a_creation_goes_on_with_the_same_instance_and_a_new_actor() {
    let fixture = Fixture::start().await;
    let Fresh {
        instance,
        operation,
        scope: old,
    } = fixture.create_failed("demo").await;
    // As if it had been ready once: its storage is gone all the same.
    fixture
        .execute("update cms.instances set first_ready_at = now(), system_identifier = 7, consecutive_failures = 3")
        .await;
    let retried = retry(&fixture, operation.id).await.unwrap();
    assert_eq!(retried.instance.id, instance.id);
    assert_eq!(retried.instance.state, InstanceState::Creating);
    assert_eq!(retried.instance.state_reason, None);
    assert_eq!(retried.incarnation, 2);
    assert_ne!(retried.operation.id, operation.id);
    assert_eq!(
        (retried.operation.kind, retried.operation.state),
        (OperationKind::Create, OperationState::Pending)
    );
    let failed = fixture.operation(operation.id).await;
    assert_eq!(
        (failed.state, failed.error),
        (OperationState::Failed, Some(error()))
    );

    let new = scope(&retried);
    let provisioning = fixture.cms.provisioning(&new).await.unwrap();
    assert_eq!(provisioning.password.unwrap().reveal(), PASSWORD);
    assert_eq!(provisioning.host.as_deref(), Some("here"));
    assert!(!provisioning.first_ready && provisioning.system_identifier.is_none());
    let intent = fixture.cms.intent(&new).await.unwrap();
    assert_eq!(
        (intent.desired_state, intent.failed_checks),
        (DesiredState::Running, 0)
    );
    assert_eq!(intent.operation.map(|pending| pending.id), new.operation_id);

    let late = fixture.cms.record_failed(&old, &error()).await;
    assert_error(late, ErrorKind::Superseded, "superseded");
    let late = Scope {
        incarnation: new.incarnation,
        ..old
    };
    let late = fixture.cms.begin_operation(&late).await;
    assert_error(late, ErrorKind::Superseded, "operation_ended");

    fixture.cms.begin_operation(&new).await.unwrap();
    fixture
        .cms
        .record_running(&new, &endpoint(), None, Some(8), &check(1, true))
        .await
        .unwrap();
    assert_eq!(fixture.instance(instance.id).await.state, InstanceState::Running);
    assert_eq!(
        fixture.events(instance.id).await,
        [
            "create_requested",
            "state_changed",
            "retry_requested",
            "state_changed"
        ]
    );
    assert_eq!(
        fixture.audited().await[1],
        ("retry_operation".to_owned(), Some(operation.id.to_string()))
    );
}

#[tokio::test]
async fn of_many_one_does_it_again() {
    let fixture = Arc::new(Fixture::start().await);
    let failed = fixture.create_failed("demo").await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("select from cms.instances for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let (fixture, id) = (Arc::clone(&fixture), failed.operation.id);
            tokio::spawn(async move { retry(&fixture, id).await })
        })
        .collect();
    wait_for("all of them to wait", Duration::from_secs(20), || async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
        (waiting == 10).then_some(())
    })
    .await;
    lock.rollback().await.unwrap();
    let mut retried = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(again) => retried.push(again),
            refused => {
                assert_error(refused, ErrorKind::Conflict, "operation_superseded");
            }
        }
    }
    assert_eq!(retried.len(), 1);
    assert_eq!(fixture.count("operations").await, 2);
    // It fails again, and is tried again.
    let scope = scope(&retried[0]);
    fixture.cms.record_failed(&scope, &error()).await.unwrap();
    let third = retry(&fixture, retried[0].operation.id).await.unwrap();
    assert_eq!(third.incarnation, 3);
}

#[tokio::test]
async fn of_two_of_one_name_one_gets_it() {
    let fixture = Arc::new(Fixture::start().await);
    for round in 0..10 {
        let name = format!("demo-{round}");
        let failed = [
            fixture.create_failed(&name).await,
            fixture.create_failed(&name).await,
        ];
        let tasks = failed.map(|failed| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move { retry(&fixture, failed.operation.id).await })
        });
        let mut won = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => won += 1,
                refused => {
                    let error = assert_error(refused, ErrorKind::Conflict, "name_taken");
                    assert!(error.next_step().is_some());
                }
            }
        }
        assert_eq!(won, 1);
    }
}

#[tokio::test]
async fn only_what_has_failed_and_is_still_wanted_is_done_again() {
    let fixture = Fixture::start().await;
    let missing = retry(&fixture, OperationId::generate()).await;
    assert_error(missing, ErrorKind::NotFound, "operation_not_found");

    let not_failed = async |id, state: &str| {
        let before = fixture.everything().await;
        let refused = retry(&fixture, id).await;
        let error = assert_error(refused, ErrorKind::Conflict, "operation_not_failed");
        assert!(
            error.message().contains(state) && error.next_step().is_some(),
            "{error}"
        );
        assert_eq!(fixture.everything().await, before);
    };
    let fresh = fixture.create("pending").await;
    not_failed(fresh.operation.id, "pending").await;
    fixture.cms.begin_operation(&fresh.scope).await.unwrap();
    not_failed(fresh.operation.id, "running").await;
    fixture.delete(fresh.instance.id).await;
    not_failed(fresh.operation.id, "cancelled").await;
    not_failed(fixture.create_running("running").await.operation.id, "succeeded").await;

    let failed = fixture.create_failed("demo").await;
    let live = fixture.create("demo").await;
    let taken = retry(&fixture, failed.operation.id).await;
    assert_error(taken, ErrorKind::Conflict, "name_taken");
    fixture.delete(live.instance.id).await;
    let deletion = fixture.request_delete(failed.instance.id).await;
    let going = retry(&fixture, failed.operation.id).await;
    assert_error(going, ErrorKind::Conflict, "being_deleted");
    fixture.cms.record_deleted(&deletion).await.unwrap();
    let gone = retry(&fixture, failed.operation.id).await;
    let gone = assert_error(gone, ErrorKind::Conflict, "operation_superseded");
    assert!(gone.message().contains("deleted"), "{gone}");
}

#[tokio::test]
async fn a_failed_deletion_is_asked_for_again() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    let deletion = fixture.request_delete(fresh.instance.id).await;
    let failed = deletion.operation_id.unwrap();
    fixture
        .execute(
            "update cms.operations set state = 'failed', error_code = 'x', error_message = 'x', finished_at = now() \
             where kind = 'delete'",
        )
        .await;
    let retried = retry(&fixture, failed).await.unwrap();
    assert_eq!(
        (
            retried.operation.kind,
            retried.instance.state,
            retried.incarnation
        ),
        (OperationKind::Delete, InstanceState::Deleting, 1)
    );
    let again = retry(&fixture, failed).await.unwrap();
    assert_eq!(again.operation.id, retried.operation.id);
    let asked = fixture
        .cms
        .request_delete(&InstanceSelector::Id(fresh.instance.id), &origin())
        .await
        .unwrap();
    assert_eq!((asked.operation.id, asked.fresh), (retried.operation.id, false));
    let actions: Vec<_> = fixture
        .audited()
        .await
        .into_iter()
        .map(|(action, _)| action)
        .collect();
    assert_eq!(actions, ["create_instance", "delete_instance", "retry_operation"]);
    fixture.cms.record_deleted(&scope(&retried)).await.unwrap();
    let gone = retry(&fixture, failed).await;
    assert_error(gone, ErrorKind::NotFound, "instance_not_found");
}
