use super::shared::{FAILED, TRACES, TROUBLE};
use crate::panel::{bars, graph, heatmap, lines, stat, table, traces};
use crate::promql::{
    BAR, COLLECTOR_FAILED, GRAPH_FAILED, GRAPH_REQUESTS, RANGE, SMOOTH, SPAN_CALLS, SPAN_DURATION,
    TRACES_JUDGED, TRACES_SEEN, cells, counted, only_other, or_zero, part, quantile, rate, share, sum,
    sum_by, top,
};
use crate::{Board, Dashboard};

const OURS: &str = r#"service_name="toygres""#;
const ERRORS: &str = r#"service_name="toygres",status_code="STATUS_CODE_ERROR""#;
const REQUESTS: &str = r#"service_name="toygres",span_kind="SPAN_KIND_SERVER""#;
const SLOW: &str = r#"{resource.service.name="toygres" && trace:duration > 2s}"#;

pub(super) fn dashboard() -> Dashboard {
    let ours = || only_other(SPAN_CALLS, OURS);
    let durations = || only_other(SPAN_DURATION, OURS);
    let errors = |by: &str, time: &str| {
        let all = sum_by(by, counted(ours(), time));
        let bad = sum_by(by, counted(only_other(SPAN_CALLS, ERRORS), time));
        share(format!("({bad} or {all} * 0)"), all)
    };
    let panels =
        vec![
        stat(
            "cps",
            (
                "How many traces come in?",
                "Traces a second that reach the collector, before any is dropped.",
                "None while the server works: it does not export; see OTEL_EXPORTER_OTLP_ENDPOINT.",
                Board::Workers,
            ),
        )
        .ask(or_zero(sum(rate(TRACES_SEEN))), "traces"),
        stat(
            "percentunit",
            (
                "Which part of the traces is stored?",
                "Of the traces judged in the time shown. Kept are those with an error, those over 2 s, and \
                 one in ten of the rest.",
                "Far above a tenth: many are slow or fail.",
                Board::Production,
            ),
        )
        .ask(
            part(
                counted(only_other(TRACES_JUDGED, r#"sampled="true""#), RANGE),
                counted(TRACES_JUDGED, RANGE),
            ),
            "stored",
        ),
        stat(
            "percentunit",
            (
                "Which part of the spans fails?",
                "Spans with an error of all spans of the time shown, counted before any is dropped.",
                "See the operations below by their part of errors.",
                Board::Production,
            ),
        )
        .ask(
            part(
                counted(only_other(SPAN_CALLS, ERRORS), RANGE),
                counted(ours(), RANGE),
            ),
            "errors",
        )
        .good_below(0.01, 0.05)
        .with_traces(FAILED),
        stat(
            "short",
            (
                "Are spans lost on the way to Tempo?",
                "Spans that the collector could not hand on in the time shown.",
                "Tempo is away or full: see `scripts/observability-status.sh` and its log.",
                Board::Logs,
            ),
        )
        .ask(or_zero(sum(counted(COLLECTOR_FAILED, RANGE))), "lost")
        .good_if_none(),
        lines(
            "reqps",
            (
                "What is asked of the server?",
                "Requests a second, by route, counted from their spans.",
                "One far above its usual: open its traces and see who asks.",
                Board::Production,
            ),
        )
        .ask(
            sum_by("span_name", rate(only_other(SPAN_CALLS, REQUESTS))),
            "{{span_name}}",
        ),
        lines(
            "s",
            (
                "Which operations are slow?",
                "95 of 100 spans of each name took at most this time; the ten slowest.",
                "Open one of its traces: the longest bar beneath it is what was waited for.",
                Board::Activities,
            ),
        )
        .ask(top(10, quantile(0.95, "span_name", durations(), SMOOTH)), "{{span_name}}"),
        heatmap(
            "s",
            (
                "How are the durations of spans spread?",
                "Each row is a range of durations, each dot a trace, which opens if it was kept.",
                "Open a dot in the upper rows.",
                Board::Activities,
            ),
        )
        .ask(cells(durations()), ""),
        bars(
            "short",
            (
                "Which operations fail?",
                "Spans with an error in each bar's time, by name.",
                "Open one of the failed traces below.",
                Board::Logs,
            ),
        )
        .ask(
            or_zero(sum(counted(only_other(SPAN_CALLS, ERRORS), BAR))),
            "all",
        )
        .ask(
            sum_by("span_name", counted(only_other(SPAN_CALLS, ERRORS), BAR)),
            "{{span_name}}",
        )
        .with_traces(FAILED),
        table(
            "short",
            (
                "What does each operation do?",
                "Every name of a span in the time shown: how often, which part failed, and its durations.",
                "Sort by a column: the most frequent, the slowest, the one that fails most.",
                Board::Activities,
            ),
        )
        .ask(sum_by("span_name, span_kind", counted(ours(), RANGE)), "calls")
        .column("percentunit", errors("span_name, span_kind", RANGE), "errors")
        .column("s", quantile(0.5, "span_name, span_kind", durations(), RANGE), "p50")
        .column("s", quantile(0.95, "span_name, span_kind", durations(), RANGE), "p95")
        .sized(24, 10),
        traces((
            "Which requests were there lately?",
            "Traces that are kept, the newest first.",
            "Click an id to open it.",
            Board::Logs,
        ))
        .ask(TRACES, "")
        .sized(24, 8),
        traces((
            "Which were slow?",
            "Traces of more than 2 s; all of them are kept. Making a database is one.",
            "Open one: the longest bar is what was waited for.",
            Board::Activities,
        ))
        .ask(SLOW, "")
        .may_be_empty("nothing took more than 2 s"),
        traces((
            "Which failed?",
            "Traces with an error; all of them are kept.",
            "Open one: the span that failed says why, its logs say more.",
            Board::Logs,
        ))
        .ask(FAILED, "")
        .may_be_empty("nothing failed"),
        graph((
            "Who calls whom?",
            "Services and what they call, by requests and time, made of all traces.",
            "A red ring: calls that fail. Click the line between two for its numbers.",
            Board::Storage,
        ))
        .ask(sum_by("client, server", rate(GRAPH_REQUESTS)), ""),
        bars(
            "short",
            (
                "Which calls between services fail?",
                "Calls that failed in each bar's time.",
                "To the database: see the store. To Kubernetes: see the cluster's events.",
                Board::Storage,
            ),
        )
        .ask(or_zero(sum(counted(GRAPH_FAILED, BAR))), "all")
        .ask(
            sum_by("client, server", counted(GRAPH_FAILED, BAR)),
            "{{client}} to {{server}}",
        )
        .sized(24, 7),
    ];
    Dashboard {
        board: Board::Traces,
        variables: Vec::new(),
        panels,
        logs: TROUBLE,
        traces: TRACES,
    }
}
