//! One server a home: a locked file, and the process id beside it for people and scripts.

use crate::config::Paths;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use toygres_models::{Error, ErrorKind, Result};

/// Held while this process is the server of a home. The kernel lets go of it when the process ends, in whatever way.
pub(crate) struct HomeLock {
    _file: File,
    pid_file: std::path::PathBuf,
}

impl HomeLock {
    /// Makes the home if need be and takes it.
    pub(crate) fn take(paths: &Paths) -> Result<Self> {
        let failed = |what: &std::path::Path, cause: std::io::Error| {
            Error::new(
                ErrorKind::Config,
                "home_unusable",
                format!("{} can't be used: {}", what.display(), cause.kind()),
            )
            .hint("set TOYGRES_HOME to a directory that this user can write to")
            .source(cause)
        };
        // Others may go through it, to PostgreSQL's directories beneath, but not read it.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&paths.home)
            .map_err(|cause| failed(&paths.home, cause))?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&paths.lock_file)
            .map_err(|cause| failed(&paths.lock_file, cause))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let pid = std::fs::read_to_string(&paths.pid_file).unwrap_or_default();
            let pid = pid.trim();
            return Err(Error::new(
                ErrorKind::Conflict,
                "already_running",
                format!(
                    "a toygres server already runs on {} (pid {pid})",
                    paths.home.display()
                ),
            )
            .hint("see it with: toygres server status"));
        }
        let mut pid_file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o644)
            .open(&paths.pid_file)
            .map_err(|cause| failed(&paths.pid_file, cause))?;
        writeln!(pid_file, "{}", std::process::id()).map_err(|cause| failed(&paths.pid_file, cause))?;
        Ok(Self {
            _file: file,
            pid_file: paths.pid_file.clone(),
        })
    }
}

impl Drop for HomeLock {
    fn drop(&mut self) {
        std::fs::remove_file(&self.pid_file).ok();
    }
}
