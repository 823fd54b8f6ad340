//! Processes of this machine, found by the directory they work in.
//!
//! A number in a file does not say that the process still is the one that was meant: numbers are used again. A
//! server's working directory is its data directory, so `/proc/<pid>/cwd` says whose it is.

use super::fault::fault;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result};

/// How long killed processes may take to go before that is an error.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Whether the process is alive and works in exactly this directory. A zombie is not alive.
pub(crate) fn works_in(pid: i32, directory: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let working_directory = identity(Path::new(&format!("/proc/{pid}/cwd")));
    working_directory.is_some() && working_directory == identity(directory)
}

/// Every live process that works in this directory or below it: servers, `initdb`, and what they started. Not the
/// shell of a person who looks around there, and not this process.
pub(crate) fn processes_in(directory: &Path) -> Vec<i32> {
    let Ok(directory) = directory.canonicalize() else {
        return Vec::new();
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let working_directory = std::fs::read_link(entry.path().join("cwd")).ok()?;
            let is_there =
                working_directory.starts_with(&directory) && u32::try_from(pid) != Ok(std::process::id());
            (is_there && !is_of_a_person(&entry.path())).then_some(pid)
        })
        .collect()
}

/// Has a terminal, and is not PostgreSQL's, which has one too if toygres was started on one.
fn is_of_a_person(process: &Path) -> bool {
    let program = std::fs::read_link(process.join("exe")).unwrap_or_default();
    let program = program.file_name().unwrap_or_default().to_string_lossy();
    if program.starts_with("postgres") || program.starts_with("initdb") {
        return false;
    }
    has_terminal(&std::fs::read(process.join("stat")).unwrap_or_default())
}

/// proc(5): behind the name in brackets, which may be any bytes, come state, parent, group, session, terminal.
fn has_terminal(status: &[u8]) -> bool {
    let behind = status.iter().rposition(|byte| *byte == b')');
    let mut fields = behind
        .map_or(&[][..], |at| &status[at..])
        .split(|byte| *byte == b' ');
    fields.nth(5).is_some_and(|terminal| terminal != b"0")
}

/// Sends a signal; a process that is gone by now has what was wanted.
pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid)
        && let Err(error) = kill_process(pid, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(pid = pid.as_raw_nonzero(), %error, "can't send a signal");
    }
}

/// Waits until nothing works in this directory or below it; `false` if something still does after `patience`.
pub(crate) async fn wait_until_none_in(directory: &Path, patience: Duration) -> bool {
    let begin = Instant::now();
    let mut left = processes_in(directory);
    loop {
        left.retain(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok());
        if left.is_empty() {
            // Only now the costly question again: those that are gone may have left children.
            left = processes_in(directory);
        }
        if left.is_empty() {
            return true;
        }
        if begin.elapsed() >= patience {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Kills everything that works in this directory or below it, and waits until it is gone.
///
/// # Errors
/// `Timeout` if something can't be killed (it hangs in the kernel).
pub(crate) async fn kill_all_in(directory: &Path) -> Result<()> {
    let begin = Instant::now();
    loop {
        for pid in processes_in(directory) {
            signal(pid, Signal::KILL);
        }
        // Short rounds: one that was just being started is found by the next.
        if wait_until_none_in(directory, Duration::from_millis(200)).await {
            return Ok(());
        }
        if begin.elapsed() >= KILL_PATIENCE {
            let message = format!("processes in {} can't be ended", directory.display());
            return Err(Error::new(
                ErrorKind::Timeout,
                Reason::PlatformUnavailable.as_str(),
                message,
            ));
        }
    }
}

/// An error for a program that could not be started.
pub(crate) fn spawn_fault(error: std::io::Error, program: &Path) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        let message = format!("{} is not there any more", program.display());
        return fault(Reason::BinariesMissing, message).source(error);
    }
    super::fault::io_fault(error, "run", program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of a process decides is nothing that it can choose: its name says nothing of a terminal.
    fn is_told_by_the_field(name: &[u8], terminal: i32) {
        let status = [b"17 (", name, format!(") S 1 17 17 {terminal} -1 0 0").as_bytes()].concat();
        assert_eq!(has_terminal(&status), terminal != 0, "{status:?}");
        // What is cut off, or none at all, has none.
        assert!(!has_terminal(&[b"17 (", name].concat()) || name.contains(&b')'));
    }

    #[test]
    fn fuzz_process_status() {
        bolero::check!().for_each(|bytes: &[u8]| {
            has_terminal(bytes);
            is_told_by_the_field(bytes, 0);
            is_told_by_the_field(bytes, 34816);
        });
    }

    #[test]
    fn a_shell_of_any_name_is_a_persons() {
        is_told_by_the_field(b"b\xffsh) S 1 17 17 0 (", 34816);
        is_told_by_the_field(b"", 0);
    }

    proptest::proptest! {
        #[test]
        fn a_terminal_is_told_by_its_field(name: Vec<u8>, near in r"[() SRZ0-9-]{0,15}", terminal: i32) {
            is_told_by_the_field(&name, terminal);
            is_told_by_the_field(near.as_bytes(), terminal);
        }
    }
}
