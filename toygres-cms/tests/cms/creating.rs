//! Making instances: names, idempotency keys, passwords.

use crate::support::TRACE_ID;
use crate::support::{Fixture, PASSWORD, assert_error, error, new_instance, origin};
use std::collections::HashSet;
use std::sync::Arc;
use toygres_cms::{Created, InstanceSelector};
use toygres_models::health::HealthStatus;
use toygres_models::instances::{CreateInstanceRequest, DesiredState, InstanceState};
use toygres_models::operations::{OperationKind, OperationState};
use toygres_models::{ErrorKind, Scope};

#[tokio::test]
async fn everything_is_written_down_at_once() {
    let fixture = Fixture::start().await;
    let request = serde_json::json!({
        "name": "demo", "password": PASSWORD, "user_name": "team-a", "postgres_version": "16", "storage_size_gb": 20,
        "cpu": "500m", "memory_mb": 512, "internal": true, "namespace": "apps", "tags": {"env": "test"},
        "deletion_protection": true,
    });
    let new = serde_json::from_value::<CreateInstanceRequest>(request)
        .unwrap()
        .parse()
        .unwrap();
    let Created::Fresh {
        instance,
        operation,
        incarnation,
        generated_password,
    } = fixture.try_create(&new, None).await.unwrap()
    else {
        panic!("no key was sent");
    };
    assert_eq!(incarnation, 1);
    assert!(generated_password.is_none());
    assert_eq!(instance.name.as_str(), "demo");
    assert_eq!(instance.user_name.as_str(), "team-a");
    assert_eq!(instance.state, InstanceState::Creating);
    assert_eq!(instance.health_status, HealthStatus::Unknown);
    // The version is the caller's decision, since the default is.
    assert_eq!(instance.postgres_version.major(), 17);
    assert_eq!((instance.storage_size_gb, instance.memory_mb), (20, Some(512)));
    assert_eq!(
        (instance.cpu.as_deref(), instance.namespace.as_deref()),
        (Some("500m"), Some("apps"))
    );
    assert!(instance.internal && instance.deletion_protection);
    assert_eq!(instance.tags["env"], "test");
    assert!(instance.endpoint.is_none() && instance.deleted_at.is_none() && instance.state_reason.is_none());

    assert_eq!(
        (operation.kind, operation.state),
        (OperationKind::Create, OperationState::Pending)
    );
    assert_eq!(
        (operation.instance_id, &operation.instance_name),
        (instance.id, &instance.name)
    );
    assert!(operation.steps.is_empty() && operation.error.is_none() && operation.started_at.is_none());

    let scope = Scope {
        instance_id: instance.id,
        incarnation,
        operation_id: None,
    };
    let intent = fixture.cms.intent(&scope).await.unwrap();
    assert_eq!(
        (intent.state, intent.desired_state),
        (InstanceState::Creating, DesiredState::Running)
    );
    assert_eq!(intent.operation.map(|pending| pending.id), Some(operation.id));
    let provisioning = fixture.cms.provisioning(&scope).await.unwrap();
    assert_eq!(provisioning.password.unwrap().reveal(), PASSWORD);
    assert_eq!(provisioning.host.as_deref(), Some("here"));
    assert!(!provisioning.first_ready && provisioning.system_identifier.is_none());

    assert_eq!(fixture.events(instance.id).await, ["create_requested"]);
    let audited: (String, String, uuid::Uuid, Option<String>) =
        sqlx::query_as("select actor, action, operation_id, trace_id from cms.audit_events")
            .fetch_one(&fixture.pool)
            .await
            .unwrap();
    let expected = origin();
    assert_eq!(
        audited,
        (
            expected.actor,
            "create_instance".to_owned(),
            operation.id.0,
            Some(TRACE_ID.to_owned())
        )
    );
}

#[tokio::test]
async fn a_password_is_made_when_none_is_given() {
    let fixture = Fixture::start().await;
    let mut seen = HashSet::new();
    for n in 0..5 {
        let mut new = new_instance(&format!("db-{n}"));
        new.password = None;
        let Created::Fresh {
            instance,
            generated_password,
            ..
        } = fixture.try_create(&new, None).await.unwrap()
        else {
            panic!("no key was sent");
        };
        let password = generated_password.unwrap();
        assert!(password.reveal().len() >= 24);
        assert!(
            password
                .reveal()
                .chars()
                .all(|c| c.is_ascii_alphanumeric() && !"0O1lIo".contains(c))
        );
        assert!(seen.insert(password.reveal().clone()));
        let revealed = fixture
            .cms
            .reveal_password(&InstanceSelector::Id(instance.id), &origin())
            .await
            .unwrap();
        assert!(revealed == password);
    }
}

