//! What makes traces: of toygres's spans and their errors, and of what sqlx says of statements within them.
//!
//! It has nothing to do at the steps into and out of a span, unlike tracing-opentelemetry, which has OpenTelemetry's
//! present context follow them: sqlx takes some for every row. Who wants to know where he is asks for it ([`here`]).

use crate::statements::{Statements, is_statement};
use opentelemetry::trace::{SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context as Place, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Span};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, SpanRef};
use tracing_subscriber::{Layer, Registry};

/// Is told by [`crate::layer::Telling`].
pub(crate) struct Traces {
    tracer: SdkTracer,
    statements: Option<Statements>,
}

/// A span as the SDK has it, kept with the one it is made of.
struct Traced(Place);

impl Traces {
    /// With statements if somebody sees them.
    pub(crate) fn new(tracer: SdkTracer, with_statements: bool) -> Self {
        Self {
            tracer,
            statements: with_statements.then(Statements::default),
        }
    }

    /// Whether it has to be asked of this.
    pub(crate) fn interest(&self, metadata: &Metadata<'_>) -> Interest {
        match () {
            () if is_traced(metadata) => Interest::always(),
            () if self.is_statement(metadata) => Interest::sometimes(),
            () => Interest::never(),
        }
    }

    /// Whether it has a use for this. sqlx asks before it says a statement.
    pub(crate) fn wants(&self, metadata: &Metadata<'_>, context: &Context<'_, Registry>) -> bool {
        is_traced(metadata) || (self.is_statement(metadata) && context.lookup_current().is_some())
    }

    fn is_statement(&self, metadata: &Metadata<'_>) -> bool {
        self.statements.is_some() && is_statement(metadata)
    }
}

/// Whether this is part of a trace: toygres's own spans and errors are.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let is_own = metadata.target().starts_with("toygres");
    match metadata.is_span() {
        true => is_own && *metadata.level() <= Level::DEBUG,
        // An error marks its span as failed.
        false => is_own && *metadata.level() <= Level::ERROR,
    }
}

/// Where what is told now belongs to.
pub(crate) fn here() -> Option<SpanContext> {
    given(|place| place.span().span_context().clone()).or_else(|| of_span(&Span::current()))
}

/// The place that what is told and begun now was given ([`crate::trace::TraceParent::scope`]), whatever span is open.
fn given<T>(what: impl FnOnce(&Place) -> T) -> Option<T> {
    Place::map_current(|place| place.has_active_span().then(|| what(place)))
}

/// Where this span is, or the next one round it that is traced.
pub(crate) fn of_span(span: &Span) -> Option<SpanContext> {
    let place = span.with_subscriber(|(id, dispatch)| {
        let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
        place_of(&span).map(|place| place.span().span_context().clone())
    });
    place.flatten()
}

fn place_of<'a, R: LookupSpan<'a>>(span: &SpanRef<'a, R>) -> Option<Place> {
    span.scope().find_map(|span| {
        let extensions = span.extensions();
        extensions.get::<Traced>().map(|Traced(place)| place.clone())
    })
}

impl Layer<Registry> for Traces {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, Registry>) {
        let Some(span) = context.span(id).filter(|_| is_traced(attributes.metadata())) else {
            return;
        };
        let parent = match attributes.is_contextual() {
            true => given(Place::clone),
            false => None,
        };
        let parent = parent.or_else(|| place_of(&span.parent()?)).unwrap_or_default();
        let mut told = Told::default();
        attributes.record(&mut told);
        let name = told
            .name
            .unwrap_or_else(|| attributes.metadata().name().to_owned());
        let mut builder = SpanBuilder::from_name(name).with_attributes(told.attributes);
        builder.span_kind = told.kind;
        let traced = parent.with_span(self.tracer.build_with_context(builder, &parent));
        if let Some(status) = told.status {
            traced.span().set_status(status);
        }
        span.extensions_mut().insert(Traced(traced));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, Registry>) {
        let Some(span) = context.span(id) else { return };
        let extensions = span.extensions();
        let Some(Traced(place)) = extensions.get() else {
            return;
        };
        let mut told = Told::default();
        values.record(&mut told);
        let span = place.span();
        span.set_attributes(told.attributes);
        if let Some(status) = told.status {
            span.set_status(status);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, Registry>) {
        let is_error = is_traced(event.metadata());
        if !is_error && !self.is_statement(event.metadata()) {
            return;
        }
        let Some(place) = context.event_span(event).and_then(|span| place_of(&span)) else {
            return;
        };
        if !is_error && let Some(statements) = &self.statements {
            return statements.emit(event, &self.tracer, &place);
        }
        let mut told = Told::default();
        event.record(&mut told);
        let name = told.message.unwrap_or_else(|| event.metadata().name().to_owned());
        let span = place.span();
        span.add_event(name, told.attributes);
        span.set_status(Status::error(""));
    }

    fn on_close(&self, id: Id, context: Context<'_, Registry>) {
        let traced = context
            .span(&id)
            .and_then(|span| span.extensions_mut().remove::<Traced>());
        if let Some(Traced(place)) = traced {
            place.span().end();
        }
    }
}

/// What a span or an event tells, with the names that say what the SDK has fields of its own for.
#[derive(Default)]
struct Told {
    name: Option<String>,
    kind: Option<SpanKind>,
    status: Option<Status>,
    message: Option<String>,
    attributes: Vec<KeyValue>,
}

impl Told {
    fn record(&mut self, field: &Field, value: String) {
        match (field.name(), value.as_str()) {
            ("otel.name", _) => self.name = Some(value),
            ("otel.kind", "server") => self.kind = Some(SpanKind::Server),
            ("otel.kind", "client") => self.kind = Some(SpanKind::Client),
            ("otel.status_code", "ERROR") => self.status = Some(Status::error("")),
            ("message", _) => self.message = Some(value),
            (name, _) => self.attributes.push(KeyValue::new(name, value)),
        }
    }
}

impl Visit for Told {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.attributes.push(KeyValue::new(field.name(), value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.attributes.push(KeyValue::new(field.name(), value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.attributes.push(KeyValue::new(field.name(), value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, format!("{value:?}"));
    }
}
