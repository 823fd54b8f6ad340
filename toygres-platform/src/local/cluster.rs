//! One data directory and the server on it.

use super::user::{RunAs, private_directory};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result, Secret};

/// How often a process is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(10);
/// A server that was told to stop at once and is still there after this is killed.
const IMMEDIATE_STOP: Duration = Duration::from_secs(2);
/// A log that has grown over this is begun anew when the server starts; one old file is kept.
const LOG_LIMIT_BYTES: u64 = 32 * 1024 * 1024;

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
    directory: PathBuf,
    programs: PathBuf,
    run_as: RunAs,
}

/// How a server is started.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// Its loopback port.
    pub port: u16,
    /// More settings, as `name=value`.
    pub settings: Vec<String>,
}

impl Cluster {
    /// The cluster in `directory`, run by the programs in `programs`. Touches nothing.
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

    /// Whether the data is there, whole.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.data().join("PG_VERSION").exists()
    }

    /// Makes the data, if it is not there: with checksums, passwords by SCRAM, and the role `postgres`.
    ///
    /// It is made under another name and put in its place when it is whole and on disk: what is called `data` is never
    /// half made, and what another process still makes, whose server has crashed, gets in nobody's way.
    ///
    /// # Errors
    /// `disk_full` (can pass), `initdb_failed` with the program's last words.
    pub async fn create(&self, password: &Secret) -> Result<()> {
        if self.exists() {
            return Ok(());
        }
        self.run_as.check_can_enter(&self.directory)?;
        private_directory(&self.directory, self.run_as).map_err(|cause| io_error(&self.directory, cause))?;
        self.remove_leftovers();
        let unique = rand::random::<u64>();
        let making = self.directory.join(format!("data.{unique:016x}"));
        let password_file = PasswordFile::write(
            self.directory.join(format!("password.{unique:016x}")),
            password,
            self.run_as,
        )
        .map_err(|cause| io_error(&self.directory, cause))?;
        let initialised = self.initdb(&making, &password_file.0).await;
        drop(password_file);
        initialised?;
        std::fs::rename(&making, self.data()).map_err(|cause| io_error(&self.data(), cause))?;
        sync_directory(&self.directory).map_err(|cause| io_error(&self.directory, cause))
    }

    async fn initdb(&self, data: &Path, password_file: &Path) -> Result<()> {
        let log = self.directory.join("initdb.log");
        let output = self.open_log(&log).map_err(|cause| io_error(&log, cause))?;
        let error_output = output.try_clone().map_err(|cause| io_error(&log, cause))?;
        let mut command = Command::new(self.programs.join("initdb"));
        command
            .arg("-D")
            .arg(data)
            .arg(format!("--pwfile={}", password_file.display()));
        command.args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--data-checksums",
            "--encoding=UTF8",
        ]);
        command.args(["--locale=C.UTF-8", "--no-instructions"]);
        command.stdin(Stdio::null()).stdout(output).stderr(error_output);
        // If this call is dropped, the work is not wanted any more.
        command
            .process_group(0)
            .current_dir(&self.directory)
            .kill_on_drop(true);
        self.run_as.apply(&mut command);
        let mut child = command
            .spawn()
            .map_err(|cause| io_error(&self.programs.join("initdb"), cause))?;
        let running = RunningInitdb::note(self.directory.join("initdb.pid"), child.id());
        let status = child.wait().await;
        drop(running);
        match status {
            Ok(status) if status.success() => Ok(()),
            _ => {
                std::fs::remove_dir_all(data).ok();
                let last_words = tail(&log, 5).join(" | ");
                if disk_is_full(&last_words) {
                    return Err(disk_full());
                }
                Err(Error::new(
                    ErrorKind::Internal,
                    "initdb_failed",
                    "the data directory could not be made",
                )
                .context(last_words))
            }
        }
    }

    /// Ends an `initdb` of another process, which has crashed.
    pub(crate) fn stop_making(&self) {
        let text = std::fs::read_to_string(self.directory.join("initdb.pid")).unwrap_or_default();
        let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else {
            return;
        };
        let command_line =
            std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        // The number may have been given to another program since.
        if String::from_utf8_lossy(&command_line).contains(&*self.directory.to_string_lossy()) {
            kill_process_group(pid, Signal::KILL).ok();
        }
    }

    /// What a crashed control plane left of data directories it was making, and of passwords it was handing over.
    fn remove_leftovers(&self) {
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("data.") {
                std::fs::remove_dir_all(entry.path()).ok();
            } else if name.starts_with("password.") {
                std::fs::remove_file(entry.path()).ok();
            }
        }
    }

    /// Starts the server, if none runs. Returns when its process is there; [`state`](Self::state) tells how it goes on.
    ///
    /// # Errors
    /// `crash_loop` with its last words if it ended at once, `disk_full` if that is why (both can pass); what its
    /// program or log can't be opened for.
    pub async fn start(&self, options: &StartOptions) -> Result<()> {
        if self.state() != ServerState::Stopped {
            return Ok(());
        }
        let log = self.log();
        if std::fs::metadata(&log).is_ok_and(|metadata| metadata.len() > LOG_LIMIT_BYTES) {
            std::fs::rename(&log, self.directory.join("postgres.log.old")).ok();
        }
        let output = self.open_log(&log).map_err(|cause| io_error(&log, cause))?;
        let error_output = output.try_clone().map_err(|cause| io_error(&log, cause))?;
        let mut command = Command::new(self.programs.join("postgres"));
        command
            .arg("-D")
            .arg(self.data())
            .arg("-p")
            .arg(options.port.to_string());
        // On the command line, so that nothing that a tenant sets can open the server to others.
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "logging_collector=off",
        ] {
            command.arg("-c").arg(setting);
        }
        for setting in &options.settings {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(error_output);
        // Its own group: it outlives this process, and a Ctrl-C is not meant for it.
        command.process_group(0).current_dir(&self.directory);
        self.run_as.apply(&mut command);
        let mut child = command
            .spawn()
            .map_err(|cause| io_error(&self.programs.join("postgres"), cause))?;
        loop {
            if matches!(child.try_wait(), Ok(Some(_))) {
                let last_words = tail(&log, 3).join(" | ");
                if disk_is_full(&last_words) {
                    return Err(disk_full());
                }
                return Err(ended_while_starting(&last_words));
            }
            if self.process().is_some() {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        // Takes its exit status when it ends, so that no zombie stays while this process lives.
        tokio::spawn(async move { child.wait().await });
        Ok(())
    }

    fn open_log(&self, path: &Path) -> std::io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        self.run_as.give(path)?;
        Ok(file)
    }

    /// The server's process, if it is alive and is this directory's: its process id may have been given to another
    /// program since it was written down.
    fn process(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
        if !is_alive(pid) {
            return None;
        }
        match std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())) {
            Ok(directory) => (directory == std::fs::canonicalize(self.data()).ok()?).then_some(pid),
            // Not ours to look at, or no such file system: then being alive has to do.
            Err(_) => Some(pid),
        }
    }

    /// What the server says of itself, without a connection
    /// ([`postmaster.pid`](https://www.postgresql.org/docs/current/storage-file-layout.html), line 8).
    #[must_use]
    pub fn state(&self) -> ServerState {
        if self.process().is_none() {
            return ServerState::Stopped;
        }
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        match text.lines().nth(7).map(str::trim) {
            Some("ready") => ServerState::Ready,
            _ => ServerState::Starting,
        }
    }

    /// The port the running server listens on.
    #[must_use]
    pub fn running_port(&self) -> Option<u16> {
        self.process()?;
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().nth(3)?.trim().parse().ok()
    }

    /// Waits until the server takes connections, has ended, or the time is over.
    pub async fn wait_ready(&self, budget: Duration) -> ServerState {
        let begun = Instant::now();
        loop {
            let state = self.state();
            if state != ServerState::Starting || begun.elapsed() >= budget {
                return state;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the server has ended.
    pub async fn wait_stopped(&self) {
        while self.process().is_some() {
            tokio::time::sleep(LOOK * 5).await;
        }
    }

    /// Stops the server in order: connections are ended, everything is on disk. Whether it ended within `limit`.
    pub async fn stop(&self, limit: Duration) -> bool {
        match self.process() {
            None => true,
            Some(pid) => {
                kill_process(pid, Signal::INT).ok();
                tokio::time::timeout(limit, wait_dead(pid)).await.is_ok()
            }
        }
    }

    /// Ends the server at once; its data is good only for recovery or removal.
    pub async fn stop_immediately(&self) {
        let Some(pid) = self.process() else { return };
        kill_process(pid, Signal::QUIT).ok();
        if tokio::time::timeout(IMMEDIATE_STOP, wait_dead(pid))
            .await
            .is_err()
        {
            // Its backends see that it is gone and end by themselves.
            kill_process(pid, Signal::KILL).ok();
            wait_dead(pid).await;
        }
    }

    /// The data's own identity: the first eight bytes of `global/pg_control`, in this machine's order
    /// (`ControlFileData` in PostgreSQL's `src/include/catalog/pg_control.h`).
    #[must_use]
    pub fn system_identifier(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        File::open(self.data().join("global/pg_control"))
            .ok()?
            .read_exact(&mut bytes)
            .ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn last_words(&self, lines: usize) -> Vec<String> {
        tail(&self.log(), lines)
    }
}

fn is_alive(pid: Pid) -> bool {
    // EPERM: it is alive and somebody else's.
    match test_kill_process(pid) {
        Ok(()) => !is_zombie(pid),
        Err(error) => error == rustix::io::Errno::PERM,
    }
}

/// Ended, and waiting for its parent to take note (proc(5), state `Z`).
fn is_zombie(pid: Pid) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    text.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('Z'))
}

async fn wait_dead(pid: Pid) {
    while is_alive(pid) {
        tokio::time::sleep(LOOK).await;
    }
}

/// A running `initdb`, written down for others. If the call that waits for it is dropped, it is not wanted any more.
struct RunningInitdb {
    file: PathBuf,
    pid: Option<Pid>,
}

impl RunningInitdb {
    fn note(file: PathBuf, pid: Option<u32>) -> Self {
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            std::fs::write(&file, format!("{}\n", pid.as_raw_nonzero())).ok();
        }
        Self { file, pid }
    }
}

