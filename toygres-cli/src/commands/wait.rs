//! Waiting for an operation, with progress.

use crate::client::{Client, Event, Events};
use crate::failure::{Exit, Failure, Result};
use crate::printer::Progress;
use std::time::{Duration, Instant};
use toygres_models::operations::{Operation, OperationKind, OperationState};

/// A local database takes less than a second, one on a cluster half a minute: ask often at first.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The server may be restarted in between. Silence for longer is not that.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// Waits until the operation has ended, well or not: [`succeeded`] says which.
///
/// # Errors
/// After `limit`, at Ctrl-C, and when the server is silent for too long.
pub(crate) async fn for_end(operation: &Operation, limit: Duration, client: &Client) -> Result<Operation> {
    let doing = doing(operation);
    let mut progress = Progress::new(format!("{doing} {}", operation.instance_name));
    let look = format!("toygres operations {}", operation.id);
    let ended = tokio::select! {
        ended = follow(operation, client, &mut progress) => ended,
        () = tokio::time::sleep(limit) => Err(Failure::new(
            Exit::TimedOut,
            format!("{doing} {} is not done after {} s", operation.instance_name, limit.as_secs()),
        )
        .why("the work goes on in the server")
        .next(look.clone())),
        _ = tokio::signal::ctrl_c() => Err(Failure::new(
            Exit::Interrupted,
            "no longer waiting; the work goes on in the server",
        )
        .next(look.clone())),
    };
    progress.end();
    ended
}

fn doing(operation: &Operation) -> &'static str {
    match operation.kind {
        OperationKind::Create => "creating",
        OperationKind::Delete => "deleting",
    }
}

/// Reads the operation's stream of changes; where there is none, asks again and again.
async fn follow(operation: &Operation, client: &Client, progress: &mut Progress) -> Result<Operation> {
    let mut pause = FIRST_PAUSE;
    let mut heard = Instant::now();
    let mut has_streams = true;
    loop {
        let mut stream = None;
        if has_streams {
            match client.follow_operation(operation.id).await {
                Ok(events) => stream = Some(events),
                Err(failure) => has_streams = failure.passing,
            }
        }
        // Asked after the stream was opened: no change falls between the two.
        match client.operation(operation.id).await {
            Ok(now) => {
                heard = Instant::now();
                progress.operation(&now);
                if now.state.is_terminal() {
                    return Ok(now);
                }
            }
            Err(failure) if failure.passing && heard.elapsed() < SILENCE_LIMIT => {
                progress.now(&format!("{}; asking again", failure.message));
            }
            Err(failure) => return Err(failure.next(format!("toygres operations {}", operation.id))),
        }
        while let Some(event) = next(&mut stream).await {
            heard = Instant::now();
            if event.event == "operation" {
                let now = client.event_data(&event)?;
                progress.operation(&now);
                if now.state.is_terminal() {
                    return Ok(now);
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

async fn next(stream: &mut Option<Events>) -> Option<Event> {
    stream.as_mut()?.next().await
}

/// Whether an operation that has ended did what it was for.
///
/// # Errors
/// What it ended with, and what to do.
pub(crate) fn succeeded(operation: &Operation) -> Result<()> {
    if operation.state == OperationState::Succeeded {
        return Ok(());
    }
    let (doing, name, state) = (doing(operation), &operation.instance_name, operation.state);
    let look = format!("toygres operations {}", operation.id);
    let Some(error) = &operation.error else {
        return Err(Failure::failed(format!("{doing} {name}: {state}")).next(look));
    };
    let failure = Failure::failed(format!(
        "{doing} {name}: {state}: {} [{}]",
        error.message, error.code
    ));
    Err(match what_to_do(&error.code) {
        Some(next) => failure.next(next).next(look),
        None => failure.next(look).next("toygres server logs"),
    })
}

/// What helps against the failures that somebody can do something about.
fn what_to_do(code: &str) -> Option<&'static str> {
    Some(match code {
        "binaries_missing" => {
            "install PostgreSQL's server programs; on Debian and Ubuntu: apt-get install postgresql"
        }
        "version_unavailable" => "choose an installed version with --version, or install that one",
        "disk_full" => "make room on the file system, then create it again",
        "port_taken" => "choose other ports with TOYGRES_LOCAL_PORTS, then: toygres server restart",
        "permission_denied" => {
            "let the server's user read and write its home, or choose another with TOYGRES_HOME"
        }
        "superseded" => "something newer was asked for meanwhile: toygres operations",
        _ => return None,
    })
}
