//! What orchestration code sees when something failed.
//!
//! duroxide carries errors as strings, logs them and stores them, so a [`Failure`] holds the outward side of an
//! [`Error`] only. This is the one place that maps the one to the other.

use duroxide::ErrorDetails;
use serde::{Deserialize, Serialize};
use std::fmt;
use toygres_models::orchestrations::OrchestrationError;
use toygres_models::{Error, ErrorKind};

/// The longest message kept, in bytes. Longer ones are cut.
const MAX_MESSAGE_BYTES: usize = 2_000;

/// The broad sort of a failure, a bounded set for retries, metrics and alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The work itself said no.
    App,
    /// Something the work needs did not answer.
    Infrastructure,
    /// The set-up is wrong.
    Config,
    /// It took longer than it may.
    Timeout,
}

impl FailureClass {
    /// The class of a kind of error.
    #[must_use]
    pub const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Throttled | ErrorKind::Unavailable => Self::Infrastructure,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Config => Self::Config,
            ErrorKind::Malformed
            | ErrorKind::Invalid
            | ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::Unauthenticated
            | ErrorKind::Forbidden
            | ErrorKind::PreconditionFailed
            | ErrorKind::TooLarge
            | ErrorKind::Superseded
            | ErrorKind::StorageLost
            | ErrorKind::Internal => Self::App,
        }
    }
}

/// Why an activity or an orchestration did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The broad sort.
    pub class: FailureClass,
    /// The exact sort.
    pub kind: ErrorKind,
    /// A stable word for programs.
    pub code: String,
    /// The sentence for people: no secret, no internal detail.
    pub message: String,
    /// Whether the same call can succeed later.
    pub retryable: bool,
    /// How often it was tried.
    pub attempts: u32,
}

impl Failure {
    /// A failure of this kind; class and whether a retry can help follow from the kind.
    #[must_use]
    pub fn new(kind: ErrorKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
            message.push('…');
        }
        let class = FailureClass::of(kind);
        Self {
            class,
            kind,
            code: code.into(),
            message,
            retryable: kind.retryable(),
            attempts: 1,
        }
    }

    /// An orchestration's own no: a conflict with the present state, final.
    #[must_use]
    pub fn app(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, code, message)
    }

    /// A defect that duroxide reports by its own words, which are in its log and not for people.
    fn defect(code: &str, message: &str) -> Self {
        Self::new(ErrorKind::Internal, code, message)
    }

    /// The string that duroxide stores. [`decode`](Self::decode) reads it.
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| self.code.clone())
    }

    /// One of ours. Each has a code.
    pub(crate) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text)
            .ok()
            .filter(|failure: &Self| !failure.code.is_empty())
    }

    /// Reads an error string of duroxide: one of ours, or one of its own texts.
    #[must_use]
    pub fn decode(text: &str) -> Self {
        if let Some(failure) = Self::read(text) {
            return failure;
        }
        if text.starts_with("canceled:") {
            Self::new(
                ErrorKind::Superseded,
                "cancelled",
                "the orchestration was cancelled",
            )
        } else if text.starts_with("timeout:") {
            Self::new(
                ErrorKind::Timeout,
                "activity_timeout",
                "the step took longer than it may",
            )
        } else if text.starts_with("infrastructure:") {
            Self::new(
                ErrorKind::Unavailable,
                "engine_unavailable",
                "the orchestration store failed",
            )
        } else if text.starts_with("nondeterministic") {
            let message = "the orchestration's code no longer fits its history";
            Self {
                class: FailureClass::Config,
                ..Self::defect("nondeterminism", message)
            }
        } else if text.starts_with("poison:") {
            let message = "the work was given up after it had failed to run too many times";
            Self {
                class: FailureClass::Infrastructure,
                ..Self::defect("poisoned", message)
            }
        } else if text.starts_with("orchestration panicked:") {
            Self::defect("orchestration_panicked", "the orchestration ended by a defect")
        } else if text.starts_with("task ") && text.contains(" panicked") {
            Self::defect("activity_panicked", "the step ended by a defect")
        } else if text.contains("' already exists") {
            Self::new(
                ErrorKind::Conflict,
                "child_exists",
                "an orchestration with this id already exists",
            )
        } else {
            Self::defect("unknown", "the orchestration engine reported an unknown failure")
        }
    }

    /// What duroxide's own failures are made into, so that they reach the orchestration that waits for the result.
    /// Left as they are, they would fail it outright.
    pub(crate) fn of_details(details: &ErrorDetails) -> Self {
        Self::decode(&details.display_message())
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self::new(error.kind(), error.code(), error.message())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure.code, failure.message)
    }
}

