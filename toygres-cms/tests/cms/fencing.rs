//! Every write of an actor is refused to an actor that was replaced, and may be made twice.

use crate::support::{Fixture, Fresh, assert_error, check, endpoint, error};
use std::pin::Pin;
use toygres_cms::Cms;
use toygres_models::instances::Instance;
use toygres_models::operations::{Operation, Reason};
use toygres_models::{ErrorKind, Result, Scope};

type Call<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;
type Write = for<'a> fn(&'a Cms, &'a Scope) -> Call<'a>;

/// How an instance is before the write under test.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    Creating,
    Running,
    Deleting,
}

const STEP: &str = "deploy-postgres";

const WRITES: &[(&str, Before, Write)] = &[
    ("begin_operation", Before::Creating, |cms, scope| {
        Box::pin(cms.begin_operation(scope))
    }),
    ("begin_step", Before::Creating, |cms, scope| {
        Box::pin(cms.begin_step(scope, STEP))
    }),
    ("note_step", Before::Creating, |cms, scope| {
        Box::pin(async {
            let noted = cms.note_step(scope, "wait-for-ready", Reason::ImagePull, "no image");
            noted.await.map(drop)
        })
    }),
    ("end_step", Before::Creating, |cms, scope| {
        Box::pin(async { cms.end_step(scope, "wait-for-ready", Ok(())).await.map(drop) })
    }),
    ("end_step, failed", Before::Creating, |cms, scope| {
        Box::pin(async {
            cms.end_step(scope, "wait-for-ready", Err(&error()))
                .await
                .map(drop)
        })
    }),
    ("record_running", Before::Creating, |cms, scope| {
        Box::pin(async {
            cms.record_running(scope, &endpoint(), None, Some(7), &check(1, true))
                .await
                .map(drop)
        })
    }),
    ("record_failed", Before::Creating, |cms, scope| {
        Box::pin(async { cms.record_failed(scope, &error()).await.map(drop) })
    }),
    ("record_cancelled", Before::Creating, |cms, scope| {
        Box::pin(async { cms.record_cancelled(scope, "not wanted").await.map(drop) })
    }),
    ("record_deleted", Before::Deleting, |cms, scope| {
        Box::pin(async { cms.record_deleted(scope).await.map(drop) })
    }),
    ("record_health_check", Before::Running, |cms, scope| {
        Box::pin(async {
            cms.record_health_check(scope, &check(1, false), Some(&endpoint()), None)
                .await
                .map(|_| ())
        })
    }),
    ("record_repaired", Before::Running, |cms, scope| {
        Box::pin(async {
            cms.record_repaired(scope, &["the service is missing".to_owned()])
                .await
                .map(|_| ())
        })
    }),
    ("record_alarm", Before::Running, |cms, scope| {
        Box::pin(cms.record_alarm(scope, Reason::StorageMissing, "the data is not there"))
    }),
    ("record_removal_stuck", Before::Deleting, |cms, scope| {
        Box::pin(async { cms.record_removal_stuck(scope, &error()).await.map(drop) })
    }),
];

/// An instance as the write expects it, and the scope of its actor.
async fn prepare(fixture: &Fixture, before: Before) -> (Fresh, Scope) {
    match before {
        Before::Creating => {
            let fresh = fixture.create("demo").await;
            fixture
                .cms
                .begin_step(&fresh.scope, "wait-for-ready")
                .await
                .unwrap();
            let scope = fresh.scope;
            (fresh, scope)
        }
        Before::Running => {
            let fresh = fixture.create_running("demo").await;
            let scope = fresh.scope;
            (fresh, scope)
        }
        Before::Deleting => {
            let fresh = fixture.create_running("demo").await;
            let scope = fixture.request_delete(fresh.instance.id).await;
            (fresh, scope)
        }
    }
}

