//! What a whole server costs, beside the bare operation in the same run. Called by `scripts/bench.sh`.
//!
//! Arguments: `--json FILE`, and optionally `--creates N`, `--parallel N`, `--parallel-rounds N`, `--idle N`, `--idle-seconds N`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic and prints"
)]

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use toygres_models::operations::OperationState;
use toygres_testing::{
    StubPlatform, TestHome, TestPostgres, TestServer, TestServerOptions, server_programs, wait_for,
};

const PASSWORD: &str = "benchmark";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        arguments
            .iter()
            .position(|a| a == name)
            .and_then(|at| arguments.get(at + 1))
            .cloned()
    };
    let number = |name: &str, default: usize| value(name).map_or(default, |text| text.parse().unwrap());
    let create = create(number("--creates", 15)).await;
    let parallel = parallel(number("--parallel", 50), number("--parallel-rounds", 3)).await;
    let idle = match number("--idle", 500) {
        0 => Value::Null,
        count => idle(count, number("--idle-seconds", 90)).await,
    };
    let result = json!({ "create": create, "parallel": parallel, "idle": idle });
    if let Some(file) = value("--json") {
        std::fs::write(file, serde_json::to_string_pretty(&result).unwrap()).unwrap();
    }
    println!("{}", serde_json::to_string_pretty(&result).unwrap());
}

