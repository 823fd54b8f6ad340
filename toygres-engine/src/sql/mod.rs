//! The engine's own SQL on duroxide's tables: what its client can't answer in one query.

pub(crate) mod backlog;
pub(crate) mod history;
pub(crate) mod orchestrations;
mod stats;

pub(crate) use stats::stats;

use crate::client::EngineStatus;
use sqlx::PgPool;
use std::collections::HashMap;

/// How these orchestrations are, those that were never started left out. A started one that no worker has taken up yet
/// counts as running, but not one that was started by a wrong clock, and can't be taken up for an hour, for example.
pub(crate) async fn statuses(
    pool: &PgPool,
    schema: &str,
    ids: &[String],
) -> Result<HashMap<String, EngineStatus>, sqlx::Error> {
    let query = format!(
        "select i.instance_id, e.status
           from {schema}.instances i
           join {schema}.executions e
             on e.instance_id = i.instance_id and e.execution_id = i.current_execution_id
          where i.instance_id = any($1)
          union all
         select q.instance_id, 'Queued'
           from {schema}.orchestrator_queue q
          where q.instance_id = any($1) and q.work_item like '{{\"StartOrchestration\"%'
            and q.visible_at < clock_timestamp() + interval '5 seconds'"
    );
    let rows: Vec<(String, String)> = sqlx::query_as(&query).bind(ids).fetch_all(pool).await?;
    let mut statuses = HashMap::with_capacity(rows.len());
    for (id, status) in rows {
        match status.as_str() {
            // Dropped by the engine if the orchestration is there already.
            "Queued" => {
                statuses.entry(id).or_insert(EngineStatus::Running);
            }
            "Completed" => {
                statuses.insert(id, EngineStatus::Completed);
            }
            "Failed" => {
                statuses.insert(id, EngineStatus::Failed);
            }
            _ => {
                statuses.insert(id, EngineStatus::Running);
            }
        }
    }
    Ok(statuses)
}

/// How an orchestration is, and the output or failure that it ended with; none: it was never started. One that no worker
/// has taken up yet is running.
pub(crate) async fn end(
    pool: &PgPool,
    schema: &str,
    id: &str,
) -> Result<Option<(EngineStatus, String)>, sqlx::Error> {
    let ids = [id.to_owned()];
    let Some(status) = statuses(pool, schema, &ids).await?.remove(id) else {
        return Ok(None);
    };
    let query = format!(
        "select coalesce(e.output, '')
           from {schema}.instances i
           join {schema}.executions e
             on e.instance_id = i.instance_id and e.execution_id = i.current_execution_id
          where i.instance_id = $1"
    );
    let output = sqlx::query_scalar(&query).bind(id).fetch_optional(pool).await?;
    Ok(Some((status, output.unwrap_or_default())))
}

/// Some orchestrations with more executions than this.
pub(crate) async fn with_more_executions(
    pool: &PgPool,
    schema: &str,
    executions: u32,
    limit: u32,
) -> Result<Vec<String>, sqlx::Error> {
    let query = format!(
        "select instance_id from {schema}.executions group by instance_id having count(*) > $1 limit $2"
    );
    sqlx::query_scalar(&query)
        .bind(i64::from(executions))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
}

/// Tells everybody who listens on this channel.
pub(crate) async fn notify(pool: &PgPool, channel: &str, payload: &str) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_notify($1, $2)")
        .bind(channel)
        .bind(payload)
        .execute(pool)
        .await?;
    Ok(())
}
