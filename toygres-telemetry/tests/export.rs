//! What a collector is sent, by the real exporters. Telemetry is one a process, so that each test runs in one of its own:
//! this file starts itself again for each.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use toygres_telemetry::events::{ActivityEnded, ActivityOutcome, ErrorType, FailedTry};
use toygres_telemetry::trace::{PastSpan, TraceParent};
use toygres_telemetry::{Event, Telemetry, TelemetryConfig};
use toygres_testing::{OtlpAnswer, OtlpReceiver, ReceivedPoint, wait_for};
use tracing::Instrument;

const LIMIT: Duration = Duration::from_secs(20);
const MARK: &str = "TOYGRES_TEST_ALONE";

/// Runs the test in a process of its own.
fn alone<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    #[allow(
        clippy::disallowed_methods,
        reason = "the mark of the process that is the test itself"
    )]
    if std::env::var(MARK).is_ok() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(test());
    }
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new(program)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "yes")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && ran.contains("1 passed"),
        "{ran}\n{said}"
    );
}

fn config(variables: &[(&str, &str)]) -> TelemetryConfig {
    TelemetryConfig::read(&|name| {
        let found = variables.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

fn start(receiver: &OtlpReceiver, variables: &[(&str, &str)]) -> Telemetry {
    let url = receiver.url();
    let mut all = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())];
    all.extend(variables);
    toygres_telemetry::init(&config(&all)).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn done(attempt: u32) -> ActivityEnded<'static> {
    ActivityEnded {
        activity_name: "deploy-postgres",
        outcome: ActivityOutcome::Success,
        attempt,
        duration: Duration::from_millis(300),
        error: None,
    }
}

fn failed(code: &str) -> ActivityEnded<'_> {
    ActivityEnded {
        outcome: ActivityOutcome::AppError,
        error: Some(FailedTry {
            error_type: ErrorType::App,
            code,
            message: "it does not work",
            detail: None,
            retryable: false,
        }),
        ..done(1)
    }
}

fn value(points: &[ReceivedPoint]) -> f64 {
    points.iter().map(|point| point.value).sum()
}

