//! Telemetry: what toygres tells of itself.
//!
//! - One tracing registry writes logs to the console, as JSON lines to `server.log`, and to a collector; spans go to the
//!   collector as traces.
//! - What happens is an [event](events) that writes its log line and its numbers together; [`metric`] is the table of
//!   all numbers.
//! - [`trace`] carries traces through what outlives processes.
//!
//! Telemetry never stops or slows what it tells of: queues are bounded, losses are counted, and what can't be set up is
//! one warning.

mod config;
mod document;
mod engine_lines;
pub mod events;
mod exemplar;
mod export;
mod filter;
mod json;
mod layer;
pub mod metric;
mod otlp;
mod process;
mod recorder;
mod statements;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
pub mod trace;
mod traces;

pub use config::{ConsoleFormat, Destination, MetricsConfig, OtlpConfig, TelemetryConfig, TlsConfig};
pub use document::document;
pub use events::Event;

use engine_lines::Without;
use events::{ItemsHandled, Signal};
use exemplar::Exemplars;
use export::{Counted, MetricExporter, Waiting};
use filter::{Calm, by_directives};
use json::JsonLines;
use layer::Telling;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_appender_tracing::layer::{OpenTelemetryTracingBridge, TracingSpanAttributes};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchConfigBuilder, BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder as SpanBatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider,
};
use recorder::Recorder;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use toygres_models::{Error, ErrorKind, Result};
use traces::Traces;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Days of log files that are kept.
const LOG_FILES_KEPT: usize = 14;
/// Lines that wait to be written to the file.
const LINES_WAITING: usize = 16_384;
/// Records sent at once.
const BATCH: usize = 512;
const LOG_DELAY: Duration = Duration::from_secs(1);
const SPAN_DELAY: Duration = Duration::from_secs(2);
/// What a log line tells of the spans round it.
const SPAN_FIELDS: [&str; 8] = [
    "user_name",
    "instance_id",
    "instance_name",
    "operation_id",
    "orchestration_id",
    "orchestration_name",
    "execution_id",
    "activity_name",
];

/// The process's telemetry. Shut it down before the end, else what waits is lost.
#[must_use = "what waits is lost unless it is shut down"]
pub struct Telemetry {
    export: Option<Export>,
    file: Option<WorkerGuard>,
}

struct Export {
    tracer: SdkTracerProvider,
    logger: SdkLoggerProvider,
    meter: SdkMeterProvider,
    waiting: [Arc<Waiting>; 2],
}

/// Installs the process's subscriber and recorder. Must come before the engine starts, which would install its own,
/// and within the tokio runtime.
///
/// # Errors
/// `Config` `log_subscriber` if there is a subscriber already. Anything else that can't be set up is a warning, and is
/// left out.
pub fn init(config: &TelemetryConfig) -> Result<Telemetry> {
    let mut warnings = config.warnings.clone();
    let directives = by_directives(&config.filter).unwrap_or_else(|error| {
        warnings.push(format!("{error}: \"info\" holds"));
        Box::new(LevelFilter::INFO)
    });
    let file = config.file.as_deref().and_then(|path| match open(path) {
        Ok(appender) => Some(appender),
        Err(error) => {
            let why = error.detail();
            warnings.push(format!("{error} ({why}): logs are not written to a file"));
            None
        }
    });
    let export = config.otlp.as_ref().and_then(|otlp| {
        let export = Export::new(config, otlp);
        export
            .map_err(|error| warnings.push(format!("nothing is exported: {error}")))
            .ok()
    });

    let mut traces = None;
    if !config.traces_off {
        // Also without export: the ids of traces stand in the log and in answers.
        let tracer = match &export {
            Some(export) => export.tracer.clone(),
            None => tracer_provider(config).build(),
        };
        global::set_tracer_provider(tracer.clone());
        // Without export nobody sees statements.
        traces = Some(Traces::new(tracer.tracer("toygres"), export.is_some()));
    }
    let mut lines: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    if let Some(export) = &export {
        let layer = OpenTelemetryTracingBridge::builder(&export.logger)
            .with_tracing_span_attributes(TracingSpanAttributes::allowlist(SPAN_FIELDS))
            .build();
        lines.push(layer.boxed());
    }
    let mut guard = None;
    if let Some(appender) = file {
        let (writer, worker) = NonBlockingBuilder::default()
            .buffered_lines_limit(LINES_WAITING)
            .finish(appender);
        count_lost_lines(writer.error_counter());
        guard = Some(worker);
        lines.push(JsonLines::new(config, writer).boxed());
    }
    let console = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(config.console == Some(ConsoleFormat::Pretty) && std::io::stderr().is_terminal());
    match config.console {
        None => {}
        Some(ConsoleFormat::Pretty) => {
            lines.push(console.event_format(Without(format().with_target(false))).boxed())
        }
        Some(ConsoleFormat::Compact) => lines.push(console.event_format(Without(format().compact())).boxed()),
        Some(ConsoleFormat::Json) => lines.push(JsonLines::new(config, std::io::stderr).boxed()),
    }
    // Last, when all others have done with the line that is said again.
    lines.push(engine_lines::EngineLines.boxed());
    let layer = Telling {
        traces,
        lines,
        directives,
        calm: Calm::default(),
    };
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(|cause| {
            Error::new(
                ErrorKind::Config,
                "log_subscriber",
                "logging is already set up in this process",
            )
            .source(cause)
        })?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(Telemetry { export, file: guard })
}

