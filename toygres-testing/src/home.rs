//! A directory for a test's own servers, and a keeper that ends them with the test.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// Waits until the test process is gone, in whatever way; then kills every server below the directory by the process
/// id in its `postmaster.pid`, and removes the directory. `kill` on its input kills the servers and goes on.
const KEEPER: &str = r#"
# Nobody may be there to hear the answer.
trap : PIPE
kill_servers() {
    find "$DIR" -name postmaster.pid -o -name initdb.pid -o -name server.pid | while read -r file; do
        pid=$(head -n 1 "$file" 2>/dev/null)
        [ -n "$pid" ] || continue
        # Only what is of this directory: the number may have been given to another program.
        if [ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$file")" ] || grep -qa "$DIR" "/proc/$pid/cmdline" "/proc/$pid/environ" 2>/dev/null; then
            kill -KILL "$pid" 2>/dev/null
            while [ -d "/proc/$pid" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null; do sleep 0.02; done
        fi
    done
}
while read -r command; do
    kill_servers
    echo ok
done
for _ in 1 2 3; do kill_servers; rm -rf "$DIR" && break; done
"#;

/// See the module. Every user may go through the directory, since servers run as one of their own.
pub struct TestHome {
    path: PathBuf,
    keeper: Mutex<Child>,
}

impl Default for TestHome {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHome {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("toygres-home-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg(KEEPER).env("DIR", &path).process_group(0);
        let keeper = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            path,
            keeper: Mutex::new(keeper),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills every server below the directory with SIGKILL, and waits until they are gone.
    pub fn kill_servers(&self) {
        let mut keeper = self.keeper.lock().unwrap();
        writeln!(keeper.stdin.as_mut().unwrap(), "kill").unwrap();
        let mut answer = [0; 3];
        keeper.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    }

    /// The user and group that servers run as: for root another one, since PostgreSQL refuses root.
    #[must_use]
    pub fn owner() -> (u32, u32) {
        crate::postgres::unprivileged_user().unwrap_or_else(|| {
            (
                rustix::process::getuid().as_raw(),
                rustix::process::getgid().as_raw(),
            )
        })
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        if let Ok(keeper) = self.keeper.get_mut() {
            drop(keeper.stdin.take());
            keeper.wait().ok();
        }
    }
}
