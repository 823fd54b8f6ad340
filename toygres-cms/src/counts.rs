//! How many there are of each.

use crate::Cms;
use crate::errors::database;
use std::collections::HashMap;
use std::time::Duration;
use toygres_models::Result;
use toygres_models::health::HealthStatus;
use toygres_models::instances::InstanceState;
use toygres_models::operations::OperationState;
use toygres_models::server::Count;

/// How many there are of each, those of which there is none included.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Instances by state; deleted ones left out.
    pub instances_by_state: Vec<Count>,
    /// Instances by health; deleted ones left out.
    pub instances_by_health: Vec<Count>,
    /// Operations by state.
    pub operations_by_state: Vec<Count>,
}

/// What the metrics show of all instances.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fleet {
    /// Those that are not deleted: state, health, and how many.
    pub instances: Vec<(String, String, u64)>,
    /// How long ago the one that has waited longest for a health check had its last.
    pub oldest_check: Option<Duration>,
    /// Findings and alarms that are not resolved: kind, and how many.
    pub drift: Vec<(String, u64)>,
}

impl Cms {
    /// What the metrics show of all instances, at one moment.
    ///
    /// # Errors
    /// See the crate.
    pub async fn fleet(&self) -> Result<Fleet> {
        let rows: Vec<(String, String, String, f64)> = sqlx::query_as(
            "select 'instances', state, health_status, count(*)::float8 from cms.instances \
             where state <> 'deleted' group by state, health_status \
             union all \
             select 'check', '', '', extract(epoch from now() - min(coalesce(last_checked_at, created_at)))::float8 \
             from cms.instances where state in ('running', 'degraded', 'updating') having count(*) > 0 \
             union all \
             select 'drift', kind, '', count(*)::float8 from cms.drift_findings \
             where resolved_at is null group by kind",
        )
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(database)?;
        let mut fleet = Fleet::default();
        for (of, word, health, number) in rows {
            // A whole number far below 2^53.
            let count = number as u64;
            match of.as_str() {
                "instances" => fleet.instances.push((word, health, count)),
                "drift" => fleet.drift.push((word, count)),
                _ => fleet.oldest_check = Some(Duration::try_from_secs_f64(number).unwrap_or_default()),
            }
        }
        Ok(fleet)
    }

    /// Counts instances and operations, at one moment.
    ///
    /// # Errors
    /// See the crate.
    pub async fn counts(&self) -> Result<Counts> {
        let counts: Vec<(String, String, i64)> = sqlx::query_as(
            "select 'state', state, count(*) from cms.instances where state <> 'deleted' group by state \
             union all \
             select 'health', health_status, count(*) from cms.instances where state <> 'deleted' \
             group by health_status \
             union all \
             select 'operation', state, count(*) from cms.operations group by state",
        )
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(database)?;
        let counts: HashMap<_, _> = counts
            .into_iter()
            .map(|(of, word, count)| ((of, word), count))
            .collect();
        let count = |of: &str, word: &str| Count {
            name: word.to_owned(),
            count: counts
                .get(&(of.to_owned(), word.to_owned()))
                .copied()
                .unwrap_or(0),
        };
        let there = InstanceState::ALL
            .iter()
            .filter(|state| **state != InstanceState::Deleted);
        Ok(Counts {
            instances_by_state: there.map(|state| count("state", state.as_str())).collect(),
            instances_by_health: HealthStatus::ALL
                .iter()
                .map(|health| count("health", health.as_str()))
                .collect(),
            operations_by_state: OperationState::ALL
                .iter()
                .map(|state| count("operation", state.as_str()))
                .collect(),
        })
    }
}
