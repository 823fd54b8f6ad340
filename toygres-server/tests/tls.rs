//! What the control plane makes of a platform with TLS, addresses for outside, and things that differ.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection as _, PgConnection};
use std::sync::Arc;
use std::time::Duration;
use toygres_models::instances::Endpoint;
use toygres_models::operations::OperationState;
use toygres_testing::{StubPlatform, TestDatabase, TestPostgres, TestServer, TestServerOptions, wait_for};

const PASSWORD: &str = "tls-secret";
const LIMIT: Duration = Duration::from_secs(60);

/// A server on this platform that checks the health of instances every second.
async fn server(platform: &Arc<StubPlatform>) -> TestServer {
    let interval = ("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS".to_owned(), "1".to_owned());
    TestServer::start_with(TestServerOptions {
        settings: vec![interval],
        platform: Some(platform.clone()),
        ..Default::default()
    })
    .await
}

async fn running(server: &TestServer, name: &str) {
    let accepted = server.create(name, PASSWORD).await;
    let operation = server.ended(&accepted).await;
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
}

async fn read(server: &TestServer, path: &str) -> Value {
    let (status, answer) = server.get(path).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_what_the_api_says_connects_by_a_checked_certificate() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let postgres = TestPostgres::start_with_tls(&certificate.pem(), &key.serialize_pem()).await;
    let platform = StubPlatform::with_tls(&postgres.url("postgres"), authority.pem());
    let server = server(&platform).await;

    let answer = server
        .request(Method::GET, "/api/certificate-authority")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/x-pem-file".parse().unwrap())
    );
    let served = answer.text().await.unwrap();
    assert_eq!(served, authority.pem());

    running(&server, "demo").await;
    let checks = read(&server, "/api/instances/demo/health").await;
    assert_eq!(checks[0]["healthy"], true, "{checks}");
    let path = "/api/instances/demo/connection";
    let inside = read(&server, path).await;
    let port = postgres.port();
    assert_eq!(
        inside["connection_string"],
        format!("postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=verify-full")
    );
    assert_eq!(inside.get("internal_connection_string"), None);

    platform.expose(Some(Endpoint {
        host: "localhost".to_owned(),
        port,
    }));
    let outside = wait_for("the address for outside", LIMIT, async || {
        let connection = read(&server, path).await;
        (connection["host"] == "localhost").then_some(connection)
    })
    .await;
    assert_eq!(outside["internal_connection_string"], inside["connection_string"]);
    let instance = read(&server, "/api/instances/demo").await;
    assert_eq!(
        instance["external_endpoint"],
        json!({"host": "localhost", "port": port})
    );
    let options: PgConnectOptions = outside["connection_string"].as_str().unwrap().parse().unwrap();
    assert!(matches!(options.get_ssl_mode(), PgSslMode::VerifyFull));
    let options = options.ssl_root_cert_from_pem(served.into_bytes());
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    let secured: bool = sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(secured);

    platform.expose(None);
    wait_for("the address for outside to go", LIMIT, async || {
        (read(&server, path).await == inside).then_some(())
    })
    .await;
    assert_eq!(
        read(&server, "/api/instances/demo")
            .await
            .get("external_endpoint"),
        None
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_made_right_by_the_next_check_and_said_once() {
    let platform = StubPlatform::new(&TestDatabase::new().await.url);
    let server = server(&platform).await;
    running(&server, "demo").await;
    let repaired = async || {
        let events = read(&server, "/api/instances/demo/events").await;
        let events = events.as_array().unwrap().iter();
        let repaired = events.filter(|event| event["kind"] == "repaired");
        repaired
            .map(|event| event["message"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert!(repaired().await.is_empty());
    for (difference, said) in [
        ("the service is missing", vec!["the service is missing"]),
        ("the service is missing", vec!["the service is missing"]),
        (
            "the policy differs",
            vec!["the service is missing", "the policy differs"],
        ),
    ] {
        platform.differ(difference);
        wait_for("it to be made right", LIMIT, async || {
            (!platform.differs() && repaired().await == said).then_some(())
        })
        .await;
    }
    let instance = read(&server, "/api/instances/demo").await;
    assert_eq!(
        (&instance["state"], &instance["health_status"]),
        (&json!("running"), &json!("healthy"))
    );
    server.stop().await;
}
