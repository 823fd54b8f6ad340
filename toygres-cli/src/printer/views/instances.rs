//! Databases, and what happens to them.

use super::operations::operation_state;
use super::{span, time, yes_no};
use crate::failure::Result;
use crate::printer::table::Cell;
use crate::printer::{Mood, Printer, clean};
use chrono::Utc;
use serde::Serialize;
use toygres_models::events::InstanceEvent;
use toygres_models::health::{HealthCheck, HealthStatus};
use toygres_models::instances::{
    BulkResult, CA_FILE, Connection, Endpoint, Instance, InstanceAccepted, InstanceState,
};
use toygres_models::operations::Operation;

impl Printer {
    pub(crate) fn instances(&self, instances: &[Instance]) -> Result<()> {
        if self.document(instances)? {
            return Ok(());
        }
        if instances.is_empty() {
            self.note("there are none; make one with: toygres create NAME --wait");
            return Ok(());
        }
        let mut headings = vec!["NAME", "STATE", "HEALTH", "VERSION", "ENDPOINT", "AGE"];
        let any_outside = instances
            .iter()
            .any(|instance| instance.external_endpoint.is_some());
        let with_outside = self.is_wide() && any_outside;
        if with_outside {
            headings.push("EXTERNAL");
        }
        if self.is_wide() {
            headings.extend(["OWNER", "STORAGE", "PROTECTED", "ID", "TAGS", "REASON"]);
        }
        let rows = instances.iter().map(|instance| {
            let mut row = vec![
                instance.name.as_str().into(),
                state(instance.state),
                health(instance.health_status),
                instance.postgres_version.to_string().into(),
                endpoint(instance.endpoint.as_ref()).into(),
                span(Utc::now() - instance.created_at).into(),
            ];
            if with_outside {
                row.push(endpoint(instance.external_endpoint.as_ref()).into());
            }
            if self.is_wide() {
                row.extend([
                    instance.user_name.as_str().into(),
                    format!("{}GiB", instance.storage_size_gb).into(),
                    yes_no(instance.deletion_protection).into(),
                    instance.id.to_string().into(),
                    tags(instance).into(),
                    reason(instance).unwrap_or_default().into(),
                ]);
            }
            row
        });
        self.table(&headings, rows.collect())
    }

