//! Operations and their steps: read by the API, written by the actor that works on them.

use crate::actors::{Fenced, scope_operation};
use crate::audit::Origin;
use crate::errors::{database, operation_ended, superseded};
use crate::{Cms, rows};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, QueryBuilder, Row};
use std::time::Duration;
use toygres_models::instances::DesiredState;
use toygres_models::operations::{
    Operation, OperationError, OperationKind, OperationState, Reason, StepState,
};
use toygres_models::{Error, ErrorKind, InstanceId, OperationId, OwnerName, Result, Scope, drift};

/// Which operations to list; all by default, newest first.
#[derive(Debug, Clone, Default)]
pub struct OperationFilter {
    /// About this instance.
    pub instance_id: Option<InstanceId>,
    /// In this state.
    pub state: Option<OperationState>,
    /// Of this kind.
    pub kind: Option<OperationKind>,
    /// About an instance of this owner.
    pub user_name: Option<OwnerName>,
    /// At most so many.
    pub limit: Option<u32>,
    /// Older than this one: the last one of the page before.
    pub before: Option<OperationId>,
}

impl Cms {
    /// Operations with their steps, newest first. The next page begins behind the last one's id.
    ///
    /// # Errors
    /// See the crate.
    pub async fn list_operations(&self, filter: &OperationFilter) -> Result<Vec<Operation>> {
        let mut query = with_steps(|query| {
            query.push(" where true");
            if let Some(id) = filter.instance_id {
                query.push(" and o.instance_id = ").push_bind(id.0);
            }
            if let Some(state) = filter.state {
                query.push(" and o.state = ").push_bind(state.as_str());
            }
            if let Some(kind) = filter.kind {
                query.push(" and o.kind = ").push_bind(kind.as_str());
            }
            if let Some(owner) = &filter.user_name {
                query.push(" and i.user_name = ").push_bind(owner.as_str());
            }
            if let Some(before) = filter.before {
                query.push(" and o.id < ").push_bind(before.0);
            }
            query.push(" order by o.id desc");
            if let Some(limit) = filter.limit {
                query.push(rows::limit_clause(limit));
            }
        });
        let rows = query
            .build()
            .fetch_all(&mut *self.connection().await?)
            .await
            .map_err(database)?;
        rows::operations_with_steps(&rows).map_err(database)
    }

    /// The operation with its steps, if it is about an instance of the owner `within`; any if absent.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], code `operation_not_found`. Else see the crate.
    pub async fn get_operation(&self, id: OperationId, within: Option<&OwnerName>) -> Result<Operation> {
        let mut connection = self.pool.acquire().await.map_err(database)?;
        get(&mut connection, id, within).await
    }

    /// Where the request that asked for the operation stands in its trace, as W3C `traceparent`.
    ///
    /// # Errors
    /// See the crate.
    pub async fn operation_traceparent(&self, id: OperationId) -> Result<Option<String>> {
        let found = sqlx::query_scalar("select traceparent from cms.operations where id = $1")
            .bind(id.0)
            .fetch_optional(&self.pool)
            .await
            .map_err(database)?;
        Ok(found.flatten())
    }

    /// Takes the operation up: from now on it is `running`.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`]: code `superseded`, or `operation_ended`. Else see the crate.
    pub async fn begin_operation(&self, scope: &Scope) -> Result<()> {
        let mut fenced = self.fence(scope).await?;
        open_operation(&mut fenced, scope).await?;
        fenced
            .execute(
                sqlx::query(
                    "update cms.operations set state = 'running', started_at = now() \
                     where id = $1 and state = 'pending'",
                )
                .bind(scope_operation(scope)?.0),
            )
            .await?;
        fenced.progressed().await?;
        fenced.commit().await
    }

