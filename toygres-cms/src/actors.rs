//! What an instance's actor reads and records. Each write holds the instance's row and compares its incarnation.

use crate::errors::{database, no_such_actor, operation_ended, superseded};
use crate::events::{self, EventKind};
use crate::health::insert_check;
use crate::operations::EndedOperation;
use crate::{Cms, credentials, operations, rows};
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{Postgres, Row, Transaction};
use toygres_models::health::HealthCheck;
use toygres_models::instances::{DesiredState, Endpoint, Instance, InstanceState};
use toygres_models::operations::{OperationError, OperationKind, OperationState, StepState};
use toygres_models::{Error, InstanceId, Intent, OperationId, Result, Scope, Secret};

/// What it takes to act on an instance.
#[derive(Debug, Clone)]
pub struct Provisioning {
    /// The instance.
    pub instance: Instance,
    /// The only machine that may act on it, on platforms where that matters.
    pub host: Option<String>,
    /// The identity of its data, once that is known.
    pub system_identifier: Option<u64>,
    /// Whether it was ever ready: from then on its storage must be there and is never made anew.
    pub first_ready: bool,
    /// The password of the role `postgres`; gone once the instance is deleted.
    pub password: Option<Secret>,
}

/// A transaction that holds the row of the instance whose actor writes.
pub(crate) struct Fenced {
    transaction: Transaction<'static, Postgres>,
    id: InstanceId,
    pub(crate) state: InstanceState,
    pub(crate) desired_state: DesiredState,
}

impl Fenced {
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    pub(crate) async fn execute(&mut self, query: Query<'_, Postgres, PgArguments>) -> Result<u64> {
        Ok(query
            .execute(&mut *self.transaction)
            .await
            .map_err(database)?
            .rows_affected())
    }

    /// Notes that the actor got something done.
    pub(crate) async fn progressed(&mut self) -> Result<()> {
        let query =
            sqlx::query("update cms.instances set progressed_at = now() where id = $1").bind(self.id.0);
        self.execute(query).await?;
        Ok(())
    }

    /// The kind and state of the scope's operation.
    pub(crate) async fn operation(&mut self, scope: &Scope) -> Result<(OperationKind, OperationState)> {
        let id = scope_operation(scope)?;
        sqlx::query("select kind, state from cms.operations where id = $1 and instance_id = $2")
            .bind(id.0)
            .bind(self.id.0)
            .try_map(|row| Ok((rows::parsed(&row, "kind")?, rows::parsed(&row, "state")?)))
            .fetch_optional(&mut *self.transaction)
            .await
            .map_err(database)?
            .ok_or_else(|| Error::internal(format!("instance {} has no operation {id}", self.id)))
    }

    async fn event(&mut self, scope: &Scope, kind: EventKind, message: &str) -> Result<()> {
        events::record(&mut self.transaction, kind, self.id, scope.operation_id, message).await
    }

    pub(crate) async fn commit(self) -> Result<()> {
        self.transaction.commit().await.map_err(database)
    }
}

/// The operation of a write that is about one.
pub(crate) fn scope_operation(scope: &Scope) -> Result<OperationId> {
    scope
        .operation_id
        .ok_or_else(|| Error::internal("this write of an actor needs an operation"))
}

impl Cms {
    /// Begins a write of the scope's actor.
    pub(crate) async fn fence(&self, scope: &Scope) -> Result<Fenced> {
        let mut transaction = self.pool.begin().await.map_err(database)?;
        let row = sqlx::query(
            "select state, desired_state from cms.instances where id = $1 and incarnation = $2 for no key update",
        )
        .bind(scope.instance_id.0)
        .bind(scope.incarnation)
        .try_map(|row| Ok((rows::parsed(&row, "state")?, rows::parsed(&row, "desired_state")?)))
        .fetch_optional(&mut *transaction)
        .await
        .map_err(database)?;
        let (state, desired_state) = row.ok_or_else(|| no_such_actor(scope.instance_id))?;
        Ok(Fenced {
            transaction,
            id: scope.instance_id,
            state,
            desired_state,
        })
    }

    /// What is wanted of the instance.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded), code `superseded`. Else see the crate.
    pub async fn intent(&self, scope: &Scope) -> Result<Intent> {
        sqlx::query("select * from cms.intents where instance_id = $1 and incarnation = $2")
            .bind(scope.instance_id.0)
            .bind(scope.incarnation)
            .try_map(|row| rows::intent(&row))
            .fetch_optional(&self.pool)
            .await
            .map_err(database)?
            .ok_or_else(|| no_such_actor(scope.instance_id))
    }