impl From<Failure> for OrchestrationError {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind,
            code: failure.code,
            message: failure.message,
            retryable: failure.retryable,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_its_string_and_keeps_the_inward_side_back() {
        let error = Error::new(
            ErrorKind::Unavailable,
            "platform_unavailable",
            "the cluster does not answer",
        )
        .context("token canary");
        let failure = Failure::from(&error);
        assert_eq!(failure.class, FailureClass::Infrastructure);
        assert!(failure.retryable);
        let text = failure.encode();
        assert!(!text.contains("canary"));
        assert_eq!(Failure::decode(&text), failure);
    }

    #[test]
    fn the_engines_own_words_are_understood() {
        let cases = [
            ("canceled: replaced", "cancelled", FailureClass::App),
            (
                "timeout: activity timed out",
                "activity_timeout",
                FailureClass::Timeout,
            ),
            (
                "infrastructure:ack_orchestration_item: x",
                "engine_unavailable",
                FailureClass::Infrastructure,
            ),
            (
                "nondeterministic: schedule mismatch",
                "nondeterminism",
                FailureClass::Config,
            ),
            ("nondeterministic in x", "nondeterminism", FailureClass::Config),
            (
                "poison: activity a#2 exceeded 11 attempts (max 10)",
                "poisoned",
                FailureClass::Infrastructure,
            ),
            (
                "orchestration panicked: oh",
                "orchestration_panicked",
                FailureClass::App,
            ),
            (
                "task 12 panicked with message \"oh\"",
                "activity_panicked",
                FailureClass::App,
            ),
            (
                "sub-orchestration instance id 'x' already exists and is terminal",
                "child_exists",
                FailureClass::App,
            ),
            ("{\"kind\":\"half\"}", "unknown", FailureClass::App),
            ("", "unknown", FailureClass::App),
        ];
        for (text, code, class) in cases {
            let failure = Failure::decode(text);
            assert_eq!((failure.code.as_str(), failure.class), (code, class), "{text}");
        }
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let failure = Failure::app("x", "ä".repeat(MAX_MESSAGE_BYTES));
        assert!(failure.message.len() <= MAX_MESSAGE_BYTES + '…'.len_utf8());
    }

    #[test]
    fn every_failure_has_a_code() {
        let nameless = Failure::app("", "message").encode();
        assert_eq!(Failure::decode(&nameless).code, "unknown");
    }

    fn is_some_failure(text: &str) {
        let read = Failure::decode(text);
        assert!(!read.code.is_empty(), "{read:?}");
        assert_eq!(Failure::decode(&read.encode()), read);
    }

    #[test]
    fn fuzz_failure() {
        bolero::check!().for_each(|bytes: &[u8]| is_some_failure(&String::from_utf8_lossy(bytes)));
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_read_as_some_failure(
            start in "(canceled|timeout|infrastructure|nondeterministic|poison|configuration)?:?",
            text in ".*", code in ".+", attempts: u32,
        ) {
            for text in [text.clone(), format!("{start}{text}")] {
                is_some_failure(&text);
            }
            let failure = Failure { attempts, ..Failure::app(code, text) };
            proptest::prop_assert_eq!(Failure::decode(&failure.encode()), failure);
        }
    }
}
