//! Orchestrations: the durable workflows behind operations and actors, as operators see them.

use crate::error::ErrorKind;
use crate::ids::InstanceId;
use crate::words::words;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

words! {
    /// How an orchestration, or one execution of it, is.
    OrchestrationStatus {
        /// It goes on, or waits to be taken up.
        Running = "running",
        /// It ended with an output.
        Completed = "completed",
        /// It ended with a failure, or was cancelled.
        Failed = "failed",
        /// This execution ended and the next one went on.
        ContinuedAsNew = "continued_as_new",
    }
}

/// Why an orchestration, or something it called, failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrchestrationError {
    /// What sort of failure.
    #[schema(value_type = String, example = "unavailable")]
    pub kind: ErrorKind,
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Whether it was worth trying again.
    pub retryable: bool,
}

/// An orchestration.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Orchestration {
    /// Its id.
    pub id: String,
    /// What it does, such as `instance-actor`.
    pub name: String,
    /// The version of its behaviour.
    pub version: String,
    /// How it is.
    pub status: OrchestrationStatus,
    /// The orchestration that began it, if one did.
    pub parent_id: Option<String>,
    /// The instance it is about, if its id or that of its parent says so.
    pub instance_id: Option<InstanceId>,
    /// The execution that goes on, or was the last: 1, and one more each time it continues as new.
    pub execution_id: i64,
    /// When it was first begun.
    pub created_at: DateTime<Utc>,
    /// When it last got something done.
    pub updated_at: DateTime<Utc>,
    /// What it failed with, if it did.
    pub error: Option<OrchestrationError>,
}

/// One execution of an orchestration: from its begin, or from when it continued as new.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Execution {
    /// Its number, from 1.
    pub execution_id: i64,
    /// How it is.
    pub status: OrchestrationStatus,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended, if it has.
    pub finished_at: Option<DateTime<Utc>>,
    /// How many events its history has.
    pub events: i64,
}

/// An orchestration and those that it began, and so on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OrchestrationNode {
    /// Its id.
    pub id: String,
    /// What it does.
    pub name: String,
    /// How it is.
    pub status: OrchestrationStatus,
    /// Those that it began, oldest first.
    #[schema(no_recursion)]
    pub children: Vec<OrchestrationNode>,
}

/// The answer of `GET /api/server/orchestrations/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OrchestrationDetails {
    /// The orchestration.
    pub orchestration: Orchestration,
    /// Its executions that are kept, newest first.
    pub executions: Vec<Execution>,
    /// It and those that it began.
    pub tree: OrchestrationNode,
}

/// One event of an execution's history. Holds ids and words, never a secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HistoryEvent {
    /// Its place in the execution, from 1.
    pub event_id: i64,
    /// What happened, such as `activity_completed`.
    pub kind: String,
    /// The activity, orchestration or queue it is about, in short.
    pub name: Option<String>,
    /// The event that this one answers.
    pub source_event_id: Option<i64>,
    /// When.
    pub at: DateTime<Utc>,
    /// What was given, if it is small.
    pub input: Option<serde_json::Value>,
    /// What was answered, if it is small.
    pub output: Option<serde_json::Value>,
    /// What it failed with.
    pub error: Option<OrchestrationError>,
    /// The orchestration that was begun.
    pub child_id: Option<String>,
    /// When the timer is over.
    pub fire_at: Option<DateTime<Utc>>,
}

/// The body of `POST /api/server/orchestrations/{id}/cancel`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// Why, for the history.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub reason: Option<String>,
}

/// The body of `POST /api/server/orchestrations/{id}/raise-event`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RaiseEventRequest {
    /// The event. Orchestrations of toygres listen to `wake` alone: look at the row now.
    #[schema(pattern = "^wake$", example = "wake")]
    pub name: String,
}

/// How an orchestration goes, made from the lists of steps that its code runs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// The orchestration's name.
    pub name: String,
    /// The version of its behaviour.
    pub version: String,
    /// What it is for.
    pub summary: String,
    /// A Mermaid flowchart.
    pub mermaid: String,
}

/// What the engine has to do.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct EngineStats {
    /// Orchestrations that go on.
    pub running: i64,
    /// Orchestrations that ended with an output.
    pub completed: i64,
    /// Orchestrations that failed or were cancelled.
    pub failed: i64,
    /// Messages to orchestrations that could be taken up now.
    pub orchestrator_queue: i64,
    /// Activities that could be taken up now, or are being run.
    pub worker_queue: i64,
    /// Timers that are not over.
    pub timers: i64,
    /// How long the oldest message or activity has waited to be taken up, in seconds.
    pub oldest_wait_seconds: f64,
    /// Rows of history.
    pub history_rows: i64,
}
