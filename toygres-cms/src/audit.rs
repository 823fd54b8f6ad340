//! The audit: who asked for what, written in the transaction that does it.

use crate::errors::database;
use sqlx::PgConnection;
use toygres_models::{InstanceId, OperationId, Result};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who, such as `anonymous@loopback` or a token's name. The same for every request of one caller, since
    /// idempotency keys belong to it; never a secret.
    pub actor: String,
    /// The trace of the request, if it has one.
    pub trace_id: Option<String>,
}

pub(crate) async fn audit(
    connection: &mut PgConnection,
    origin: &Origin,
    action: &str,
    instance_id: InstanceId,
    operation_id: Option<OperationId>,
) -> Result<()> {
    sqlx::query(
        "insert into cms.audit_events (actor, action, instance_id, operation_id, trace_id) values ($1, $2, $3, $4, $5)",
    )
    .bind(&origin.actor)
    .bind(action)
    .bind(instance_id.0)
    .bind(operation_id.map(|id| id.0))
    .bind(&origin.trace_id)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}
