//! Callers that may act for one owner: what is another's is not there for them. And what owners may have.

use crate::support::{Fixture, Fresh, assert_error, error, new_instance, origin, origin_of};
use std::sync::Arc;
use toygres_cms::{Created, EventFilter, InstanceSelector, OperationFilter};
use toygres_models::instances::{NewInstance, PatchInstanceRequest};
use toygres_models::quotas::QuotaLimits;
use toygres_models::{Error, ErrorKind, OwnerName, Result};

fn owner(name: &str) -> OwnerName {
    name.parse().unwrap()
}

fn of_owner(name: &str, owner_name: &str) -> NewInstance {
    let mut new = new_instance(name);
    new.user_name = owner(owner_name);
    new
}

fn limits(max_instances: Option<i64>, max_storage_gb: Option<i64>) -> QuotaLimits {
    QuotaLimits {
        max_instances,
        max_storage_gb,
    }
}

/// A creation for `team-a`, where every owner may have this much.
async fn limited(fixture: &Fixture, new: &NewInstance, default: QuotaLimits) -> Result<Created> {
    fixture.create_as(new, None, &origin(), default).await
}

fn exceeded(result: Result<Created>) -> Error {
    let error = assert_error(result, ErrorKind::Forbidden, "quota_exceeded");
    assert!(error.next_step().is_some());
    error
}

#[tokio::test]
async fn what_is_anothers_is_not_there() {
    let fixture = Fixture::start().await;
    // Its owner is `default`.
    let Fresh {
        instance, operation, ..
    } = fixture.create_failed("demo").await;
    let (own, foreign) = (origin_of("default"), origin_of("team-a"));
    let (own_name, foreign_name) = (own.owner.clone().unwrap(), foreign.owner.clone().unwrap());
    let before = fixture.everything().await;
    for selector in [InstanceSelector::Id(instance.id), "demo".parse().unwrap()] {
        let patch = PatchInstanceRequest {
            deletion_protection: Some(true),
            ..PatchInstanceRequest::default()
        };
        let cms = &fixture.cms;
        for refused in [
            cms.get_instance(&selector, Some(&foreign_name)).await.map(|_| ()),
            cms.request_delete(&selector, &foreign).await.map(|_| ()),
            cms.reveal_password(&selector, &foreign).await.map(|_| ()),
            cms.update_instance(&selector, &patch, &|_| true, &foreign)
                .await
                .map(|_| ()),
        ] {
            let refused = assert_error(refused, ErrorKind::NotFound, "instance_not_found");
            let nothing = assert_error(
                cms.get_instance(&"nothing".parse().unwrap(), None).await,
                ErrorKind::NotFound,
                "instance_not_found",
            );
            assert_eq!(refused.next_step(), nothing.next_step());
        }
        assert_eq!(fixture.everything().await, before);
        cms.get_instance(&selector, Some(&own_name)).await.unwrap();
    }
    let cms = &fixture.cms;
    for refused in [
        cms.get_operation(operation.id, Some(&foreign_name))
            .await
            .map(|_| ()),
        cms.retry_operation(operation.id, QuotaLimits::default(), &foreign)
            .await
            .map(|_| ()),
    ] {
        assert_error(refused, ErrorKind::NotFound, "operation_not_found");
    }
    assert_eq!(fixture.everything().await, before);
    cms.get_operation(operation.id, Some(&own_name)).await.unwrap();

    let selector = InstanceSelector::Id(instance.id);
    cms.reveal_password(&selector, &own).await.unwrap();
    cms.retry_operation(operation.id, QuotaLimits::default(), &own)
        .await
        .unwrap();
    let patch = PatchInstanceRequest::default();
    cms.update_instance(&selector, &patch, &|_| true, &own)
        .await
        .unwrap();
    cms.request_delete(&selector, &own).await.unwrap();
}

#[tokio::test]
async fn a_name_means_the_owners_own_instance_where_another_has_the_live_one() {
    let fixture = Fixture::start().await;
    let failed = fixture.create_failed("demo").await;
    limited(&fixture, &of_owner("demo", "team-a"), QuotaLimits::default())
        .await
        .unwrap();
    let selector = "demo".parse().unwrap();
    let own = fixture
        .cms
        .get_instance(&selector, Some(&owner("default")))
        .await
        .unwrap();
    assert_eq!(own.id, failed.instance.id);
    let any = fixture.cms.get_instance(&selector, None).await.unwrap();
    assert_eq!(any.user_name, owner("team-a"));
}

#[tokio::test]
async fn nobody_creates_for_another_owner() {
    let fixture = Fixture::start().await;
    let before = fixture.everything().await;
    let as_team_a = async |new: &NewInstance| {
        let origin = origin_of("team-a");
        let key = Some(("key", b"body".as_slice()));
        fixture.create_as(new, key, &origin, QuotaLimits::default()).await
    };
    let refused = as_team_a(&of_owner("demo", "team-b")).await;
    let error = assert_error(refused, ErrorKind::Forbidden, "owner_forbidden");
    assert!(error.message().contains("team-a") && error.next_step().is_some());
    assert_eq!(fixture.everything().await, before);
    as_team_a(&of_owner("demo", "team-a")).await.unwrap();
}