fn resource(config: &TelemetryConfig) -> Resource {
    let own = config
        .attributes
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty()
        .with_attributes([KeyValue::new(
            "service.instance.id",
            config.service_instance_id.clone(),
        )])
        .with_attributes(own)
        .with_attributes([
            KeyValue::new("service.name", config.service_name.clone()),
            KeyValue::new("service.version", config.service_version.clone()),
        ])
        .build()
}

fn tracer_provider(config: &TelemetryConfig) -> opentelemetry_sdk::trace::TracerProviderBuilder {
    SdkTracerProvider::builder()
        .with_resource(resource(config))
        .with_id_generator(trace::GivenOrRandom::default())
}

impl Export {
    fn new(config: &TelemetryConfig, otlp: &OtlpConfig) -> Result<Self> {
        let exemplars = Arc::new(Exemplars::default());
        let exporter = MetricExporter::new(otlp, exemplars.clone())?;
        let meter = SdkMeterProvider::builder()
            .with_resource(resource(config))
            .with_reader(
                PeriodicReader::builder(exporter)
                    .with_interval(otlp.metric_interval)
                    .build(),
            )
            .build();
        let waiting = Waiting::new(Signal::Traces, otlp.span_queue);
        let exporter = Counted {
            inner: otlp::spans(otlp)?,
            waiting: waiting.clone(),
        };
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(
                SpanBatchConfigBuilder::default()
                    .with_max_queue_size(otlp.span_queue)
                    .with_max_export_batch_size(BATCH.min(otlp.span_queue))
                    .with_scheduled_delay(SPAN_DELAY)
                    .build(),
            )
            .build();
        let spans = waiting.clone();
        let tracer = tracer_provider(config)
            .with_span_processor(Counted {
                inner: processor,
                waiting,
            })
            .build();
        let waiting = Waiting::new(Signal::Logs, otlp.log_queue);
        let exporter = Counted {
            inner: otlp::logs(otlp)?,
            waiting: waiting.clone(),
        };
        let processor = BatchLogProcessor::builder(exporter)
            .with_batch_config(
                BatchConfigBuilder::default()
                    .with_max_queue_size(otlp.log_queue)
                    .with_max_export_batch_size(BATCH.min(otlp.log_queue))
                    .with_scheduled_delay(LOG_DELAY)
                    .build(),
            )
            .build();
        let logs = waiting.clone();
        let logger = SdkLoggerProvider::builder()
            .with_resource(resource(config))
            .with_log_processor(Counted {
                inner: processor,
                waiting,
            })
            .build();
        recorder::install(Recorder::new(&meter, config.metrics.clone(), exemplars));
        Ok(Self {
            tracer,
            logger,
            meter,
            waiting: [spans, logs],
        })
    }
}

