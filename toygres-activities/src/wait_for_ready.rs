//! Waits until an instance takes connections: for a while with a worker slot of its own, else one look.

use crate::Deps;
use crate::deps::{differences, reference};
use crate::step::{end_step, note_step};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use toygres_engine::{Activity, ActivityContext};
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_models::{Result, Scope};
use toygres_platform::Observation;

/// See the module.
pub struct WaitForReady;

/// How long one quick wait may hold its worker slot.
const QUICK_WAIT: Duration = Duration::from_secs(20);
/// How often a quick wait looks whether it is still wanted.
const SLICE: Duration = Duration::from_secs(1);

/// What to wait for, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Who asks.
    pub scope: Scope,
    /// Hold a worker slot and wait, if one of those set aside for that is free; else look once.
    pub quick: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Output {
    /// It takes connections.
    Ready {
        /// Where.
        endpoint: Endpoint,
        /// The data's own identity, where the platform can read it.
        system_identifier: Option<u64>,
    },
    /// Not yet.
    NotReady {
        /// Why.
        reason: Reason,
        /// The same as a sentence.
        message: String,
        /// Whether it is to be deployed again, which alone would help; none: the platform can't tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        differs: Option<bool>,
    },
}

impl Activity for WaitForReady {
    const NAME: &'static str = "wait-for-ready";
    const TIMEOUT: Duration = Duration::from_secs(30);
    type Deps = Deps;
    type Input = Input;
    type Output = Output;

    fn about(input: &Input) -> Option<&Scope> {
        Some(&input.scope)
    }

    async fn run(deps: &Deps, _: &ActivityContext, input: Input) -> Result<Output> {
        let scope = &input.scope;
        deps.cms.begin_step(scope, Self::NAME).await?;
        let provisioning = deps.provisioning(scope).await?;
        let instance = reference(&provisioning);
        let slot = if input.quick {
            deps.quick_waits.try_acquire().ok()
        } else {
            None
        };
        let begun = Instant::now();
        loop {
            let budget = if slot.is_some() { SLICE } else { Duration::ZERO };
            let found = match deps.platform.wait_ready(&instance, budget).await? {
                Observation::Ready(serving) => {
                    end_step(deps, scope, Self::NAME).await?;
                    return Ok(Output::Ready {
                        endpoint: serving.endpoint,
                        system_identifier: serving.system_identifier,
                    });
                }
                Observation::NotReady { reason, message } => (reason, message),
                Observation::Absent => (Reason::Stopped, "nothing of it is there yet".to_owned()),
            };
            // Also finds out that somebody wants the instance gone: then this ends as superseded.
            note_step(deps, scope, Self::NAME, found.0, &found.1).await?;
            let waiting_helps = matches!(found.0, Reason::Starting | Reason::Queued | Reason::VolumePending);
            if slot.is_none() || !waiting_helps || begun.elapsed() + SLICE > QUICK_WAIT {
                let differences = differences(deps, &provisioning).await;
                return Ok(Output::NotReady {
                    reason: found.0,
                    message: found.1,
                    differs: differences.map(|differences| !differences.is_empty()),
                });
            }
        }
    }
}
