//! The one error type of toygres, free of any transport.
//!
//! It has an outward side (`kind`, `code`, `message`, `hint`), safe to show to anybody, and an inward side
//! (`context`, the source chain), for logs only. HTTP maps it in one place, the engine in another.

use std::borrow::Cow;
use std::fmt;

/// The result of everything in toygres that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure this is: decides the HTTP status and whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The caller's input can't be read at all (bad JSON, unknown field, wrong type).
    Malformed,
    /// The input can be read, but a value in it is not allowed.
    Invalid,
    /// What was asked for does not exist.
    NotFound,
    /// The request contradicts the present state (a name in use, deletion protection).
    Conflict,
    /// The caller did not say who it is, or said it with a token that is not valid.
    Unauthenticated,
    /// The caller may not do this.
    Forbidden,
    /// What is to be changed is not as the caller has seen it.
    PreconditionFailed,
    /// The body or header is larger than allowed.
    TooLarge,
    /// A limit of the caller or of the machine is used up for now.
    Throttled,
    /// A part that toygres needs does not answer (database, platform, network).
    Unavailable,
    /// It took longer than it may.
    Timeout,
    /// Another writer has taken over, or the user wants something else by now: stop, change nothing.
    Superseded,
    /// The set-up is wrong (missing binaries, unknown version): no retry will help until somebody changes it.
    Config,
    /// Storage that must exist is missing or belongs to somebody else. Never repaired by making it anew.
    StorageLost,
    /// A defect of toygres.
    Internal,
}

impl ErrorKind {
    /// Whether the same call can succeed later without anybody changing the request or the set-up.
    #[must_use]
    pub const fn retryable(self) -> bool {
        match self {
            Self::Throttled | Self::Unavailable | Self::Timeout => true,
            Self::Malformed
            | Self::Invalid
            | Self::NotFound
            | Self::Conflict
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::PreconditionFailed
            | Self::TooLarge
            | Self::Superseded
            | Self::Config
            | Self::StorageLost
            | Self::Internal => false,
        }
    }
}

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// The field's name as in the request.
    pub field: String,
    /// What is wrong with it and what is allowed.
    pub message: String,
}

/// A failure, with what to tell the user and what to tell the log.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    code: Cow<'static, str>,
    message: String,
    hint: Option<String>,
    fields: Vec<FieldError>,
    context: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error. `code` is a stable snake_case word for programs, `message` is shown to people and never holds a
    /// secret or an internal detail.
    #[must_use]
    pub fn new(kind: ErrorKind, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                code: code.into(),
                message: message.into(),
                hint: None,
                fields: Vec::new(),
                context: Vec::new(),
                source: None,
            }),
        }
    }

    /// A defect of toygres; the detail goes to the log only.
    #[must_use]
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, "internal", "an internal error occurred").context(detail)
    }

    /// Values of a request that are not allowed, each with its field.
    #[must_use]
    pub fn invalid_fields(fields: Vec<FieldError>) -> Self {
        let message = fields
            .iter()
            .map(|f| format!("{}: {}", f.field, f.message))
            .collect::<Vec<_>>()
            .join("; ");
        let mut error = Self::new(ErrorKind::Invalid, "invalid_fields", message);
        error.inner.fields = fields;
        error
    }

    /// One value of a request that is not allowed.
    #[must_use]
    pub fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldError {
            field: field.to_owned(),
            message: message.into(),
        }])
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint = Some(hint.into());
        self
    }

    /// Adds a detail for the log. Never a secret.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.inner.context.push(context.into());
        self
    }

    /// Adds the error that caused this one, for the log.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The stable word for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.inner.code
    }

    /// The sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// What the user can do next, if there is anything.
    #[must_use]
    pub fn next_step(&self) -> Option<&str> {
        self.inner.hint.as_deref()
    }

    /// The wrong fields of a request, if that is the failure.
    #[must_use]
    pub fn fields(&self) -> &[FieldError] {
        &self.inner.fields
    }

    /// Whether the same call can succeed later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.kind().retryable()
    }

    /// The inward side: context and source chain, for logs only.
    #[must_use]
    pub fn detail(&self) -> String {
        let mut parts = self.inner.context.clone();
        let mut source: Option<&(dyn std::error::Error + 'static)> = self
            .inner
            .source
            .as_deref()
            .map(|s| s as &(dyn std::error::Error + 'static));
        while let Some(cause) = source {
            parts.push(cause.to_string());
            source = cause.source();
        }
        parts.join(": ")
    }
}

impl fmt::Display for Error {
    /// The outward message alone: safe wherever an error is printed by chance.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({}): {}", self.kind(), self.code(), self.message())?;
        let detail = self.detail();
        if detail.is_empty() {
            Ok(())
        } else {
            write!(f, " [{detail}]")
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner
            .source
            .as_deref()
            .map(|s| s as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outward_side_never_shows_the_inward_one() {
        let error = Error::new(
            ErrorKind::Unavailable,
            "database_unavailable",
            "the control database does not answer",
        )
        .context("pool 3 of 3")
        .source(std::io::Error::other("connection refused"));
        assert_eq!(error.to_string(), "the control database does not answer");
        assert_eq!(error.detail(), "pool 3 of 3: connection refused");
        assert!(error.retryable());
    }
}
