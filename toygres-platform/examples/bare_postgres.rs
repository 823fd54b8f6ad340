//! How long PostgreSQL itself takes here: `initdb`, start and first query with the flags and the user that the local
//! platform uses, by nothing but processes; and the same through the platform, to compare. Prints JSON.
//!
//! `bare_postgres [--count N] [--parallel N]`: N one after the other (5), N at the same time (10).
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program of the benchmarks"
)]

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use toygres_models::{InstanceId, Secret};
use toygres_platform::local::{LocalConfig, LocalPlatform, Programs, RunAs};
use toygres_platform::{InstanceSpec, Observation, Platform, Storage};

const PASSWORD: &str = "bare-postgres";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let place = arguments.iter().position(|argument| argument == name);
        place.map_or(default, |place| arguments[place + 1].parse().unwrap())
    };
    let (count, parallel) = (number("--count", 5), number("--parallel", 10));
    let home = std::env::temp_dir().join(format!("toygres-bare-{}", std::process::id()));
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, PermissionsExt::from_mode(0o755)).unwrap();
    let programs = Programs::find(&home, "");
    let bin = programs.directory(programs.newest().unwrap()).unwrap().to_owned();
    let platform = LocalPlatform::open(LocalConfig::new(home.join("local")))
        .await
        .unwrap();
    let platform = Arc::new(platform);

    let (mut bare, mut through, mut removals) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let begin = Instant::now();
        let server = Bare::make(home.clone(), bin.clone()).await;
        bare.push(begin.elapsed());
        drop(server);
        let begin = Instant::now();
        let instance = make(platform.clone()).await.reference();
        through.push(begin.elapsed());
        let begin = Instant::now();
        platform.remove(&instance).await.unwrap();
        removals.push(begin.elapsed());
    }
    let begin = Instant::now();
    let servers = all((0..parallel).map(|_| Bare::make(home.clone(), bin.clone()))).await;
    let bare_parallel = begin.elapsed();
    drop(servers);
    let begin = Instant::now();
    let specs = all((0..parallel).map(|_| make(platform.clone()))).await;
    let through_parallel = begin.elapsed();
    let begin = Instant::now();
    for spec in &specs {
        platform.remove(&spec.reference()).await.unwrap();
    }
    let removal_of_all = begin.elapsed();
    std::fs::remove_dir_all(&home).unwrap();
    let result = serde_json::json!({
        "count": count,
        "parallel": parallel,
        "bare_create_ms_median": median(bare),
        "platform_create_ms_median": median(through),
        "platform_remove_ms_median": median(removals),
        "bare_parallel_ms": milliseconds(bare_parallel),
        "platform_parallel_ms": milliseconds(through_parallel),
        "platform_remove_all_ms": milliseconds(removal_of_all),
    });
    println!("{result:#}");
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

fn median(mut times: Vec<Duration>) -> Option<f64> {
    times.sort();
    times.get(times.len() / 2).copied().map(milliseconds)
}

async fn all<T: Send + 'static>(
    work: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = work.map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

async fn first_query(port: u16) {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username("postgres")
        .password(PASSWORD)
        .database("postgres")
        .ssl_mode(PgSslMode::Disable);
    loop {
        if let Ok(mut connection) = options.connect().await {
            sqlx::query("select 1").execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same through the platform.
async fn make(platform: Arc<LocalPlatform>) -> InstanceSpec {
    let spec = InstanceSpec {
        id: InstanceId::generate(),
        name: "bench".parse().unwrap(),
        postgres_version: platform.versions()[0],
        password: Secret::new(PASSWORD.to_owned()),
        storage_size_gb: 1,
        cpu: None,
        memory_mb: None,
        internal: true,
        namespace: None,
    };
    platform.ensure(&spec, Storage::Create).await.unwrap();
    let limit = Duration::from_secs(300);
    match platform.wait_ready(&spec.reference(), limit).await.unwrap() {
        Observation::Ready { endpoint, .. } => first_query(endpoint.port).await,
        other => panic!("{other:?}"),
    }
    spec
}

/// A server without toygres; stopped and removed when dropped.
struct Bare {
    directory: PathBuf,
    server: Child,
}

impl Bare {
    async fn make(home: PathBuf, bin: PathBuf) -> Self {
        let directory = home.join(InstanceId::generate().to_string());
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let begun = tokio::task::spawn_blocking(move || Self::begin(directory, &bin, port));
        let bare = begun.await.unwrap();
        first_query(port).await;
        bare
    }

    fn begin(directory: PathBuf, bin: &Path, port: u16) -> Self {
        let run_as = RunAs::find().unwrap().ids();
        std::fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        let password = directory.join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        let mut initdb = Command::new(bin.join("initdb"));
        let mut postgres = Command::new(bin.join("postgres"));
        if let Some((user, group)) = run_as {
            chown(&directory, Some(user), Some(group)).unwrap();
            chown(&password, Some(user), Some(group)).unwrap();
            initdb.uid(user).gid(group);
            postgres.uid(user).gid(group);
        }
        let data = directory.join("data");
        initdb
            .arg("-D")
            .arg(&data)
            .arg(format!("--pwfile={}", password.display()))
            .args(["--username=postgres", "--auth=scram-sha-256", "--data-checksums"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]);
        let status = initdb.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success(), "initdb failed");
        postgres.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=64MB",
        ] {
            postgres.args(["-c", setting]);
        }
        let server = postgres.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self {
            directory,
            server: server.unwrap(),
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.server);
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
        self.server.wait().ok();
        std::fs::remove_dir_all(&self.directory).ok();
    }
}
