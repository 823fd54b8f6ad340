//! What waits to be done, told to the metrics.

use crate::activity::short_name;
use crate::client::{EngineClient, soon};
use crate::error::from_sqlx;
use crate::sql::backlog;
use std::collections::BTreeMap;
use std::time::Duration;
use toygres_models::Result;
use toygres_telemetry::Event;
use toygres_telemetry::events::{ActiveOrchestrationsSeen, QueuesSeen, WorkerType};

impl EngineClient {
    /// Looks how much there is to do, and tells the metrics. For one process at a time: what it tells is of all.
    ///
    /// # Errors
    /// `database_unavailable`.
    pub async fn observe_backlog(&self) -> Result<()> {
        let [messages, activities] = soon(from_sqlx, backlog::queues(&self.pool, &self.schema)).await?;
        let active = soon(from_sqlx, backlog::active(&self.pool, &self.schema)).await?;
        let queue = |worker_type, (depth, oldest): backlog::Waiting| {
            let age = Duration::try_from_secs_f64(oldest).unwrap_or_default();
            (worker_type, depth.unsigned_abs(), age)
        };
        QueuesSeen {
            queues: vec![
                queue(WorkerType::Orchestration, messages),
                queue(WorkerType::Activity, activities),
            ],
        }
        .emit();
        let mut counts = BTreeMap::<String, (u64, u64)>::new();
        for found in active {
            let count = counts.entry(short_name(&found.name).to_owned()).or_default();
            count.0 += found.running.unsigned_abs();
            count.1 += found.waiting.unsigned_abs();
        }
        ActiveOrchestrationsSeen {
            counts: counts
                .into_iter()
                .map(|(name, (running, waiting))| (name, running, waiting))
                .collect(),
        }
        .emit();
        Ok(())
    }
}
