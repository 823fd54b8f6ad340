use super::{ErrorType, Event, label};
use crate::metric::Metric;
use crate::recorder::{add, observe, record};
use std::time::Duration;

label! {
    /// Who began an execution.
    InitiatedBy {
        /// A client.
        Client = "client",
        /// Another orchestration.
        SubOrchestration = "suborchestration",
        /// Its own execution before.
        ContinueAsNew = "continueAsNew",
        /// The sweeper, or somebody who retries.
        Signal = "signal",
    }
}

/// An execution of an orchestration began.
#[derive(Debug, Clone, Copy)]
pub struct ExecutionStarted<'a> {
    /// The orchestration's name in kebab case.
    pub orchestration_name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The id of the orchestration.
    pub orchestration_id: &'a str,
    /// Which execution it is, from 1.
    pub execution_id: u64,
    /// Who began it.
    pub initiated_by: InitiatedBy,
}

impl Event for ExecutionStarted<'_> {
    fn emit(self) {
        let labels = [self.orchestration_name, self.version, self.initiated_by.as_str()];
        add(Metric::OrchestrationStarts, 1.0, &labels);
        tracing::debug!(
            orchestration_name = self.orchestration_name,
            orchestration_id = self.orchestration_id,
            execution_id = self.execution_id,
            initiated_by = self.initiated_by.as_str(),
            "an execution began"
        );
    }
}

/// Why an orchestration failed.
#[derive(Debug, Clone, Copy)]
pub struct OrchestrationFailure<'a> {
    /// Its sort.
    pub error_type: ErrorType,
    /// What it is about, a bounded set: `database`, `network`, `kubernetes`, `logic`, `validation`, ...
    pub error_category: &'a str,
    /// The outward message.
    pub message: &'a str,
}

/// How an execution ended.
#[derive(Debug, Clone, Copy)]
pub enum ExecutionEnd<'a> {
    /// The orchestration is done.
    Success,
    /// The orchestration failed.
    Failed(OrchestrationFailure<'a>),
    /// Somebody cancelled it.
    Cancelled,
    /// It goes on with an empty history.
    ContinuedAsNew,
}

/// An execution of an orchestration ended.
#[derive(Debug, Clone, Copy)]
pub struct ExecutionEnded<'a> {
    /// The orchestration's name in kebab case.
    pub orchestration_name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The id of the orchestration.
    pub orchestration_id: &'a str,
    /// Which execution it was, from 1.
    pub execution_id: u64,
    /// How it ended.
    pub end: ExecutionEnd<'a>,
    /// From its beginning to its end.
    pub duration: Duration,
    /// Its turns.
    pub turns: u64,
    /// The events in its history.
    pub history_size: u64,
}

impl Event for ExecutionEnded<'_> {
    fn emit(self) {
        let Self {
            orchestration_name: name,
            version,
            end,
            duration,
            turns,
            history_size,
            ..
        } = self;
        let status = match end {
            ExecutionEnd::Success => "success",
            ExecutionEnd::Failed(_) => "failed",
            ExecutionEnd::Cancelled => "cancelled",
            ExecutionEnd::ContinuedAsNew => "continuedAsNew",
        };
        add(Metric::OrchestrationExecutions, 1.0, &[name, status]);
        let labels = [name, version, status];
        record(Metric::OrchestrationDuration, duration.as_secs_f64(), &labels);
        // Both are far below 2^53.
        record(Metric::OrchestrationTurns, turns as f64, &[name]);
        record(Metric::OrchestrationHistorySize, history_size as f64, &[name]);
        let of = (
            self.orchestration_id,
            self.execution_id,
            duration.as_millis() as u64,
        );
        let (orchestration_id, execution_id, elapsed_ms) = of;
        if let ExecutionEnd::ContinuedAsNew = end {
            add(Metric::OrchestrationContinueAsNew, 1.0, &[name]);
            tracing::debug!(
                orchestration_name = name,
                orchestration_id,
                execution_id,
                elapsed_ms,
                turns,
                "continued as new"
            );
            return;
        }
        let final_turn_count = match turns {
            0..=5 => "1-5",
            6..=10 => "6-10",
            11..=50 => "11-50",
            _ => "50+",
        };
        let labels = [name, version, status, final_turn_count];
        add(Metric::OrchestrationCompletions, 1.0, &labels);
        let ExecutionEnd::Failed(failure) = end else {
            tracing::info!(
                orchestration_name = name,
                orchestration_id,
                execution_id,
                elapsed_ms,
                turns,
                status,
                "an orchestration ended"
            );
            return;
        };
        let OrchestrationFailure {
            error_type,
            error_category,
            message,
        } = failure;
        tracing::warn!(
            orchestration_name = name,
            orchestration_id,
            execution_id,
            elapsed_ms,
            turns,
            error_type = error_type.as_str(),
            error_category,
            "an orchestration failed: {message}"
        );
        let labels = [name, version, error_type.as_str(), error_category];
        add(Metric::OrchestrationFailures, 1.0, &labels);
        match error_type {
            ErrorType::Infrastructure => add(
                Metric::OrchestrationInfrastructureErrors,
                1.0,
                &[name, error_category],
            ),
            ErrorType::Config | ErrorType::Nondeterminism => {
                add(
                    Metric::OrchestrationConfigurationErrors,
                    1.0,
                    &[name, error_category],
                );
            }
            ErrorType::Poison => add(Metric::OrchestrationPoison, 1.0, &[name]),
            ErrorType::App | ErrorType::Timeout => {}
        }
    }
}

/// A parent saw the end of a sub-orchestration.
#[derive(Debug, Clone, Copy)]
pub struct SubOrchestrationEnded<'a> {
    /// The parent's name in kebab case.
    pub parent_orchestration: &'a str,
    /// The child's name in kebab case.
    pub child_orchestration: &'a str,
    /// Whether it ended with an output.
    pub succeeded: bool,
    /// From the call to the end.
    pub duration: Duration,
}

impl Event for SubOrchestrationEnded<'_> {
    fn emit(self) {
        let outcome = if self.succeeded { "success" } else { "failed" };
        let labels = [self.parent_orchestration, self.child_orchestration, outcome];
        add(Metric::SuborchestrationCalls, 1.0, &labels);
        record(
            Metric::SuborchestrationDuration,
            self.duration.as_secs_f64(),
            &labels,
        );
    }
}

/// All orchestrations that have not ended, by name: those with work to do now, and those that wait.
#[derive(Debug, Clone)]
pub struct ActiveOrchestrationsSeen {
    /// Name in kebab case, how many run, how many wait.
    pub counts: Vec<(String, u64, u64)>,
}

impl Event for ActiveOrchestrationsSeen {
    fn emit(self) {
        let all: u64 = self
            .counts
            .iter()
            .map(|(_, running, waiting)| running + waiting)
            .sum();
        observe(Metric::ActiveOrchestrations, [(Vec::new(), all as f64)]);
        let points = self.counts.iter().flat_map(|(name, running, waiting)| {
            [("running", running), ("waiting", waiting)]
                .map(|(state, count)| (vec![name.as_str(), state], *count as f64))
        });
        observe(Metric::OrchestrationActiveInstances, points);
    }
}
