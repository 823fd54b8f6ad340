//! What waits to be done.

use sqlx::PgPool;

/// A queue: its items that could be worked on and that no worker holds, and how many seconds the oldest has waited.
pub(crate) type Waiting = (i64, f64);

/// The queue of messages to orchestrations, and that of activities.
pub(crate) async fn queues(pool: &PgPool, schema: &str) -> Result<[Waiting; 2], sqlx::Error> {
    let of = |table: &str| {
        format!(
            "(select count(*) as depth,
                     greatest(0, coalesce(extract(epoch from now() - min(visible_at)), 0))::float8 as oldest
                from {schema}.{table}
               where visible_at <= now() and
                     (lock_token is null or locked_until <= extract(epoch from now()) * 1000))"
        )
    };
    let query = format!(
        "select o.depth, o.oldest, a.depth, a.oldest from {} o, {} a",
        of("orchestrator_queue"),
        of("worker_queue")
    );
    let row: (i64, f64, i64, f64) = sqlx::query_as(&query).fetch_one(pool).await?;
    Ok([(row.0, row.1), (row.2, row.3)])
}

/// Orchestrations of one name that have not ended.
#[derive(sqlx::FromRow)]
pub(crate) struct Active {
    pub(crate) name: String,
    pub(crate) running: i64,
    pub(crate) waiting: i64,
}

/// All orchestrations that have not ended, by the name they have in the engine. One runs if a message to it or an
/// activity of it is due, whether or not a worker holds it; one that no worker has taken up yet runs too.
pub(crate) async fn active(pool: &PgPool, schema: &str) -> Result<Vec<Active>, sqlx::Error> {
    let query = format!(
        "select name, count(*) filter (where runs) as running, count(*) filter (where not runs) as waiting
           from (select i.orchestration_name as name,
                        i.instance_id in (select instance_id from {schema}.orchestrator_queue
                                           where visible_at <= now()) or
                        i.instance_id in (select instance_id from {schema}.worker_queue
                                           where visible_at <= now() and instance_id is not null) as runs
                   from {schema}.instances i
                   join {schema}.executions e
                     on e.instance_id = i.instance_id and e.execution_id = i.current_execution_id
                  where e.status not in ('Completed', 'Failed')
                  union all
                 select min(q.work_item::jsonb -> 'StartOrchestration' ->> 'orchestration'), true
                   from {schema}.orchestrator_queue q
                  where q.work_item like '{{\"StartOrchestration\"%' and
                        not exists (select from {schema}.instances i where i.instance_id = q.instance_id)
                  group by q.instance_id) orchestrations
          group by name"
    );
    sqlx::query_as(&query).fetch_all(pool).await
}
