//! The user that PostgreSQL runs as. It refuses to run as root.

use super::fault::{fault, io_fault};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use toygres_models::Result;
use toygres_models::operations::Reason;

/// Who server processes run as, and who owns their data: the caller's own user, or an unprivileged one if the caller
/// is root.
#[derive(Debug, Clone, Copy)]
pub struct RunAs(Option<Account>);

#[derive(Debug, Clone, Copy)]
struct Account {
    name: &'static str,
    user: u32,
    group: u32,
}

impl RunAs {
    /// For root: `postgres` if there is such a user, else `nobody`. For anybody else: themselves.
    ///
    /// # Errors
    /// `Config` (`permission_denied`) if the caller is root and neither user exists.
    pub fn find() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let path = Path::new("/etc/passwd");
        let users = std::fs::read(path).map_err(|e| io_fault(e, "read", path))?;
        // The names of people in it may be of any encoding.
        let users = String::from_utf8_lossy(&users);
        match find_account(&users, "postgres").or_else(|| find_account(&users, "nobody")) {
            Some(account) => Ok(Self(Some(account))),
            None => Err(fault(
                Reason::PermissionDenied,
                "PostgreSQL does not run as root, and there is neither a user \"postgres\" nor \"nobody\"",
            )
            .hint("add one (adduser --system postgres), or start toygres as another user")),
        }
    }

    /// The user and group to change to, if they are not the caller's own.
    #[must_use]
    pub fn ids(&self) -> Option<(u32, u32)> {
        self.0.map(|account| (account.user, account.group))
    }

    /// A command that runs as this user, in a process group of its own so that a Ctrl-C is not meant for it, with
    /// nothing of the caller's environment: a tenant can read his server's, and the control plane's holds secrets.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .process_group(0);
        if let Some((user, group)) = self.ids() {
            command.uid(user).gid(group);
        }
        command
    }

    /// Gives a file or directory to this user.
    pub(crate) fn give(&self, path: &Path) -> Result<()> {
        match self.ids() {
            None => Ok(()),
            Some((user, group)) => {
                chown(path, Some(user), Some(group)).map_err(|e| io_fault(e, "change the owner of", path))
            }
        }
    }

    /// Checks that this user can enter a directory, which takes the right to do so in each one above it.
    ///
    /// # Errors
    /// `Config` (`permission_denied`), naming the first one that can't be entered.
    pub(crate) fn check_can_enter(&self, directory: &Path) -> Result<()> {
        let Some(account) = &self.0 else { return Ok(()) };
        let directory = directory
            .canonicalize()
            .map_err(|e| io_fault(e, "find", directory))?;
        let mut parts: Vec<&Path> = directory.ancestors().collect();
        parts.reverse();
        for part in parts {
            let metadata = part.metadata().map_err(|e| io_fault(e, "look at", part))?;
            let bit = if metadata.uid() == account.user {
                0o100
            } else if metadata.gid() == account.group {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & bit == 0 {
                let message = format!(
                    "PostgreSQL runs as the user \"{}\", who can't enter {}, on the way to {}",
                    account.name,
                    part.display(),
                    directory.display()
                );
                let hint = "set TOYGRES_HOME to a directory that this user can enter, such as /var/lib/toygres, \
                            or let others pass through this one (chmod o+x)";
                return Err(fault(Reason::PermissionDenied, message).hint(hint));
            }
        }
        Ok(())
    }
}

fn find_account(users: &str, name: &'static str) -> Option<Account> {
    let mut fields = users
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?
        .skip(1);
    Some(Account {
        name,
        user: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_their_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7:::\npostgres:x:101:104:A,,,:/var:/bin/bash\n";
        let account = find_account(users, "postgres").unwrap();
        assert_eq!((account.user, account.group), (101, 104));
        assert!(find_account(users, "nobody").is_none());
    }

    /// Of the users of a machine only the one with exactly this name is taken.
    fn is_found_or_not(users: &str) {
        let is_there = |account: &Account| {
            let begin = format!("{}:", account.name);
            users.lines().any(|line| line.starts_with(&begin))
        };
        assert!(find_account(users, "postgres").is_none_or(|account| is_there(&account)));
        let with_root = format!("root:x:0:0:root:/root:/bin/bash\n{users}");
        assert!(find_account(&with_root, "postgres").is_none_or(|account| is_there(&account)));
    }

    #[test]
    fn fuzz_users() {
        bolero::check!().for_each(|bytes: &[u8]| is_found_or_not(&String::from_utf8_lossy(bytes)));
    }

    proptest::proptest! {
        #[test]
        fn an_account_is_found_by_its_name_alone(
            any in ".*", others in "((root|postgres2|nobody):x:[0-9]{1,3}:[0-9]{0,3}:.{0,9}\n){0,4}", ids: (u32, u32),
        ) {
            is_found_or_not(&any);
            is_found_or_not(&others);
            let users = format!("{others}postgres:x:{}:{}:PostgreSQL\n", ids.0, ids.1);
            let account = find_account(&users, "postgres").unwrap();
            proptest::prop_assert_eq!((account.user, account.group), ids);
        }
    }
}
