//! The registry's one layer: hands on what happens to those whom it concerns.
//!
//! A filter for each of them (`Layer::with_filter`) would look the span up at each step into and out of it, and sqlx
//! takes some for every row. With such filters it would also be told that statements are wanted when nobody wants them.

use crate::filter::{Calm, Directives};
use crate::traces::Traces;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::{Layer, Registry};

/// The layer.
pub(crate) struct Telling {
    pub(crate) traces: Option<Traces>,
    /// Those that write lines.
    pub(crate) lines: Vec<Box<dyn Layer<Registry> + Send + Sync>>,
    /// Which lines.
    pub(crate) directives: Directives,
    pub(crate) calm: Calm,
}

impl Telling {
    fn of_traces(&self, metadata: &Metadata<'_>) -> Interest {
        let traces = self.traces.as_ref();
        traces.map_or_else(Interest::never, |traces| traces.interest(metadata))
    }
}

impl Layer<Registry> for Telling {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let written = self.directives.callsite_enabled(metadata);
        let traced = self.of_traces(metadata);
        match () {
            () if written.is_always() || traced.is_always() => Interest::always(),
            () if written.is_never() && traced.is_never() => Interest::never(),
            () => Interest::sometimes(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, Registry>) -> bool {
        let is_traced = |traces: &Traces| traces.wants(metadata, &context);
        self.traces.as_ref().is_some_and(is_traced) || self.directives.enabled(metadata, &context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let traced = self
            .traces
            .as_ref()
            .map_or(LevelFilter::OFF, |_| LevelFilter::DEBUG);
        self.directives
            .max_level_hint()
            .map(|written| written.max(traced))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, Registry>) {
        self.directives.on_new_span(attributes, id, context.clone());
        self.traces.on_new_span(attributes, id, context.clone());
        self.lines.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, Registry>) {
        self.directives.on_record(id, values, context.clone());
        self.traces.on_record(id, values, context.clone());
        self.lines.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, Registry>) {
        self.traces.on_event(event, context.clone());
        let metadata = event.metadata();
        // What is of use to traces may be here for their sake only. All else was found to be written, by its true
        // target: here it is `log` for whatever comes from the crate of this name.
        let is_written = self.of_traces(metadata).is_never() || self.directives.enabled(metadata, &context);
        if is_written && self.calm.allows(metadata) {
            self.lines.on_event(event, context);
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, Registry>) {
        self.directives.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, Registry>) {
        self.directives.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, Registry>) {
        self.directives.on_close(id.clone(), context.clone());
        self.traces.on_close(id.clone(), context.clone());
        self.lines.on_close(id, context);
    }
}