    /// What it takes to act on the instance, its password included.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded), code `superseded`;
    /// [`ErrorKind::Config`](toygres_models::ErrorKind::Config), code `master_key_wrong`. Else see the crate.
    pub async fn provisioning(&self, scope: &Scope) -> Result<Provisioning> {
        let mut connection = self.pool.acquire().await.map_err(database)?;
        let (instance, host, system_identifier, first_ready) = sqlx::query(&format!(
            "select {}, i.host, i.system_identifier::text, i.first_ready_at is not null as first_ready \
             from cms.instances i where i.id = $1 and i.incarnation = $2",
            rows::INSTANCE
        ))
        .bind(scope.instance_id.0)
        .bind(scope.incarnation)
        .try_map(|row| {
            let identifier: Option<String> = row.try_get("system_identifier")?;
            let identifier = identifier
                .map(|_| rows::parsed(&row, "system_identifier"))
                .transpose()?;
            Ok((
                rows::instance(&row)?,
                row.try_get("host")?,
                identifier,
                row.try_get("first_ready")?,
            ))
        })
        .fetch_optional(&mut *connection)
        .await
        .map_err(database)?
        .ok_or_else(|| no_such_actor(scope.instance_id))?;
        let password = credentials::load(&mut connection, &self.key, scope.instance_id).await?;
        Ok(Provisioning {
            instance,
            host,
            system_identifier,
            first_ready,
            password,
        })
    }

    /// Records that a new instance runs: the end of its creation. The system identifier is kept from the first time.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded): code `superseded`, also when the instance
    /// shall be deleted by now; code `operation_ended` when the creation ended in another way. Else see the crate.
    pub async fn record_running(
        &self,
        scope: &Scope,
        endpoint: &Endpoint,
        external_endpoint: Option<&Endpoint>,
        system_identifier: Option<u64>,
        check: &HealthCheck,
    ) -> Result<Vec<EndedOperation>> {
        let operation_id = scope_operation(scope)?;
        let mut fenced = self.fence(scope).await?;
        // First: if the answer was lost, the same is recorded again, whatever is wanted by now.
        match fenced.operation(scope).await?.1 {
            OperationState::Pending | OperationState::Running => {}
            OperationState::Succeeded => return Ok(Vec::new()),
            OperationState::Failed | OperationState::Cancelled => return Err(operation_ended(operation_id)),
        }
        if fenced.desired_state == DesiredState::Deleted {
            return Err(superseded("the instance is to be deleted"));
        }
        fenced
            .execute(
                sqlx::query(
                    "update cms.instances set state = 'running', state_reason = null, health_status = 'healthy', \
                     consecutive_failures = 0, endpoint_host = $2, endpoint_port = $3, \
                     system_identifier = coalesce(system_identifier, $4::text::numeric), \
                     first_ready_at = coalesce(first_ready_at, now()), last_checked_at = $5, \
                     external_host = $6, external_port = $7, \
                     progressed_at = now(), updated_at = now() where id = $1",
                )
                .bind(scope.instance_id.0)
                .bind(&endpoint.host)
                .bind(i32::from(endpoint.port))
                .bind(system_identifier.map(|identifier| identifier.to_string()))
                .bind(check.checked_at)
                .bind(external_endpoint.map(|endpoint| &endpoint.host))
                .bind(external_endpoint.map(|endpoint| i32::from(endpoint.port))),
            )
            .await?;
        insert_check(fenced.connection(), scope.instance_id, check).await?;
        let ended = operations::end(
            &mut fenced,
            operation_id,
            OperationState::Succeeded,
            StepState::Succeeded,
            None,
        )
        .await?;
        fenced
            .event(scope, EventKind::StateChanged, "it is running")
            .await?;
        fenced.commit().await?;
        Ok(vec![ended])
    }

