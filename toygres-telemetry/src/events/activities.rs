use super::{Event, label};
use crate::metric::Metric;
use crate::recorder::{self, add, add_with, record};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

label! {
    /// How a try of an activity ended.
    ActivityOutcome {
        /// With an output.
        Success = "success",
        /// By the work itself.
        AppError = "app_error",
        /// By what it runs on.
        InfraError = "infra_error",
        /// By how it is set up or programmed.
        ConfigError = "config_error",
        /// It took too long.
        Timeout = "timeout",
        /// Nobody waited for it any more.
        Cancelled = "cancelled",
        /// It failed and is tried again.
        Retry = "retry",
    }
}

label! {
    /// The broad sort of a failure.
    ErrorType {
        /// The work itself.
        App = "app_error",
        /// What it runs on.
        Infrastructure = "infrastructure_error",
        /// How it is set up or programmed.
        Config = "config_error",
        /// Time.
        Timeout = "timeout",
        /// Orchestrations: their code does not do the same again.
        Nondeterminism = "nondeterminism",
        /// Given up after too many attempts.
        Poison = "poison",
    }
}

/// Why a try failed.
#[derive(Debug, Clone, Copy)]
pub struct FailedTry<'a> {
    /// Its sort.
    pub error_type: ErrorType,
    /// A stable word.
    pub code: &'a str,
    /// The outward message.
    pub message: &'a str,
    /// What only operators may read.
    pub detail: Option<&'a str>,
    /// Whether another try may help.
    pub retryable: bool,
}

/// A try of an activity ended.
#[derive(Debug, Clone, Copy)]
pub struct ActivityEnded<'a> {
    /// The activity's name in kebab case.
    pub activity_name: &'static str,
    /// How it ended.
    pub outcome: ActivityOutcome,
    /// Which try it was, from 1.
    pub attempt: u32,
    /// How long it took.
    pub duration: Duration,
    /// Why it failed, if it did.
    pub error: Option<FailedTry<'a>>,
}

impl Event for ActivityEnded<'_> {
    fn emit(self) {
        let Self {
            activity_name,
            outcome,
            attempt,
            duration,
            error,
        } = self;
        let retry_attempt = match attempt {
            0 | 1 => "0",
            2 => "1",
            3 => "2",
            _ => "3+",
        };
        // Failures are never left out.
        let times = match outcome {
            ActivityOutcome::Success => sampled(activity_name),
            _ => 1,
        };
        if times > 0 {
            let labels = [activity_name, outcome.as_str(), retry_attempt];
            add(Metric::ActivityExecutions, f64::from(times), &labels);
        }
        for _ in 0..times {
            record(
                Metric::ActivityDuration,
                duration.as_secs_f64(),
                &[activity_name, outcome.as_str()],
            );
        }
        if attempt > 1 {
            add(Metric::ActivityRetries, 1.0, &[activity_name]);
        }
        let Some(error) = error else {
            tracing::debug!(
                attempt,
                outcome = outcome.as_str(),
                elapsed_ms = duration.as_millis() as u64,
                "activity done"
            );
            return;
        };
        tracing::warn!(
            attempt,
            outcome = outcome.as_str(),
            code = error.code,
            detail = error.detail,
            "activity failed: {}",
            error.message
        );
        let retryable = if error.retryable { "true" } else { "false" };
        let labels = [activity_name, error.error_type.as_str(), error.code, retryable];
        let told = recorder::config().include_error_messages;
        let message = told.then_some(("error_message", error.message));
        add_with(Metric::ActivityErrors, 1.0, &labels, message);
        match error.error_type {
            ErrorType::Infrastructure => add(Metric::ActivityInfrastructureErrors, 1.0, &[activity_name]),
            ErrorType::Config => add(Metric::ActivityConfigurationErrors, 1.0, &[activity_name]),
            ErrorType::App | ErrorType::Timeout | ErrorType::Nondeterminism | ErrorType::Poison => {}
        }
    }
}

/// How many successes of this activity this one stands for: every n-th stands for n, the others for none.
fn sampled(activity_name: &'static str) -> u32 {
    let every = recorder::config().sample_every;
    if every == 1 {
        return 1;
    }
    static SEEN: OnceLock<Mutex<HashMap<&'static str, u32>>> = OnceLock::new();
    let seen = SEEN.get_or_init(Mutex::default);
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let count = seen.entry(activity_name).or_default();
    *count += 1;
    if *count < every {
        return 0;
    }
    *count = 0;
    every
}

/// An activity was given up after too many attempts: it was never registered here, or ends the process each time.
#[derive(Debug, Clone, Copy)]
pub struct ActivityPoisoned<'a> {
    /// The activity's name in kebab case.
    pub activity_name: &'a str,
    /// Whose activity it was.
    pub orchestration_id: &'a str,
}

impl Event for ActivityPoisoned<'_> {
    fn emit(self) {
        add(Metric::ActivityPoison, 1.0, &[self.activity_name]);
        tracing::error!(
            activity_name = self.activity_name,
            orchestration_id = self.orchestration_id,
            "an activity is given up after too many attempts"
        );
    }
}
