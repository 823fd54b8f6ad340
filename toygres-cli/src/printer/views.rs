//! How each kind of answer looks.

use super::table::Cell;
use super::{Mood, Printer, clean};
use crate::failure::Result;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::Value;
use toygres_models::events::InstanceEvent;
use toygres_models::health::{HealthCheck, HealthStatus};
use toygres_models::instances::{Connection, Instance, InstanceAccepted, InstanceState};
use toygres_models::operations::{Operation, OperationState, StepState};
use toygres_models::server::Probe;

impl Printer {
    pub(crate) fn instances(&self, instances: &[Instance], wide: bool) -> Result<()> {
        if self.is_json() {
            return self.json(&instances);
        }
        if instances.is_empty() {
            self.note("there are none; make one with: toygres create NAME --wait");
            return Ok(());
        }
        let mut headings = vec!["NAME", "STATE", "HEALTH", "VERSION", "ENDPOINT", "AGE"];
        if wide {
            headings.extend(["OWNER", "STORAGE", "PROTECTED", "ID", "TAGS", "REASON"]);
        }
        let rows = instances.iter().map(|instance| {
            let mut row = vec![
                instance.name.as_str().into(),
                state(instance.state),
                health(instance.health_status),
                instance.postgres_version.to_string().into(),
                endpoint(instance).into(),
                span(Utc::now() - instance.created_at).into(),
            ];
            if wide {
                row.extend([
                    instance.user_name.as_str().into(),
                    format!("{}GiB", instance.storage_size_gb).into(),
                    yes_no(instance.deletion_protection).into(),
                    instance.id.to_string().into(),
                    tags(instance).into(),
                    instance.state_reason.clone().unwrap_or_default().into(),
                ]);
            }
            row
        });
        self.table(&headings, rows.collect())
    }

    pub(crate) fn instance(&self, instance: &Instance) -> Result<()> {
        if self.is_json() {
            return self.json(instance);
        }
        self.fields(vec![
            ("name", Some(instance.name.as_str().into())),
            ("id", Some(instance.id.to_string().into())),
            ("owner", Some(instance.user_name.as_str().into())),
            ("state", Some(state(instance.state))),
            ("reason", instance.state_reason.clone().map(Into::into)),
            ("health", Some(health(instance.health_status))),
            ("version", Some(instance.postgres_version.to_string().into())),
            ("endpoint", Some(endpoint(instance).into())),
            (
                "storage",
                Some(format!("{} GiB", instance.storage_size_gb).into()),
            ),
            ("cpu", instance.cpu.clone().map(Into::into)),
            ("memory", instance.memory_mb.map(|mb| format!("{mb} MiB").into())),
            ("internal", Some(yes_no(instance.internal).into())),
            ("namespace", instance.namespace.clone().map(Into::into)),
            ("tags", Some(tags(instance).into())),
            (
                "deletion protection",
                Some(yes_no(instance.deletion_protection).into()),
            ),
            ("created", Some(time(instance.created_at).into())),
            ("updated", Some(time(instance.updated_at).into())),
            ("deleted", instance.deleted_at.map(|at| time(at).into())),
        ])
    }

    /// How to connect. `name` is what the instance is called here.
    pub(crate) fn connection(&self, name: &str, connection: &Connection) -> Result<()> {
        if self.is_json() {
            return self.json(connection);
        }
        self.fields(vec![
            (
                "connection string",
                Some(connection.connection_string.as_str().into()),
            ),
            ("psql", Some(connection.psql.as_str().into())),
            ("password", connection.password.as_deref().map(Into::into)),
            ("session", Some(format!("toygres psql {name}").into())),
        ])
    }

    /// What was asked for, when nobody waits for it.
    pub(crate) fn operation_begun(&self, accepted: &InstanceAccepted) -> Result<()> {
        self.fields(vec![
            ("name", Some(accepted.instance.name.as_str().into())),
            ("state", Some(state(accepted.instance.state))),
            ("operation", Some(accepted.operation.id.to_string().into())),
        ])
    }

    /// A password that the server made: the one time it is shown.
    pub(crate) fn new_password(&self, name: &str, password: &str) -> Result<()> {
        self.fields(vec![("password", Some(password.into()))])?;
        self.note(&format!("the password was made for {name} and is shown this once; later: toygres connect {name} --show-password"));
        Ok(())
    }

    pub(crate) fn events(&self, events: &[InstanceEvent]) -> Result<()> {
        if self.is_json() {
            return self.json(&events);
        }
        let rows = events.iter().map(|event| {
            vec![
                time(event.created_at).into(),
                event.kind.as_str().into(),
                event.message.as_str().into(),
            ]
        });
        self.table(&["TIME", "KIND", "MESSAGE"], rows.collect())
    }

