//! Making a data directory.

use super::cluster::{Cluster, disk_full};
use super::fault::{fault, io_fault};
use super::files::{make_directory, names_in, random_suffix, remove_all, sync_directory};
use super::log;
use super::process;
use super::programs::locale;
use super::work::blocking;
use std::io::{PipeReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use toygres_models::operations::Reason;
use toygres_models::{Result, Secret};

/// What a data directory is called while it is made; random digits follow.
const UNFINISHED: &str = "data.";

impl Cluster {
    /// Makes the data, if it is not there: with checksums, passwords by SCRAM, and the role `postgres`.
    ///
    /// It is made under another name and put in its place when it is whole and on disk: what is called `data` is
    /// never half made. If the call is dropped, the work is ended.
    ///
    /// # Errors
    /// `disk_full`, `permission_denied`, `binaries_missing`, or `crash_loop` with the last words of `initdb`.
    pub async fn create(&self, password: &Secret) -> Result<()> {
        if self.exists() {
            return Ok(());
        }
        make_directory(&self.directory, 0o711)?;
        self.run_as.check_can_enter(&self.directory)?;
        let _lock = self.lock().await?;
        if self.exists() {
            return Ok(());
        }
        self.remove_unfinished().await?;
        let unfinished = self.directory.join(format!("{UNFINISHED}{}", random_suffix()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&unfinished)
            .map_err(|e| io_fault(e, "make the directory", &unfinished))?;
        self.run_as.give(&unfinished)?;
        self.initdb(&unfinished, password).await?;
        let data = self.data();
        std::fs::rename(&unfinished, &data).map_err(|e| io_fault(e, "make", &data))?;
        sync_directory(&self.directory).map_err(|e| io_fault(e, "write", &self.directory))
    }

    /// Ends and removes what a control plane that was ended itself had begun to make.
    async fn remove_unfinished(&self) -> Result<()> {
        for name in names_in(&self.directory)? {
            if name.starts_with(UNFINISHED) {
                let path = self.directory.join(name);
                process::kill_all_in(&path).await?;
                blocking(move || remove_all(&path)).await?;
            }
        }
        Ok(())
    }

    async fn initdb(&self, data: &Path, password: &Secret) -> Result<()> {
        let program = self.programs.join("initdb");
        let mut command = self.run_as.command(&program);
        command.arg("-D").arg(data).args([
            "--username=postgres",
            "--pwfile=/dev/stdin",
            "--auth=scram-sha-256",
            "--data-checksums",
            "--encoding=UTF8",
            "--no-instructions",
        ]);
        let locale = blocking(|| Ok(locale())).await?;
        command.arg(format!("--locale={locale}"));
        // It works in the directory it makes, by which it is found and ended when nobody waits for it any more.
        command
            .current_dir(data)
            .stdin(self.password_pipe(password)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| process::spawn_fault(e, &program))?;
        let pid_file = PidFile::write(self.directory.join("initdb.pid"), child.id());
        // Kept in memory: on a full disk, the reason could not be written down.
        let output = child.wait_with_output().await;
        let output = output.map_err(|e| io_fault(e, "run", &program))?;
        drop(pid_file);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        std::fs::write(self.directory.join("initdb.log"), &said).ok();
        if output.status.success() {
            return Ok(());
        }
        if log::says_disk_full(&said) {
            return Err(disk_full(&self.directory));
        }
        let message = format!(
            "its data directory could not be made ({}); the last words of initdb: {}",
            output.status,
            log::last_words(&said)
        );
        Err(fault(Reason::CrashLoop, message))
    }

    /// The password on its way to `initdb`, which reads it as a file named `/dev/stdin`: it never is on a disk, and
    /// nobody else can open it.
    fn password_pipe(&self, password: &Secret) -> Result<PipeReader> {
        let pipe = || -> std::io::Result<PipeReader> {
            let (reader, mut writer) = std::io::pipe()?;
            // A pipe holds far more than a password, so this does not wait for the reader.
            writer.write_all(password.reveal().as_bytes())?;
            writer.write_all(b"\n")?;
            if let Some((user, group)) = self.run_as.ids() {
                // Opening it by its name takes the same rights as opening a file.
                std::os::unix::fs::fchown(&reader, Some(user), Some(group))?;
            }
            Ok(reader)
        };
        pipe().map_err(|e| io_fault(e, "write to", Path::new("a pipe")))
    }
}

/// The number of a running `initdb`, written down so that a person or a script can find it.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: PathBuf, pid: Option<u32>) -> Self {
        if let Some(pid) = pid {
            std::fs::write(&path, format!("{pid}\n")).ok();
        }
        Self(path)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}
