//! Changing tags and protection: nothing is lost in a race, and nothing is written for nothing.

use crate::support::{Fixture, assert_error, new_instance, origin};
use std::collections::BTreeMap;
use std::sync::Arc;
use toygres_cms::InstanceSelector;
use toygres_models::instances::{Instance, PatchInstanceRequest};
use toygres_models::{ErrorKind, InstanceId, Result};

fn tags(changes: &[(&str, Option<&str>)]) -> PatchInstanceRequest {
    let changes = changes
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)));
    PatchInstanceRequest {
        tags: Some(changes.collect()),
        deletion_protection: None,
    }
}

fn protection(on: bool) -> PatchInstanceRequest {
    PatchInstanceRequest {
        deletion_protection: Some(on),
        ..PatchInstanceRequest::default()
    }
}

async fn update(fixture: &Fixture, id: InstanceId, patch: &PatchInstanceRequest) -> Result<Instance> {
    let selector = InstanceSelector::Id(id);
    fixture
        .cms
        .update_instance(&selector, patch, &|_| true, &origin())
        .await
}

#[tokio::test]
async fn what_is_said_changes_and_the_rest_stays() {
    let fixture = Fixture::start().await;
    let id = fixture.create_running("demo").await.instance.id;
    let before = fixture.instance(id).await;
    let changed = update(
        &fixture,
        id,
        &tags(&[("env", Some("test")), ("team", Some("web"))]),
    )
    .await
    .unwrap();
    assert!(changed.updated_at > before.updated_at);
    let changed = update(
        &fixture,
        id,
        &tags(&[("env", None), ("missing", None), ("tier", Some("1"))]),
    )
    .await
    .unwrap();
    let expected = [("team", "web"), ("tier", "1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(changed.tags, BTreeMap::from(expected));
    assert!(!changed.deletion_protection);
    let changed = update(&fixture, id, &protection(true)).await.unwrap();
    assert!(changed.deletion_protection && changed.tags.len() == 2);
    let same = serde_json::to_value(fixture.instance(id).await).unwrap();
    assert_eq!(serde_json::to_value(&changed).unwrap(), same);
    let deletion = fixture
        .cms
        .request_delete(&InstanceSelector::Id(id), &origin())
        .await;
    assert_error(deletion, ErrorKind::Conflict, "deletion_protected");

    let events = fixture.list_events(Some(id), Some(0)).await;
    let updates: Vec<_> = events
        .iter()
        .filter(|event| event.kind == "updated")
        .map(|event| event.message.as_str())
        .collect();
    assert_eq!(
        updates,
        [
            "changed by tester: tags",
            "changed by tester: tags",
            "changed by tester: deletion protection on"
        ]
    );
    let actions = fixture.audited().await;
    let updates = actions.iter().filter(|(action, _)| action == "update_instance");
    assert_eq!(updates.count(), 3);
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let fixture = Fixture::start().await;
    let mut new = new_instance("demo");
    new.tags.insert("env".to_owned(), "test".to_owned());
    fixture.try_create(&new, None).await.unwrap();
    let id = fixture
        .cms
        .get_instance(&"demo".parse().unwrap(), None)
        .await
        .unwrap()
        .id;
    let before = fixture.everything().await;
    for patch in [
        PatchInstanceRequest::default(),
        tags(&[]),
        tags(&[("env", Some("test")), ("missing", None)]),
        protection(false),
    ] {
        let same = update(&fixture, id, &patch).await.unwrap();
        assert_eq!(same.tags, new.tags);
    }
    let many: Vec<_> = (0..32)
        .map(|n| (format!("key-{n}"), "value".to_owned()))
        .collect();
    let many: Vec<_> = many
        .iter()
        .map(|(key, value)| (key.as_str(), Some(value.as_str())))
        .collect();
    let refused = update(&fixture, id, &tags(&many)).await;
    assert_error(refused, ErrorKind::Invalid, "invalid_fields");
    assert_eq!(fixture.everything().await, before);
}

#[tokio::test]
async fn of_two_who_have_seen_the_same_one_is_refused() {
    let fixture = Arc::new(Fixture::start().await);
    let id = fixture.create_running("demo").await.instance.id;
    for round in 0..10 {
        let seen = fixture.instance(id).await;
        let tasks: Vec<_> = ["one", "two"]
            .map(|writer| {
                let (fixture, seen) = (Arc::clone(&fixture), seen.updated_at);
                let value = format!("{writer}-{round}");
                tokio::spawn(async move {
                    let unchanged = move |instance: &Instance| instance.updated_at == seen;
                    let selector = InstanceSelector::Id(id);
                    let patch = tags(&[("writer", Some(&value))]);
                    fixture
                        .cms
                        .update_instance(&selector, &patch, &unchanged, &origin())
                        .await
                })
            })
            .into_iter()
            .collect();
        let mut written = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(instance) => written.push(instance.tags),
                refused => {
                    let error = assert_error(refused, ErrorKind::PreconditionFailed, "changed_meanwhile");
                    assert!(error.next_step().unwrap().contains("read it again"));
                }
            }
        }
        assert_eq!(written, [fixture.instance(id).await.tags]);
    }
}

#[tokio::test]
async fn no_change_is_lost_in_a_race() {
    let fixture = Arc::new(Fixture::start().await);
    let id = fixture.create_running("demo").await.instance.id;
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                let key = format!("key-{n}");
                update(&fixture, id, &tags(&[(&key, Some("value"))]))
                    .await
                    .unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(fixture.instance(id).await.tags.len(), 20);
}

#[tokio::test]
async fn what_goes_or_is_gone_is_not_changed() {
    let fixture = Fixture::start().await;
    let id = fixture.create_running("demo").await.instance.id;
    let failed = fixture.create_failed("failed").await.instance.id;
    update(&fixture, failed, &tags(&[("why", Some("disk"))]))
        .await
        .unwrap();
    for id in [id, failed] {
        let scope = fixture.request_delete(id).await;
        let before = fixture.everything().await;
        let refused = update(&fixture, id, &protection(true)).await;
        assert_error(refused, ErrorKind::Conflict, "being_deleted");
        fixture.cms.record_deleted(&scope).await.unwrap();
        let refused = update(&fixture, id, &protection(true)).await;
        assert_error(refused, ErrorKind::NotFound, "instance_not_found");
        assert_eq!(fixture.everything().await["audit_events"], before["audit_events"]);
    }
}
