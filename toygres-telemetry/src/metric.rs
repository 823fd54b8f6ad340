//! Every metric there is: its name, kind, unit, meaning, buckets and labels. `docs/metrics.md` is made from this table.

/// What a number is, and how it is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only rises, and begins at zero with each process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// How many measurements were at most so large, for each of these bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Metrics that are switched on and off together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `DUROXIDE_METRICS_ORCHESTRATION`.
    Orchestration,
    /// `DUROXIDE_METRICS_ACTIVITY`.
    Activity,
    /// `DUROXIDE_METRICS_PROVIDER`.
    Provider,
    /// `DUROXIDE_METRICS_WORKER`.
    Worker,
    /// toygres's own: always on.
    Toygres,
}

/// What is known of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Its name, the same in OTLP and in Prometheus.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What switches it.
    pub family: Family,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it tells, with how it differs from duroxide's own series of that name.
    pub help: &'static str,
}

impl Definition {
    /// The unit by the name's ending, in UCUM's words. None for numbers of things: the collector would make a suffix
    /// of it.
    #[must_use]
    pub fn unit(&self) -> Option<&'static str> {
        let name = self.name.trim_end_matches("_total");
        [("_seconds", "s"), ("_bytes", "By")]
            .into_iter()
            .find_map(|(ending, unit)| name.ends_with(ending).then_some(unit))
    }
}

/// From a tenth of a second to an hour: orchestrations and operations.
const LONG: &[f64] = &[0.1, 0.5, 1., 2., 5., 10., 30., 60., 300., 600., 1800., 3600.];
/// From a hundredth of a second to five minutes: activities.
const MIDDLE: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1., 2., 5., 10., 30., 60., 120., 300.];
/// From a millisecond to five seconds: queries.
const SHORT: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1., 2., 5.];
/// OpenTelemetry's advice for HTTP servers
/// (<https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpserverrequestduration>).
const HTTP: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1., 2.5, 5., 7.5, 10.,
];
const EVENTS: &[f64] = &[10., 50., 100., 500., 1000., 5000., 10_000.];
const TURNS: &[f64] = &[1., 2., 5., 10., 20., 50., 100., 200., 500.];

macro_rules! metrics {
    ($($variant:ident: $kind:expr, $family:ident, $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// A metric.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)*
        }

        impl Metric {
            /// All of them, in the order of `docs/metrics.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// What is known of it.
            #[must_use]
            pub const fn definition(self) -> &'static Definition {
                const DEFINITIONS: &[Definition] = &[$(Definition {
                    name: $name,
                    kind: $kind,
                    family: Family::$family,
                    labels: &[$($label),*],
                    help: $help,
                }),*];
                &DEFINITIONS[self as usize]
            }
        }
    };
}

