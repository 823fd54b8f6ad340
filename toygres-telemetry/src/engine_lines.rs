//! duroxide's own log lines, with the words that toygres has for their fields: its `instance` is an orchestration, not
//! a database.

use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Whether lines of this target are duroxide's, and so are said again by [`EngineLines`].
pub(crate) fn is_engines(target: &str) -> bool {
    target.split("::").next() == Some("duroxide")
}

/// Says duroxide's lines again, with a target that what `RUST_LOG` says of `duroxide` holds for too. Whatever writes lines
/// leaves out duroxide's own.
pub(crate) struct EngineLines;

/// The format of a console that leaves them out.
pub(crate) struct Without<F>(pub(crate) F);

impl<S, N, F> FormatEvent<S, N> for Without<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match is_engines(event.metadata().target()) {
            true => Ok(()),
            false => self.0.format_event(context, writer, event),
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    orchestration_id: Option<String>,
    orchestration_name: Option<String>,
    execution_id: Option<u64>,
    activity_name: Option<String>,
    error: Option<String>,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "execution_id" {
            self.execution_id = Some(value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let short = || Some(value.rsplit("::").next().unwrap_or(value).to_owned());
        match field.name() {
            "message" => self.message = value.to_owned(),
            "instance" | "instance_id" => self.orchestration_id = Some(value.to_owned()),
            "orchestration" | "orchestration_name" => self.orchestration_name = short(),
            "activity_name" => self.activity_name = short(),
            "error" => self.error = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl<S: Subscriber> Layer<S> for EngineLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !is_engines(event.metadata().target()) {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields {
            message,
            orchestration_id,
            orchestration_name,
            execution_id,
            activity_name,
            error,
        } = fields;
        macro_rules! say {
            ($level:expr) => {
                tracing::event!(
                    target: "duroxide_runtime",
                    $level,
                    orchestration_id,
                    orchestration_name,
                    execution_id,
                    activity_name,
                    error,
                    "{message}"
                )
            };
        }
        match *event.metadata().level() {
            Level::ERROR => say!(Level::ERROR),
            Level::WARN => say!(Level::WARN),
            Level::INFO => say!(Level::INFO),
            Level::DEBUG => say!(Level::DEBUG),
            Level::TRACE => say!(Level::TRACE),
        }
    }
}
