//! Bad input, in every place of every operation: always a clear problem document, never a value shown again, never
//! anything stored.

use crate::support::{Operation, api, document, operations, problem, refused, rows, token};
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use toygres_testing::TestServer;

/// Stands in every password, and must not come back.
const CANARY: &str = "canary-password";

/// Texts that no name, word or number may be.
fn texts() -> Vec<String> {
    let texts = [
        "",
        "\0",
        "a\0b",
        "a\nb",
        "a'b; drop table cms.instances; --",
        "a\"b",
        "ä",
        "💥",
        "\u{202e}a",
        "../../etc",
        "a b",
        " a",
        "-a",
    ];
    let mut texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    texts.push("x".repeat(5000));
    texts
}

/// A server with an instance `kept`, and who may do everything there.
async fn server() -> TestServer {
    let mut server = api(&[]).await;
    server.create("kept", "kept-password").await;
    server.token = Some(token(&server, "admin", "admin", None).await);
    server
}

/// A valid value for the variable of its path; what it names is there, if a body is looked at only then.
fn variable(operation: &Operation) -> &'static str {
    match operation.template.as_str() {
        path if path.starts_with("/api/instances/") => "kept",
        path if path.starts_with("/api/quotas/") => "someone",
        _ => "absent",
    }
}

fn request(server: &TestServer, operation: &Operation) -> RequestBuilder {
    server.request(operation.method.clone(), &operation.path(variable(operation)))
}

/// What is behind references, and the types that it may have.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> (&'a Value, BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return resolved(document, target);
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        let mut types = BTreeSet::new();
        let mut found = schema;
        for variant in variants {
            let (schema, of_variant) = resolved(document, variant);
            if !of_variant.contains("null") {
                found = schema;
            }
            types.extend(of_variant);
        }
        return (found, types);
    }
    let types = match &schema["type"] {
        Value::String(one) => BTreeSet::from([one.clone()]),
        Value::Array(many) => many.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
        other => panic!("{schema} has the type {other}"),
    };
    (schema, types)
}

/// Whether a text must have a certain form. A pattern that only leaves characters out lets any other text through.
fn is_narrow(schema: &Value) -> bool {
    let pattern = schema["pattern"].as_str();
    pattern.is_some_and(|pattern| !pattern.starts_with("^[^"))
        || schema["enum"].is_array()
        || schema["format"] == "uuid"
}

