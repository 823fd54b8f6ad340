//! The main job, end to end: somebody asks for a database and gets a running, watched PostgreSQL; deletes it, and
//! nothing is left.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use sqlx::{Connection as _, PgConnection};
use std::time::Duration;
use toygres_models::operations::OperationState;
use toygres_testing::{TestServer, TestServerOptions, wait_for};

const PASSWORD: &str = "whole-path-secret";

async fn query(url: &str, sql: &str) -> Option<i32> {
    let mut connection = PgConnection::connect(url).await.ok()?;
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.ok()
}

/// What is left of instances below a home.
fn left_over(server: &TestServer) -> Vec<String> {
    let entries = |directory: &str| {
        std::fs::read_dir(server.home.path().join(directory))
            .into_iter()
            .flatten()
    };
    let names = entries("instances").chain(entries("trash")).flatten();
    names
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_by_one_call_and_nothing_left_after_another() {
    let server = TestServer::start().await;
    let accepted = server.create("demo", PASSWORD).await;
    assert_eq!(accepted.instance.state.as_str(), "creating");
    assert_eq!(accepted.password, None, "a chosen password is not shown again");
    let created = server.ended(&accepted).await;
    assert_eq!(created.state, OperationState::Succeeded, "{created:?}");
    let steps: Vec<&str> = created.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["deploy-postgres", "wait-for-ready", "test-connection"]);
    assert!(
        created
            .steps
            .iter()
            .all(|step| step.finished_at.is_some() && step.state.as_str() == "succeeded")
    );

    let (_, list) = server.get("/api/instances?state=running").await;
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(list[0]["health_status"], "healthy");

    let connection = server.connection("demo").await;
    assert_eq!(
        query(&connection.connection_string, "select 40 + 2").await,
        Some(42)
    );
    assert!(
        query(
            &connection.connection_string.replace(PASSWORD, "wrong"),
            "select 1"
        )
        .await
        .is_none()
    );

    wait_for("more health checks", Duration::from_secs(60), || async {
        let (_, checks) = server.get("/api/instances/demo/health").await;
        let newest = checks.as_array()?.get(..3)?.to_vec();
        newest.iter().all(|check| check["healthy"] == true).then_some(())
    })
    .await;

    let deletion = server.request_delete("demo").await;
    assert_eq!(deletion.instance.state.as_str(), "deleting");
    let again = server.request_delete("demo").await;
    assert_eq!(
        again.operation.id, deletion.operation.id,
        "deleting twice is one deletion"
    );
    let deleted = server.ended(&deletion).await;
    assert_eq!(deleted.state, OperationState::Succeeded, "{deleted:?}");
    // Nothing is left at the moment it is called deleted.
    assert_eq!(left_over(&server), Vec::<String>::new());
    assert!(
        PgConnection::connect(&connection.connection_string)
            .await
            .is_err()
    );

    let (status, _) = server.get("/api/instances/demo").await;
    assert_eq!(status, 404);
    let (status, by_id) = server
        .get(&format!("/api/instances/{}", accepted.instance.id))
        .await;
    assert_eq!((status.as_u16(), by_id["state"].as_str()), (200, Some("deleted")));
    let (_, events) = server
        .get(&format!("/api/instances/{}/events", accepted.instance.id))
        .await;
    assert!(
        events.as_array().is_some_and(|events| events.len() >= 3),
        "{events}"
    );

    // The name is free at once, and the new instance is another one.
    let second = server.create("demo", PASSWORD).await;
    assert_eq!(server.ended(&second).await.state, OperationState::Succeeded);
    assert_ne!(second.instance.id, accepted.instance.id);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgres_is_started_again_with_its_data() {
    let server = TestServer::start().await;
    let accepted = server.create("phoenix", PASSWORD).await;
    server.ended(&accepted).await;
    let url = server.connection("phoenix").await.connection_string;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("create table kept as select 7 as value")
        .execute(&mut connection)
        .await
        .unwrap();
    server.home.kill_servers();
    wait_for("the server to come back", Duration::from_secs(60), || async {
        query(&url, "select value from kept")
            .await
            .filter(|value| *value == 7)
    })
    .await;
    wait_for("it to be healthy again", Duration::from_secs(60), || async {
        let (_, instance) = server.get("/api/instances/phoenix").await;
        (instance["health_status"] == "healthy" && instance["state"] == "running").then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_outlive_the_control_plane() {
    let server = TestServer::start().await;
    let accepted = server.create("stays", PASSWORD).await;
    server.ended(&accepted).await;
    let url = server.connection("stays").await.connection_string;
    let (database_url, home) = server.stop().await;
    assert_eq!(
        query(&url, "select 1").await,
        Some(1),
        "it serves without the control plane"
    );

    let options = TestServerOptions {
        database_url: Some(database_url),
        home: Some(home),
        ..Default::default()
    };
    let server = TestServer::start_with(options).await;
    let before = server
        .get("/api/instances/stays/health")
        .await
        .1
        .as_array()
        .map_or(0, Vec::len);
    wait_for("it to be watched again", Duration::from_secs(60), || async {
        let (_, checks) = server.get("/api/instances/stays/health").await;
        (checks.as_array()?.len() > before).then_some(())
    })
    .await;
    let deletion = server.request_delete("stays").await;
    assert_eq!(server.ended(&deletion).await.state, OperationState::Succeeded);
    assert_eq!(left_over(&server), Vec::<String>::new());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_during_any_step_of_a_create_leaves_nothing() {
    let server = TestServer::start().await;
    for step in ["", "deploy-postgres", "wait-for-ready", "test-connection"] {
        let name = if step.is_empty() {
            "at-once".to_owned()
        } else {
            format!("at-{step}")
        };
        let accepted = server.create(&name, PASSWORD).await;
        let path = format!("/api/operations/{}", accepted.operation.id);
        wait_for("the step", Duration::from_secs(60), || async {
            let (_, operation) = server.get(&path).await;
            let steps = operation["steps"].as_array()?;
            (step.is_empty() || steps.iter().any(|s| s["name"] == step)).then_some(())
        })
        .await;
        let deletion = server.request_delete(&name).await;
        assert_eq!(
            server.ended(&deletion).await.state,
            OperationState::Succeeded,
            "{step}"
        );
        let created = server.ended(&accepted).await;
        assert!(
            matches!(
                created.state,
                OperationState::Cancelled | OperationState::Succeeded
            ),
            "{step}: {created:?}"
        );
        assert_eq!(left_over(&server), Vec::<String>::new(), "{step}");
    }
    server.stop().await;
}
