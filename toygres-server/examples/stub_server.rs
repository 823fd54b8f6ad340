//! A whole server whose instances are all the control database: for what looks at the API from outside. Prints its
//! address and the URL of its control database, and ends with its standard input.
//!
//! Arguments: settings as `NAME=VALUE`. With `DATABASE_URL=` the control database is the embedded one, which writes to
//! disk as in production. With `PLATFORM=local` the instances are real processes. With `LOG_FILE=` it writes log lines there; by `OTEL_*` it exports telemetry.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program may panic and prints"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use toygres_platform::Platform;
use toygres_telemetry::TelemetryConfig;
use toygres_testing::{StubPlatform, TestDatabase, TestServer, TestServerOptions};

#[tokio::main]
async fn main() {
    let instances = TestDatabase::new().await.url;
    let mut settings: Vec<(String, String)> = std::env::args()
        .skip(1)
        .map(|argument| {
            let (name, value) = argument.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect();
    let setting = |name: &str| {
        let found = settings.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.clone())
    };
    let telemetry = toygres_telemetry::init(&TelemetryConfig {
        file: setting("LOG_FILE").map(PathBuf::from),
        ..TelemetryConfig::read(&setting)
    })
    .unwrap();
    let platform: Option<Arc<dyn Platform>> = match setting("PLATFORM").as_deref() {
        Some("local") => None,
        _ => Some(StubPlatform::new(&instances)),
    };
    // What comes last counts.
    settings.insert(0, ("DATABASE_URL".to_owned(), TestDatabase::new().await.url));
    let database_url = settings
        .iter()
        .rev()
        .find(|(name, _)| name == "DATABASE_URL")
        .unwrap()
        .1
        .clone();
    let server = TestServer::start_with(TestServerOptions {
        platform,
        settings,
        ..TestServerOptions::default()
    })
    .await;
    let database_url = match database_url.as_str() {
        "" => embedded_url(&server),
        url => url.to_owned(),
    };
    println!("{} {database_url}", server.url);
    let wait = || std::io::stdin().read_line(&mut String::new());
    tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
    server.stop().await;
    telemetry.shutdown(Duration::from_secs(5)).await;
}

fn embedded_url(server: &TestServer) -> String {
    let read = |name: &str| std::fs::read_to_string(server.home.path().join(name)).unwrap();
    let password = read("control.password");
    let pid_file = read("control/data/postmaster.pid");
    let port = pid_file.lines().nth(3).unwrap();
    format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres")
}
