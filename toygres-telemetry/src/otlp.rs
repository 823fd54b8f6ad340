//! The way to the collector.

use crate::config::{Destination, OtlpConfig, TlsConfig};
use opentelemetry_otlp::{LogExporter, RetryPolicy, SpanExporter, WithExportConfig, WithTonicConfig};
use std::path::Path;
use std::time::Duration;
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use toygres_models::{Error, ErrorKind, Result};

/// A batch is tried for so long, then lost: rides out a collector that is started again. What waits meanwhile is
/// bounded by the queue.
const PATIENCE: Duration = Duration::from_secs(60);
const MOST_TRIES: usize = 30;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Must be called within the tokio runtime: connections are made when they are first used.
pub(crate) fn spans(config: &OtlpConfig) -> Result<SpanExporter> {
    let exporter = SpanExporter::builder().with_tonic();
    let exporter = with_destination(exporter, &config.traces, &config.tls)?;
    exporter.build().map_err(|cause| bad_destination(&cause))
}

/// As [`spans`].
pub(crate) fn logs(config: &OtlpConfig) -> Result<LogExporter> {
    let exporter = LogExporter::builder().with_tonic();
    let exporter = with_destination(exporter, &config.logs, &config.tls)?;
    exporter.build().map_err(|cause| bad_destination(&cause))
}

fn with_destination<B: WithExportConfig + WithTonicConfig>(
    builder: B,
    destination: &Destination,
    tls: &TlsConfig,
) -> Result<B> {
    let retry = RetryPolicy::recommended()
        .with_max_retries(MOST_TRIES)
        .with_max_delay(LONGEST_PAUSE);
    let builder = builder
        .with_channel(channel(destination, tls)?)
        .with_metadata(metadata(destination)?)
        .with_timeout(PATIENCE)
        .with_retry_policy(retry);
    Ok(match destination.compressed {
        true => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        false => builder,
    })
}

/// A connection that is made when it is first used, and again whenever it is lost.
pub(crate) fn channel(destination: &Destination, tls: &TlsConfig) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(destination.endpoint.clone())
        .map_err(|cause| bad_destination(&cause))?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(destination.timeout);
    if !destination.endpoint.starts_with("https://") {
        return Ok(endpoint.connect_lazy());
    }
    let mut config = match &tls.authority {
        Some(authority) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(authority)?)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    let endpoint = endpoint
        .tls_config(config)
        .map_err(|cause| bad_destination(&cause))?;
    Ok(endpoint.connect_lazy())
}

/// The headers of each request.
pub(crate) fn metadata(destination: &Destination) -> Result<MetadataMap> {
    let mut metadata = MetadataMap::new();
    for (name, value) in &destination.headers {
        let name = MetadataKey::from_bytes(name.as_bytes()).map_err(|cause| bad_destination(&cause))?;
        // Its error would show the value, which may be a token.
        let mut value: tonic::metadata::AsciiMetadataValue = value.reveal().parse().map_err(|_| {
            let message = "a header of OTEL_EXPORTER_OTLP_HEADERS has a character that headers can't have";
            Error::new(ErrorKind::Config, "bad_telemetry", message)
        })?;
        value.set_sensitive(true);
        metadata.insert(name, value);
    }
    Ok(metadata)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|cause| {
        let message = format!("{} can't be read: {}", path.display(), cause.kind());
        Error::new(ErrorKind::Config, "bad_telemetry", message)
    })
}

fn bad_destination(cause: &dyn std::fmt::Display) -> Error {
    let message = format!("the way to the collector can't be set up: {cause}");
    Error::new(ErrorKind::Config, "bad_telemetry", message)
}
