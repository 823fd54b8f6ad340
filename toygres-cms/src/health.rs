//! Health checks and alarms: what the actor of an instance found.

use crate::actors::{Fenced, scope_operation};
use crate::errors::{database, no_such_actor};
use crate::events::{self, EventKind};
use crate::{Cms, rows};
use sqlx::PgConnection;
use toygres_models::health::{HealthCheck, UNHEALTHY_AFTER};
use toygres_models::instances::Endpoint;
use toygres_models::operations::{OperationError, Reason};
use toygres_models::{InstanceId, Intent, Result, Scope, drift};

impl Cms {
    /// Records a health check, and what follows from it for health and state; gives what is wanted of the instance
    /// by now. One round trip. `external_endpoint` is what there is beside `endpoint`, and counts only with it: a check
    /// that has found no address leaves both as they are. The same check recorded twice counts once; one of an instance that has ended does not
    /// count.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded), code `superseded`. Else see the crate.
    pub async fn record_health_check(
        &self,
        scope: &Scope,
        check: &HealthCheck,
        endpoint: Option<&Endpoint>,
        external_endpoint: Option<&Endpoint>,
    ) -> Result<Intent> {
        let query = sqlx::query(
            "select * from cms.record_health_check($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        );
        query
            .bind(scope.instance_id.0)
            .bind(scope.incarnation)
            .bind(check.checked_at)
            .bind(check.healthy)
            .bind(check.response_time_ms)
            .bind(&check.server_version)
            .bind(&check.error_code)
            .bind(&check.error_message)
            .bind(endpoint.map(|endpoint| &endpoint.host))
            .bind(endpoint.map(|endpoint| i32::from(endpoint.port)))
            .bind(external_endpoint.map(|endpoint| &endpoint.host))
            .bind(external_endpoint.map(|endpoint| i32::from(endpoint.port)))
            .bind(UNHEALTHY_AFTER)
            .try_map(|row| rows::intent(&row))
            .fetch_optional(&self.pool)
            .await
            .map_err(database)?
            .ok_or_else(|| no_such_actor(scope.instance_id))
    }

    /// Records that something is wrong that toygres must not repair by itself, such as missing storage. The instance
    /// is `degraded` until its next good health check, which also resolves the finding. Only a new alarm is an event.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded), code `superseded`. Else see the crate.
    pub async fn record_alarm(&self, scope: &Scope, reason: Reason, message: &str) -> Result<()> {
        let mut fenced = self.fence(scope).await?;
        let id = scope.instance_id;
        fenced
            .execute(
                sqlx::query(
                    "update cms.instances set state = 'degraded', state_reason = $2, updated_at = now() \
                     where id = $1 and state in ('running', 'degraded') \
                     and (state, state_reason) is distinct from ('degraded', $2)",
                )
                .bind(id.0)
                .bind(message),
            )
            .await?;
        alarm(&mut fenced, scope, reason.as_str(), message).await?;
        fenced.progressed().await?;
        fenced.commit().await
    }

    /// Records that what is being removed can't be: an alarm until the operation ends, which shows the cause meanwhile.
    /// Only a new alarm is an event; whether it is one.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded), code `superseded`. Else see the crate.
    pub async fn record_removal_stuck(&self, scope: &Scope, error: &OperationError) -> Result<bool> {
        let operation_id = scope_operation(scope)?;
        let mut fenced = self.fence(scope).await?;
        let (kind, state) = fenced.operation(scope).await?;
        if state.is_terminal() {
            return Ok(false);
        }
        let query = sqlx::query(
            "update cms.operations set error_code = $2, error_message = $3 where id = $1 \
             and (error_code, error_message) is distinct from ($2, $3)",
        );
        let query = query.bind(operation_id.0).bind(&error.code).bind(&error.message);
        fenced.execute(query).await?;
        let message = format!(
            "it can't be removed, which the {kind} {operation_id} waits for: {}",
            error.message
        );
        let new = alarm(&mut fenced, scope, drift::REMOVAL_STUCK, &message).await?;
        fenced.commit().await?;
        Ok(new)
    }

    /// Records what an instance differed in from what it should be, before it was made so again: each an event, but
    /// the same one at most once an hour, since something else may go on undoing it. Gives those that are events now.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded), code `superseded`. Else see the crate.
    pub async fn record_repaired(&self, scope: &Scope, differences: &[String]) -> Result<Vec<String>> {
        let mut fenced = self.fence(scope).await?;
        let query = sqlx::query_scalar(
            "insert into cms.instance_events (instance_id, operation_id, kind, message) \
             select $1, $2, $3, difference from unnest($4::text[]) as differences (difference) \
             where not exists (select from cms.instance_events where instance_id = $1 and kind = $3 \
                 and message = difference and created_at > now() - interval '1 hour') returning message",
        );
        let query = query
            .bind(scope.instance_id.0)
            .bind(scope.operation_id.map(|id| id.0))
            .bind(EventKind::Repaired.as_str())
            .bind(differences);
        let said = query.fetch_all(fenced.connection()).await.map_err(database)?;
        fenced.commit().await?;
        Ok(said)
    }

    /// The instance's last `limit` health checks, newest first.
    ///
    /// # Errors
    /// See the crate.
    pub async fn list_health_checks(&self, instance_id: InstanceId, limit: u32) -> Result<Vec<HealthCheck>> {
        sqlx::query(
            "select checked_at, healthy, response_time_ms, server_version, error_code, error_message \
             from cms.health_checks where instance_id = $1 order by checked_at desc limit $2",
        )
        .bind(instance_id.0)
        .bind(i64::from(limit))
        .try_map(|row| rows::health_check(&row))
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(database)
    }
}

/// Opens an alarm, or keeps it open. A new one is an event; whether it is one.
async fn alarm(fenced: &mut Fenced, scope: &Scope, kind: &str, message: &str) -> Result<bool> {
    let id = scope.instance_id;
    let new: bool = sqlx::query_scalar(
        "insert into cms.drift_findings (source, kind, object, instance_id, message) \
         values ('actor', $1, $2, $3, $4) \
         on conflict (source, kind, object) where resolved_at is null \
         do update set message = excluded.message, last_seen_at = now() \
         returning first_seen_at = last_seen_at",
    )
    .bind(kind)
    .bind(id.to_string())
    .bind(id.0)
    .bind(message)
    .fetch_one(fenced.connection())
    .await
    .map_err(database)?;
    if new {
        let connection = fenced.connection();
        events::record(connection, EventKind::Alarm, id, scope.operation_id, message).await?;
    }
    Ok(new)
}

/// Writes a check down; one that is there already is left.
pub(crate) async fn insert_check(
    connection: &mut PgConnection,
    instance_id: InstanceId,
    check: &HealthCheck,
) -> Result<()> {
    sqlx::query(
        "insert into cms.health_checks \
         (instance_id, checked_at, healthy, response_time_ms, server_version, error_code, error_message) \
         values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
    )
    .bind(instance_id.0)
    .bind(check.checked_at)
    .bind(check.healthy)
    .bind(check.response_time_ms)
    .bind(&check.server_version)
    .bind(&check.error_code)
    .bind(&check.error_message)
    .execute(connection)
    .await
    .map_err(database)?;
    Ok(())
}