metrics! {
    OrchestrationStarts: Kind::Counter, Orchestration, "duroxide_orchestration_starts_total"
        ["orchestration_name", "version", "initiated_by"]
        "Executions of orchestrations that began, by who began them.";
    OrchestrationCompletions: Kind::Counter, Orchestration, "duroxide_orchestration_completions_total"
        ["orchestration_name", "version", "status", "final_turn_count"]
        "Orchestrations that ended; one that continues as new has not ended.";
    OrchestrationFailures: Kind::Counter, Orchestration, "duroxide_orchestration_failures_total"
        ["orchestration_name", "version", "error_type", "error_category"]
        "Orchestrations that failed, by what failed.";
    OrchestrationDuration: Kind::Histogram(LONG), Orchestration, "duroxide_orchestration_duration_seconds"
        ["orchestration_name", "version", "status"]
        "Time from the beginning of an execution to its end, by the clocks in its history; of those that continued as new too.";
    OrchestrationHistorySize: Kind::Histogram(EVENTS), Orchestration, "duroxide_orchestration_history_size"
        ["orchestration_name"]
        "Events in the history of an execution that ended.";
    OrchestrationTurns: Kind::Histogram(TURNS), Orchestration, "duroxide_orchestration_turns"
        ["orchestration_name"]
        "Turns of an execution that ended, counted in its history.";
    OrchestrationContinueAsNew: Kind::Counter, Orchestration, "duroxide_orchestration_continue_as_new_total"
        ["orchestration_name"]
        "Executions that ended by continuing as new.";
    OrchestrationExecutions: Kind::Counter, Orchestration, "duroxide_orchestration_executions_total"
        ["orchestration_name", "status"]
        "Executions that ended, in whatever way.";
    OrchestrationActiveInstances: Kind::Gauge, Orchestration, "duroxide_orchestration_active_instances"
        ["orchestration_name", "state"]
        "Orchestrations that have not ended: running has work to be done now, waiting waits. From the database, by one node.";
    ActiveOrchestrations: Kind::Gauge, Orchestration, "duroxide_active_orchestrations"
        []
        "Orchestrations that have not ended. From the database, by one node.";
    OrchestrationInfrastructureErrors: Kind::Counter, Orchestration, "duroxide_orchestration_infrastructure_errors_total"
        ["orchestration_name", "error_category"]
        "Orchestrations that failed by what they run on.";
    OrchestrationConfigurationErrors: Kind::Counter, Orchestration, "duroxide_orchestration_configuration_errors_total"
        ["orchestration_name", "error_category"]
        "Orchestrations that failed by how they are set up or programmed: nondeterminism among them.";
    OrchestrationPoison: Kind::Counter, Orchestration, "duroxide_orchestration_poison_total"
        ["orchestration_name"]
        "Orchestrations that were given up after too many attempts.";
    SuborchestrationCalls: Kind::Counter, Orchestration, "duroxide_suborchestration_calls_total"
        ["parent_orchestration", "child_orchestration", "outcome"]
        "Sub-orchestrations whose end their parent has seen.";
    SuborchestrationDuration: Kind::Histogram(LONG), Orchestration, "duroxide_suborchestration_duration_seconds"
        ["parent_orchestration", "child_orchestration", "outcome"]
        "Time from the call of a sub-orchestration to its end, as its parent saw them.";
    ClientOrchestrationStarts: Kind::Counter, Orchestration, "duroxide_client_orchestration_starts_total"
        ["orchestration_name"]
        "Orchestrations that a client asked to start. The same one asked for twice counts twice.";
    ClientExternalEventsRaised: Kind::Counter, Orchestration, "duroxide_client_external_events_raised_total"
        ["event_name"]
        "Messages that clients sent to orchestrations.";
    ClientCancellations: Kind::Counter, Orchestration, "duroxide_client_cancellations_total"
        []
        "Orchestrations that a client asked to cancel.";
    ClientWaitDuration: Kind::Histogram(LONG), Orchestration, "duroxide_client_wait_duration_seconds"
        []
        "Time that clients waited for the end of orchestrations.";
    ActivityExecutions: Kind::Counter, Activity, "duroxide_activity_executions_total"
        ["activity_name", "outcome", "retry_attempt"]
        "Tries of activities that ended: retry is a failure that is tried again.";
    ActivityDuration: Kind::Histogram(MIDDLE), Activity, "duroxide_activity_duration_seconds"
        ["activity_name", "outcome"]
        "Time that a try of an activity took.";
    ActivityErrors: Kind::Counter, Activity, "duroxide_activity_errors_total"
        ["activity_name", "error_type", "error_code", "retryable"]
        "Tries of activities that failed. With DUROXIDE_METRICS_INCLUDE_ERROR_MESSAGES there is a label error_message.";
    ActivityRetries: Kind::Counter, Activity, "duroxide_activity_retries_total"
        ["activity_name"]
        "Tries of activities after the first.";
    ActivityInfrastructureErrors: Kind::Counter, Activity, "duroxide_activity_infrastructure_errors_total"
        ["activity_name"]
        "Tries of activities that failed by what they run on.";
    ActivityConfigurationErrors: Kind::Counter, Activity, "duroxide_activity_configuration_errors_total"
        ["activity_name"]
        "Tries of activities that failed by how they are set up or programmed.";
    ActivityPoison: Kind::Counter, Activity, "duroxide_activity_poison_total"
        ["activity_name"]
        "Activities that were given up after too many attempts.";
    ProviderOperationDuration: Kind::Histogram(SHORT), Provider, "duroxide_provider_operation_duration_seconds"
        ["operation", "method", "status"]
        "Time of a call of the orchestration store. One that looked for work and found none is fetch_empty; one that its caller gave up is an error.";
    ProviderErrors: Kind::Counter, Provider, "duroxide_provider_errors_total"
        ["operation", "error_type"]
        "Calls of the orchestration store that failed.";
    ProviderRetries: Kind::Counter, Provider, "duroxide_provider_retries_total"
        ["operation"]
        "Calls of the orchestration store that were made again after a failure.";
    WorkerQueueDepth: Kind::Gauge, Worker, "duroxide_worker_queue_depth"
        ["worker_type"]
        "Items that could be worked on now. From the database, by one node.";
    WorkerQueueAge: Kind::Gauge, Worker, "duroxide_worker_queue_age_seconds"
        ["worker_type"]
        "How long the oldest item that could be worked on has waited. From the database, by one node.";
    WorkerProcessingRate: Kind::Gauge, Worker, "duroxide_worker_processing_rate"
        ["worker_type", "worker_id"]
        "Items that a worker slot finished a second, over the last ten seconds. In each process, work takes the lowest number that is free.";
    WorkerActiveTime: Kind::Counter, Worker, "duroxide_worker_active_time_seconds_total"
        ["worker_type"]
        "Time that worker slots of a process were busy.";
    WorkerCount: Kind::Gauge, Worker, "duroxide_worker_count"
        ["worker_type"]
        "Worker slots of a process.";
    Instances: Kind::Gauge, Toygres, "toygres_instances"
        ["state", "health"]
        "Instances that are not deleted. From the database, by one node.";
    Operations: Kind::Counter, Toygres, "toygres_operations_total"
        ["kind", "outcome"]
        "Operations that ended.";
    OperationDuration: Kind::Histogram(LONG), Toygres, "toygres_operation_duration_seconds"
        ["kind", "outcome"]
        "Time from the request of an operation to its end.";
    ProvisionPhaseDuration: Kind::Histogram(LONG), Toygres, "toygres_provision_phase_duration_seconds"
        ["phase"]
        "Time that a phase of making an instance took: deploy, wait_for_ready, test_connection, record.";
    HealthCheckDuration: Kind::Histogram(SHORT), Toygres, "toygres_health_check_duration_seconds"
        ["outcome"]
        "Time that a health check took.";
    HealthCheckAge: Kind::Gauge, Toygres, "toygres_health_check_age_seconds"
        []
        "Age of the oldest last health check of the instances that are watched. From the database, by one node.";
    Drift: Kind::Gauge, Toygres, "toygres_drift"
        ["kind"]
        "Differences between what should exist and what does. By one node.";
    TelemetryItems: Kind::Counter, Toygres, "toygres_telemetry_items_total"
        ["signal", "outcome"]
        "Logs, spans and metric exports that were delivered, and those that were lost.";
    HttpServerRequestDuration: Kind::Histogram(HTTP), Toygres, "http_server_request_duration_seconds"
        ["http_request_method", "http_route", "http_response_status_code"]
        "Time to answer a request of the API; of streams, until they begin.";
    DatabasePoolConnections: Kind::Gauge, Toygres, "toygres_database_pool_connections"
        ["state"]
        "Connections to the control database of a process: used, idle, and the most allowed (max).";
    ProcessCpu: Kind::Counter, Toygres, "process_cpu_seconds_total"
        []
        "Processor time of the process, of user and system.";
    ProcessMemory: Kind::Gauge, Toygres, "process_resident_memory_bytes"
        []
        "Memory of the process that is resident.";
    ProcessOpenFiles: Kind::Gauge, Toygres, "process_open_fds"
        []
        "Open file descriptors of the process.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_rules() {
        let mut names = BTreeSet::new();
        for metric in Metric::ALL {
            let Definition {
                name,
                kind,
                labels,
                help,
                ..
            } = metric.definition();
            assert!(names.insert(name), "{name} is there twice");
            let lower = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(lower(name) && labels.iter().all(|label| lower(label)), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(!name.ends_with("_ms") && help.ends_with('.'), "{name}");
            if let Kind::Histogram(bounds) = kind {
                assert!(bounds.is_sorted_by(|a, b| a < b), "{name}");
            }
            // An instance, a user or a token as a label would make series without end.
            for label in *labels {
                assert!(
                    !label.ends_with("_id") || *label == "worker_id",
                    "{name}: {label}"
                );
            }
        }
    }
}
