//! What the sweeper does: leases, actors to replace, drift, old rows.

use crate::support::{Fixture, check, error};
use std::time::Duration;
use toygres_cms::{DriftFinding, Pruned, Retention};
use toygres_models::InstanceId;
use toygres_models::instances::InstanceState;
use uuid::Uuid;

#[tokio::test]
async fn a_lease_has_one_holder_until_it_is_given_back_or_runs_out() {
    let fixture = Fixture::start().await;
    let (cms, one, two) = (&fixture.cms, Uuid::new_v4(), Uuid::new_v4());
    let long = Duration::from_secs(3600);
    assert!(cms.try_lease("sweep", one, long).await.unwrap());
    assert!(!cms.try_lease("sweep", two, long).await.unwrap());
    assert!(cms.try_lease("sweep", one, long).await.unwrap());
    assert!(cms.try_lease("another", two, long).await.unwrap());
    cms.release_lease("sweep", two).await.unwrap();
    assert!(!cms.try_lease("sweep", two, long).await.unwrap());
    cms.release_lease("sweep", one).await.unwrap();
    assert!(cms.try_lease("sweep", two, Duration::ZERO).await.unwrap());
    assert!(cms.try_lease("sweep", one, long).await.unwrap());
    assert!(!cms.try_lease("sweep", two, long).await.unwrap());
}

#[tokio::test]
async fn of_many_that_want_a_lease_one_gets_it() {
    let fixture = Fixture::start().await;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let cms = fixture.cms.clone();
            tokio::spawn(async move {
                cms.try_lease("sweep", Uuid::new_v4(), Duration::from_secs(3600))
                    .await
            })
        })
        .collect();
    let mut got = 0;
    for task in tasks {
        got += i32::from(task.await.unwrap().unwrap());
    }
    assert_eq!(got, 1);
}

#[tokio::test]
async fn actors_are_wanted_for_what_has_not_ended() {
    let fixture = Fixture::start().await;
    let creating = fixture.create("creating").await;
    let running = fixture.create_running("running").await;
    let failed = fixture.create("failed").await;
    fixture.cms.record_failed(&failed.scope, &error()).await.unwrap();
    let going = fixture.create("going").await;
    fixture.cms.record_failed(&going.scope, &error()).await.unwrap();
    fixture.request_delete(going.instance.id).await;
    let deleted = fixture.create("deleted").await;
    fixture.delete(deleted.instance.id).await;
    fixture
        .execute(
            "update cms.instances set intent_at = now() - interval '1 hour', progressed_at = now() - interval '2 hours' \
             where name = 'running'",
        )
        .await;

    let mut wanted = fixture.cms.actors_wanted().await.unwrap();
    wanted.sort_by_key(|actor| actor.state.as_str());
    let seen: Vec<_> = wanted
        .iter()
        .map(|actor| (actor.instance_id, actor.incarnation, actor.state))
        .collect();
    assert_eq!(
        seen,
        [
            (creating.instance.id, 1, InstanceState::Creating),
            (going.instance.id, 2, InstanceState::Failed),
            (running.instance.id, 1, InstanceState::Running),
        ]
    );
    assert!(wanted[0].age < Duration::from_secs(60) && wanted[0].since_progress < Duration::from_secs(60));
    assert_eq!(
        (
            wanted[2].age.as_secs() / 60,
            wanted[2].since_progress.as_secs() / 60
        ),
        (60, 120)
    );

    let owners = [creating.instance.id, deleted.instance.id, InstanceId::generate()];
    let owners = fixture.cms.owners(&owners).await.unwrap();
    assert_eq!(owners.len(), 2);
    assert_eq!(owners[&deleted.instance.id], InstanceState::Deleted);
}

