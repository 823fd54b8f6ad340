//! `toygres server start --foreground`: this process becomes the server.

use super::home;
use crate::args::Start;
use crate::failure::Result;
use std::io::IsTerminal;
use std::time::Duration;
use toygres_server::config::ServerConfig;
use toygres_telemetry::{ConsoleFormat, TelemetryConfig};

/// What was told last is sent for so long.
const FLUSH_LIMIT: Duration = Duration::from_secs(6);

pub(super) async fn run(args: &Start) -> Result<()> {
    let config = ServerConfig::load(super::overrides(&args.options))?;
    home::prepare(&config.paths)?;
    // Not over the address of a server that runs; that there is one, the server itself says best.
    if home::running(&config.paths)?.is_none() {
        home::record_url(&config)?;
    }
    // What a terminal does not show is collected by a program: of a container, by a service manager.
    let format = if std::io::stderr().is_terminal() {
        ConsoleFormat::Pretty
    } else {
        ConsoleFormat::Json
    };
    let telemetry = toygres_telemetry::init(&TelemetryConfig {
        file: Some(config.paths.server_log.clone()),
        console: (!args.no_console).then(|| config.telemetry.console.unwrap_or(format)),
        ..config.telemetry.clone()
    })?;
    let served = toygres_server::serve(config).await;
    telemetry.shutdown(FLUSH_LIMIT).await;
    Ok(served?)
}
