//! The server, with faults before its activities. Its argument is a [`toygres_chaos::Setup`] as JSON; its settings are
//! those of the server. It ends with its standard input, so that it can't outlive its test.
#![allow(clippy::unwrap_used, reason = "a test program may panic")]

use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use toygres_chaos::{Faults, Setup, SharedPlatform};
use toygres_platform::Platform;
use toygres_server::Parts;
use toygres_server::config::{ConfigOverrides, ServerConfig};
use toygres_telemetry::{ConsoleFormat, TelemetryConfig};

#[tokio::main]
async fn main() -> toygres_models::Result<()> {
    let setup: Setup = serde_json::from_str(&std::env::args().nth(1).unwrap()).unwrap();
    std::thread::spawn(|| {
        std::io::stdin().read_line(&mut String::new()).ok();
        std::process::exit(1);
    });
    let config = ServerConfig::load(ConfigOverrides::default())?;
    let telemetry = toygres_telemetry::init(&TelemetryConfig {
        console: Some(ConsoleFormat::Compact),
        ..config.telemetry.clone()
    })?;
    let listener = TcpListener::bind(config.listen).await.unwrap();
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let stopped = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        stopped.cancel();
    });
    let parts = Parts {
        platform: setup
            .shared
            .map(|(directory, port)| -> Arc<dyn Platform> { SharedPlatform::new(&directory, port) }),
        interceptor: Some(Arc::new(Faults::new(&setup.faults))),
    };
    let served = toygres_server::run_with(config, listener, stop, parts).await;
    // Longer than a busy machine takes: the last metrics are compared.
    telemetry.shutdown(Duration::from_secs(60)).await;
    served
}
