//! Records a health check and what follows from it; gives back what is wanted of the instance by now.

use crate::{Deps, Settings};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use toygres_engine::{Activity, ActivityContext};
use toygres_models::health::HealthCheck;
use toygres_models::instances::Endpoint;
use toygres_models::{Intent, Result, Scope};

/// See the module.
pub struct RecordHealthCheck;

/// The first pause after a failed check; it doubles with each further one, up to the usual interval.
const FIRST_RECHECK: Duration = Duration::from_secs(2);

/// What is recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Who records it.
    pub scope: Scope,
    /// The check.
    pub check: HealthCheck,
    /// Where the platform says it is.
    pub endpoint: Option<Endpoint>,
    /// Where clients outside the platform's network reach it, if there is such an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_endpoint: Option<Endpoint>,
}

/// What to do next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Output {
    /// What is wanted of the instance.
    pub intent: Intent,
    /// When to check again, in milliseconds from now.
    pub next_check_ms: u64,
}

impl Activity for RecordHealthCheck {
    const NAME: &'static str = "cms-record-health-check";
    type Deps = Deps;
    type Input = Input;
    type Output = Output;

    fn about(input: &Input) -> Option<&Scope> {
        Some(&input.scope)
    }

    async fn run(deps: &Deps, _: &ActivityContext, input: Input) -> Result<Output> {
        let intent = deps
            .cms
            .record_health_check(
                &input.scope,
                &input.check,
                input.endpoint.as_ref(),
                input.external_endpoint.as_ref(),
            )
            .await?;
        let next_check_ms = next_check_ms(&intent, &deps.settings);
        Ok(Output {
            intent,
            next_check_ms,
        })
    }
}

/// When to check again: up to a fifth sooner than said, so that actors do not march in step, and never later.
pub(crate) fn next_check_ms(intent: &Intent, settings: &Settings) -> u64 {
    let pause = pause_after(intent.failed_checks, settings.health_check_interval);
    let jittered = pause.mul_f64(rand::rng().random_range(0.8..1.0));
    u64::try_from(jittered.as_millis()).unwrap_or(u64::MAX)
}

fn pause_after(failed_checks: i32, interval: Duration) -> Duration {
    match u32::try_from(failed_checks) {
        Ok(0) | Err(_) => interval,
        Ok(failed) => FIRST_RECHECK
            .saturating_mul(2_u32.saturating_pow(failed - 1))
            .min(interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_instance_is_looked_at_sooner_but_ever_less_often() {
        let interval = Duration::from_secs(30);
        let pauses: Vec<u64> = (0..7)
            .map(|failed| pause_after(failed, interval).as_secs())
            .collect();
        assert_eq!(pauses, [30, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause_after(i32::MAX, interval), interval);
    }
}