impl Telemetry {
    /// Sends what waits, metrics last, within `limit`, whether or not the collector answers. The file is written to
    /// its end.
    pub async fn shutdown(self, limit: Duration) {
        if let Some(export) = self.export {
            let deadline = tokio::time::Instant::now() + limit;
            // The SDK's calls block, and some don't keep their own limit: they get threads, which are left alone at the
            // deadline.
            let (tracer, logger) = (export.tracer.clone(), export.logger.clone());
            let spans = blocking(move || tracer.shutdown_with_timeout(limit));
            let logs = blocking(move || logger.shutdown_with_timeout(limit));
            let signals = async { tokio::join!(spans, logs) };
            tokio::time::timeout_at(deadline, signals).await.ok();
            // What the others lost is among the numbers, so that these go last.
            let meter = export.meter.clone();
            let metrics = blocking(move || meter.shutdown());
            let in_time = tokio::time::timeout_at(deadline, metrics).await.is_ok();
            let lost: usize = export.waiting.iter().map(|waiting| waiting.count()).sum();
            if lost > 0 || !in_time {
                tracing::warn!(
                    lost,
                    "the collector did not take all that was to be sent before the end"
                );
            }
            // Dropping them would shut them down once more, and wait.
            std::mem::forget((export.tracer, export.logger, export.meter));
        }
        drop(self.file);
    }

    /// Sends what waits now: for tests.
    ///
    /// # Panics
    /// When nothing is exported, or it can't be sent.
    #[doc(hidden)]
    pub async fn flush(&self) {
        let export = self.export.as_ref().expect("nothing is exported");
        let (tracer, logger, meter) = (export.tracer.clone(), export.logger.clone(), export.meter.clone());
        blocking(move || {
            tracer.force_flush().expect("spans");
            logger.force_flush().expect("logs");
            meter.force_flush().expect("metrics");
        })
        .await;
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(call()));
    answer.await.ok()
}

/// Tells the lines that the file's writer had no room for.
fn count_lost_lines(lost: ErrorCounter) {
    tokio::spawn(async move {
        let mut told = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let now = lost.dropped_lines();
            if now > told {
                ItemsHandled {
                    signal: Signal::File,
                    delivered: false,
                    count: (now - told) as u64,
                }
                .emit();
                told = now;
            }
        }
    });
}

fn open(path: &Path) -> Result<RollingFileAppender> {
    let failed = |why: String| {
        Error::new(
            ErrorKind::Config,
            "log_file",
            format!("the log file {} can't be opened", path.display()),
        )
        .context(why)
    };
    let (Some(directory), Some(name), Some(stem)) = (path.parent(), path.file_name(), path.file_stem())
    else {
        return Err(failed("it has no name".to_owned()));
    };
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix(stem.to_string_lossy())
        .filename_suffix(path.extension().unwrap_or_default().to_string_lossy())
        .max_log_files(LOG_FILES_KEPT)
        .latest_symlink(name.to_string_lossy())
        .build(directory)
        .map_err(|cause| failed(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_may_tell_secrets_is_not_recorded() {
        // Also by directives that name a span.
        for directives in ["trace,kube_client=trace", "trace,kube_client=trace,[a_span]=info"] {
            let written = Written::default();
            let writer = written.clone();
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(move || writer.clone())
                .with_filter(by_directives(directives).unwrap());
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::info!(target: "duroxide::providers::postgres", "a payload");
                tracing::warn!(target: "kube_client::client", "a secret");
                tracing::debug!(target: "kube_client::config", "harmless");
            });
            let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            assert!(written.contains("harmless"), "{written}");
            assert!(
                !written.contains("a payload") && !written.contains("a secret"),
                "{written}"
            );
        }
    }
}
