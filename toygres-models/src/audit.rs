//! The audit: who changed what.

use crate::ids::{InstanceId, OperationId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One change that somebody asked for, or one password that somebody saw.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// Rises with every change.
    pub id: i64,
    /// Who: `loopback`, `bootstrap`, or `token:` and the token's name.
    pub actor: String,
    /// What was done, as a stable word such as `create_instance`.
    pub action: String,
    /// The instance it was done to, if it was one.
    pub instance_id: Option<InstanceId>,
    /// The operation that it began, if it did.
    pub operation_id: Option<OperationId>,
    /// What else it was done to: a token's name, an owner, an orchestration.
    pub object: Option<String>,
    /// The request's trace id.
    pub trace_id: Option<String>,
    /// When.
    pub created_at: DateTime<Utc>,
}
