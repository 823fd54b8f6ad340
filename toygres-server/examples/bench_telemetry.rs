//! What telemetry costs: the same load on three servers in turn, one that exports everything, one that writes the log
//! file only, and one that tells nothing. Called by `scripts/bench.sh`. First with databases that are real processes, then
//! with the control plane alone, whose databases cost nothing: there telemetry's part is as large as it can be.
//!
//! Arguments: `--json FILE --server PROGRAM` (the example `stub_server`), and optionally `--rounds N`, `--creates N`,
//! `--clients N`, `--requests N` of the control plane alone, and `--database-rounds N`.
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
    let receiver = Receiver::start();
    let databases = Load {
        rounds: number("--database-rounds", 15),
        creates: 4,
        clients: 2,
        fleet: 0,
        requests: 0,
    };
    let databases = databases
        .measure(Path::new(&program), &["PLATFORM=local"], &receiver)
        .await;
    let alone = Load {
        rounds: number("--rounds", 60),
        creates: number("--creates", 16),
        clients: number("--clients", 8),
        fleet: 20,
        requests: number("--requests", 150),
    };
    let mut result = alone
        .measure(
            Path::new(&program),
            &["TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS=3600"],
            &receiver,
        )
        .await;
    result["databases"] = databases;
    result["each"] = each(&receiver.url).await;
    result["export"] = receiver.end();
    if let Some(file) = value("--json") {
        std::fs::write(file, serde_json::to_string_pretty(&result).unwrap()).unwrap();
    }
    println!("{}", serde_json::to_string_pretty(&result).unwrap());
}

/// What is done in each round on each server.
struct Load {
    rounds: usize,
    creates: usize,
    clients: usize,
    /// Instances that are there, to be listed.
    fleet: usize,
    /// How often they are.
    requests: usize,
}

impl Load {
    async fn measure(&self, program: &Path, settings: &[&str], receiver: &Receiver) -> Value {
        let files = tempfile::tempdir().unwrap();
        let servers =
            VARIANTS.map(|variant| Server::start(program, variant, settings, receiver, files.path()));
        for server in &servers {
            for number in 0..self.fleet {
                let body = json!({ "name": format!("fleet-{number}"), "password": "benchmark" });
                let (_, accepted) = server.call(Method::POST, "/api/instances", Some(body)).await;
                server.ended(&accepted).await;
            }
        }
        // Rounds are short and each server is first in turn, request by request even, since the machine is not the same
        // from one minute to the next. The first round only warms up.
        let mut measured: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
        for round in 0..=self.rounds {
            let mut turn = Vec::new();
            for place in 0..servers.len() {
                let server = &servers[(round + place) % servers.len()];
                turn.push((
                    server,
                    server.change(round, self.creates, self.clients).await,
                    Vec::new(),
                ));
            }
            for _ in 0..self.requests {
                for (server, _, times) in &mut turn {
                    times.push(server.get_ms().await);
                }
                turn.rotate_left(1);
            }
            for (server, (throughput, processor_ms), mut times) in turn {
                times.sort_unstable_by(f64::total_cmp);
                let part = |percent| times.get(times.len() * percent / 100).copied();
                if round > 0 {
                    measured.entry(server.variant).or_default().push(Round {
                        throughput,
                        processor_ms,
                        p50_ms: part(50),
                        p99_ms: part(99),
                    });
                }
            }
        }
        let variants: BTreeMap<&str, Value> = servers
            .iter()
            .map(|server| {
                let of = |what: fn(&Round) -> Option<f64>| {
                    median(measured[server.variant].iter().filter_map(what).collect())
                };
                let numbers = json!({
                    "creates_and_deletes_a_second": of(|r| Some(r.throughput)),
                    "processor_ms_of_each": of(|r| Some(r.processor_ms)),
                    "get_p50_ms": of(|r| r.p50_ms),
                    "get_p99_ms": of(|r| r.p99_ms),
                    "memory_mb": server.resident_mb(),
                });
                (server.variant, without_null(numbers))
            })
            .collect();
        // Round by round.
        let more = |variant: &str, what: fn(&Round) -> Option<f64>| {
            let pairs = measured[variant].iter().zip(&measured["off"]);
            let ratio = median(
                pairs
                    .filter_map(|(with, without)| Some(what(with)? / what(without)?))
                    .collect(),
            );
            ratio.map(|ratio| (ratio - 1.0) * 100.0)
        };
        let overhead = |variant: &str| {
            without_null(json!({
                "throughput_percent": more(variant, |r| Some(1.0 / r.throughput)),
                "processor_percent": more(variant, |r| Some(r.processor_ms)),
                "get_p50_percent": more(variant, |r| r.p50_ms),
                "get_p99_percent": more(variant, |r| r.p99_ms),
            }))
        };
        json!({
            "rounds": self.rounds,
            "creates_a_round": self.creates,
            "clients": self.clients,
            "variants": variants,
            "overhead": { "exported": overhead("exported"), "file": overhead("file") },
        })
    }
}

fn without_null(mut numbers: Value) -> Value {
    numbers
        .as_object_mut()
        .unwrap()
        .retain(|_, number| !number.is_null());
    numbers
}

/// What a round came to.
struct Round {
    throughput: f64,
    processor_ms: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
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
    fn start(
        program: &Path,
        variant: &'static str,
        settings: &[&str],
        receiver: &Receiver,
        files: &Path,
    ) -> Self {
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
            .args(settings)
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
        let (status, _) = self.call(Method::GET, "/api/instances?limit=20", None).await;
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

/// None of no numbers.
fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}
