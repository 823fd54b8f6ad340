//! How an operation goes, step by step, and how it ends.

use crate::support::{Fixture, PASSWORD, assert_error, check, endpoint, error};
use toygres_models::health::HealthStatus;
use toygres_models::instances::InstanceState;
use toygres_models::operations::{OperationError, OperationState, Reason, StepState};
use toygres_models::{ErrorKind, Scope};

#[tokio::test]
async fn a_creation_goes_step_by_step_until_it_runs() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    let (cms, scope) = (&fixture.cms, &fresh.scope);
    cms.begin_operation(scope).await.unwrap();
    assert_eq!(
        fixture.operation(fresh.operation.id).await.state,
        OperationState::Running
    );

    cms.begin_step(scope, "deploy-postgres").await.unwrap();
    cms.note_step(scope, "deploy-postgres", Reason::Quota, "the quota is used up")
        .await
        .unwrap();
    let step = fixture.operation(fresh.operation.id).await.steps.remove(0);
    assert_eq!(
        (step.state, step.attempts, step.reason),
        (StepState::Running, 1, Some(Reason::Quota))
    );
    assert_eq!(step.message.as_deref(), Some("the quota is used up"));
    let instance = fixture.instance(fresh.instance.id).await;
    assert_eq!(
        (
            instance.state_reason_code.as_deref(),
            instance.state_reason.as_deref()
        ),
        (Some("quota"), Some("the quota is used up"))
    );
    cms.begin_step(scope, "deploy-postgres").await.unwrap();
    let step = fixture.operation(fresh.operation.id).await.steps.remove(0);
    assert_eq!((step.attempts, step.reason, step.message), (2, None, None));
    cms.end_step(scope, "deploy-postgres", Ok(())).await.unwrap();

    cms.begin_step(scope, "wait-for-ready").await.unwrap();
    cms.end_step(scope, "wait-for-ready", Err(&error()))
        .await
        .unwrap();
    // Late: a step that has ended, one that was never begun.
    cms.note_step(scope, "deploy-postgres", Reason::Starting, "late")
        .await
        .unwrap();
    cms.note_step(scope, "never-begun", Reason::Starting, "late")
        .await
        .unwrap();
    cms.begin_step(scope, "test-connection").await.unwrap();

    cms.record_running(scope, &endpoint(), None, Some(u64::MAX), &check(0, true))
        .await
        .unwrap();
    let operation = fixture.operation(fresh.operation.id).await;
    assert_eq!(operation.state, OperationState::Succeeded);
    assert!(operation.started_at.is_some() && operation.finished_at.is_some() && operation.error.is_none());
    let steps: Vec<_> = operation
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.state, step.reason))
        .collect();
    assert_eq!(
        steps,
        [
            ("deploy-postgres", StepState::Succeeded, None),
            ("wait-for-ready", StepState::Failed, None),
            ("test-connection", StepState::Succeeded, None),
        ]
    );
    assert_eq!(operation.steps[1].message, Some(error().message));

    let instance = fixture.instance(fresh.instance.id).await;
    assert_eq!(
        (instance.state, instance.health_status),
        (InstanceState::Running, HealthStatus::Healthy)
    );
    assert_eq!(instance.endpoint, Some(endpoint()));
    let provisioning = cms.provisioning(scope).await.unwrap();
    assert!(provisioning.first_ready);
    assert_eq!(provisioning.system_identifier, Some(u64::MAX));
    assert_eq!(cms.list_health_checks(instance.id, 10).await.unwrap().len(), 1);

    let late = cms.begin_step(scope, "deploy-postgres").await;
    assert_error(late, ErrorKind::Superseded, "operation_ended");
    assert_error(
        cms.begin_operation(scope).await,
        ErrorKind::Superseded,
        "operation_ended",
    );
    // Work that thought itself failed after its success was recorded must not be believed.
    assert_error(
        cms.record_failed(scope, &error()).await,
        ErrorKind::Superseded,
        "operation_ended",
    );
    cms.record_cancelled(scope, "late").await.unwrap();
    cms.end_step(scope, "test-connection", Err(&error()))
        .await
        .unwrap();
    assert_eq!(fixture.instance(instance.id).await.state, InstanceState::Running);
    assert_eq!(
        fixture.operation(operation.id).await.steps[2].state,
        StepState::Succeeded
    );
}

