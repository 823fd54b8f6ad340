//! A receiver of OTLP/gRPC that keeps what it is sent, and can be told to fail.

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    HistogramDataPoint, Metric, NumberDataPoint, number_data_point,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// How a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpAnswer {
    /// It takes what it is sent.
    Take,
    /// It says that it can't now.
    Unavailable,
    /// It never answers.
    Silence,
}

/// A log record.
#[derive(Debug, Clone)]
pub struct ReceivedLog {
    /// The line.
    pub body: String,
    /// `INFO`, `WARN`, ...
    pub severity: String,
    /// Which part of the program.
    pub target: String,
    /// Hexadecimal; empty outside a trace.
    pub trace_id: String,
    /// Hexadecimal; empty outside a trace.
    pub span_id: String,
    /// All fields.
    pub attributes: BTreeMap<String, String>,
}

/// A span.
#[derive(Debug, Clone)]
pub struct ReceivedSpan {
    /// Its name.
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: i32,
    /// Hexadecimal.
    pub trace_id: String,
    /// Hexadecimal.
    pub span_id: String,
    /// Hexadecimal; empty: it begins the trace.
    pub parent_span_id: String,
    /// Trace ids of its links.
    pub links: Vec<String>,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Whether it failed.
    pub is_error: bool,
    /// All attributes.
    pub attributes: BTreeMap<String, String>,
}

/// A number, with its labels, as it was sent last.
#[derive(Debug, Clone)]
pub struct ReceivedPoint {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The number; of a histogram the sum.
    pub value: f64,
    /// Measurements of a histogram.
    pub count: u64,
    /// Bounds of a histogram's buckets.
    pub bounds: Vec<f64>,
    /// Measurements in each bucket, one more than bounds.
    pub buckets: Vec<u64>,
    /// Trace ids of a histogram's examples.
    pub exemplars: Vec<String>,
}

#[derive(Default)]
struct Received {
    logs: Vec<ExportLogsServiceRequest>,
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
    metadata: Vec<BTreeMap<String, String>>,
    answer: Option<OtlpAnswer>,
    refused: usize,
}

/// The receiver. Ends when it is dropped.
pub struct OtlpReceiver {
    address: SocketAddr,
    secure: bool,
    received: Arc<Mutex<Received>>,
    /// One of its own, so that its connections end with it.
    runtime: Option<Runtime>,
}

