//! What the local platform's tests share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may panic and print"
)]

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_platform::conformance::{Hooks, made};
use toygres_platform::local::{LocalConfig, LocalPlatform, Programs};
use toygres_platform::{InstanceRef, InstanceSpec, Observation, Platform};
use toygres_testing::{TestHome, server_programs, wait_for};

/// A local platform in a directory of its own; its servers end with the test.
pub struct Local {
    pub platform: LocalPlatform,
    pub directory: PathBuf,
    // Dropped last.
    pub home: TestHome,
}

impl Local {
    pub async fn new() -> Self {
        Self::with(|config| config).await
    }

    /// With a configuration that differs.
    pub async fn with(change: impl FnOnce(LocalConfig) -> LocalConfig) -> Self {
        let home = TestHome::new();
        let directory = home.path().join("local");
        let platform = LocalPlatform::open(change(config(&directory))).await.unwrap();
        Self {
            platform,
            directory,
            home,
        }
    }

    pub fn instance(&self, instance: &InstanceRef) -> PathBuf {
        self.directory.join("instances").join(instance.object_name())
    }

    pub fn pid(&self, instance: &InstanceRef) -> i32 {
        pid_of(&self.instance(instance)).expect("a server that runs")
    }
}

/// The default configuration with the one version that the tests use.
pub fn config(directory: &Path) -> LocalConfig {
    LocalConfig::new(directory.to_owned()).programs(Programs::in_directories([server_programs()]))
}

/// The number in an instance's `postmaster.pid`.
pub fn pid_of(instance: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(instance.join("data/postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

pub fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub fn is_alive(pid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

pub async fn wait_dead(pid: i32) {
    wait_for("a process to end", Duration::from_secs(30), || async {
        (!is_alive(pid)).then_some(())
    })
    .await;
}

/// Makes an instance and waits until all is written down that is to be.
pub async fn settled(local: &Local, spec: &InstanceSpec) -> (Endpoint, Option<u64>) {
    let made = made(local, spec).await;
    let record = local.instance(&spec.reference()).join("instance.json");
    wait_for("the record", Duration::from_secs(30), || async {
        let text = std::fs::read_to_string(&record).ok()?;
        text.contains("\"port_is_known\": true").then_some(())
    })
    .await;
    made
}

/// Numbers and command lines of processes that work below a directory.
pub fn processes_below(directory: &Path) -> Vec<(i32, String)> {
    let directory = directory.canonicalize().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let works_in = std::fs::read_link(entry.path().join("cwd")).ok()?;
            let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            works_in
                .starts_with(&directory)
                .then(|| (pid, command.replace('\0', " ").trim().to_owned()))
        })
        .collect()
}

#[async_trait]
impl Hooks for Local {
    fn platform(&self) -> &dyn Platform {
        &self.platform
    }

    async fn reopened(&self) -> Box<dyn Platform> {
        Box::new(LocalPlatform::open(config(&self.directory)).await.unwrap())
    }

    async fn kill_server(&self, instance: &InstanceRef) {
        let pid = self.pid(instance);
        signal(pid, Signal::KILL);
        wait_dead(pid).await;
    }

    async fn destroy_storage(&self, instance: &InstanceRef) {
        let pid = self.pid(instance);
        // Not killed, or nobody would ever remove its shared memory.
        signal(pid, Signal::QUIT);
        wait_dead(pid).await;
        std::fs::remove_dir_all(self.instance(instance).join("data")).unwrap();
    }

    async fn left_over(&self) -> Vec<String> {
        let mut found: Vec<_> = processes_below(self.home.path())
            .into_iter()
            .map(|(_, command)| command)
            .collect();
        for part in ["instances", "trash"] {
            for entry in std::fs::read_dir(self.directory.join(part)).unwrap().flatten() {
                found.push(entry.path().display().to_string());
            }
        }
        found
    }
}

/// A process that waits in a directory and ends with the test.
pub struct Bystander(Child);

impl Bystander {
    /// Runs `command` there as the user that servers run as.
    pub fn run(directory: &Path, program: &str, arguments: &[&str]) -> Self {
        let (user, group) = TestHome::owner();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(user).gid(group);
        }
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Waits for it without any more help, and gives the reason why it is not ready.
pub async fn not_ready(platform: &LocalPlatform, instance: &InstanceRef) -> (Reason, String) {
    match platform
        .wait_ready(instance, Duration::from_secs(60))
        .await
        .unwrap()
    {
        Observation::NotReady { reason, message } => (reason, message),
        other => panic!("{other:?}"),
    }
}
