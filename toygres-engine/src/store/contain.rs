//! Keeping what would do damage out of the store: payloads that are too large, and failures that duroxide would take
//! for its own and fail the waiting orchestration by.

use super::verdict::TOO_LARGE;
use crate::envelope;
use crate::failure::Failure;
use duroxide::providers::{ExecutionMetadata, ProviderError, WorkItem};
use duroxide::{AppErrorKind, ErrorDetails};

/// Refuses an item whose payload is too large.
pub(super) fn check(operation: &str, item: &WorkItem) -> Result<(), ProviderError> {
    let payload = match item {
        WorkItem::StartOrchestration { input, .. }
        | WorkItem::ActivityExecute { input, .. }
        | WorkItem::ContinueAsNew { input, .. } => input,
        WorkItem::ActivityCompleted { result, .. } | WorkItem::SubOrchCompleted { result, .. } => result,
        WorkItem::ExternalRaised { data, .. } | WorkItem::QueueMessage { data, .. } => data,
        WorkItem::ActivityFailed { .. }
        | WorkItem::SubOrchFailed { .. }
        | WorkItem::TimerFired { .. }
        | WorkItem::CancelInstance { .. } => return Ok(()),
    };
    check_text(operation, payload)
}

/// Refuses the output of an execution that is too large.
pub(super) fn check_metadata(operation: &str, metadata: &ExecutionMetadata) -> Result<(), ProviderError> {
    metadata
        .output
        .as_deref()
        .map_or(Ok(()), |output| check_text(operation, output))
}

fn check_text(operation: &str, payload: &str) -> Result<(), ProviderError> {
    envelope::check_size(payload)
        .map_err(|failure| ProviderError::permanent(operation, format!("{TOO_LARGE}: {failure}")))
}

/// The completion of an activity, made harmless: a result that is too large is a failure. Refusing it would have the
/// activity run again until it is given up.
pub(super) fn completion(item: WorkItem) -> WorkItem {
    match item {
        WorkItem::ActivityCompleted {
            instance,
            execution_id,
            id,
            result,
        } => match envelope::check_size(&result) {
            Ok(()) => WorkItem::ActivityCompleted {
                instance,
                execution_id,
                id,
                result,
            },
            Err(failure) => {
                let details = application(&failure, AppErrorKind::ActivityFailed);
                WorkItem::ActivityFailed {
                    instance,
                    execution_id,
                    id,
                    details,
                }
            }
        },
        item => item,
    }
}

/// A failure of duroxide itself (poison, history that can't be replayed, an ack that was refused), made into one that
/// the waiting orchestration can handle. Also leaves out the whole work item that duroxide puts into some of them.
pub(super) fn failed(item: WorkItem) -> WorkItem {
    match item {
        WorkItem::ActivityFailed {
            instance,
            execution_id,
            id,
            details,
        } => {
            let details = contained(details, AppErrorKind::ActivityFailed);
            WorkItem::ActivityFailed {
                instance,
                execution_id,
                id,
                details,
            }
        }
        WorkItem::SubOrchFailed {
            parent_instance,
            parent_execution_id,
            parent_id,
            details,
        } => {
            let details = contained(details, AppErrorKind::OrchestrationFailed);
            WorkItem::SubOrchFailed {
                parent_instance,
                parent_execution_id,
                parent_id,
                details,
            }
        }
        item => item,
    }
}

fn contained(details: ErrorDetails, kind: AppErrorKind) -> ErrorDetails {
    match details {
        ErrorDetails::Application { .. } => details,
        ErrorDetails::Infrastructure { .. }
        | ErrorDetails::Configuration { .. }
        | ErrorDetails::Poison { .. } => application(&Failure::of_details(&details), kind),
    }
}

fn application(failure: &Failure, kind: AppErrorKind) -> ErrorDetails {
    ErrorDetails::Application {
        kind,
        message: failure.encode(),
        retryable: false,
    }
}
