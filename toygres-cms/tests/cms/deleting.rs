//! Asking for deletions, and who finds what by name.

use crate::support::{Fixture, assert_error, error, new_instance, origin};
use std::sync::Arc;
use toygres_cms::{Created, InstanceFilter, InstanceSelector};
use toygres_models::instances::{DesiredState, InstanceState};
use toygres_models::operations::{OperationKind, OperationState};
use toygres_models::{ErrorKind, InstanceId, Scope};

fn by_name(name: &str) -> InstanceSelector {
    name.parse().unwrap()
}

#[tokio::test]
async fn a_deletion_is_asked_for_once_however_often() {
    let fixture = Arc::new(Fixture::start().await);
    let fresh = fixture.create_running("demo").await;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                fixture
                    .cms
                    .request_delete(&by_name("demo"), &origin())
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut deletions = Vec::new();
    for task in tasks {
        deletions.push(task.await.unwrap());
    }
    assert_eq!(deletions.iter().filter(|deletion| deletion.fresh).count(), 1);
    assert!(
        deletions
            .iter()
            .all(|deletion| deletion.operation.id == deletions[0].operation.id)
    );
    assert!(
        deletions
            .iter()
            .all(|deletion| deletion.instance.state == InstanceState::Deleting)
    );
    assert!(deletions.iter().all(|deletion| deletion.incarnation == 1));
    assert_eq!(deletions[0].operation.kind, OperationKind::Delete);

    let scope = Scope {
        operation_id: Some(deletions[0].operation.id),
        ..fresh.scope
    };
    let intent = fixture.cms.intent(&scope).await.unwrap();
    assert_eq!(intent.desired_state, DesiredState::Deleted);
    assert_eq!(intent.operation.map(|pending| pending.id), scope.operation_id);
    assert_eq!(
        fixture.events(fresh.instance.id).await,
        ["create_requested", "state_changed", "delete_requested"]
    );

    fixture.cms.record_deleted(&scope).await.unwrap();
    let gone = fixture.cms.request_delete(&by_name("demo"), &origin()).await;
    assert_error(gone, ErrorKind::NotFound, "instance_not_found");
    let gone = fixture
        .cms
        .request_delete(&InstanceSelector::Id(fresh.instance.id), &origin())
        .await;
    assert_error(gone, ErrorKind::NotFound, "instance_not_found");
    let instance = fixture.instance(fresh.instance.id).await;
    assert_eq!(instance.state, InstanceState::Deleted);
    assert!(instance.deleted_at.is_some());
}

#[tokio::test]
async fn a_deletion_comes_before_the_creation_it_ends() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    fixture.cms.begin_operation(&fresh.scope).await.unwrap();
    fixture
        .cms
        .begin_step(&fresh.scope, "deploy-postgres")
        .await
        .unwrap();
    let deletion = fixture.request_delete(fresh.instance.id).await;
    let intent = fixture.cms.intent(&fresh.scope).await.unwrap();
    assert_eq!(intent.operation.map(|pending| pending.id), deletion.operation_id);

    fixture.cms.record_deleted(&deletion).await.unwrap();
    let creation = fixture.operation(fresh.operation.id).await;
    assert_eq!(creation.state, OperationState::Cancelled);
    assert!(creation.steps[0].finished_at.is_some());
    let intent = fixture.cms.intent(&fresh.scope).await.unwrap();
    assert_eq!((intent.state, intent.operation), (InstanceState::Deleted, None));
}

#[tokio::test]
async fn protection_protects() {
    let fixture = Fixture::start().await;
    let mut new = new_instance("demo");
    new.deletion_protection = true;
    fixture.try_create(&new, None).await.unwrap();
    let before = fixture.everything().await;
    let refused = fixture.cms.request_delete(&by_name("demo"), &origin()).await;
    assert_error(refused, ErrorKind::Conflict, "deletion_protected");
    assert_eq!(fixture.everything().await, before);
}

