//! How many there are of each.

use crate::Cms;
use crate::errors::database;
use std::collections::HashMap;
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

impl Cms {
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
        .fetch_all(&self.pool)
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
