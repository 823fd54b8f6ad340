//! PromQL, put together of metrics that exist.

use std::fmt;
use toygres_telemetry::metric::Metric;

/// The time that the dashboard shows.
pub const RANGE: &str = "$__range";
/// The time that one bar stands for.
pub const BAR: &str = "$__interval";
/// The shortest time in which there are samples enough.
pub const SMOOTH: &str = "$__rate_interval";

/// A series that another than toygres makes, and its labels.
#[derive(Debug, Clone, Copy)]
pub struct Other {
    /// Its name.
    pub name: &'static str,
    /// Its labels, but those that all series have.
    pub labels: &'static [&'static str],
}

impl Other {
    /// All that the dashboards may ask for.
    pub const ALL: &'static [Self] = &[
        SPAN_CALLS,
        SPAN_DURATION,
        GRAPH_REQUESTS,
        GRAPH_FAILED,
        TRACES_SEEN,
        TRACES_JUDGED,
        COLLECTOR_SENT,
        COLLECTOR_FAILED,
        UP,
        ALERTS,
    ];
}

const fn other(name: &'static str, labels: &'static [&'static str]) -> Other {
    Other { name, labels }
}

const SPAN: &[&str] = &["span_name", "span_kind", "status_code"];
/// Spans, counted by the collector before any is dropped.
pub const SPAN_CALLS: Other = other("traces_spanmetrics_calls_total", SPAN);
/// How long they took.
pub const SPAN_DURATION: Other = other("traces_spanmetrics_duration_seconds", SPAN);
/// Requests from one service to another.
pub const GRAPH_REQUESTS: Other = other(
    "traces_service_graph_request_total",
    &["client", "server", "connection_type", "failed"],
);
/// Those that failed.
pub const GRAPH_FAILED: Other = other(
    "traces_service_graph_request_failed_total",
    &["client", "server", "connection_type"],
);
/// Traces that came to the sampler.
pub const TRACES_SEEN: Other = other("otelcol_processor_tail_sampling_new_trace_id_received", &[]);
/// Traces that it judged.
pub const TRACES_JUDGED: Other = other(
    "otelcol_processor_tail_sampling_global_count_traces_sampled",
    &["decision", "sampled"],
);
/// Spans that the collector handed on.
pub const COLLECTOR_SENT: Other = other("otelcol_exporter_sent_spans", &["exporter"]);
/// Spans that it could not hand on.
pub const COLLECTOR_FAILED: Other = other("otelcol_exporter_send_failed_spans", &["exporter"]);
/// Whether Prometheus reaches what it fetches from.
pub const UP: Other = other("up", &[]);
/// Alerts, as Prometheus has them.
pub const ALERTS: Other = other("ALERTS", &["alertname", "alertstate", "severity"]);

/// Series of a metric, some or all.
#[derive(Debug, Clone)]
pub struct Selector {
    name: String,
    filter: String,
}

impl From<Metric> for Selector {
    fn from(metric: Metric) -> Self {
        only(metric, "")
    }
}

impl From<Other> for Selector {
    fn from(other: Other) -> Self {
        Self {
            name: other.name.to_owned(),
            filter: String::new(),
        }
    }
}

impl Selector {
    fn part(mut self, suffix: &str) -> Self {
        self.name.push_str(suffix);
        self
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.filter.is_empty() {
            write!(f, "{{{}}}", self.filter)?;
        }
        Ok(())
    }
}

/// The series of this metric that the filter lets through.
pub fn only(metric: Metric, filter: &str) -> Selector {
    Selector {
        name: metric.definition().name.to_owned(),
        filter: filter.to_owned(),
    }
}

/// The same of a series that another makes.
pub fn only_other(other: Other, filter: &str) -> Selector {
    Selector {
        filter: filter.to_owned(),
        ..other.into()
    }
}

/// How often a histogram measured.
pub fn measured(of: impl Into<Selector>) -> Selector {
    of.into().part("_count")
}

/// The sum of what it measured.
pub fn total(of: impl Into<Selector>) -> Selector {
    of.into().part("_sum")
}

/// Those of its measurements that were at most so large.
pub fn at_most(of: impl Into<Selector>, le: &str) -> Selector {
    let mut buckets = of.into().part("_bucket");
    let comma = if buckets.filter.is_empty() { "" } else { "," };
    // Prometheus 3 writes whole numbers with a fraction.
    buckets.filter = format!("{}{comma}le=~\"{le}|{le}.0\"", buckets.filter);
    buckets
}

/// Each series, a second: for what never stops.
pub fn rate(of: impl Into<Selector>) -> String {
    format!("rate({}[{SMOOTH}])", of.into())
}

/// How often each happened in the time: for what is rare. `increase` alone sees nothing of a series before its second
/// sample, and a failure may be the only one of its sort: a series that is new counts from zero. It is not new if it was
/// there in the hour before, so that all is not counted again where the collector was away for some minutes.
pub fn counted(of: impl Into<Selector>, time: &str) -> String {
    let of = of.into();
    format!(
        "increase({of}[{time}]) and present_over_time({of}[1h] offset {time}) or last_over_time({of}[{time}])"
    )
}

/// All together.
pub fn sum(of: impl fmt::Display) -> String {
    format!("sum({of})")
}

/// Together by these labels.
pub fn sum_by(labels: &str, of: impl fmt::Display) -> String {
    format!("sum by ({labels}) ({of})")
}

/// What one node tells for all: the series of the node before it lingers.
pub fn told(metric: Metric) -> String {
    format!("max({})", only(metric, ""))
}

/// The same by these labels.
pub fn told_by(labels: &str, of: impl Into<Selector>) -> String {
    format!("max by ({labels}) ({})", of.into())
}

/// The part of the whole; none where the whole is nothing.
pub fn share(part: impl fmt::Display, whole: impl fmt::Display) -> String {
    format!("{part} / ({whole} > 0)")
}

/// The part of all of them together; where there is none, or none of the part, it is zero.
pub fn part(part: impl fmt::Display, whole: impl fmt::Display) -> String {
    or_zero(share(format!("({})", or_zero(sum(part))), sum(whole)))
}

/// Absence is zero.
pub fn or_zero(of: impl fmt::Display) -> String {
    format!("{of} or vector(0)")
}

/// Absence is one zero with the label "none".
pub fn or_none(label: &str, of: impl fmt::Display) -> String {
    format!("{of} or on() label_replace(vector(0), \"{label}\", \"none\", \"\", \"\")")
}

/// The largest.
pub fn top(n: u32, of: impl fmt::Display) -> String {
    format!("topk({n}, {of})")
}

/// Its buckets in each bar's time.
pub fn cells(of: impl Into<Selector>) -> String {
    sum_by("le", counted(of.into().part("_bucket"), BAR))
}

/// What so large a part of the measurements is below, by these labels (none: all together).
pub fn quantile(q: f64, by: &str, of: impl Into<Selector>, time: &str) -> String {
    let labels = if by.is_empty() { "le" } else { &format!("le, {by}") };
    let buckets = counted(of.into().part("_bucket"), time);
    format!("histogram_quantile({q}, {})", sum_by(labels, buckets))
}

/// The same of what never stops.
pub fn steady_quantile(q: f64, by: &str, of: impl Into<Selector>) -> String {
    let labels = if by.is_empty() { "le" } else { &format!("le, {by}") };
    format!(
        "histogram_quantile({q}, {})",
        sum_by(labels, rate(of.into().part("_bucket")))
    )
}

/// The mean of the measurements in the time, by these labels.
pub fn mean_by(by: &str, of: impl Into<Selector>, time: &str) -> String {
    let of = of.into();
    share(
        sum_by(by, counted(total(of.clone()), time)),
        sum_by(by, counted(measured(of), time)),
    )
}

/// The part of orchestrations that succeeded. Also where none did: then it is zero, not absent.
pub fn success(filter: &str, by: &str, time: &str) -> String {
    let comma = if filter.is_empty() { "" } else { "," };
    let good = format!("{filter}{comma}status=\"success\"");
    let good = counted(only(Metric::OrchestrationCompletions, &good), time);
    let all = counted(only(Metric::OrchestrationCompletions, filter), time);
    let (good, all) = match by {
        "" => (sum(good), sum(all)),
        by => (sum_by(by, good), sum_by(by, all)),
    };
    share(format!("({good} or {all} * 0)"), all)
}

fn busy(time: &str) -> String {
    sum_by(
        "worker_type",
        format!("rate({}[{time}])", only(Metric::WorkerActiveTime, "")),
    )
}

/// How long what waits would keep the workers busy, in seconds: the backlog by what is finished a second.
pub fn work_off(time: &str) -> String {
    let finished = format!(
        "avg_over_time({}[{time}])",
        only(Metric::WorkerProcessingRate, "")
    );
    format!(
        "{} / clamp_min({}, 0.01)",
        told_by("worker_type", Metric::WorkerQueueDepth),
        sum_by("worker_type", finished)
    )
}

/// How many worker slots would do what comes in and work off what waits within a minute.
pub fn workers_needed(time: &str) -> String {
    format!("ceil({} * (1 + {} / 60))", busy(time), work_off(time))
}

/// Which part of their time the workers work.
pub fn utilisation(time: &str) -> String {
    share(busy(time), sum_by("worker_type", only(Metric::WorkerCount, "")))
}
