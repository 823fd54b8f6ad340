//! A span for each SQL statement that is part of a trace, made of what sqlx says of it when it is done.

use crate::filter::is_traced;
use crate::trace::PastStatement;
use std::fmt;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

/// Where sqlx says it, at the level DEBUG.
const TARGET: &str = "sqlx::query";
/// The longest text of a statement that is kept, in characters. Its values are never in it: they are bound.
const LONGEST: usize = 300;

/// Lines about statements within a span. sqlx asks first, and writes none otherwise.
pub(crate) fn within_a_span<S>() -> impl Filter<S> + Send + Sync + 'static
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_statement = |metadata: &Metadata<'_>| metadata.target() == TARGET;
    // A filter sees the spans only that it lets through.
    let is_span = |metadata: &Metadata<'_>| metadata.is_span() && is_traced(metadata);
    dynamic_filter_fn(move |metadata, context: &Context<'_, S>| {
        is_span(metadata) || (is_statement(metadata) && context.lookup_current().is_some())
    })
    .with_callsite_filter(move |metadata| match () {
        () if is_span(metadata) => Interest::always(),
        () if is_statement(metadata) => Interest::sometimes(),
        () => Interest::never(),
    })
    .with_max_level_hint(LevelFilter::DEBUG)
}

/// The layer.
pub(crate) struct Statements;

#[derive(Default)]
struct Said {
    summary: String,
    statement: String,
    elapsed: f64,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => self.summary = value.to_owned(),
            "db.statement" => self.statement = value.to_owned(),
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "elapsed_secs" {
            self.elapsed = value;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl<S: Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        // A short statement is said as its own summary.
        let text = match said.statement.is_empty() {
            true => said.summary,
            false => said.statement,
        };
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        PastStatement {
            name: name(&text),
            text: text.chars().take(LONGEST).collect(),
            took: Duration::try_from_secs_f64(said.elapsed).unwrap_or_default(),
        }
        .emit();
    }
}

/// What it does to what: `select cms.instances`. There are as many as there are statements in the program.
fn name(text: &str) -> String {
    let mut words = text.split(' ');
    let first = words.next().unwrap_or_default().to_lowercase();
    let mut rest = words.skip_while(|word| !matches!(*word, "from" | "into" | "update" | "FROM" | "INTO"));
    let object = match first.as_str() {
        "update" => text.split(' ').nth(1),
        _ => rest.nth(1),
    };
    let object = object
        .unwrap_or_default()
        .split(['(', ')', ',', ';'])
        .next()
        .unwrap_or_default();
    format!("{first} {object}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn a_statement_is_named_by_what_it_does_to_what() {
        for (text, expected) in [
            (
                "select i.id from cms.instances i where id = $1",
                "select cms.instances",
            ),
            (
                "insert into cms.operations (id) values ($1)",
                "insert cms.operations",
            ),
            ("update cms.instances set x = 1", "update cms.instances"),
            (
                "with page as (select 1 from cms.operations) select",
                "with cms.operations",
            ),
            (
                "SELECT * FROM duroxide.fetch_work_item($1)",
                "select duroxide.fetch_work_item",
            ),
            ("BEGIN", "begin"),
            ("", ""),
        ] {
            assert_eq!(name(text), expected, "{text}");
        }
    }
}
