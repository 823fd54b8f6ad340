//! Starting a server.

use super::cluster::{Cluster, StartOptions, port_taken};
use super::fault::io_fault;
use super::files::{remove_all, write_whole};
use super::log;
use super::ports::is_free;
use super::process;
use std::time::Duration;
use tokio::sync::oneshot;
use toygres_models::Result;

/// How often it is looked whether a process that was just started has written itself down.
const LOOK: Duration = Duration::from_millis(5);

impl Cluster {
    /// Starts the server, if none runs. Returns when its process has written itself down;
    /// [`wait_ready`](Self::wait_ready) tells how it goes on. The server outlives this process.
    ///
    /// # Errors
    /// `port_taken` if another program listens on the port, `disk_full` or `crash_loop` if it ended at once
    /// (these can pass); `permission_denied`, `binaries_missing`.
    pub async fn start(&self, options: &StartOptions) -> Result<()> {
        if self.postmaster().is_some() {
            return Ok(());
        }
        let _lock = self.lock().await?;
        if self.postmaster().is_some() {
            return Ok(());
        }
        self.clear_dead_server().await?;
        if !is_free(options.port) {
            return Err(port_taken(options.port));
        }
        let mut ended = self.spawn(options)?;
        loop {
            let has_ended = tokio::time::timeout(LOOK, &mut ended).await.is_ok();
            // Asked in this order: another control plane's server may be the reason why this one has ended.
            if self.postmaster().is_some() {
                return Ok(());
            }
            if has_ended {
                return Err(self.why_ended(options.port));
            }
        }
    }

    /// The server that was here is dead. PostgreSQL would take any live process of this user that has its number by
    /// now for it, and refuse to start; and it can't start before the last of its children has ended.
    async fn clear_dead_server(&self) -> Result<()> {
        let pid_file = self.data().join("postmaster.pid");
        if pid_file.symlink_metadata().is_ok() {
            process::kill_all_in(&self.data()).await?;
            remove_all(&pid_file)?;
        }
        Ok(())
    }

    /// Starts the process; the receiver hears when it has ended.
    fn spawn(&self, options: &StartOptions) -> Result<oneshot::Receiver<()>> {
        let program = self.programs.join("postgres");
        let settings = self.directory.join("toygres.conf");
        write_whole(&settings, settings_file(&options.settings).as_bytes(), 0o644)?;
        let path = self.log();
        let output = log::begin(&path, &format!("on port {}", options.port))?;
        let errors = output.try_clone().map_err(|e| io_fault(e, "write", &path))?;
        let mut command = self.run_as.command(&program);
        command.arg("-D").arg(self.data());
        // On the command line, where nothing that a tenant sets can win over it.
        for fixed in [
            format!("config_file={}", settings.display()),
            format!("port={}", options.port),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "logging_collector=off".to_owned(),
        ] {
            command.arg("-c").arg(fixed);
        }
        command.current_dir(self.data()).stdout(output).stderr(errors);
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|e| process::spawn_fault(e, &program))?;
        let (tell, ended) = oneshot::channel();
        // Takes its exit status whenever it ends, so that no zombie stays while this process lives.
        tokio::spawn(async move {
            let status = child.wait().await;
            tracing::debug!(?status, "a PostgreSQL server has ended");
            tell.send(()).ok();
        });
        Ok(ended)
    }
}

/// What the server reads first: what `initdb` wrote, then these settings. It reads the tenant's own
/// (`postgresql.auto.conf`) after them.
fn settings_file(settings: &[String]) -> String {
    let mut text = "# Written anew by toygres at each start. Change settings by ALTER SYSTEM.\n\
                    include 'data/postgresql.conf'\n"
        .to_owned();
    for setting in settings {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    text
}