#[test]
fn every_signal_arrives_and_belongs_together() {
    alone("every_signal_arrives_and_belongs_together", || async {
        let receiver = OtlpReceiver::start().await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.log");
        let telemetry = toygres_telemetry::init(&TelemetryConfig {
            file: Some(file.clone()),
            ..config(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url()),
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer token"),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
            ])
        })
        .unwrap();
        // Its last bytes are a multiple of ten, so that it is kept.
        let parent = TraceParent::parse("00-4bf92f3577b34da6000000000000000a-00f067aa0ba902b7-01").unwrap();
        let span = parent.scope(
            || tracing::info_span!(target: "toygres_engine", "activity", instance_id = "i-1", secret = "s"),
        );
        async {
            tracing::info!(target: "toygres_engine", attempt = 2, "hello");
            tracing::debug!(target: "toygres_engine", "not written");
            tracing::warn!(target: "h2", "of the exporters themselves");
            done(1).emit();
            let inner = tracing::debug_span!(target: "toygres_cms", "query", otel.kind = "client");
            inner.in_scope(|| tracing::error!(target: "toygres_cms", "an error"));
        }
        .instrument(span)
        .await;
        telemetry.flush().await;

        let resource = receiver.resource();
        assert_eq!(resource["service.name"], "toygres");
        assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(resource["deployment.environment.name"], "test");
        assert!(!resource["service.instance.id"].is_empty() && !resource.contains_key("service.namespace"));
        for metadata in receiver.metadata() {
            assert_eq!(metadata["authorization"], "Bearer token");
            assert_eq!(metadata["grpc-encoding"], "gzip");
        }

        let mut logs = receiver.logs();
        assert_eq!(logs.len(), 2, "{logs:?}");
        logs.sort_by_key(|log| log.severity != "INFO");
        assert_eq!(
            (logs[0].body.as_str(), logs[0].severity.as_str()),
            ("hello", "INFO")
        );
        assert_eq!(logs[0].attributes["instance_id"], "i-1");
        assert_eq!(logs[0].attributes["attempt"], "2");
        assert!(
            !logs[0].attributes.contains_key("secret"),
            "not among the fields that are passed on"
        );
        let spans = receiver.spans();
        let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        let (activity, query) = (of("activity"), of("query"));
        assert_eq!(spans.len(), 2);
        assert_eq!(
            (activity.trace_id.as_str(), activity.parent_span_id.as_str()),
            ("4bf92f3577b34da6000000000000000a", "00f067aa0ba902b7")
        );
        assert_eq!(
            (query.parent_span_id.as_str(), query.kind),
            (activity.span_id.as_str(), 3)
        );
        assert!(query.is_error && !activity.is_error);
        assert_eq!(activity.attributes["sampling.keep"], "true");
        assert_eq!(
            (&logs[0].trace_id, &logs[0].span_id),
            (&activity.trace_id, &activity.span_id)
        );

        let duration = &receiver.metric("duroxide_activity_duration_seconds")[0];
        assert_eq!(
            duration.labels,
            labels(&[("activity_name", "deploy-postgres"), ("outcome", "success")])
        );
        assert_eq!((duration.count, duration.value), (1, 0.3));
        assert_eq!(
            duration.bounds,
            [0.01, 0.05, 0.1, 0.5, 1., 2., 5., 10., 30., 60., 120., 300.]
        );
        assert_eq!(duration.buckets.iter().position(|count| *count == 1), Some(3));
        assert_eq!(duration.exemplars, ["4bf92f3577b34da6000000000000000a"]);
        let memory = value(&receiver.metric("process_resident_memory_bytes"));
        assert!(memory > 1e6, "{memory}");

        telemetry.shutdown(LIMIT).await;
        let written = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<serde_json::Value> = written
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let hello = lines.iter().find(|line| line["message"] == "hello").unwrap();
        assert_eq!(hello["trace_id"], activity.trace_id.as_str());
        assert_eq!(hello["span_id"], activity.span_id.as_str());
        assert_eq!(hello["instance_id"], "i-1");
        assert!(
            lines
                .iter()
                .any(|line| line["message"] == "of the exporters themselves")
        );
    });
}

#[test]
fn a_span_that_was_over_before_has_the_ids_its_children_knew() {
    alone(
        "a_span_that_was_over_before_has_the_ids_its_children_knew",
        || async {
            let receiver = OtlpReceiver::start().await;
            let telemetry = start(&receiver, &[]);
            let begun = TraceParent::of(7, 8);
            let place = begun.with_span(9);
            let child = place.scope(|| tracing::info_span!(target: "toygres", "child"));
            drop(child.entered());
            let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
            let past = PastSpan {
                name: "create-instance".to_owned(),
                place,
                parent: Some(begun),
                link: None,
                start,
                end: start + Duration::from_secs(5),
                attributes: vec![("orchestration_name", "create-instance".to_owned())],
                error: Some("it failed".to_owned()),
            };
            past.emit();
            let root = PastSpan {
                name: "instance-actor".to_owned(),
                place: TraceParent::of(70, 80),
                parent: None,
                link: Some(TraceParent::of(7, 8)),
                start,
                end: start,
                attributes: Vec::new(),
                error: None,
            };
            root.emit();
            telemetry.flush().await;
            let spans = receiver.spans();
            let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
            let (child, past, root) = (of("child"), of("create-instance"), of("instance-actor"));
            assert_eq!(
                (
                    past.trace_id.as_str(),
                    past.span_id.as_str(),
                    past.parent_span_id.as_str()
                ),
                (
                    format!("{:032x}", 7).as_str(),
                    format!("{:016x}", 9).as_str(),
                    format!("{:016x}", 8).as_str()
                )
            );
            assert_eq!(
                (&child.trace_id, &child.parent_span_id),
                (&past.trace_id, &past.span_id)
            );
            assert!(past.is_error && past.end - past.start == 5_000_000_000);
            assert_eq!(
                (root.trace_id.as_str(), root.span_id.as_str()),
                (format!("{:032x}", 70).as_str(), format!("{:016x}", 80).as_str())
            );
            assert_eq!(
                (root.parent_span_id.as_str(), root.links.as_slice()),
                ("", [past.trace_id.clone()].as_slice())
            );
        },
    );
}

