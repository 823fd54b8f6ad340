//! The server, as a process of its own: the program that people have.

use crate::cluster::{PASSWORD, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use toygres_models::instances::InstanceAccepted;
use toygres_models::operations::{Operation, OperationState};
use toygres_testing::{TestHome, wait_for};

/// With the embedded control database. What it has started ends with the home.
pub(crate) struct Server {
    process: Child,
    home: TestHome,
    url: String,
    client: reqwest::Client,
}

impl Server {
    pub(crate) async fn start(program: &Path, home: TestHome, settings: &[(&str, &str)]) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let output = File::create(home.path().join("output")).unwrap();
        let mut command = Command::new(program);
        command
            .args(["server", "start", "--foreground", "--platform", "kubernetes"])
            .args(["--port", &port.to_string()])
            .env_remove("DATABASE_URL")
            .env_remove("TOYGRES_LISTEN")
            .env("TOYGRES_HOME", home.path())
            .env("TOYGRES_RATE_LIMIT_PER_SECOND", "1000000")
            .envs(settings.iter().copied())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let mut server = Self {
            process: command.spawn().unwrap(),
            home,
            url: format!("http://127.0.0.1:{port}"),
            client: reqwest::Client::new(),
        };
        wait_for("the server", PATIENCE, || {
            let ended = server.process.try_wait().unwrap();
            let ready = server.client.get(format!("{}/readyz", server.url)).send();
            let output = server.home.path().join("output");
            async move {
                if let Some(status) = ended {
                    let said = std::fs::read_to_string(output).unwrap();
                    panic!("the server ended with {status}: {said}");
                }
                ready.await.ok()?.status().is_success().then_some(())
            }
        })
        .await;
        server
    }

    pub(crate) async fn create(&self, name: &str) -> InstanceAccepted {
        let body = json!({ "name": name, "password": PASSWORD });
        let request = self.client.post(format!("{}/api/instances", self.url));
        accepted(request.json(&body)).await
    }

    pub(crate) async fn delete(&self, name: &str) -> InstanceAccepted {
        accepted(self.client.delete(format!("{}/api/instances/{name}", self.url))).await
    }

    /// Waits until an operation has succeeded.
    pub(crate) async fn succeeded(&self, accepted: &InstanceAccepted) -> Operation {
        let url = format!("{}/api/operations/{}", self.url, accepted.operation.id);
        wait_for("the operation's end", PATIENCE, || async {
            let answer = self.client.get(&url).send().await.unwrap();
            let operation: Operation = answer.json().await.unwrap();
            assert!(
                !operation.state.is_terminal() || operation.state == OperationState::Succeeded,
                "{:?}",
                operation.error
            );
            operation.state.is_terminal().then_some(operation)
        })
        .await
    }

    /// Processor time of the server, and of its control database, in seconds.
    pub(crate) fn cpu_seconds(&self) -> [f64; 2] {
        let pid_file = std::fs::read_to_string(self.home.path().join("control/data/postmaster.pid")).unwrap();
        let postmaster: u32 = pid_file.lines().next().unwrap().parse().unwrap();
        let own = stat(self.process.id()).map_or(0.0, |stat| stat.own);
        [own, tree_cpu_seconds(postmaster)]
    }

    /// The most memory that the server had, in MiB.
    pub(crate) fn peak_memory_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib / 1024.0
    }

    pub(crate) async fn stop(mut self) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).unwrap();
        let begun = Instant::now();
        while self.process.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "the server does not stop");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn accepted(request: reqwest::RequestBuilder) -> InstanceAccepted {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(status, 202, "{body}");
    serde_json::from_value(body).unwrap()
}

/// From proc(5).
struct Stat {
    parent: u32,
    own: f64,
    ended_children: f64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().ok();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Some(Stat {
        parent: fields[1].parse().ok()?,
        own: (ticks(11)? + ticks(12)?) / per_second,
        ended_children: (ticks(13)? + ticks(14)?) / per_second,
    })
}

/// Processor time of this process, in seconds.
pub(crate) fn own_cpu_seconds() -> f64 {
    stat(std::process::id()).map_or(0.0, |stat| stat.own)
}

fn tree_cpu_seconds(postmaster: u32) -> f64 {
    let ended = stat(postmaster).map_or(0.0, |stat| stat.own + stat.ended_children);
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let living = pids.filter_map(stat).filter(|stat| stat.parent == postmaster);
    ended + living.map(|stat| stat.own).sum::<f64>()
}
