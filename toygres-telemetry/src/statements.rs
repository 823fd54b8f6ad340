//! A span for each SQL statement that is part of a trace, made of what sqlx says of it when it is done.

use crate::filter::is_traced;
use crate::trace::PastStatement;
use opentelemetry_sdk::trace::SdkTracer;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};
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

/// The layer. A program has few statements, so what is to be said of each is kept.
pub(crate) struct Statements {
    tracer: SdkTracer,
    known: RwLock<HashMap<u64, Known>>,
}

#[derive(Clone)]
struct Known {
    name: Arc<str>,
    text: Arc<str>,
}

/// Statements that are put together as they are needed may be many: then those kept so far are forgotten.
const MOST_KNOWN: usize = 1000;

impl Statements {
    pub(crate) fn new(tracer: SdkTracer) -> Self {
        Self {
            tracer,
            known: RwLock::default(),
        }
    }

    fn known(&self, text: &str) -> Known {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let key = hasher.finish();
        if let Some(known) = self
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
        {
            return known.clone();
        }
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let known = Known {
            name: name(&words).into(),
            text: words.chars().take(LONGEST).collect::<String>().into(),
        };
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_KNOWN {
            all.clear();
        }
        all.insert(key, known.clone());
        known
    }
}

/// What sqlx says of a statement. It is looked up where it stands: a copy of each would cost more than the rest.
struct Said<'a> {
    statements: &'a Statements,
    known: Option<Known>,
    elapsed: f64,
}

impl Visit for Said<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        // A short statement is said as its own summary, which comes first.
        if matches!(field.name(), "db.statement" | "summary") && !value.is_empty() {
            self.known = Some(self.statements.known(value));
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
        let mut said = Said {
            statements: self,
            known: None,
            elapsed: 0.0,
        };
        event.record(&mut said);
        if let Some(Known { name, text }) = said.known {
            PastStatement {
                name: name.to_string(),
                text,
                took: Duration::try_from_secs_f64(said.elapsed).unwrap_or_default(),
            }
            .emit(&self.tracer);
        }
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
