//! What telemetry costs: the same load on three servers in turn, one that exports everything, one that writes the log
//! file only, and one that tells nothing. Called by `scripts/bench.sh`.
//!
//! Arguments: `--json FILE --server PROGRAM` (the example `stub_server`), and optionally `--rounds N`, `--creates N`,
//! `--clients N`, `--requests N`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic and prints"
)]

use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use toygres_telemetry::events::{ActivityEnded, ActivityOutcome};
use toygres_telemetry::{Event, TelemetryConfig};
use toygres_testing::OtlpReceiver;

const VARIANTS: [&str; 3] = ["exported", "file", "off"];
const PAUSE: Duration = Duration::from_millis(20);
/// Clock ticks a second in `/proc`.
const TICKS: f64 = 100.0;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, default: usize| value(name).map_or(default, |text| text.parse().unwrap());
    if arguments.iter().any(|argument| argument == "--receive") {
        return receive().await;
    }
    let program = value("--server").expect("--server PROGRAM");
    let (rounds, creates) = (number("--rounds", 30), number("--creates", 24));
    let (clients, requests) = (number("--clients", 8), number("--requests", 300));
    let receiver = Receiver::start();
    let files = tempfile::tempdir().unwrap();
    let servers =
        VARIANTS.map(|variant| Server::start(Path::new(&program), variant, &receiver, files.path()));

    // Rounds are short and each server is first in turn, request by request even, since the machine is not the same from
    // one minute to the next. The first round only warms up.
    let mut measured: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
    for round in 0..=rounds {
        let mut turn = Vec::new();
        for place in 0..servers.len() {
            let server = &servers[(round + place) % servers.len()];
            let (throughput, processor_ms) = server.change(round, creates, clients).await;
            turn.push((server, throughput, processor_ms, Vec::with_capacity(requests)));
        }
        for _ in 0..requests {
            for (server, _, _, times) in &mut turn {
                times.push(server.get_ms().await);
            }
            turn.rotate_left(1);
        }
        for (server, throughput, processor_ms, mut times) in turn {
            times.sort_unstable_by(f64::total_cmp);
            if round > 0 {
                measured.entry(server.variant).or_default().push(Round {
                    throughput,
                    processor_ms,
                    p50_ms: times[requests / 2],
                    p99_ms: times[requests * 99 / 100],
                });
            }
        }
    }
    let memory = servers
        .each_ref()
        .map(|server| (server.variant, server.resident_mb()));
    drop(servers);
    let each = each(&receiver.url).await;
    let export = receiver.end();

    let of = |variant: &str, what: fn(&Round) -> f64| median(measured[variant].iter().map(what).collect());
    let variants: BTreeMap<&str, Value> = VARIANTS
        .iter()
        .zip(memory)
        .map(|(variant, (_, memory))| {
            let numbers = json!({
                "creates_and_deletes_a_second": of(variant, |r| r.throughput),
                "processor_ms_of_each": of(variant, |r| r.processor_ms),
                "get_p50_ms": of(variant, |r| r.p50_ms),
                "get_p99_ms": of(variant, |r| r.p99_ms),
                "memory_mb": memory,
            });
            (*variant, numbers)
        })
        .collect();
    // Round by round.
    let more = |variant: &str, what: fn(&Round) -> f64| {
        let pairs = measured[variant].iter().zip(&measured["off"]);
        (median(pairs.map(|(with, without)| what(with) / what(without)).collect()) - 1.0) * 100.0
    };
    let overhead = |variant: &str| {
        json!({
            "throughput_percent": -more(variant, |r| r.throughput),
            "processor_percent": more(variant, |r| r.processor_ms),
            "get_p50_percent": more(variant, |r| r.p50_ms),
            "get_p99_percent": more(variant, |r| r.p99_ms),
        })
    };
    let result = json!({
        "rounds": rounds,
        "creates_a_round": creates,
        "clients": clients,
        "variants": variants,
        "overhead": { "exported": overhead("exported"), "file": overhead("file") },
        "export": export,
        "each": each,
    });
    if let Some(file) = value("--json") {
        std::fs::write(file, serde_json::to_string_pretty(&result).unwrap()).unwrap();
    }
    println!("{}", serde_json::to_string_pretty(&result).unwrap());
}

/// What a round came to.
struct Round {
    throughput: f64,
    processor_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// The collector's place, in a process of its own that gets what the others leave: what a collector costs is not what
/// telemetry costs.
struct Receiver {
    url: String,
    child: Child,
    told: BufReader<std::process::ChildStdout>,
}

impl Receiver {
    fn start() -> Self {
        let mut child = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe().unwrap())
            .arg("--receive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        told.read_line(&mut url).unwrap();
        Self {
            url: url.trim().to_owned(),
            child,
            told,
        }
    }

