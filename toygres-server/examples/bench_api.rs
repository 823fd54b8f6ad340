//! What the API costs, beside the same work in psql. Called by `scripts/bench.sh`.
//!
//! The server runs in a process of its own, so that the clients' work is not counted. Arguments: `--json FILE`,
//! `--server PROGRAM` (the example `stub_server`), and optionally `--instances N`, `--operations N`, `--requests N`,
//! `--clients N`, `--creates N`, `--streams N`, `--seconds N`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic and prints"
)]

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use toygres_testing::wait_for;

/// Room for a slow machine; what is measured takes far less.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often each of many clients asks.
const CLIENT_PERIOD: Duration = Duration::from_millis(100);
/// Creates a second.
const CREATE_RATE: u32 = 20;

const INSTANCES_PAGE: &str = "select id, name, user_name, state, health_status, state_reason, postgres_version, \
    storage_size_gb, cpu, memory_mb, internal, namespace, tags, deletion_protection, endpoint_host, endpoint_port, \
    created_at, updated_at, deleted_at from cms.instances where state <> 'deleted' order by created_at, id limit 100";
const OPERATIONS_PAGE: &str = "with page as (select o.*, i.name as instance_name from cms.operations o \
    join cms.instances i on i.id = o.instance_id order by o.id desc limit 100) \
    select page.*, s.* from page left join cms.operation_steps s on s.operation_id = page.id \
    order by page.id desc, s.position";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)).cloned()
    };
    let number = |name: &str, default: usize| value(name).map_or(default, |text| text.parse().unwrap());
    let mut server = Server::start(&value("--server").unwrap());
    fill(
        &server,
        number("--instances", 10_000),
        number("--operations", 100_000),
    )
    .await;
    let (requests, clients) = (number("--requests", 2000), number("--clients", 50));
    let mut lists = serde_json::Map::new();
    for (name, path, sql) in [
        ("instances", "/api/instances?limit=100", INSTANCES_PAGE),
        ("operations", "/api/operations?limit=100", OPERATIONS_PAGE),
    ] {
        let one = load(&server, path, requests / 4, 1, None).await;
        let psql = psql(&server, sql, 200);
        let paced = load(&server, path, requests, clients, Some(CLIENT_PERIOD)).await;
        let flat_out = load(&server, path, requests, clients, None).await;
        lists.insert(
            name.to_owned(),
            json!({
                "one_client_p50_ms": percentile(&one, 50), "one_client_p99_ms": percentile(&one, 99),
                "psql_p50_ms": percentile(&psql, 50), "ratio_to_psql": percentile(&one, 50) / percentile(&psql, 50),
                "clients": clients,
                "ten_a_second_each_p50_ms": percentile(&paced, 50),
                "ten_a_second_each_p99_ms": percentile(&paced, 99),
                "flat_out_p50_ms": percentile(&flat_out, 50), "flat_out_p99_ms": percentile(&flat_out, 99),
            }),
        );
    }
    let create = creates(&server, number("--creates", 300)).await;
    let streams = streams(&server, number("--streams", 1000), number("--seconds", 20)).await;
    server.stop();
    let result = json!({ "first_page": lists, "create": create, "event_streams": streams });
    if let Some(file) = value("--json") {
        std::fs::write(file, serde_json::to_string_pretty(&result).unwrap()).unwrap();
    }
    println!("{}", serde_json::to_string_pretty(&result).unwrap());
}

struct Server {
    process: Child,
    url: String,
    database_url: String,
}

impl Server {
    fn start(program: &str) -> Self {
        let mut process = Command::new(program)
            .args([
                "TOYGRES_RATE_LIMIT_PER_SECOND=1000000",
                "TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS=3600",
                "DATABASE_URL=",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let (url, database_url) = line.trim().split_once(' ').expect("the server started");
        Self {
            process,
            url: url.to_owned(),
            database_url: database_url.to_owned(),
        }
    }

    fn stop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }

    fn cpu_seconds(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: f64 = [11, 12]
            .iter()
            .map(|at| fields[*at].parse::<f64>().unwrap())
            .sum();
        ticks / rustix::param::clock_ticks_per_second() as f64
    }
}

/// Rows as if all had been made: ended ones without actors, of which only the lists know.
async fn fill(server: &Server, instances: usize, operations: usize) {
    let mut connection = PgConnection::connect(&server.database_url).await.unwrap();
    for statement in [
        format!(
            "insert into cms.instances (id, name, user_name, state, desired_state, postgres_version, storage_size_gb, \
             internal, tags, deletion_protection, created_at) \
             select gen_random_uuid(), 'bench-' || n, 'owner-' || n % 20, 'failed', 'running', 17, 10, false, \
             jsonb_build_object('n', (n % 7)::text), false, now() - make_interval(secs => {instances} - n) \
             from generate_series(1, {instances}) n"
        ),
        // Version 7: the first 48 bits are the time.
        format!(
            "insert into cms.operations (id, instance_id, kind, state, error_code, error_message, requested_at, started_at, finished_at) \
             select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - {operations} + n), 12, '0') || '7' || \
                 right(md5(n::text), 19))::uuid, i.id, 'create', 'failed', 'x', 'x', now(), now(), now() \
             from generate_series(1, {operations}) n \
             join (select id, row_number() over () - 1 as place from cms.instances) i on i.place = n % {instances}"
        ),
        "insert into cms.operation_steps (operation_id, name, state, attempts, finished_at) \
         select id, step, 'failed', 1, now() from cms.operations, unnest(array['deploy-postgres', 'wait-for-ready']) step"
            .to_owned(),
        "vacuum analyze".to_owned(),
    ] {
        sqlx::raw_sql(&statement).execute(&mut connection).await.unwrap();
    }
}

/// Milliseconds of each request, by so many clients at once: each begins one every `period`, or when it has the last
/// one's answer.
async fn load(
    server: &Server,
    path: &str,
    requests: usize,
    clients: usize,
    period: Option<Duration>,
) -> Vec<f64> {
    let authority = server.url.strip_prefix("http://").unwrap().to_owned();
    let head = Arc::new(format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n\r\n"));
    let client = |number: usize| {
        let (authority, head) = (authority.clone(), head.clone());
        async move {
            let mut connection = Connection::open(&authority).await;
            let mut times = Vec::new();
            if let Some(period) = period {
                // Not all in the same instant.
                tokio::time::sleep(period * number as u32 / clients as u32).await;
            }
            let mut ticks = tokio::time::interval(period.unwrap_or(Duration::from_millis(1)));
            for _ in 0..(requests / clients) {
                if period.is_some() {
                    ticks.tick().await;
                }
                let begun = Instant::now();
                connection.get(&head).await;
                times.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
            times
        }
    };
    let tasks = (0..clients).map(|number| tokio::spawn(client(number)));
    let times = join_all(tasks).await.into_iter();
    times.flat_map(Result::unwrap).collect()
}

/// A connection that reads answers and does nothing with them: a whole client's work would be measured as the server's,
/// since both share the machine.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(authority: &str) -> Self {
        Self {
            stream: TcpStream::connect(authority).await.unwrap(),
            buffer: vec![0; 256 * 1024],
        }
    }

    async fn get(&mut self, head: &str) {
        self.stream.write_all(head.as_bytes()).await.unwrap();
        let mut filled = 0;
        let mut expected = None;
        while expected.is_none_or(|expected| filled < expected) {
            let read = self.stream.read(&mut self.buffer[filled..]).await.unwrap();
            assert!(read > 0, "the server hung up");
            filled += read;
            if expected.is_none() {
                expected = answer_length(&self.buffer[..filled]);
            }
        }
    }
}

/// How long the answer is, once its head is there.
fn answer_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|text| text == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    Some(head + 4 + length.unwrap().parse::<usize>().unwrap())
}

