//! What was injected, and what came of it.

use crate::faults::append;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use toygres_testing::seed;

/// Names the file that accounts are appended to, one JSON document a line.
const FILE: &str = "TOYGRES_CHAOS_ACCOUNT";
/// Set: as long as it takes to trust it, rather than as long as everybody waits for a test.
const LONG: &str = "TOYGRES_CHAOS_LONG";
/// A `chaos-server` of an older version, as `scripts/chaos-old-server.sh` builds it.
const OLD_SERVER: &str = "TOYGRES_CHAOS_OLD_SERVER";

/// Whether the long versions of the tests are wanted.
#[must_use]
pub fn long() -> bool {
    std::env::var(LONG).is_ok_and(|value| value == "true")
}

/// The program of an older version, if there is one to test with.
#[must_use]
pub fn old_server() -> Option<&'static str> {
    let program = std::env::var(OLD_SERVER).ok()?;
    assert!(
        Path::new(&program).is_file(),
        "{OLD_SERVER}={program} is not there"
    );
    Some(program.leak())
}

/// Randomness for the test of this name: the same for the same seed, which is printed.
#[must_use]
pub fn random(test: &str) -> StdRng {
    StdRng::seed_from_u64(seed(test))
}

/// The account of one sort of fault. Written down when it is dropped, unless the test failed.
pub struct Account {
    area: &'static str,
    fault: String,
    injected: u64,
    lost: u64,
    recoveries: Vec<Duration>,
}

impl Account {
    /// Of a fault (a few words for people) in this area (`crash`, `database`).
    #[must_use]
    pub fn new(area: &'static str, fault: impl Into<String>) -> Self {
        Self {
            area,
            fault: fault.into(),
            injected: 0,
            lost: 0,
            recoveries: Vec::new(),
        }
    }

    /// It was injected so many times more.
    pub fn injected(&mut self, times: usize) {
        self.injected += times as u64;
    }

    /// So many things were lost or doubled by it. The test should then fail.
    pub fn lost(&mut self, things: usize) {
        self.lost += things as u64;
    }

    /// All was well again after so long.
    pub fn recovered(&mut self, after: Duration) {
        self.recoveries.push(after);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os(FILE).filter(|_| !std::thread::panicking()) else {
            return;
        };
        let recoveries: Vec<f64> = self.recoveries.iter().map(Duration::as_secs_f64).collect();
        let line = json!({
            "area": self.area,
            "fault": self.fault,
            "injected": self.injected,
            "lost": self.lost,
            "recovery_seconds": recoveries,
        });
        append(Path::new(&path), &line.to_string());
    }
}
