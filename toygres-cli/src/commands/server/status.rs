//! `toygres server status`

use super::home;
use crate::client::Client;
use crate::failure::Result;
use crate::printer::{Printer, ServerStatus};
use std::process::ExitCode;
use toygres_server::config::Paths;

pub(super) async fn run(printer: &Printer) -> Result<ExitCode> {
    let status = look(&Paths::from_environment()?).await?;
    printer.server(&status)?;
    if !status.running {
        printer.note("start it: toygres server start");
    }
    Ok(if status.ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(super) async fn look(paths: &Paths) -> Result<ServerStatus> {
    let server = home::running(paths)?;
    let url = server.as_ref().and_then(|server| server.url.clone());
    let (probe, error) = match &url {
        Some(url) => match Client::local(url.clone())?.readiness().await {
            Ok(probe) => (Some(probe), None),
            Err(failure) => (None, Some(failure.to_string())),
        },
        None => (None, None),
    };
    Ok(ServerStatus {
        running: server.is_some(),
        ready: probe.as_ref().is_some_and(|probe| probe.ok),
        pid: server.map(|server| server.pid),
        url,
        home: paths.home.display().to_string(),
        log: paths.server_log.display().to_string(),
        probe,
        error,
    })
}
