use super::shared::TRACES;
use crate::panel::{bars, heatmap, lines, ranking, table};
use crate::promql::{
    BAR, RANGE, SMOOTH, SPAN_DURATION, cells, counted, measured, only, only_other, or_none, part, quantile,
    rate, share, steady_quantile, sum, sum_by, top,
};
use crate::{Board, Dashboard};
use toygres_telemetry::metric::Metric;

/// The calls of the store that are made for work, without those that looked for some and found none.
const WORK: &str = r#"operation!="fetch_empty""#;

pub(super) fn dashboard() -> Dashboard {
    let work = only(Metric::ProviderOperationDuration, WORK);
    let pool = |state: &str| {
        let filter = format!("state=\"{state}\"");
        sum(only(Metric::DatabasePoolConnections, &filter))
    };
    let panels =
        vec![
        lines(
            "s",
            (
                "Is the store fast?",
                "95 of 100 calls of the orchestration store took at most this time, by what they are for.",
                "All of them: the control database or the way to it. Only ack: it waits for the disk.",
                Board::Workers,
            ),
        )
        .ask(steady_quantile(0.95, "operation", work.clone()), "{{operation}}")
        .good_below(0.1, 1.0),
        lines(
            "s",
            (
                "How slow are the slowest calls?",
                "99 of 100 calls of the orchestration store took at most this time, by what they are for.",
                "Compare with the number of connections in use: calls may wait for one.",
                Board::Workers,
            ),
        )
        .ask(steady_quantile(0.99, "operation", work.clone()), "{{operation}}")
        .good_below(0.5, 2.0),
        heatmap(
            "s",
            (
                "How are the times of calls spread?",
                "Each row is a range of durations of calls, each dot a trace that can be opened.",
                "A band far above the rest: open one of its dots.",
                Board::Traces,
            ),
        )
        .ask(cells(work.clone()), ""),
        ranking(
            "s",
            (
                "Which calls are slowest?",
                "95 of 100 calls of each method took at most this time.",
                "Look for its statement among the database's own statistics.",
                Board::Traces,
            ),
        )
        .ask(top(10, quantile(0.95, "method", work.clone(), RANGE)), "{{method}}"),
        lines(
            "ops",
            (
                "What is asked of the store?",
                "Calls a second. fetch_empty: it looked for work and found none.",
                "fetch_empty alone: there is nothing to do. fetch alone at its limit: there is more to do \
                 than workers.",
                Board::Workers,
            ),
        )
        .ask(
            sum_by("operation", rate(measured(Metric::ProviderOperationDuration))),
            "{{operation}}",
        ),
        lines(
            "percentunit",
            (
                "Which part of the calls fails?",
                "The part of the calls that failed. One that its caller gave up is an error too.",
                "See by what beside it. Single ones are tried again by themselves.",
                Board::Logs,
            ),
        )
        .ask(
            part(
                rate(measured(only(
                    Metric::ProviderOperationDuration,
                    r#"status="error""#,
                ))),
                rate(measured(Metric::ProviderOperationDuration)),
            ),
            "errors",
        )
        .good_below(0.01, 0.05),
        bars(
            "short",
            (
                "By what do calls fail?",
                "Calls that failed in each bar's time. deadlock and serialization pass by themselves.",
                "connection: the control database is away. timeout: it is overloaded. corruption: stop, and \
                 call a programmer.",
                Board::Logs,
            ),
        )
        .ask(
            or_none("error_type", sum_by("error_type", counted(Metric::ProviderErrors, BAR))),
            "{{error_type}}",
        ),
        bars(
            "short",
            (
                "Which calls are made again?",
                "Calls that were made again after a failure, by what they are for.",
                "Many: the store hides it, but all becomes slower. See by what they fail.",
                Board::Logs,
            ),
        )
        .ask(
            or_none("operation", sum_by("operation", counted(Metric::ProviderRetries, BAR))),
            "{{operation}}",
        ),
        table(
            "short",
            (
                "Which calls failed, and by what?",
                "Calls that failed in the time shown.",
                "Look for the lines of that time in the log.",
                Board::Logs,
            ),
        )
        .ask(
            or_none(
                "operation",
                sum_by("operation, error_type", counted(Metric::ProviderErrors, RANGE)),
            ),
            "failed",
        ),
        lines(
            "short",
            (
                "Are there connections enough?",
                "Connections to the control database of all processes: in use, idle, and the most allowed.",
                "In use at the most: calls wait for one. Raise the pool's size if the database has room.",
                Board::Workers,
            ),
        )
        .ask(
            sum_by("state", only(Metric::DatabasePoolConnections, "")),
            "{{state}}",
        ),
        lines(
            "percentunit",
            (
                "How full is the pool of connections?",
                "Connections in use, of the most allowed.",
                "Over 90 %: calls begin to wait; see which are slow.",
                Board::Workers,
            ),
        )
        .ask(share(pool("used"), pool("max")), "in use")
        .good_below(0.8, 0.95),
        lines(
            "short",
            (
                "Do histories grow?",
                "95 of 100 executions ended with at most so many events in their history.",
                "A line that rises from day to day: that orchestration should continue as new earlier.",
                Board::Orchestrations,
            ),
        )
        .ask(
            quantile(0.95, "orchestration_name", Metric::OrchestrationHistorySize, SMOOTH),
            "{{orchestration_name}}",
        )
        .good_below(500.0, 5000.0),
        ranking(
            "s",
            (
                "Which SQL statements are slowest?",
                "95 of 100 runs of each statement within a trace took at most this time, counted by the \
                 collector.",
                "Look for the statement in a slow trace: its text is an attribute of the span.",
                Board::Traces,
            ),
        )
        .ask(
            top(
                10,
                quantile(
                    0.95,
                    "span_name",
                    only_other(
                        SPAN_DURATION,
                        r#"service_name="toygres",span_kind="SPAN_KIND_CLIENT""#,
                    ),
                    RANGE,
                ),
            ),
            "{{span_name}}",
        )
        .with_traces(r#"{resource.service.name="toygres" && span.db.system.name!=nil && duration > 100ms}"#),
    ];
    Dashboard {
        board: Board::Storage,
        variables: Vec::new(),
        panels,
        logs: r#"{service_name="toygres"} | level=~"WARN|ERROR""#,
        traces: TRACES,
    }
}
