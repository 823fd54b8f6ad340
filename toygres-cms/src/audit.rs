//! The audit: who asked for what, written in the transaction that does it.

use crate::errors::database;
use crate::{Cms, rows};
use sqlx::{PgConnection, QueryBuilder};
use toygres_models::audit::AuditEvent;
use toygres_models::{InstanceId, OperationId, OwnerName, Result};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who, such as `anonymous@loopback` or a token's name. The same for every request of one caller, since
    /// idempotency keys belong to it; never a secret.
    pub actor: String,
    /// Where the request stands in its trace, as W3C `traceparent`.
    pub traceparent: Option<String>,
    /// The only owner whose instances the caller may touch; any if absent. Those of others are not there for it.
    pub owner: Option<OwnerName>,
}

/// Which audit events to list; all by default, newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// By this caller.
    pub actor: Option<String>,
    /// With this action.
    pub action: Option<String>,
    /// About this instance.
    pub instance_id: Option<InstanceId>,
    /// At most so many.
    pub limit: Option<u32>,
    /// Older than this one: the last one of the page before.
    pub before: Option<i64>,
}

impl Origin {
    /// The id of the request's trace.
    pub(crate) fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }
}

impl Cms {
    /// Audit events, newest first. The next page begins behind the last one's id.
    ///
    /// # Errors
    /// See the crate.
    pub async fn list_audit(&self, filter: &AuditFilter) -> Result<Vec<AuditEvent>> {
        let mut query = QueryBuilder::new(
            "select id, actor, action, instance_id, operation_id, object, trace_id, created_at \
             from cms.audit_events where true",
        );
        if let Some(actor) = &filter.actor {
            query.push(" and actor = ").push_bind(actor);
        }
        if let Some(action) = &filter.action {
            query.push(" and action = ").push_bind(action);
        }
        if let Some(id) = filter.instance_id {
            query.push(" and instance_id = ").push_bind(id.0);
        }
        if let Some(before) = filter.before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc");
        if let Some(limit) = filter.limit {
            query.push(rows::limit_clause(limit));
        }
        query
            .build()
            .try_map(|row| rows::audit_event(&row))
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(database)
    }

    /// Records an act on something outside these tables. `action` is lower-case letters and underscores; an instance
    /// that has no row is left out.
    ///
    /// # Errors
    /// See the crate.
    pub async fn record_audit(
        &self,
        origin: &Origin,
        action: &str,
        object: Option<&str>,
        instance_id: Option<InstanceId>,
    ) -> Result<()> {
        let mut connection = self.pool.acquire().await.map_err(database)?;
        let subject = Subject {
            instance_id,
            object,
            ..Subject::default()
        };
        audit(&mut connection, origin, action, subject).await
    }
}

/// What something was done to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) operation_id: Option<OperationId>,
    pub(crate) object: Option<&'a str>,
}

pub(crate) async fn audit(
    connection: &mut PgConnection,
    origin: &Origin,
    action: &str,
    subject: Subject<'_>,
) -> Result<()> {
    // Looked up, since what is found on a platform may name an instance that no row knows.
    sqlx::query(
        "insert into cms.audit_events (actor, action, instance_id, operation_id, object, trace_id) \
         values ($1, $2, (select id from cms.instances where id = $3), $4, $5, $6)",
    )
    .bind(&origin.actor)
    .bind(action)
    .bind(subject.instance_id.map(|id| id.0))
    .bind(subject.operation_id.map(|id| id.0))
    .bind(subject.object)
    .bind(origin.trace_id())
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}
