//! A database that is away, comes back, refuses or lacks things: named, and retryable only when waiting helps.

use crate::support::{Fixture, assert_error, connect, key};
use sqlx::postgres::PgPoolOptions;
use std::time::Duration;
use toygres_cms::{Cms, InstanceFilter, migrate};
use toygres_models::{ErrorKind, InstanceId, Scope};
use toygres_testing::{TestDatabase, TestPostgres, wait_for};

fn impatient() -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(1))
}

#[tokio::test]
async fn an_outage_is_unavailable_and_passes() {
    let server = TestPostgres::start().await;
    let pool = impatient().connect(&server.new_database().await).await.unwrap();
    migrate(&pool).await.unwrap();
    let cms = Cms::new(pool.clone(), key(1));
    let scope = Scope {
        instance_id: InstanceId::generate(),
        incarnation: 1,
        operation_id: None,
    };
    server.crash();
    for _ in 0..2 {
        let error = assert_error(cms.ping().await, ErrorKind::Unavailable, "database_unavailable");
        assert!(error.retryable() && error.next_step().is_some() && !error.detail().is_empty());
        assert_error(
            cms.intent(&scope).await,
            ErrorKind::Unavailable,
            "database_unavailable",
        );
        assert_error(
            migrate(&pool).await,
            ErrorKind::Unavailable,
            "database_unavailable",
        );
    }
    server.restart().await;
    cms.ping().await.unwrap();
    assert_error(cms.intent(&scope).await, ErrorKind::Superseded, "superseded");
}

#[tokio::test]
async fn a_pool_that_is_used_up_and_a_statement_cut_off_are_unavailable() {
    let database = TestDatabase::new().await;
    let pool = impatient()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(2));
    let pool = pool.connect(&database.url).await.unwrap();
    migrate(&pool).await.unwrap();
    let cms = Cms::new(pool.clone(), key(1));
    let held = pool.acquire().await.unwrap();
    assert_error(cms.ping().await, ErrorKind::Unavailable, "database_unavailable");
    drop(held);

    sqlx::query("set statement_timeout = '50ms'")
        .execute(&pool)
        .await
        .unwrap();
    let other = connect(&database.url).await;
    let mut lock = other.begin().await.unwrap();
    sqlx::query("lock table cms.instances in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    let cut = cms.list_instances(&InstanceFilter::default()).await;
    assert_error(cut, ErrorKind::Unavailable, "database_unavailable");
    lock.rollback().await.unwrap();
    sqlx::query("set statement_timeout = 0")
        .execute(&pool)
        .await
        .unwrap();
    cms.list_instances(&InstanceFilter::default()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_ended_under_a_query_is_unavailable() {
    let fixture = Fixture::start().await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("lock table cms.instances in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    let cms = fixture.cms.clone();
    let listing = tokio::spawn(async move { cms.list_instances(&InstanceFilter::default()).await });
    let ended = "select pg_terminate_backend(pid) from pg_stat_activity \
                 where datname = current_database() and wait_event_type = 'Lock'";
    wait_for("the query to wait", Duration::from_secs(20), || async {
        (fixture.execute(ended).await == 1).then_some(())
    })
    .await;
    let cut = listing.await.unwrap();
    assert_error(cut, ErrorKind::Unavailable, "database_unavailable");
    lock.rollback().await.unwrap();
    fixture.cms.ping().await.unwrap();
}

#[tokio::test]
async fn a_wrong_set_up_is_named_and_no_retry_is_promised() {
    let database = TestDatabase::new().await;
    let bare = connect(&database.url).await;
    let cms = Cms::new(bare, key(1));
    let missing = cms.list_instances(&InstanceFilter::default()).await;
    assert_error(missing, ErrorKind::Config, "database_not_migrated");

    let nowhere = format!("{}x", database.url.split('?').next().unwrap());
    let pool = impatient().connect_lazy(&nowhere).unwrap();
    assert_error(
        Cms::new(pool, key(1)).ping().await,
        ErrorKind::Config,
        "database_missing",
    );
    let nobody = database.url.replace("postgres@", "nobody@");
    let pool = impatient().connect_lazy(&nobody).unwrap();
    assert_error(
        Cms::new(pool, key(1)).ping().await,
        ErrorKind::Config,
        "database_login_refused",
    );
}
