//! Events: what happened to an instance.

use crate::errors::database;
use crate::{Cms, rows};
use sqlx::PgConnection;
use toygres_models::events::InstanceEvent;
use toygres_models::{InstanceId, OperationId, Result};

/// What happened, as a stable word. `health_changed` is written by the function `cms.record_health_check`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EventKind {
    CreateRequested,
    DeleteRequested,
    StateChanged,
    OperationCancelled,
    ActorReplaced,
    Alarm,
}

impl EventKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::CreateRequested => "create_requested",
            Self::DeleteRequested => "delete_requested",
            Self::StateChanged => "state_changed",
            Self::OperationCancelled => "operation_cancelled",
            Self::ActorReplaced => "actor_replaced",
            Self::Alarm => "alarm",
        }
    }
}

/// Writes an event. The transaction holds the instance's row, so that ids of its events rise as they are committed.
pub(crate) async fn record(
    connection: &mut PgConnection,
    kind: EventKind,
    instance_id: InstanceId,
    operation_id: Option<OperationId>,
    message: &str,
) -> Result<()> {
    sqlx::query(
        "insert into cms.instance_events (instance_id, operation_id, kind, message) values ($1, $2, $3, $4)",
    )
    .bind(instance_id.0)
    .bind(operation_id.map(|id| id.0))
    .bind(kind.as_str())
    .bind(message)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}

impl Cms {
    /// The first `limit` events after the one with the id `after` (from the beginning if absent), oldest first: of
    /// one instance, or of all.
    ///
    /// Whoever follows one instance by the last id seen misses nothing. Over all instances, two that are committed in
    /// the same instant may become visible in the other order; a follower can miss one then.
    ///
    /// # Errors
    /// See the crate.
    pub async fn list_events(
        &self,
        instance_id: Option<InstanceId>,
        limit: u32,
        after: Option<i64>,
    ) -> Result<Vec<InstanceEvent>> {
        let mut query = sqlx::QueryBuilder::new(
            "select e.id, e.instance_id, i.name as instance_name, e.operation_id, e.kind, e.message, e.created_at \
             from cms.instance_events e join cms.instances i on i.id = e.instance_id where e.id > ",
        );
        query.push_bind(after.unwrap_or(0));
        if let Some(id) = instance_id {
            query.push(" and e.instance_id = ").push_bind(id.0);
        }
        query.push(" order by e.id limit ").push_bind(i64::from(limit));
        query
            .build()
            .try_map(|row| rows::event(&row))
            .fetch_all(&self.pool)
            .await
            .map_err(database)
    }
}
