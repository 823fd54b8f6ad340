//! Telemetry under load, half of it failing, and through outages of the collector. Telemetry is one a process, so that this is
//! one test.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use sqlx::PgPool;
use std::sync::Arc;
use std::time::{Duration, Instant};
use toygres_engine::{
    Activities, Activity, ActivityContext, Context, Engine, EngineClient, EngineConfig, Failure,
    Orchestration, Orchestrations, RetryPolicy, Turn, call_with,
};
use toygres_models::{Error, ErrorKind, Result, Secret};
use toygres_telemetry::TelemetryConfig;
use toygres_telemetry::trace::TraceParent;
use toygres_testing::{OtlpAnswer, OtlpReceiver, TestDatabase, wait_for};

const LIMIT: Duration = Duration::from_secs(120);

/// Fails for every odd number.
struct Flip;

impl Activity for Flip {
    const CRATE: &'static str = "load";
    const NAME: &'static str = "flip";
    type Deps = ();
    type Input = u32;
    type Output = ();

    async fn run(_: &(), _: &ActivityContext, number: u32) -> Result<()> {
        match number % 2 {
            0 => Ok(()),
            _ => Err(Error::new(ErrorKind::Invalid, "odd", "an odd number")),
        }
    }
}

struct Toss;

impl Orchestration for Toss {
    const CRATE: &'static str = "load";
    const NAME: &'static str = "toss";
    type Input = u32;
    type Output = ();

    async fn run(cx: Context, number: u32) -> std::result::Result<Turn<(), u32>, Failure> {
        call_with::<Flip>(&cx, RetryPolicy::once(), number).await?;
        Ok(Turn::Done(()))
    }
}

struct Load {
    client: EngineClient,
    started: u32,
}

impl Load {
    /// Starts so many, at an even rate, and tells how long the slowest start took.
    async fn start(&mut self, count: u32, per_second: u32) -> Duration {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        let mut slowest = Duration::ZERO;
        for _ in 0..count {
            ticks.tick().await;
            let begun = Instant::now();
            let id = format!("toss-{}", self.started);
            self.client.start::<Toss>(&id, self.started).await.unwrap();
            slowest = slowest.max(begun.elapsed());
            self.started += 1;
        }
        slowest
    }

    /// Waits until everything that was started has arrived, each once and rightly told.
    async fn arrived(&self, receiver: &OtlpReceiver) {
        let half = f64::from(self.started / 2);
        let completions = "duroxide_orchestration_completions_total";
        wait_for("every orchestration", LIMIT, async || {
            let told = number(receiver, completions, &[("orchestration_name", "toss")]);
            assert!(told <= 2.0 * half, "{told} were told of {}", self.started);
            (told == 2.0 * half).then_some(())
        })
        .await;
        for (metric, labels, expected) in [
            (
                "duroxide_orchestration_starts_total",
                vec![("initiated_by", "client")],
                2.0 * half,
            ),
            (completions, vec![("status", "success")], half),
            (completions, vec![("status", "failed")], half),
            (
                "duroxide_orchestration_failures_total",
                vec![("error_type", "app_error"), ("error_category", "validation")],
                half,
            ),
            (
                "duroxide_activity_executions_total",
                vec![("outcome", "success")],
                half,
            ),
            (
                "duroxide_activity_executions_total",
                vec![("outcome", "app_error")],
                half,
            ),
            (
                "duroxide_activity_errors_total",
                vec![("error_code", "odd"), ("retryable", "false")],
                half,
            ),
            ("duroxide_client_orchestration_starts_total", vec![], 2.0 * half),
        ] {
            assert_eq!(number(receiver, metric, &labels), expected, "{metric} {labels:?}");
        }
    }
}

fn number(receiver: &OtlpReceiver, metric: &str, labels: &[(&str, &str)]) -> f64 {
    let points = receiver.metric(metric).into_iter().filter(|point| {
        labels
            .iter()
            .all(|(label, value)| point.labels.get(*label).is_some_and(|found| found == value))
    });
    points.map(|point| point.value).sum()
}

fn memory_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_under_load_and_through_outages() {
    let mut receiver = OtlpReceiver::start().await;
    let url = receiver.url();
    let telemetry = toygres_telemetry::init(&TelemetryConfig::read(&|name| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(url.clone()),
        "OTEL_METRIC_EXPORT_INTERVAL" => Some("1000".to_owned()),
        _ => None,
    }))
    .unwrap();
    let database = TestDatabase::new().await;
    let pool = PgPool::connect(&database.url).await.unwrap();
    let mut config = EngineConfig::new(Secret::new(database.url.clone()));
    config.current_traceparent = || Some(TraceParent::of(rand::random(), rand::random()).header());
    let engine = Engine::connect(config, pool).await.unwrap();
    let running = engine
        .start(
            Activities::new("load", Arc::new(())).register::<Flip>(),
            Orchestrations::new("load").register::<Toss>(),
        )
        .await;
    let mut load = Load {
        client: engine.client(),
        started: 0,
    };

    for per_second in [10, 100] {
        load.start(per_second * 5, per_second).await;
        load.arrived(&receiver).await;
    }
    let series: usize = receiver
        .metric_names()
        .iter()
        .map(|name| {
            let points = receiver.metric(name);
            // Buckets, sum and count are a series each.
            points
                .iter()
                .map(|point| match point.bounds.len() {
                    0 => 1,
                    bounds => bounds + 3,
                })
                .sum::<usize>()
        })
        .sum();
    println!("series: {series}");
    assert!(series < 10_000);

    let before = memory_mb();
    for answer in [OtlpAnswer::Unavailable, OtlpAnswer::Silence] {
        receiver.answer(answer);
        let slowest = load.start(50, 10).await;
        println!("while the collector answers {answer:?}: slowest start {slowest:?}");
        receiver.answer(OtlpAnswer::Take);
        load.arrived(&receiver).await;
    }
    // Gone for 30 s, and then another one at the same address.
    let address = receiver.address();
    wait_for("all to have arrived", LIMIT, async || {
        let all = load.started as usize;
        ((spans(&receiver), lines(&receiver)) == (all, all)).then_some(())
    })
    .await;
    let told_before = (spans(&receiver), lines(&receiver));
    drop(receiver);
    let slowest = load.start(300, 10).await;
    println!("while the collector is away: slowest start {slowest:?}");
    receiver = OtlpReceiver::start_on(address, None).await;
    load.arrived(&receiver).await;
    let all = load.started as usize;
    wait_for("every span and line, once", LIMIT, async || {
        let here = (told_before.0 + spans(&receiver), told_before.1 + lines(&receiver));
        (here == (all, all)).then_some(())
    })
    .await;
    for signal in ["logs", "traces"] {
        let lost = [("signal", signal), ("outcome", "lost")];
        assert_eq!(number(&receiver, "toygres_telemetry_items_total", &lost), 0.0);
    }
    let after = memory_mb();
    println!("memory: {before:.1} MB before the outages, {after:.1} MB after them");
    assert!(after < before + 100.0, "{before} MB became {after} MB");

    running.shutdown(Duration::from_secs(5)).await;
    telemetry.shutdown(LIMIT).await;
}

/// Spans of orchestrations.
fn spans(receiver: &OtlpReceiver) -> usize {
    receiver.spans().iter().filter(|span| span.name == "toss").count()
}

/// Lines that an orchestration ended.
fn lines(receiver: &OtlpReceiver) -> usize {
    let ends = ["an orchestration ended", "an orchestration failed: an odd number"];
    receiver
        .logs()
        .iter()
        .filter(|log| ends.contains(&log.body.as_str()))
        .count()
}
