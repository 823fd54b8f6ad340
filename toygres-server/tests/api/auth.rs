//! Who may call what: tokens, scopes, owners, origins, and what the audit says of it.

use crate::support::{
    Operation, api, document, execute, logs, operations, problem, refused, stub, tables_with, token,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::time::Duration;
use toygres_models::{ErrorKind, InstanceId};
use toygres_platform::InstanceRef;
use toygres_testing::{TestHome, TestServer, TestServerOptions, wait_for};

/// What the document may leave open.
const OPEN: [&str; 4] = ["/api/openapi.json", "/health", "/livez", "/readyz"];
const SCOPES: [&str; 3] = ["read", "write", "admin"];

/// The operation as this caller would call it, with nothing behind it that is there.
fn call(server: &TestServer, operation: &Operation, token: Option<&str>) -> reqwest::RequestBuilder {
    let request = server.request_as(token, operation.method.clone(), &operation.path("absent"));
    match operation.body_schema() {
        Some(_) => request.json(&json!({})),
        None => request,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_takes_a_token_of_its_scope() {
    let mut server = api(&[]).await;
    let all = operations(&document(&server).await);
    let admin = token(&server, "admin", "admin", None).await;
    server.token = Some(admin.clone());
    let read = token(&server, "read", "read", None).await;
    let write = token(&server, "write", "write", None).await;
    let revoked = token(&server, "revoked", "admin", None).await;
    let (status, _) = server.delete("/api/tokens/revoked").await;
    assert_eq!(status, 200);
    let expired = token(&server, "expired", "admin", None).await;
    execute(
        &server,
        "update cms.api_tokens set expires_at = now() - interval '1 second' where name = 'expired'",
    )
    .await;
    let wrong = format!("{}x", &admin[..admin.len() - 1]);
    let tokens = [("read", &read), ("write", &write), ("admin", &admin)];

    let open: BTreeSet<&str> = all
        .iter()
        .filter(|it| it.scope.is_none())
        .map(|it| it.template.as_str())
        .collect();
    assert_eq!(open, BTreeSet::from(OPEN), "open is what is meant to be");

    for operation in &all {
        let Some(scope) = &operation.scope else {
            for token in [None, Some(wrong.as_str())] {
                let answer = call(&server, operation, token).send().await.unwrap();
                assert!(answer.status().is_success(), "{operation}: {}", answer.status());
            }
            continue;
        };
        let answer = call(&server, operation, None).send().await.unwrap();
        assert_eq!(
            answer.headers()["www-authenticate"],
            "Bearer realm=\"toygres\"",
            "{operation}"
        );
        let (status, body) = problem(answer).await;
        assert_eq!(
            (status, &body["code"]),
            (401, &json!("token_missing")),
            "{operation}"
        );
        for bad in [&wrong, &revoked, &expired, &"x".repeat(5000), &"tgr_".to_owned()] {
            let answer = call(&server, operation, Some(bad)).send().await.unwrap();
            assert!(answer.headers().contains_key("www-authenticate"), "{operation}");
            let (status, body) = problem(answer).await;
            assert_eq!(
                (status, &body["code"]),
                (401, &json!("token_invalid")),
                "{operation}"
            );
        }
        let wanted = SCOPES.iter().position(|known| known == scope).unwrap();
        for (at, (name, token)) in tokens.iter().enumerate() {
            let answer = call(&server, operation, Some(token)).send().await.unwrap();
            let status = answer.status();
            if at < wanted {
                let (status, body) = problem(answer).await;
                assert_eq!(
                    (status, &body["code"]),
                    (403, &json!("scope_missing")),
                    "{operation} as {name}"
                );
            } else {
                assert!(
                    status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN,
                    "{operation} as {name}: {status}"
                );
            }
        }
    }

    // What is beside the word Bearer is no token.
    for bad in ["", "Basic YTpi", "Bearer", &admin, &format!("Token {admin}")] {
        let request = server.request_as(None, Method::GET, "/api/instances");
        let (status, code) = refused(request.header("authorization", bad)).await;
        assert_eq!((status, code.as_str()), (401, "token_invalid"), "{bad}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_takes_more_than_the_rest_of_the_connection() {
    let mut server = api(&[]).await;
    server.create("demo", "canary-password").await;
    execute(
        &server,
        "update cms.instances set endpoint_host = '127.0.0.1', endpoint_port = 5432",
    )
    .await;
    server.token = Some(token(&server, "admin", "admin", None).await);
    let read = token(&server, "read", "read", None).await;
    let write = token(&server, "write", "write", None).await;
    let path = "/api/instances/demo/connection";
    let get = |token, path| server.request_as(Some(token), Method::GET, path);
    let plain = get(&read, path).send().await.unwrap();
    assert_eq!(plain.headers()["cache-control"], "no-store");
    let plain: Value = plain.json().await.unwrap();
    assert!(
        plain["password"].is_null() && !plain.to_string().contains("canary"),
        "{plain}"
    );
    let revealing = format!("{path}?reveal=true");
    assert_eq!(
        refused(get(&read, &revealing)).await,
        (403, "scope_missing".to_owned())
    );
    let shown: Value = get(&write, &revealing)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(shown["password"], "canary-password");
    assert!(!logs().contains("canary-password"), "the password is in the log");
    assert_eq!(
        tables_with(&server, "canary-password").await,
        Vec::<String>::new()
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_an_admins_and_closes_the_api() {
    let mut server = api(&[]).await;
    assert_eq!(server.get("/api/tokens").await.0, 200);
    for scope in ["read", "write"] {
        let body = json!({ "name": "first", "scope": scope });
        let (status, problem) = server.post("/api/tokens", &body).await;
        assert_eq!(
            (status.as_u16(), &problem["code"]),
            (409, &json!("first_token_must_be_admin"))
        );
    }
    let body = json!({ "name": "first", "scope": "admin", "user_name": "someone" });
    let (status, problem) = server.post("/api/tokens", &body).await;
    assert_eq!(
        (status.as_u16(), &problem["errors"][0]["field"]),
        (422, &json!("user_name"))
    );

    let request = server.request(Method::POST, "/api/tokens");
    let answer = request.json(&json!({ "name": "first", "scope": "admin" }));
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let created: Value = answer.json().await.unwrap();
    let text = created["text"].as_str().unwrap();
    assert_eq!(server.get("/api/tokens").await.0, 401, "closed at once");

    server.token = Some(text.to_owned());
    let hash: String = Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect();
    for path in [
        "/api/tokens",
        "/api/audit",
        "/api/server/config",
        "/api/events?after=0",
    ] {
        let mut answer = server.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let body = answer.chunk().await.unwrap().unwrap_or_default();
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(!body.contains(text) && !body.contains(&hash), "{path}: {body}");
    }
    let (status, problem) = server
        .post("/api/tokens", &json!({ "name": "first", "scope": "read" }))
        .await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (409, &json!("token_name_taken"))
    );
    assert_eq!(tables_with(&server, text).await, Vec::<String>::new());
    assert!(logs().contains("answered"), "the log was looked at");
    assert!(!logs().contains(text), "the token is in the log");

    // With its last token gone, the API is this machine's again; so it says.
    assert_eq!(server.delete("/api/tokens/first").await.0, 200);
    assert_eq!(
        server.get("/api/tokens").await.0,
        401,
        "a revoked token does not become none"
    );
    server.token = None;
    assert_eq!(server.get("/api/tokens").await.0, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_token_was_last_used() {
    let mut server = api(&[]).await;
    server.token = Some(token(&server, "admin", "admin", None).await);
    let used = async || {
        wait_for("the use to be noted", Duration::from_secs(30), || async {
            let (_, tokens) = server.get("/api/tokens").await;
            let at = tokens[0]["last_used_at"].as_str()?;
            Some(chrono::DateTime::parse_from_rfc3339(at).unwrap())
        })
        .await
    };
    let first = used().await;
    execute(
        &server,
        "update cms.api_tokens set last_used_at = now() - interval '2 minutes'",
    )
    .await;
    wait_for("it to move on", Duration::from_secs(30), || async {
        (used().await >= first).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_owners_things_are_not_there_for_a_bound_token() {
    let mut server = api(&[]).await;
    let all = operations(&document(&server).await);
    server.token = Some(token(&server, "admin", "admin", None).await);
    let bound = token(&server, "alices", "write", Some("alice")).await;
    let create = async |name: &str, owner: &str| {
        let body = json!({ "name": name, "user_name": owner, "password": "canary-password" });
        let (status, accepted) = server.post("/api/instances", &body).await;
        assert_eq!(status, 202, "{accepted}");
        accepted
    };
    let hers = create("hers", "alice").await;
    let his = create("his", "bob").await;
    execute(
        &server,
        "update cms.instances set endpoint_host = '127.0.0.1', endpoint_port = 5432",
    )
    .await;
    let id = |accepted: &Value, of: &str| accepted[of]["id"].as_str().unwrap().to_owned();

    let mut seen = 0;
    for operation in all
        .iter()
        .filter(|it| it.has_variable() && it.scope.as_deref() != Some("admin"))
    {
        let is_operation = operation.template.starts_with("/api/operations/");
        assert!(
            is_operation || operation.template.starts_with("/api/instances/"),
            "{operation}: whose is it?"
        );
        let call = |value: &str| {
            let request = server.request_as(Some(&bound), operation.method.clone(), &operation.path(value));
            match operation.body_schema() {
                Some(_) => request.json(&operation.body_example()),
                None => request,
            }
        };
        let (foreign, own, code) = if is_operation {
            (
                vec![id(&his, "operation")],
                id(&hers, "operation"),
                "operation_not_found",
            )
        } else {
            (
                vec!["his".to_owned(), id(&his, "instance")],
                "hers".to_owned(),
                "instance_not_found",
            )
        };
        for value in foreign {
            let refusal = refused(call(&value)).await;
            assert_eq!(refusal, (404, code.to_owned()), "{operation} of another owner");
        }
        // The same call is not refused to the owner, but for what the instance can't do now.
        if !operation.is("DELETE", "/api/instances/{name}") {
            let status = call(&own).send().await.unwrap().status();
            assert!(
                matches!(status.as_u16(), 200 | 202 | 409),
                "{operation} of its own: {status}"
            );
        }
        seen += 1;
    }
    assert!(seen >= 9, "{seen}");

    server.token = Some(bound.clone());
    let names = |list: &Value, field: &str| -> BTreeSet<String> {
        let name = |item: &Value| item[field].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(name).collect()
    };
    let only_hers = BTreeSet::from(["hers".to_owned()]);
    for path in ["/api/instances", "/api/instances?limit=1000"] {
        assert_eq!(names(&server.get(path).await.1, "name"), only_hers, "{path}");
    }
    assert_eq!(
        names(&server.get("/api/operations").await.1, "instance_name"),
        only_hers
    );
    for path in ["/api/instances?user_name=bob", "/api/operations?user_name=bob"] {
        assert_eq!(server.get(path).await.1, json!([]), "{path}");
    }
    for path in ["/api/operations?instance=his", "/api/events?instance=his"] {
        assert_eq!(server.get(path).await.0, 404, "{path}");
    }
    let (_, deleted) = server
        .post("/api/instances/bulk/delete", &json!({ "names": ["his"] }))
        .await;
    assert_eq!(
        (&deleted[0]["status"], &deleted[0]["problem"]["code"]),
        (&json!(404), &json!("instance_not_found"))
    );

    let body = json!({ "name": "another", "user_name": "bob" });
    let (status, problem) = server.post("/api/instances", &body).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (403, &json!("owner_forbidden"))
    );
    let body = json!({ "base_name": "another", "count": 2, "user_name": "bob" });
    let (_, results) = server.post("/api/instances/bulk", &body).await;
    for result in results.as_array().unwrap() {
        assert_eq!(result["problem"]["code"], "owner_forbidden", "{result}");
    }
    let (status, accepted) = server.post("/api/instances", &json!({ "name": "unnamed" })).await;
    assert_eq!(
        (status.as_u16(), &accepted["instance"]["user_name"]),
        (202, &json!("alice"))
    );
    let (_, results) = server
        .post("/api/instances/bulk", &json!({ "base_name": "many", "count": 2 }))
        .await;
    for result in results.as_array().unwrap() {
        assert_eq!(result["accepted"]["instance"]["user_name"], "alice", "{result}");
    }

    // The stream tells of all her instances, and of no other one.
    let mut stream = server
        .request(Method::GET, "/api/events?after=0")
        .send()
        .await
        .unwrap();
    let mut told = String::new();
    while !told.contains("\"instance_name\":\"many-2\"") {
        told += std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap();
    }
    assert!(told.contains("\"hers\"") && !told.contains("\"his\"") && !told.contains("bob"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_web_page_reaches_the_open_api() {
    let server = api(&[]).await;
    let all = operations(&document(&server).await);
    let evil = [
        ("host", "evil.example"),
        ("host", "localhost.evil.example"),
        ("host", "127.0.0.1.nip.io:8080"),
        ("host", "0.0.0.0"),
        ("host", "127.0.0.1@evil.example"),
        ("origin", "http://evil.example"),
        ("origin", "https://localhost.evil.example"),
        ("origin", "null"),
        ("origin", "file://"),
        ("sec-fetch-site", "cross-site"),
    ];
    for operation in all.iter().filter(|it| it.scope.is_some()) {
        for (header, value) in evil {
            let refusal = refused(call(&server, operation, None).header(header, value)).await;
            assert_eq!(
                refusal,
                (403, "origin_refused".to_owned()),
                "{operation} {header}: {value}"
            );
        }
    }
    for (header, value) in [
        ("host", "localhost:1234"),
        ("host", "[::1]:8080"),
        ("origin", "http://localhost:3000"),
        ("origin", "http://127.0.0.1"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-site", "none"),
    ] {
        let request = server
            .request(Method::GET, "/api/instances")
            .header(header, value);
        assert_eq!(request.send().await.unwrap().status(), 200, "{header}: {value}");
    }
    // Who has a token may come by any name.
    let admin = token(&server, "admin", "admin", None).await;
    for (header, value) in evil {
        let request = server.request_as(Some(&admin), Method::GET, "/api/instances");
        let status = request.header(header, value).send().await.unwrap().status();
        assert_eq!(status, 200, "{header}: {value}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_origins_are_let_in_only_if_they_are_listed() {
    let preflight = |server: &TestServer, origin: &str| {
        server
            .request(Method::OPTIONS, "/api/instances")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type,idempotency-key",
            )
            .send()
    };
    let allowed = |answer: &reqwest::Response| {
        let value = answer.headers().get("access-control-allow-origin")?;
        Some(value.to_str().unwrap().to_owned())
    };
    let server = api(&[]).await;
    let answer = preflight(&server, "https://app.example").await.unwrap();
    assert_eq!((answer.status().as_u16(), allowed(&answer)), (405, None));
    server.stop().await;

    let listed = "https://app.example,https://other.example";
    let server = api(&[("TOYGRES_CORS_ORIGINS", listed)]).await;
    for origin in listed.split(',') {
        let answer = preflight(&server, origin).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), allowed(&answer).as_deref()),
            (200, Some(origin))
        );
        let of = |name: &str| answer.headers()[name].to_str().unwrap().to_lowercase();
        assert!(of("access-control-allow-methods").contains("post"));
        for header in ["authorization", "content-type", "idempotency-key"] {
            assert!(of("access-control-allow-headers").contains(header), "{header}");
        }
        assert!(!answer.headers().contains_key("access-control-allow-credentials"));
    }
    for origin in ["https://evil.example", "http://app.example", "null"] {
        let answer = preflight(&server, origin).await.unwrap();
        assert_eq!(allowed(&answer), None, "{origin}");
    }
    // The page still needs a token, also while nobody else does.
    let get = |token: Option<&str>| {
        server
            .request_as(token, Method::GET, "/api/instances")
            .header("origin", "https://app.example")
    };
    assert_eq!(refused(get(None)).await, (403, "origin_refused".to_owned()));
    let admin = token(&server, "admin", "admin", None).await;
    let answer = get(Some(&admin)).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), allowed(&answer).as_deref()),
        (200, Some("https://app.example"))
    );
    // So that it can read why not.
    let answer = get(None).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), allowed(&answer).as_deref()),
        (401, Some("https://app.example"))
    );
    server.stop().await;
}

fn beyond_loopback(home: TestHome, settings: &[(&str, &str)]) -> TestServerOptions {
    let mut settings = crate::support::owned(settings);
    for (name, value) in [
        ("TOYGRES_LISTEN", "0.0.0.0:0"),
        ("TOYGRES_TLS_TERMINATED", "true"),
    ] {
        settings.push((name.to_owned(), value.to_owned()));
    }
    TestServerOptions {
        settings,
        home: Some(home.into()),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_it_takes_a_token() {
    let refusal = TestServer::try_start_with(beyond_loopback(TestHome::new(), &[])).await;
    let error = refusal.err().unwrap();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Config, "no_tokens"));
    assert!(error.next_step().is_some_and(|hint| hint.contains("bootstrap")));

    // The hash that `toygres server bootstrap-token` leaves, or a file with the token itself.
    let text = "a-token-from-the-outside";
    let hash: String = Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect();
    for by_hash in [true, false] {
        let home = TestHome::new();
        let file = home.path().join("token");
        let setting = file.display().to_string();
        let settings = if by_hash {
            std::fs::write(home.path().join("bootstrap-token.sha256"), &hash).unwrap();
            vec![]
        } else {
            std::fs::write(&file, format!("{text}\n")).unwrap();
            vec![("TOYGRES_BOOTSTRAP_TOKEN_FILE", setting.as_str())]
        };
        let mut server = TestServer::start_with(beyond_loopback(home, &settings)).await;
        let get = |token| server.request_as(token, Method::GET, "/api/tokens");
        assert_eq!(refused(get(None)).await, (401, "token_missing".to_owned()));
        assert_eq!(
            refused(get(Some("other"))).await,
            (401, "token_invalid".to_owned())
        );
        let answer = get(Some(text)).header("host", "db.example").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        server.token = Some(text.to_owned());
        token(&server, "first", "admin", None).await;
        let (_, audit) = server.get("/api/audit").await;
        assert_eq!(audit[0]["actor"], "bootstrap", "{audit}");
        server.stop().await;
    }
}

/// Everything that changes something, done once for real, leaves one entry that says who and by which request.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_audit() {
    let (mut server, platform) = stub(&[]).await;
    let all = operations(&document(&server).await);
    server.token = Some(token(&server, "auditor", "admin", None).await);
    let mut left: BTreeSet<String> = all
        .iter()
        .filter(|it| it.changes())
        .map(ToString::to_string)
        .collect();

    let mut act = async |template: &str, path: &str, body: Value, action: &str, object: &str| {
        let (method, template) = template.split_once(' ').unwrap();
        left.remove(&format!("{method} {template}"));
        let request = server.request(method.parse().unwrap(), path);
        let request = if body.is_null() {
            request
        } else {
            request.json(&body)
        };
        let answer = request.send().await.unwrap();
        let trace_id = answer.headers()["x-trace-id"].to_str().unwrap().to_owned();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        let (_, audit) = server.get("/api/audit?limit=1000").await;
        let entries: Vec<&Value> = audit
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["trace_id"] == trace_id)
            .collect();
        assert_eq!(entries.len(), 1, "{method} {path}: {entries:?}");
        assert_eq!(entries[0]["actor"], "token:auditor");
        assert_eq!(entries[0]["action"], action, "{method} {path}");
        assert!(
            object.is_empty() || entries[0]["object"] == object || entries[0]["instance_id"] == object,
            "{method} {path}: {}",
            entries[0]
        );
        serde_json::from_str::<Value>(&text).unwrap_or_default()
    };
    let of = |accepted: &Value| accepted["operation"]["id"].as_str().unwrap().to_owned();
    let ended = async |operation: &str| {
        let path = format!("/api/operations/{operation}");
        wait_for("the operation's end", Duration::from_secs(60), || async {
            let (_, operation) = server.get(&path).await;
            (!operation["finished_at"].is_null()).then_some(operation)
        })
        .await
    };

    let created = act(
        "POST /api/instances",
        "/api/instances",
        json!({ "name": "one" }),
        "create_instance",
        "",
    )
    .await;
    let instance = created["instance"]["id"].as_str().unwrap().to_owned();
    ended(&of(&created)).await;
    let body = json!({ "base_name": "bulk", "count": 1 });
    act(
        "POST /api/instances/bulk",
        "/api/instances/bulk",
        body,
        "create_instance",
        "",
    )
    .await;
    let body = json!({ "tags": { "team": "web" } });
    act(
        "PATCH /api/instances/{name}",
        "/api/instances/one",
        body,
        "update_instance",
        &instance,
    )
    .await;
    act(
        "GET /api/instances/{name}/connection",
        "/api/instances/one/connection?reveal=true",
        Value::Null,
        "reveal_password",
        &instance,
    )
    .await;
    let body = json!({ "names": ["bulk-1"] });
    act(
        "POST /api/instances/bulk/delete",
        "/api/instances/bulk/delete",
        body,
        "delete_instance",
        "",
    )
    .await;
    let body = json!({ "name": "extra", "scope": "read" });
    act("POST /api/tokens", "/api/tokens", body, "create_token", "extra").await;
    act(
        "DELETE /api/tokens/{id}",
        "/api/tokens/extra",
        Value::Null,
        "revoke_token",
        "extra",
    )
    .await;
    let body = json!({ "max_instances": 9 });
    act(
        "PUT /api/quotas/{user_name}",
        "/api/quotas/someone",
        body,
        "set_quota",
        "someone",
    )
    .await;
    act(
        "DELETE /api/quotas/{user_name}",
        "/api/quotas/someone",
        Value::Null,
        "remove_quota",
        "someone",
    )
    .await;

    platform.refuse();
    let (_, failing) = server.post("/api/instances", &json!({ "name": "fails" })).await;
    assert_eq!(ended(&of(&failing)).await["state"], "failed");
    let path = format!("/api/operations/{}/retry", of(&failing));
    let retried = act(
        "POST /api/operations/{id}/retry",
        &path,
        Value::Null,
        "retry_operation",
        &of(&failing),
    )
    .await;
    assert_eq!(ended(&of(&retried)).await["state"], "failed");
    platform.hold();
    let path = format!(
        "/api/server/orchestrations/create-instance-{}-2-1-1/recreate",
        of(&retried)
    );
    let recreated = act(
        "POST /api/server/orchestrations/{id}/recreate",
        &path,
        Value::Null,
        "retry_operation",
        &of(&retried),
    )
    .await;
    let operation = recreated["id"].as_str().unwrap().to_owned();
    let child = wait_for("the work to be begun", Duration::from_secs(60), || async {
        let path = format!("/api/server/orchestrations?prefix=create-instance-{operation}&status=running");
        let (_, list) = server.get(&path).await;
        Some(list[0]["id"].as_str()?.to_owned())
    })
    .await;
    let path = format!("/api/server/orchestrations/{child}");
    let raise = format!("{path}/raise-event");
    act(
        "POST /api/server/orchestrations/{id}/raise-event",
        &raise,
        json!({ "name": "wake" }),
        "raise_event",
        &child,
    )
    .await;
    act(
        "POST /api/server/orchestrations/{id}/cancel",
        &format!("{path}/cancel"),
        Value::Null,
        "cancel_orchestration",
        &child,
    )
    .await;
    platform.release();

    let stranger = InstanceRef {
        id: InstanceId::generate(),
        name: "stranger".parse().unwrap(),
        namespace: None,
    };
    platform.put(stranger);
    let drift = wait_for("the difference to be found", Duration::from_secs(60), || async {
        let (_, drift) = server.get("/api/server/drift").await;
        drift[0]["id"].as_i64()
    })
    .await;
    act(
        "POST /api/server/drift/{id}/fix",
        &format!("/api/server/drift/{drift}/fix"),
        Value::Null,
        "fix_drift",
        "",
    )
    .await;
    act(
        "DELETE /api/instances/{name}",
        "/api/instances/one",
        Value::Null,
        "delete_instance",
        &instance,
    )
    .await;
    assert_eq!(
        left,
        BTreeSet::new(),
        "changes that nobody looks for in the audit"
    );

    // What is refused leaves none.
    let (_, before) = server.get("/api/audit?limit=1000").await;
    let read = token(&server, "read", "read", None).await;
    for operation in all.iter().filter(|it| it.changes()) {
        call(&server, operation, Some(&read)).send().await.unwrap();
        let status = call(&server, operation, server.token.as_deref())
            .send()
            .await
            .unwrap()
            .status();
        // To set no limit at all is allowed.
        assert!(
            status.is_client_error() || operation.method == Method::PUT,
            "{operation}: {status}"
        );
    }
    let (_, after) = server.get("/api/audit?limit=1000").await;
    let count = |audit: &Value| audit.as_array().unwrap().len();
    // The token above, and the quota.
    assert_eq!(count(&after), count(&before) + 2, "{after}");
    server.stop().await;
}
