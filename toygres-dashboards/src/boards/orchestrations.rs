use crate::panel::{bars, gauge, heatmap, lines, ranking, spans, stat, table};
use crate::promql::{
    BAR, RANGE, SMOOTH, at_most, cells, counted, mean_by, measured, only, or_none, or_zero, quantile,
    success, sum, sum_by, told_by,
};
use crate::{Board, Dashboard, Variable};
use toygres_telemetry::metric::Metric;

const CHOSEN: &str = r#"orchestration_name=~"$orchestration""#;

pub(super) fn dashboard() -> Dashboard {
    let chosen = |metric| only(metric, CHOSEN);
    let ended = only(
        Metric::OrchestrationDuration,
        r#"orchestration_name=~"$orchestration",status=~"success|failed""#,
    );
    let long = format!(
        "{} - {}",
        sum(counted(measured(ended.clone()), RANGE)),
        sum(counted(at_most(ended.clone(), "300"), RANGE))
    );
    let panels = vec![
        gauge(
            "percentunit",
            (
                "Is it succeeding?",
                "The part of the chosen orchestrations that ended in the time shown which succeeded. The bar \
                 is 95 %.",
                "See the errors by type below, and open a failed trace.",
                Board::Traces,
            ),
        )
        .ask(success(CHOSEN, "", RANGE), "success")
        .good_from(0.9, 0.95),
        bars(
            "short",
            (
                "How does it end?",
                "Ends in each bar's time, by how.",
                "cancelled: somebody asked for it, or the sweeper replaced one that stood still.",
                Board::Logs,
            ),
        )
        .ask(
            or_none("status", sum_by("status", counted(chosen(Metric::OrchestrationCompletions), BAR))),
            "{{status}}",
        )
        .sized(9, 8),
        bars(
            "short",
            (
                "Who begins it, and how often?",
                "Executions that began in each bar's time. continueAsNew: the one before goes on; signal: \
                 the sweeper began it again.",
                "Many by signal: orchestrations of databases were gone or stood still; the log says which.",
                Board::Logs,
            ),
        )
        .ask(
            or_none(
                "initiated_by",
                sum_by("initiated_by", counted(chosen(Metric::OrchestrationStarts), BAR)),
            ),
            "{{initiated_by}}",
        )
        .sized(9, 8),
        lines(
            "s",
            (
                "How long does it take?",
                "Half, 95 and 99 of 100 of those that ended took at most this time.",
                "Compare with the activities below: what waits is mostly one of them.",
                Board::Activities,
            ),
        )
        .percentiles("", &ended, SMOOTH),
        heatmap(
            "s",
            (
                "How are its durations spread?",
                "Each row is a range of durations, each dot a trace that can be opened.",
                "Two bands: two sorts of runs. Open a dot of each and compare.",
                Board::Traces,
            ),
        )
        .ask(cells(ended), ""),
        table(
            "short",
            (
                "Why does it fail?",
                "Failures in the time shown, by sort and by what they were about.",
                "app_error: the work itself; infrastructure_error: what it runs on; config_error and \
                 nondeterminism: the program or its settings.",
                Board::Logs,
            ),
        )
        .ask(
            or_none(
                "error_type",
                sum_by(
                    "orchestration_name, error_type, error_category",
                    counted(chosen(Metric::OrchestrationFailures), RANGE),
                ),
            ),
            "failed",
        ),
        bars(
            "short",
            (
                "Is it our fault or that of what it runs on?",
                "Failures by what it runs on, by how it is set up or programmed, and those given up after \
                 too many attempts.",
                "Configuration and given up: a programmer is needed. Infrastructure: see the store and the \
                 cluster.",
                Board::Storage,
            ),
        )
        .ask(
            or_zero(sum(counted(chosen(Metric::OrchestrationInfrastructureErrors), BAR))),
            "infrastructure",
        )
        .ask(
            or_zero(sum(counted(chosen(Metric::OrchestrationConfigurationErrors), BAR))),
            "configuration",
        )
        .ask(or_zero(sum(counted(chosen(Metric::OrchestrationPoison), BAR))), "given up"),
        stat(
            "short",
            (
                "How many took longer than 5 minutes?",
                "Of those that ended in the time shown.",
                "Open the slow traces: the longest span says what was waited for.",
                Board::Traces,
            ),
        )
        .ask(or_zero(long), "longer")
        .good_if_none()
        .with_traces(
            r#"{resource.service.name="toygres" && span.orchestration_name=~"$orchestration" && trace:duration > 5m}"#,
        ),
        stat(
            "short",
            (
                "How many are active?",
                "The chosen ones that have not ended.",
                "See which of them have work to do and which wait.",
                Board::Active,
            ),
        )
        .ask(
            or_zero(sum(told_by(
                "orchestration_name, state",
                chosen(Metric::OrchestrationActiveInstances),
            ))),
            "active",
        ),
        stat(
            "short",
            (
                "How many turns does an execution take?",
                "95 of 100 executions took at most so many turns.",
                "A number that grows: it loops without continuing as new.",
                Board::Storage,
            ),
        )
        .ask(quantile(0.95, "", chosen(Metric::OrchestrationTurns), RANGE), "p95")
        .good_below(100.0, 500.0),
        stat(
            "short",
            (
                "How large does its history become?",
                "95 of 100 executions ended with at most so many events in their history.",
                "Thousands: each turn reads all of it. It should continue as new earlier.",
                Board::Storage,
            ),
        )
        .ask(quantile(0.95, "", chosen(Metric::OrchestrationHistorySize), RANGE), "p95")
        .good_below(500.0, 5000.0),
        bars(
            "short",
            (
                "Does it continue as new?",
                "Executions that ended in each bar's time, by how; continuedAsNew: it goes on with an empty \
                 history.",
                "An orchestration that lives long and never continues as new will slow down.",
                Board::Storage,
            ),
        )
        .ask(
            or_none(
                "status",
                sum_by("status", counted(chosen(Metric::OrchestrationExecutions), BAR)),
            ),
            "{{status}}",
        )
        .ask(
            or_zero(sum(counted(chosen(Metric::OrchestrationContinueAsNew), BAR))),
            "continued as new, counted apart",
        ),
        table(
            "short",
            (
                "Which versions run?",
                "Executions that began in the time shown, by version.",
                "An old version that still begins: a node of an older release is at work.",
                Board::Workers,
            ),
        )
        .ask(
            sum_by(
                "orchestration_name, version",
                counted(chosen(Metric::OrchestrationStarts), RANGE),
            ),
            "began",
        ),
        table(
            "short",
            (
                "Which orchestrations does it call, and how do they end?",
                "Sub-orchestrations whose end their parent has seen in the time shown, and how long they \
                 took on average.",
                "A child that fails fails its parent: choose the child above and see its errors.",
                Board::Traces,
            ),
        )
        .ask(
            or_none(
                "child_orchestration",
                sum_by(
                    "parent_orchestration, child_orchestration, outcome",
                    counted(
                        only(
                            Metric::SuborchestrationCalls,
                            r#"parent_orchestration=~"$orchestration""#,
                        ),
                        RANGE,
                    ),
                ),
            ),
            "calls",
        )
        .column(
            "s",
            or_none(
                "child_orchestration",
                mean_by(
                    "parent_orchestration, child_orchestration, outcome",
                    only(
                        Metric::SuborchestrationDuration,
                        r#"parent_orchestration=~"$orchestration""#,
                    ),
                    RANGE,
                ),
            ),
            "average",
        ),
        bars(
            "short",
            (
                "What do clients ask of it?",
                "Starts that clients asked for, messages they sent and cancellations they asked for, in each \
                 bar's time. Messages and cancellations are of all orchestrations.",
                "Starts far above its executions: the same one is asked for again and again.",
                Board::Production,
            ),
        )
        .ask(
            or_zero(sum(counted(chosen(Metric::ClientOrchestrationStarts), BAR))),
            "starts",
        )
        .ask(or_zero(sum(counted(Metric::ClientExternalEventsRaised, BAR))), "messages")
        .ask(or_zero(sum(counted(Metric::ClientCancellations, BAR))), "cancellations"),
        ranking(
            "s",
            (
                "Which of the activities take longest?",
                "95 of 100 tries of each activity took at most this time. Metrics don't say for which \
                 orchestration: the spans below do.",
                "Open the dashboard of the slowest.",
                Board::Activities,
            ),
        )
        .ask(
            quantile(
                0.95,
                "activity_name",
                only(Metric::ActivityDuration, r#"activity_name=~"$activity""#),
                RANGE,
            ),
            "{{activity_name}}",
        ),
        spans((
            "Which activities did it run lately?",
            "Spans of activities of the chosen orchestrations, in the traces that are kept.",
            "Open one: the trace shows what was called and how long each call took.",
            Board::Traces,
        ))
        .ask(
            r#"{resource.service.name="toygres" && span.orchestration_name=~"$orchestration" && span.activity_name=~"$activity"} | select(span.activity_name, span.orchestration_name)"#,
            "",
        ),
    ];
    Dashboard {
        board: Board::Orchestrations,
        variables: vec![Variable::Orchestration, Variable::Activity],
        panels,
        logs: r#"{service_name="toygres"} | orchestration_name=~"$orchestration" | level=~"WARN|ERROR""#,
        traces: r#"{resource.service.name="toygres" && name=~"$orchestration"}"#,
    }
}
