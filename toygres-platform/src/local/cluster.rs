//! One data directory and the server on it: what is there, and how it is ended.
//!
//! The directory belongs to the caller and holds `data` (the server's user's), `postgres.log`, `initdb.log` and
//! `toygres.conf`. Only what lies in `data` can be changed by a tenant, so nothing else in it is trusted, and nothing
//! in `data` is written to.

use super::fault::{fault, io_fault};
use super::files::read_small;
use super::log;
use super::ports::is_free;
use super::process;
use super::run_as::RunAs;
use rustix::process::Signal;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use toygres_models::operations::Reason;
use toygres_models::{Error, Result};

/// How often a server that starts is looked at first, and at the most.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_millis(100);
/// A server that was told to end at once and is still there after this is killed.
const IMMEDIATE_STOP: Duration = Duration::from_secs(2);

/// Free bytes without which a server is not expected to start: a segment of its write-ahead log.
const NEEDED_TO_START: u64 = 16 * 1024 * 1024;

/// What a server process says of itself in `postmaster.pid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// There is none.
    Stopped,
    /// It is there, but does not take connections: it starts, recovers or stops.
    Starting,
    /// It takes connections.
    Ready,
}

/// One data directory (`<directory>/data`) and the server on it.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) directory: PathBuf,
    pub(crate) programs: PathBuf,
    pub(crate) run_as: RunAs,
}

/// How a server is started.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// Its loopback port.
    pub port: u16,
    /// More settings, as `name=value`. They are written to `toygres.conf`; `ALTER SYSTEM` wins over them.
    pub settings: Vec<String>,
}

/// A live server process, from `postmaster.pid`
/// ([its lines](https://github.com/postgres/postgres/blob/REL_15_STABLE/src/include/utils/pidfile.h)).
pub(crate) struct Postmaster {
    pub(crate) pid: i32,
    pub(crate) port: Option<u16>,
    pub(crate) is_ready: bool,
}

impl Postmaster {
    /// What stands in `postmaster.pid` (`src/include/utils/pidfile.h` of PostgreSQL).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let line = |number: usize| text.lines().nth(number - 1).map(str::trim);
        Some(Self {
            pid: line(1)?.parse().ok().filter(|pid| *pid > 0)?,
            port: line(4).and_then(|port| port.parse().ok()),
            is_ready: matches!(line(8), Some("ready" | "standby")),
        })
    }
}

impl Cluster {
    /// The cluster in `directory`, run by the programs in the directory `programs`. Touches nothing.
    #[must_use]
    pub fn new(directory: PathBuf, programs: PathBuf, run_as: RunAs) -> Self {
        Self {
            directory,
            programs,
            run_as,
        }
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The server's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }

    /// Whether the data directory is there. It is never there half made.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.data().is_dir()
    }

    /// The live server process. That its number is in a file does not do, since numbers are used again: it must
    /// work in this data directory.
    pub(crate) fn postmaster(&self) -> Option<Postmaster> {
        let data = self.data();
        let text = read_small(&data.join("postmaster.pid"), 4096).ok()?;
        let postmaster = Postmaster::parse(&String::from_utf8_lossy(&text))?;
        process::works_in(postmaster.pid, &data).then_some(postmaster)
    }

    /// What the server says of itself. Takes no connection.
    #[must_use]
    pub fn state(&self) -> ServerState {
        match self.postmaster() {
            None => ServerState::Stopped,
            Some(postmaster) if postmaster.is_ready => ServerState::Ready,
            Some(_) => ServerState::Starting,
        }
    }

    /// The port that the running server was started with.
    #[must_use]
    pub fn running_port(&self) -> Option<u16> {
        self.postmaster()?.port
    }

    /// The port that the server was started with the last time, running or not: the server keeps its command line
    /// in `postmaster.opts`.
    pub(crate) fn last_port(&self) -> Option<u16> {
        let bytes = read_small(&self.data().join("postmaster.opts"), 64 * 1024).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let mut arguments = text.split_whitespace().map(|word| word.trim_matches('"'));
        arguments.find_map(|argument| argument.strip_prefix("port=")?.parse().ok())
    }

