//! `observability/DASHBOARDS.md`, made of the dashboards.

use crate::{Language, Look, dashboards, runbooks, use_cases};
use std::fmt::Write as _;

const HEAD: &str = "\
# Dashboards

Made from the program: `cargo test -p toygres-dashboards golden` says how to renew this page and the files in
`grafana/dashboards`. What is in them is said in `toygres-dashboards/src/boards`; Grafana lists them in the folder
Toygres at <http://localhost:3001>, and asks again every ten seconds.

Each panel is a question. Its description says what it shows, what to do when it looks bad and where to look next; its
links lead to the logs and traces of what it shows.

| dashboard | the question that it answers |
|---|---|
";

const HOW: &str = r#"
## How to ask

In Grafana: Explore, and Prometheus, Loki or Tempo. All metrics and their labels: [metrics.md](../docs/metrics.md).

**Metrics** (PromQL)

- A success rate has sums on both sides; without them each series is divided by itself, and the rate is always 1.
- Gauges of the database are told by one node: `max by (...)`, as the series of the node before lingers.
- `increase` begins with the second sample of a series, and a failure may be the first of its sort. What is rare is
  therefore counted as `increase(m[1h]) and present_over_time(m[1h] offset 1h) or last_over_time(m[1h])`: a series that
  was not there in the hour before counts from zero, after an outage of the stack for so long too.
- `toygres_drift` and the counters of failures have no series while there is nothing to tell: `or vector(0)`.

**Logs** (LogQL). `service_name` is a label; `level`, `instance_name`, `instance_id`, `user_name`, `operation_id`,
`orchestration_id`, `orchestration_name`, `execution_id`, `activity_name`, `trace_id` and `span_id` are fields of each
line that need no parser:

    {service_name="toygres"} | level="ERROR"
    {service_name="toygres"} | orchestration_name="create-instance"
    {service_name="toygres"} | trace_id="4bf92f3577b34da6a3ce929d0e0e4736"
    sum(count_over_time({service_name="toygres"} | level="ERROR" [1m]))

**Traces** (TraceQL). Kept are traces with an error, those over 2 s, and one in ten of the rest:

    {resource.service.name="toygres" && status=error}
    {resource.service.name="toygres" && trace:duration > 2s}
    {resource.service.name="toygres" && span.activity_name="deploy-postgres" && duration > 1s}

## From any signal to any other

1. **Histogram.** "Are all slow, or only some?" in Toygres Production Metrics: one dot lies far above the rest.
2. **Exemplar.** The dot is one measurement. Its trace is kept, and "Query with Tempo" opens it.
3. **Trace.** The longest bar is what was waited for: an activity, a SQL statement, a call of Kubernetes.
4. **Logs.** "Logs for this span" shows what was said meanwhile. A line has `trace_id` the other way round, and
   `instance_name` to find all about that database.
5. **Metrics.** "Related metrics" of the span shows how often that operation is so slow, and the panel's links lead to
   the dashboard that says more.

## What operators come with

`$instance` stands for the name or the id of a database.
"#;

/// The page.
#[must_use]
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    let boards = dashboards();
    for dashboard in &boards {
        let (title, uid) = (dashboard.board.title(), dashboard.board.uid());
        let _ = writeln!(text, "| {title} (`{uid}`) | {} |", dashboard.board.question());
    }
    let _ = writeln!(
        text,
        "| Runbooks (`{}`) | What is to be done at an alert? |",
        runbooks::UID
    );
    text.push_str(HOW);
    for case in use_cases() {
        let _ = write!(text, "\n### {}\n", case.question);
        for query in case.queries {
            let where_to = match query.language {
                Language::PromQl | Language::ServiceMap => "Prometheus",
                Language::LogQl => "Loki",
                Language::TraceQl => "Tempo",
            };
            let mut says = query.says.chars();
            let first = says.next().map(char::to_uppercase).into_iter().flatten();
            let says: String = first.chain(says).collect();
            let _ = write!(text, "\n{says} ({where_to}):\n\n    {}\n", query.query);
        }
    }
    text.push_str("\n## Every panel\n");
    for dashboard in &boards {
        let _ = write!(
            text,
            "\n### {}\n\n{}\n\n",
            dashboard.board.title(),
            dashboard.board.question()
        );
        for panel in dashboard
            .panels
            .iter()
            .filter(|panel| panel.look != Look::Heading)
        {
            let _ = writeln!(text, "- {} {}", panel.title, panel.means);
        }
    }
    text
}
