//! What happens when there is too much to do, or nothing to do it with.

use crate::support::{Operation, api, document, operations, owned, problem, refused, token};
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use sqlx::{Connection as _, PgConnection, PgPool};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use toygres_testing::{StubPlatform, TestPostgres, TestServer, TestServerOptions, wait_for};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_waits_as_it_is_told_and_nobody_else_does() {
    let mut server = api(&[("TOYGRES_RATE_LIMIT_PER_SECOND", "2")]).await;
    let admin = token(&server, "admin", "admin", None).await;
    server.token = Some(admin.clone());
    let other = token(&server, "other", "read", None).await;
    let get = |token: Option<&str>| server.request_as(token, Method::GET, "/api/instances");
    let wait = async |token: Option<&str>| {
        for _ in 0..200 {
            let answer = get(token).send().await.unwrap();
            let Some(wait) = answer.headers().get("retry-after") else {
                continue;
            };
            let wait: u64 = wait.to_str().unwrap().parse().unwrap();
            let (status, problem) = problem(answer).await;
            assert_eq!((status, &problem["code"]), (429, &json!("rate_limited")));
            return wait;
        }
        panic!("nothing was ever limited");
    };
    let seconds = wait(Some(&admin)).await;
    assert_eq!(seconds, 1, "two a second, so the next one within a second");
    assert_eq!(
        get(Some(&other)).send().await.unwrap().status(),
        200,
        "another token is another client"
    );
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    assert_eq!(
        get(Some(&admin)).send().await.unwrap().status(),
        200,
        "what was said is true"
    );

    // Who guesses is slowed down as well, by where it comes from; who has a token is not.
    let mut guesses = Vec::new();
    for n in 0..50 {
        guesses.push(refused(get(Some(&format!("guess-{n}")))).await.0);
    }
    assert_eq!(guesses[0], 401);
    assert!(
        guesses.iter().filter(|status| **status == 429).count() > 25,
        "{guesses:?}"
    );
    // A place comes back twice a second, also for these.
    let without = join_all((0..5).map(|_| refused(get(None)))).await;
    assert!(without.iter().any(|(status, _)| *status == 429), "{without:?}");
    let elsewhere = reqwest::Client::builder()
        .local_address("127.0.0.2".parse::<std::net::IpAddr>().unwrap())
        .build()
        .unwrap();
    let url = format!("{}/api/instances", server.url);
    let status = elsewhere.get(url).send().await.unwrap().status();
    assert_eq!(status, 401, "another address is another client");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(get(Some(&admin)).send().await.unwrap().status(), 200);

    // Two of them ask the database, which few can do at once.
    for (path, times) in [("/health", 20), ("/livez", 100), ("/readyz", 20)] {
        let answers = join_all((0..times).map(|_| server.request(Method::GET, path).send())).await;
        assert!(
            answers
                .iter()
                .all(|answer| answer.as_ref().unwrap().status() == 200),
            "{path}"
        );
    }
    server.stop().await;
}

