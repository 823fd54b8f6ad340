//! Errors of the store, as toygres's own.

use crate::store::{Verdict, verdict};
use duroxide::ClientError;
use duroxide::providers::ProviderError;
use toygres_models::{Error, ErrorKind};

/// The database does not answer, or not in time.
pub(crate) fn unavailable() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "database_unavailable",
        "the control database does not answer",
    )
}

/// An error of duroxide's client.
pub(crate) fn from_client(error: ClientError) -> Error {
    match error {
        ClientError::Provider(error) => from_provider(&error),
        ClientError::Timeout => Error::new(
            ErrorKind::Timeout,
            "orchestration_timeout",
            "the orchestration did not end in time",
        ),
        ClientError::InvalidInput { message } => Error::internal(message),
        other => Error::internal(other.to_string()),
    }
}

/// An error of the store.
pub(crate) fn from_provider(error: &ProviderError) -> Error {
    if error.message.starts_with(crate::store::TOO_LARGE) {
        return Error::new(ErrorKind::TooLarge, "payload_too_large", error.message.clone());
    }
    match verdict(error) {
        Verdict::Transient => unavailable().context(error.to_string()),
        Verdict::Lost | Verdict::Permanent | Verdict::Unknown => Error::internal(error.to_string()),
    }
}

/// An error of the engine's own SQL.
pub(crate) fn from_sqlx(error: sqlx::Error) -> Error {
    let transient = match &error {
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| crate::store::transient_sqlstate(&code)),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    };
    if transient {
        unavailable().source(error)
    } else {
        Error::internal("engine store").source(error)
    }
}