#[test]
fn which_lines_are_written_changes_no_trace() {
    alone("which_lines_are_written_changes_no_trace", || async {
        let receiver = OtlpReceiver::start().await;
        let telemetry = start(&receiver, &[("RUST_LOG", "warn")]);
        let statement =
            || tracing::debug!(target: "sqlx::query", summary = "select a from b", elapsed_secs = 0.1);
        let is_asked_for = || tracing::enabled!(target: "sqlx::query", tracing::Level::DEBUG);
        assert!(!is_asked_for(), "a statement outside of spans is in no trace");
        statement();
        tracing::info_span!(target: "toygres", "work", instance_id = "i-1").in_scope(|| {
            tracing::warn_span!(target: "hyper", "not toygres's").in_scope(|| {
                assert!(is_asked_for());
                statement();
            });
            tracing::info!(target: "toygres", "not written");
            tracing::warn!(target: "toygres", "written");
        });
        telemetry.flush().await;
        let spans = receiver.spans();
        let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        let (work, statement) = (of("work"), of("select b"));
        assert_eq!(
            (spans.len(), &statement.trace_id, &statement.parent_span_id),
            (2, &work.trace_id, &work.span_id)
        );
        let logs = receiver.logs();
        let [line] = logs.as_slice() else {
            panic!("{logs:?}")
        };
        assert_eq!(
            (line.body.as_str(), &line.trace_id, &line.span_id),
            ("written", &work.trace_id, &work.span_id)
        );
        assert_eq!(line.attributes["instance_id"], "i-1");
    });
}

#[test]
fn the_engines_lines_have_toygres_words() {
    alone("the_engines_lines_have_toygres_words", || async {
        let receiver = OtlpReceiver::start().await;
        let telemetry = start(&receiver, &[("DUROXIDE_LOG_LEVEL", "warn")]);
        tracing::warn!(target: "duroxide::runtime", instance = "actor-1", execution_id = 3_u64,
            orchestration_name = "toygres-orchestrations::orchestration::instance-actor", "odd");
        tracing::info!(target: "duroxide::runtime", instance = "actor-1", "below the level");
        tracing::warn!(target: "duroxide::providers::postgres", input = "canary", "odd");
        telemetry.flush().await;
        let logs = receiver.logs();
        assert_eq!(logs.len(), 1, "{logs:?}");
        let expected = [
            ("execution_id", "3"),
            ("orchestration_id", "actor-1"),
            ("orchestration_name", "instance-actor"),
        ];
        assert_eq!(
            (logs[0].body.as_str(), &logs[0].attributes),
            ("odd", &labels(&expected))
        );
        assert!(!receiver.all().contains("canary"));
    });
}

#[test]
fn labels_are_bounded_whatever_they_hold() {
    alone("labels_are_bounded_whatever_they_hold", || async {
        let receiver = OtlpReceiver::start().await;
        let telemetry = start(&receiver, &[("DUROXIDE_METRICS_MAX_LABEL_VALUES", "3")]);
        let long = "ö".repeat(1000);
        for code in ["a", "\"quoted\"\n\\", &long, "b", "c", "a"] {
            failed(code).emit();
        }
        telemetry.flush().await;
        let errors = receiver.metric("duroxide_activity_errors_total");
        let mut found: Vec<_> = errors
            .iter()
            .map(|p| (p.labels["error_code"].clone(), p.value))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let cut = "ö".repeat(100);
        let expected = [
            ("\"quoted\"\n\\", 1.0),
            ("a", 2.0),
            ("other", 2.0),
            (cut.as_str(), 1.0),
        ];
        assert_eq!(found, expected.map(|(code, count)| (code.to_owned(), count)));
        assert!(
            errors
                .iter()
                .all(|point| !point.labels.contains_key("error_message"))
        );
    });
}

