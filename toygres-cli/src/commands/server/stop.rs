//! `toygres server stop`

use super::home;
use crate::args::Stop;
use crate::failure::{Exit, Failure, Result};
use crate::printer::{Printer, Progress};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::time::Duration;
use toygres_server::config::Paths;

const POLL_PAUSE: Duration = Duration::from_millis(20);
/// How long the kernel may take to bury a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Stops the server and waits until it has ended. That none runs is no error: what was asked for is so.
pub(super) async fn run(args: &Stop, printer: &Printer) -> Result<()> {
    let paths = Paths::from_environment()?;
    let Some((pid, process)) = grasp(&paths)? else {
        // What a killed server left behind.
        std::fs::remove_file(&paths.pid_file).ok();
        printer.note(&format!("no server runs on {}", paths.home.display()));
        return Ok(());
    };
    signal(&process, Signal::TERM)?;
    let mut progress = Progress::new("stopping the server");
    progress.now(&format!("pid {pid} finishes what it has begun"));
    let mut has_ended = ended(pid, args.timeout).await;
    if !has_ended && args.force {
        progress.now("killed");
        signal(&process, Signal::KILL)?;
        has_ended = ended(pid, KILL_LIMIT).await;
        std::fs::remove_file(&paths.pid_file).ok();
    }
    progress.end();
    if !has_ended {
        let message = format!(
            "the server (pid {pid}) has not ended after {} s",
            args.timeout.as_secs()
        );
        return Err(Failure::new(Exit::TimedOut, message)
            .next("wait on: toygres server stop --timeout 2m")
            .next("kill it: toygres server stop --force"));
    }
    printer.note("the server is stopped; databases go on");
    Ok(())
}

/// Takes hold of the server's process, so that the signal can't meet another one that has got its pid meanwhile:
/// after the process is held, the home must still say that it is the server.
fn grasp(paths: &Paths) -> Result<Option<(i32, OwnedFd)>> {
    let Some(server) = home::running(paths)? else {
        return Ok(None);
    };
    let Some(pid) = Pid::from_raw(server.pid) else {
        return Ok(None);
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(None),
        Err(cause) => return Err(Failure::failed("the server's process can't be held").why(cause)),
    };
    match home::running(paths)? {
        Some(again) if again.pid == server.pid => Ok(Some((server.pid, process))),
        _ => Ok(None),
    }
}

fn signal(process: &OwnedFd, signal: Signal) -> Result<()> {
    match pidfd_send_signal(process, signal) {
        // It ended by itself.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(cause) => Err(Failure::failed("the server can't be signalled")
            .why(cause)
            .next("run this as the user that the server runs as")),
    }
}

/// Whether it has ended within the time: gone, or only waiting to be buried by its parent.
async fn ended(pid: i32, limit: Duration) -> bool {
    let gone = async {
        loop {
            if is_gone(&std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default()) {
                return;
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    };
    tokio::time::timeout(limit, gone).await.is_ok()
}

/// "PID (NAME) STATE ...", where the name may be any bytes.
pub(super) fn is_gone(status: &[u8]) -> bool {
    let behind = status.iter().rposition(|byte| *byte == b')');
    behind.is_none_or(|at| status[at..].starts_with(b") Z"))
}
