//! The user that PostgreSQL runs as. It refuses to run as root.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result};

/// Who server processes run as, and who owns their files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// The user and group to change to; none: this process's own.
    change_to: Option<(u32, u32)>,
}

impl RunAs {
    /// This process's own user; for root the user `postgres` where there is one, else `nobody`.
    ///
    /// # Errors
    /// `Config` if root finds neither.
    pub fn find() -> Result<Self> {
        if !rustix::process::getuid().is_root() {
            return Ok(Self { change_to: None });
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let ids = |name: &str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        match ids("postgres").or_else(|| ids("nobody")) {
            Some(change_to) => Ok(Self {
                change_to: Some(change_to),
            }),
            None => Err(Error::new(
                ErrorKind::Config,
                Reason::PermissionDenied.as_str(),
                "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as",
            )
            .hint("make a user: adduser --system postgres")),
        }
    }

    /// The user and group to change to, if they are not this process's own.
    #[must_use]
    pub const fn ids(&self) -> Option<(u32, u32)> {
        self.change_to
    }

    /// Gives a file or directory to that user.
    pub(crate) fn give(&self, path: &Path) -> std::io::Result<()> {
        match self.change_to {
            None => Ok(()),
            Some((user, group)) => chown(path, Some(user), Some(group)),
        }
    }

    /// Makes sure that this user can go into `directory`: every directory on the way must let him through.
    pub(crate) fn check_can_enter(&self, directory: &Path) -> Result<()> {
        let Some((user, group)) = self.change_to else {
            return Ok(());
        };
        for step in directory.ancestors() {
            let Ok(metadata) = std::fs::metadata(step) else {
                continue;
            };
            let mode = metadata.mode();
            let may = match () {
                () if metadata.uid() == user => mode & 0o100 != 0,
                () if metadata.gid() == group => mode & 0o010 != 0,
                () => mode & 0o001 != 0,
            };
            if !may {
                return Err(Error::new(
                    ErrorKind::Config,
                    Reason::PermissionDenied.as_str(),
                    format!(
                        "the user that PostgreSQL runs as can't enter {}, on the way to {}",
                        step.display(),
                        directory.display()
                    ),
                )
                .hint("set TOYGRES_HOME to a directory that every user may go through, such as /var/lib/toygres"));
            }
        }
        Ok(())
    }

    /// Lets a command run as this user.
    pub(crate) fn apply(&self, command: &mut tokio::process::Command) {
        if let Some((user, group)) = self.change_to {
            command.uid(user).gid(group);
        }
    }
}

/// A directory that PostgreSQL's user owns and nobody else can read.
pub(crate) fn private_directory(path: &Path, run_as: RunAs) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    run_as.give(path)?;
    Ok(path.to_owned())
}
