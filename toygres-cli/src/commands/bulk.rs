//! Many databases at once.

use super::wait;
use crate::args::Wait;
use crate::client::Client;
use crate::failure::{Exit, Failure, Result};
use crate::printer::Printer;
use std::time::Instant;
use toygres_models::instances::BulkResult;
use toygres_models::operations::OperationState;

/// Shows what came of each, and waits for what was accepted if that is wanted. `done` is what they are in the end.
pub(super) async fn finish(
    mut results: Vec<BulkResult>,
    args: &Wait,
    client: &Client,
    printer: &Printer,
    done: &str,
) -> Result<()> {
    let mut waited = Ok(());
    if args.wait {
        // Before the wait: whoever interrupts it must have seen the passwords.
        if !printer.is_document() {
            printer.bulk(&results)?;
        }
        waited = wait_for_all(&mut results, args, client).await;
        if !printer.is_document() {
            printer.line("")?;
            // They were shown above.
            let accepted = results.iter_mut().filter_map(|result| result.accepted.as_mut());
            accepted.for_each(|accepted| accepted.password = None);
        }
    }
    printer.bulk(&results)?;
    waited?;
    let bad = results.iter().filter(|result| !is_good(result)).count();
    if bad == 0 {
        return Ok(());
    }
    let failure = Failure::failed(format!("{bad} of {} are not {done}", results.len()));
    // Of what was refused, all is said above.
    let has_begun = |result: &&BulkResult| !is_good(result) && result.accepted.is_some();
    Err(match results.iter().find(has_begun) {
        Some(_) => failure.next("toygres operations --state failed"),
        None => failure,
    })
}

async fn wait_for_all(results: &mut [BulkResult], args: &Wait, client: &Client) -> Result<()> {
    let begun = Instant::now();
    for accepted in results.iter_mut().filter_map(|result| result.accepted.as_mut()) {
        let rest = args.timeout.saturating_sub(begun.elapsed());
        match wait::for_end(&accepted.operation, rest, client).await {
            Ok(operation) => {
                accepted.operation = operation;
                accepted.instance = client.get(&accepted.instance.id.into()).await?;
            }
            Err(failure) if matches!(failure.exit, Exit::TimedOut | Exit::Interrupted) => {
                return Err(Failure {
                    next: vec!["toygres operations".to_owned()],
                    ..failure
                });
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

fn is_good(result: &BulkResult) -> bool {
    result.accepted.as_ref().is_some_and(|accepted| {
        !matches!(
            accepted.operation.state,
            OperationState::Failed | OperationState::Cancelled
        )
    })
}
