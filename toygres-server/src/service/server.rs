//! The server itself: does it live, can it work.

use super::Service;
use crate::config::Mode;
use std::time::Duration;
use toygres_models::server::{Check, Probe, ServerHealth};

/// Workers ask for work about once a second. Silence for so long means that they are gone.
const NO_FETCH_LIMIT: Duration = Duration::from_secs(60);
/// Leases and timers use clocks: more difference to the database's is not safe.
const CLOCK_SKEW_LIMIT_MS: i64 = 2000;

impl Service {
    pub(crate) async fn health(&self) -> ServerHealth {
        let status = if self.readiness().await.ok {
            "healthy"
        } else {
            "unhealthy"
        };
        ServerHealth {
            status: status.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether this process does anything at all. While the database is away nobody can ask it for work, and starting
    /// the process again would not bring it back.
    pub(crate) async fn liveness(&self) -> Probe {
        let mut workers = self.workers();
        if !workers.ok && self.cms.ping().await.is_err() {
            workers.ok = true;
            workers.message.push_str("; the database is away");
        }
        probe(vec![workers])
    }

    /// Whether requests would be served now.
    pub(crate) async fn readiness(&self) -> Probe {
        let mut checks = vec![self.workers()];
        match tokio::time::timeout(Duration::from_secs(2), self.cms.clock_skew()).await {
            Ok(Ok(skew)) => {
                checks.push(check("database", true, "answers".to_owned()));
                let milliseconds = skew.num_milliseconds();
                let ok = milliseconds.abs() < CLOCK_SKEW_LIMIT_MS;
                checks.push(check(
                    "clock",
                    ok,
                    format!("{milliseconds} ms behind the database's"),
                ));
            }
            Ok(Err(error)) => checks.push(check("database", false, error.to_string())),
            Err(_) => checks.push(check("database", false, "does not answer within 2 s".to_owned())),
        }
        let versions = self.platform.versions();
        let list = versions
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        checks.push(check(
            "platform",
            !versions.is_empty(),
            format!("{}, PostgreSQL {list}", self.platform.name()),
        ));
        probe(checks)
    }

    fn workers(&self) -> Check {
        if self.mode == Mode::Api {
            return check("workers", true, "not in this process".to_owned());
        }
        let since = self.engine.since_last_fetch();
        check(
            "workers",
            since < NO_FETCH_LIMIT,
            format!("last asked for work {} ms ago", since.as_millis()),
        )
    }
}

fn check(name: &str, ok: bool, message: String) -> Check {
    Check {
        name: name.to_owned(),
        ok,
        message,
    }
}

fn probe(checks: Vec<Check>) -> Probe {
    Probe {
        ok: checks.iter().all(|check| check.ok),
        checks,
    }
}
