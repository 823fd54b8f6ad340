//! What the server says about itself.

use crate::ids::InstanceId;
use crate::orchestrations::EngineStats;
use crate::words::words;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer of `/health`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServerHealth {
    /// `healthy` or `unhealthy`.
    pub status: String,
    /// The program's version.
    pub version: String,
}

/// One thing that was looked at for `/livez` or `/readyz`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it is good.
    pub ok: bool,
    /// What was found.
    pub message: String,
}

/// The answer of `/livez` and `/readyz`: status 200 if `ok`, else 503.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// Whether all checks are good.
    pub ok: bool,
    /// Each thing that was looked at.
    pub checks: Vec<Check>,
}

/// How many there are of each.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Count {
    /// The word.
    pub name: String,
    /// How many.
    pub count: i64,
}

/// The answer of `GET /api/server/stats`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServerStats {
    /// The program's version.
    pub version: String,
    /// How long this process has been running, in seconds.
    pub uptime_seconds: f64,
    /// Resident memory of this process, in bytes.
    pub resident_memory_bytes: u64,
    /// Instances by state; deleted ones left out.
    pub instances_by_state: Vec<Count>,
    /// Instances by health; deleted ones left out.
    pub instances_by_health: Vec<Count>,
    /// Operations by state.
    pub operations_by_state: Vec<Count>,
    /// The engine's work.
    pub engine: EngineStats,
    /// Connections to the control database that this process has open.
    pub database_connections: u32,
    /// Those of them that do nothing.
    pub database_connections_idle: u32,
    /// Streams of events and logs that are open in this process.
    pub open_streams: u64,
}

/// A process of the control plane.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// New with each start.
    pub id: uuid::Uuid,
    /// The machine.
    pub host: String,
    /// The process id there.
    pub pid: i32,
    /// The program's version.
    pub version: String,
    /// `api`, `worker` or `all`.
    pub mode: String,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// When it last said that it lives: every 10 seconds.
    pub last_seen_at: DateTime<Utc>,
    /// Orchestrations it can work on at once; none in mode `api`.
    pub orchestration_slots: i32,
    /// Activities it can run at once.
    pub activity_slots: i32,
    /// Activities it ran when it last said so.
    pub activities_running: i32,
}

words! {
    /// Where a setting's value comes from.
    SettingOrigin {
        /// Nothing was said.
        Default = "default",
        /// A variable of the environment.
        Environment = "environment",
        /// The command line.
        Flag = "flag",
        /// The configuration file of the command line program.
        File = "file",
    }
}

/// One setting as it is in effect.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EffectiveSetting {
    /// Its name.
    pub name: String,
    /// Its value; `[redacted]` if it is a secret, absent if nothing is set and there is no default.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: SettingOrigin,
    /// What it means.
    pub meaning: String,
}

/// A difference between what is there and what the rows say, not resolved yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// Its identity.
    pub id: i64,
    /// What sort of difference, as a stable word.
    pub kind: String,
    /// What it is about, as the platform names it.
    pub object: String,
    /// The machine it was found on, where only that one can see it.
    pub host: Option<String>,
    /// The instance it names, which may have no row.
    pub instance_id: Option<InstanceId>,
    /// A sentence for people.
    pub message: String,
    /// Whether `POST /api/server/drift/{id}/fix` can put it right.
    pub fixable: bool,
    /// What to do about it, a sentence for people.
    pub remedy: String,
    /// When it was first seen.
    pub first_seen_at: DateTime<Utc>,
    /// When it was last seen.
    pub last_seen_at: DateTime<Utc>,
}
