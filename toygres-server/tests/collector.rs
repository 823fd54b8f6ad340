//! From the server by a real collector to a real Prometheus: every metric of the table arrives under its name, and logs and
//! traces as they were told. Telemetry is one a process, so that this is one test.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use toygres_models::InstanceId;
use toygres_models::operations::OperationState;
use toygres_platform::InstanceRef;
use toygres_telemetry::events::{
    ActivityEnded, ActivityOutcome, ActivityPoisoned, CancellationAsked, ClientWaited, ErrorType,
    ExecutionEnd, ExecutionEnded, FailedTry, OrchestrationFailure, ProviderCalled, ProviderErrorType,
    ProviderOperation, ProviderRetried,
};
use toygres_telemetry::metric::{Kind, Metric};
use toygres_telemetry::{Event, TelemetryConfig};
use toygres_testing::{
    Observability, StubPlatform, TestPostgres, TestServer, TestServerOptions, observability_programs,
    wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "canary-password-77ab";

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_arrives_in_prometheus() {
    let Some(programs) = observability_programs("collector::every_metric_arrives_in_prometheus") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let stack = Observability::start(programs, directory.path()).await;
    let endpoint = stack.endpoint();
    let telemetry = toygres_telemetry::init(&TelemetryConfig::read(&|name| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.clone()),
        "OTEL_METRIC_EXPORT_INTERVAL" => Some("500".to_owned()),
        _ => None,
    }))
    .unwrap();

    // What happens by itself: a create, health checks, a create that fails, a delete.
    let postgres = TestPostgres::start().await;
    let platform = StubPlatform::new(&postgres.url("postgres"));
    let server = TestServer::start_with(TestServerOptions {
        settings: vec![("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS".to_owned(), "1".to_owned())],
        platform: Some(platform.clone()),
        ..Default::default()
    })
    .await;
    let kept = server.create("kept", PASSWORD).await;
    assert_eq!(server.ended(&kept).await.state, OperationState::Succeeded);
    let made = server.create("shop", PASSWORD).await;
    assert_eq!(server.ended(&made).await.state, OperationState::Succeeded);
    wait_for("health checks", LIMIT, async || {
        stack
            .number("toygres_health_check_duration_seconds_count{outcome=\"healthy\"}")
            .await
            .filter(|count| *count >= 3.0)
    })
    .await;
    platform.refuse();
    let refused = server.create("broken", PASSWORD).await;
    assert_eq!(server.ended(&refused).await.state, OperationState::Failed);
    platform.release();
    // Something that nobody knows.
    platform.put(InstanceRef {
        id: InstanceId::generate(),
        name: "stranger".parse().unwrap(),
        namespace: None,
    });
    let gone = server.request_delete("shop").await;
    assert_eq!(server.ended(&gone).await.state, OperationState::Succeeded);
    let expected = [
        (
            "sum(toygres_operations_total{kind=\"create\",outcome=\"succeeded\"})",
            2.0,
        ),
        (
            "sum(toygres_operations_total{kind=\"create\",outcome=\"failed\"})",
            1.0,
        ),
        (
            "sum(toygres_operations_total{kind=\"delete\",outcome=\"succeeded\"})",
            1.0,
        ),
        (
            "sum(duroxide_orchestration_completions_total{orchestration_name=\"create-instance\",status=\"success\"})",
            2.0,
        ),
        (
            "sum(duroxide_orchestration_completions_total{orchestration_name=\"create-instance\",status=\"failed\"})",
            1.0,
        ),
        ("max by (state) (toygres_instances{state=\"failed\"})", 1.0),
        ("max by (state) (toygres_instances{state=\"running\"})", 1.0),
    ];
    for (query, expected) in expected {
        wait_for(query, LIMIT, async || {
            stack
                .number(query)
                .await
                .filter(|value| (value - expected).abs() < 1e-9)
        })
        .await;
    }

    // What does not happen in a test without faults; that it is told then, the tests of its own crate show.
    emit_what_is_rare();
    let mut table = String::from("| metric | series | what Prometheus has |\n|---|---|---|\n");
    let mut all = 0.0;
    for metric in Metric::ALL {
        let definition = metric.definition();
        let name = match definition.kind {
            Kind::Histogram(_) => format!("{}_count", definition.name),
            Kind::Counter | Kind::Gauge => definition.name.to_owned(),
        };
        let series = wait_for(definition.name, LIMIT, async || {
            let query = format!("{name}{{service_name=\"toygres\",service_version!=\"\"}}");
            stack.ask(&query).await.filter(|series| !series.is_empty())
        })
        .await;
        for one in &series {
            let labels: BTreeMap<String, String> = serde_json::from_value(one["metric"].clone()).unwrap();
            let own: Vec<&str> = labels
                .keys()
                .map(String::as_str)
                .filter(|label| !OF_THE_PIPELINE.contains(label))
                .collect();
            let mut expected = definition.labels.to_vec();
            expected.sort_unstable();
            assert_eq!(own, expected, "{}", definition.name);
        }
        let value = stack.number(&format!("sum({name})")).await.unwrap();
        let of_it = stack
            .number(&format!(
                "count({{__name__=~\"{}(_bucket|_sum|_count)?\"}})",
                definition.name
            ))
            .await;
        all += of_it.unwrap_or_default();
        let _ = writeln!(
            table,
            "| `{}` | {} | {value:.3} |",
            definition.name,
            of_it.unwrap_or_default()
        );
    }
    println!("{table}\nseries in all: {all}");
    assert!(all < 10_000.0, "{all}");

    // From a bucket to the trace.
    let exemplars = wait_for("exemplars", LIMIT, async || {
        let found = stack.exemplars("toygres_operation_duration_seconds_bucket").await;
        let spans = stack
            .exemplars("traces_spanmetrics_duration_seconds_bucket")
            .await;
        (!spans.is_empty()).then_some(found)
    })
    .await;
    println!("exemplars of operations: {}", exemplars.len());

    server.stop().await;
    telemetry.shutdown(LIMIT).await;
    let logs = wait_for("logs", LIMIT, async || {
        let logs = stack.written("logs");
        logs.contains("an operation ended").then_some(logs)
    })
    .await;
    assert!(logs.contains("\"level\"") && logs.contains("traceId"));
    let traces = wait_for("traces", LIMIT, async || {
        let traces = stack.written("traces");
        [
            "create-instance",
            "delete-instance",
            "POST /api/instances",
            "deploy-postgres",
        ]
        .iter()
        .all(|name| traces.contains(name))
        .then_some(traces)
    })
    .await;
    assert!(!logs.contains(PASSWORD) && !traces.contains(PASSWORD));
    // The one that failed is stored, whatever its id.
    wait_for("the failed create among what is stored", LIMIT, async || {
        stack
            .written("stored-traces")
            .contains("create-instance")
            .then_some(())
    })
    .await;
    wait_for("metrics made of spans", LIMIT, async || {
        stack
            .number("sum(traces_spanmetrics_calls_total{span_name=\"create-instance\"})")
            .await
            .filter(|n| *n >= 2.0)
    })
    .await;
}

