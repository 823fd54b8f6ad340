//! Lists: filters and pages.

use crate::support::{Fixture, assert_error, check, error, new_instance};
use toygres_cms::{EventFilter, InstanceFilter, OperationFilter, TagFilter};
use toygres_models::health::HealthStatus;
use toygres_models::instances::InstanceState;
use toygres_models::operations::{OperationKind, OperationState};
use toygres_models::{ErrorKind, InstanceId, OperationId};

async fn names(fixture: &Fixture, filter: InstanceFilter) -> Vec<String> {
    let instances = fixture.cms.list_instances(&filter).await.unwrap();
    instances
        .into_iter()
        .map(|instance| instance.name.to_string())
        .collect()
}

#[tokio::test]
async fn instances_by_what_they_are() {
    let fixture = Fixture::start().await;
    for (name, owner, tag) in [
        ("app-1", "team-a", "test"),
        ("app-2", "team-b", "prod"),
        ("web1", "team-a", "prod"),
    ] {
        let mut new = new_instance(name);
        new.user_name = owner.parse().unwrap();
        new.tags.insert("env".to_owned(), tag.to_owned());
        fixture.try_create(&new, None).await.unwrap();
    }
    let running = fixture.create_running("running").await;
    let failed = fixture.create("failed").await;
    fixture.cms.record_failed(&failed.scope, &error()).await.unwrap();
    let deleted = fixture.create("deleted").await;
    fixture.delete(deleted.instance.id).await;
    for n in 1..=3 {
        fixture
            .cms
            .record_health_check(&running.scope, &check(n, false), None, None)
            .await
            .unwrap();
    }

    let all = InstanceFilter::default();
    let tag = |value: Option<&str>| {
        Some(TagFilter {
            key: "env".to_owned(),
            value: value.map(str::to_owned),
        })
    };
    let glob = |text: &str| InstanceFilter {
        name_glob: Some(text.to_owned()),
        ..InstanceFilter::default()
    };
    let cases: Vec<(InstanceFilter, &[&str])> = vec![
        (all.clone(), &["app-1", "app-2", "web1", "running", "failed"]),
        (
            InstanceFilter {
                state: Some(InstanceState::Failed),
                ..all.clone()
            },
            &["failed"],
        ),
        (
            InstanceFilter {
                state: Some(InstanceState::Deleted),
                ..all.clone()
            },
            &["deleted"],
        ),
        (
            InstanceFilter {
                state: Some(InstanceState::Degraded),
                ..all.clone()
            },
            &["running"],
        ),
        (
            InstanceFilter {
                health: Some(HealthStatus::Unhealthy),
                ..all.clone()
            },
            &["running"],
        ),
        (
            InstanceFilter {
                user_name: Some("team-a".parse().unwrap()),
                ..all.clone()
            },
            &["app-1", "web1"],
        ),
        (
            InstanceFilter {
                tag: tag(Some("prod")),
                ..all.clone()
            },
            &["app-2", "web1"],
        ),
        (
            InstanceFilter {
                tag: tag(None),
                ..all.clone()
            },
            &["app-1", "app-2", "web1"],
        ),
        (
            InstanceFilter {
                tag: tag(Some("prod")),
                user_name: Some("team-a".parse().unwrap()),
                ..all.clone()
            },
            &["web1"],
        ),
        (glob("app-*"), &["app-1", "app-2"]),
        (glob("app-?"), &["app-1", "app-2"]),
        (glob("*1"), &["app-1", "web1"]),
        (glob("app"), &[]),
        // Special in SQL, plain here.
        (glob("app_1"), &[]),
        (glob("%"), &[]),
        (glob("app\\-1"), &[]),
        (glob("' or true --"), &[]),
        (
            InstanceFilter {
                limit: Some(2),
                ..all.clone()
            },
            &["app-1", "app-2"],
        ),
        (
            InstanceFilter {
                limit: Some(0),
                ..all.clone()
            },
            &[],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(names(&fixture, filter.clone()).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn pages_together_are_the_list() {
    let fixture = Fixture::start().await;
    for n in 0..10 {
        fixture.create(&format!("db-{n}")).await;
    }
    // Made in the same instant: the id decides.
    fixture
        .execute("update cms.instances set created_at = '2026-01-01' where name > 'db-4'")
        .await;
    let whole = names(&fixture, InstanceFilter::default()).await;
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let filter = InstanceFilter {
            limit: Some(3),
            after,
            ..InstanceFilter::default()
        };
        let page = fixture.cms.list_instances(&filter).await.unwrap();
        after = page.last().map(|instance| instance.id);
        pages.extend(page.iter().map(|instance| instance.name.to_string()));
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!((pages.len(), pages), (10, whole));

    let unknown = InstanceFilter {
        after: Some(InstanceId::generate()),
        ..InstanceFilter::default()
    };
    assert_error(
        fixture.cms.list_instances(&unknown).await,
        ErrorKind::Invalid,
        "unknown_cursor",
    );
}

#[tokio::test]
async fn operations_newest_first_with_their_steps() {
    let fixture = Fixture::start().await;
    let one = fixture.create("one").await;
    let two = fixture.create_running("two").await;
    for step in ["b-step", "a-step"] {
        fixture.cms.begin_step(&one.scope, step).await.unwrap();
    }
    let deletion = fixture
        .request_delete(two.instance.id)
        .await
        .operation_id
        .unwrap();
    let ids = async |filter: OperationFilter| {
        let operations = fixture.cms.list_operations(&filter).await.unwrap();
        operations
            .into_iter()
            .map(|operation| operation.id)
            .collect::<Vec<_>>()
    };
    let all = OperationFilter::default();
    let (one_id, two_id) = (one.operation.id, two.operation.id);
    assert_eq!(ids(all.clone()).await, [deletion, two_id, one_id]);
    let of_two = OperationFilter {
        instance_id: Some(two.instance.id),
        ..all.clone()
    };
    assert_eq!(ids(of_two).await, [deletion, two_id]);
    assert_eq!(
        ids(OperationFilter {
            kind: Some(OperationKind::Create),
            ..all.clone()
        })
        .await,
        [two_id, one_id]
    );
    let succeeded = OperationFilter {
        state: Some(OperationState::Succeeded),
        ..all.clone()
    };
    assert_eq!(ids(succeeded).await, [two_id]);
    assert_eq!(
        ids(OperationFilter {
            limit: Some(1),
            ..all.clone()
        })
        .await,
        [deletion]
    );
    assert_eq!(
        ids(OperationFilter {
            before: Some(deletion),
            limit: Some(1),
            ..all
        })
        .await,
        [two_id]
    );

    let steps = fixture.operation(one_id).await.steps;
    assert_eq!(
        steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(),
        ["b-step", "a-step"]
    );
    let missing = fixture.cms.get_operation(OperationId::generate(), None).await;
    assert_error(missing, ErrorKind::NotFound, "operation_not_found");
}

#[tokio::test]
async fn events_are_followed_by_the_last_one_seen() {
    let fixture = Fixture::start().await;
    let (one, two) = (fixture.create("one").await, fixture.create_running("two").await);
    fixture.delete(one.instance.id).await;
    let all = fixture.list_events(None, Some(0)).await;
    assert_eq!(all.len(), 5);
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id));
    let ids: Vec<_> = all.iter().map(|event| event.id).collect();
    let two_of = async |after| {
        let filter = EventFilter {
            instance_id: None,
            user_name: None,
            after,
            limit: 2,
        };
        let events = fixture.cms.list_events(&filter).await.unwrap();
        events.into_iter().map(|event| event.id).collect::<Vec<_>>()
    };
    assert_eq!(two_of(Some(ids[1])).await, ids[2..4]);
    assert!(two_of(Some(ids[4])).await.is_empty());
    assert_eq!(two_of(None).await, ids[3..], "the newest ones, oldest first");
    assert_eq!(fixture.cms.latest_event_id().await.unwrap(), ids[4]);
    let of_two = fixture.list_events(Some(two.instance.id), Some(0)).await;
    assert_eq!(of_two.len(), 2);
    assert!(
        of_two
            .iter()
            .all(|event| event.instance_name == two.instance.name)
    );
    assert_eq!(of_two[0].operation_id, Some(two.operation.id));
}