impl OtlpReceiver {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), None).await
    }

    /// Starts one on this port: one that was there before, and went away.
    pub async fn start_on(address: SocketAddr, tls: Option<(String, String)>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bind = runtime.spawn(async move { TcpListener::bind(address).await.unwrap() });
        let listener = bind.await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Received::default()));
        let keep = Keep(received.clone());
        let secure = tls.is_some();
        let mut server = Server::builder();
        if let Some((certificate, key)) = tls {
            let identity = Identity::from_pem(certificate, key);
            server = server
                .tls_config(ServerTlsConfig::new().identity(identity))
                .unwrap();
        }
        let serve = server
            .add_service(LogsServiceServer::new(keep.clone()).accept_compressed(Gzip))
            .add_service(TraceServiceServer::new(keep.clone()).accept_compressed(Gzip))
            .add_service(MetricsServiceServer::new(keep).accept_compressed(Gzip))
            .serve_with_incoming(TcpIncoming::from(listener));
        Self {
            address,
            secure,
            received,
            runtime: {
                runtime.spawn(async move { serve.await.unwrap() });
                Some(runtime)
            },
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> String {
        match self.secure {
            true => format!("https://localhost:{}", self.address.port()),
            false => format!("http://{}", self.address),
        }
    }

    /// From now on it answers so.
    pub fn answer(&self, answer: OtlpAnswer) {
        self.received().answer = Some(answer);
    }

    /// How many requests it has not taken.
    pub fn refused(&self) -> usize {
        self.received().refused
    }

    /// Every log record so far.
    pub fn logs(&self) -> Vec<ReceivedLog> {
        let received = self.received();
        let resources = received.logs.iter().flat_map(|request| &request.resource_logs);
        let scopes = resources.flat_map(|resource| &resource.scope_logs);
        let records = scopes.flat_map(|scope| scope.log_records.iter().map(move |record| (scope, record)));
        let logs = records.map(|(scope, record)| ReceivedLog {
            body: record
                .body
                .as_ref()
                .and_then(|body| body.value.as_ref())
                .map(text)
                .unwrap_or_default(),
            severity: record.severity_text.clone(),
            target: scope
                .scope
                .as_ref()
                .map(|scope| scope.name.clone())
                .unwrap_or_default(),
            trace_id: hex(&record.trace_id),
            span_id: hex(&record.span_id),
            attributes: pairs(&record.attributes),
        });
        logs.collect()
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        let received = self.received();
        let resources = received.traces.iter().flat_map(|request| &request.resource_spans);
        let spans = resources.flat_map(|resource| &resource.scope_spans);
        let spans = spans.flat_map(|scope| &scope.spans).map(|span| ReceivedSpan {
            name: span.name.clone(),
            kind: span.kind,
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent_span_id: hex(&span.parent_span_id),
            links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            // 2 is "error".
            is_error: span.status.as_ref().is_some_and(|status| status.code == 2),
            attributes: pairs(&span.attributes),
        });
        spans.collect()
    }

    /// The series of a metric, as they were sent last.
    pub fn metric(&self, name: &str) -> Vec<ReceivedPoint> {
        let received = self.received();
        let requests = received.metrics.iter().rev();
        let found = requests.filter_map(|request| metrics(request).find(|metric| metric.name == name));
        found.map(points).next().unwrap_or_default()
    }

    /// The series of a metric in the last export: what a gauge does not show any more is not in it.
    pub fn last_metric(&self, name: &str) -> Vec<ReceivedPoint> {
        let received = self.received();
        let mut last = received.metrics.last().into_iter().flat_map(metrics);
        let found = last.find(|metric| metric.name == name);
        found.map(points).unwrap_or_default()
    }

    /// The names of all metrics that were ever sent.
    pub fn metric_names(&self) -> Vec<String> {
        let received = self.received();
        let all = received.metrics.iter().flat_map(metrics);
        let mut names: Vec<_> = all.map(|metric| metric.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Attributes of the resource that the first of all signals told of.
    pub fn resource(&self) -> BTreeMap<String, String> {
        let received = self.received();
        let of_logs = received.logs.iter().flat_map(|request| &request.resource_logs);
        let resource = of_logs.filter_map(|logs| logs.resource.as_ref()).next();
        resource
            .map(|resource| pairs(&resource.attributes))
            .unwrap_or_default()
    }

    /// The headers of all requests.
    pub fn metadata(&self) -> Vec<BTreeMap<String, String>> {
        self.received().metadata.clone()
    }

    /// All that was ever sent, as text: for looking for secrets.
    pub fn all(&self) -> String {
        let received = self.received();
        let Received {
            logs,
            traces,
            metrics,
            ..
        } = &*received;
        format!("{logs:?}\n{traces:?}\n{metrics:?}")
    }

    /// Size of everything that was sent of metrics in each export, in bytes.
    pub fn metric_export_sizes(&self) -> Vec<usize> {
        use prost::Message;
        let received = self.received();
        received.metrics.iter().map(Message::encoded_len).collect()
    }

    fn received(&self) -> std::sync::MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn metrics(request: &ExportMetricsServiceRequest) -> impl Iterator<Item = &Metric> {
    let resources = request.resource_metrics.iter();
    let scopes = resources.flat_map(|resource| &resource.scope_metrics);
    scopes.flat_map(|scope| &scope.metrics)
}

fn points(metric: &Metric) -> Vec<ReceivedPoint> {
    match &metric.data {
        Some(Data::Sum(sum)) => sum.data_points.iter().map(number).collect(),
        Some(Data::Gauge(gauge)) => gauge.data_points.iter().map(number).collect(),
        Some(Data::Histogram(histogram)) => histogram.data_points.iter().map(measurements).collect(),
        _ => Vec::new(),
    }
}

fn number(point: &NumberDataPoint) -> ReceivedPoint {
    let value = match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => 0.0,
    };
    ReceivedPoint {
        labels: pairs(&point.attributes),
        value,
        count: 0,
        bounds: Vec::new(),
        buckets: Vec::new(),
        exemplars: Vec::new(),
    }
}

fn measurements(point: &HistogramDataPoint) -> ReceivedPoint {
    ReceivedPoint {
        labels: pairs(&point.attributes),
        value: point.sum.unwrap_or_default(),
        count: point.count,
        bounds: point.explicit_bounds.clone(),
        buckets: point.bucket_counts.clone(),
        exemplars: point.exemplars.iter().map(|e| hex(&e.trace_id)).collect(),
    }
}

fn pairs(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let pair = |pair: &KeyValue| {
        let value = pair.value.as_ref()?.value.as_ref()?;
        Some((pair.key.clone(), text(value)))
    };
    attributes.iter().filter_map(pair).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Clone)]
struct Keep(Arc<Mutex<Received>>);

impl Keep {
    /// What is to be done with a request.
    async fn take<T>(&self, request: Request<T>, keep: fn(&mut Received, T)) -> Result<(), Status> {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).answer;
        if !matches!(answer, None | Some(OtlpAnswer::Take)) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).refused += 1;
        }
        match answer.unwrap_or(OtlpAnswer::Take) {
            OtlpAnswer::Take => {}
            OtlpAnswer::Unavailable => return Err(Status::unavailable("told to")),
            OtlpAnswer::Silence => std::future::pending().await,
        }
        let metadata = request.metadata().clone().into_headers();
        let metadata = metadata.iter().map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        });
        let mut received = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        received.metadata.push(metadata.collect());
        keep(&mut received, request.into_inner());
        Ok(())
    }
}

#[tonic::async_trait]
impl LogsService for Keep {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.take(request, |received, request| received.logs.push(request))
            .await?;
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Keep {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(request, |received, request| received.traces.push(request))
            .await?;
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Keep {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(request, |received, request| received.metrics.push(request))
            .await?;
        Ok(Response::new(Default::default()))
    }
}