    /// Begins the step, once more if it was begun before.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`]: code `superseded`, also when the operation is a creation and the instance shall be
    /// deleted; code `operation_ended`. Else see the crate.
    pub async fn begin_step(&self, scope: &Scope, step: &str) -> Result<()> {
        let mut fenced = self.fence(scope).await?;
        wanted_operation(&mut fenced, scope).await?;
        fenced
            .execute(
                sqlx::query(
                    "insert into cms.operation_steps as s (operation_id, name, state, attempts) \
                     values ($1, $2, 'running', 1) \
                     on conflict (operation_id, name) do update set \
                     state = 'running', attempts = s.attempts + 1, reason = null, message = null, finished_at = null",
                )
                .bind(scope_operation(scope)?.0)
                .bind(step),
            )
            .await?;
        fenced.progressed().await?;
        fenced.commit().await
    }

    /// Says what the step waits for. A step that was not begun, or has ended, is left as it is. Whether it waits for
    /// something else than before.
    ///
    /// # Errors
    /// As [`begin_step`](Self::begin_step).
    pub async fn note_step(&self, scope: &Scope, step: &str, reason: Reason, message: &str) -> Result<bool> {
        let mut fenced = self.fence(scope).await?;
        wanted_operation(&mut fenced, scope).await?;
        let reason_changed = sqlx::query_scalar(
            "with old as (select reason from cms.operation_steps \
                 where operation_id = $1 and name = $2 and state = 'running'), \
             changed as (update cms.operation_steps set reason = $3, message = $4 \
                 where operation_id = $1 and name = $2 and state = 'running') \
             select reason is distinct from $3 from old",
        )
        .bind(scope_operation(scope)?.0)
        .bind(step)
        .bind(reason.as_str())
        .bind(message)
        .fetch_optional(fenced.connection())
        .await
        .map_err(database)?;
        let reason_changed = reason_changed.unwrap_or(false);
        if reason_changed {
            fenced.progressed().await?;
        }
        fenced.commit().await?;
        Ok(reason_changed)
    }

    /// Ends the step, and tells how long it took. One that has ended already, or whose operation has, is left as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`], code `superseded`. Else see the crate.
    pub async fn end_step(
        &self,
        scope: &Scope,
        step: &str,
        outcome: Result<(), &OperationError>,
    ) -> Result<Option<Duration>> {
        let state = if outcome.is_ok() {
            StepState::Succeeded
        } else {
            StepState::Failed
        };
        let mut fenced = self.fence(scope).await?;
        // The end of an operation ends its steps, so there is none left to end then.
        let took: Option<f64> = sqlx::query_scalar(
            "update cms.operation_steps set state = $3, message = $4, finished_at = now(), \
             reason = case when $3 = 'failed' then reason end \
             where operation_id = $1 and name = $2 and state = 'running' \
             returning extract(epoch from now() - started_at)::float8",
        )
        .bind(scope_operation(scope)?.0)
        .bind(step)
        .bind(state.as_str())
        .bind(outcome.err().map(|error| &error.message))
        .fetch_optional(fenced.connection())
        .await
        .map_err(database)?;
        if took.is_some() {
            fenced.progressed().await?;
        }
        fenced.commit().await?;
        Ok(took.map(seconds))
    }
}

/// An operation that has just ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedOperation {
    /// What it was for.
    pub kind: OperationKind,
    /// How it ended.
    pub state: OperationState,
    /// From the request to the end.
    pub took: Duration,
}

/// The database's clock may have been set back meanwhile.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// What a statement that ends operations returns of each.
pub(crate) const ENDED: &str = "kind, state, extract(epoch from now() - requested_at)::float8 as took";

pub(crate) fn ended(row: &PgRow) -> sqlx::Result<EndedOperation> {
    Ok(EndedOperation {
        kind: rows::parsed(row, "kind")?,
        state: rows::parsed(row, "state")?,
        took: seconds(row.try_get("took")?),
    })
}

pub(crate) async fn insert(
    connection: &mut PgConnection,
    origin: &Origin,
    instance_id: InstanceId,
    kind: OperationKind,
) -> Result<Operation> {
    let id = OperationId::generate();
    sqlx::query("insert into cms.operations (id, instance_id, kind, traceparent) values ($1, $2, $3, $4)")
        .bind(id.0)
        .bind(instance_id.0)
        .bind(kind.as_str())
        .bind(&origin.traceparent)
        .execute(&mut *connection)
        .await
        .map_err(database)?;
    get(connection, id, None).await
}

