//! Round every request: a trace id, a time limit, and the leave-taking of a server that stops.

use super::App;
use super::problem::Failed;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use toygres_models::{Error, ErrorKind};
use tracing::Instrument;

/// No request takes longer.
const TIME_LIMIT: Duration = Duration::from_secs(15);

tokio::task_local! {
    static TRACE_ID: String;
}

/// The trace id of the request that is being served.
pub(crate) fn trace_id() -> String {
    TRACE_ID.try_with(Clone::clone).unwrap_or_default()
}

/// The same as W3C `traceparent`, for the work that the request begins. None outside a request.
pub(crate) fn current_traceparent() -> Option<String> {
    let trace_id = TRACE_ID.try_with(Clone::clone).ok()?;
    let span_id = &uuid::Uuid::new_v4().simple().to_string()[..16];
    Some(format!("00-{trace_id}-{span_id}-01"))
}

pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let trace_id =
        incoming_trace_id(request.headers()).unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str)
        .to_owned();
    let span = tracing::info_span!("request", trace_id, http_method = %method, http_route = route);
    let serve = async move {
        let begun = Instant::now();
        let mut response = serve(request, next).await;
        let status = response.status().as_u16();
        let elapsed_ms = begun.elapsed().as_secs_f64() * 1000.0;
        match route.as_str() {
            // Probes come every few seconds and say nothing new.
            "/health" | "/livez" | "/readyz" => tracing::debug!(status, elapsed_ms, "answered"),
            _ => tracing::info!(status, elapsed_ms, "answered"),
        }
        if let Ok(value) = HeaderValue::from_str(&self::trace_id()) {
            response.headers_mut().insert("x-trace-id", value);
        }
        let nosniff = HeaderValue::from_static("nosniff");
        response
            .headers_mut()
            .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        response
    };
    TRACE_ID.scope(trace_id, serve.instrument(span)).await
}

/// Has clients leave a server that is told to stop: the next request comes on a new connection, which a balancer gives to
/// another server, and none is on its way into a connection that is just being closed.
pub(crate) async fn part(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if app.stopping.is_cancelled() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

async fn serve(request: Request, next: Next) -> Response {
    let served = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(TIME_LIMIT, served).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Failed::from(Error::internal("a handler panicked")).into_response(),
        Err(_) => Failed::from(Error::new(
            ErrorKind::Timeout,
            "timeout",
            "the request took too long",
        ))
        .into_response(),
    }
}

/// The trace id of a `traceparent` header (W3C Trace Context, section 3.2).
fn incoming_trace_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("traceparent")?.to_str().ok()?.split('-').nth(1)?;
    let valid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) && id.bytes().any(|b| b != b'0');
    valid.then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn a_trace_id_is_taken_over_only_if_it_is_one() {
        let id = |value| incoming_trace_id(&headers(&[("traceparent", value)]));
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(id(good).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in [
            "",
            "00",
            "00-xyz-1-1",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}
