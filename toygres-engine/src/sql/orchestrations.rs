//! Orchestrations: lists of them, and one with those that it began.

use crate::activity::short_name;
use crate::actor::{actor_prefix, instance_of};
use crate::failure::Failure;
use crate::inspect::OrchestrationFilter;
use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgPool, QueryBuilder};
use std::collections::HashMap;
use toygres_models::orchestrations::{
    Execution, Orchestration, OrchestrationDetails, OrchestrationNode, OrchestrationStatus,
};

/// How many generations a tree shows.
const MOST_GENERATIONS: i32 = 8;
/// How many orchestrations a tree shows.
const MOST_NODES: i32 = 500;
/// How many executions are shown.
const MOST_EXECUTIONS: i32 = 1000;

/// The columns of a [`Row`], from instances `i` and their current executions `e`.
const ROW: &str = "i.instance_id, i.orchestration_name, i.orchestration_version, i.parent_instance_id, \
     i.current_execution_id, i.created_at, i.updated_at, e.status, \
     case when e.status = 'Failed' then e.output end as failure";

#[derive(sqlx::FromRow)]
struct Row {
    instance_id: String,
    orchestration_name: String,
    orchestration_version: Option<String>,
    parent_instance_id: Option<String>,
    current_execution_id: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    status: Option<String>,
    failure: Option<String>,
}

impl Row {
    /// One whose last execution continued as new, and whose next has not begun, goes on.
    fn status(&self) -> OrchestrationStatus {
        match self.status.as_deref() {
            Some("Completed") => OrchestrationStatus::Completed,
            Some("Failed") => OrchestrationStatus::Failed,
            _ => OrchestrationStatus::Running,
        }
    }

    fn orchestration(&self) -> Orchestration {
        let parent_id = self.parent_instance_id.clone();
        Orchestration {
            id: self.instance_id.clone(),
            name: short_name(&self.orchestration_name).to_owned(),
            version: self.orchestration_version.clone().unwrap_or_default(),
            status: self.status(),
            instance_id: instance_of(&self.instance_id)
                .or_else(|| parent_id.as_deref().and_then(instance_of)),
            parent_id,
            execution_id: self.current_execution_id,
            created_at: self.created_at,
            updated_at: self.updated_at,
            error: self.failure.as_deref().map(|text| Failure::decode(text).into()),
        }
    }

    fn node(self, children: &mut HashMap<String, Vec<Self>>) -> OrchestrationNode {
        let status = self.status();
        let begun = children.remove(&self.instance_id).unwrap_or_default();
        OrchestrationNode {
            id: self.instance_id,
            name: short_name(&self.orchestration_name).to_owned(),
            status,
            children: begun.into_iter().map(|child| child.node(children)).collect(),
        }
    }
}

/// Orchestrations, newest first.
pub(crate) async fn list(
    pool: &PgPool,
    schema: &str,
    filter: &OrchestrationFilter,
) -> Result<Vec<Orchestration>, sqlx::Error> {
    // The page is cut before executions are joined to it, so that only its own are read.
    let mut query = QueryBuilder::new(format!(
        "select {ROW} from (select i.* from {schema}.instances i where true"
    ));
    if let Some(status) = filter.status {
        let (not, ended) = match status {
            OrchestrationStatus::Running => ("not ", "('Completed', 'Failed')"),
            OrchestrationStatus::Completed => ("", "('Completed')"),
            OrchestrationStatus::Failed => ("", "('Failed')"),
            OrchestrationStatus::ContinuedAsNew => return Ok(Vec::new()),
        };
        query.push(format!(
            " and {not}exists (select from {schema}.executions e where e.instance_id = i.instance_id \
             and e.execution_id = i.current_execution_id and e.status in {ended})"
        ));
    }
    if let Some(name) = &filter.name {
        query
            .push(" and split_part(i.orchestration_name, '::', -1) = ")
            .push_bind(name);
    }
    if let Some(prefix) = &filter.id_prefix {
        query
            .push(" and starts_with(i.instance_id, ")
            .push_bind(prefix)
            .push(")");
    }
    if let Some(instance_id) = filter.instance_id {
        let prefix = actor_prefix(instance_id);
        query
            .push(" and (starts_with(i.instance_id, ")
            .push_bind(prefix.clone())
            .push(") or starts_with(i.parent_instance_id, ")
            .push_bind(prefix)
            .push("))");
    }
    if let Some(after) = &filter.after {
        query
            .push(format!(
                " and (i.created_at, i.instance_id) < \
                 (select l.created_at, l.instance_id from {schema}.instances l where l.instance_id = "
            ))
            .push_bind(after)
            .push(")");
    }
    query
        .push(" order by i.created_at desc, i.instance_id desc limit ")
        .push_bind(i64::from(filter.limit))
        .push(format!(
            ") i left join {schema}.executions e on e.instance_id = i.instance_id \
             and e.execution_id = i.current_execution_id order by i.created_at desc, i.instance_id desc"
        ));
    let rows: Vec<Row> = query.build_query_as().fetch_all(pool).await?;
    Ok(rows.iter().map(Row::orchestration).collect())
}