/// Values that a field of this schema must refuse.
fn wrong_values(field: &str, schema: &Value, types: &BTreeSet<String>) -> Vec<Value> {
    let of_each_type = [
        ("null", json!(null)),
        ("string", json!("text")),
        ("integer", json!(7)),
        ("number", json!(1.5)),
        ("boolean", json!(true)),
        ("array", json!([1])),
        ("object", json!({ "a": {} })),
    ];
    let mut wrong: Vec<Value> = of_each_type
        .into_iter()
        .filter(|(kind, _)| !types.contains(*kind))
        .map(|(_, value)| value)
        .collect();
    let number = |name: &str| schema[name].as_i64();
    if types.contains("string") {
        if is_narrow(schema) || field == "cpu" {
            wrong.extend(texts().into_iter().map(Value::from));
        } else {
            let longest = usize::try_from(number("maxLength").unwrap()).unwrap();
            wrong.push(json!(format!("{CANARY}\0")));
            wrong.push(json!("x".repeat(longest + 1)));
            wrong.push(json!("ä".repeat(longest + 1)));
            if let Some(shortest) = number("minLength") {
                wrong.push(json!(""));
                wrong.push(json!("ä".repeat(usize::try_from(shortest).unwrap() - 1)));
                wrong.push(json!(format!("{CANARY}\nline")));
            }
        }
        if let Some(longest) = number("maxLength") {
            wrong.push(json!("a".repeat(usize::try_from(longest).unwrap() + 1)));
        }
        if field == "cpu" {
            wrong.extend(["0", "-1", "257", "1e3", "0.5m", "m", "256001m", "inf", "NaN"].map(Value::from));
        }
    }
    if types.contains("integer") {
        wrong.push(json!(number("minimum").unwrap() - 1));
        wrong.push(json!(number("maximum").unwrap() + 1));
        wrong.extend([
            json!(i64::MIN),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(1e300),
            json!(i64::from(i32::MAX) + 1),
        ]);
    }
    if types.contains("object") {
        wrong.extend([
            json!({ "k": 1 }),
            json!({ "": "x" }),
            json!({ "a b": "x" }),
            json!({ "ä": "x" }),
            json!({ "k\0": "x" }),
            json!({ "k": "a\0b" }),
            json!({ "k": "a\nb" }),
            json!({ "k": "x".repeat(256) }),
        ]);
        wrong.push(json!({ "k".repeat(64): "x" }));
        let many: BTreeMap<String, &str> = (0..33).map(|n| (n.to_string(), "x")).collect();
        wrong.push(json!(many));
    }
    if types.contains("array") {
        let longest = usize::try_from(schema["maxItems"].as_u64().unwrap()).unwrap();
        wrong.extend([
            json!([]),
            json!([null]),
            json!([["kept"]]),
            json!(vec!["x"; longest + 1]),
        ]);
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_every_body_wrong_in_every_way() {
    let server = server().await;
    let document = document(&server).await;
    let all = operations(&document);
    let before = rows(&server).await;
    let mut cases = 0;
    for operation in &all {
        let Some(schema) = operation.body_schema() else {
            continue;
        };
        let (schema, _) = resolved(&document, schema);
        let fields = schema["properties"].as_object().unwrap();
        let required = |field: &str| {
            schema["required"]
                .as_array()
                .is_some_and(|all| all.contains(&json!(field)))
        };
        let mut valid = operation.body_example();
        if fields.contains_key("password") {
            valid["password"] = json!(CANARY);
        }
        for (field, schema) in fields {
            let (schema, types) = resolved(&document, schema);
            let mut bodies: Vec<Value> = wrong_values(field, schema, &types)
                .into_iter()
                .map(|value| with(&valid, field, Some(value)))
                .collect();
            if required(field) {
                bodies.push(with(&valid, field, None));
            }
            for body in bodies {
                cases += 1;
                let shown = format!("{operation} {field}: {:.200}", body.to_string());
                let answer = request(&server, operation).json(&body).send().await.unwrap();
                assert!(answer.status().is_client_error(), "{shown}: {}", answer.status());
                let (status, problem) = problem(answer).await;
                assert!(matches!(status, 400 | 422), "{shown}: {problem}");
                let place = problem["detail"].as_str().unwrap();
                assert!(place.contains(field), "{shown}: {problem}");
                if status == 422 {
                    let errors = problem["errors"].as_array().unwrap();
                    assert!(
                        errors.iter().any(|error| error["field"] == field.as_str()),
                        "{shown}: {problem}"
                    );
                }
                assert!(!problem.to_string().contains("canary"), "{shown}: {problem}");
            }
        }
        assert_eq!(rows(&server).await, before, "{operation} stored something");
    }
    assert!(cases > 400, "{cases}");
    server.stop().await;
}

fn with(body: &Value, field: &str, value: Option<Value>) -> Value {
    let mut body = body.clone();
    let object: &mut Map<String, Value> = body.as_object_mut().unwrap();
    match value {
        Some(value) => object.insert(field.to_owned(), value),
        None => object.remove(field),
    };
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_that_is_none() {
    let server = server().await;
    let document = document(&server).await;
    let before = rows(&server).await;
    let deep = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
    let deep_array = "[".repeat(200);
    for operation in operations(&document) {
        if operation.body_schema().is_none() {
            continue;
        }
        let example = operation.body_example().to_string();
        let first = operation
            .body_example()
            .as_object()
            .unwrap()
            .keys()
            .next()
            .unwrap()
            .clone();
        let send = |body: Vec<u8>, kind: Option<&'static str>| {
            let request = request(&server, &operation).body(body);
            match kind {
                Some(kind) => request.header("content-type", kind),
                None => request,
            }
        };
        let twice = format!(r#"{{"{first}":"{CANARY}","{first}":"{CANARY}"}}"#);
        let unknown = format!(r#"{{"passwort":"{CANARY}"}}"#);
        let pollution = r#"{"__proto__":{}}"#.to_owned();
        let mut texts = vec![
            ("{".to_owned(), "malformed_json"),
            ("[]".to_owned(), "malformed_json"),
            ("1".to_owned(), "malformed_json"),
            ("true".to_owned(), "malformed_json"),
            (format!("\"{CANARY}\""), "malformed_json"),
            (example[..example.len() - 1].to_owned(), "malformed_json"),
            (format!("{example}{example}"), "malformed_json"),
            (format!("\u{feff}{example}"), "malformed_json"),
            (format!("{example},"), "malformed_json"),
            (format!("// a comment\n{example}"), "malformed_json"),
            (format!(r#"{{"{first}":NaN}}"#), "malformed_json"),
            (format!(r#"{{"{first}":1e999}}"#), "malformed_json"),
            (format!(r#"{{"{first}":"\ud800"}}"#), "malformed_json"),
            (format!(r#"{{{first}:"{CANARY}"}}"#), "malformed_json"),
            (deep.clone(), "malformed_json"),
            (deep_array.clone(), "malformed_json"),
            (twice, "duplicate_field"),
            (unknown, "unknown_field"),
            (pollution, "unknown_field"),
            // As long as a body may be.
            (format!(r#"{{"nope":1{}}}"#, " ".repeat(65_526)), "unknown_field"),
        ];
        assert_eq!(texts.last().unwrap().0.len(), 64 * 1024);
        let is_optional = operation.template.ends_with("/cancel");
        if !is_optional {
            texts.push((String::new(), "malformed_json"));
            texts.push(("null".to_owned(), "malformed_json"));
        }
        for (body, code) in texts {
            let shown = format!("{operation}: {body:.100}");
            let answer = send(body.into_bytes(), Some("application/json")).send().await;
            let (status, problem) = problem(answer.unwrap()).await;
            assert_eq!(
                (status, &problem["code"]),
                (400, &json!(code)),
                "{shown}: {problem}"
            );
            assert!(!problem.to_string().contains("canary"), "{shown}: {problem}");
        }
        let mut invalid = example.clone().into_bytes();
        let end = invalid.len() - 1;
        invalid[end - 1] = 0xff;
        let refusal = refused(send(invalid, Some("application/json"))).await;
        assert_eq!(refusal, (400, "malformed_json".to_owned()), "{operation}");

        for kind in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("multipart/form-data"),
            Some("application/jsonx"),
            Some("application"),
            Some(""),
        ] {
            let refusal = refused(send(example.clone().into_bytes(), kind)).await;
            assert_eq!(refusal, (415, "not_json".to_owned()), "{operation} {kind:?}");
        }
        for size in [64 * 1024 + 1, 1024 * 1024] {
            let huge = format!(r#"{{"{first}":"{}"}}"#, "x".repeat(size - first.len() - 7));
            assert_eq!(huge.len(), size);
            let refusal = refused(send(huge.into_bytes(), Some("application/json"))).await;
            assert_eq!(refusal, (413, "body_too_large".to_owned()), "{operation} {size}");
        }
    }
    assert_eq!(rows(&server).await, before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_off_does_nothing() {
    let server = server().await;
    let before = rows(&server).await;
    let authorization = server.token.as_deref().unwrap();
    let address = server.url.strip_prefix("http://").unwrap();
    let head = format!(
        "POST /api/instances HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {authorization}\r\n\
         content-type: application/json\r\n"
    );
    let whole = r#"{"name":"half"}"#;
    for rest in [
        String::new(),
        "content-length: 100\r\n\r\n".to_owned(),
        format!("content-length: 100\r\n\r\n{whole}"),
        format!("transfer-encoding: chunked\r\n\r\nf\r\n{whole}\r\n"),
        "transfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        "content-length: -1\r\n\r\n".to_owned(),
        format!("content-length: 15\r\ncontent-length: 16\r\n\r\n{whole}"),
    ] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection
            .write_all(format!("{head}{rest}").as_bytes())
            .await
            .unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Closed with or without an answer: both are well.
        connection.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{rest:?}: {answer}"
        );
    }
    assert_eq!(rows(&server).await, before);
    server.stop().await;
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A value that the query parameter takes.
fn valid_parameter(document: &Value, parameter: &Value) -> String {
    let (schema, types) = resolved(document, &parameter["schema"]);
    if let Some(word) = schema["enum"][0].as_str() {
        word.to_owned()
    } else if types.contains("integer") {
        schema["minimum"].as_i64().unwrap_or(0).to_string()
    } else if types.contains("boolean") {
        "false".to_owned()
    } else if schema["format"] == "uuid" {
        uuid::Uuid::nil().to_string()
    } else {
        "a".to_owned()
    }
}

/// Values that it does not take.
fn wrong_parameters(document: &Value, parameter: &Value) -> Vec<String> {
    let (schema, types) = resolved(document, &parameter["schema"]);
    let mut wrong = Vec::new();
    if !types.contains("string") || is_narrow(schema) {
        wrong.extend(texts().iter().map(|text| encoded(text)));
        wrong.extend(["[]", "1.5", "+", "0x1", "Yes", "1e3", "NULL"].map(str::to_owned));
    }
    if types.contains("integer") {
        let bound = |name: &str| schema[name].as_i64();
        wrong.extend(bound("minimum").map(|least| (least - 1).to_string()));
        wrong.extend(bound("maximum").map(|most| (most + 1).to_string()));
        wrong.push("9".repeat(40));
    }
    // In whatever place: what can't be decoded, or kept.
    wrong.extend(["%00", "a%00b", "%zz", "%", "%f", "%ff", "%c3%28"].map(str::to_owned));
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_parameter_of_every_query_wrong_in_every_way() {
    let server = server().await;
    let document = document(&server).await;
    let before = rows(&server).await;
    let get = |operation: &Operation, query: &str| {
        let path = format!("{}?{query}", operation.path(variable(operation)));
        let request = server.request(operation.method.clone(), &path);
        match operation.body_schema() {
            Some(_) => request.json(&operation.body_example()),
            None => request,
        }
    };
    let mut cases = 0;
    for operation in operations(&document) {
        if operation.scope.is_none() {
            continue;
        }
        for query in ["no_such_parameter=1", "no_such_parameter", "=", "&=a", "LIMIT=1"] {
            let refusal = refused(get(&operation, query)).await;
            assert_eq!(refusal, (400, "bad_query".to_owned()), "{operation} {query}");
        }
        for parameter in operation.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            let value = valid_parameter(&document, parameter);
            let refusal = refused(get(&operation, &format!("{name}={value}&{name}={value}"))).await;
            assert_eq!(refusal, (400, "bad_query".to_owned()), "{operation} {name} twice");
            for value in wrong_parameters(&document, parameter) {
                cases += 1;
                let shown = format!("{operation} {name}={value:.60}");
                let answer = get(&operation, &format!("{name}={value}")).send().await.unwrap();
                assert!(answer.status().is_client_error(), "{shown}: {}", answer.status());
                let (status, problem) = problem(answer).await;
                assert!(matches!(status, 400 | 422), "{shown}: {problem}");
            }
            // What is no fault must not become one.
            for value in texts().into_iter().filter(|text| !text.contains('\0')) {
                let answer = get(&operation, &format!("{name}={}", encoded(&value)))
                    .send()
                    .await
                    .unwrap();
                let status = answer.status();
                assert!(
                    status.is_success() || status.is_client_error(),
                    "{operation} {name}={value:.60}: {status}"
                );
                if status.is_client_error() {
                    problem(answer).await;
                }
            }
        }
    }
    assert!(cases > 200, "{cases}");
    assert_eq!(rows(&server).await, before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_variable_of_every_path_wrong_in_every_way() {
    let server = server().await;
    let document = document(&server).await;
    let before = rows(&server).await;
    let mut values: Vec<String> = texts()
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| encoded(text))
        .collect();
    values.extend(
        [
            "absent",
            "%zz",
            "%ff",
            "..%2F..%2Fetc%2Fpasswd",
            "%252e%252e",
            "0",
            "-1",
            "9223372036854775808",
            "00000000-0000-0000-0000-000000000000",
            "{name}",
            "*",
            "kept%20",
            "KEPT",
        ]
        .map(str::to_owned),
    );
    for operation in operations(&document).iter().filter(|it| it.has_variable()) {
        for value in &values {
            let request = server.request(operation.method.clone(), &operation.path(value));
            let request = match operation.body_schema() {
                Some(_) => request.json(&operation.body_example()),
                None => request,
            };
            let answer = request.send().await.unwrap();
            let shown = format!("{operation} with {value:.60}");
            // Some names are good ones for an owner that nobody knows yet.
            if operation.method == Method::PUT && answer.status().is_success() {
                assert_eq!(value, "absent", "{shown}");
                let path = operation.path(value);
                assert_eq!(server.delete(&path).await.0, 204);
                continue;
            }
            assert!(answer.status().is_client_error(), "{shown}: {}", answer.status());
            let (status, problem) = problem(answer).await;
            assert!(matches!(status, 400 | 404 | 422), "{shown}: {problem}");
        }
    }
    let mut after = rows(&server).await;
    // The quota that was set and removed.
    if let Some(audit) = after.get_mut("cms.audit_events") {
        *audit -= 2;
    }
    assert_eq!(after, before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_method_and_every_unknown_route() {
    let server = server().await;
    let all = operations(&document(&server).await);
    let before = rows(&server).await;
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for operation in &all {
        let methods = known.entry(operation.path("kept")).or_default();
        methods.insert(operation.method.to_string());
    }
    for (path, methods) in &known {
        for method in [
            "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW",
        ] {
            if methods.contains(method) {
                continue;
            }
            let request = server.request(method.parse().unwrap(), path);
            let answer = request.send().await.unwrap();
            let allow = answer.headers().get("allow").map(|it| it.to_str().unwrap());
            let allowed: BTreeSet<String> =
                allow.unwrap_or_default().split(", ").map(str::to_owned).collect();
            assert_eq!(&allowed, methods, "{method} {path}");
            let (status, problem) = problem(answer).await;
            assert_eq!(
                (status, &problem["code"]),
                (405, &json!("method_not_allowed")),
                "{method} {path}"
            );
        }
    }
    for path in [
        "/",
        "/api",
        "/api/",
        "/api/instances/",
        "/api/instances/kept/",
        "/api//instances",
        "/api/instances/kept/nothing",
        "/API/instances",
        "/api/instance",
        "/api/server",
        "/.env",
        "/api/instances.json",
        "/api/instances;a=b",
        "/ä",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let refusal = refused(server.request(method.clone(), path)).await;
            assert_eq!(refusal, (404, "route_not_found".to_owned()), "{method} {path}");
        }
    }
    let refusal = refused(server.request(Method::POST, "/docs")).await;
    assert_eq!(refusal, (405, "method_not_allowed".to_owned()));
    assert_eq!(rows(&server).await, before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_header_that_is_read() {
    let server = server().await;
    let before = rows(&server).await;
    let long = "k".repeat(256);
    let garbage: [&[u8]; 3] = [b"", b"\xff\xfe", long.as_bytes()];
    for path in ["/api/instances", "/api/instances/bulk"] {
        let body = if path.ends_with("bulk") {
            json!({ "base_name": "keyed", "count": 1 })
        } else {
            json!({ "name": "keyed" })
        };
        for key in garbage {
            let request = server.request(Method::POST, path).json(&body);
            let refusal = refused(request.header("idempotency-key", key)).await;
            assert_eq!(refusal, (400, "bad_idempotency_key".to_owned()), "{path} {key:?}");
        }
    }
    let patch = || {
        server
            .request(Method::PATCH, "/api/instances/kept")
            .json(&json!({ "tags": { "a": "b" } }))
    };
    for tag in [
        b"".as_slice(),
        b"garbage",
        b"\"",
        b"W/\"000000000000000000000000\"",
        b"\xff",
        b",,,",
        b"'; drop",
    ] {
        let refusal = refused(patch().header("if-match", tag)).await;
        assert_eq!(refusal, (412, "changed_meanwhile".to_owned()), "{tag:?}");
        let get = server.request(Method::GET, "/api/instances/kept");
        let status = get.header("if-none-match", tag).send().await.unwrap().status();
        assert_eq!(status, 200, "{tag:?}");
    }
    for id in [
        b"x".as_slice(),
        b"1.5",
        b"99999999999999999999",
        b"\xff",
        b"1 or 1=1",
    ] {
        let request = server.request(Method::GET, "/api/events");
        let refusal = refused(request.header("last-event-id", id)).await;
        assert_eq!(refusal, (400, "bad_last_event_id".to_owned()), "{id:?}");
    }
    assert_eq!(rows(&server).await, before);

    // A trace id that is none is replaced, a good one kept.
    for (sent, kept) in [
        ("garbage", false),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
    ] {
        let request = server.request(Method::GET, "/api/instances/absent");
        let (_, problem) = problem(request.header("traceparent", sent).send().await.unwrap()).await;
        let is_kept = problem["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(is_kept, kept, "{problem}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_just_allowed_is_done() {
    let server = server().await;
    let tags = |count: usize| -> BTreeMap<String, String> {
        let key = |n: usize| format!("{n:02}-_./{}", "k".repeat(57));
        (0..count).map(|n| (key(n), "v".repeat(255))).collect()
    };
    assert!(tags(32).keys().all(|key| key.len() == 63));
    let longest = "n".repeat(40);
    let nothing = json!({ "name": "nothing", "password": null, "user_name": null, "postgres_version": null,
        "storage_size_gb": null, "cpu": null, "memory_mb": null, "internal": null, "namespace": null, "tags": null,
        "deletion_protection": null });
    let least = json!({ "name": "a", "password": "123456", "user_name": "u", "postgres_version": "17",
        "storage_size_gb": 1, "cpu": "1m", "memory_mb": 128, "internal": false, "namespace": "n", "tags": {},
        "deletion_protection": false });
    let most = json!({ "name": longest, "password": "ä".repeat(128), "user_name": "u".repeat(63),
        "storage_size_gb": 65536, "cpu": "256", "memory_mb": 1_048_576, "internal": true,
        "namespace": "n".repeat(63), "tags": tags(32), "deletion_protection": true });
    for body in [nothing, least, most] {
        let request = server.request(Method::POST, "/api/instances").json(&body);
        let answer = request
            .header(
                "idempotency-key",
                format!("{:0>255}", body["name"].as_str().unwrap()),
            )
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 202, "{body}");
        let accepted: Value = answer.json().await.unwrap();
        let instance = &accepted["instance"];
        for field in ["name", "storage_size_gb", "cpu", "memory_mb", "internal", "tags"] {
            if !body[field].is_null() {
                assert_eq!(instance[field], body[field], "{instance}");
            }
        }
    }
    let padded = format!(r#"{{"name":"padded"{}}}"#, " ".repeat(64 * 1024 - 17));
    assert_eq!(padded.len(), 64 * 1024);
    let request = server
        .request(Method::POST, "/api/instances")
        .header("content-type", "application/json; charset=utf-8");
    assert_eq!(request.body(padded).send().await.unwrap().status(), 202);

    let bulk = json!({ "base_name": "b".repeat(37), "count": 50 });
    let (status, results) = server.post("/api/instances/bulk", &bulk).await;
    let results = results.as_array().unwrap();
    assert_eq!((status.as_u16(), results.len()), (200, 50));
    assert!(results.iter().all(|result| result["status"] == 202));
    let names: Vec<&Value> = results.iter().map(|result| &result["name"]).collect();
    assert_eq!(names[49].as_str().unwrap().len(), 40);
    let (status, results) = server
        .post("/api/instances/bulk/delete", &json!({ "names": names }))
        .await;
    assert_eq!(status, 200);
    assert!(
        results
            .as_array()
            .unwrap()
            .iter()
            .all(|result| result["status"] == 202)
    );

    for (name, days) in [("t".repeat(63), json!(3650)), ("9".to_owned(), json!(1))] {
        let body = json!({ "name": name, "scope": "read", "expires_in_days": days });
        assert_eq!(server.post("/api/tokens", &body).await.0, 201, "{body}");
    }
    for limits in [
        json!({}),
        json!({ "max_instances": 0, "max_storage_gb": 0 }),
        json!({ "max_instances": 1_000_000_000, "max_storage_gb": 1_000_000_000 }),
    ] {
        let request = server.request(Method::PUT, &format!("/api/quotas/{}", "q".repeat(63)));
        assert_eq!(
            request.json(&limits).send().await.unwrap().status(),
            200,
            "{limits}"
        );
    }
    let patch = server.request(Method::PATCH, "/api/instances/a");
    let patch = patch.json(&json!({ "tags": tags(32), "deletion_protection": null }));
    assert_eq!(patch.send().await.unwrap().status(), 200);
    for path in [
        "/api/instances?limit=1000",
        "/api/instances?limit=1",
        "/api/instances/kept/logs?tail=10000",
        "/api/instances/kept/logs?tail=0",
        "/api/server/logs?tail=10000",
        "/api/operations?limit=1000",
        "/api/instances?tag=team%3D",
        "/api/instances?name=",
    ] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    server.stop().await;
}