    /// Records that a creation failed and that nothing of it is left: the name is free, the row stays. If the
    /// instance shall be deleted by now, the operation ends as cancelled instead, and the deletion does the rest.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded): code `superseded`; code `operation_ended`
    /// when the creation has succeeded. Else see the crate.
    pub async fn record_failed(&self, scope: &Scope, error: &OperationError) -> Result<Vec<EndedOperation>> {
        let operation_id = scope_operation(scope)?;
        let mut fenced = self.fence(scope).await?;
        match fenced.operation(scope).await? {
            (OperationKind::Delete, _) => {
                return Err(Error::internal("a deletion is tried until it succeeds"));
            }
            (_, OperationState::Failed | OperationState::Cancelled) => return Ok(Vec::new()),
            (_, OperationState::Succeeded) => return Err(operation_ended(operation_id)),
            (_, OperationState::Pending | OperationState::Running) => {}
        }
        if fenced.desired_state == DesiredState::Deleted {
            let ended = cancel(&mut fenced, scope, operation_id, &error.message).await?;
            fenced.commit().await?;
            return Ok(vec![ended]);
        }
        fenced
            .execute(
                sqlx::query(
                    "update cms.instances set state = 'failed', state_reason = $2, health_status = 'unknown', \
                     endpoint_host = null, endpoint_port = null, external_host = null, external_port = null, \
                     progressed_at = now(), updated_at = now() where id = $1",
                )
                .bind(scope.instance_id.0)
                .bind(&error.message),
            )
            .await?;
        let ended = operations::end(
            &mut fenced,
            operation_id,
            OperationState::Failed,
            StepState::Failed,
            Some(error),
        )
        .await?;
        fenced
            .event(
                scope,
                EventKind::StateChanged,
                &format!("it failed: {}", error.message),
            )
            .await?;
        fenced.commit().await?;
        Ok(vec![ended])
    }

    /// Records that the operation ended because something newer was asked for. One that has ended is left as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded), code `superseded`. Else see the crate.
    pub async fn record_cancelled(&self, scope: &Scope, message: &str) -> Result<Vec<EndedOperation>> {
        let mut fenced = self.fence(scope).await?;
        if fenced.operation(scope).await?.1.is_terminal() {
            return Ok(Vec::new());
        }
        let ended = cancel(&mut fenced, scope, scope_operation(scope)?, message).await?;
        fenced.commit().await?;
        Ok(vec![ended])
    }

    /// Records that nothing of the instance is left: the name is free, the password is gone, the row stays.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`](toygres_models::ErrorKind::Superseded), code `superseded`. Else see the crate.
    pub async fn record_deleted(&self, scope: &Scope) -> Result<Vec<EndedOperation>> {
        let mut fenced = self.fence(scope).await?;
        if fenced.state == InstanceState::Deleted {
            return Ok(Vec::new());
        }
        if fenced.desired_state != DesiredState::Deleted {
            return Err(Error::internal("nobody asked for the deletion that was recorded"));
        }
        let id = scope.instance_id.0;
        for statement in [
            "update cms.instances set state = 'deleted', state_reason = null, health_status = 'unknown', \
             endpoint_host = null, endpoint_port = null, external_host = null, external_port = null, \
             deleted_at = now(), progressed_at = now(), updated_at = now() where id = $1",
            "delete from cms.credentials where instance_id = $1",
            "update cms.operation_steps s set finished_at = now(), \
             state = case o.kind when 'delete' then 'succeeded' else 'failed' end from cms.operations o \
             where o.instance_id = $1 and o.id = s.operation_id and s.state = 'running'",
            "update cms.drift_findings set resolved_at = now() \
             where instance_id = $1 and source = 'actor' and resolved_at is null",
        ] {
            fenced.execute(sqlx::query(statement).bind(id)).await?;
        }
        let ended = sqlx::query(&format!(
            "update cms.operations set finished_at = now(), started_at = coalesce(started_at, now()), \
             error_code = null, error_message = null, \
             state = case kind when 'delete' then 'succeeded' else 'cancelled' end \
             where instance_id = $1 and state in ('pending', 'running') returning {}",
            operations::ENDED
        ))
        .bind(id)
        .try_map(|row| operations::ended(&row))
        .fetch_all(fenced.connection())
        .await
        .map_err(database)?;
        fenced
            .event(scope, EventKind::StateChanged, "it is deleted")
            .await?;
        fenced.commit().await?;
        Ok(ended)
    }
}

async fn cancel(
    fenced: &mut Fenced,
    scope: &Scope,
    operation_id: OperationId,
    message: &str,
) -> Result<EndedOperation> {
    let error = OperationError {
        code: "cancelled".to_owned(),
        message: message.to_owned(),
    };
    let ended = operations::end(
        fenced,
        operation_id,
        OperationState::Cancelled,
        StepState::Failed,
        Some(&error),
    )
    .await?;
    fenced.progressed().await?;
    fenced
        .event(scope, EventKind::OperationCancelled, message)
        .await?;
    Ok(ended)
}
