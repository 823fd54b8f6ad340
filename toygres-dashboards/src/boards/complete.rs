use super::shared::{TRACES, TROUBLE};
use crate::panel::{Panel, Words, bars, heading, lines};
use crate::promql::{
    BAR, SMOOTH, counted, measured, only, or_none, or_zero, quantile, sum, sum_by, told, told_by,
};
use crate::{Board, Dashboard};
use toygres_telemetry::metric::{Definition, Family, Kind, Metric};

pub(super) fn dashboard() -> Dashboard {
    let families = [
        (Family::Orchestration, "Orchestrations"),
        (Family::Activity, "Activities"),
        (Family::Provider, "Orchestration store"),
        (Family::Worker, "Workers"),
        (Family::Toygres, "toygres"),
    ];
    let panels = families.into_iter().flat_map(|(family, name)| {
        let metrics = Metric::ALL
            .iter()
            .filter(move |metric| metric.definition().family == family);
        std::iter::once(heading(name)).chain(metrics.map(|metric| panel(*metric)))
    });
    Dashboard {
        board: Board::Complete,
        variables: Vec::new(),
        panels: panels.collect(),
        logs: TROUBLE,
        traces: TRACES,
    }
}

fn panel(metric: Metric) -> Panel {
    let definition = metric.definition();
    let Definition {
        name, labels, help, ..
    } = definition;
    let (question, act, next) = about(metric);
    let means = format!("`{name}`. {help}");
    let words: Words<'_> = (question, &means, act, next);
    let unit = match definition.unit() {
        Some("By") => "bytes",
        Some(unit) => unit,
        None => "short",
    };
    let legend = match labels {
        [] => name.to_string(),
        labels => labels
            .iter()
            .map(|label| format!("{{{{{label}}}}}"))
            .collect::<Vec<_>>()
            .join(" "),
    };
    let by = labels.join(", ");
    let panel = match (definition.kind, labels.first()) {
        (Kind::Counter, None) => bars(unit, words).ask(or_zero(sum(counted(metric, BAR))), &legend),
        (Kind::Counter, Some(first)) => {
            bars(unit, words).ask(or_none(first, sum_by(&by, counted(metric, BAR))), &legend)
        }
        (Kind::Gauge, first) => {
            let is_told = help.to_lowercase().ends_with("by one node.");
            let of = match (is_told, first) {
                (true, None) => told(metric),
                (true, Some(_)) => told_by(&by, metric),
                (false, None) => sum(only(metric, "")),
                (false, Some(_)) => sum_by(&by, only(metric, "")),
            };
            // No differences, no databases: no series.
            let of = match (metric, first) {
                (Metric::Drift | Metric::Instances, Some(first)) => or_none(first, of),
                _ => of,
            };
            lines(unit, words).ask(of, &legend)
        }
        (Kind::Histogram(_), first) => {
            let first = first.copied().unwrap_or_default();
            let legend = if first.is_empty() {
                "p95"
            } else {
                &format!("p95 {{{{{first}}}}}")
            };
            lines(unit, words)
                .ask(quantile(0.95, first, metric, SMOOTH), legend)
                .column(
                    "short",
                    or_zero(sum(counted(measured(metric), SMOOTH))),
                    "measurements",
                )
        }
    };
    let panel = panel.sized(8, 7);
    match metric {
        Metric::HealthCheckAge => panel.may_be_empty("there is no database to watch"),
        _ => panel,
    }
}

