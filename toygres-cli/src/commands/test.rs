//! `toygres test`: a login from this machine, as any client's.

use super::psql;
use crate::args::NameOrId;
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::printer::{Printer, Tested};
use std::io::ErrorKind;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use toygres_models::instances::Connection;

/// The login alone.
const CONNECT_SECONDS: &str = "5";
/// Login and query.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(name: &NameOrId, client: &Client, printer: &Printer) -> Result<ExitCode> {
    let connection = client.connection(name, true).await?;
    let psql = psql::command(&connection, client).await?;
    let begun = Instant::now();
    let (method, found) = match tokio::time::timeout(LIMIT, query(psql)).await {
        Ok(Ok(found)) => ("query", found),
        Ok(Err(cause)) if cause.kind() == ErrorKind::NotFound => {
            printer.note(
                "psql is not installed: only whether something accepts connections is tested, not login and query",
            );
            printer.note("install it; on Debian and Ubuntu: apt-get install postgresql-client");
            ("connection", connect(&connection).await.map(|()| None))
        }
        Ok(Err(cause)) => return Err(Failure::failed("psql can't be started").why(cause)),
        Err(_) => ("query", Err(format!("no answer within {} s", LIMIT.as_secs()))),
    };
    let response_time_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let (server_version, error) = match found {
        Ok(version) => (version, None),
        Err(error) => (None, Some(error)),
    };
    let ok = error.is_none();
    printer.tested(&Tested {
        ok,
        method,
        endpoint: format!("{}:{}", connection.host, connection.port),
        response_time_ms,
        server_version,
        error,
    })?;
    if ok {
        return Ok(ExitCode::SUCCESS);
    }
    let name = name.as_str();
    printer.note(&format!(
        "what the server found: toygres status {name}; its log: toygres logs {name}"
    ));
    Ok(ExitCode::FAILURE)
}

/// Logs in and asks for the version: that, or what psql says is wrong.
async fn query(psql: Command) -> std::io::Result<Result<Option<String>, String>> {
    let output = tokio::process::Command::from(psql)
        .args(["-XAtqwc", "show server_version"])
        .env("PGCONNECT_TIMEOUT", CONNECT_SECONDS)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(if output.status.success() {
        Ok(Some(text(&output.stdout)))
    } else {
        Err(text(&output.stderr)
            .lines()
            .map(str::trim)
            .collect::<Vec<_>>()
            .join("; "))
    })
}

async fn connect(connection: &Connection) -> Result<(), String> {
    let address = (connection.host.as_str(), connection.port);
    match tokio::time::timeout(LIMIT, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(cause)) => Err(cause.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}
