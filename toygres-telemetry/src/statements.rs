//! A span for each SQL statement that is part of a trace, made of what sqlx says of it when it is done.

use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};

/// Where sqlx says it, at the level DEBUG.
const TARGET: &str = "sqlx::query";
/// The longest text of a statement that is kept, in characters. Its values are never in it: they are bound.
const LONGEST: usize = 300;

/// Whether this line is about a statement.
pub(crate) fn is_statement(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TARGET
}

/// Makes the spans. A program has few statements, so what is to be said of each is kept.
#[derive(Default)]
pub(crate) struct Statements {
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
    /// Writes the span of the statement that sqlx says is done.
    pub(crate) fn emit(&self, event: &Event<'_>, tracer: &SdkTracer, parent: &Context) {
        let mut said = Said {
            statements: self,
            known: None,
            elapsed: 0.0,
        };
        event.record(&mut said);
        let Some(Known { name, text }) = said.known else {
            return;
        };
        let end = SystemTime::now();
        let took = Duration::try_from_secs_f64(said.elapsed).unwrap_or_default();
        let builder = SpanBuilder::from_name(name.to_string())
            .with_kind(SpanKind::Client)
            .with_start_time(end - took)
            .with_attributes([
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.query.text", text),
            ]);
        tracer.build_with_context(builder, parent).end_with_timestamp(end);
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