#[tokio::test]
async fn the_first_system_identifier_is_kept() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    fixture
        .execute("update cms.operations set state = 'running', finished_at = null where kind = 'create'")
        .await;
    fixture
        .cms
        .record_running(&fresh.scope, &endpoint(), None, Some(1), &check(1, true))
        .await
        .unwrap();
    let provisioning = fixture.cms.provisioning(&fresh.scope).await.unwrap();
    assert_eq!(provisioning.system_identifier, Some(u64::MAX));
}

#[tokio::test]
async fn a_creation_that_failed_keeps_its_cause_and_its_password() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    fixture.cms.begin_operation(&fresh.scope).await.unwrap();
    fixture
        .cms
        .begin_step(&fresh.scope, "deploy-postgres")
        .await
        .unwrap();
    fixture.cms.record_failed(&fresh.scope, &error()).await.unwrap();
    let instance = fixture.instance(fresh.instance.id).await;
    assert_eq!(
        (instance.state, instance.state_reason, instance.state_reason_code),
        (InstanceState::Failed, Some(error().message), Some(error().code))
    );
    let operation = fixture.operation(fresh.operation.id).await;
    assert_eq!(
        (operation.state, operation.error),
        (OperationState::Failed, Some(error()))
    );
    assert_eq!(operation.steps[0].state, StepState::Failed);
    let late = fixture
        .cms
        .record_running(&fresh.scope, &endpoint(), None, None, &check(0, true))
        .await;
    assert_error(late, ErrorKind::Superseded, "operation_ended");
    let provisioning = fixture.cms.provisioning(&fresh.scope).await.unwrap();
    assert_eq!(provisioning.password.unwrap().reveal(), PASSWORD);
}

#[tokio::test]
async fn a_creation_stops_at_its_next_step_once_deletion_is_wanted() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    let (cms, scope) = (&fixture.cms, &fresh.scope);
    cms.begin_operation(scope).await.unwrap();
    cms.begin_step(scope, "deploy-postgres").await.unwrap();
    let deletion = fixture.request_delete(fresh.instance.id).await;
    let everything = fixture.everything().await;
    let superseded = ErrorKind::Superseded;
    assert_error(
        cms.begin_step(scope, "wait-for-ready").await,
        superseded,
        "superseded",
    );
    let noted = cms
        .note_step(scope, "deploy-postgres", Reason::Starting, "starting")
        .await;
    assert_error(noted, superseded, "superseded");
    let recorded = cms
        .record_running(scope, &endpoint(), None, None, &check(0, true))
        .await;
    assert_error(recorded, superseded, "superseded");
    assert_eq!(fixture.everything().await, everything);

    // Its last words are taken, but say no more than that it was not wanted.
    cms.end_step(scope, "deploy-postgres", Ok(())).await.unwrap();
    cms.record_failed(scope, &error()).await.unwrap();
    let creation = fixture.operation(fresh.operation.id).await;
    assert_eq!(creation.state, OperationState::Cancelled);
    assert_eq!(creation.error.unwrap().code, "cancelled");
    assert_eq!(
        fixture.instance(fresh.instance.id).await.state,
        InstanceState::Deleting
    );

    // The deletion's own steps go on.
    cms.begin_operation(&deletion).await.unwrap();
    cms.begin_step(&deletion, "remove-postgres").await.unwrap();
    let impossible = cms.record_failed(&deletion, &error()).await;
    assert_error(impossible, ErrorKind::Internal, "internal");
    cms.record_deleted(&deletion).await.unwrap();
    let operation = fixture.operation(deletion.operation_id.unwrap()).await;
    assert_eq!(
        (operation.state, operation.steps[0].state),
        (OperationState::Succeeded, StepState::Succeeded)
    );
}

#[tokio::test]
async fn that_it_runs_is_recorded_again_although_deletion_is_wanted_by_now() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    let record = || async {
        let (endpoint, check) = (endpoint(), check(0, true));
        fixture
            .cms
            .record_running(&fresh.scope, &endpoint, None, None, &check)
            .await
    };
    assert_eq!(record().await.unwrap().len(), 1);
    fixture.request_delete(fresh.instance.id).await;
    let everything = fixture.everything().await;
    assert_eq!(record().await.unwrap().len(), 0);
    assert_eq!(fixture.everything().await, everything);
}

