//! What an error of the store means.
//!
//! duroxide-pg hands on a text and a flag. The text holds the message of the server, never the SQLSTATE, and the flag
//! calls nearly every error of the server final, a terminated connection among them. So the text is read: what says
//! "lost" or "wrong" for sure is final, what is known to pass is tried again without end, all else some times.

use duroxide::providers::ProviderError;
use toygres_telemetry::events::ProviderErrorType as ErrorType;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passes: try again.
    Transient,
    /// The lock is not ours any more.
    Lost,
    /// It stays however often it is tried.
    Permanent,
    /// Not recognised. Servers may speak another language than English.
    Unknown,
}

/// How refusals of the store's own size limit begin.
pub(crate) const TOO_LARGE: &str = "payload too large";
/// What is said of a call that was given up.
pub(super) const NO_ANSWER: &str = "no answer in time";

/// What the words of duroxide-pg and of the server mean. The first that an error holds counts.
#[rustfmt::skip]
const WORDS: [(&str, Verdict, ErrorType); 55] = {
    use ErrorType::{Connection, ConstraintViolation, Corruption, Deadlock, Other, Serialization, Timeout};
    use Verdict::{Lost, Permanent, Transient, Unknown};
    [
        // duroxide-pg, of a lock token that is not valid (any more).
        ("Invalid lock token", Lost, Other),
        ("Lock token invalid", Lost, Other),
        ("Worker queue item not found", Lost, Other),
        ("already acked", Lost, Other),
        ("already released", Lost, Other),
        // Data that can't be written or read, and constraints.
        (TOO_LARGE, Permanent, Other),
        ("Failed to serialize", Permanent, Other),
        ("Failed to deserialize", Permanent, Corruption),
        ("Duplicate detected", Permanent, ConstraintViolation), // 23505
        ("Foreign key violation", Permanent, ConstraintViolation), // 23503
        ("event_id must be set", Permanent, Other),
        ("Invalid completion", Permanent, Other),
        ("Invalid visible_at", Permanent, Other),
        ("ActivityExecute should go to", Permanent, Other),
        // duroxide-pg, of errors by type.
        (NO_ANSWER, Transient, Timeout),
        ("pool timed out", Transient, Timeout),
        ("I/O error", Transient, Connection),
        ("Connection pool error", Transient, Connection),
        ("Deadlock detected", Transient, Deadlock), // 40P01
        ("Cached plan invalidated", Transient, Other), // 0A000
        ("Serialization failure", Transient, Serialization), // 40001
        ("error communicating with database", Transient, Connection),
        ("error occurred while attempting to establish a TLS connection", Transient, Connection),
        ("encountered unexpected or invalid data", Transient, Connection),
        ("crashed background worker", Transient, Connection),
        // The server, by SQLSTATE.
        ("idle-in-transaction timeout", Transient, Timeout), // 25P03
        ("conflict with recovery", Transient, Serialization), // 57P01, 40001 on a standby
        ("terminating connection", Transient, Connection), // 57P01, 57P05
        ("the database system is", Transient, Connection), // 57P03: starting up, shutting down, in recovery mode
        ("server process", Transient, Connection), // 57P02: of another server process, which exited abnormally
        ("canceling statement", Transient, Timeout), // 57014: by a time-out of the statement or the lock
        ("canceling authentication", Transient, Timeout), // 57014
        ("too many connections", Transient, Connection), // 53300
        ("too many clients", Transient, Connection), // 53300
        ("remaining connection slots", Transient, Connection), // 53300
        ("out of memory", Transient, Other), // 53200
        ("out of shared memory", Transient, Other), // 53200
        ("No space left on device", Transient, Other), // 53100
        ("could not extend file", Transient, Other), // 53100
        ("could not serialize access", Transient, Serialization), // 40001
        ("could not obtain lock", Transient, Other), // 55P03
        ("in a read-only transaction", Transient, Other), // 25006
        ("recovery is in progress", Transient, Other), // 25006, 55000
        ("could not receive data from client", Transient, Connection), // 08006
        ("connection to client lost", Transient, Connection), // 08006
        ("connection refused", Transient, Connection),
        ("the connection is closed", Transient, Connection),
        ("violates not-null constraint", Unknown, ConstraintViolation), // 23502
        ("violates check constraint", Unknown, ConstraintViolation), // 23514
        ("invalid page in block", Unknown, Corruption), // XX001
        ("could not read block", Unknown, Corruption), // XX001
        ("missing chunk number", Unknown, Corruption), // XX001
        ("unexpected zero page", Unknown, Corruption), // XX002
        ("is not a btree", Unknown, Corruption), // XX002
        ("could not access status of transaction", Unknown, Corruption), // XX000
    ]
};

