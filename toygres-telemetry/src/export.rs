//! Exporting metrics, with examples, and counting what is delivered and what is lost.

use crate::config::OtlpConfig;
use crate::engine_lines::is_engines;
use crate::events::{Event, ItemsHandled, Signal};
use crate::exemplar::Exemplars;
use crate::filter::is_plumbing;
use crate::{otlp, trace, traces};
use opentelemetry::logs::{LogRecord, Severity};
use opentelemetry::trace::Span as _;
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter, LogProcessor, SdkLogRecord};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use toygres_models::Result;

/// How often a batch is sent whose connection breaks off.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// The SDK's exporter leaves examples out. This one makes the same messages and puts them in.
pub(crate) struct MetricExporter {
    client: MetricsServiceClient<Channel>,
    metadata: MetadataMap,
    exemplars: Arc<Exemplars>,
}

impl MetricExporter {
    pub(crate) fn new(config: &OtlpConfig, exemplars: Arc<Exemplars>) -> Result<Self> {
        let channel = otlp::channel(&config.metrics, &config.tls)?;
        let client = MetricsServiceClient::new(channel);
        Ok(Self {
            client: match config.metrics.compressed {
                true => client.send_compressed(CompressionEncoding::Gzip),
                false => client,
            },
            metadata: otlp::metadata(&config.metrics)?,
            exemplars,
        })
    }

    fn add_exemplars(&self, request: &mut ExportMetricsServiceRequest) {
        let resources = request.resource_metrics.iter_mut();
        let scopes = resources.flat_map(|resource| &mut resource.scope_metrics);
        for metric in scopes.flat_map(|scope| &mut scope.metrics) {
            let Some(Data::Histogram(histogram)) = &mut metric.data else {
                continue;
            };
            for point in &mut histogram.data_points {
                point.exemplars = self.exemplars.take(&metric.name, &point.attributes);
            }
        }
    }
}

impl PushMetricExporter for MetricExporter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut message = ExportMetricsServiceRequest::from(metrics);
        self.add_exemplars(&mut message);
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        let answer = self.client.clone().export(request).await;
        // Once: the next one says all of it again.
        ItemsHandled {
            signal: Signal::Metrics,
            delivered: answer.is_ok(),
            count: 1,
        }
        .emit();
        match answer {
            Ok(_) => Ok(()),
            Err(status) => Err(OTelSdkError::InternalFailure(format!(
                "{:?}: {}",
                status.code(),
                status.message()
            ))),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

/// The records of a signal that were handed over and are neither delivered nor lost yet. The SDK's own queue can't
/// overflow behind it, so that every loss is seen here.
#[derive(Debug)]
pub(crate) struct Waiting {
    signal: Signal,
    most: usize,
    count: AtomicUsize,
}

impl Waiting {
    pub(crate) fn new(signal: Signal, most: usize) -> Arc<Self> {
        Arc::new(Self {
            signal,
            most,
            count: AtomicUsize::new(0),
        })
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// One more, if there is room. Else it is lost.
    fn admit(&self) -> bool {
        if self.count.fetch_add(1, Ordering::Relaxed) < self.most {
            return true;
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.handled(1, false);
        false
    }

    fn leave(&self, count: usize, delivered: bool) {
        self.count.fetch_sub(count, Ordering::Relaxed);
        self.handled(count, delivered);
    }

    fn handled(&self, count: usize, delivered: bool) {
        ItemsHandled {
            signal: self.signal,
            delivered,
            count: count as u64,
        }
        .emit();
    }
}

/// A processor or exporter whose records are counted.
#[derive(Debug)]
pub(crate) struct Counted<T> {
    pub(crate) inner: T,
    pub(crate) waiting: Arc<Waiting>,
}

impl<P: LogProcessor> LogProcessor for Counted<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        // What the exporters say of a record would be another record; the engine's are said again.
        let is_left_out = record
            .target()
            .is_some_and(|target| is_plumbing(target) || is_engines(target));
        if !is_left_out && self.waiting.admit() {
            if let Some(here) = traces::here() {
                record.set_trace_context(here.trace_id(), here.span_id(), Some(here.trace_flags()));
            }
            self.inner.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.inner.event_enabled(level, target, name)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let records: Vec<_> = batch.iter().collect();
        let result = again_if_broken_off(|| self.inner.export(LogBatch::new(&records))).await;
        self.waiting.leave(records.len(), result.is_ok());
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.inner.event_enabled(level, target, name)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<P: SpanProcessor> SpanProcessor for Counted<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        // For the collector. By a processor of its own each span would be copied for it at the end.
        if trace::is_kept(span.span_context().trace_id()) {
            span.set_attribute(KeyValue::new("sampling.keep", true));
        }
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        // The batch processor leaves out what is not sampled, so that is not counted either.
        if span.span_context.is_sampled() && self.waiting.admit() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = again_if_broken_off(|| self.inner.export(batch.clone())).await;
        self.waiting.leave(count, result.is_ok());
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// A collector that says that it can't now is asked again by the SDK. A connection that breaks off is final to the SDK, and
/// what was on its way would be lost.
async fn again_if_broken_off<F: Future<Output = OTelSdkResult>>(
    mut export: impl FnMut() -> F,
) -> OTelSdkResult {
    let mut tries = 1;
    loop {
        match export().await {
            Ok(()) => return Ok(()),
            // Tried for as long as may be.
            Err(error @ (OTelSdkError::Timeout(_) | OTelSdkError::AlreadyShutdown)) => return Err(error),
            Err(error) if tries == TRIES => return Err(error),
            // On a thread of the SDK's own.
            Err(_) => std::thread::sleep(PAUSE),
        }
        tries += 1;
    }
}
