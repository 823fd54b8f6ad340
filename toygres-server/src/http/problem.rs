//! The one place where errors become HTTP answers (RFC 9457).

use super::guard::trace_id;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use toygres_models::problem::{CONTENT_TYPE, Problem};
use toygres_models::{Error, ErrorKind};

/// Seconds after which a client may try again what could not be done now.
const RETRY_AFTER_SECONDS: &str = "2";

/// An error on its way out.
pub(crate) struct Failed(pub(crate) Error);

/// What handlers return.
pub(crate) type Answer<T> = Result<T, Failed>;

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

const fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Malformed => StatusCode::BAD_REQUEST,
        ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::Superseded => StatusCode::CONFLICT,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Throttled => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable | ErrorKind::Timeout => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Config | ErrorKind::StorageLost | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(error) = self;
        if status(error.kind()).is_server_error() {
            tracing::error!(code = error.code(), detail = error.detail(), "{error}");
        }
        with_status(status(error.kind()), &error)
    }
}

/// The answer with a status that the kind of the error does not decide.
pub(crate) fn with_status(status: StatusCode, error: &Error) -> Response {
    let problem = Problem {
        type_uri: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        detail: error.message().to_owned(),
        code: error.code().to_owned(),
        trace_id: trace_id(),
        hint: error.next_step().map(str::to_owned),
        errors: error.fields().to_vec(),
    };
    let mut response = (status, axum::Json(problem)).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    response
}

pub(crate) async fn no_route() -> Failed {
    Failed(
        Error::new(
            ErrorKind::NotFound,
            "route_not_found",
            "there is nothing at this path",
        )
        .hint("the API begins at /api/instances"),
    )
}

pub(crate) async fn no_method() -> Response {
    let error = Error::new(
        ErrorKind::Malformed,
        "method_not_allowed",
        "this path does not know that method",
    );
    with_status(StatusCode::METHOD_NOT_ALLOWED, &error)
}