#[tokio::test]
async fn operations_and_events_by_owner() {
    let fixture = Fixture::start().await;
    let one = fixture.create("one").await;
    let new = of_owner("two", "team-a");
    let Created::Fresh {
        instance: two,
        operation,
        ..
    } = limited(&fixture, &new, QuotaLimits::default()).await.unwrap()
    else {
        panic!("no key was sent");
    };
    let operations = async |owner_name: &str| {
        let filter = OperationFilter {
            user_name: Some(owner(owner_name)),
            ..OperationFilter::default()
        };
        let operations = fixture.cms.list_operations(&filter).await.unwrap();
        operations
            .into_iter()
            .map(|operation| operation.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(operations("default").await, [one.operation.id]);
    assert_eq!(operations("team-a").await, [operation.id]);
    assert!(operations("team-b").await.is_empty());
    for after in [None, Some(0)] {
        let filter = EventFilter {
            instance_id: None,
            user_name: Some(owner("team-a")),
            after,
            limit: 10,
        };
        let events = fixture.cms.list_events(&filter).await.unwrap();
        let of: Vec<_> = events.iter().map(|event| event.instance_id).collect();
        assert_eq!(of, [two.id]);
    }
}

#[tokio::test]
async fn a_quota_holds_however_many_want_more_at_once() {
    let fixture = Arc::new(Fixture::start().await);
    for max in [limits(Some(5), None), limits(None, Some(50))] {
        let tasks: Vec<_> = (0..20)
            .map(|n| {
                let fixture = Arc::clone(&fixture);
                tokio::spawn(
                    async move { limited(&fixture, &of_owner(&format!("db-{n}"), "team-a"), max).await },
                )
            })
            .collect();
        let mut made = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(Created::Fresh { instance, .. }) => made.push(instance.id),
                refused => {
                    exceeded(refused);
                }
            }
        }
        assert_eq!(made.len(), 5);
        limited(&fixture, &of_owner("other", "team-b"), max)
            .await
            .unwrap();
        for table in ["operations", "instance_events", "credentials"] {
            assert_eq!(
                fixture.count(table).await,
                6,
                "{table}: what was refused left nothing"
            );
        }
        sqlx::raw_sql(
            "delete from cms.audit_events; delete from cms.instance_events; delete from cms.operations; \
             delete from cms.credentials; delete from cms.instances",
        )
        .execute(&fixture.pool)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn what_counts_is_what_holds_a_name_and_the_owners_own_limits_come_first() {
    let fixture = Fixture::start().await;
    let default = limits(Some(2), None);
    let team = owner("default");
    let quota = async || {
        let quota = fixture.cms.get_quota(&team, default).await.unwrap();
        (quota.limits, quota.own, quota.instances, quota.storage_gb)
    };
    assert_eq!(quota().await, (default, false, 0, 0));
    let failed = fixture.create_failed("one").await;
    let deleted = fixture.create("two").await;
    fixture.delete(deleted.instance.id).await;
    assert_eq!(quota().await, (default, false, 0, 0));

    let one = fixture.create("one").await;
    let two = fixture.create("two").await;
    assert_eq!(quota().await, (default, false, 2, 20));
    let refused = exceeded(limited(&fixture, &new_instance("three"), default).await);
    assert!(refused.message().contains("2 of 2"), "{refused}");
    fixture.cms.record_failed(&one.scope, &error()).await.unwrap();
    fixture.create("three").await;
    let retried = fixture
        .cms
        .retry_operation(failed.operation.id, default, &origin())
        .await;
    assert_error(retried, ErrorKind::Forbidden, "quota_exceeded");

    let own = limits(None, Some(30));
    fixture
        .cms
        .set_quota(&team, limits(Some(0), Some(0)), &origin())
        .await
        .unwrap();
    fixture.cms.set_quota(&team, own, &origin()).await.unwrap();
    assert_eq!(quota().await, (own, true, 2, 20));
    let mut big = new_instance("four");
    big.storage_size_gb = 11;
    let refused = exceeded(limited(&fixture, &big, default).await);
    assert!(
        refused.message().contains("11 GiB") && refused.message().contains("20 of 30 GiB"),
        "{refused}"
    );
    fixture
        .cms
        .retry_operation(failed.operation.id, default, &origin())
        .await
        .unwrap();
    assert_eq!(quota().await, (own, true, 3, 30));
    exceeded(limited(&fixture, &new_instance("four"), default).await);

    assert!(fixture.cms.remove_quota(&team, &origin()).await.unwrap());
    assert!(!fixture.cms.remove_quota(&team, &origin()).await.unwrap());
    assert_eq!(quota().await, (default, false, 3, 30));
    exceeded(limited(&fixture, &new_instance("four"), default).await);
    fixture.delete(two.instance.id).await;
    fixture.delete(failed.instance.id).await;
    limited(&fixture, &new_instance("four"), default).await.unwrap();
    let quotas: Vec<_> = fixture
        .audited()
        .await
        .into_iter()
        .filter(|(action, _)| action.ends_with("quota"))
        .collect();
    let object = |action: &str| (action.to_owned(), Some("default".to_owned()));
    assert_eq!(
        quotas,
        [object("set_quota"), object("set_quota"), object("remove_quota")]
    );
}

#[tokio::test]
async fn quotas_of_owners_with_limits_or_instances_are_listed() {
    let fixture = Fixture::start().await;
    let own = limits(Some(1), None);
    fixture.create("demo").await;
    fixture.create_failed("failed").await;
    limited(&fixture, &of_owner("own", "team-b"), QuotaLimits::default())
        .await
        .unwrap();
    for name in ["team-b", "team-a"] {
        fixture.cms.set_quota(&owner(name), own, &origin()).await.unwrap();
    }
    let default = limits(None, Some(100));
    let listed = fixture.cms.list_quotas(default).await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|quota| (quota.user_name.as_str(), quota.limits, quota.own, quota.instances))
        .collect();
    assert_eq!(
        listed,
        [
            ("default", default, false, 1),
            ("team-a", own, true, 0),
            ("team-b", own, true, 1)
        ]
    );
}