#[tokio::test]
async fn an_actor_is_replaced_by_one_sweeper_only() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    let id = fresh.instance.id;
    fixture
        .execute("update cms.instances set intent_at = '2026-01-01', progressed_at = '2026-01-01'")
        .await;
    let (one, two) = tokio::join!(fixture.cms.replace_actor(id, 1), fixture.cms.replace_actor(id, 1));
    let mut results = [one.unwrap(), two.unwrap()];
    results.sort_unstable();
    assert_eq!(results, [None, Some(2)]);
    assert_eq!(fixture.events(id).await, ["create_requested", "actor_replaced"]);
    let wanted = fixture.cms.actors_wanted().await.unwrap().remove(0);
    assert!(
        wanted.age.as_secs() < 60 && wanted.since_progress.as_secs() < 60,
        "the new one gets its time"
    );
    assert_eq!(
        fixture
            .cms
            .replace_actor(InstanceId::generate(), 1)
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn drift_is_open_as_long_as_it_is_seen() {
    let fixture = Fixture::start().await;
    let finding = |object: &str, message: &str| DriftFinding {
        kind: "orphan".to_owned(),
        object: object.to_owned(),
        instance_id: Some(InstanceId::generate()),
        message: message.to_owned(),
    };
    let open = async || {
        let drift = fixture.cms.list_drift().await.unwrap();
        drift
            .into_iter()
            .map(|drift| (drift.finding.object, drift.finding.message))
            .collect::<Vec<_>>()
    };
    let own = |object: &str, message: &str| (object.to_owned(), message.to_owned());
    let twice = [finding("a", "one"), finding("a", "one"), finding("b", "two")];
    fixture.cms.record_drift(&twice).await.unwrap();
    assert_eq!(open().await, [own("a", "one"), own("b", "two")]);
    fixture
        .cms
        .record_drift(&[finding("b", "new words"), finding("c", "three")])
        .await
        .unwrap();
    assert_eq!(open().await, [own("b", "new words"), own("c", "three")]);
    fixture.cms.record_drift(&[]).await.unwrap();
    assert!(open().await.is_empty());
    fixture.cms.record_drift(&[finding("a", "again")]).await.unwrap();
    assert_eq!(open().await, [own("a", "again")]);
    assert_eq!(fixture.count("drift_findings").await, 4);
}

#[tokio::test]
async fn old_rows_go_in_batches_and_young_and_open_ones_stay() {
    let fixture = Fixture::start().await;
    let old = fixture.create_running("old").await;
    fixture
        .cms
        .begin_step(&fixture.create("young").await.scope, "deploy-postgres")
        .await
        .unwrap();
    let open = fixture.create("open").await;
    fixture
        .cms
        .record_health_check(&old.scope, &check(1, true), None)
        .await
        .unwrap();
    fixture
        .try_create(&crate::support::new_instance("keyed"), Some(("key", b"body")))
        .await
        .unwrap();
    let for_ever = Retention {
        health_checks: Duration::MAX,
        ..Retention::default()
    };
    assert_eq!(fixture.cms.prune(&for_ever).await.unwrap(), Pruned::default());
    fixture
        .execute(
            "insert into cms.health_checks (instance_id, checked_at, healthy) \
             select id, now() - interval '8 days' - n * interval '1 second', true \
             from cms.instances, generate_series(1, 12000) n where name = 'old'",
        )
        .await;
    fixture
        .execute("delete from cms.health_checks where checked_at < '2026-02-01'")
        .await;
    fixture
        .execute("insert into cms.health_checks (instance_id, checked_at, healthy) select id, now(), true from cms.instances")
        .await;
    let young_checks = fixture.count("instances").await;
    fixture
        .execute("update cms.instance_events set created_at = '2020-01-01' where kind = 'state_changed'")
        .await;
    fixture
        .execute(
            "update cms.operations set requested_at = '2020-01-01', \
             finished_at = case when finished_at is not null then timestamptz '2020-01-01' end",
        )
        .await;
    fixture
        .execute("update cms.idempotency_keys set created_at = now() - interval '25 hours'")
        .await;

    let pruned = fixture.cms.prune(&Retention::default()).await.unwrap();
    assert_eq!(
        pruned,
        Pruned {
            health_checks: 12_000,
            events: 1,
            operations: 1,
            idempotency_keys: 1
        }
    );
    assert_eq!(
        fixture.cms.prune(&Retention::default()).await.unwrap(),
        Pruned::default()
    );
    assert_eq!(fixture.count("health_checks").await, young_checks);
    // Events outlive the operation they were about.
    let events = fixture
        .cms
        .list_events(Some(old.instance.id), 10, None)
        .await
        .unwrap();
    assert_eq!(
        events.iter().map(|event| event.operation_id).collect::<Vec<_>>(),
        [None]
    );
    assert_eq!(fixture.operation(open.operation.id).await.id, open.operation.id);
    assert_eq!(fixture.count("operation_steps").await, 1);
}

#[tokio::test]
async fn the_clocks_of_one_machine_agree() {
    let fixture = Fixture::start().await;
    fixture.cms.ping().await.unwrap();
    let skew = fixture.cms.clock_skew().await.unwrap();
    assert!(skew.abs() < chrono::TimeDelta::seconds(2), "{skew}");
}