/// Keeps everybody from reading a table until the connection is closed.
async fn hold(server: &TestServer, table: &str) -> PgConnection {
    let mut connection = PgConnection::connect(&server.database_url).await.unwrap();
    let sql = format!("begin; lock table {table} in access exclusive mode");
    sqlx::raw_sql(&sql).execute(&mut connection).await.unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_crowd_without_tokens_asks_whether_there_are_any() {
    let server = api(&[]).await;
    let ask = || server.request(Method::GET, "/api/instances").send();
    assert_eq!(ask().await.unwrap().status(), 200);
    let held = hold(&server, "cms.api_tokens").await;
    let watch = PgPool::connect(&server.database_url).await.unwrap();
    let waiting = async || -> i64 {
        let sql = "select count(*) from pg_locks where not granted and relation = 'cms.api_tokens'::regclass";
        sqlx::query_scalar(sql).fetch_one(&watch).await.unwrap()
    };
    // Until what is known is old, and then it asks.
    let first = async {
        loop {
            assert_eq!(ask().await.unwrap().status(), 200);
        }
    };
    let crowd = async {
        wait_for("the question", PATIENCE, || async {
            (waiting().await > 0).then_some(())
        })
        .await;
        for answer in join_all((0..100).map(|_| ask())).await {
            assert_eq!(answer.unwrap().status(), 200);
        }
        assert!(waiting().await <= 1);
    };
    tokio::select! {
        () = first => {}
        () = crowd => {}
    }
    held.close().await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_byte_by_byte_is_cut_off() {
    let server = api(&[]).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let head = format!(
        "POST /api/instances HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: 60000\r\n\r\n{{\"name\":"
    );
    to.write_all(head.as_bytes()).await.unwrap();
    let dribble = async {
        while to.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut answer = Vec::new();
    // Told why, and left.
    let closed = async { from.read_to_end(&mut answer).await.ok() };
    tokio::time::timeout(PATIENCE, async { tokio::join!(closed, dribble) })
        .await
        .unwrap_or_else(|_| panic!("it is not cut off: {}", String::from_utf8_lossy(&answer)));
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains(r#""code":"timeout""#), "{answer}");
    server.stop().await;
}

/// A valid call, as far as one can be without knowing what is there.
fn call(server: &TestServer, operation: &Operation) -> RequestBuilder {
    let value = match operation.template.as_str() {
        path if path.starts_with("/api/instances/") => "demo",
        path if path.starts_with("/api/quotas/") => "someone",
        path if path.contains("/drift/") => "1",
        path if path.contains("/orchestration-flows/") => "instance-actor",
        _ => "0198a000-0000-7000-8000-000000000000",
    };
    let request = server.request(operation.method.clone(), &operation.path(value));
    match operation.body_schema() {
        Some(_) => request.json(&operation.body_example()),
        None => request,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_every_operation_says_so_soon_and_it_comes_back_by_itself() {
    // What needs no database, once it is known that there are no tokens.
    const KNOWN: [&str; 5] = [
        "/api/certificate-authority",
        "/api/server/config",
        "/api/server/logs",
        "/api/server/orchestration-flows",
        "/api/server/orchestration-flows/{name}",
    ];
    let postgres = TestPostgres::start().await;
    let mut servers = Vec::new();
    for with_token in [true, false] {
        let database_url = postgres.new_database().await;
        let options = TestServerOptions {
            database_url: Some(database_url.clone()),
            settings: owned(&[]),
            platform: Some(StubPlatform::new(&database_url)),
            ..Default::default()
        };
        let mut server = TestServer::start_with(options).await;
        let accepted = server.create("demo", "outage-password").await;
        server.ended(&accepted).await;
        if with_token {
            server.token = Some(token(&server, "admin", "admin", None).await);
        }
        assert_eq!(server.get("/api/instances").await.0, 200);
        servers.push((with_token, server));
    }
    let all = operations(&document(&servers[0].1).await);
    postgres.stop();

    for (with_token, server) in &servers {
        let begun = Instant::now();
        let answers = join_all(all.iter().map(|operation| call(server, operation).send())).await;
        // They all wait for the database at once, for three seconds each.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        for (operation, answer) in all.iter().zip(answers) {
            let answer = answer.unwrap();
            let status = answer.status().as_u16();
            match operation.template.as_str() {
                "/livez" | "/api/openapi.json" => assert_eq!(status, 200, "{operation}"),
                "/health" | "/readyz" => assert_eq!(status, 503, "{operation}"),
                path if !with_token && KNOWN.contains(&path) => {
                    assert!(status < 500, "{operation}: {status}")
                }
                _ => {
                    assert!(
                        answer.headers().contains_key("retry-after"),
                        "{operation}: {status}"
                    );
                    let (status, problem) = problem(answer).await;
                    assert_eq!(
                        (status, &problem["code"]),
                        (503, &json!("database_unavailable")),
                        "{operation}"
                    );
                }
            }
        }
    }

    postgres.restart().await;
    for (_, server) in servers {
        wait_for("the server to come back", PATIENCE, || async {
            (server.get("/api/instances").await.0 == 200).then_some(())
        })
        .await;
        let accepted = server.create("afterwards", "outage-password").await;
        assert_eq!(server.ended(&accepted).await.state.as_str(), "succeeded");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_holds_nobody_for_long() {
    let server = api(&[]).await;
    server.create("demo", "hanging-password").await;
    let held = hold(&server, "cms.instances").await;
    let begun = Instant::now();
    // More than there are connections.
    let answers = join_all((0..20).map(|_| server.request(Method::GET, "/api/instances").send())).await;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    for answer in answers {
        let answer = answer.unwrap();
        assert!(answer.headers().contains_key("retry-after"));
        assert_eq!(problem(answer).await.0, 503);
    }
    held.close().await.unwrap();
    wait_for("it to go on", PATIENCE, || async {
        (server.get("/api/instances").await.0 == 200).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_stop_serves_on_until_balancers_know() {
    const DELAY: u64 = 10;
    let server = api(&[("TOYGRES_SHUTDOWN_DELAY_SECONDS", &DELAY.to_string())]).await;
    let url = server.url.clone();
    let client = reqwest::Client::new();
    let get = async |path: &str| client.get(format!("{url}{path}")).send().await;
    let before = get("/api/instances").await.unwrap();
    assert_eq!(before.status(), 200);
    assert!(!before.headers().contains_key("connection"));

    let told = Instant::now();
    let stopped = tokio::spawn(server.stop());
    let probe = wait_for("the server to say that it is not ready", PATIENCE, || async {
        let answer = get("/readyz").await.unwrap();
        (answer.status() == 503).then_some(answer)
    })
    .await;
    assert_eq!(probe.headers()["connection"], "close");
    assert!(probe.text().await.unwrap().contains("stopping"));
    assert_eq!(get("/livez").await.unwrap().status(), 200);
    let meanwhile = get("/api/instances").await.unwrap();
    assert_eq!(meanwhile.status(), 200);
    assert_eq!(meanwhile.headers()["connection"], "close");

    stopped.await.unwrap();
    assert!(
        told.elapsed() >= Duration::from_secs(DELAY),
        "{:?}",
        told.elapsed()
    );
    assert!(get("/livez").await.unwrap_err().is_connect());
}
