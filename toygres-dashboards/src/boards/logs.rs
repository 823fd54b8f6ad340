use super::shared::TRACES;
use crate::panel::{bars, lines, logs, ranking, stat};
use crate::promql::{BAR, RANGE, counted, only, or_none, or_zero, sum, sum_by};
use crate::{Board, Dashboard, Variable};
use toygres_telemetry::metric::Metric;

const ALL: &str = r#"{service_name="toygres"}"#;
/// What is written above the dashboard. Back-quotes: there a backslash is a backslash.
const CHOSEN: &str = concat!(
    r#"{service_name="toygres"} |~ `(?i)${search:regex}` | level=~"$level" | orchestration_name=~"$orchestration""#,
    r#" | instance_id=~`.*${instance:regex}.*` or instance_name=~`.*${instance:regex}.*`"#
);

pub(super) fn dashboard() -> Dashboard {
    let count = |level: &str, time: &str| {
        or_zero(format!(
            r#"sum(count_over_time({ALL} | level="{level}" [{time}]))"#
        ))
    };
    let most = |by: &str| {
        format!(
            r#"topk(10, sum by ({by}) (count_over_time({ALL} | level=~"WARN|ERROR" | {by}!="" [{RANGE}])))"#
        )
    };
    let panels = vec![
        stat(
            "short",
            (
                "How many errors were logged?",
                "Lines of the level ERROR in the time shown: something is wrong that does not pass by \
                 itself.",
                "Read them below; each has the id of its trace.",
                Board::Traces,
            ),
        )
        .ask_logs(count("ERROR", RANGE), "errors")
        .good_if_none(),
        stat(
            "short",
            (
                "How many warnings were logged?",
                "Lines of the level WARN in the time shown: something failed, and is tried again or was the \
                 user's.",
                "Many of one sort: see by which activity.",
                Board::Activities,
            ),
        )
        .ask_logs(count("WARN", RANGE), "warnings")
        .good_below(10.0, 100.0),
        stat(
            "short",
            (
                "How much was logged?",
                "All lines in the time shown.",
                "None: the collector or Loki is away; the file ~/.toygres/server.log has them all.",
                Board::Workers,
            ),
        )
        .ask_logs(or_zero(format!("sum(count_over_time({ALL} [{RANGE}]))")), "lines")
        .good_from(1.0, 1.0),
        stat(
            "short",
            (
                "Are lines missing?",
                "Log records that were lost on the way, and lines that could not be written to the file, in \
                 the time shown.",
                "`scripts/push-logs-to-loki.sh` sends what the file has and Loki has not.",
                Board::Workers,
            ),
        )
        .ask(
            or_zero(sum(counted(
                only(Metric::TelemetryItems, r#"signal=~"logs|file",outcome="lost""#),
                RANGE,
            ))),
            "lost",
        )
        .good_if_none(),
        bars(
            "short",
            (
                "When was what logged?",
                "Lines in each bar's time, by level.",
                "Choose the time of a peak with the mouse: all panels follow.",
                Board::Production,
            ),
        )
        .ask_logs(
            format!("sum by (level) (count_over_time({ALL} [{BAR}]))"),
            "{{level}}",
        )
        .sized(24, 7),
        logs((
            "What went wrong?",
            "Lines of the level ERROR and WARN, the newest first. A line's details have the link to its \
             trace.",
            "Open a line, then its trace; or write its instance_id above.",
            Board::Traces,
        ))
        .ask(format!(r#"{ALL} | level=~"WARN|ERROR""#), "")
        .sized(24, 10)
        .may_be_empty("nothing went wrong"),
        logs((
            "What was said about this?",
            "All lines about the instance, the orchestration, the level and the text chosen above, the \
             newest first.",
            "Nothing about an instance: write less of its name, or choose a longer time.",
            Board::Orchestrations,
        ))
        .ask(CHOSEN, "")
        .sized(24, 14),
        ranking(
            "short",
            (
                "Which activity warns most?",
                "Lines of the level ERROR and WARN in the time shown, by activity.",
                "See its errors by class.",
                Board::Activities,
            ),
        )
        .ask_logs(most("activity_name"), "{{activity_name}}")
        .may_be_empty("no activity warned"),
        ranking(
            "short",
            (
                "Which instance has most trouble?",
                "Lines of the level ERROR and WARN in the time shown, by the name of the instance.",
                "Write its name above.",
                Board::Fleet,
            ),
        )
        .ask_logs(most("instance_name"), "{{instance_name}}")
        .may_be_empty("no instance had trouble"),
        lines(
            "short",
            (
                "Do errors become more?",
                "Lines of the level ERROR in each five minutes.",
                "A step up: compare its time with deployments.",
                Board::Production,
            ),
        )
        .ask_logs(count("ERROR", "5m"), "errors"),
        bars(
            "short",
            (
                "Is telemetry delivered?",
                "Log records, spans, exports of metrics and lines of the file in each bar's time, delivered \
                 or lost.",
                "lost: see whether the collector runs, `scripts/observability-status.sh`.",
                Board::Workers,
            ),
        )
        .ask(
            or_none(
                "signal",
                sum_by("signal, outcome", counted(Metric::TelemetryItems, BAR)),
            ),
            "{{signal}} {{outcome}}",
        ),
    ];
    Dashboard {
        board: Board::Logs,
        variables: vec![
            Variable::Instance,
            Variable::Orchestration,
            Variable::Level,
            Variable::Search,
        ],
        panels,
        logs: CHOSEN,
        traces: TRACES,
    }
}
