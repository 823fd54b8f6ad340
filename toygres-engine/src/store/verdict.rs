//! What an error of the store means.
//!
//! duroxide-pg hands on a text and a flag. The text holds the message of the server, never the SQLSTATE, and the flag
//! calls nearly every error of the server final, a terminated connection among them. So the text is read: what says
//! "lost" or "wrong" for sure is final, what is known to pass is tried again without end, all else some times.

use duroxide::providers::ProviderError;

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

/// What duroxide-pg says when a lock token is not valid (any more).
const LOST: [&str; 5] = [
    "Invalid lock token",
    "Lock token invalid",
    "Worker queue item not found",
    "already acked",
    "already released",
];

/// What stays: data that can't be written or read, and constraints.
const PERMANENT: [&str; 9] = [
    TOO_LARGE,
    "Failed to serialize",
    "Failed to deserialize",
    "Duplicate detected",
    "Foreign key violation",
    "event_id must be set",
    "Invalid completion",
    "Invalid visible_at",
    "ActivityExecute should go to",
];

/// What passes: the words of duroxide-pg for errors by type, then the server's own, by SQLSTATE.
const TRANSIENT: [&str; 31] = [
    "I/O error",
    "Connection pool error",
    "Deadlock detected",
    "Cached plan invalidated",
    "Serialization failure",
    "error communicating with database",
    "error occurred while attempting to establish a TLS connection",
    "encountered unexpected or invalid data",
    "crashed background worker",
    "terminating connection",             // 57P01, 57P05, 25P03
    "conflict with recovery",             // 57P01, 40001 on a standby
    "the database system is", // 57P03: starting up, shutting down, in recovery mode, not accepting
    "server process",         // 57P02: of another server process, which exited abnormally
    "canceling statement",    // 57014: by a time-out of the statement or the lock
    "canceling authentication", // 57014
    "too many connections",   // 53300
    "too many clients",       // 53300
    "remaining connection slots", // 53300
    "out of memory",          // 53200
    "out of shared memory",   // 53200
    "No space left on device", // 53100
    "could not extend file",  // 53100
    "could not serialize access", // 40001
    "could not obtain lock",  // 55P03
    "in a read-only transaction", // 25006
    "recovery is in progress", // 25006, 55000
    "could not receive data from client", // 08006
    "connection to client lost", // 08006
    "connection refused",
    "the connection is closed",
    "idle-in-transaction timeout", // 25P03
];

/// What this error of the store means.
pub(crate) fn verdict(error: &ProviderError) -> Verdict {
    let says = |words: &[&str]| words.iter().any(|word| error.message.contains(word));
    if says(&LOST) {
        Verdict::Lost
    } else if says(&PERMANENT) {
        Verdict::Permanent
    } else if error.retryable || says(&TRANSIENT) {
        Verdict::Transient
    } else {
        Verdict::Unknown
    }
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
}