#[tokio::test]
async fn a_failed_instance_is_deleted_by_a_new_actor_while_its_name_is_in_use() {
    let fixture = Fixture::start().await;
    let failed = fixture.create("demo").await;
    fixture.cms.record_failed(&failed.scope, &error()).await.unwrap();
    let live = fixture.create("demo").await;

    let deletion = fixture
        .cms
        .request_delete(&InstanceSelector::Id(failed.instance.id), &origin())
        .await
        .unwrap();
    assert_eq!(
        (deletion.instance.state, deletion.incarnation),
        (InstanceState::Failed, 2)
    );
    let again = fixture
        .cms
        .request_delete(&InstanceSelector::Id(failed.instance.id), &origin())
        .await
        .unwrap();
    assert_eq!(
        (again.fresh, again.incarnation, again.operation.id),
        (false, 2, deletion.operation.id)
    );
    let old = fixture.cms.intent(&failed.scope).await;
    assert_error(old, ErrorKind::Superseded, "superseded");

    let scope = Scope {
        incarnation: 2,
        operation_id: Some(deletion.operation.id),
        ..failed.scope
    };
    fixture.cms.begin_operation(&scope).await.unwrap();
    fixture.cms.begin_step(&scope, "remove-postgres").await.unwrap();
    fixture.cms.record_deleted(&scope).await.unwrap();
    assert_eq!(
        fixture.instance(failed.instance.id).await.state,
        InstanceState::Deleted
    );
    assert_eq!(
        fixture.instance(live.instance.id).await.state,
        InstanceState::Creating
    );
}

#[tokio::test]
async fn a_name_means_the_live_instance_else_the_newest_failed_one() {
    let fixture = Fixture::start().await;
    let missing = fixture.cms.get_instance(&by_name("demo"), None).await;
    let missing = assert_error(missing, ErrorKind::NotFound, "instance_not_found");
    assert!(missing.next_step().unwrap().contains("toygres list"));

    let mut failed = Vec::new();
    for _ in 0..2 {
        let fresh = fixture.create("demo").await;
        fixture.cms.record_failed(&fresh.scope, &error()).await.unwrap();
        failed.push(fresh.instance.id);
    }
    assert_eq!(
        fixture.cms.get_instance(&by_name("demo"), None).await.unwrap().id,
        failed[1]
    );
    let live = fixture.create("demo").await;
    assert_eq!(
        fixture.cms.get_instance(&by_name("demo"), None).await.unwrap().id,
        live.instance.id
    );
    fixture.delete(live.instance.id).await;
    assert_eq!(
        fixture.cms.get_instance(&by_name("demo"), None).await.unwrap().id,
        failed[1]
    );
    assert_eq!(
        fixture.instance(live.instance.id).await.state,
        InstanceState::Deleted
    );
    assert_eq!(
        fixture
            .cms
            .list_instances(&InstanceFilter::default())
            .await
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn selectors_are_ids_or_names() {
    let id = InstanceId::generate();
    assert_eq!(
        id.to_string().parse::<InstanceSelector>().unwrap(),
        InstanceSelector::Id(id)
    );
    assert_eq!(by_name("demo").to_string(), "demo");
    // The form without hyphens is a valid name.
    let name = format!("a{}", &id.0.simple().to_string()[1..]);
    assert!(matches!(by_name(&name), InstanceSelector::Name(_)));
    assert_error(
        "Demo!".parse::<InstanceSelector>(),
        ErrorKind::Invalid,
        "invalid_name",
    );
}

#[tokio::test]
async fn names_can_be_taken_again_in_a_race_of_deletes_and_creates() {
    let fixture = Arc::new(Fixture::start().await);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                let mut made = 0;
                for _ in 0..15 {
                    match fixture.try_create(&new_instance("demo"), None).await {
                        Ok(Created::Fresh { instance, .. }) => {
                            made += 1;
                            fixture.delete(instance.id).await;
                        }
                        Ok(Created::Replayed { .. }) => panic!("no key was sent"),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
                    }
                }
                made
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += task.await.unwrap();
    }
    assert!(made > 0);
    assert_eq!(fixture.count("instances").await, made);
}
