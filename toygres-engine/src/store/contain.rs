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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::MAX_PAYLOAD_BYTES;
    use crate::store::{Verdict, verdict};

    fn items(payload: &str) -> [WorkItem; 7] {
        let [instance, name, payload] = ["o", "x", payload].map(str::to_owned);
        [
            WorkItem::StartOrchestration {
                instance: instance.clone(),
                orchestration: name.clone(),
                input: payload.clone(),
                version: None,
                parent_instance: None,
                parent_id: None,
                parent_execution_id: None,
                execution_id: 1,
            },
            WorkItem::ActivityExecute {
                instance: instance.clone(),
                execution_id: 1,
                id: 1,
                name: name.clone(),
                input: payload.clone(),
                session_id: None,
                tag: None,
            },
            WorkItem::ActivityCompleted {
                instance: instance.clone(),
                execution_id: 1,
                id: 1,
                result: payload.clone(),
            },
            WorkItem::ExternalRaised {
                instance: instance.clone(),
                name: name.clone(),
                data: payload.clone(),
            },
            WorkItem::SubOrchCompleted {
                parent_instance: instance.clone(),
                parent_execution_id: 1,
                parent_id: 1,
                result: payload.clone(),
            },
            WorkItem::QueueMessage {
                instance: instance.clone(),
                name: name.clone(),
                data: payload.clone(),
            },
            WorkItem::ContinueAsNew {
                instance,
                orchestration: name,
                input: payload,
                version: None,
                parent_instance: None,
                parent_id: None,
                parent_execution_id: None,
                carry_forward_events: Vec::new(),
                initial_custom_status: None,
            },
        ]
    }

    #[test]
    fn payloads_beyond_the_limit_are_refused() {
        let fits = "x".repeat(MAX_PAYLOAD_BYTES);
        let beyond = format!("{fits}x");
        for item in items(&fits) {
            check("test", &item).unwrap();
        }
        let metadata = ExecutionMetadata {
            output: Some(beyond.clone()),
            ..ExecutionMetadata::default()
        };
        let refused = items(&beyond).map(|item| check("test", &item));
        for refused in refused.into_iter().chain([check_metadata("test", &metadata)]) {
            let error = refused.unwrap_err();
            assert_eq!(verdict(&error), Verdict::Permanent, "{error}");
            assert!(error.message.starts_with(TOO_LARGE), "{error}");
        }
    }
}