/// A server with the embedded control database, as somebody has it who configured nothing.
async fn embedded_server() -> TestServer {
    let settings = [
        ("DATABASE_URL", ""),
        ("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "30"),
    ];
    let settings = settings
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    TestServer::start_with(TestServerOptions {
        settings,
        ..Default::default()
    })
    .await
}

/// From POST to the first answered query, and from DELETE to nothing left; bare ones in turn.
async fn create(count: usize) -> Value {
    let server = embedded_server().await;
    let home = TestHome::new();
    let (mut bare, mut created, mut posted, mut deleted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..count {
        let begun = Instant::now();
        let process = bare_postgres(&home.path().join(format!("bare-{round}"))).await;
        bare.push(begun.elapsed());
        drop(process);
        home.kill_servers();

        let name = format!("bench-{round}");
        let begun = Instant::now();
        let accepted = server.create(&name, PASSWORD).await;
        posted.push(begun.elapsed());
        first_query(&server, &name).await;
        created.push(begun.elapsed());
        assert_eq!(server.ended(&accepted).await.state, OperationState::Succeeded);

        let begun = Instant::now();
        let accepted = server.request_delete(&name).await;
        server.ended(&accepted).await;
        deleted.push(begun.elapsed());
    }
    server.stop().await;
    let (bare, created) = (median(bare), median(created));
    json!({
        "rounds": count,
        "bare_ms": milliseconds(bare),
        "create_to_first_query_ms": milliseconds(created),
        "ratio": created.as_secs_f64() / bare.as_secs_f64(),
        "post_ms": milliseconds(median(posted)),
        "delete_to_nothing_left_ms": milliseconds(median(deleted)),
    })
}

/// Many at once, until the last one answers its first query; bare ones in turn.
async fn parallel(count: usize, rounds: usize) -> Value {
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Who goes second meets what the first has left to the disk: so each is first in turn.
        if round % 2 == 0 {
            bare.push(bare_at_once(count).await);
            ours.push(ours_at_once(count).await);
        } else {
            ours.push(ours_at_once(count).await);
            bare.push(bare_at_once(count).await);
        }
    }
    let (bare, ours) = (median(bare), median(ours));
    json!({
        "at_once": count,
        "rounds": rounds,
        "bare_ms": milliseconds(bare),
        "toygres_ms": milliseconds(ours),
        "ratio": ours.as_secs_f64() / bare.as_secs_f64(),
    })
}

async fn bare_at_once(count: usize) -> Duration {
    let home = TestHome::new();
    rustix::fs::sync();
    let begun = Instant::now();
    let directories: Vec<PathBuf> = (0..count)
        .map(|n| home.path().join(format!("bare-{n}")))
        .collect();
    let processes = join_all(directories.iter().map(|directory| bare_postgres(directory))).await;
    let elapsed = begun.elapsed();
    drop(processes);
    elapsed
}

async fn ours_at_once(count: usize) -> Duration {
    let server = embedded_server().await;
    rustix::fs::sync();
    let begun = Instant::now();
    let names: Vec<String> = (0..count).map(|n| format!("bench-{n}")).collect();
    join_all(names.iter().map(|name| async {
        server.create(name, PASSWORD).await;
        first_query(&server, name).await;
    }))
    .await;
    let elapsed = begun.elapsed();
    server.stop().await;
    elapsed
}

/// What so many watched instances cost when nobody does anything.
async fn idle(count: usize, seconds: usize) -> Value {
    let target = TestPostgres::start().await;
    let platform = StubPlatform::new(&target.url("postgres"));
    let settings = [
        ("DATABASE_URL", ""),
        ("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "30"),
    ];
    let settings = settings
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    let options = TestServerOptions {
        settings,
        platform: Some(platform),
        ..Default::default()
    };
    let server = TestServer::start_with(options).await;
    for batch in (0..count).collect::<Vec<_>>().chunks(25) {
        let accepted = join_all(batch.iter().map(|n| {
            let name = format!("idle-{n}");
            let server = &server;
            async move { server.create(&name, PASSWORD).await }
        }))
        .await;
        for accepted in accepted {
            assert_eq!(server.ended(&accepted).await.state, OperationState::Succeeded);
        }
    }
    // Every instance has had its first round before it is measured.
    tokio::time::sleep(Duration::from_secs(35)).await;
    let control = control_database(server.home.path());
    let before = (
        cpu_seconds(std::process::id()),
        control.map_or(0.0, tree_cpu_seconds),
    );
    let begun = Instant::now();
    let mut oldest: f64 = 0.0;
    while begun.elapsed() < Duration::from_secs(seconds as u64) {
        tokio::time::sleep(Duration::from_secs(15)).await;
        oldest = oldest.max(oldest_check_seconds(&server).await);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let process = (cpu_seconds(std::process::id()) - before.0) / elapsed;
    let database = (control.map_or(0.0, tree_cpu_seconds) - before.1) / elapsed;
    server.stop().await;
    json!({
        "instances": count,
        "seconds": elapsed,
        "server_percent_of_a_core": process * 100.0,
        "database_percent_of_a_core": database * 100.0,
        "total_percent_of_a_core": (process + database) * 100.0,
        "oldest_health_check_seconds": oldest,
    })
}

/// Asks for the address as a patient client does, every 20 ms for the first second and then every 250 ms, and then for
/// the answer to a query.
async fn first_query(server: &TestServer, name: &str) {
    let path = format!("/api/instances/{name}/connection?reveal=true");
    let begun = Instant::now();
    let url = loop {
        let (status, body) = server.get(&path).await;
        if status.is_success() {
            break body["connection_string"].as_str().unwrap().to_owned();
        }
        let pause = if begun.elapsed() < Duration::from_secs(1) {
            20
        } else {
            250
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    };
    query(&url).await;
}

async fn query(url: &str) {
    wait_for("the first query", Duration::from_secs(300), || async {
        let mut connection = PgConnection::connect(url).await.ok()?;
        sqlx::query_scalar::<_, i32>("select 1")
            .fetch_one(&mut connection)
            .await
            .ok()
    })
    .await;
}

/// The same programs, flags and user as the local platform's, and nothing else.
async fn bare_postgres(directory: &Path) -> tokio::process::Child {
    let programs = server_programs();
    std::fs::create_dir(directory).unwrap();
    let password_file = directory.join("password");
    std::fs::write(&password_file, PASSWORD).unwrap();
    let (user, group) = TestHome::owner();
    for path in [directory, &password_file] {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
    let data = directory.join("data");
    let run = |program: &str| {
        let mut command = tokio::process::Command::new(programs.join(program));
        command
            .arg("-D")
            .arg(&data)
            .uid(user)
            .gid(group)
            .process_group(0)
            .current_dir(directory);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let mut initdb = run("initdb");
    initdb
        .arg("--username=postgres")
        .arg(format!("--pwfile={}", password_file.display()));
    initdb.args([
        "--auth=scram-sha-256",
        "--data-checksums",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--no-instructions",
    ]);
    assert!(initdb.status().await.unwrap().success());
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut postgres = run("postgres");
    postgres.args([
        "-p",
        &port.to_string(),
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
    ]);
    let process = postgres.spawn().unwrap();
    query(&format!(
        "postgres://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"
    ))
    .await;
    process
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// The process id of the embedded control database.
fn control_database(home: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(home.join("control/data/postmaster.pid")).ok()?;
    text.lines().next()?.parse().ok()
}

/// Processor time of a process, in seconds (proc(5), fields 14 and 15; with `children`, 16 and 17 too).
fn stat(pid: u32) -> Option<(u32, f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().ok();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Some((
        fields[1].parse().ok()?,
        (ticks(11)? + ticks(12)?) / per_second,
        (ticks(13)? + ticks(14)?) / per_second,
    ))
}

fn cpu_seconds(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |(_, own, _)| own)
}

/// A server's processor time with that of its backends, those that have ended included.
fn tree_cpu_seconds(postmaster: u32) -> f64 {
    let ended = stat(postmaster).map_or(0.0, |(_, own, children)| own + children);
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let living: f64 = pids
        .filter_map(stat)
        .filter(|(parent, ..)| *parent == postmaster)
        .map(|(_, own, _)| own)
        .sum();
    ended + living
}

async fn oldest_check_seconds(server: &TestServer) -> f64 {
    let home = server.home.path();
    let password = std::fs::read_to_string(home.join("control.password")).unwrap();
    let pid_file = std::fs::read_to_string(home.join("control/data/postmaster.pid")).unwrap();
    let port = pid_file.lines().nth(3).unwrap();
    let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let sql = "select extract(epoch from max(now() - last_checked_at))::float8 from cms.instances where state = 'running'";
    sqlx::query_scalar::<_, Option<f64>>(sql)
        .fetch_one(&mut connection)
        .await
        .unwrap()
        .unwrap_or_default()
}
