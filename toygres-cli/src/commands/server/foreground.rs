//! `toygres server start --foreground`: this process becomes the server.

use super::home;
use crate::args::Start;
use crate::failure::Result;
use std::io::IsTerminal;
use toygres_server::config::ServerConfig;
use toygres_telemetry::{ConsoleFormat, LogConfig};

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
    let _log = toygres_telemetry::init(&LogConfig {
        file: Some(config.paths.server_log.clone()),
        console: (!args.no_console).then_some(format),
        filter: config.log_filter.clone(),
    })?;
    Ok(toygres_server::serve(config).await?)
}
