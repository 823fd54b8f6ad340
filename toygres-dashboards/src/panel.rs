//! Panels: what they ask, and how they show it.

use crate::Board;
use crate::promql::{Selector, quantile};

/// In which language a query is, and so whom it is put to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Prometheus.
    PromQl,
    /// Loki.
    LogQl,
    /// Tempo.
    TraceQl,
    /// Tempo's picture of services. Grafana asks Prometheus for it: the query is what it needs to find there.
    ServiceMap,
}

/// A query of a panel.
#[derive(Debug, Clone)]
pub struct Query {
    /// Its language.
    pub language: Language,
    /// The query, with Grafana's variables.
    pub text: String,
    /// The name of its series, or of its column.
    pub legend: String,
    /// The unit of its column, where it is not the panel's.
    pub unit: Option<&'static str>,
}

/// How a panel shows what it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// One number.
    Stat,
    /// One number between two bounds.
    Gauge,
    /// Numbers over time.
    Lines,
    /// Events over time: each bar has those of its own time.
    Bars,
    /// How measurements are spread, over time.
    Heatmap,
    /// Numbers side by side.
    Ranking,
    /// Rows.
    Table,
    /// Lines of the log.
    Logs,
    /// Traces, a row each.
    Traces,
    /// Spans, a row each.
    Spans,
    /// Services and what they call.
    Graph,
    /// No panel: a heading above the panels that follow.
    Heading,
}

/// A panel.
#[derive(Debug, Clone)]
pub struct Panel {
    /// The question that it answers.
    pub title: String,
    /// What it shows.
    pub means: String,
    /// What to do when it looks bad.
    pub act: String,
    /// Where to look next.
    pub next: Board,
    /// How it shows it.
    pub look: Look,
    /// Grafana's name of the unit.
    pub unit: &'static str,
    /// What it asks.
    pub queries: Vec<Query>,
    /// Columns (of 24) and rows.
    pub size: (u32, u32),
    /// From which value on it has which colour, and the colour below.
    pub colours: Vec<(f64, &'static str)>,
    /// The colour below the first of these.
    pub base: &'static str,
    /// The time that it shows, if not the dashboard's.
    pub over: Option<&'static str>,
    /// The query of its link to the traces, if not the dashboard's.
    pub traces: Option<String>,
    /// Why it may show nothing though all is well.
    pub may_be_empty: Option<&'static str>,
}

/// The words of a panel: its question, what it shows, what to do when it looks bad, where to look next.
pub(crate) type Words<'a> = (&'a str, &'a str, &'a str, Board);

fn panel(look: Look, unit: &'static str, size: (u32, u32), (title, means, act, next): Words<'_>) -> Panel {
    Panel {
        title: title.to_owned(),
        means: means.to_owned(),
        act: act.to_owned(),
        next,
        look,
        unit,
        queries: Vec::new(),
        size,
        colours: Vec::new(),
        base: "green",
        over: None,
        traces: None,
        may_be_empty: None,
    }
}

pub(crate) fn stat(unit: &'static str, words: Words<'_>) -> Panel {
    panel(Look::Stat, unit, (6, 4), words)
}

pub(crate) fn gauge(unit: &'static str, words: Words<'_>) -> Panel {
    panel(Look::Gauge, unit, (6, 8), words)
}

pub(crate) fn lines(unit: &'static str, words: Words<'_>) -> Panel {
    panel(Look::Lines, unit, (12, 8), words)
}

pub(crate) fn bars(unit: &'static str, words: Words<'_>) -> Panel {
    panel(Look::Bars, unit, (12, 8), words)
}

pub(crate) fn heatmap(unit: &'static str, words: Words<'_>) -> Panel {
    panel(Look::Heatmap, unit, (12, 8), words)
}

pub(crate) fn ranking(unit: &'static str, words: Words<'_>) -> Panel {
    panel(Look::Ranking, unit, (12, 8), words)
}

pub(crate) fn table(unit: &'static str, words: Words<'_>) -> Panel {
    panel(Look::Table, unit, (12, 8), words)
}

pub(crate) fn logs(words: Words<'_>) -> Panel {
    panel(Look::Logs, "none", (24, 12), words)
}

pub(crate) fn traces(words: Words<'_>) -> Panel {
    panel(Look::Traces, "ns", (12, 8), words)
}

pub(crate) fn spans(words: Words<'_>) -> Panel {
    panel(Look::Spans, "ns", (24, 8), words)
}

pub(crate) fn graph(words: Words<'_>) -> Panel {
    panel(Look::Graph, "reqps", (24, 12), words)
}

/// A heading is no question, so that it has its text alone.
pub(crate) fn heading(text: &str) -> Panel {
    panel(Look::Heading, "none", (24, 1), (text, "", "", Board::Overview))
}

impl Panel {
    /// Asks this as well.
    pub(crate) fn ask(mut self, text: impl Into<String>, legend: &str) -> Self {
        let language = match self.look {
            Look::Logs => Language::LogQl,
            Look::Traces | Look::Spans => Language::TraceQl,
            Look::Graph => Language::ServiceMap,
            _ => Language::PromQl,
        };
        self.queries.push(Query {
            language,
            text: text.into(),
            legend: legend.to_owned(),
            unit: None,
        });
        self
    }

    /// Asks what half, 95 and 99 of 100 take at most.
    pub(crate) fn percentiles(self, by: &str, of: &Selector, time: &str) -> Self {
        let asked = |q| quantile(q, by, of.clone(), time);
        self.ask(asked(0.5), "p50")
            .ask(asked(0.95), "p95")
            .ask(asked(0.99), "p99")
    }

    /// Asks Loki for numbers.
    pub(crate) fn ask_logs(self, text: impl Into<String>, legend: &str) -> Self {
        let mut this = self.ask(text, legend);
        if let Some(query) = this.queries.last_mut() {
            query.language = Language::LogQl;
        }
        this
    }

    /// Asks for a column of its own unit.
    pub(crate) fn column(self, unit: &'static str, text: impl Into<String>, legend: &str) -> Self {
        let mut this = self.ask(text, legend);
        if let Some(query) = this.queries.last_mut() {
            query.unit = Some(unit);
        }
        this
    }

    /// Good below the first, bad from the second on.
    pub(crate) fn good_below(mut self, first: f64, second: f64) -> Self {
        self.colours = vec![(first, "orange"), (second, "red")];
        self
    }

    /// Bad below the first, good from the second on.
    pub(crate) fn good_from(mut self, first: f64, second: f64) -> Self {
        self.base = "red";
        self.colours = vec![(first, "orange"), (second, "green")];
        self
    }

    /// Any is bad.
    pub(crate) fn good_if_none(mut self) -> Self {
        self.colours = vec![(1.0, "red")];
        self
    }

    pub(crate) fn sized(mut self, columns: u32, rows: u32) -> Self {
        self.size = (columns, rows);
        self
    }

    pub(crate) fn over(mut self, time: &'static str) -> Self {
        self.over = Some(time);
        self
    }

    pub(crate) fn with_traces(mut self, query: impl Into<String>) -> Self {
        self.traces = Some(query.into());
        self
    }

    pub(crate) fn may_be_empty(mut self, why: &'static str) -> Self {
        self.may_be_empty = Some(why);
        self
    }
}
