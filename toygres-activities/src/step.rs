//! Steps: what people see of an operation while it goes on.

use crate::{DeployPostgres, Deps, TestConnection, WaitForReady};
use toygres_cms::EndedOperation;
use toygres_engine::Activity;
use toygres_models::operations::{OperationError, Reason};
use toygres_models::{Error, Result, Scope};
use toygres_telemetry::Event;
use toygres_telemetry::events::{OperationEnded, PhaseEnded};

/// Does `work` as the step `name` of the scope's operation, and records how it went. Without an operation it just
/// does the work. Reads what is wanted first: work that nobody wants any more ends as `superseded`.
pub(crate) async fn in_step<T>(
    deps: &Deps,
    scope: &Scope,
    name: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    if scope.operation_id.is_none() {
        return work.await;
    }
    deps.cms.begin_step(scope, name).await?;
    let result = work.await;
    match &result {
        Ok(_) => end_step(deps, scope, name).await?,
        // It will be tried again: the step goes on, and says what it waits for.
        Err(error) if error.retryable() => {
            note_step(deps, scope, name, reason_of(error), error.message()).await?;
        }
        Err(error) => {
            deps.cms
                .end_step(scope, name, Err(&operation_error(error)))
                .await?;
        }
    }
    result
}

/// Says what a step waits for; in the log when that is something else than before.
pub(crate) async fn note_step(
    deps: &Deps,
    scope: &Scope,
    name: &str,
    reason: Reason,
    message: &str,
) -> Result<()> {
    if deps.cms.note_step(scope, name, reason, message).await? {
        tracing::info!(
            step = name,
            reason = reason.as_str(),
            "a step of an operation waits: {message}"
        );
    }
    Ok(())
}

/// Ends a step that succeeded. Of the steps that make an instance it tells how long they took, waiting included.
pub(crate) async fn end_step(deps: &Deps, scope: &Scope, name: &str) -> Result<()> {
    let took = deps.cms.end_step(scope, name, Ok(())).await?;
    let phase = match name {
        DeployPostgres::NAME => "deploy",
        WaitForReady::NAME => "wait_for_ready",
        TestConnection::NAME => "test_connection",
        _ => return Ok(()),
    };
    if let Some(duration) = took {
        PhaseEnded { phase, duration }.emit();
    }
    Ok(())
}

/// Tells of operations that have just ended.
pub(crate) fn tell_ended(operations: &[EndedOperation]) {
    for operation in operations {
        OperationEnded {
            kind: operation.kind.as_str(),
            outcome: operation.state.as_str(),
            duration: operation.took,
        }
        .emit();
    }
}

pub(crate) fn operation_error(error: &Error) -> OperationError {
    OperationError {
        code: error.code().to_owned(),
        message: error.message().to_owned(),
    }
}

/// The named reason behind an error that can pass.
fn reason_of(error: &Error) -> Reason {
    error.code().parse().unwrap_or(Reason::PlatformUnavailable)
}
