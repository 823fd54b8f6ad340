//! The main job on a real cluster: somebody asks for a database and gets a running, watched PostgreSQL that takes TLS;
//! deletes it, and nothing is left. Its password is in no place but the one.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod cluster;

use cluster::{Cluster, PASSWORD, PATIENCE, object_name};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};
use reqwest::Method;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::time::Duration;
use toygres_models::operations::{Operation, OperationState};
use toygres_testing::wait_for;

const NEEDLE: &str = "a-line-of-its-own-log";

/// Everything of a namespace that Kubernetes may show to people who may not read its secrets.
async fn everything_but_secrets(cluster: &Cluster) -> String {
    let kinds = [
        ("", "v1", "Pod"),
        ("", "v1", "Event"),
        ("", "v1", "Service"),
        ("", "v1", "Endpoints"),
        ("", "v1", "ConfigMap"),
        ("", "v1", "PersistentVolumeClaim"),
        ("apps", "v1", "StatefulSet"),
        ("apps", "v1", "ControllerRevision"),
        ("networking.k8s.io", "v1", "NetworkPolicy"),
    ];
    let mut all = String::new();
    for (group, version, kind) in kinds {
        let kind = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, kind));
        let objects: Api<DynamicObject> =
            Api::namespaced_with(cluster.namespace.client.clone(), &cluster.namespace.name, &kind);
        let list = objects.list(&ListParams::default()).await.unwrap();
        all.push_str(&serde_json::to_string(&list.items).unwrap());
    }
    all
}

async fn whole_path(test: &str, version: &str) {
    let started = Cluster::start_with(test, |config| {
        config.versions = [version.parse().unwrap()].into();
    });
    let Some(cluster) = started.await else {
        return;
    };
    let server = &cluster.server;
    let accepted = cluster.create("demo").await;
    assert_eq!(accepted.instance.state.as_str(), "creating");
    cluster::note(&format!("{version} created"), cluster.succeeds(&accepted).await);
    let (_, operation) = server
        .get(&format!("/api/operations/{}", accepted.operation.id))
        .await;
    let operation: Operation = serde_json::from_value(operation).unwrap();
    let steps: Vec<&str> = operation.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["deploy-postgres", "wait-for-ready", "test-connection"]);
    assert_eq!(operation.state, OperationState::Succeeded);

    // By what the API says, over TLS, with the server's name checked.
    let mut connection = cluster.connect("demo").await.unwrap();
    let (answer, number, encrypted): (i32, String, bool) = sqlx::query_as(
        "select 40 + 2, current_setting('server_version_num'), ssl from pg_stat_ssl where pid = pg_backend_pid()",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(answer, 42);
    assert!(number.starts_with(version) && encrypted, "{number} {encrypted}");
    let string = server.connection("demo").await.connection_string;
    let unencrypted: PgConnectOptions = string.replace("verify-full", "disable").parse().unwrap();
    assert!(PgConnection::connect_with(&unencrypted).await.is_err());
    let wrong: PgConnectOptions = string
        .replace(PASSWORD, "wrong")
        .replace("verify-full", "require")
        .parse()
        .unwrap();
    assert!(PgConnection::connect_with(&wrong).await.is_err());

    wait_for("more health checks", PATIENCE, async || {
        let (_, checks) = server.get("/api/instances/demo/health").await;
        let checks = checks.as_array()?.clone();
        assert!(checks.iter().all(|check| check["healthy"] == true), "{checks:?}");
        (checks.len() >= 3).then_some(())
    })
    .await;
    // What was just made is as it should be.
    assert_eq!(cluster.events("demo", "repaired").await, Vec::<String>::new());

    // Its own log, as it was and as it is written.
    let followed = server
        .request(Method::GET, "/api/instances/demo/logs?tail=5&follow=true")
        .send()
        .await
        .unwrap();
    assert_eq!(followed.status(), 200);
    let mut followed = followed.bytes_stream();
    let said = format!("do $$ begin raise log '{NEEDLE}'; end $$");
    sqlx::raw_sql(&said).execute(&mut connection).await.unwrap();
    let mut seen = String::new();
    let heard = async {
        while !seen.contains(NEEDLE) {
            seen.push_str(&String::from_utf8_lossy(&followed.next().await.unwrap().unwrap()));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), heard)
        .await
        .unwrap();
    let (status, logs) = server.get("/api/instances/demo/logs?tail=100").await;
    assert_eq!(status, 200);
    assert!(logs.to_string().contains(NEEDLE), "{logs}");
    drop(followed);

    let mut shown = everything_but_secrets(&cluster).await;
    for path in [
        "/api/instances",
        "/api/instances/demo",
        "/api/instances/demo/events",
        "/api/instances/demo/health",
        "/api/instances/demo/logs?tail=1000",
        "/api/instances/demo/connection",
        "/api/operations",
        "/api/audit",
        "/api/server/orchestrations",
    ] {
        let (status, body) = server.get(path).await;
        assert!(status.is_success(), "{path}: {body}");
        shown.push_str(&body.to_string());
    }
    assert!(!shown.contains(PASSWORD), "the password is shown");
    let secrets: Api<Secret> = cluster.api();
    let holders: Vec<String> = secrets
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .filter(|secret| {
            let mut values = secret.data.iter().flatten().map(|(_, value)| &value.0);
            values.any(|value| String::from_utf8_lossy(value).contains(PASSWORD))
        })
        .filter_map(|secret| secret.metadata.name)
        .collect();
    assert_eq!(holders, [object_name(&accepted)]);

    let deletion = server.request_delete("demo").await;
    cluster::note(&format!("{version} deleted"), cluster.succeeds(&deletion).await);
    // At the moment it is called deleted.
    assert_eq!(cluster.objects().await, Vec::<String>::new());
    assert_eq!(server.get("/api/instances/demo").await.0, 404);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_version_15() {
    whole_path("kubernetes::kubernetes_path::a_database_of_version_15", "15").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_version_17() {
    whole_path("kubernetes::kubernetes_path::a_database_of_version_17", "17").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_version_18() {
    whole_path("kubernetes::kubernetes_path::a_database_of_version_18", "18").await;
}
