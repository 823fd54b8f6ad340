//! Steps: what people see of an operation while it goes on.

use crate::Deps;
use toygres_models::operations::{OperationError, Reason};
use toygres_models::{Error, Result, Scope};

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
        Ok(_) => deps.cms.end_step(scope, name, Ok(())).await?,
        // It will be tried again: the step goes on, and says what it waits for.
        Err(error) if error.retryable() => {
            deps.cms
                .note_step(scope, name, reason_of(error), error.message())
                .await?;
        }
        Err(error) => {
            deps.cms
                .end_step(scope, name, Err(&operation_error(error)))
                .await?
        }
    }
    result
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