#[test]
fn families_messages_and_sampling_are_switched() {
    alone("families_messages_and_sampling_are_switched", || async {
        let receiver = OtlpReceiver::start().await;
        let telemetry = start(
            &receiver,
            &[
                ("DUROXIDE_METRICS_SAMPLE_RATE", "0.1"),
                ("DUROXIDE_METRICS_INCLUDE_ERROR_MESSAGES", "true"),
                ("DUROXIDE_METRICS_PROVIDER", "false"),
            ],
        );
        for _ in 0..100 {
            done(1).emit();
            failed("x").emit();
        }
        for _ in 0..5 {
            done(1).emit();
        }
        let retried = toygres_telemetry::events::ProviderRetried {
            operation: toygres_telemetry::events::ProviderOperation::Ack,
        };
        retried.emit();
        telemetry.flush().await;
        let executions = receiver.metric("duroxide_activity_executions_total");
        let of = |outcome: &str| {
            executions
                .iter()
                .find(|p| p.labels["outcome"] == outcome)
                .unwrap()
                .value
        };
        assert_eq!((of("success"), of("app_error")), (100.0, 100.0));
        let durations = receiver.metric("duroxide_activity_duration_seconds");
        assert!(durations.iter().all(|point| point.count == 100), "{durations:?}");
        let errors = receiver.metric("duroxide_activity_errors_total");
        assert_eq!(errors[0].labels["error_message"], "it does not work");
        assert!(receiver.metric("duroxide_provider_retries_total").is_empty());
    });
}

/// Lost and delivered of a signal, as toygres counts them.
fn items(receiver: &OtlpReceiver, signal: &str, outcome: &str) -> f64 {
    let points = receiver.metric("toygres_telemetry_items_total");
    let found = points
        .iter()
        .filter(|p| p.labels["signal"] == signal && p.labels["outcome"] == outcome);
    found.map(|point| point.value).sum()
}

#[test]
fn an_outage_loses_nothing_and_blocks_nobody() {
    alone("an_outage_loses_nothing_and_blocks_nobody", || async {
        let receiver = OtlpReceiver::start().await;
        let telemetry = start(&receiver, &[("OTEL_METRIC_EXPORT_INTERVAL", "200")]);
        let slowest = |count: u32| {
            let mut slowest = Duration::ZERO;
            for number in 0..count {
                let begun = Instant::now();
                tracing::info_span!(target: "toygres", "work").in_scope(|| {
                    tracing::info!(target: "toygres", number, "line");
                    done(1).emit();
                });
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        };
        slowest(100);
        for answer in [OtlpAnswer::Unavailable, OtlpAnswer::Silence] {
            receiver.answer(answer);
            let before = receiver.refused();
            let took = slowest(500);
            assert!(took < Duration::from_secs(1), "{took:?}");
            // One of each signal.
            wait_for("refusals", LIMIT, async || {
                (receiver.refused() >= before + 3).then_some(())
            })
            .await;
        }
        receiver.answer(OtlpAnswer::Take);
        wait_for("all that was said", Duration::from_secs(60), async || {
            let lines = receiver.logs().iter().filter(|log| log.body == "line").count();
            (lines == 1100 && receiver.spans().len() == 1100).then_some(())
        })
        .await;
        wait_for("the numbers", LIMIT, async || {
            (value(&receiver.metric("duroxide_activity_executions_total")) == 1100.0).then_some(())
        })
        .await;
        assert_eq!(
            items(&receiver, "logs", "lost") + items(&receiver, "traces", "lost"),
            0.0
        );
        assert!(
            items(&receiver, "metrics", "lost") >= 1.0,
            "exports of metrics are not repeated"
        );
        telemetry.shutdown(LIMIT).await;
    });
}

#[test]
fn what_does_not_fit_is_lost_and_counted() {
    alone("what_does_not_fit_is_lost_and_counted", || async {
        let receiver = OtlpReceiver::start().await;
        receiver.answer(OtlpAnswer::Unavailable);
        let queues = [
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "50"),
        ];
        let telemetry = start(&receiver, &queues);
        for number in 0..1000 {
            tracing::info_span!(target: "toygres", "work")
                .in_scope(|| tracing::info!(target: "toygres", number, "line"));
        }
        receiver.answer(OtlpAnswer::Take);
        wait_for("what was kept", Duration::from_secs(60), async || {
            let lines = receiver.logs().iter().filter(|log| log.body == "line").count();
            (lines == 100 && receiver.spans().len() == 50).then_some(())
        })
        .await;
        telemetry.flush().await;
        assert_eq!(
            (
                items(&receiver, "logs", "lost"),
                items(&receiver, "traces", "lost")
            ),
            (900.0, 950.0)
        );
        assert_eq!(items(&receiver, "traces", "exported"), 50.0);
        telemetry.shutdown(LIMIT).await;
    });
}

