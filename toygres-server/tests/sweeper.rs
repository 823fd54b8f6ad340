//! What falls through is found: actors that were never started, that ended, and what ended instances left behind.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use sqlx::{Connection as _, PgConnection, PgPool};
use std::sync::Arc;
use std::time::Duration;
use toygres_engine::{Engine, EngineConfig};
use toygres_models::Secret;
use toygres_models::operations::OperationState;
use toygres_platform::local::{LocalConfig, LocalPlatform};
use toygres_testing::{TestHome, TestServer, TestServerOptions, wait_for};

const PASSWORD: &str = "sweeper-secret";

async fn execute(server: &TestServer, sql: &str) {
    let mut connection = PgConnection::connect(&server.database_url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

async fn number(server: &TestServer, sql: &str) -> i64 {
    let mut connection = PgConnection::connect(&server.database_url).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

async fn incarnation(server: &TestServer) -> i64 {
    number(server, "select max(incarnation) from cms.instances").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_actor_was_never_started_is_done_all_the_same() {
    // An API without workers writes the row and starts the actor; that start is then lost, as in a crash between.
    let settings = vec![("TOYGRES_MODE".to_owned(), "api".to_owned())];
    let api = TestServer::start_with(TestServerOptions {
        settings,
        ..Default::default()
    })
    .await;
    let accepted = api.create("lost", PASSWORD).await;
    execute(&api, "delete from duroxide.orchestrator_queue").await;
    let (database_url, home) = api.stop().await;

    let options = TestServerOptions {
        database_url: Some(database_url),
        home: Some(home),
        ..Default::default()
    };
    let server = TestServer::start_with(options).await;
    let operation = server.ended(&accepted).await;
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_stands_still_is_replaced_and_one_that_waits_for_its_next_check_is_not() {
    let rarely = (
        "TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS".to_owned(),
        "3600".to_owned(),
    );
    let server = TestServer::start_with(TestServerOptions {
        settings: vec![rarely],
        ..Default::default()
    })
    .await;
    for name in ["waiting", "stuck", "stuck-too"] {
        let accepted = server.create(name, PASSWORD).await;
        server.ended(&accepted).await;
    }
    let of = |name| format!("select incarnation from cms.instances where name = '{name}'");
    let quiet =
        "update cms.instances set progressed_at = now() - interval '50 minutes' where name = 'waiting'";
    execute(&server, quiet).await;
    // One after the other: what is not done to the first one until the last one was left out by a whole sweep.
    for name in ["stuck", "stuck-too"] {
        let stuck = format!(
            "delete from duroxide.orchestrator_queue where instance_id like \
             'actor-' || (select id from cms.instances where name = '{name}') || '-%'; \
             update cms.instances set progressed_at = now() - interval '2 hours' where name = '{name}'"
        );
        execute(&server, &stuck).await;
        wait_for("another incarnation", Duration::from_secs(60), || async {
            (number(&server, &of(name)).await == 2).then_some(())
        })
        .await;
    }
    assert_eq!(number(&server, &of("waiting")).await, 1);
    let deletion = server.request_delete("stuck").await;
    assert_eq!(server.ended(&deletion).await.state, OperationState::Succeeded);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_kept_as_long_as_is_said() {
    let settings = [
        "TOYGRES_PRUNE_INTERVAL_SECONDS",
        "TOYGRES_RETENTION_EXECUTIONS",
        "TOYGRES_RETENTION_ORCHESTRATIONS_SECONDS",
        "TOYGRES_RETENTION_HEALTH_CHECKS_SECONDS",
        "TOYGRES_RETENTION_EVENTS_SECONDS",
        "TOYGRES_RETENTION_OPERATIONS_SECONDS",
        "TOYGRES_RETENTION_IDEMPOTENCY_KEYS_SECONDS",
    ];
    let server = TestServer::start_with(TestServerOptions {
        settings: settings.map(|name| (name.to_owned(), "1".to_owned())).to_vec(),
        ..Default::default()
    })
    .await;
    let accepted = server.create("over", PASSWORD).await;
    server.ended(&accepted).await;
    let first = "select count(*) from duroxide.history where instance_id like 'actor-%' and execution_id = 1";
    wait_for("its first execution to go", Duration::from_secs(120), || async {
        (number(&server, first).await == 0).then_some(())
    })
    .await;
    let deletion = server.request_delete("over").await;
    server.ended(&deletion).await;
    let rest = "select (select count(*) from duroxide.instances) + (select count(*) from duroxide.history) + \
                (select count(*) from cms.operations) + (select count(*) from cms.instance_events) + \
                (select count(*) from cms.health_checks) + (select count(*) from cms.idempotency_keys)";
    wait_for("all of it to go", Duration::from_secs(60), || async {
        (number(&server, rest).await == 0).then_some(())
    })
    .await;
    assert_eq!(number(&server, "select count(*) from cms.instances").await, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_ended_is_replaced_and_the_old_one_is_fenced_off() {
    let server = TestServer::start().await;
    let accepted = server.create("orphan", PASSWORD).await;
    server.ended(&accepted).await;
    assert_eq!(incarnation(&server).await, 1);

    let pool = PgPool::connect(&server.database_url).await.unwrap();
    let config = EngineConfig::new(Secret::new(server.database_url.clone()));
    let engine = Engine::connect(config, pool).await.unwrap();
    let id = format!("actor-{}-1", accepted.instance.id);
    engine.client().cancel(&id, "by the test").await.unwrap();
    wait_for("another incarnation", Duration::from_secs(60), || async {
        (incarnation(&server).await == 2).then_some(())
    })
    .await;

    let before = server
        .get("/api/instances/orphan/health")
        .await
        .1
        .as_array()
        .map_or(0, Vec::len);
    wait_for("it to be watched again", Duration::from_secs(60), || async {
        let (_, checks) = server.get("/api/instances/orphan/health").await;
        (checks.as_array()?.len() > before + 1).then_some(())
    })
    .await;
    let deletion = server.request_delete("orphan").await;
    assert_eq!(server.ended(&deletion).await.state, OperationState::Succeeded);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ended_instance_left_is_removed_and_what_nobody_knows_is_only_reported() {
    let server = TestServer::start().await;
    let accepted = server.create("ghost", PASSWORD).await;
    server.ended(&accepted).await;
    let instances = server.home.path().join("instances");
    let directory = instances.join(format!("ghost-{}", accepted.instance.id.short()));
    let record = std::fs::read_to_string(directory.join("instance.json")).unwrap();
    let deletion = server.request_delete("ghost").await;
    server.ended(&deletion).await;
    assert!(!directory.exists());

    // As if a process that had been stopped in the middle of making it went on after the deletion.
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("instance.json"), &record).unwrap();
    // And one that no row knows.
    let stranger = toygres_models::InstanceId::generate();
    let unknown = instances.join(format!("ghost-{}", stranger.short()));
    std::fs::create_dir(&unknown).unwrap();
    let foreign = record.replace(&accepted.instance.id.to_string(), &stranger.to_string());
    std::fs::write(unknown.join("instance.json"), foreign).unwrap();

    // And one that does not even say whose it is.
    let nameless = instances.join("nobody-knows");
    std::fs::create_dir(&nameless).unwrap();

    wait_for("the leftover to go", Duration::from_secs(60), || async {
        (!directory.exists()).then_some(())
    })
    .await;
    wait_for(
        "the strangers to be reported",
        Duration::from_secs(60),
        || async {
            let mut connection = PgConnection::connect(&server.database_url).await.ok()?;
            let sql =
                "select object from cms.drift_findings where kind = 'unknown_object' and resolved_at is null";
            let objects: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.ok()?;
            let reported =
                |directory: &std::path::Path| objects.iter().any(|object| directory.ends_with(object));
            (reported(&unknown) && reported(&nameless)).then_some(())
        },
    )
    .await;
    assert!(nameless.exists());
    assert!(unknown.exists(), "what nobody knows is left alone");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_has_found_another_does_not_take_for_gone() {
    let home = Arc::new(TestHome::new());
    let mut servers: Vec<TestServer> = Vec::new();
    for host in ["one", "two"] {
        let directory = home.path().join(host);
        let config = LocalConfig::new(directory.clone()).host(host.to_owned());
        let platform = LocalPlatform::open(config).await.unwrap();
        std::fs::create_dir(directory.join("instances").join(format!("nobody-knows-{host}"))).unwrap();
        let options = TestServerOptions {
            database_url: servers.first().map(|server| server.database_url.clone()),
            home: Some(Arc::clone(&home)),
            platform: Some(Arc::new(platform)),
            ..Default::default()
        };
        servers.push(TestServer::start_with(options).await);
    }
    // Each has swept three times more, by when the other one would have taken it for gone.
    let swept = "select count(*) from cms.drift_findings d where object = 'nobody-knows-' || host \
                 and resolved_at is null and last_seen_at > first_seen_at + interval '14 seconds'";
    wait_for("both to be found and kept", Duration::from_secs(120), || async {
        let mut connection = PgConnection::connect(&servers[0].database_url).await.ok()?;
        let kept: i64 = sqlx::query_scalar(swept).fetch_one(&mut connection).await.ok()?;
        (kept == 2).then_some(())
    })
    .await;
    let (_, drift) = servers[0].get("/api/server/drift").await;
    assert_eq!(drift.as_array().map(Vec::len), Some(2), "{drift}");
    for server in servers {
        server.stop().await;
    }
}