/// Whether there is one of this id.
pub(crate) async fn exists(pool: &PgPool, schema: &str, id: &str) -> Result<bool, sqlx::Error> {
    let query = format!("select exists (select from {schema}.instances where instance_id = $1)");
    sqlx::query_scalar(&query).bind(id).fetch_one(pool).await
}

#[derive(sqlx::FromRow)]
struct TreeRow {
    #[sqlx(flatten)]
    row: Row,
    /// Of the first one only.
    executions: Option<Json<Vec<Execution>>>,
}

/// One with its executions and those that it began.
pub(crate) async fn details(
    pool: &PgPool,
    schema: &str,
    id: &str,
) -> Result<Option<OrchestrationDetails>, sqlx::Error> {
    // An execution that continued as new has no time of its end; its last event has.
    let query = format!(
        "with recursive tree as (
             select i.*, 0 as generation from {schema}.instances i where i.instance_id = $1
              union all
             select i.*, t.generation + 1
               from tree t join {schema}.instances i on i.parent_instance_id = t.instance_id
              where t.generation < {MOST_GENERATIONS}
         )
         select {ROW}, case when i.generation = 0 then (
                    select json_agg(json_build_object(
                               'execution_id', x.execution_id,
                               'status', case x.status when 'Completed' then 'completed' when 'Failed' then 'failed'
                                    when 'ContinuedAsNew' then 'continued_as_new' else 'running' end,
                               'started_at', x.started_at,
                               'finished_at', case when x.status <> 'Running' then coalesce(x.completed_at, h.last) end,
                               'events', h.events) order by x.execution_id desc)
                      from (select * from {schema}.executions where instance_id = $1
                             order by execution_id desc limit {MOST_EXECUTIONS}) x,
                   lateral (select count(*) as events, max(h.created_at) as last from {schema}.history h
                             where h.instance_id = $1 and h.execution_id = x.execution_id) h
                ) end as executions
           from (select * from tree limit {MOST_NODES}) i
           left join {schema}.executions e
             on e.instance_id = i.instance_id and e.execution_id = i.current_execution_id
          order by i.generation, i.created_at, i.instance_id"
    );
    let rows: Vec<TreeRow> = sqlx::query_as(&query).bind(id).fetch_all(pool).await?;
    let mut rows = rows.into_iter();
    let Some(TreeRow {
        row: first,
        executions,
    }) = rows.next()
    else {
        return Ok(None);
    };
    let mut children: HashMap<String, Vec<Row>> = HashMap::new();
    for TreeRow { row, .. } in rows {
        if let Some(parent) = row.parent_instance_id.clone() {
            children.entry(parent).or_default().push(row);
        }
    }
    Ok(Some(OrchestrationDetails {
        orchestration: first.orchestration(),
        executions: executions.map(|Json(executions)| executions).unwrap_or_default(),
        tree: first.node(&mut children),
    }))
}