/// What the collector and Prometheus put on every series.
const OF_THE_PIPELINE: [&str; 5] = ["__name__", "instance", "job", "service_name", "service_version"];

fn emit_what_is_rare() {
    for error_type in [ErrorType::Infrastructure, ErrorType::Config, ErrorType::Poison] {
        let error = FailedTry {
            error_type,
            code: "test",
            message: "a test",
            detail: None,
            retryable: true,
        };
        ActivityEnded {
            activity_name: "test",
            outcome: ActivityOutcome::InfraError,
            attempt: 2,
            duration: Duration::from_millis(1),
            error: Some(error),
        }
        .emit();
        let failure = OrchestrationFailure {
            error_type,
            error_category: "test",
            message: "a test",
        };
        ExecutionEnded {
            orchestration_name: "test",
            version: "1.0.0",
            orchestration_id: "test",
            execution_id: 1,
            end: ExecutionEnd::Failed(failure),
            duration: Duration::from_millis(1),
            turns: 1,
            history_size: 1,
        }
        .emit();
    }
    ActivityPoisoned {
        activity_name: "test",
        orchestration_id: "test",
    }
    .emit();
    CancellationAsked {
        orchestration_id: "test",
    }
    .emit();
    ClientWaited {
        duration: Duration::from_millis(1),
    }
    .emit();
    ProviderCalled {
        operation: ProviderOperation::Ack,
        method: "ack_work_item",
        duration: Duration::from_millis(1),
        error: Some(ProviderErrorType::Other),
    }
    .emit();
    ProviderRetried {
        operation: ProviderOperation::Ack,
    }
    .emit();
}
