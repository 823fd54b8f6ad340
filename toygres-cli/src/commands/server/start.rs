//! `toygres server start`: a server in the background.

use super::{home, status};
use crate::args::ServerOptions;
use crate::client::Client;
use crate::failure::{Exit, Failure, Result};
use crate::printer::{Printer, Progress};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use toygres_server::config::{Paths, ServerConfig};

/// The first start makes the embedded database; a slow disk takes some seconds for it.
const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// How much of what a failed server printed is shown.
const LINES_SHOWN: usize = 12;

pub(super) async fn run(options: &ServerOptions, printer: &Printer) -> Result<()> {
    let config = ServerConfig::load(super::overrides(options))?;
    let paths = &config.paths;
    if let Some(server) = home::running(paths)? {
        return already(&server, options, paths, printer).await;
    }
    home::prepare(paths)?;
    let mut child = spawn(options, paths)?;
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .unwrap_or_default();

    let client = Client::local(home::url(&config))?;
    let mut progress = Progress::new("starting the server");
    let look = "toygres server logs";
    let outcome = tokio::select! {
        ended = child.wait() => Err(ended_early(ended, paths)),
        () = ready(pid, &client, paths, &mut progress) => Ok(()),
        () = tokio::time::sleep(READY_LIMIT) => Err(Failure::new(
            Exit::TimedOut,
            format!("the server is not ready after {} s; it goes on trying (pid {pid})", READY_LIMIT.as_secs()),
        )
        .next("toygres server status")
        .next(look)),
        _ = tokio::signal::ctrl_c() => Err(Failure::new(
            Exit::Interrupted,
            format!("no longer waiting; the server goes on starting (pid {pid})"),
        )
        .next("toygres server status")),
    };
    progress.end();
    if let Err(failure) = outcome {
        // Another `server start` may have been quicker.
        return match home::running(paths)? {
            Some(server) if failure.exit == Exit::Failed => already(&server, options, paths, printer).await,
            _ => Err(failure),
        };
    }
    printer.server(&status::look(paths).await?)?;
    printer.note("");
    printer.note("next: toygres create NAME --wait");
    printer.note("      toygres server status | logs -f | stop");
    Ok(())
}

/// That it runs is what was asked for, unless it is to be on another port.
async fn already(
    server: &home::Running,
    options: &ServerOptions,
    paths: &Paths,
    printer: &Printer,
) -> Result<()> {
    let url = server
        .url
        .as_deref()
        .unwrap_or("an address that is not written down");
    let runs = format!("the server already runs: pid {}, {url}", server.pid);
    if let Some(port) = options.port.filter(|port| !url.ends_with(&format!(":{port}"))) {
        return Err(Failure::failed(runs).next(format!("move it: toygres server restart --port {port}")));
    }
    printer.note(&runs);
    printer.server(&status::look(paths).await?)
}

fn spawn(options: &ServerOptions, paths: &Paths) -> Result<Child> {
    let out_file = home::out_file(paths);
    let out = home::private_file(&out_file);
    let (out, again) = out
        .and_then(|file| Ok((file.try_clone()?, file)))
        .map_err(|cause| home::unwritable(&out_file, &cause))?;
    let failed = |cause: std::io::Error| Failure::failed("the server's process can't be started").why(cause);
    Command::new(std::env::current_exe().map_err(failed)?)
        .args(super::child_arguments(options))
        // Of its own group: what is pressed at this terminal is not for it.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(again)
        .spawn()
        .map_err(failed)
}

/// Waits until the server that was started here is ready: the pid file says that it is that one which answers, and not
/// another home's on the same port.
async fn ready(pid: i32, client: &Client, paths: &Paths, progress: &mut Progress) {
    loop {
        if home::recorded_pid(paths) == Some(pid) {
            match client.readiness().await {
                Ok(probe) if probe.ok => return,
                Ok(probe) => {
                    let bad = probe.checks.iter().filter(|check| !check.ok);
                    let bad: Vec<_> = bad
                        .map(|check| format!("{}: {}", check.name, check.message))
                        .collect();
                    progress.now(&bad.join("; "));
                }
                Err(_) => progress.now("waiting for it to answer"),
            }
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// The server's own words, which are in its output, become this program's.
fn ended_early(ended: std::io::Result<ExitStatus>, paths: &Paths) -> Failure {
    let how = ended.map_or_else(|cause| cause.to_string(), |status| status.to_string());
    let out_file = home::out_file(paths);
    let text = std::fs::read(&out_file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let mut failure = Failure::failed(format!("the server did not start ({how})"));
    for line in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
        failure = match line.trim_start().split_once(": ") {
            Some(("next", next)) => failure.next(next.trim()),
            Some(("error" | "why", why)) => failure.why(why.trim()),
            _ => failure.why(line),
        };
    }
    failure.next(format!("read more: toygres server logs; {}", out_file.display()))
}
