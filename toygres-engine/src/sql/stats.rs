//! How much there is to do.

use sqlx::PgPool;
use toygres_models::orchestrations::EngineStats;

#[derive(sqlx::FromRow)]
struct Row {
    known: i64,
    completed: i64,
    failed: i64,
    messages: i64,
    activities: i64,
    timers: i64,
    oldest_wait_seconds: f64,
    history_rows: i64,
}

/// Numbers of the whole store, by one pass over each of the small tables.
pub(crate) async fn stats(pool: &PgPool, schema: &str) -> Result<EngineStats, sqlx::Error> {
    // Of an orchestration only the last execution can have completed or failed, so executions need no join.
    let query = format!(
        "select (select count(*) from {schema}.instances) as known, x.completed, x.failed,
                o.messages, o.timers, w.activities,
                greatest(0, extract(epoch from now() - least(o.oldest, w.oldest)))::float8 as oldest_wait_seconds,
                case when h.reltuples < 0 then (select count(*) from {schema}.history)
                     else h.reltuples::bigint end as history_rows
           from (select count(*) filter (where status = 'Completed') as completed,
                        count(*) filter (where status = 'Failed') as failed
                   from {schema}.executions) x,
                (select count(*) filter (where free) as messages, min(visible_at) filter (where free) as oldest,
                        count(*) filter (where visible_at > now() and work_item like '{{\"TimerFired\"%') as timers
                   from (select visible_at, work_item, visible_at <= now() and
                                (lock_token is null or locked_until <= extract(epoch from now()) * 1000) as free
                           from {schema}.orchestrator_queue) q) o,
                (select count(*) as activities, min(visible_at) filter (
                            where lock_token is null or locked_until <= extract(epoch from now()) * 1000) as oldest
                   from {schema}.worker_queue where visible_at <= now()) w,
                pg_class h
          where h.oid = '{schema}.history'::regclass"
    );
    let row: Row = sqlx::query_as(&query).fetch_one(pool).await?;
    Ok(EngineStats {
        running: row.known - row.completed - row.failed,
        completed: row.completed,
        failed: row.failed,
        orchestrator_queue: row.messages,
        worker_queue: row.activities,
        timers: row.timers,
        oldest_wait_seconds: row.oldest_wait_seconds,
        history_rows: row.history_rows,
    })
}
