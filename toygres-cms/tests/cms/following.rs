//! Following what changes: nothing is missed, whatever is written at the same time.

use crate::support::{Fixture, check, connect, error, key, origin};
use sqlx::postgres::PgPoolOptions;
use std::sync::Arc;
use std::time::Duration;
use toygres_cms::{Change, Changes, Cms, EventFilter, InstanceSelector, migrate};
use toygres_models::instances::PatchInstanceRequest;
use toygres_models::operations::Reason;
use toygres_models::quotas::QuotaLimits;
use toygres_models::{ErrorKind, InstanceId, Scope};
use toygres_testing::{TestPostgres, wait_for};

const LONG: Duration = Duration::from_secs(20);

const INSERT: &str =
    "insert into cms.instance_events (instance_id, kind, message) values ($1, 'test', '') returning id";

#[tokio::test]
async fn ids_of_events_rise_as_they_become_visible() {
    let fixture = Fixture::start().await;
    let (one, two) = (fixture.create("one").await, fixture.create("two").await);
    let before = fixture.cms.latest_event_id().await.unwrap();
    let insert = |id: InstanceId| sqlx::query_scalar::<_, i64>(INSERT).bind(id.0);
    let mut first = fixture.pool.begin().await.unwrap();
    insert(one.instance.id).fetch_one(&mut *first).await.unwrap();
    let (pool, other) = (fixture.pool.clone(), insert(two.instance.id));
    let second = tokio::spawn(async move { other.fetch_one(&pool).await });
    wait_for("the second transaction to wait", LONG, || async {
        let waits: bool = sqlx::query_scalar(
            "select exists (select from pg_locks where locktype = 'advisory' and not granted \
             and database = (select oid from pg_database where datname = current_database()))",
        )
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
        assert!(
            !second.is_finished(),
            "a later event is visible before an earlier one"
        );
        waits.then_some(())
    })
    .await;
    // The one that waits has not drawn its id yet.
    let last = insert(one.instance.id).fetch_one(&mut *first).await.unwrap();
    assert_eq!(fixture.cms.latest_event_id().await.unwrap(), before);
    first.commit().await.unwrap();
    let second = second.await.unwrap().unwrap();
    assert!(second > last, "{second} was drawn before {last}");
}

#[tokio::test]
async fn times_of_events_rise_with_their_ids() {
    let fixture = Fixture::start().await;
    let id = fixture.create("demo").await.instance.id;
    // Its transaction begins first, but it is its turn last.
    let mut last = fixture.pool.begin().await.unwrap();
    sqlx::query("select now()").execute(&mut *last).await.unwrap();
    let insert = || sqlx::query(INSERT).bind(id.0);
    insert().execute(&fixture.pool).await.unwrap();
    insert().execute(&mut *last).await.unwrap();
    last.commit().await.unwrap();
    let filter = EventFilter {
        instance_id: Some(id),
        user_name: None,
        after: Some(0),
        limit: 10,
    };
    let events = fixture.cms.list_events(&filter).await.unwrap();
    assert_eq!(events.len(), 3);
    assert!(events.is_sorted_by_key(|event| event.created_at), "{events:?}");
}

#[tokio::test]
async fn who_stands_still_with_the_order_of_events_loses_its_transaction() {
    let fixture = Fixture::start().await;
    let id = fixture.create("demo").await.instance.id;
    let mut transaction = fixture.pool.begin().await.unwrap();
    sqlx::query(INSERT)
        .bind(id.0)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let setting = "select current_setting('idle_in_transaction_session_timeout')";
    let inside: String = sqlx::query_scalar(setting)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    assert_eq!(inside, "10s");
    transaction.rollback().await.unwrap();
    let outside: String = sqlx::query_scalar(setting)
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(outside, "0");
}

/// One life of an instance, with everything that writes events or waits for rows on the way.
async fn live(fixture: &Fixture, name: &str) {
    let cms = &fixture.cms;
    let fresh = fixture.create_failed(name).await;
    let id = fresh.instance.id;
    let retried = cms
        .retry_operation(fresh.operation.id, QuotaLimits::default(), &origin())
        .await
        .unwrap();
    let replaced = cms.replace_actor(id, retried.incarnation, None).await.unwrap();
    let scope = Scope {
        instance_id: id,
        incarnation: replaced.unwrap(),
        operation_id: Some(retried.operation.id),
    };
    cms.begin_operation(&scope).await.unwrap();
    cms.begin_step(&scope, "deploy-postgres").await.unwrap();
    let endpoint = crate::support::endpoint();
    cms.record_running(&scope, &endpoint, None, None, &check(0, true))
        .await
        .unwrap();
    for n in 1..4 {
        cms.record_health_check(&scope, &check(n, false), None, None)
            .await
            .unwrap();
    }
    cms.record_alarm(&scope, Reason::StorageMissing, "gone")
        .await
        .unwrap();
    for drift in cms.list_drift().await.unwrap() {
        cms.resolve_drift(drift.id, &origin()).await.unwrap();
    }
    cms.record_health_check(&scope, &check(5, true), None, None)
        .await
        .unwrap();
    let patch = PatchInstanceRequest {
        tags: Some([("a".to_owned(), Some("b".to_owned()))].into()),
        deletion_protection: None,
    };
    let selector = InstanceSelector::Id(id);
    cms.update_instance(&selector, &patch, &|_| true, &origin())
        .await
        .unwrap();
    fixture.delete(id).await;
}

