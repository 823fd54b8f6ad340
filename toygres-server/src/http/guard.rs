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
use toygres_telemetry::Event;
use toygres_telemetry::events::RequestAnswered;
use toygres_telemetry::trace::TraceParent;
use tracing::Instrument;
use tracing::field::Empty;

/// No request takes longer.
const TIME_LIMIT: Duration = Duration::from_secs(15);

tokio::task_local! {
    static TRACE_ID: String;
}

/// The trace id of the request that is being served.
pub(crate) fn trace_id() -> String {
    TRACE_ID.try_with(Clone::clone).unwrap_or_default()
}

/// Where the request that is being served stands in its trace, as W3C `traceparent`, for the work that it begins.
/// None outside a request.
pub(crate) fn current_traceparent() -> Option<String> {
    let here = TraceParent::current().map(|here| here.header());
    here.or_else(|| {
        let trace_id = TRACE_ID.try_with(Clone::clone).ok()?;
        Some(TraceParent::of(u128::from_str_radix(&trace_id, 16).ok()?, rand::random()).header())
    })
}

pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str)
        .to_owned();
    let begin = || {
        tracing::info_span!(
            "request",
            otel.name = format!("{method} {route}"),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method.as_str(),
            http.route = route,
            http.response.status_code = Empty,
            user_name = Empty,
            instance_id = Empty,
            instance_name = Empty,
            operation_id = Empty,
        )
    };
    let parent = incoming(request.headers());
    let span = match &parent {
        Some(parent) => parent.scope(begin),
        None => begin(),
    };
    // Without traces there is an id all the same, to find the request in the log by.
    let trace_id = match TraceParent::of_span(&span).or(parent) {
        Some(here) => here.trace_id(),
        None => uuid::Uuid::new_v4().simple().to_string(),
    };
    let serve = async move {
        let begun = Instant::now();
        let mut response = serve(request, next).await;
        let status = response.status();
        let span = tracing::Span::current();
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("otel.status_code", "ERROR");
        }
        RequestAnswered {
            method: method.as_str(),
            route: &route,
            status: status.as_u16(),
            duration: begun.elapsed(),
        }
        .emit();
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

/// The header `traceparent`. Any other value than a right one is as good as none.
fn incoming(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::parse(headers.get("traceparent")?.to_str().ok()?)
}
