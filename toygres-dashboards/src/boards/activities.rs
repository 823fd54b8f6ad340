use crate::panel::{bars, heatmap, lines, ranking, stat, table, traces};
use crate::promql::{
    BAR, RANGE, SMOOTH, cells, counted, mean_by, only, or_none, or_zero, quantile, share, sum, sum_by, top,
    total,
};
use crate::{Board, Dashboard, Variable};
use toygres_telemetry::metric::Metric;

const CHOSEN: &str = r#"activity_name=~"$activity""#;

pub(super) fn dashboard() -> Dashboard {
    let chosen = |metric| only(metric, CHOSEN);
    let tries = |filter: &str| {
        let filter = format!("{CHOSEN},{filter}");
        sum_by(
            "activity_name",
            counted(only(Metric::ActivityExecutions, &filter), SMOOTH),
        )
    };
    let all = sum_by(
        "activity_name",
        counted(chosen(Metric::ActivityExecutions), SMOOTH),
    );
    // An activity that never fails has no such series.
    let part = |filter: &str| share(format!("({} or {all} * 0)", tries(filter)), &all);
    let panels =
        vec![
        stat(
            "short",
            (
                "How many tries were there?",
                "Tries of the chosen activities that ended in the time shown.",
                "None where work is expected: the workers stand still, or there is nothing to do.",
                Board::Workers,
            ),
        )
        .ask(or_zero(sum(counted(chosen(Metric::ActivityExecutions), RANGE))), "tries"),
        stat(
            "short",
            (
                "How many tries failed?",
                "Tries that failed in the time shown, those that were tried again among them.",
                "See by what below.",
                Board::Logs,
            ),
        )
        .ask(or_zero(sum(counted(chosen(Metric::ActivityErrors), RANGE))), "failed")
        .good_below(1.0, 10.0),
        stat(
            "short",
            (
                "How often did a try take too long?",
                "Tries that ended by their time limit.",
                "What the activity calls is slow or does not answer: see the spans beneath it.",
                Board::Traces,
            ),
        )
        .ask(
            or_zero(sum(counted(
                only(Metric::ActivityExecutions, r#"activity_name=~"$activity",outcome="timeout""#),
                RANGE,
            ))),
            "timed out",
        )
        .good_if_none(),
        stat(
            "short",
            (
                "Was any given up?",
                "Activities that were given up after too many attempts: not registered on a node, or one \
                 that ends the process.",
                "Look for `given up` in the log; compare the versions of the nodes.",
                Board::Logs,
            ),
        )
        .ask(or_zero(sum(counted(chosen(Metric::ActivityPoison), RANGE))), "given up")
        .good_if_none(),
        heatmap(
            "s",
            (
                "How are the durations spread?",
                "Each row is a range of durations of tries, each dot a trace that can be opened.",
                "Open a dot in the upper rows.",
                Board::Traces,
            ),
        )
        .ask(cells(chosen(Metric::ActivityDuration)), ""),
        lines(
            "s",
            (
                "Which activity became slower, and when?",
                "95 of 100 tries of each activity took at most this time.",
                "One alone: what it calls. All at once: the machine or the network.",
                Board::Traces,
            ),
        )
        .ask(
            quantile(0.95, "activity_name", chosen(Metric::ActivityDuration), SMOOTH),
            "{{activity_name}}",
        ),
        ranking(
            "s",
            (
                "Which should be made faster first?",
                "All time that the tries of each activity took together, in the time shown: long ones and \
                 frequent ones.",
                "Take the first. Waits by design count as well: compare with the phases of making a \
                 database.",
                Board::Fleet,
            ),
        )
        .ask(
            top(
                10,
                sum_by(
                    "activity_name",
                    counted(total(chosen(Metric::ActivityDuration)), RANGE),
                ),
            ),
            "{{activity_name}}",
        ),
        table(
            "s",
            (
                "How long does each take?",
                "Half, 95 and 99 of 100 tries took at most this time, and the average.",
                "An average far above p50: a few very long ones.",
                Board::Traces,
            ),
        )
        .percentiles("activity_name", &chosen(Metric::ActivityDuration), RANGE)
        .ask(mean_by("activity_name", chosen(Metric::ActivityDuration), RANGE), "average"),
        lines(
            "percentunit",
            (
                "Which activity fails?",
                "The part of the tries of each activity that did not end with an output.",
                "See the table of errors for the class.",
                Board::Logs,
            ),
        )
        .ask(part(r#"outcome!="success""#), "{{activity_name}}")
        .good_below(0.05, 0.2),
        lines(
            "percentunit",
            (
                "Which activity has to be tried again?",
                "The part of the tries of each activity that were not the first.",
                "Retries hide what is not well beneath: see the error's code.",
                Board::Logs,
            ),
        )
        .ask(part(r#"retry_attempt!="0""#), "{{activity_name}}")
        .good_below(0.1, 0.5),
        table(
            "short",
            (
                "By what do they fail, and does trying again help?",
                "Tries that failed in the time shown. retryable=false: trying again can't help, somebody \
                 must act.",
                "Look for the code in the log.",
                Board::Logs,
            ),
        )
        .ask(
            or_none(
                "activity_name",
                sum_by(
                    "activity_name, error_type, error_code, retryable",
                    counted(chosen(Metric::ActivityErrors), RANGE),
                ),
            ),
            "failed",
        ),
        bars(
            "short",
            (
                "Is it our fault or that of what they run on?",
                "Tries that failed by what they run on, by how they are set up or programmed, and tries \
                 after the first.",
                "Infrastructure: the cluster, the network, the control database. Configuration: settings and \
                 permissions.",
                Board::Storage,
            ),
        )
        .ask(
            or_zero(sum(counted(chosen(Metric::ActivityInfrastructureErrors), BAR))),
            "infrastructure",
        )
        .ask(
            or_zero(sum(counted(chosen(Metric::ActivityConfigurationErrors), BAR))),
            "configuration",
        )
        .ask(or_zero(sum(counted(chosen(Metric::ActivityRetries), BAR))), "tried again"),
        traces((
            "Which traces have slow activities?",
            "Kept traces with a chosen activity of more than 2 s.",
            "Open one: the longest bar is what was waited for.",
            Board::Traces,
        ))
        .ask(
            r#"{resource.service.name="toygres" && span.activity_name=~"$activity" && duration > 2s}"#,
            "",
        )
        .may_be_empty("no activity was slow"),
        traces((
            "Which traces have failed activities?",
            "Kept traces with a chosen activity that failed.",
            "Open one: the span that failed has the error's class.",
            Board::Traces,
        ))
        .ask(
            r#"{resource.service.name="toygres" && span.activity_name=~"$activity" && status=error}"#,
            "",
        )
        .may_be_empty("no activity failed"),
    ];
    Dashboard {
        board: Board::Activities,
        variables: vec![Variable::Activity],
        panels,
        logs: r#"{service_name="toygres"} | activity_name=~"$activity" | level=~"WARN|ERROR""#,
        traces: r#"{resource.service.name="toygres" && span.activity_name=~"$activity"}"#,
    }
}
