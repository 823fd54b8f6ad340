//! The one place where errors become HTTP answers (RFC 9457).

use super::guard::trace_id;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::time::Duration;
use toygres_models::problem::{CONTENT_TYPE, Problem};
use toygres_models::{Error, ErrorKind};

/// After so long a client may try again what could not be done now.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// An error on its way out.
pub(crate) struct Failed {
    error: Error,
    status: StatusCode,
    retry_after: Option<Duration>,
}

impl Failed {
    /// With a status that the kind of the error does not decide.
    pub(crate) fn with_status(error: Error, status: StatusCode) -> Self {
        Self {
            error,
            status,
            retry_after: None,
        }
    }

    /// Says when to try again.
    pub(crate) fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }
}

/// What handlers return.
pub(crate) type Answer<T> = Result<T, Failed>;

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let status = status(error.kind());
        Self::with_status(error, status)
    }
}

const fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Malformed => StatusCode::BAD_REQUEST,
        ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::Superseded => StatusCode::CONFLICT,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Throttled => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable | ErrorKind::Timeout => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Config | ErrorKind::StorageLost | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self {
            error,
            status,
            retry_after,
        } = self;
        if status.is_server_error() {
            tracing::error!(code = error.code(), detail = error.detail(), "{error}");
        }
        let mut response = (status, axum::Json(problem(status, &error))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                let time = retry_after.unwrap_or(RETRY_AFTER);
                // Whole seconds, and never none at all (RFC 9110, section 10.2.3).
                let seconds = time.as_secs_f64().ceil().max(1.0) as u64;
                headers.insert(header::RETRY_AFTER, seconds.into());
            }
            // What follows on the connection is the rest of the body: no client should send its next request there.
            StatusCode::PAYLOAD_TOO_LARGE => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"toygres\""),
                );
            }
            _ => {}
        }
        response
    }
}

/// The document that says so.
pub(crate) fn problem(status: StatusCode, error: &Error) -> Problem {
    Problem {
        type_uri: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        detail: error.message().to_owned(),
        code: error.code().to_owned(),
        trace_id: trace_id(),
        hint: error.next_step().map(str::to_owned),
        errors: error.fields().to_vec(),
    }
}

/// The same for one item of a bulk request.
pub(crate) fn item_problem(error: &Error) -> Problem {
    problem(status(error.kind()), error)
}

pub(crate) async fn no_route() -> Failed {
    Error::new(
        ErrorKind::NotFound,
        "route_not_found",
        "there is nothing at this path",
    )
    .hint("see what there is at /docs; the API begins at /api/instances")
    .into()
}

pub(crate) fn no_method(allowed: &[Method]) -> Response {
    let error = Error::new(
        ErrorKind::Malformed,
        "method_not_allowed",
        "this path does not know that method",
    );
    let mut response = Failed::with_status(error, StatusCode::METHOD_NOT_ALLOWED).into_response();
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    if let Ok(value) = HeaderValue::from_str(&names.join(", ")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}