#[tokio::test]
async fn of_a_hundred_with_one_name_one_is_made() {
    let fixture = Arc::new(Fixture::start().await);
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move { fixture.try_create(&new_instance("demo"), None).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(Created::Fresh { .. }) => made += 1,
            other => {
                assert_error(other, ErrorKind::Conflict, "name_taken");
            }
        }
    }
    assert_eq!(made, 1);
    for table in [
        "instances",
        "credentials",
        "operations",
        "instance_events",
        "audit_events",
    ] {
        assert_eq!(fixture.count(table).await, 1, "{table}");
    }
}

#[tokio::test]
async fn of_a_hundred_with_one_key_one_is_made_and_all_are_answered_alike() {
    let fixture = Arc::new(Fixture::start().await);
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            let key = Some(("key-1", b"body".as_slice()));
            tokio::spawn(async move { fixture.try_create(&new_instance("demo"), key).await })
        })
        .collect();
    let (mut made, mut answers) = (0, HashSet::new());
    for task in tasks {
        let (instance, operation) = match task.await.unwrap().unwrap() {
            Created::Fresh {
                instance, operation, ..
            } => {
                made += 1;
                (instance, operation)
            }
            Created::Replayed {
                instance,
                operation,
                incarnation,
            } => {
                assert_eq!(incarnation, 1);
                (instance, operation)
            }
        };
        answers.insert(serde_json::to_string(&(instance, operation)).unwrap());
    }
    assert_eq!((made, answers.len()), (1, 1));
    assert_eq!(fixture.count("instances").await, 1);
}

#[tokio::test]
async fn a_replay_is_the_first_answer_and_names_the_present_actor() {
    let fixture = Fixture::start().await;
    let key = Some(("key-1", b"body".as_slice()));
    let Created::Fresh { instance, .. } = fixture.try_create(&new_instance("demo"), key).await.unwrap()
    else {
        panic!("the key is new");
    };
    fixture.cms.replace_actor(instance.id, 1, None).await.unwrap();
    fixture.delete(instance.id).await;
    let Created::Replayed {
        instance: replayed,
        incarnation,
        ..
    } = fixture.try_create(&new_instance("demo"), key).await.unwrap()
    else {
        panic!("the key was used");
    };
    assert_eq!(
        (replayed.id, replayed.state, incarnation),
        (instance.id, InstanceState::Creating, 2)
    );
}

#[tokio::test]
async fn a_key_is_for_one_request_of_one_caller() {
    let fixture = Fixture::start().await;
    let key = "key-1";
    fixture
        .try_create(&new_instance("one"), Some((key, b"body one")))
        .await
        .unwrap();
    let reused = fixture
        .try_create(&new_instance("two"), Some((key, b"body two")))
        .await;
    assert_error(reused, ErrorKind::Invalid, "idempotency_key_reused");
    assert_eq!(fixture.count("instances").await, 1);

    fixture
        .execute("update cms.idempotency_keys set actor = 'somebody else'")
        .await;
    let own = fixture
        .try_create(&new_instance("two"), Some((key, b"body two")))
        .await
        .unwrap();
    assert!(matches!(own, Created::Fresh { .. }));
}

#[tokio::test]
async fn a_request_that_failed_does_not_use_its_key_up() {
    let fixture = Fixture::start().await;
    let first = fixture.create("demo").await;
    let key = Some(("key-1", b"body".as_slice()));
    let refused = fixture.try_create(&new_instance("demo"), key).await;
    assert_error(refused, ErrorKind::Conflict, "name_taken");
    fixture.delete(first.instance.id).await;
    let created = fixture.try_create(&new_instance("demo"), key).await.unwrap();
    assert!(matches!(created, Created::Fresh { .. }));
}

#[tokio::test]
async fn a_name_is_free_after_deletion_and_after_failure_and_says_when_it_soon_will_be() {
    let fixture = Fixture::start().await;
    let first = fixture.create_running("demo").await;
    assert_error(
        fixture.try_create(&new_instance("demo"), None).await,
        ErrorKind::Conflict,
        "name_taken",
    );
    let scope = fixture.request_delete(first.instance.id).await;
    let soon = assert_error(
        fixture.try_create(&new_instance("demo"), None).await,
        ErrorKind::Conflict,
        "name_being_deleted",
    );
    assert!(soon.message().contains("being deleted"), "{soon}");
    fixture.cms.record_deleted(&scope).await.unwrap();

    let second = fixture.create("demo").await;
    fixture.cms.record_failed(&second.scope, &error()).await.unwrap();
    let third = fixture.create("demo").await;
    assert_ne!(second.instance.id, third.instance.id);
}