#[tokio::test]
async fn who_follows_all_instances_misses_nothing_and_nobody_waits_for_ever() {
    let fixture = Arc::new(Fixture::start().await);
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                for round in 0..4 {
                    live(&fixture, &format!("db-{writer}-{round}")).await;
                }
            })
        })
        .collect();
    let follower = {
        let fixture = Arc::clone(&fixture);
        tokio::spawn(async move {
            let mut seen = vec![0];
            // As many as each life writes.
            while seen.len() <= 8 * 4 * 11 {
                let filter = EventFilter {
                    instance_id: None,
                    user_name: None,
                    after: seen.last().copied(),
                    limit: 3,
                };
                let events = fixture.cms.list_events(&filter).await.unwrap();
                seen.extend(events.iter().map(|event| event.id));
                tokio::task::yield_now().await;
            }
            seen
        })
    };
    // A deadlock would fail one of them: the database ends it with an error.
    for writer in writers {
        writer.await.unwrap();
    }
    let seen = tokio::time::timeout(LONG, follower)
        .await
        .expect("the follower has missed an event")
        .unwrap();
    let all = fixture.list_events(None, Some(0)).await;
    assert_eq!(all.iter().map(|event| event.id).collect::<Vec<_>>(), seen[1..]);
}

async fn next(changes: &mut Changes) -> Change {
    tokio::time::timeout(LONG, changes.next())
        .await
        .expect("a change was expected")
        .unwrap()
}

#[tokio::test]
async fn changes_are_told_when_they_are_committed() {
    let fixture = Fixture::start().await;
    let mut changes = fixture.cms.listen().await.unwrap();
    let fresh = fixture.create("demo").await;
    let operation = Change::Operation(fresh.operation.id);
    assert_eq!(next(&mut changes).await, operation);
    assert_eq!(next(&mut changes).await, Change::Event);
    fixture.cms.begin_operation(&fresh.scope).await.unwrap();
    assert_eq!(next(&mut changes).await, operation);
    fixture
        .cms
        .begin_step(&fresh.scope, "deploy-postgres")
        .await
        .unwrap();
    assert_eq!(next(&mut changes).await, operation);
    for _ in 0..2 {
        fixture
            .cms
            .note_step(&fresh.scope, "deploy-postgres", Reason::Queued, "waits")
            .await
            .unwrap();
    }
    assert_eq!(next(&mut changes).await, operation);
    // The second note changed nothing, and what nobody knows is passed over: the next is the next real change.
    for payload in ["", "operation:x", "operation:", "from-the-future:1"] {
        sqlx::query("select pg_notify('toygres_changes', $1)")
            .bind(payload)
            .execute(&fixture.pool)
            .await
            .unwrap();
    }
    fixture.execute("update cms.operations set state = state").await;
    fixture
        .cms
        .replace_actor(fresh.instance.id, 1, None)
        .await
        .unwrap();
    assert_eq!(next(&mut changes).await, Change::Event);
    let scope = Scope {
        incarnation: 2,
        ..fresh.scope
    };
    fixture.cms.record_failed(&scope, &error()).await.unwrap();
    assert_eq!(next(&mut changes).await, operation);
    assert_eq!(next(&mut changes).await, Change::Event);

    let mut rolled_back = fixture.pool.begin().await.unwrap();
    sqlx::query(INSERT)
        .bind(fresh.instance.id.0)
        .execute(&mut *rolled_back)
        .await
        .unwrap();
    rolled_back.rollback().await.unwrap();
    fixture
        .execute("update cms.operations set error_message = 'other'")
        .await;
    assert_eq!(next(&mut changes).await, operation);
}

#[tokio::test]
async fn who_listens_takes_no_connection_of_the_pool_and_may_stop_waiting() {
    let fixture = Fixture::start().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with((*fixture.pool.connect_options()).clone())
        .await
        .unwrap();
    let cms = Cms::new(pool, key(1));
    let mut changes = cms.listen().await.unwrap();
    let mut others = cms.listen().await.unwrap();
    cms.ping().await.unwrap();
    for n in 0..20 {
        let fresh = fixture.create(&format!("db-{n}")).await;
        // Given up again and again while it arrives.
        let expected = [Change::Operation(fresh.operation.id), Change::Event];
        let mut seen = Vec::new();
        while seen.len() < 2 {
            tokio::select! {
                biased;
                change = changes.next() => seen.push(change.unwrap()),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(seen, expected);
        assert_eq!([next(&mut others).await, next(&mut others).await], expected);
    }
}

#[tokio::test]
async fn a_lost_connection_is_told_once_it_is_there_again() {
    let server = TestPostgres::start().await;
    let pool = connect(&server.new_database().await).await;
    migrate(&pool).await.unwrap();
    let fixture = Fixture {
        cms: Cms::new(pool.clone(), key(1)),
        pool,
    };
    let mut changes = fixture.cms.listen().await.unwrap();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN%'";
    assert_eq!(fixture.execute(end).await, 1);
    assert_eq!(next(&mut changes).await, Change::Reconnected);
    let fresh = fixture.create("demo").await;
    assert_eq!(next(&mut changes).await, Change::Operation(fresh.operation.id));
    assert_eq!(next(&mut changes).await, Change::Event);

    server.crash();
    let away = tokio::time::timeout(LONG, changes.next()).await.unwrap();
    crate::support::assert_error(away, ErrorKind::Unavailable, "database_unavailable");
    server.restart().await;
    assert_eq!(next(&mut changes).await, Change::Reconnected);
    fixture.cms.ping().await.unwrap();
    fixture.create("other").await;
    assert!(matches!(next(&mut changes).await, Change::Operation(_)));
}