impl Drop for RunningInitdb {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // The group: it has PostgreSQL processes of its own. One that has ended is not there any more.
            kill_process_group(pid, Signal::KILL).ok();
        }
        std::fs::remove_file(&self.file).ok();
    }
}

/// A password on its way to `initdb`: readable by PostgreSQL's user alone, and gone when this is dropped.
struct PasswordFile(PathBuf);

impl PasswordFile {
    fn write(path: PathBuf, password: &Secret, run_as: RunAs) -> std::io::Result<Self> {
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        let this = Self(path);
        file.write_all(password.reveal().as_bytes())?;
        run_as.give(&this.0)?;
        Ok(this)
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

pub(crate) fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// The last lines of a file, without reading more of it than they can take.
pub(crate) fn tail(path: &Path, lines: usize) -> Vec<String> {
    use std::io::{Seek, SeekFrom};
    const LINE_BYTES: u64 = 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(lines as u64 * LINE_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// PostgreSQL's programs say this by the words of strerror(3) only.
pub(crate) fn disk_is_full(log: &str) -> bool {
    log.contains("No space left on device")
}

pub(crate) fn disk_full() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        Reason::DiskFull.as_str(),
        "there is no room on the file system of the data",
    )
}

pub(crate) fn ended_while_starting(last_words: &str) -> Error {
    let message = format!("its server ended while it started; its last words: {last_words}");
    Error::new(ErrorKind::Unavailable, Reason::CrashLoop.as_str(), message)
}

/// An error of the file system, by its number.
pub(crate) fn io_error(path: &Path, cause: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let shown = path.display();
    match cause.kind() {
        Io::StorageFull | Io::QuotaExceeded => disk_full(),
        Io::PermissionDenied => Error::new(
            ErrorKind::Config,
            Reason::PermissionDenied.as_str(),
            format!("{shown} can't be used: permission denied"),
        )
        .hint("set TOYGRES_HOME to a directory that toygres may write to"),
        Io::NotFound => Error::new(
            ErrorKind::Unavailable,
            "file_missing",
            format!("{shown} is not there"),
        ),
        kind => Error::new(
            ErrorKind::Unavailable,
            "file_system",
            format!("{shown} can't be used: {kind}"),
        ),
    }
    .source(cause)
}