/// Milliseconds of the same query in psql, as it says itself.
fn psql(server: &Server, sql: &str, rounds: usize) -> Vec<f64> {
    let script = format!("\\timing on\n{}", format!("{sql};\n").repeat(rounds));
    let script_file = std::env::temp_dir().join(format!("toygres-bench-{}.sql", std::process::id()));
    std::fs::write(&script_file, script).unwrap();
    let output = Command::new("psql")
        .args(["-XqAt", "-f"])
        .arg(&script_file)
        .arg(&server.database_url)
        .output()
        .unwrap();
    std::fs::remove_file(&script_file).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let times: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Time: ")?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(times.len(), rounds, "{}", String::from_utf8_lossy(&output.stderr));
    times
}

/// Creates at an even rate, each by its own connection or not as the client sees fit.
async fn creates(server: &Server, count: usize) -> Value {
    let http = reqwest::Client::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CREATE_RATE);
    let mut tasks = Vec::new();
    for number in 0..count {
        ticks.tick().await;
        let request = http
            .post(format!("{}/api/instances", server.url))
            .json(&json!({"name": format!("new-{number}"), "password": "benchmark"}));
        tasks.push(tokio::spawn(async move {
            let begun = Instant::now();
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status().as_u16(), 202);
            answer.bytes().await.unwrap();
            begun.elapsed().as_secs_f64() * 1000.0
        }));
    }
    let times: Vec<f64> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    json!({
        "per_second": CREATE_RATE, "creates": count,
        "p50_ms": percentile(&times, 50), "p99_ms": percentile(&times, 99),
    })
}

/// Listeners, each of which hears one event a second.
async fn streams(server: &Server, count: usize, seconds: usize) -> Value {
    // What was asked for before is done, and its events are told.
    wait_for("the work to be done", PATIENCE, || async {
        let path = "/api/operations?state=running&limit=1";
        let answer = reqwest::get(format!("{}{path}", server.url)).await.unwrap();
        (answer.text().await.unwrap() == "[]").then_some(())
    })
    .await;
    let mut connection = PgConnection::connect(&server.database_url).await.unwrap();
    let instance: sqlx::types::Uuid = sqlx::query_scalar("select id from cms.instances limit 1")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let heard = Arc::new(AtomicU64::new(0));
    let http = reqwest::Client::new();
    let mut listeners = Vec::new();
    for _ in 0..count {
        let mut answer = http
            .get(format!("{}/api/events", server.url))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let heard = heard.clone();
        listeners.push(tokio::spawn(async move {
            while let Ok(Some(chunk)) = answer.chunk().await {
                let events = chunk.windows(4).filter(|text| text == b"\nid:").count();
                heard.fetch_add(events as u64, Ordering::Relaxed);
            }
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (cpu, begun) = (server.cpu_seconds(), Instant::now());
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..seconds {
        ticks.tick().await;
        sqlx::query("insert into cms.instance_events (instance_id, kind, message) values ($1, 'bench', 'a second went by')")
            .bind(instance)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let expected = (count * seconds) as u64;
    wait_for("every listener to have heard everything", PATIENCE, || async {
        (heard.load(Ordering::Relaxed) >= expected).then_some(())
    })
    .await;
    let core_percent = (server.cpu_seconds() - cpu) / begun.elapsed().as_secs_f64() * 100.0;
    for listener in listeners {
        listener.abort();
    }
    json!({ "streams": count, "seconds": seconds, "heard": heard.load(Ordering::Relaxed), "server_core_percent": core_percent })
}

fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