    pub(crate) fn instance(&self, instance: &Instance) -> Result<()> {
        if self.document(instance)? {
            return Ok(());
        }
        self.fields(vec![
            ("name", Some(instance.name.as_str().into())),
            ("id", Some(instance.id.to_string().into())),
            ("owner", Some(instance.user_name.as_str().into())),
            ("state", Some(state(instance.state))),
            ("reason", reason(instance).map(Into::into)),
            ("health", Some(health(instance.health_status))),
            ("version", Some(instance.postgres_version.to_string().into())),
            ("endpoint", Some(endpoint(instance.endpoint.as_ref()).into())),
            (
                "external endpoint",
                instance
                    .external_endpoint
                    .as_ref()
                    .map(|outside| endpoint(Some(outside)).into()),
            ),
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

    /// A database, and its last checks if they were asked for.
    pub(crate) fn checked(&self, checked: &Checked) -> Result<()> {
        if self.document(checked)? {
            return Ok(());
        }
        self.instance(&checked.instance)?;
        match &checked.health_checks {
            Some(checks) => {
                self.line("\nlast health checks")?;
                self.health_checks(checks)
            }
            None => Ok(()),
        }
    }

    /// How to connect. `name` is what the instance is called here.
    pub(crate) fn connection(&self, name: &str, connection: &Connection) -> Result<()> {
        if self.document(connection)? {
            return Ok(());
        }
        self.fields(vec![
            (
                "connection string",
                Some(connection.connection_string.as_str().into()),
            ),
            (
                "inside the cluster",
                connection.internal_connection_string.as_deref().map(Into::into),
            ),
            ("psql", Some(connection.psql.as_str().into())),
            (
                "sslrootcert",
                connection
                    .sslmode
                    .as_ref()
                    .map(|_| format!("toygres ca >{CA_FILE}").into()),
            ),
            ("password", connection.password.as_deref().map(Into::into)),
            ("session", Some(format!("toygres psql {name}").into())),
        ])
    }

    /// What the certificates of databases are checked by.
    pub(crate) fn certificate(&self, pem: &str) -> Result<()> {
        if self.document(pem)? {
            return Ok(());
        }
        pem.lines().try_for_each(|line| self.line(&clean(line)))
    }

    /// What was asked for, when nobody waits for it.
    pub(crate) fn operation_begun(&self, accepted: &InstanceAccepted) -> Result<()> {
        if self.document(accepted)? {
            return Ok(());
        }
        self.fields(vec![
            ("name", Some(accepted.instance.name.as_str().into())),
            ("state", Some(state(accepted.instance.state))),
            ("operation", Some(accepted.operation.id.to_string().into())),
        ])?;
        self.note(&format!(
            "follow it: toygres operations {}",
            accepted.operation.id
        ));
        Ok(())
    }

    /// A password that the server made: the one time it is shown.
    pub(crate) fn new_password(&self, name: &str, password: &str) -> Result<()> {
        self.fields(vec![("password", Some(password.into()))])?;
        self.note(&format!("the password was made for {name} and is shown this once; later: toygres connect {name} --show-password"));
        Ok(())
    }

    pub(crate) fn events(&self, events: &[InstanceEvent]) -> Result<()> {
        if self.document(events)? {
            return Ok(());
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

    /// One event of a stream.
    pub(crate) fn event(&self, event: &InstanceEvent) -> Result<()> {
        if self.document_in_stream(event)? {
            return Ok(());
        }
        let text = format!(
            "{} {} {}: {}",
            time(event.created_at),
            event.instance_name,
            event.kind,
            event.message
        );
        self.line(&clean(&text))
    }

    /// A line of a database's own log.
    pub(crate) fn instance_log_line(&self, line: &str) -> Result<()> {
        if self.document_in_stream(line)? {
            return Ok(());
        }
        self.line(&clean(line))
    }

    /// What came of each item of a bulk request.
    pub(crate) fn bulk(&self, results: &[BulkResult]) -> Result<()> {
        if self.document(results)? {
            return Ok(());
        }
        let with_passwords = results.iter().any(|result| password(result).is_some());
        let mut headings = vec!["NAME", "RESULT", "OPERATION"];
        if with_passwords {
            headings.push("PASSWORD");
        }
        headings.push("MESSAGE");
        let rows = results.iter().map(|result| {
            let mut row = vec![Cell::from(result.name.as_str())];
            match &result.accepted {
                Some(accepted) => row.extend([
                    operation_state(accepted.operation.state),
                    accepted.operation.id.to_string().into(),
                ]),
                None => row.extend([Cell::new("refused", Mood::Bad), "".into()]),
            }
            if with_passwords {
                row.push(password(result).unwrap_or_default().into());
            }
            let failed = result
                .accepted
                .as_ref()
                .and_then(|accepted| accepted.operation.error.as_ref());
            let message = match (&result.problem, failed) {
                (Some(problem), _) => format!("{} [{}]", problem.detail, problem.code),
                (None, Some(error)) => format!("{} [{}]", error.message, error.code),
                (None, None) => String::new(),
            };
            row.push(message.into());
            row
        });
        self.table(&headings, rows.collect())
    }

    /// A database on one screen.
    pub(crate) fn overview(&self, overview: &Overview) -> Result<()> {
        if self.document(overview)? {
            return Ok(());
        }
        self.instance(&overview.instance)?;
        if !overview.health.is_empty() {
            self.line("\nlast health checks")?;
            self.health_checks(&overview.health)?;
        }
        if let Some(operation) = &overview.operation {
            self.line("\nlast operation")?;
            self.operation(operation)?;
        }
        if !overview.events.is_empty() {
            self.line("\nlast events")?;
            self.events(&overview.events)?;
        }
        Ok(())
    }

    /// What a login from this machine came to.
    pub(crate) fn tested(&self, tested: &Tested) -> Result<()> {
        if self.document(tested)? {
            return Ok(());
        }
        let (word, mood) = match tested.ok {
            true => ("works", Mood::Good),
            false => ("does not work", Mood::Bad),
        };
        self.fields(vec![
            (tested.method, Some(Cell::new(word, mood))),
            ("endpoint", Some(tested.endpoint.as_str().into())),
            (
                "time to answer",
                Some(format!("{:.1} ms", tested.response_time_ms).into()),
            ),
            ("server version", tested.server_version.clone().map(Into::into)),
            (
                "error",
                tested.error.clone().map(|error| Cell::new(error, Mood::Bad)),
            ),
        ])
    }

    pub(crate) fn health_checks(&self, checks: &[HealthCheck]) -> Result<()> {
        if self.document(checks)? {
            return Ok(());
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
}

fn password(result: &BulkResult) -> Option<&str> {
    result.accepted.as_ref()?.password.as_deref()
}

/// A database, and its last checks if they were asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    #[serde(flatten)]
    pub(crate) instance: Instance,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_checks: Option<Vec<HealthCheck>>,
}

/// A database on one screen.
#[derive(Debug, Serialize)]
pub(crate) struct Overview {
    pub(crate) instance: Instance,
    /// The last checks, newest first.
    pub(crate) health: Vec<HealthCheck>,
    /// The last operation.
    pub(crate) operation: Option<Operation>,
    /// The last events, oldest first.
    pub(crate) events: Vec<InstanceEvent>,
}

/// What a login from this machine came to.
#[derive(Debug, Serialize)]
pub(crate) struct Tested {
    pub(crate) ok: bool,
    /// `query`, or only `connection`.
    pub(crate) method: &'static str,
    pub(crate) endpoint: String,
    pub(crate) response_time_ms: f64,
    pub(crate) server_version: Option<String>,
    pub(crate) error: Option<String>,
}

/// The word for programs, and the sentence.
fn reason(instance: &Instance) -> Option<String> {
    match (&instance.state_reason_code, &instance.state_reason) {
        (Some(code), Some(sentence)) => Some(format!("{code}: {sentence}")),
        (code, sentence) => code.clone().or_else(|| sentence.clone()),
    }
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

fn endpoint(endpoint: Option<&Endpoint>) -> String {
    endpoint
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