#[tokio::test]
async fn what_cannot_be_removed_is_an_alarm_until_the_operation_ends() {
    let fixture = Fixture::start().await;
    let cms = &fixture.cms;
    let refused = |message: &str| OperationError {
        code: "permission_denied".to_owned(),
        message: message.to_owned(),
    };
    for undo in [false, true] {
        let fresh = fixture.create("demo").await;
        let scope = match undo {
            true => fresh.scope,
            false => fixture.request_delete(fresh.instance.id).await,
        };
        let operation_id = scope.operation_id.unwrap();
        cms.begin_operation(&scope).await.unwrap();
        for (message, new) in [("no", true), ("still no", false)] {
            assert_eq!(
                cms.record_removal_stuck(&scope, &refused(message)).await.unwrap(),
                new
            );
            let operation = fixture.operation(operation_id).await;
            assert_eq!(operation.state, OperationState::Running);
            assert_eq!(operation.error, Some(refused(message)));
            let drift = cms.list_drift().await.unwrap();
            let [drift] = &drift[..] else { panic!("{drift:?}") };
            assert_eq!((drift.kind.as_str(), drift.fixable), ("removal_stuck", false));
            assert_eq!(drift.instance_id, Some(fresh.instance.id));
            assert!(drift.message.contains(&operation_id.to_string()) && drift.message.ends_with(message));
            let instance = fixture.instance(fresh.instance.id).await;
            assert_eq!(instance.state_reason_code.as_deref(), Some("removal_stuck"));
        }
        let events = fixture.events(fresh.instance.id).await;
        assert_eq!(events.iter().filter(|kind| *kind == "alarm").count(), 1);

        let (end, left) = match undo {
            true => (cms.record_failed(&scope, &error()).await, Some(error())),
            false => (cms.record_deleted(&scope).await, None),
        };
        end.unwrap();
        assert_eq!(fixture.operation(operation_id).await.error, left);
        assert!(cms.list_drift().await.unwrap().is_empty());
        // A late word of the removal is one too many.
        assert!(!cms.record_removal_stuck(&scope, &refused("no")).await.unwrap());
        assert!(cms.list_drift().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_deletion_nobody_asked_for_is_not_recorded() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    assert_error(
        fixture.cms.record_deleted(&fresh.scope).await,
        ErrorKind::Internal,
        "internal",
    );
    assert_eq!(
        fixture.instance(fresh.instance.id).await.state,
        InstanceState::Running
    );
}

#[tokio::test]
async fn the_password_goes_with_the_instance() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create_running("demo").await;
    fixture.delete(fresh.instance.id).await;
    assert_eq!(fixture.count("credentials").await, 0);
    let provisioning = fixture.cms.provisioning(&fresh.scope).await.unwrap();
    assert!(provisioning.password.is_none());
}

#[tokio::test]
async fn only_a_new_reason_is_progress() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    let (cms, scope) = (&fixture.cms, &fresh.scope);
    cms.begin_step(scope, "wait-for-ready").await.unwrap();
    let stuck = "update cms.instances set progressed_at = now() - interval '10 minutes'";
    let mut progressed = Vec::new();
    for (reason, message) in [
        (Reason::Starting, "1"),
        (Reason::Starting, "2"),
        (Reason::ImagePull, "3"),
        (Reason::ImagePull, "3"),
    ] {
        fixture.execute(stuck).await;
        cms.note_step(scope, "wait-for-ready", reason, message)
            .await
            .unwrap();
        let wanted = cms.actors_wanted().await.unwrap().remove(0);
        progressed.push(wanted.since_progress.as_secs() < 300);
    }
    assert_eq!(progressed, [true, false, true, false]);
    let step = fixture.operation(fresh.operation.id).await.steps.remove(0);
    assert_eq!(
        (step.reason, step.message.as_deref()),
        (Some(Reason::ImagePull), Some("3"))
    );
    let foreign = Scope {
        incarnation: 9,
        ..*scope
    };
    assert_error(cms.intent(&foreign).await, ErrorKind::Superseded, "superseded");
}
