//! Reads what is wanted of an instance, and how patient its actor should be.

use crate::Deps;
use crate::record_health_check::next_check_ms;
use serde::{Deserialize, Serialize};
use toygres_engine::{Activity, ActivityContext};
use toygres_models::{Intent, Result, Scope};

/// See the module.
pub struct LoadIntent;

/// What the actor acts on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Output {
    /// What is wanted.
    pub intent: Intent,
    /// A create that makes no progress for so long has failed, in milliseconds.
    pub create_deadline_ms: u64,
    /// Where the request for the operation stands in its trace: the work on it belongs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// When to check the health of an instance that was just checked, in milliseconds from now.
    pub next_check_ms: u64,
}

impl Activity for LoadIntent {
    const NAME: &'static str = "cms-load-intent";
    type Deps = Deps;
    type Input = Scope;
    type Output = Output;

    fn about(input: &Scope) -> Option<&Scope> {
        Some(input)
    }

    async fn run(deps: &Deps, _: &ActivityContext, scope: Scope) -> Result<Output> {
        let intent = deps.cms.intent(&scope).await?;
        let traceparent = match &intent.operation {
            Some(operation) => deps.cms.operation_traceparent(operation.id).await?,
            None => None,
        };
        let create_deadline_ms = deps
            .settings
            .create_deadline
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX);
        let next_check_ms = next_check_ms(&intent, &deps.settings);
        Ok(Output {
            intent,
            create_deadline_ms,
            traceparent,
            next_check_ms,
        })
    }
}
