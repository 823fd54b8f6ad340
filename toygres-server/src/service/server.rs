//! The server itself: does it live, can it work.

use super::Service;
use crate::config::Mode;
use chrono::TimeDelta;
use std::time::Duration;
use toygres_cms::Origin;
use toygres_models::server::{Check, Drift, EffectiveSetting, Probe, ServerHealth, ServerStats, Worker};
use toygres_models::{Error, ErrorKind, Result};
use toygres_telemetry::Event;
use toygres_telemetry::events::PoolSeen;

/// Workers ask for work about once a second. Silence for so long means that they are gone.
const NO_FETCH_LIMIT: Duration = Duration::from_secs(60);
/// How often the clocks are compared. Between, one that is set is noticed too.
const CLOCK_PERIOD: Duration = Duration::from_secs(5);

/// How often a process says that it lives.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(10);

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
                checks.push(self.clock(skew));
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
        if self.stopping.is_cancelled() {
            checks.push(check(
                "stopping",
                false,
                "told to stop: ask another server".to_owned(),
            ));
        }
        probe(checks)
    }

    fn clock(&self, skew: TimeDelta) -> Check {
        let milliseconds = skew.num_milliseconds();
        self.engine.clock_seen(-milliseconds);
        let fits = self.engine.clock_fits();
        let consequence = match fits {
            true => "",
            false => ": no work is taken until it is set right",
        };
        check(
            "clock",
            fits,
            format!("{milliseconds} ms behind the database's{consequence}"),
        )
    }

    /// Compares this machine's clock with the database's once.
    pub(crate) async fn compare_clocks(&self) {
        let before = self.engine.clock_fits();
        // Without the database there is no work either.
        let Ok(skew) = self.cms.clock_skew().await else {
            return;
        };
        let check = self.clock(skew);
        match (before, check.ok) {
            (true, false) => tracing::error!(
                "this machine's clock is {}; set it, by NTP for example",
                check.message
            ),
            (false, true) => tracing::info!("this machine's clock is right again, and work is taken"),
            _ => {}
        }
    }

    /// Does so again and again, until told to stop.
    pub(crate) async fn watch_clock(&self) {
        let stop = self.changes.stop();
        while stop
            .run_until_cancelled(tokio::time::sleep(CLOCK_PERIOD))
            .await
            .is_some()
        {
            self.compare_clocks().await;
        }
    }

    pub(crate) async fn stats(&self) -> Result<ServerStats> {
        let (counts, engine) = tokio::try_join!(self.cms.counts(), self.engine_stats())?;
        Ok(ServerStats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            resident_memory_bytes: resident_memory_bytes(),
            instances_by_state: counts.instances_by_state,
            instances_by_health: counts.instances_by_health,
            operations_by_state: counts.operations_by_state,
            engine,
            database_connections: self.pool.size(),
            database_connections_idle: u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX),
            open_streams: self.changes.open_streams() as u64,
        })
    }

    /// The processes of the control plane that have lately said that they live.
    pub(crate) async fn list_workers(&self) -> Result<Vec<Worker>> {
        self.cms.list_workers(3 * HEARTBEAT_PERIOD).await
    }

    /// Says again and again that this process lives, until told to stop.
    pub(crate) async fn say_alive(&self) {
        let stop = self.changes.stop();
        let uptime = chrono::TimeDelta::from_std(self.started.elapsed()).unwrap_or_default();
        let mut worker = Worker {
            id: self.process_id,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: self.mode.as_str().to_owned(),
            started_at: chrono::Utc::now() - uptime,
            last_seen_at: chrono::Utc::now(),
            orchestration_slots: 0,
            activity_slots: 0,
            activities_running: 0,
        };
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        if self.mode != Mode::Api {
            worker.orchestration_slots = count(self.engine.orchestration_slots());
            worker.activity_slots = count(self.engine.activity_slots());
        }
        loop {
            PoolSeen {
                used: (self.pool.size() as usize).saturating_sub(self.pool.num_idle()),
                idle: self.pool.num_idle(),
                max: self.pool.options().get_max_connections(),
            }
            .emit();
            worker.activities_running = count(self.engine.activities_running());
            if let Err(error) = self.cms.heartbeat(&worker).await {
                tracing::debug!(
                    detail = error.detail(),
                    "no sign of life could be written: {error}"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT_PERIOD) => {}
                () = stop.cancelled() => break,
            }
        }
        // If this fails, it is known by its silence.
        self.cms.remove_worker(self.process_id).await.ok();
    }

    pub(crate) fn settings(&self) -> &[EffectiveSetting] {
        &self.settings
    }

    /// The last lines of this process's own log, each a JSON object.
    pub(crate) async fn server_log(&self, tail: usize) -> Result<Vec<serde_json::Value>> {
        let path = self.server_log.clone();
        let lines = tokio::task::spawn_blocking(move || toygres_platform::local::tail(&path, tail))
            .await
            .map_err(|cause| Error::internal("the log was not read").source(cause))?;
        let read = |line: &String| serde_json::from_str(line).ok();
        Ok(lines.iter().filter_map(read).collect())
    }

    pub(crate) async fn list_drift(&self) -> Result<Vec<Drift>> {
        self.cms.list_drift().await
    }

    /// Removes from the platform what belongs to no instance.
    pub(crate) async fn fix_drift(&self, id: i64, origin: &Origin) -> Result<Drift> {
        let drift = self.cms.get_drift(id).await?;
        let (true, Some(instance_id)) = (drift.fixable, drift.instance_id) else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "drift_not_fixable",
                format!("toygres can't put this right by itself: {}", drift.message),
            )
            .hint(drift.remedy));
        };
        // It may have got a row since the sweep, or never have been without one for long.
        if self.cms.owners(&[instance_id]).await?.contains_key(&instance_id) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "drift_resolved",
                format!("{} belongs to an instance by now", drift.object),
            ));
        }
        let listed = self.platform.list().await?;
        let Some(found) = listed.iter().find(|listed| listed.instance.id == instance_id) else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "drift_not_here",
                match drift
                    .host
                    .as_deref()
                    .filter(|host| self.platform.host() != Some(*host))
                {
                    Some(host) => format!("{} is on the machine {host}", drift.object),
                    None => format!("{} is not there any more", drift.object),
                },
            )
            .hint("ask the server of the machine that it is on; if it is gone, the next sweep says so"));
        };
        // Written down before it is done: what could not be removed is found again.
        self.cms.resolve_drift(id, origin).await?;
        tracing::warn!(object = drift.object, "removing what belongs to no instance");
        self.platform.remove(&found.instance).await?;
        Ok(drift)
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

/// The second number of the file is resident pages (proc(5)); 0 where there is none.
fn resident_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * rustix::param::page_size() as u64
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
