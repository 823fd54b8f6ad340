//! How long the control database keeps what is over.

use super::{Variables, number};
use std::time::Duration;
use toygres_cms::Retention;
use toygres_engine::PrunePolicy;
use toygres_models::Result;

/// The longest time that can be asked for: a hundred years.
const LONGEST: i64 = 100 * 365 * 24 * 60 * 60;

/// What is taken away, and how often it is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Pruning {
    /// Time between two looks.
    pub interval: Duration,
    /// Of the engine.
    pub history: PrunePolicy,
    /// Of the tables of instances.
    pub rows: Retention,
}

pub(super) fn read(variable: &Variables) -> Result<Pruning> {
    let seconds = |name: &str, default: Duration| -> Result<Duration> {
        let chosen = number(variable, name, 1, LONGEST)?.and_then(|number| u64::try_from(number).ok());
        Ok(chosen.map_or(default, Duration::from_secs))
    };
    let (history, rows) = (PrunePolicy::default(), Retention::default());
    Ok(Pruning {
        interval: seconds("TOYGRES_PRUNE_INTERVAL_SECONDS", Duration::from_secs(300))?,
        history: PrunePolicy {
            keep_executions: number(variable, "TOYGRES_RETENTION_EXECUTIONS", 1, 1000)?
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or(history.keep_executions),
            ended_after: seconds("TOYGRES_RETENTION_ORCHESTRATIONS_SECONDS", history.ended_after)?,
            ..history
        },
        rows: Retention {
            health_checks: seconds("TOYGRES_RETENTION_HEALTH_CHECKS_SECONDS", rows.health_checks)?,
            events: seconds("TOYGRES_RETENTION_EVENTS_SECONDS", rows.events)?,
            operations: seconds("TOYGRES_RETENTION_OPERATIONS_SECONDS", rows.operations)?,
            idempotency_keys: seconds(
                "TOYGRES_RETENTION_IDEMPOTENCY_KEYS_SECONDS",
                rows.idempotency_keys,
            )?,
        },
    })
}
