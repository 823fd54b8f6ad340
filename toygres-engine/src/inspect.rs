//! What operators see of the engine.

use crate::client::{EngineClient, soon};
use crate::error::from_sqlx;
use crate::sql;
use toygres_models::orchestrations::{
    EngineStats, HistoryEvent, Orchestration, OrchestrationDetails, OrchestrationStatus,
};
use toygres_models::{Error, ErrorKind, InstanceId, Result};

/// The most rows that one question is answered with.
const MOST_ROWS: u32 = 1000;

/// Which orchestrations to list. What is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrchestrationFilter {
    /// How they are. None is `continued_as_new`: that is a word for executions.
    pub status: Option<OrchestrationStatus>,
    /// What they do, such as `instance-actor`.
    pub name: Option<String>,
    /// What their ids begin with.
    pub id_prefix: Option<String>,
    /// The instance that their ids, or those of their parents, say they are about.
    pub instance_id: Option<InstanceId>,
    /// How many; 1 at least, 1000 at most.
    pub limit: u32,
    /// The id of the last one of the page before.
    pub after: Option<String>,
}

impl EngineClient {
    /// Orchestrations, newest first; those that began meanwhile come on no later page. One that has been started but
    /// not taken up by any worker is not listed yet.
    ///
    /// # Errors
    /// `unknown_cursor` when `after` names no orchestration, which may have been pruned; `database_unavailable`.
    pub async fn list(&self, filter: &OrchestrationFilter) -> Result<Vec<Orchestration>> {
        let filter = OrchestrationFilter {
            limit: filter.limit.clamp(1, MOST_ROWS),
            ..filter.clone()
        };
        let found = soon(
            from_sqlx,
            sql::orchestrations::list(&self.pool, &self.schema, &filter),
        )
        .await?;
        if let (true, Some(after)) = (found.is_empty(), &filter.after)
            && !self.knows(after).await?
        {
            let message = "the cursor is not one that this server gave";
            return Err(Error::new(ErrorKind::Invalid, "unknown_cursor", message)
                .hint("begin again with the first page, without a cursor"));
        }
        Ok(found)
    }

    /// An orchestration, the newest thousand of its executions that are kept, and the orchestrations that it began,
    /// and so on: eight generations and 500 orchestrations at most.
    ///
    /// # Errors
    /// `orchestration_not_found`; `database_unavailable`.
    pub async fn details(&self, id: &str) -> Result<OrchestrationDetails> {
        soon(
            from_sqlx,
            sql::orchestrations::details(&self.pool, &self.schema, id),
        )
        .await?
        .ok_or_else(|| not_found(id))
    }

    /// What happened in an execution, else in the one that goes on or was the last, behind `after_event` (0: from the
    /// beginning). At least 1 and at most 1000 events.
    ///
    /// # Errors
    /// `orchestration_not_found`; `execution_not_found`, which may have been pruned; `database_unavailable`.
    pub async fn history(
        &self,
        id: &str,
        execution_id: Option<i64>,
        after_event: i64,
        limit: u32,
    ) -> Result<Vec<HistoryEvent>> {
        let limit = limit.clamp(1, MOST_ROWS);
        let events = sql::history::events(&self.pool, &self.schema, id, execution_id, after_event, limit);
        let events = soon(from_sqlx, events).await?;
        if events.is_empty() {
            if !self.knows(id).await? {
                return Err(not_found(id));
            }
            if let Some(execution_id) = execution_id
                && !soon(
                    from_sqlx,
                    sql::history::has_execution(&self.pool, &self.schema, id, execution_id),
                )
                .await?
            {
                let message =
                    format!("the orchestration {id} has no execution {execution_id} any more or yet");
                return Err(
                    Error::new(ErrorKind::NotFound, "execution_not_found", message).hint(format!(
                        "see which are kept with `toygres server orchestration {id}`"
                    )),
                );
            }
        }
        Ok(events)
    }

    /// What the engine has to do, and has done. Cheap enough to be asked every few seconds: the rows of history are
    /// the planner's estimate, which PostgreSQL keeps up to date within some percent, and counted only as long as
    /// there is none.
    ///
    /// # Errors
    /// `database_unavailable`.
    pub async fn stats(&self) -> Result<EngineStats> {
        soon(from_sqlx, sql::stats(&self.pool, &self.schema)).await
    }

    async fn knows(&self, id: &str) -> Result<bool> {
        soon(
            from_sqlx,
            sql::orchestrations::exists(&self.pool, &self.schema, id),
        )
        .await
    }
}

fn not_found(id: &str) -> Error {
    let message = format!("there is no orchestration {id}, or it ended long ago and is no longer kept");
    Error::new(ErrorKind::NotFound, "orchestration_not_found", message)
        .hint("see which there are with `toygres server orchestrations`")
}
