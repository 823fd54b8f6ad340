//! Records that a new instance runs: the end of a create.

use crate::Deps;
use crate::step::tell_ended;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use toygres_engine::{Activity, ActivityContext};
use toygres_models::health::HealthCheck;
use toygres_models::instances::Endpoint;
use toygres_models::{Result, Scope};
use toygres_telemetry::Event;
use toygres_telemetry::events::PhaseEnded;

/// See the module.
pub struct RecordRunning;

/// What is recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Who records it.
    pub scope: Scope,
    /// Where it takes connections.
    pub endpoint: Endpoint,
    /// Where clients outside the platform's network reach it, if there is such an address by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_endpoint: Option<Endpoint>,
    /// The data's own identity: from now on nothing else is taken for this instance.
    pub system_identifier: Option<u64>,
    /// Its first health check.
    pub check: HealthCheck,
}

impl Activity for RecordRunning {
    const NAME: &'static str = "cms-record-running";
    type Deps = Deps;
    type Input = Input;
    type Output = ();

    fn about(input: &Input) -> Option<&Scope> {
        Some(&input.scope)
    }

    async fn run(deps: &Deps, _: &ActivityContext, input: Input) -> Result<()> {
        let begun = Instant::now();
        let ended = deps
            .cms
            .record_running(
                &input.scope,
                &input.endpoint,
                input.external_endpoint.as_ref(),
                input.system_identifier,
                &input.check,
            )
            .await?;
        tell_ended(&ended);
        PhaseEnded {
            phase: "record",
            duration: begun.elapsed(),
        }
        .emit();
        Ok(())
    }
}
