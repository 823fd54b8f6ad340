//! A machine of a test's own: a home whose servers end with the test, and the program run on it.

use super::{Ran, toygres};
use rustix::process::Pid;
use serde_json::Value;
use std::net::TcpListener;
use toygres_testing::TestHome;

/// A home whose servers end with the test, however that ends, and a port.
pub(crate) struct Machine {
    pub(crate) home: TestHome,
    pub(crate) port: String,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Self {
            home: TestHome::new(),
            port: port.to_string(),
        }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        toygres(self.home.path()).args(arguments).output().unwrap().into()
    }

    #[track_caller]
    pub(crate) fn good(&self, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:#?}");
        ran
    }

    #[track_caller]
    pub(crate) fn start(&self) -> Value {
        json(&self.good(&["server", "start", "--port", &self.port, "-o", "json"]))
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.home.path().join(name), text).unwrap();
    }
}

#[track_caller]
pub(crate) fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|cause| panic!("{cause}: {ran:#?}"))
}

pub(crate) fn pid(status: &Value) -> Pid {
    Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap()).unwrap()
}

/// Whether the process is there and not merely waiting to be buried.
pub(crate) fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, state)| !state.starts_with('Z'))
}
