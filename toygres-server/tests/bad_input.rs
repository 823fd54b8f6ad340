//! Bad input: always a clear problem document, never a value shown again, never an instance made.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use toygres_testing::TestServer;

#[tokio::test(flavor = "multi_thread")]
async fn every_field_wrong_in_every_way() {
    let server = TestServer::start().await;
    let long = "x".repeat(5000);
    let texts = [
        "",
        "\0",
        "a\0b",
        "a\nb",
        "a'b",
        "a\"b",
        "ä",
        "💥",
        "../../etc",
        "a b",
        long.as_str(),
    ];
    let mut cases: Vec<(&str, Value)> = Vec::new();
    for field in ["name", "user_name", "postgres_version", "cpu", "namespace"] {
        cases.extend(texts.iter().map(|text| (field, json!(text))));
        cases.extend([json!(1), json!([]), json!({}), json!(true)].map(|value| (field, value)));
    }
    for field in ["storage_size_gb", "memory_mb"] {
        let wrong = [
            json!(0),
            json!(-1),
            json!(1_000_000_000),
            json!(1e300),
            json!(1.5),
            json!("10"),
            json!([]),
        ];
        cases.extend(wrong.map(|value| (field, value)));
    }
    for field in ["internal", "deletion_protection"] {
        cases.extend([json!("yes"), json!(1), json!([])].map(|value| (field, value)));
    }
    let wrong = [
        json!(""),
        json!("12345"),
        json!("with\0nul"),
        json!("with\nline"),
        json!(123_456),
        json!([]),
    ];
    cases.extend(wrong.map(|value| ("password", value)));
    cases.push(("password", json!("x".repeat(257))));
    cases.extend(
        [
            json!([]),
            json!({"": "x"}),
            json!({"k": 1}),
            json!({"k": "a\0b"}),
            json!({"k": long}),
        ]
        .map(|v| ("tags", v)),
    );
    cases.push(("postgres_version", json!("99")));
    cases.push(("no_such_field", json!(1)));

    for (field, value) in cases {
        let mut body = json!({ "name": "valid" });
        body[field] = value.clone();
        let (status, problem) = server.post("/api/instances", &body).await;
        assert!(
            matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY),
            "{field} = {value}: {status} {problem}"
        );
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(field)),
            "{field}: {problem}"
        );
        for part in ["type", "title", "status", "code", "trace_id"] {
            assert!(!problem[part].is_null(), "{field}: {part} is missing: {problem}");
        }
    }
    let (_, instances) = server.get("/api/instances").await;
    assert_eq!(instances, json!([]), "none of them made an instance");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_at_all() {
    let server = TestServer::start().await;
    let post = |body: &'static str, kind: &'static str| {
        server
            .request(Method::POST, "/api/instances")
            .header("content-type", kind)
            .body(body)
    };
    for (request, status, code) in [
        (post("", "application/json"), 400, "malformed_json"),
        (post("{", "application/json"), 400, "malformed_json"),
        (post("[]", "application/json"), 400, "malformed_json"),
        (post("null", "application/json"), 400, "malformed_json"),
        (post("{}", "application/json"), 400, "missing_field"),
        (
            post("name=a", "application/x-www-form-urlencoded"),
            400,
            "not_json",
        ),
        (server.request(Method::POST, "/api/instances"), 400, "not_json"),
        (
            server.request(Method::PUT, "/api/instances"),
            405,
            "method_not_allowed",
        ),
        (
            server.request(Method::GET, "/nothing/here"),
            404,
            "route_not_found",
        ),
        (
            server.request(Method::GET, "/api/instances/absent"),
            404,
            "instance_not_found",
        ),
        (
            server.request(Method::GET, "/api/instances/%00"),
            404,
            "instance_not_found",
        ),
        (
            server.request(Method::GET, "/api/instances/a'b"),
            404,
            "instance_not_found",
        ),
        (
            server.request(Method::DELETE, "/api/instances/absent"),
            404,
            "instance_not_found",
        ),
        (
            server.request(Method::GET, "/api/operations/x"),
            404,
            "operation_not_found",
        ),
        (
            server.request(Method::GET, "/api/instances?state=odd"),
            422,
            "unknown_word",
        ),
        (
            server.request(Method::GET, "/api/instances?colour=red"),
            400,
            "bad_query",
        ),
        (
            post("{}", "application/json").header("idempotency-key", ""),
            400,
            "bad_idempotency_key",
        ),
        (
            post("{}", "application/json").header("host", "evil.example"),
            403,
            "origin_refused",
        ),
        (
            post("{}", "application/json").header("origin", "http://evil.example"),
            403,
            "origin_refused",
        ),
    ] {
        let answer = request.send().await.unwrap();
        let got = answer.status().as_u16();
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{problem}");
    }
    let huge = json!({ "name": "a", "tags": { "k": "x".repeat(70_000) } });
    let (status, problem) = server.post("/api/instances", &huge).await;
    assert_eq!(
        (status.as_u16(), problem["code"].as_str()),
        (413, Some("body_too_large"))
    );
    server.stop().await;
}