#[test]
fn the_last_words_are_sent() {
    alone("the_last_words_are_sent", || async {
        let receiver = OtlpReceiver::start().await;
        let telemetry = start(&receiver, &[]);
        tracing::info!(target: "toygres", "last words");
        done(1).emit();
        telemetry.shutdown(LIMIT).await;
        assert!(receiver.logs().iter().any(|log| log.body == "last words"));
        assert_eq!(value(&receiver.metric("duroxide_activity_executions_total")), 1.0);
        assert_eq!(
            items(&receiver, "logs", "exported"),
            1.0,
            "what was sent before the metrics is among them"
        );
    });
}

#[test]
fn a_silent_collector_delays_the_end_no_longer_than_allowed() {
    alone(
        "a_silent_collector_delays_the_end_no_longer_than_allowed",
        || async {
            let receiver = OtlpReceiver::start().await;
            receiver.answer(OtlpAnswer::Silence);
            let telemetry = start(&receiver, &[]);
            tracing::info!(target: "toygres", "never heard");
            let begun = Instant::now();
            telemetry.shutdown(Duration::from_secs(2)).await;
            let took = begun.elapsed();
            assert!(
                (Duration::from_secs(2)..Duration::from_secs(8)).contains(&took),
                "{took:?}"
            );
        },
    );
}

#[test]
fn tls_is_checked_against_the_authority_that_is_named() {
    alone("tls_is_checked_against_the_authority_that_is_named", || async {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, private) = (key.cert.pem(), key.signing_key.serialize_pem());
        let directory = tempfile::tempdir().unwrap();
        let authority = directory.path().join("ca.pem");
        std::fs::write(&authority, &certificate).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let receiver = OtlpReceiver::start_on(any, Some((certificate, private))).await;
        let authority = authority.to_str().unwrap();
        let telemetry = start(&receiver, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", authority)]);
        tracing::info!(target: "toygres", "in secret");
        done(1).emit();
        telemetry.flush().await;
        assert_eq!(receiver.logs().len(), 1);
        assert_eq!(value(&receiver.metric("duroxide_activity_executions_total")), 1.0);
    });
}

#[test]
fn what_cant_be_set_up_is_a_warning() {
    alone("what_cant_be_set_up_is_a_warning", || async {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.log");
        let telemetry = toygres_telemetry::init(&TelemetryConfig {
            file: Some(file.clone()),
            ..config(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:1"),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
                ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
                ("RUST_LOG", "not=a=filter"),
            ])
        })
        .unwrap();
        done(1).emit();
        telemetry.shutdown(LIMIT).await;
        let written = std::fs::read_to_string(&file).unwrap();
        for said in ["/nowhere/ca.pem", "OTEL_METRIC_EXPORT_INTERVAL", "not=a=filter"] {
            assert_eq!(written.matches(said).count(), 1, "{said}: {written}");
        }
    });
}

#[test]
fn a_log_directory_that_cant_be_written_is_a_warning() {
    alone("a_log_directory_that_cant_be_written_is_a_warning", || async {
        let receiver = OtlpReceiver::start().await;
        let telemetry = toygres_telemetry::init(&TelemetryConfig {
            file: Some(Path::new("/proc/nowhere/server.log").to_owned()),
            ..config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url())])
        })
        .unwrap();
        tracing::info!(target: "toygres", "goes on");
        telemetry.flush().await;
        let bodies: Vec<_> = receiver.logs().into_iter().map(|log| log.body).collect();
        let count = |what: &str| bodies.iter().filter(|body| body.contains(what)).count();
        assert_eq!(
            (count("/proc/nowhere/server.log"), count("goes on"), bodies.len()),
            (1, 1, 2),
            "{bodies:?}"
        );
    });
}
