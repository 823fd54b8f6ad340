//! Operations: pieces of work that somebody asked for, with their steps.

use crate::ids::{InstanceId, OperationId};
use crate::names::InstanceName;
use crate::words::words;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

words! {
    /// What was asked for.
    OperationKind {
        /// Make an instance.
        Create = "create",
        /// Remove an instance and all its data.
        Delete = "delete",
    }
}

words! {
    /// Where an operation is.
    OperationState {
        /// Written down, not begun.
        Pending = "pending",
        /// Being worked on.
        Running = "running",
        /// Done.
        Succeeded = "succeeded",
        /// Ended without success; what it had made is gone.
        Failed = "failed",
        /// Ended because something newer was asked for.
        Cancelled = "cancelled",
    }
}

impl OperationState {
    /// Whether nothing will happen to the operation any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

words! {
    /// Where a step is.
    StepState {
        /// Being worked on, or waiting for the reason it names.
        Running = "running",
        /// Done.
        Succeeded = "succeeded",
        /// Ended without success.
        Failed = "failed",
    }
}

words! {
    /// Why something is not ready yet, or can't be done: a named reason that people and programs can act on.
    Reason {
        /// It is on its way.
        Starting = "starting",
        /// It waits for its turn: others are being started.
        Queued = "queued",
        /// The image can't be fetched.
        ImagePull = "image_pull",
        /// No node has room for it.
        Unschedulable = "unschedulable",
        /// Its volume is not there yet.
        VolumePending = "volume_pending",
        /// It starts and dies again.
        CrashLoop = "crash_loop",
        /// A quota is used up.
        Quota = "quota",
        /// The Kubernetes namespace does not exist.
        NamespaceMissing = "namespace_missing",
        /// The Kubernetes namespace is being deleted.
        NamespaceTerminating = "namespace_terminating",
        /// The Kubernetes secret that its server needs is not there.
        SecretMissing = "secret_missing",
        /// Its node put it out, for want of memory or disk.
        Evicted = "evicted",
        /// Its node does not answer.
        NodeLost = "node_lost",
        /// An object of it is to go, but a finalizer holds it.
        Finalizer = "finalizer",
        /// No room on the file system.
        DiskFull = "disk_full",
        /// Another program listens on its port.
        PortTaken = "port_taken",
        /// The PostgreSQL programs are not installed.
        BinariesMissing = "binaries_missing",
        /// The PostgreSQL version is not installed.
        VersionUnavailable = "version_unavailable",
        /// The data that must be there is not.
        StorageMissing = "storage_missing",
        /// The data belongs to another instance.
        StorageForeign = "storage_foreign",
        /// A file or directory can't be read or written by the user it needs.
        PermissionDenied = "permission_denied",
        /// It is there, but not running.
        Stopped = "stopped",
        /// It runs on another machine, which has to do the work.
        OtherHost = "other_host",
        /// The platform does not answer.
        PlatformUnavailable = "platform_unavailable",
        /// It does not answer a connection.
        NotAccepting = "not_accepting",
    }
}

/// The error an operation ended with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationError {
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// One step of an operation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// The step's name, the same as its activity's (`deploy-postgres`).
    pub name: String,
    /// Where it is.
    pub state: StepState,
    /// How often it was begun.
    pub attempts: i32,
    /// Why it is not done, if it waits for something.
    pub reason: Option<Reason>,
    /// The reason as a sentence.
    pub message: Option<String>,
    /// When it was first begun.
    pub started_at: DateTime<Utc>,
    /// When it ended, if it has.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A piece of work that somebody asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its identity; sorts by the time it was requested.
    pub id: OperationId,
    /// What was asked for.
    pub kind: OperationKind,
    /// Where it is.
    pub state: OperationState,
    /// The instance it is about.
    pub instance_id: InstanceId,
    /// The instance's name.
    pub instance_name: InstanceName,
    /// Its steps so far, in the order they were begun.
    pub steps: Vec<Step>,
    /// What it ended with, if it failed; until then, why what it has to remove can't be.
    pub error: Option<OperationError>,
    /// When it was asked for.
    pub requested_at: DateTime<Utc>,
    /// When work on it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}
