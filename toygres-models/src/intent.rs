//! What passes between the CMS and an instance's actor: who acts, and what is wanted.
//!
//! These values are kept in orchestration histories: ids and words only, never a secret.

use crate::ids::{InstanceId, OperationId};
use crate::instances::{DesiredState, InstanceState};
use crate::operations::OperationKind;
use serde::{Deserialize, Serialize};

/// Who acts on an instance. Every write of an actor carries it; one whose incarnation is not the row's is refused
/// with the error `superseded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The instance.
    pub instance_id: InstanceId,
    /// The actor's incarnation; rises when an actor is replaced.
    pub incarnation: i64,
    /// The operation being worked on, if it is one.
    pub operation_id: Option<OperationId>,
}

/// An operation that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingOperation {
    /// Which.
    pub id: OperationId,
    /// What it is for.
    pub kind: OperationKind,
}

/// What is wanted of an instance, as its row says now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Where it is in its life.
    pub state: InstanceState,
    /// What it should be.
    pub desired_state: DesiredState,
    /// The operation to work on: the deletion if deletion is wanted, else the oldest that has not ended.
    pub operation: Option<PendingOperation>,
    /// How many health checks in a row have failed.
    pub failed_checks: i32,
}
