//! What the sweeper does: leases, actors to replace, drift, old rows.

use crate::support::{Fixture, assert_error, check, error, origin};
use std::time::Duration;
use toygres_cms::{AuditFilter, DriftFinding, Pruned, Retention};
use toygres_models::instances::InstanceState;
use toygres_models::{ErrorKind, InstanceId};
use toygres_testing::wait_for;
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
async fn what_has_ended_is_not_made_again_while_its_rest_is_removed() {
    let fixture = Fixture::start().await;
    let failed = fixture.create_failed("demo").await;
    let id = failed.instance.id;
    let cms = fixture.cms.clone();
    let operation = failed.scope.operation_id.unwrap();
    let retry = async move {
        cms.retry_operation(operation, Default::default(), &origin())
            .await
    };
    let (waiting, retrying) = fixture
        .cms
        .while_ended(id, async {
            let retrying = tokio::spawn(retry);
            let waiting = wait_for("the retry to wait", Duration::from_secs(60), || async {
                let waiting = fixture
                    .execute("select from pg_stat_activity where wait_event_type = 'Lock' and query like '%cms.instances%'")
                    .await;
                (waiting > 0 || retrying.is_finished()).then(|| !retrying.is_finished())
            })
            .await;
            Ok((waiting, retrying))
        })
        .await
        .unwrap()
        .unwrap();
    assert!(waiting, "it was made again while its rest was being removed");
    retrying.await.unwrap().unwrap();
    let not_ended = fixture.cms.while_ended(id, async { Ok(()) }).await.unwrap();
    assert_eq!(not_ended, None);
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
async fn an_operation_that_does_not_end_is_one_alarm_until_it_does() {
    let fixture = Fixture::start().await;
    let cms = &fixture.cms;
    let hour = Duration::from_secs(3600);
    let late = fixture.create("late").await;
    let running = fixture.create_running("leaving").await;
    let leaving = fixture.request_delete(running.instance.id).await;
    fixture.create("young").await;
    assert!(cms.record_overdue(hour).await.unwrap().is_empty());
    fixture
        .execute(
            "update cms.operations set requested_at = now() - interval '2 hours' where instance_id in \
             (select id from cms.instances where name <> 'young')",
        )
        .await;
    let mut said = cms.record_overdue(hour).await.unwrap();
    said.sort_by_key(|(id, _)| *id != late.instance.id);
    for ((id, message), (scope, kind)) in said.iter().zip([(late.scope, "create"), (leaving, "delete")]) {
        assert_eq!(*id, scope.instance_id);
        let operation_id = scope.operation_id.unwrap();
        assert!(
            message.starts_with(&format!("the {kind} {operation_id} was asked for at 20")),
            "{message}"
        );
        assert_eq!(
            fixture.events(*id).await.last().map(String::as_str),
            Some("alarm")
        );
    }
    assert_eq!(said.len(), 2);
    assert!(cms.record_overdue(hour).await.unwrap().is_empty(), "said twice");
    let drift = cms.list_drift().await.unwrap();
    assert!(
        drift
            .iter()
            .all(|drift| drift.kind == "operation_overdue" && !drift.fixable),
        "{drift:?}"
    );
    assert_eq!(drift.len(), 2);

    cms.record_failed(&late.scope, &error()).await.unwrap();
    assert_eq!(cms.list_drift().await.unwrap().len(), 1);
    cms.record_deleted(&leaving).await.unwrap();
    assert!(cms.list_drift().await.unwrap().is_empty());
    assert!(cms.record_overdue(hour).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_actor_is_replaced_by_one_sweeper_only() {
    let fixture = Fixture::start().await;
    let fresh = fixture.create("demo").await;
    let id = fresh.instance.id;
    fixture
        .execute("update cms.instances set intent_at = '2026-01-01', progressed_at = '2026-01-01'")
        .await;
    let (one, two) = tokio::join!(
        fixture.cms.replace_actor(id, 1, None),
        fixture.cms.replace_actor(id, 1, None)
    );
    let mut results = [one.unwrap(), two.unwrap()];
    results.sort_unstable();
    assert_eq!(results, [None, Some(2)]);
    assert_eq!(fixture.events(id).await, ["create_requested", "actor_replaced"]);
    assert_eq!(
        fixture.audited().await.len(),
        1,
        "only the creation was asked for"
    );
    let asked = fixture.cms.replace_actor(id, 1, Some(&origin())).await.unwrap();
    assert_eq!(asked, None);
    assert_eq!(fixture.audited().await.len(), 1, "nothing was done");
    let asked = fixture.cms.replace_actor(id, 2, Some(&origin())).await.unwrap();
    assert_eq!(asked, Some(3));
    assert_eq!(fixture.audited().await[1].0, "replace_actor");
    let wanted = fixture.cms.actors_wanted().await.unwrap().remove(0);
    assert!(
        wanted.age.as_secs() < 60 && wanted.since_progress.as_secs() < 60,
        "the new one gets its time"
    );
    assert_eq!(
        fixture
            .cms
            .replace_actor(InstanceId::generate(), 1, None)
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
            .map(|drift| (drift.object, drift.message))
            .collect::<Vec<_>>()
    };
    let own = |object: &str, message: &str| (object.to_owned(), message.to_owned());
    let twice = [finding("a", "one"), finding("a", "one"), finding("b", "two")];
    fixture.cms.record_drift(&twice, None).await.unwrap();
    assert_eq!(open().await, [own("a", "one"), own("b", "two")]);
    fixture
        .cms
        .record_drift(&[finding("b", "new words"), finding("c", "three")], None)
        .await
        .unwrap();
    assert_eq!(open().await, [own("b", "new words"), own("c", "three")]);
    fixture.cms.record_drift(&[], None).await.unwrap();
    assert!(open().await.is_empty());
    fixture
        .cms
        .record_drift(&[finding("a", "again")], None)
        .await
        .unwrap();
    assert_eq!(open().await, [own("a", "again")]);
    assert_eq!(fixture.count("drift_findings").await, 4);
}

#[tokio::test]
async fn a_machine_resolves_only_what_it_has_found_itself() {
    let fixture = Fixture::start().await;
    let (cms, finding) = (&fixture.cms, |object: &str| DriftFinding {
        kind: "unknown_object".to_owned(),
        object: object.to_owned(),
        instance_id: None,
        message: "nobody knows it".to_owned(),
    });
    let open = async || {
        let drift = cms.list_drift().await.unwrap();
        let found = drift
            .into_iter()
            .map(|drift| (drift.id, drift.host.unwrap_or_default()));
        found.collect::<Vec<_>>()
    };
    let on = |id, host: &str| (id, host.to_owned());
    cms.record_drift(&[finding("a")], Some("one")).await.unwrap();
    for _ in 0..2 {
        cms.record_drift(&[finding("b")], Some("two")).await.unwrap();
        cms.record_drift(&[finding("a")], Some("one")).await.unwrap();
    }
    let found = open().await;
    let [a, b] = &found[..] else { panic!("{found:?}") };
    // The same row from the first time on: it neither comes nor goes.
    assert_eq!(open().await, [on(a.0, "one"), on(b.0, "two")]);
    cms.record_drift(&[], Some("one")).await.unwrap();
    assert_eq!(open().await, [on(b.0, "two")]);

    // What the release before has found bears no machine; who still sees it says so.
    fixture.execute("update cms.drift_findings set host = null").await;
    cms.record_drift(&[finding("b")], Some("two")).await.unwrap();
    assert_eq!(open().await, [on(b.0, "two")]);
    cms.record_drift(&[], Some("one")).await.unwrap();
    assert_eq!(open().await, [on(b.0, "two")]);
    // That machine is gone for good.
    fixture
        .execute("update cms.drift_findings set last_seen_at = now() - interval '25 hours'")
        .await;
    cms.record_drift(&[], Some("one")).await.unwrap();
    assert_eq!(open().await, []);
}

#[tokio::test]
async fn drift_is_put_right_by_somebody_who_is_audited() {
    let fixture = Fixture::start().await;
    let (cms, known) = (&fixture.cms, fixture.create("demo").await.instance.id);
    let finding = |kind: &str, object: &str, instance_id| DriftFinding {
        kind: kind.to_owned(),
        object: object.to_owned(),
        instance_id,
        message: "it is there".to_owned(),
    };
    let findings = [
        finding("unknown_object", "a", Some(InstanceId::generate())),
        finding("unknown_object", "b", None),
        finding("storage_missing", "c", Some(known)),
    ];
    cms.record_drift(&findings, None).await.unwrap();
    let listed = cms.list_drift().await.unwrap();
    let mut fixable: Vec<_> = listed
        .iter()
        .map(|drift| (drift.object.as_str(), drift.fixable))
        .collect();
    fixable.sort_unstable();
    assert_eq!(fixable, [("a", true), ("b", false), ("c", false)]);
    for drift in &listed {
        assert_eq!(cms.get_drift(drift.id).await.unwrap(), *drift);
        cms.resolve_drift(drift.id, &origin()).await.unwrap();
        assert_error(
            cms.get_drift(drift.id).await,
            ErrorKind::NotFound,
            "drift_not_found",
        );
    }
    assert!(cms.list_drift().await.unwrap().is_empty());
    // A sweep may have resolved it first; who has put it right is noted all the same.
    let resolved = "select max(resolved_at)::text from cms.drift_findings";
    let before: String = sqlx::query_scalar(resolved)
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
    let unknown = listed.iter().find(|drift| drift.object == "a").unwrap();
    cms.resolve_drift(unknown.id, &origin()).await.unwrap();
    let after: String = sqlx::query_scalar(resolved)
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(before, after);

    let filter = AuditFilter {
        action: Some("fix_drift".to_owned()),
        ..AuditFilter::default()
    };
    let mut audited = cms.list_audit(&filter).await.unwrap();
    assert_eq!(audited.len(), 4);
    audited.retain(|event| event.instance_id.is_some());
    let about: Vec<_> = audited
        .iter()
        .map(|event| (event.instance_id, event.object.as_deref()))
        .collect();
    assert_eq!(about, [(Some(known), Some("c"))]);

    for id in [0, i64::MAX] {
        let missing = cms.resolve_drift(id, &origin()).await;
        assert_error(missing, ErrorKind::NotFound, "drift_not_found");
    }
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
        .record_health_check(&old.scope, &check(1, true), None, None)
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
    let events = fixture.list_events(Some(old.instance.id), Some(0)).await;
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