#[tokio::test]
async fn a_replaced_actor_can_write_nothing() {
    let fixture = Fixture::start().await;
    for (name, before, write) in WRITES {
        let (fresh, old) = prepare(&fixture, *before).await;
        let incarnation = fixture
            .cms
            .replace_actor(fresh.instance.id, old.incarnation, None)
            .await
            .unwrap();
        assert_eq!(incarnation, Some(old.incarnation + 1));
        let everything = fixture.everything().await;
        let early = Scope {
            incarnation: old.incarnation + 2,
            ..old
        };
        for wrong in [old, early] {
            let refused = write(&fixture.cms, &wrong).await;
            assert_eq!(refused.as_ref().unwrap_err().code(), "superseded", "{name}");
            assert_error(refused, ErrorKind::Superseded, "superseded");
            assert_eq!(
                fixture.everything().await,
                everything,
                "{name} has changed something"
            );
        }
        assert_error(
            fixture.cms.intent(&old).await,
            ErrorKind::Superseded,
            "superseded",
        );
        assert_error(
            fixture.cms.provisioning(&old).await,
            ErrorKind::Superseded,
            "superseded",
        );

        let now = Scope {
            incarnation: old.incarnation + 1,
            ..old
        };
        write(&fixture.cms, &now)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        remove(&fixture, &fresh).await;
    }
}

/// What people can see of an instance, but for how often a step was begun and when.
async fn visible(fixture: &Fixture, fresh: &Fresh) -> serde_json::Value {
    let instance: Instance = fixture.instance(fresh.instance.id).await;
    let mut operation: Operation = fixture.operation(fresh.operation.id).await;
    for step in &mut operation.steps {
        step.attempts = 0;
    }
    let events = fixture.list_events(Some(instance.id), Some(0)).await;
    let checks = fixture.cms.list_health_checks(instance.id, 100).await.unwrap();
    let drift: Vec<_> = fixture
        .cms
        .list_drift()
        .await
        .unwrap()
        .into_iter()
        .map(|drift| drift.message)
        .collect();
    let intent = fixture
        .cms
        .intent(&Scope {
            incarnation: 1,
            ..fresh.scope
        })
        .await
        .unwrap();
    serde_json::to_value((instance, operation, events, checks, drift, intent)).unwrap()
}

#[tokio::test]
async fn every_write_may_be_made_twice() {
    let fixture = Fixture::start().await;
    for (name, before, write) in WRITES {
        let (fresh, scope) = prepare(&fixture, *before).await;
        let untouched = visible(&fixture, &fresh).await;
        write(&fixture.cms, &scope)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let once = visible(&fixture, &fresh).await;
        assert_ne!(once, untouched, "{name} has changed nothing");
        write(&fixture.cms, &scope)
            .await
            .unwrap_or_else(|error| panic!("{name}, again: {error:?}"));
        assert_eq!(visible(&fixture, &fresh).await, once, "{name}");
        remove(&fixture, &fresh).await;
    }
}

/// So that the name is free for the next one.
async fn remove(fixture: &Fixture, fresh: &Fresh) {
    if fixture.instance(fresh.instance.id).await.deleted_at.is_none() {
        fixture.delete(fresh.instance.id).await;
    }
}

#[tokio::test]
async fn an_instance_without_a_row_has_no_actor() {
    let fixture = Fixture::start().await;
    let nobody = Scope {
        instance_id: toygres_models::InstanceId::generate(),
        incarnation: 1,
        operation_id: Some(toygres_models::OperationId::generate()),
    };
    for (_, _, write) in WRITES {
        assert_error(
            write(&fixture.cms, &nobody).await,
            ErrorKind::Superseded,
            "superseded",
        );
    }
}

#[tokio::test]
async fn an_operation_of_another_instance_is_refused() {
    let fixture = Fixture::start().await;
    let (one, two) = (fixture.create("one").await, fixture.create("two").await);
    let mixed = Scope {
        operation_id: two.scope.operation_id,
        ..one.scope
    };
    let everything = fixture.everything().await;
    assert_error(
        fixture.cms.begin_operation(&mixed).await,
        ErrorKind::Internal,
        "internal",
    );
    assert_error(
        fixture.cms.record_failed(&mixed, &error()).await,
        ErrorKind::Internal,
        "internal",
    );
    let without = Scope {
        operation_id: None,
        ..one.scope
    };
    assert_error(
        fixture.cms.begin_step(&without, STEP).await,
        ErrorKind::Internal,
        "internal",
    );
    assert_eq!(fixture.everything().await, everything);
}
