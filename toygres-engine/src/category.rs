//! What a failure is about: the bounded words that metrics sort failures by.

use crate::failure::{Failure, FailureClass};
use duroxide::{AppErrorKind, ErrorDetails, PoisonMessageType};
use toygres_models::ErrorKind;
use toygres_models::operations::Reason;
use toygres_telemetry::events::ErrorType;

/// The sort of a failure of an activity.
pub(crate) const fn error_type(class: FailureClass) -> ErrorType {
    match class {
        FailureClass::App => ErrorType::App,
        FailureClass::Infrastructure => ErrorType::Infrastructure,
        FailureClass::Config => ErrorType::Config,
        FailureClass::Timeout => ErrorType::Timeout,
    }
}

/// Sort, category and failure of an orchestration that ended by this. None: somebody cancelled it.
pub(crate) fn of_details(details: &ErrorDetails) -> Option<(ErrorType, &'static str, Failure)> {
    let failure = Failure::of_details(details);
    let (error_type, category) = match details {
        ErrorDetails::Application { kind, .. } => match kind {
            AppErrorKind::Cancelled { .. } => return None,
            AppErrorKind::Panicked => (ErrorType::App, "logic"),
            AppErrorKind::ActivityFailed | AppErrorKind::OrchestrationFailed => {
                (error_type(failure.class), of_failure(&failure))
            }
        },
        // The store refused what the engine wrote.
        ErrorDetails::Infrastructure { .. } => (ErrorType::Infrastructure, "database"),
        ErrorDetails::Configuration { .. } => (ErrorType::Nondeterminism, "logic"),
        ErrorDetails::Poison { message_type, .. } => {
            let category = match message_type {
                // Its name or version is not registered, or it ends the process each time.
                PoisonMessageType::Orchestration { .. } | PoisonMessageType::Activity { .. } => {
                    "configuration"
                }
                PoisonMessageType::FailedDeserialization { .. } => "database",
            };
            (ErrorType::Poison, category)
        }
    };
    Some((error_type, category, failure))
}

/// What a failure is about: by its code where that says more, else by its kind.
fn of_failure(failure: &Failure) -> &'static str {
    if let Ok(reason) = failure.code.parse() {
        return of_reason(reason);
    }
    match failure.code.as_str() {
        "cancelled" => return "cancelled",
        "engine_unavailable" => return "database",
        "poisoned" => return "configuration",
        "bad_kubeconfig" | "platform_certificate" | "platform_refused" | "platform_unauthenticated" => {
            return "kubernetes";
        }
        code if code.starts_with("database_") => return "database",
        _ => {}
    }
    match failure.kind {
        ErrorKind::Malformed | ErrorKind::Invalid | ErrorKind::TooLarge => "validation",
        ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::PreconditionFailed | ErrorKind::Superseded => {
            "state"
        }
        ErrorKind::Unauthenticated | ErrorKind::Forbidden => "access",
        ErrorKind::Throttled => "capacity",
        ErrorKind::Unavailable => "network",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Config => "configuration",
        ErrorKind::StorageLost => "storage",
        ErrorKind::Internal => "logic",
    }
}

const fn of_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Starting
        | Reason::Queued
        | Reason::CrashLoop
        | Reason::Stopped
        | Reason::OtherHost
        | Reason::PlatformUnavailable => "platform",
        Reason::ImagePull
        | Reason::VolumePending
        | Reason::NamespaceMissing
        | Reason::NamespaceTerminating
        | Reason::SecretMissing
        | Reason::NodeLost
        | Reason::Finalizer => "kubernetes",
        Reason::Unschedulable | Reason::Quota | Reason::Evicted => "capacity",
        Reason::DiskFull | Reason::StorageMissing | Reason::StorageForeign => "storage",
        Reason::PortTaken | Reason::NotAccepting => "network",
        Reason::BinariesMissing | Reason::VersionUnavailable | Reason::PermissionDenied => "configuration",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_more_than_kinds() {
        let cases = [
            (ErrorKind::Unavailable, "database_unavailable", "database"),
            (ErrorKind::Unavailable, "platform_unavailable", "platform"),
            (ErrorKind::Unavailable, "image_pull", "kubernetes"),
            (ErrorKind::Timeout, "unschedulable", "capacity"),
            (ErrorKind::Unavailable, "another", "network"),
            (ErrorKind::Timeout, "activity_timeout", "timeout"),
            (ErrorKind::Superseded, "cancelled", "cancelled"),
            (ErrorKind::Superseded, "actor_superseded", "state"),
            (ErrorKind::Internal, "activity_panicked", "logic"),
        ];
        for (kind, code, category) in cases {
            assert_eq!(of_failure(&Failure::new(kind, code, "")), category, "{code}");
        }
    }
}
