//! One server a home: a locked file, and the process id beside it for people and scripts.

use crate::config::Paths;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toygres_models::{Error, ErrorKind, Result};

/// Held while this process is the server of a home. The kernel lets go of it when the process ends, in whatever way.
pub(crate) struct HomeLock {
    _files: Vec<File>,
    pid_file: PathBuf,
}

impl HomeLock {
    /// Makes the home if need be and takes it. PostgreSQL's directories, where they are elsewhere, are taken too: two
    /// homes of the same user would share them.
    pub(crate) fn take(paths: &Paths) -> Result<Self> {
        let mut files = vec![lock(&paths.home, &paths.lock_file, &paths.pid_file)?];
        if paths.postgres_home != paths.home {
            let lock_file = paths.postgres_home.join("server.lock");
            files.push(lock(&paths.postgres_home, &lock_file, &lock_file)?);
            write_pid(&lock_file)?;
        }
        write_pid(&paths.pid_file)?;
        Ok(Self {
            _files: files,
            pid_file: paths.pid_file.clone(),
        })
    }
}

fn lock(directory: &Path, lock_file: &Path, pid_file: &Path) -> Result<File> {
    // Others may go through it, to PostgreSQL's directories beneath, but not read it.
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(directory)
        .map_err(|cause| unusable(directory, cause))?;
    let mut options = File::options();
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(lock_file);
    let file = file.map_err(|cause| unusable(lock_file, cause))?;
    // Whoever asks whether a server runs holds it for an instant.
    for _ in 0..10 {
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = std::fs::read_to_string(pid_file).unwrap_or_default();
    let (directory, pid) = (directory.display(), pid.trim());
    let message = format!("a toygres server already runs on {directory} (pid {pid})");
    Err(Error::new(ErrorKind::Conflict, "already_running", message)
        .hint("see it with: toygres server status; for one beside it, set TOYGRES_HOME to another directory"))
}

fn write_pid(path: &Path) -> Result<()> {
    std::fs::write(path, format!("{}\n", std::process::id())).map_err(|cause| unusable(path, cause))
}

fn unusable(path: &Path, cause: std::io::Error) -> Error {
    let message = format!("{} can't be used: {}", path.display(), cause.kind());
    Error::new(ErrorKind::Config, "home_unusable", message)
        .hint("set TOYGRES_HOME to a directory that this user can write to")
        .source(cause)
}

impl Drop for HomeLock {
    fn drop(&mut self) {
        std::fs::remove_file(&self.pid_file).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_homes_do_not_share_the_directories_of_postgresql() {
        let directory = toygres_testing::TestHome::new();
        let paths = |home: &str| {
            let home = directory.path().join(home);
            Paths {
                server_log: home.join("server.log"),
                pid_file: home.join("server.pid"),
                lock_file: home.join("server.lock"),
                master_key: home.join("master.key"),
                bootstrap_token_hash: home.join("bootstrap-token.sha256"),
                control_password: home.join("control.password"),
                postgres_home: directory.path().join("shared"),
                home,
            }
        };
        let first = HomeLock::take(&paths("one")).unwrap();
        let error = HomeLock::take(&paths("two")).err().unwrap();
        assert_eq!(error.code(), "already_running");
        assert!(
            error.message().contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(first);
        assert!(HomeLock::take(&paths("two")).is_ok());
    }
}