    /// What it received.
    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        self.child.wait().unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

/// Receives until its standard input ends, then says what.
async fn receive() {
    let receiver = OtlpReceiver::start().await;
    println!("{}", receiver.url());
    let wait = || std::io::stdin().read_line(&mut String::new());
    tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
    let sizes = receiver.metric_export_sizes();
    let received = json!({
        "log_records": receiver.logs().len(),
        "spans": receiver.spans().len(),
        "metrics_kb": sizes.iter().copied().max().unwrap_or(0) as f64 / 1024.0,
    });
    println!("{received}");
}

struct Server {
    variant: &'static str,
    url: String,
    child: Child,
    http: reqwest::Client,
}

impl Server {
    fn start(program: &Path, variant: &'static str, receiver: &Receiver, files: &Path) -> Self {
        let file = format!("LOG_FILE={}", files.join(variant).join("server.log").display());
        let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT={}", receiver.url);
        let telemetry: &[&str] = match variant {
            "exported" => &[&file, &endpoint],
            "file" => &[&file],
            _ => &["OTEL_SDK_DISABLED=true", "RUST_LOG=off"],
        };
        std::fs::create_dir(files.join(variant)).unwrap();
        let mut child = Command::new(program)
            .args(telemetry)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            variant,
            url: line.split_whitespace().next().unwrap().to_owned(),
            child,
            http: reqwest::Client::new(),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn ended(&self, accepted: &Value) {
        let path = format!(
            "/api/operations/{}",
            accepted["operation"]["id"].as_str().unwrap()
        );
        loop {
            let (_, operation) = self.call(Method::GET, &path, None).await;
            match operation["state"].as_str().unwrap() {
                "succeeded" => return,
                "pending" | "running" => tokio::time::sleep(PAUSE).await,
                state => panic!("an operation is {state}: {operation}"),
            }
        }
    }

    /// Creates and deletes so many instances: how many a second, and the processor time of each in milliseconds.
    async fn change(&self, round: usize, creates: usize, clients: usize) -> (f64, f64) {
        let processor = self.processor();
        let begun = Instant::now();
        stream::iter(0..creates)
            .for_each_concurrent(clients, |number| async move {
                let name = format!("bench-{round}-{number}");
                let body = json!({ "name": name, "password": "benchmark" });
                let (status, accepted) = self.call(Method::POST, "/api/instances", Some(body)).await;
                assert_eq!(status, 202, "{accepted}");
                self.ended(&accepted).await;
                let path = format!("/api/instances/{name}");
                let (status, accepted) = self.call(Method::DELETE, &path, None).await;
                assert_eq!(status, 202, "{accepted}");
                self.ended(&accepted).await;
            })
            .await;
        let throughput = creates as f64 / begun.elapsed().as_secs_f64();
        (
            throughput,
            (self.processor() - processor) * 1000.0 / creates as f64,
        )
    }

    async fn get_ms(&self) -> f64 {
        let begun = Instant::now();
        let (status, _) = self.call(Method::GET, "/api/instances?limit=10", None).await;
        assert_eq!(status, 200);
        begun.elapsed().as_secs_f64() * 1000.0
    }

    /// Processor time so far, in seconds.
    fn processor(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11..13]
            .iter()
            .map(|field| field.parse::<f64>().unwrap())
            .sum();
        ticks / TICKS
    }

    fn resident_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with its standard input.
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// What one event, span and number cost in this very process, everything on.
async fn each(url: &str) -> Value {
    let telemetry = toygres_telemetry::init(&TelemetryConfig {
        file: Some(tempfile::tempdir().unwrap().keep().join("server.log")),
        ..TelemetryConfig::read(&|name| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| url.to_owned()))
    })
    .unwrap();
    let cost = |work: fn()| {
        let mut bursts = Vec::new();
        for _ in 0..30 {
            std::thread::sleep(Duration::from_millis(25));
            let begun = Instant::now();
            for _ in 0..200 {
                work();
            }
            bursts.push(begun.elapsed().as_nanos() as f64 / 200.0);
        }
        median(bursts)
    };
    let result = json!({
        "log_line_ns": cost(|| tracing::info!(target: "toygres", attempt = 1, step = "apply", "a line")),
        "span_ns": cost(|| drop(tracing::info_span!(target: "toygres", "span", instance_id = "i").entered())),
        "activity_ended_ns": cost(|| {
            ActivityEnded {
                activity_name: "deploy-postgres",
                outcome: ActivityOutcome::Success,
                attempt: 1,
                duration: Duration::from_millis(300),
                error: None,
            }
            .emit();
        }),
    });
    telemetry.shutdown(Duration::from_secs(5)).await;
    result
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