    pub(crate) fn health_checks(&self, checks: &[HealthCheck]) -> Result<()> {
        if self.is_json() {
            return self.json(&checks);
        }
        let rows = checks.iter().map(|check| {
            let (word, mood) = if check.healthy {
                ("healthy", Mood::Good)
            } else {
                ("failed", Mood::Bad)
            };
            let found = match (&check.error_code, &check.error_message) {
                (Some(code), Some(message)) => format!("{code}: {message}"),
                (Some(word), None) | (None, Some(word)) => word.clone(),
                (None, None) => String::new(),
            };
            vec![
                time(check.checked_at).into(),
                Cell::new(word, mood),
                check
                    .response_time_ms
                    .map(|ms| format!("{ms:.1}ms"))
                    .unwrap_or_default()
                    .into(),
                check.server_version.clone().unwrap_or_default().into(),
                found.into(),
            ]
        });
        self.table(
            &["TIME", "RESULT", "RESPONSE", "VERSION", "ERROR"],
            rows.collect(),
        )
    }

    pub(crate) fn operations(&self, operations: &[Operation]) -> Result<()> {
        if self.is_json() {
            return self.json(&operations);
        }
        let rows = operations.iter().map(|operation| {
            let step = operation
                .steps
                .iter()
                .rev()
                .find(|step| step.state != StepState::Succeeded);
            vec![
                operation.id.to_string().into(),
                operation.kind.as_str().into(),
                operation.instance_name.as_str().into(),
                operation_state(operation.state),
                step.map(|step| step.name.clone()).unwrap_or_default().into(),
                span(Utc::now() - operation.requested_at).into(),
            ]
        });
        self.table(
            &["ID", "KIND", "INSTANCE", "STATE", "STEP", "AGE"],
            rows.collect(),
        )
    }

    pub(crate) fn operation(&self, operation: &Operation) -> Result<()> {
        if self.is_json() {
            return self.json(operation);
        }
        self.fields(vec![
            ("id", Some(operation.id.to_string().into())),
            ("kind", Some(operation.kind.as_str().into())),
            ("instance", Some(operation.instance_name.as_str().into())),
            ("state", Some(operation_state(operation.state))),
            (
                "error",
                operation
                    .error
                    .as_ref()
                    .map(|e| Cell::new(format!("{}: {}", e.code, e.message), Mood::Bad)),
            ),
            ("requested", Some(time(operation.requested_at).into())),
            ("started", operation.started_at.map(|at| time(at).into())),
            ("finished", operation.finished_at.map(|at| time(at).into())),
        ])?;
        self.line("")?;
        let rows = operation.steps.iter().map(|step| {
            let took = step.finished_at.unwrap_or_else(Utc::now) - step.started_at;
            let mood = match step.state {
                StepState::Running => Mood::Busy,
                StepState::Succeeded => Mood::Good,
                StepState::Failed => Mood::Bad,
            };
            vec![
                step.name.as_str().into(),
                Cell::new(step.state, mood),
                step.attempts.to_string().into(),
                format!("{:.1}s", took.as_seconds_f64().max(0.0)).into(),
                step.reason
                    .map(|reason| reason.as_str())
                    .unwrap_or_default()
                    .into(),
                step.message.clone().unwrap_or_default().into(),
            ]
        });
        self.table(
            &["STEP", "STATE", "ATTEMPTS", "TOOK", "REASON", "MESSAGE"],
            rows.collect(),
        )
    }

    /// The server of this machine.
    pub(crate) fn server(&self, status: &ServerStatus) -> Result<()> {
        if self.is_json() {
            return self.json(status);
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

    /// A line of the server's log: time, level, message, then the other fields. What is no JSON is shown as it is.
    pub(crate) fn log_line(&self, line: &str) -> Result<()> {
        if self.is_json() {
            return self.line(line);
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
}

fn state(state: InstanceState) -> Cell {
    let mood = match state {
        InstanceState::Running => Mood::Good,
        InstanceState::Creating | InstanceState::Updating | InstanceState::Deleting => Mood::Busy,
        InstanceState::Degraded | InstanceState::Failed => Mood::Bad,
        InstanceState::Deleted => Mood::Plain,
    };
    Cell::new(state, mood)
}

fn health(health: HealthStatus) -> Cell {
    let mood = match health {
        HealthStatus::Unknown => Mood::Plain,
        HealthStatus::Healthy => Mood::Good,
        HealthStatus::Unhealthy => Mood::Bad,
    };
    Cell::new(health, mood)
}

fn operation_state(state: OperationState) -> Cell {
    let mood = match state {
        OperationState::Pending | OperationState::Running => Mood::Busy,
        OperationState::Succeeded => Mood::Good,
        OperationState::Failed => Mood::Bad,
        OperationState::Cancelled => Mood::Plain,
    };
    Cell::new(state, mood)
}

fn endpoint(instance: &Instance) -> String {
    instance
        .endpoint
        .as_ref()
        .map(|e| format!("{}:{}", e.host, e.port))
        .unwrap_or_default()
}

fn tags(instance: &Instance) -> String {
    instance
        .tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A span of time by its largest unit.
fn span(span: TimeDelta) -> String {
    match span.num_seconds().max(0) {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7_200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}