/// The question that a metric answers, what to do when it looks bad, and where to look next: a new metric must have one.
fn about(metric: Metric) -> (&'static str, &'static str, Board) {
    match metric {
        Metric::OrchestrationStarts => (
            "How many executions begin?",
            "Many by signal: the sweeper had to begin them again.",
            Board::Orchestrations,
        ),
        Metric::OrchestrationCompletions => (
            "How do orchestrations end?",
            "failed: see by what. Many turns: it should continue as new.",
            Board::Orchestrations,
        ),
        Metric::OrchestrationFailures => (
            "Why do orchestrations fail?",
            "Take the type and category with the most, and read its lines in the log.",
            Board::Production,
        ),
        Metric::OrchestrationDuration => (
            "How long do executions take?",
            "See which activity takes the time.",
            Board::Orchestrations,
        ),
        Metric::OrchestrationHistorySize => (
            "How large do histories become?",
            "Thousands of events: it should continue as new earlier.",
            Board::Storage,
        ),
        Metric::OrchestrationTurns => (
            "How many turns do executions take?",
            "Growing: a loop that does not continue as new.",
            Board::Orchestrations,
        ),
        Metric::OrchestrationContinueAsNew => (
            "Do those that live long continue as new?",
            "None for long while databases exist: their watchers stand still.",
            Board::Active,
        ),
        Metric::OrchestrationExecutions => (
            "How do executions end?",
            "failed: see by what.",
            Board::Orchestrations,
        ),
        Metric::OrchestrationActiveInstances => (
            "Which orchestrations are active, and do they wait?",
            "running for long while workers are idle: they stand still.",
            Board::Active,
        ),
        Metric::ActiveOrchestrations => (
            "How many orchestrations have not ended?",
            "Rising without end: see which.",
            Board::Active,
        ),
        Metric::OrchestrationInfrastructureErrors => (
            "Which orchestrations fail by what they run on?",
            "See the control database and the cluster.",
            Board::Storage,
        ),
        Metric::OrchestrationConfigurationErrors => (
            "Which orchestrations fail by how they are set up?",
            "A setting, a permission, or code that changed under a running orchestration: a programmer is \
             needed.",
            Board::Logs,
        ),
        Metric::OrchestrationPoison => (
            "Which orchestrations were given up?",
            "Keep the log and call a programmer: they end the process or are not known to a node.",
            Board::Logs,
        ),
        Metric::SuborchestrationCalls => (
            "How do sub-orchestrations end?",
            "failed: choose the child in the dashboard about orchestrations.",
            Board::Orchestrations,
        ),
        Metric::SuborchestrationDuration => (
            "How long do sub-orchestrations take?",
            "Choose the child in the dashboard about orchestrations.",
            Board::Orchestrations,
        ),
        Metric::ClientOrchestrationStarts => (
            "What do clients ask to start?",
            "Far above the executions: the same one is asked for again and again.",
            Board::Production,
        ),
        Metric::ClientExternalEventsRaised => (
            "What messages do clients send?",
            "None though users change databases: the watchers learn of it only later.",
            Board::Active,
        ),
        Metric::ClientCancellations => (
            "How often is cancelling asked for?",
            "Many: somebody, or the sweeper, replaces what stands still; the log says who.",
            Board::Logs,
        ),
        Metric::ClientWaitDuration => (
            "How long do clients wait?",
            "See which orchestrations became slower.",
            Board::Orchestrations,
        ),
        Metric::ActivityExecutions => (
            "How do tries of activities end?",
            "See the activity with the most that are no success.",
            Board::Activities,
        ),
        Metric::ActivityDuration => (
            "How long do activities take?",
            "Open a trace of the slowest.",
            Board::Activities,
        ),
        Metric::ActivityErrors => (
            "Why do activities fail?",
            "retryable=false needs somebody to act; look for the code in the log.",
            Board::Logs,
        ),
        Metric::ActivityRetries => (
            "Which activities have to be tried again?",
            "See by what their first tries fail.",
            Board::Activities,
        ),
        Metric::ActivityInfrastructureErrors => (
            "Which activities fail by what they run on?",
            "See the control database and the cluster.",
            Board::Storage,
        ),
        Metric::ActivityConfigurationErrors => (
            "Which activities fail by how they are set up?",
            "See the settings and permissions that the log names.",
            Board::Logs,
        ),
        Metric::ActivityPoison => (
            "Which activities were given up?",
            "Compare the versions of the nodes; keep the log.",
            Board::Logs,
        ),
        Metric::ProviderOperationDuration => (
            "How fast is the orchestration store?",
            "All slow: the control database. One: its statement.",
            Board::Storage,
        ),
        Metric::ProviderErrors => (
            "Why do calls of the store fail?",
            "connection: the control database is away; timeout: it is overloaded.",
            Board::Storage,
        ),
        Metric::ProviderRetries => (
            "Which calls of the store are made again?",
            "See by what they fail.",
            Board::Storage,
        ),
        Metric::WorkerQueueDepth => (
            "How much work waits?",
            "Rising: more workers, or faster activities.",
            Board::Workers,
        ),
        Metric::WorkerQueueAge => (
            "How long has work waited?",
            "Over a minute: see whether workers are busy or stand still.",
            Board::Workers,
        ),
        Metric::WorkerProcessingRate => (
            "How much does each worker slot get done?",
            "Falling while work waits: each item takes longer.",
            Board::Workers,
        ),
        Metric::WorkerActiveTime => (
            "How long were workers busy?",
            "As long as all slots have time: add some.",
            Board::Workers,
        ),
        Metric::WorkerCount => (
            "How many worker slots are there?",
            "Fewer than expected: a process is gone.",
            Board::Workers,
        ),
        Metric::Instances => (
            "How many databases are there, and how are they?",
            "degraded or failed: read the log of one.",
            Board::Fleet,
        ),
        Metric::Operations => (
            "How do operations end?",
            "failed: `toygres operations` lists them with their errors.",
            Board::Fleet,
        ),
        Metric::OperationDuration => (
            "How long do operations take?",
            "See which phase takes the time.",
            Board::Fleet,
        ),
        Metric::ProvisionPhaseDuration => (
            "How long does each phase of making a database take?",
            "deploy: the platform; wait_for_ready: image, scheduling, volume.",
            Board::Fleet,
        ),
        Metric::HealthCheckDuration => (
            "How long do health checks take?",
            "All slower: the network or the machine.",
            Board::Fleet,
        ),
        Metric::HealthCheckAge => (
            "Are health checks on time?",
            "Rising in a straight line: one database is not checked any more.",
            Board::Fleet,
        ),
        Metric::Drift => (
            "Is there anything that should not be?",
            "`toygres server drift` lists the differences and puts them right.",
            Board::Fleet,
        ),
        Metric::TelemetryItems => (
            "Is telemetry delivered?",
            "lost: the collector was away for too long, or is too slow.",
            Board::Workers,
        ),
        Metric::HttpServerRequestDuration => (
            "How fast does the API answer?",
            "See which route is slow.",
            Board::Production,
        ),
        Metric::DatabasePoolConnections => (
            "Are there connections enough?",
            "used at max: calls wait for one.",
            Board::Storage,
        ),
        Metric::ProcessCpu => (
            "How much processor time is used?",
            "As much as the machine has: add one.",
            Board::Workers,
        ),
        Metric::ProcessMemory => (
            "How much memory is used?",
            "Rising day by day at the same load: tell its programmers.",
            Board::Workers,
        ),
        Metric::ProcessOpenFiles => (
            "How many files are open?",
            "Near the limit of the system: connections are not given back.",
            Board::Workers,
        ),
    }
}