fn meaning(error: &ProviderError) -> (Verdict, ErrorType) {
    let found = WORDS.iter().find(|(words, ..)| error.message.contains(words));
    let (verdict, error_type) =
        found.map_or((Verdict::Unknown, ErrorType::Other), |found| (found.1, found.2));
    match verdict {
        Verdict::Unknown if error.retryable => (Verdict::Transient, error_type),
        verdict => (verdict, error_type),
    }
}

/// What to do about this error of the store.
pub(crate) fn verdict(error: &ProviderError) -> Verdict {
    meaning(error).0
}

/// The sort of this error of the store.
pub(super) fn error_type(error: &ProviderError) -> ErrorType {
    meaning(error).1
}

/// Whether what this SQLSTATE says passes by itself.
pub(crate) fn transient_sqlstate(code: &str) -> bool {
    let class = ["08", "53", "57"].iter().any(|class| code.starts_with(class));
    class || ["40001", "40P01", "55P03", "25006", "25P03", "0A000", "58030"].contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(message: &str) -> Verdict {
        verdict(&ProviderError::permanent("ack_worker", message))
    }

    #[test]
    fn the_servers_words_are_told_apart() {
        let server = |message: &str| {
            says(&format!(
                "Database error: error returned from database: {message}"
            ))
        };
        for passes in [
            "terminating connection due to administrator command",
            "terminating connection because of crash of another server process",
            "the database system is starting up",
            "the database system is shutting down",
            "sorry, too many clients already",
            "remaining connection slots are reserved for non-replication superuser connections",
            "cannot execute INSERT in a read-only transaction",
            "canceling statement due to lock timeout",
            "could not obtain lock on row in relation \"x\"",
        ] {
            assert_eq!(server(passes), Verdict::Transient, "{passes}");
        }
        assert_eq!(server("function x() does not exist"), Verdict::Unknown);
        assert_eq!(server("la connexion se termine"), Verdict::Unknown);
        assert_eq!(says("Serialization failure: x"), Verdict::Transient);
        assert_eq!(says("Duplicate detected: x"), Verdict::Permanent);
        assert_eq!(says("Invalid lock token"), Verdict::Lost);
        assert_eq!(
            says("Worker queue item not found or already processed"),
            Verdict::Lost
        );
        assert_eq!(
            says("Lock token invalid, expired, or already acked"),
            Verdict::Lost
        );
        assert_eq!(
            verdict(&ProviderError::retryable("x", "anything")),
            Verdict::Transient
        );
    }

    #[test]
    fn errors_are_sorted_for_the_metrics() {
        let cases = [
            (
                "Connection pool error: pool timed out while waiting for an open connection",
                ErrorType::Timeout,
            ),
            (
                "Database error: canceling statement due to statement timeout",
                ErrorType::Timeout,
            ),
            ("I/O error: connection reset", ErrorType::Connection),
            (
                "Database error: terminating connection due to administrator command",
                ErrorType::Connection,
            ),
            ("Deadlock detected: x", ErrorType::Deadlock),
            ("Serialization failure: x", ErrorType::Serialization),
            ("Duplicate detected: x", ErrorType::ConstraintViolation),
            (
                "Database error: null value in column x violates not-null constraint",
                ErrorType::ConstraintViolation,
            ),
            ("Failed to deserialize messages: x", ErrorType::Corruption),
            ("Invalid lock token", ErrorType::Other),
            ("Database error: la connexion se termine", ErrorType::Other),
        ];
        for (message, expected) in cases {
            assert_eq!(
                error_type(&ProviderError::permanent("x", message)),
                expected,
                "{message}"
            );
        }
    }
}
