//! Events: what happened to an instance.

use crate::errors::database;
use crate::{Cms, rows};
use sqlx::PgConnection;
use toygres_models::events::InstanceEvent;
use toygres_models::{InstanceId, OperationId, OwnerName, Result};

/// Which events to list.
#[derive(Debug, Clone)]
pub struct EventFilter {
    /// Of this instance.
    pub instance_id: Option<InstanceId>,
    /// Of this owner's instances.
    pub user_name: Option<OwnerName>,
    /// Those after this one: the last one seen. The newest there are if absent.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

/// What happened, as a stable word. `health_changed` is written by the function `cms.record_health_check`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EventKind {
    CreateRequested,
    DeleteRequested,
    RetryRequested,
    Updated,
    StateChanged,
    OperationCancelled,
    ActorReplaced,
    Alarm,
    Repaired,
}

impl EventKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::CreateRequested => "create_requested",
            Self::DeleteRequested => "delete_requested",
            Self::RetryRequested => "retry_requested",
            Self::Updated => "updated",
            Self::StateChanged => "state_changed",
            Self::OperationCancelled => "operation_cancelled",
            Self::ActorReplaced => "actor_replaced",
            Self::Alarm => "alarm",
            Self::Repaired => "repaired",
        }
    }
}

/// Writes an event. The transaction holds the instance's row, and from here on the order of events: little should
/// follow.
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
    /// The first events after `after`, or the newest ones, oldest first either way. Whoever follows them by the last
    /// id seen misses none: events become visible in the order of their ids.
    ///
    /// # Errors
    /// See the crate.
    pub async fn list_events(&self, filter: &EventFilter) -> Result<Vec<InstanceEvent>> {
        let mut query = sqlx::QueryBuilder::new(
            "select e.id, e.instance_id, i.name as instance_name, i.user_name, e.operation_id, e.kind, e.message, \
             e.created_at from cms.instance_events e join cms.instances i on i.id = e.instance_id where true",
        );
        if let Some(id) = filter.instance_id {
            query.push(" and e.instance_id = ").push_bind(id.0);
        }
        if let Some(owner) = &filter.user_name {
            query.push(" and i.user_name = ").push_bind(owner.as_str());
        }
        match filter.after {
            Some(after) => query.push(" and e.id > ").push_bind(after).push(" order by e.id"),
            None => query.push(" order by e.id desc"),
        };
        query.push(rows::limit_clause(filter.limit));
        let mut events = query
            .build()
            .try_map(|row| rows::event(&row))
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(database)?;
        if filter.after.is_none() {
            events.reverse();
        }
        Ok(events)
    }

    /// The id of the newest event; 0 if there is none.
    ///
    /// # Errors
    /// See the crate.
    pub async fn latest_event_id(&self) -> Result<i64> {
        sqlx::query_scalar("select coalesce(max(id), 0) from cms.instance_events")
            .fetch_one(&self.pool)
            .await
            .map_err(database)
    }
}
