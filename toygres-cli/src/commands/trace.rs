//! A command is one trace, down to what the server does for it.

use std::time::Duration;
use toygres_server::config;
use toygres_telemetry::{Telemetry, TelemetryConfig};
use tracing::Instrument;

/// Nobody waits longer at the end of a command because of its trace.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Runs a command as a span of its own, which is exported if the environment says where to.
pub(super) async fn traced<T>(command: &str, work: impl Future<Output = T>) -> T {
    let Some(telemetry) = exported() else {
        return work.await;
    };
    let span = tracing::info_span!(
        "command",
        otel.name = format!("toygres {command}"),
        otel.kind = "client",
        peer.service = "toygres"
    );
    let result = work.instrument(span).await;
    telemetry.shutdown(FLUSH_LIMIT).await;
    result
}

fn exported() -> Option<Telemetry> {
    let config = config::telemetry();
    config.otlp.as_ref()?;
    // The command's own words are for its user, not for a log.
    let config = TelemetryConfig {
        service_name: format!("{}-cli", config.service_name),
        console: None,
        filter: "off".to_owned(),
        ..config
    };
    toygres_telemetry::init(&config).ok()
}
