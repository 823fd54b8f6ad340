//! What a server tells of itself, end to end, to a real receiver. Telemetry is one a process, so that this is one test.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use toygres_models::operations::OperationState;
use toygres_telemetry::TelemetryConfig;
use toygres_testing::{OtlpReceiver, ReceivedSpan, TestServer, TestServerOptions, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "canary-password-5c1f";

fn labelled(receiver: &OtlpReceiver, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |point: &toygres_testing::ReceivedPoint| {
        labels
            .iter()
            .all(|(label, value)| point.labels.get(*label).is_some_and(|v| v == value))
    };
    let points = receiver.metric(metric).into_iter().filter(fits);
    let values: Vec<f64> = points
        .map(|p| {
            if p.bounds.is_empty() {
                p.value
            } else {
                p.count as f64
            }
        })
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn chain(spans: &[ReceivedSpan], from: &ReceivedSpan) -> Vec<String> {
    let mut names = vec![from.name.clone()];
    let mut here = from;
    while let Some(parent) = spans
        .iter()
        .find(|span| span.trace_id == here.trace_id && span.span_id == here.parent_span_id)
    {
        names.push(parent.name.clone());
        here = parent;
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_the_whole_story() {
    let receiver = OtlpReceiver::start().await;
    let url = receiver.url();
    let telemetry = toygres_telemetry::init(&TelemetryConfig::read(&|name| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(url.clone()),
        "OTEL_METRIC_EXPORT_INTERVAL" => Some("500".to_owned()),
        "RUST_LOG" => Some("debug".to_owned()),
        _ => None,
    }))
    .unwrap();
    let server = TestServer::start_with(TestServerOptions {
        settings: vec![("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS".to_owned(), "1".to_owned())],
        ..Default::default()
    })
    .await;

    // A request of a trace that somebody else began.
    let begun = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = server
        .request(Method::POST, "/api/instances")
        .header("traceparent", format!("00-{begun}-00f067aa0ba902b7-01"))
        .json(&json!({"name": "demo", "password": PASSWORD}))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-trace-id"]),
        (202, &begun.parse().unwrap())
    );
    let accepted = serde_json::from_value(answer.json().await.unwrap()).unwrap();
    let operation = server.ended(&accepted).await;
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
    wait_for("a health check", LIMIT, async || {
        let checked = labelled(
            &receiver,
            "toygres_health_check_duration_seconds",
            &[("outcome", "healthy")],
        );
        checked.filter(|count| *count >= 2.0)
    })
    .await;

    // What is no traceparent begins a trace of its own.
    for odd in ["nonsense", &"0".repeat(8000)] {
        let answer = server
            .request(Method::GET, "/api/instances/nowhere")
            .header("traceparent", odd)
            .send()
            .await
            .unwrap();
        let header = answer.headers()["x-trace-id"].to_str().unwrap().to_owned();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["trace_id"], header.as_str());
        assert!(header.len() == 32 && header != begun, "{header}");
    }

    let answer = server
        .request(Method::DELETE, "/api/instances/demo")
        .send()
        .await
        .unwrap();
    let of_delete = answer.headers()["x-trace-id"].to_str().unwrap().to_owned();
    let accepted = serde_json::from_value(answer.json().await.unwrap()).unwrap();
    assert_eq!(server.ended(&accepted).await.state, OperationState::Succeeded);
    // Its orchestration ends after the operation.
    wait_for("the deletion's end", LIMIT, async || {
        let spans = receiver.spans();
        spans
            .iter()
            .any(|span| span.name == "delete-instance")
            .then_some(())
    })
    .await;
    server.stop().await;
    telemetry.flush().await;

    let spans = receiver.spans();
    let named = |name: &str, trace: &str| {
        let found = spans
            .iter()
            .find(|span| span.name == name && span.trace_id == trace);
        found.unwrap_or_else(|| panic!("no span {name} in {trace}: {:?}", names(&spans, trace)))
    };
    let request = named("POST /api/instances", begun);
    assert_eq!(
        (request.kind, request.parent_span_id.as_str()),
        (2, "00f067aa0ba902b7")
    );
    assert_eq!(request.attributes["http.response.status_code"], "202");
    // Every activity of the create, each within the orchestration, which is within the request.
    for activity in [
        "cms-begin-operation",
        "deploy-postgres",
        "wait-for-ready",
        "test-connection",
        "cms-record-running",
    ] {
        let span = named(activity, begun);
        assert_eq!(
            chain(&spans, span),
            [activity, "create-instance", "POST /api/instances"],
            "the chain of {activity}"
        );
    }
    let probe = named("probe", begun);
    assert_eq!(probe.kind, 3);
    assert_eq!(chain(&spans, probe)[1], "test-connection");
    let statement = named("insert cms.operations", begun);
    assert_eq!(
        (statement.kind, statement.attributes["db.system.name"].as_str()),
        (3, "postgresql")
    );
    assert_eq!(
        chain(&spans, statement),
        ["insert cms.operations", "POST /api/instances"]
    );
    let create = named("create-instance", begun);
    let took = Duration::from_nanos(create.end - create.start);
    let deploy = named("deploy-postgres", begun);
    assert!(
        create.start <= deploy.start / 1_000_000 * 1_000_000 && took > Duration::from_millis(100),
        "{took:?}"
    );
    for activity in ["remove-postgres", "verify-gone", "cms-record-end"] {
        let span = named(activity, &of_delete);
        assert_eq!(
            chain(&spans, span),
            [activity, "delete-instance", "DELETE /api/instances/{name}"]
        );
    }
    // What the actor does by itself is in short traces of its own, linked to the request that made the instance.
    let rounds: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "instance-actor")
        .collect();
    assert!(
        rounds.iter().all(|span| span.parent_span_id.is_empty()),
        "{rounds:?}"
    );
    assert!(rounds.iter().all(|span| span.links == [begun]), "{rounds:?}");
    assert!(rounds.iter().all(|span| span.trace_id != begun));

    // Logs of the work have its ids.
    let logs = receiver.logs();
    let ended = logs
        .iter()
        .find(|log| log.body == "an operation ended" && log.trace_id == begun)
        .unwrap();
    assert_eq!(ended.attributes["activity_name"], "cms-record-running");
    assert_eq!(ended.attributes["operation_id"], operation.id.to_string());
    assert_eq!(ended.attributes["instance_id"], operation.instance_id.to_string());

    for (metric, labels, expected) in [
        (
            "toygres_operations_total",
            vec![("kind", "create"), ("outcome", "succeeded")],
            1.0,
        ),
        (
            "toygres_operations_total",
            vec![("kind", "delete"), ("outcome", "succeeded")],
            1.0,
        ),
        (
            "toygres_operation_duration_seconds",
            vec![("kind", "create"), ("outcome", "succeeded")],
            1.0,
        ),
        (
            "toygres_provision_phase_duration_seconds",
            vec![("phase", "deploy")],
            1.0,
        ),
        (
            "toygres_provision_phase_duration_seconds",
            vec![("phase", "wait_for_ready")],
            1.0,
        ),
        (
            "toygres_provision_phase_duration_seconds",
            vec![("phase", "test_connection")],
            1.0,
        ),
        (
            "http_server_request_duration_seconds",
            vec![
                ("http_route", "/api/instances"),
                ("http_request_method", "POST"),
                ("http_response_status_code", "202"),
            ],
            1.0,
        ),
        (
            "http_server_request_duration_seconds",
            vec![
                ("http_route", "/api/instances/{name}"),
                ("http_response_status_code", "404"),
            ],
            2.0,
        ),
    ] {
        assert_eq!(
            labelled(&receiver, metric, &labels),
            Some(expected),
            "{metric} {labels:?}"
        );
    }
    assert!(!receiver.all().contains(PASSWORD));
    telemetry.shutdown(LIMIT).await;
}

fn names(spans: &[ReceivedSpan], trace: &str) -> Vec<String> {
    let of_trace = spans.iter().filter(|span| span.trace_id == trace);
    of_trace
        .map(|span| format!("{}<{}", span.name, span.parent_span_id))
        .collect()
}
