//! Taking away history that nobody needs: duroxide keeps all of it for ever.

use crate::client::EngineClient;
use crate::error::{from_client, from_sqlx};
use duroxide::providers::{InstanceFilter, PruneOptions};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use toygres_models::Result;

/// What to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunePolicy {
    /// The last so many executions of each orchestration.
    pub keep_executions: u32,
    /// Orchestrations that ended less than this ago, with their children. Children of a living one are kept.
    pub ended_after: Duration,
    /// How many orchestrations one step takes, 1000 at most: a step is a transaction for each.
    pub batch: u32,
}

impl Default for PrunePolicy {
    fn default() -> Self {
        Self {
            keep_executions: 20,
            ended_after: Duration::from_secs(7 * 24 * 60 * 60),
            batch: 100,
        }
    }
}

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ended orchestrations, children included.
    pub instances: u64,
    /// Executions, those of ended orchestrations included.
    pub executions: u64,
    /// Events of their histories.
    pub events: u64,
}

impl EngineClient {
    /// Takes away old history, in batches. One process at a time should do it; two do no harm.
    ///
    /// # Errors
    /// `database_unavailable`. What was taken away before stays away.
    pub async fn prune(&self, policy: &PrunePolicy) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let batch = policy.batch.clamp(1, 1000);
        loop {
            let keep = policy.keep_executions.max(1);
            let ids = crate::sql::with_more_executions(&self.pool, &self.schema, keep, batch);
            let ids = ids.await.map_err(from_sqlx)?;
            let found = ids.len();
            if found == 0 {
                break;
            }
            let filter = InstanceFilter {
                instance_ids: Some(ids),
                limit: Some(batch),
                ..Default::default()
            };
            let options = PruneOptions {
                keep_last: Some(keep),
                ..Default::default()
            };
            let step = self
                .client
                .prune_executions_bulk(filter, options)
                .await
                .map_err(from_client)?;
            pruned.executions += step.executions_deleted;
            pruned.events += step.events_deleted;
            // The current execution is never taken away, so a step may find something and do nothing.
            if found < batch as usize || step.executions_deleted == 0 {
                break;
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = now.saturating_sub(policy.ended_after).as_millis();
        loop {
            let filter = InstanceFilter {
                completed_before: Some(u64::try_from(before).unwrap_or(u64::MAX)),
                limit: Some(batch),
                ..Default::default()
            };
            let step = self
                .client
                .delete_instance_bulk(filter)
                .await
                .map_err(from_client)?;
            pruned.instances += step.instances_deleted;
            pruned.executions += step.executions_deleted;
            pruned.events += step.events_deleted;
            if step.instances_deleted < u64::from(batch) {
                return Ok(pruned);
            }
        }
    }
}
