//! The server is killed with SIGKILL in the middle of work: nothing is lost, nothing is done twice, nothing is left.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::{Ran, toygres};
use toygres_testing::TestHome;

const PATIENCE: Duration = Duration::from_secs(120);

struct Server {
    home: TestHome,
    port: u16,
    process: Option<Child>,
}

impl Server {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = Self {
            home: TestHome::new(),
            port,
            process: None,
        };
        server.start();
        server
    }

    fn start(&mut self) {
        let mut command = toygres(self.home.path());
        command.args([
            "server",
            "start",
            "--foreground",
            "--port",
            &self.port.to_string(),
        ]);
        command.env("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "1");
        let log = std::fs::File::create(self.home.path().join("foreground.out")).unwrap();
        command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        self.until("the server is ready", |server| server.run(&["list"]).code == 0);
    }

    /// Without any chance to put things in order.
    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = toygres(self.home.path());
        command.env("TOYGRES_API_URL", format!("http://127.0.0.1:{}", self.port));
        command.args(arguments).output().unwrap().into()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&ran.out).unwrap_or(Value::Null)
    }

    fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn instances_on_disk(&self) -> usize {
        let count =
            |directory: &Path| std::fs::read_dir(directory).map_or(0, |entries| entries.flatten().count());
        count(&self.home.path().join("instances")) + count(&self.home.path().join("trash"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// How many steps of the operation on `name` have begun.
fn steps(server: &Server, kind: &str) -> usize {
    let operations = server.json(&["operations"]);
    let operation = operations
        .as_array()
        .and_then(|all| all.iter().find(|o| o["kind"] == kind).cloned());
    operation
        .and_then(|o| o["steps"].as_array().map(Vec::len))
        .unwrap_or(0)
}

#[test]
fn a_create_goes_on_after_a_kill_at_any_step() {
    for step in 0..=2 {
        let mut server = Server::new();
        let created = server.run(&["create", "survivor"]);
        assert_eq!(created.code, 0, "{created:?}");
        server.until("the step has begun", |server| steps(server, "create") >= step);
        server.kill();
        server.start();
        server.until("it runs", |server| {
            server.json(&["get", "survivor"])["state"] == "running"
        });
        let operations = server.json(&["operations"]);
        assert_eq!(operations.as_array().map(Vec::len), Some(1), "{operations}");
        assert_eq!(operations[0]["state"], "succeeded");
        let answer = server.run(&["psql", "survivor", "--", "-Atc", "select 6 * 7"]);
        assert_eq!(answer.out.trim(), "42", "{answer:?}");
        assert_eq!(server.instances_on_disk(), 1);
    }
}

#[test]
fn a_delete_goes_on_after_a_kill_at_any_step() {
    for step in 0..=1 {
        let mut server = Server::new();
        let created = server.run(&["create", "goner", "--wait"]);
        assert_eq!(created.code, 0, "{created:?}");
        let deleted = server.run(&["delete", "goner", "--force"]);
        assert_eq!(deleted.code, 0, "{deleted:?}");
        server.until("the step has begun", |server| steps(server, "delete") >= step);
        server.kill();
        server.start();
        server.until("it is gone", |server| {
            let operations = server.json(&["operations"]);
            operations.as_array().is_some_and(|all| {
                all.iter()
                    .any(|o| o["kind"] == "delete" && o["state"] == "succeeded")
            })
        });
        assert_eq!(server.instances_on_disk(), 0);
        assert_eq!(server.json(&["list"]), serde_json::json!([]));
    }
}

#[test]
fn a_killed_control_database_is_started_again_and_work_goes_on() {
    let server = Server::new();
    let text = std::fs::read_to_string(server.home.path().join("control/data/postmaster.pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(text.lines().next().unwrap().parse().unwrap()).unwrap();
    let created = server.run(&["create", "steady"]);
    assert_eq!(created.code, 0, "{created:?}");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    server.until("it runs", |server| {
        server.json(&["get", "steady"])["state"] == "running"
    });
    let again = std::fs::read_to_string(server.home.path().join("control/data/postmaster.pid")).unwrap();
    assert_ne!(
        again.lines().next(),
        text.lines().next(),
        "another process serves now"
    );
}
