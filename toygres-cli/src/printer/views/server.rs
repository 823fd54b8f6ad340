//! The server.

use super::{span, yes_no};
use crate::failure::Result;
use crate::printer::table::Cell;
use crate::printer::{Mood, Printer, clean};
use chrono::{TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;
use toygres_models::server::{Count, Drift, EffectiveSetting, Probe, ServerStats, Worker};

/// A worker says every 10 seconds that it lives.
const SEEN_LATELY: TimeDelta = TimeDelta::seconds(30);

impl Printer {
    /// The server of this machine.
    pub(crate) fn server(&self, status: &ServerStatus) -> Result<()> {
        if self.document(status)? {
            return Ok(());
        }
        let (word, mood) = match (status.running, &status.probe) {
            (false, _) => ("not running", Mood::Bad),
            (true, Some(probe)) if probe.ok => ("ready", Mood::Good),
            (true, _) => ("running, not ready", Mood::Busy),
        };
        self.fields(vec![
            ("server", Some(Cell::new(word, mood))),
            ("pid", status.pid.map(|pid| pid.to_string().into())),
            ("url", status.url.as_deref().map(Into::into)),
            ("home", Some(status.home.as_str().into())),
            ("log", Some(status.log.as_str().into())),
            (
                "error",
                status.error.as_deref().map(|error| Cell::new(error, Mood::Bad)),
            ),
        ])?;
        let checks = status.probe.iter().flat_map(|probe| &probe.checks).map(|check| {
            let (word, mood) = if check.ok {
                ("ok", Mood::Good)
            } else {
                ("failed", Mood::Bad)
            };
            vec![
                check.name.as_str().into(),
                Cell::new(word, mood),
                check.message.as_str().into(),
            ]
        });
        let checks: Vec<_> = checks.collect();
        if checks.is_empty() {
            return Ok(());
        }
        self.line("")?;
        self.table(&["CHECK", "RESULT", "FOUND"], checks)
    }

    pub(crate) fn stats(&self, stats: &ServerStats) -> Result<()> {
        if self.document(stats)? {
            return Ok(());
        }
        let engine = &stats.engine;
        let uptime = TimeDelta::milliseconds((stats.uptime_seconds * 1000.0) as i64);
        self.fields(vec![
            ("version", Some(stats.version.as_str().into())),
            ("up for", Some(span(uptime).into())),
            (
                "memory",
                Some(format!("{} MiB", stats.resident_memory_bytes >> 20).into()),
            ),
            (
                "databases by state",
                Some(counts(&stats.instances_by_state).into()),
            ),
            (
                "databases by health",
                Some(counts(&stats.instances_by_health).into()),
            ),
            (
                "operations by state",
                Some(counts(&stats.operations_by_state).into()),
            ),
            (
                "orchestrations",
                Some(
                    format!(
                        "{} running, {} completed, {} failed",
                        engine.running, engine.completed, engine.failed
                    )
                    .into(),
                ),
            ),
            (
                "waiting",
                Some(
                    format!(
                        "{} messages, {} activities, {} timers",
                        engine.orchestrator_queue, engine.worker_queue, engine.timers
                    )
                    .into(),
                ),
            ),
            (
                "oldest waits for",
                Some(format!("{:.1} s", engine.oldest_wait_seconds).into()),
            ),
            ("rows of history", Some(engine.history_rows.to_string().into())),
            (
                "database connections",
                Some(
                    format!(
                        "{}, {} of them idle",
                        stats.database_connections, stats.database_connections_idle
                    )
                    .into(),
                ),
            ),
            ("open streams", Some(stats.open_streams.to_string().into())),
        ])
    }

    pub(crate) fn workers(&self, workers: &[Worker]) -> Result<()> {
        if self.document(workers)? {
            return Ok(());
        }
        let mut headings = vec![
            "HOST",
            "PID",
            "MODE",
            "VERSION",
            "UP FOR",
            "LAST SEEN",
            "ACTIVITIES",
        ];
        if self.is_wide() {
            headings.extend(["ORCHESTRATION SLOTS", "ID"]);
        }
        let rows = workers.iter().map(|worker| {
            let silence = Utc::now() - worker.last_seen_at;
            let mood = if silence > SEEN_LATELY {
                Mood::Bad
            } else {
                Mood::Good
            };
            let mut row = vec![
                worker.host.as_str().into(),
                worker.pid.to_string().into(),
                worker.mode.as_str().into(),
                worker.version.as_str().into(),
                span(Utc::now() - worker.started_at).into(),
                Cell::new(format!("{} ago", span(silence)), mood),
                format!("{}/{}", worker.activities_running, worker.activity_slots).into(),
            ];
            if self.is_wide() {
                row.extend([
                    worker.orchestration_slots.to_string().into(),
                    worker.id.to_string().into(),
                ]);
            }
            row
        });
        self.table(&headings, rows.collect())
    }

    /// Settings in effect: the server's, if it says them, and this program's.
    pub(crate) fn settings(&self, settings: &Settings) -> Result<()> {
        if self.document(settings)? {
            return Ok(());
        }
        let row = |of: &str, setting: &EffectiveSetting| {
            let mut row: Vec<Cell> = vec![
                of.into(),
                setting.name.as_str().into(),
                setting.value.clone().unwrap_or_default().into(),
                setting.origin.as_str().into(),
            ];
            if self.is_wide() {
                row.push(setting.meaning.as_str().into());
            }
            row
        };
        let rows = settings.cli.iter().map(|setting| row("cli", setting));
        let servers = settings
            .server
            .iter()
            .flatten()
            .map(|setting| row("server", setting));
        let mut headings = vec!["OF", "NAME", "VALUE", "ORIGIN"];
        if self.is_wide() {
            headings.push("MEANING");
        }
        self.table(&headings, rows.chain(servers).collect())
    }

    pub(crate) fn drift(&self, drift: &[Drift]) -> Result<()> {
        if self.document(drift)? {
            return Ok(());
        }
        if drift.is_empty() {
            self.note("there is none: everything is as the rows say");
            return Ok(());
        }
        let mut headings = vec!["ID", "KIND", "OBJECT", "FIXABLE", "SEEN FOR", "MESSAGE"];
        if self.is_wide() {
            headings.push("INSTANCE");
        }
        let rows = drift.iter().map(|drift| {
            let mut row = vec![
                drift.id.to_string().into(),
                drift.kind.as_str().into(),
                drift.object.as_str().into(),
                yes_no(drift.fixable).into(),
                span(drift.last_seen_at - drift.first_seen_at).into(),
                drift.message.as_str().into(),
            ];
            if self.is_wide() {
                row.push(
                    drift
                        .instance_id
                        .map(|id| id.to_string())
                        .unwrap_or_default()
                        .into(),
                );
            }
            row
        });
        self.table(&headings, rows.collect())
    }

    /// A line of the server's log: time, level, message, then the other fields. What is no JSON is shown as it is.
    pub(crate) fn log_line(&self, line: &str) -> Result<()> {
        if self.is_document() {
            return match serde_json::from_str::<Value>(line) {
                Ok(value) if self.is_yaml() => self.document_in_stream(&value).map(|_| ()),
                _ => self.line(line),
            };
        }
        let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
            return self.line(&clean(line));
        };
        let mut take = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let (timestamp, level, message) = (take("timestamp"), take("level"), take("message"));
        for everywhere_the_same in ["service.name", "service.version", "target"] {
            take(everywhere_the_same);
        }
        let mood = match level.as_str() {
            "ERROR" => Mood::Bad,
            "WARN" => Mood::Busy,
            _ => Mood::Plain,
        };
        let padded = self.paint(&format!("{:5}", clean(&level)), mood);
        let mut text = format!("{} {padded} {}", clean(&timestamp), clean(&message));
        for (name, value) in &fields {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&clean(&format!(" {name}={value}")));
        }
        self.line(&text)
    }
}

/// What is known of the server of this machine.
#[derive(Debug, serde::Serialize)]
pub(crate) struct ServerStatus {
    pub(crate) running: bool,
    pub(crate) ready: bool,
    pub(crate) pid: Option<i32>,
    pub(crate) url: Option<String>,
    pub(crate) home: String,
    pub(crate) log: String,
    pub(crate) probe: Option<Probe>,
    /// Why it gives no probe although it runs.
    pub(crate) error: Option<String>,
}

/// Settings in effect.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    /// The server's; none if it can't be asked.
    pub(crate) server: Option<Vec<EffectiveSetting>>,
    /// This program's.
    pub(crate) cli: Vec<EffectiveSetting>,
}

fn counts(counts: &[Count]) -> String {
    let counts: Vec<String> = counts
        .iter()
        .map(|Count { name, count }| format!("{count} {name}"))
        .collect();
    if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    }
}
