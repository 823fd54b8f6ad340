//! Events: what happened to an instance, newest last.

use crate::ids::{InstanceId, OperationId};
use crate::names::{InstanceName, OwnerName};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing that happened to an instance.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceEvent {
    /// Rises with every event of the whole deployment.
    pub id: i64,
    /// The instance it happened to.
    pub instance_id: InstanceId,
    /// The instance's name.
    pub instance_name: InstanceName,
    /// The instance's owner.
    pub user_name: OwnerName,
    /// The operation it belongs to, if it does.
    pub operation_id: Option<OperationId>,
    /// A stable word, such as `state_changed`.
    pub kind: String,
    /// A sentence for people.
    pub message: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}
