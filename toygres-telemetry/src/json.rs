//! Log lines as flat JSON objects: the fields of an event and of the spans round it stand beside each other, so that
//! a line can be found by `instance_id` wherever that was said.

use crate::SPAN_FIELDS;
use crate::config::TelemetryConfig;
use crate::engine_lines::is_engines;
use crate::traces;
use serde_json::{Map, Value};
use std::fmt;
use std::io::Write;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The layer.
pub(crate) struct JsonLines<W> {
    writer: W,
    service_name: String,
    service_version: String,
}

impl<W> JsonLines<W> {
    pub(crate) fn new(config: &TelemetryConfig, writer: W) -> Self {
        Self {
            writer,
            service_name: config.service_name.clone(),
            service_version: config.service_version.clone(),
        }
    }
}

/// What an event says, or a span of what lines tell of it: kept with the span, so that it is read once and not for each
/// line.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn of_span(&mut self) -> Reader<'_> {
        Reader {
            fields: self,
            only: Some(&SPAN_FIELDS),
        }
    }
}

/// Reads some of the fields, or all.
struct Reader<'a> {
    fields: &'a mut Fields,
    only: Option<&'static [&'static str]>,
}

impl Reader<'_> {
    fn put(&mut self, field: &Field, value: impl FnOnce() -> Value) {
        if self.only.is_none_or(|only| only.contains(&field.name())) {
            self.fields.0.insert(field.name().to_owned(), value());
        }
    }
}

impl Visit for Reader<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, || value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, || value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, || value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, || value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, || value.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, || format!("{value:?}").into());
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields.of_span());
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(&mut fields.of_span());
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // They are said again.
        if is_engines(event.metadata().target()) {
            return;
        }
        let mut line = Fields::default();
        let scope = context.event_scope(event);
        for span in scope.into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.0.extend(fields.0.clone());
            }
        }
        event.record(&mut Reader {
            fields: &mut line,
            only: None,
        });
        // What every line has comes last, so that no field can stand in its place.
        let Fields(mut line) = line;
        let metadata = event.metadata();
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp)).ok();
        line.insert("timestamp".to_owned(), timestamp.into());
        line.insert("level".to_owned(), metadata.level().as_str().into());
        line.insert("target".to_owned(), metadata.target().into());
        line.insert("service.name".to_owned(), self.service_name.as_str().into());
        line.insert("service.version".to_owned(), self.service_version.as_str().into());
        if let Some(here) = traces::here() {
            line.insert("trace_id".to_owned(), here.trace_id().to_string().into());
            line.insert("span_id".to_owned(), here.span_id().to_string().into());
        }
        let text = format!("{}\n", Value::Object(line));
        // Whoever can't write a line has nowhere to say so.
        self.writer
            .make_writer_for(metadata)
            .write_all(text.as_bytes())
            .ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_holds_the_fields_of_the_event_and_of_its_spans() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = JsonLines::new(&TelemetryConfig::read(&|_| None), move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let _span = tracing::info_span!(
                "operation",
                operation_id = "op-1",
                level = "forged",
                instance_id = tracing::field::Empty,
                route = "x"
            )
            .entered();
            _span.record("instance_id", "i-3");
            tracing::warn!(attempt = 2, timestamp = "forged", "it did not work \n \"yet\"");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        let line: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(line["operation_id"], "op-1");
        assert_eq!(line["attempt"], 2);
        assert_eq!(line["instance_id"], "i-3");
        assert_eq!(line.get("route"), None);
        assert_eq!(line["message"], "it did not work \n \"yet\"");
        assert_eq!(line["level"], "WARN");
        assert_ne!(line["timestamp"], "forged");
        assert_eq!(line["service.name"], "toygres");
    }
}