pub(crate) async fn get(
    connection: &mut PgConnection,
    id: OperationId,
    within: Option<&OwnerName>,
) -> Result<Operation> {
    let mut query = with_steps(|query| {
        query.push(" where o.id = ").push_bind(id.0);
        if let Some(owner) = within {
            query.push(" and i.user_name = ").push_bind(owner.as_str());
        }
    });
    let rows = query.build().fetch_all(connection).await.map_err(database)?;
    let found = rows::operations_with_steps(&rows).map_err(database)?;
    found.into_iter().next().ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "operation_not_found",
            format!("there is no operation {id}"),
        )
        .hint("`toygres operations` shows the operations there are")
    })
}

/// Reads the operations that `narrow` leaves, newest first, a row a step. One statement, so that states and steps fit;
/// not as JSON, which would take the database twice as long.
fn with_steps<'a>(narrow: impl FnOnce(&mut QueryBuilder<'a, Postgres>)) -> QueryBuilder<'a, Postgres> {
    let mut query = QueryBuilder::new(format!("with page as ({}", rows::OPERATIONS));
    narrow(&mut query);
    query.push(format!(
        ") select page.*, {} from page left join cms.operation_steps s on s.operation_id = page.id \
         order by page.id desc, s.position",
        rows::STEP
    ));
    query
}

/// The deletion of the instance that has not ended.
pub(crate) async fn open_deletion(
    connection: &mut PgConnection,
    instance_id: InstanceId,
) -> Result<Option<Operation>> {
    let mut query = with_steps(|query| {
        query
            .push(" where o.kind = 'delete' and o.state in ('pending', 'running') and o.instance_id = ")
            .push_bind(instance_id.0);
    });
    let rows = query.build().fetch_all(connection).await.map_err(database)?;
    let found = rows::operations_with_steps(&rows).map_err(database)?;
    Ok(found.into_iter().next())
}

/// The kind of the scope's operation, which has not ended.
async fn open_operation(fenced: &mut Fenced, scope: &Scope) -> Result<OperationKind> {
    let (kind, state) = fenced.operation(scope).await?;
    if state.is_terminal() {
        Err(operation_ended(scope_operation(scope)?))
    } else {
        Ok(kind)
    }
}

/// Makes sure that somebody still wants the scope's operation done.
async fn wanted_operation(fenced: &mut Fenced, scope: &Scope) -> Result<()> {
    match (open_operation(fenced, scope).await?, fenced.desired_state) {
        (OperationKind::Create, DesiredState::Deleted) => Err(superseded(
            "the instance is to be deleted, so it is not made any further",
        )),
        (OperationKind::Create | OperationKind::Delete, _) => Ok(()),
    }
}

/// Ends the instance's operation `id` as `state`, those of its steps that go on as `steps`, and the alarm that what it
/// has to remove is stuck.
pub(crate) async fn end(
    fenced: &mut Fenced,
    id: OperationId,
    state: OperationState,
    steps: StepState,
    error: Option<&OperationError>,
) -> Result<EndedOperation> {
    let operation = sqlx::query(&format!(
        "update cms.operations set state = $2, error_code = $3, error_message = $4, \
         started_at = coalesce(started_at, now()), finished_at = now() where id = $1 returning {ENDED}"
    ))
    .bind(id.0)
    .bind(state.as_str())
    .bind(error.map(|error| &error.code))
    .bind(error.map(|error| &error.message))
    .try_map(|row| ended(&row))
    .fetch_one(fenced.connection())
    .await
    .map_err(database)?;
    fenced
        .execute(
            sqlx::query(
                "update cms.operation_steps set state = $2, finished_at = now() \
                 where operation_id = $1 and state = 'running'",
            )
            .bind(id.0)
            .bind(steps.as_str()),
        )
        .await?;
    let alarms = sqlx::query(
        "update cms.drift_findings set resolved_at = now() \
         where instance_id = (select instance_id from cms.operations where id = $1) \
         and source = 'actor' and kind = any($2) and resolved_at is null",
    );
    fenced
        .execute(
            alarms
                .bind(id.0)
                .bind([drift::REMOVAL_STUCK, drift::OPERATION_OVERDUE]),
        )
        .await?;
    Ok(operation)
}
