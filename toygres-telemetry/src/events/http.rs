use super::Event;
use crate::metric::Metric;
use crate::recorder::record;
use std::time::Duration;

/// The API answered a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestAnswered<'a> {
    /// The method; one that HTTP does not know is `_OTHER`.
    pub method: &'a str,
    /// The route as it is declared (`/api/instances/{name}`); empty when there is none.
    pub route: &'a str,
    /// The status.
    pub status: u16,
    /// How long it took.
    pub duration: Duration,
}

impl Event for RequestAnswered<'_> {
    fn emit(self) {
        let Self {
            method,
            route,
            status,
            duration,
        } = self;
        let known = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
        let method = if known.contains(&method) { method } else { "_OTHER" };
        let seconds = duration.as_secs_f64();
        let word = status.to_string();
        record(
            Metric::HttpServerRequestDuration,
            seconds,
            &[method, route, &word],
        );
        let elapsed_ms = seconds * 1000.0;
        // Who polls, lists and probes would fill the log with what metrics and traces tell.
        match method {
            "GET" | "HEAD" if status < 400 => tracing::debug!(
                http.request.method = method,
                http.route = route,
                status,
                elapsed_ms,
                "answered"
            ),
            _ => tracing::info!(
                http.request.method = method,
                http.route = route,
                status,
                elapsed_ms,
                "answered"
            ),
        }
    }
}
