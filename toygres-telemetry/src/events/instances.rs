use super::Event;
use crate::metric::Metric;
use crate::recorder::{add, observe, record};
use std::time::Duration;

/// An operation on an instance ended.
#[derive(Debug, Clone, Copy)]
pub struct OperationEnded<'a> {
    /// `create`, `delete`, ...
    pub kind: &'a str,
    /// `succeeded`, `failed` or `cancelled`.
    pub outcome: &'a str,
    /// From the request to the end.
    pub duration: Duration,
}

impl Event for OperationEnded<'_> {
    fn emit(self) {
        let labels = [self.kind, self.outcome];
        add(Metric::Operations, 1.0, &labels);
        record(Metric::OperationDuration, self.duration.as_secs_f64(), &labels);
        tracing::info!(
            kind = self.kind,
            outcome = self.outcome,
            elapsed_ms = self.duration.as_millis() as u64,
            "an operation ended"
        );
    }
}

/// A phase of making an instance ended.
#[derive(Debug, Clone, Copy)]
pub struct PhaseEnded<'a> {
    /// `deploy`, `wait_for_ready`, `test_connection` or `record`.
    pub phase: &'a str,
    /// How long it took.
    pub duration: Duration,
}

impl Event for PhaseEnded<'_> {
    fn emit(self) {
        record(
            Metric::ProvisionPhaseDuration,
            self.duration.as_secs_f64(),
            &[self.phase],
        );
    }
}

/// The health of an instance was checked.
#[derive(Debug, Clone, Copy)]
pub struct HealthChecked {
    /// What was found.
    pub healthy: bool,
    /// How long it took.
    pub duration: Duration,
}

impl Event for HealthChecked {
    fn emit(self) {
        let outcome = if self.healthy { "healthy" } else { "unhealthy" };
        record(
            Metric::HealthCheckDuration,
            self.duration.as_secs_f64(),
            &[outcome],
        );
    }
}

/// All instances that are not deleted.
#[derive(Debug, Clone)]
pub struct FleetSeen {
    /// State, health, and how many.
    pub counts: Vec<(String, String, u64)>,
}

impl Event for FleetSeen {
    fn emit(self) {
        let points = self
            .counts
            .iter()
            .map(|(state, health, count)| (vec![state.as_str(), health.as_str()], *count as f64));
        observe(Metric::Instances, points);
    }
}

/// The last health checks of the instances that are watched.
#[derive(Debug, Clone, Copy)]
pub struct HealthChecksSeen {
    /// Age of the oldest of them; none without such an instance.
    pub oldest: Option<Duration>,
}

impl Event for HealthChecksSeen {
    fn emit(self) {
        let point = self.oldest.map(|age| (Vec::new(), age.as_secs_f64()));
        observe(Metric::HealthCheckAge, point);
    }
}

/// All differences between what should exist and what does.
#[derive(Debug, Clone)]
pub struct DriftSeen {
    /// Kind, and how many.
    pub counts: Vec<(String, u64)>,
}

impl Event for DriftSeen {
    fn emit(self) {
        let points = self
            .counts
            .iter()
            .map(|(kind, count)| (vec![kind.as_str()], *count as f64));
        observe(Metric::Drift, points);
    }
}

/// Another node tells from now on what is the same for all of them: this one's gauges of it end.
#[derive(Debug, Clone, Copy)]
pub struct ReportingEnded;

impl Event for ReportingEnded {
    fn emit(self) {
        for metric in [
            Metric::OrchestrationActiveInstances,
            Metric::ActiveOrchestrations,
            Metric::WorkerQueueDepth,
            Metric::WorkerQueueAge,
            Metric::Instances,
            Metric::HealthCheckAge,
            Metric::Drift,
        ] {
            observe(metric, []);
        }
    }
}

/// The pool of connections to the control database.
#[derive(Debug, Clone, Copy)]
pub struct PoolSeen {
    /// Connections that are used.
    pub used: usize,
    /// Connections that are not.
    pub idle: usize,
    /// The most allowed.
    pub max: u32,
}

impl Event for PoolSeen {
    fn emit(self) {
        let points = [
            ("used", self.used as f64),
            ("idle", self.idle as f64),
            ("max", f64::from(self.max)),
        ];
        let points = points.map(|(state, count)| (vec![state], count));
        observe(Metric::DatabasePoolConnections, points);
    }
}
