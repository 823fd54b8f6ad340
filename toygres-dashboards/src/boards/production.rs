use super::shared::{self, FAILED, TRACES, TROUBLE};
use crate::panel::{bars, heatmap, lines, ranking, table};
use crate::promql::{
    BAR, RANGE, SMOOTH, cells, counted, measured, only, or_none, part, quantile, success, sum_by, top,
};
use crate::{Board, Dashboard, Variable};
use toygres_telemetry::metric::Metric;

const CHOSEN: &str = r#"orchestration_name=~"$orchestration""#;

pub(super) fn dashboard() -> Dashboard {
    let ended = only(
        Metric::OrchestrationDuration,
        r#"orchestration_name=~"$orchestration",status=~"success|failed""#,
    );
    let http = measured(Metric::HttpServerRequestDuration);
    let http_errors = only(
        Metric::HttpServerRequestDuration,
        r#"http_response_status_code=~"5..""#,
    );
    let panels =
        vec![
        shared::success(),
        lines(
            "percentunit",
            (
                "Which orchestration stopped succeeding, and when?",
                "The part of each orchestration's ends that were a success.",
                "Choose the one that fell in the dashboard about orchestrations, and see its errors.",
                Board::Orchestrations,
            ),
        )
        .ask(success(CHOSEN, "orchestration_name", SMOOTH), "{{orchestration_name}}")
        .good_from(0.9, 0.95)
        .sized(18, 8)
        .with_traces(FAILED),
        bars(
            "short",
            (
                "How many orchestrations begin and end?",
                "Orchestrations that began and that ended in each bar's time; those that continue as new do \
                 neither.",
                "More that begin than end, for long: see whether the workers keep up.",
                Board::Workers,
            ),
        )
        .ask(
            shared::began(),
            "began",
        )
        .ask(
            or_none(
                "status",
                sum_by("status", counted(only(Metric::OrchestrationCompletions, CHOSEN), BAR)),
            ),
            "ended: {{status}}",
        ),
        shared::failures(),
        lines(
            "s",
            (
                "How long do orchestrations take?",
                "Half, 95 and 99 of 100 of those that ended took at most this time.",
                "Only p99 is high: single ones, look at their traces. All are high: see the activities and \
                 the store.",
                Board::Activities,
            ),
        )
        .percentiles("", &ended, SMOOTH),
        heatmap(
            "s",
            (
                "Are all slow, or only some?",
                "How the durations of the orchestrations that ended are spread. Each dot is a trace that can \
                 be opened.",
                "Open a dot in the upper rows: the trace shows which activity took the time.",
                Board::Activities,
            ),
        )
        .ask(cells(ended), ""),
        ranking(
            "s",
            (
                "Which activities are slowest?",
                "95 of 100 tries of each activity took at most this time.",
                "Take the first that is not a wait by design; wait-for-ready waits for the database to \
                 start.",
                Board::Activities,
            ),
        )
        .ask(
            top(
                10,
                quantile(
                    0.95,
                    "activity_name",
                    only(Metric::ActivityDuration, r#"activity_name=~"$activity""#),
                    RANGE,
                ),
            ),
            "{{activity_name}}",
        ),
        table(
            "short",
            (
                "What failed, and by what?",
                "Orchestrations that failed in the time shown, by name, sort of error and what it was about.",
                "Take the row with the most, and look for its lines in the log.",
                Board::Logs,
            ),
        )
        .ask(
            or_none(
                "orchestration_name",
                sum_by(
                    "orchestration_name, error_type, error_category",
                    counted(only(Metric::OrchestrationFailures, CHOSEN), RANGE),
                ),
            ),
            "failed",
        )
        .with_traces(FAILED),
        bars(
            "short",
            (
                "How do tries of activities end?",
                "Tries of activities in each bar's time. retry: it failed and is tried again.",
                "Many retries of one activity: what it calls is not well.",
                Board::Activities,
            ),
        )
        .ask(
            or_none(
                "outcome",
                sum_by(
                    "outcome",
                    counted(only(Metric::ActivityExecutions, r#"activity_name=~"$activity""#), BAR),
                ),
            ),
            "{{outcome}}",
        ),
        shared::created(),
        bars(
            "short",
            (
                "What is asked of the API?",
                "Requests in each bar's time, by route.",
                "One route far above its usual: look for the client in its traces.",
                Board::Traces,
            ),
        )
        .ask(sum_by("http_route", counted(http.clone(), BAR)), "{{http_route}}"),
        lines(
            "s",
            (
                "How fast does the API answer?",
                "95 of 100 answers of each route took at most this time; of streams, until they begin.",
                "All routes: the control database or the machine. One: open its slow traces.",
                Board::Traces,
            ),
        )
        .ask(
            quantile(0.95, "http_route", Metric::HttpServerRequestDuration, SMOOTH),
            "{{http_route}}",
        )
        .good_below(0.5, 2.0),
        lines(
            "percentunit",
            (
                "Does the API answer with errors of its own?",
                "The part of the answers with a status of 500 or above.",
                "Look for the requests in the log: each answer of this sort names its trace.",
                Board::Logs,
            ),
        )
        .ask(
            part(counted(measured(http_errors), SMOOTH), counted(http, SMOOTH)),
            "errors",
        )
        .good_below(0.01, 0.05)
        .with_traces(FAILED),
        shared::queue_age().sized(12, 8),
    ];
    Dashboard {
        board: Board::Production,
        variables: vec![Variable::Orchestration, Variable::Activity],
        panels,
        logs: TROUBLE,
        traces: TRACES,
    }
}