    /// Waits until the server takes connections, is not there, or the budget is used up.
    pub async fn wait_ready(&self, budget: Duration) -> ServerState {
        let begin = Instant::now();
        let mut pause = FIRST_LOOK;
        loop {
            let state = self.state();
            let left = budget.saturating_sub(begin.elapsed());
            if state != ServerState::Starting || left.is_zero() {
                return state;
            }
            tokio::time::sleep(pause.min(left)).await;
            // Who has waited for a second can wait a little longer: recovery may take an hour.
            pause = (begin.elapsed() / 100).clamp(FIRST_LOOK, LAST_LOOK);
        }
    }

    /// Waits until the server's process is gone. Works for servers that another process started, too.
    pub async fn wait_stopped(&self) {
        while self.postmaster().is_some() {
            tokio::time::sleep(LAST_LOOK).await;
        }
    }

    /// Stops the server in order ("fast"): connections are ended, everything is on disk. Whether it and all that it
    /// started are gone within `limit`.
    pub async fn stop(&self, limit: Duration) -> bool {
        if let Some(postmaster) = self.postmaster() {
            process::signal(postmaster.pid, Signal::INT);
        }
        process::wait_until_none_in(&self.data(), limit).await
    }

    /// Ends the server and all that works in this cluster's directory at once; the data is good for recovery only.
    /// Returns when they are gone; a process that hangs in the kernel is given up after some seconds.
    pub async fn stop_immediately(&self) {
        if let Err(error) = self.end_all().await {
            tracing::error!(directory = %self.directory.display(), "{error}");
        }
    }

    /// As [`stop_immediately`](Self::stop_immediately), with the failure.
    pub(crate) async fn end_all(&self) -> Result<()> {
        if let Some(postmaster) = self.postmaster() {
            // It takes its children and its shared memory with it, which it could not if it were killed.
            process::signal(postmaster.pid, Signal::QUIT);
            process::wait_until_none_in(&self.data(), IMMEDIATE_STOP).await;
        }
        process::kill_all_in(&self.directory).await
    }

    /// The data's own identity: the first eight bytes of `global/pg_control`, in this machine's order
    /// (`ControlFileData` in PostgreSQL's `src/include/catalog/pg_control.h`).
    #[must_use]
    pub fn system_identifier(&self) -> Option<u64> {
        self.read_system_identifier().ok()
    }

    pub(crate) fn read_system_identifier(&self) -> io::Result<u64> {
        let bytes = read_small(&self.data().join("global/pg_control"), 8)?;
        let bytes = bytes
            .try_into()
            .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn last_words(&self, lines: usize) -> Vec<String> {
        log::tail(&self.log(), lines)
    }

    /// Why the server has ended, as far as it can be told from outside.
    pub(crate) fn why_ended(&self, port: u16) -> Error {
        let said = log::since_start(&self.log());
        if log::says_disk_full(&said) || self.is_disk_full() {
            return disk_full(&self.directory);
        }
        if !is_free(port) {
            return port_taken(port);
        }
        let message = format!(
            "its server ended while it started; its last words: {}",
            log::last_words(&said)
        );
        fault(Reason::CrashLoop, message)
    }

    /// Whether its file system has no room for what a server needs. On a full one, a server can't even log so, and
    /// one that lives tries again and again to start.
    pub(crate) fn is_disk_full(&self) -> bool {
        let space = rustix::fs::statvfs(&self.directory);
        space.is_ok_and(|space| space.f_bavail.saturating_mul(space.f_frsize) < NEEDED_TO_START)
    }

    /// Held while the data is made or the server is started, so that two control planes do not do so at once.
    pub(crate) async fn lock(&self) -> Result<File> {
        let path = self.directory.join("cluster.lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|e| io_fault(e, "open", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(LAST_LOOK).await,
                Err(std::fs::TryLockError::Error(error)) => return Err(io_fault(error, "lock", &path)),
            }
        }
    }
}

pub(crate) fn port_taken(port: u16) -> Error {
    let message = format!("another program listens on its port {port}");
    let hint = format!("find it with: ss -ltnp 'sport = :{port}'; it is tried again until the port is free");
    fault(Reason::PortTaken, message).hint(hint)
}

pub(crate) fn disk_full(path: &Path) -> Error {
    let message = format!("the file system of {} is full", path.display());
    fault(Reason::DiskFull, message).hint("make room on it")
}
