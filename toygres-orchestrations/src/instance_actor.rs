//! The one writer of an instance. Each turn it looks at what its row wants and makes one difference go away; when
//! there is none, it checks the instance's health.
//!
//! It is level-triggered: a message only wakes it, what to do stands in the row. A lost message costs one period.

use crate::{CreateInstance, DeleteInstance, create_instance, delete_instance};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use toygres_activities::record_end::{self, End};
use toygres_activities::{
    DeployPostgres, LoadIntent, RecordEnd, RecordHealthCheck, TestConnection, load_intent,
    record_health_check,
};
use toygres_engine::{Context, Failure, Orchestration, RetryPolicy, Turn, Woken, call, call_with, run_child};
use toygres_models::instances::{DesiredState, InstanceState};
use toygres_models::operations::{OperationError, OperationKind};
use toygres_models::{ErrorKind, InstanceId, Intent, OperationId, Scope};

/// See the module.
pub struct InstanceActor;

/// Turns before it continues as new. Every activity reads the whole history of its execution, so it is kept short;
/// a new execution costs a turn, so it is not one round.
const ROUNDS: u32 = 5;
/// Pause after work that failed for a reason that should pass.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Whose actor it is, and what it knows from before it continued as new.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// The instance.
    pub instance_id: InstanceId,
    /// This actor's incarnation.
    pub incarnation: i64,
    /// Set by itself only.
    #[serde(default)]
    pub resume: Option<Resume>,
}

/// What an actor hands to its next execution.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// Nothing to do until the next health check.
    Watching {
        /// When that is, in milliseconds.
        next_check_ms: u64,
    },
    /// A create failed, and what it made is not gone yet.
    Undoing {
        /// The create.
        operation_id: OperationId,
        /// Why it failed.
        error: OperationError,
    },
}

/// The one difference to make go away.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Create(OperationId),
    Delete(OperationId),
    Watch,
    End,
}

fn next(intent: &Intent) -> Next {
    match (intent.desired_state, intent.operation) {
        (DesiredState::Deleted, Some(operation)) => Next::Delete(operation.id),
        (DesiredState::Running, Some(operation)) if operation.kind == OperationKind::Create => {
            Next::Create(operation.id)
        }
        _ if matches!(intent.state, InstanceState::Deleted | InstanceState::Failed) => Next::End,
        _ => Next::Watch,
    }
}

impl Orchestration for InstanceActor {
    const NAME: &'static str = "instance-actor";
    type Input = Input;
    type Output = ();

    async fn run(cx: Context, input: Input) -> Result<Turn<(), Input>, Failure> {
        let scope = Scope {
            instance_id: input.instance_id,
            incarnation: input.incarnation,
            operation_id: None,
        };
        // Until what a failed create made is gone, every execution begins with that.
        let undoing = input
            .resume
            .clone()
            .filter(|resume| matches!(resume, Resume::Undoing { .. }));
        match turns(&cx, scope, input.resume).await {
            Ok(Some(resume)) => Ok(Turn::ContinueAsNew(Input { resume, ..input })),
            Ok(None) => Ok(Turn::Done(())),
            // Another incarnation has taken over: it will see to everything.
            Err(failure) if failure.kind == ErrorKind::Superseded => Ok(Turn::Done(())),
            // Whatever else went wrong, an actor does not give up its instance.
            Err(_) => {
                cx.timer(PAUSE_AFTER_FAILURE).await;
                Ok(Turn::ContinueAsNew(Input {
                    resume: undoing,
                    ..input
                }))
            }
        }
    }
}

/// Some rounds. `None`: the instance has ended, and so has its actor.
async fn turns(
    cx: &Context,
    scope: Scope,
    resume: Option<Resume>,
) -> Result<Option<Option<Resume>>, Failure> {
    let mut next_check_ms = None;
    match resume {
        Some(Resume::Undoing { operation_id, error }) => undo(cx, scope, operation_id, error, 0).await?,
        Some(Resume::Watching { next_check_ms: ms }) => next_check_ms = Some(ms),
        None => {}
    }
    let mut view = match next_check_ms {
        None => Some(load(cx, scope).await?),
        Some(_) => None,
    };
    for round in 1..=ROUNDS {
        let todo = view.as_ref().map_or(Next::Watch, |view| next(&view.intent));
        match (todo, &view) {
            (Next::End, _) => return Ok(None),
            (Next::Create(operation_id), Some(seen)) => {
                if let Err(error) = create(cx, scope, operation_id, seen.create_deadline_ms, round).await? {
                    return Ok(Some(Some(Resume::Undoing { operation_id, error })));
                }
                next_check_ms = Some(seen.next_check_ms);
                view = Some(load(cx, scope).await?);
            }
            (Next::Delete(operation_id), _) => {
                let child = Scope {
                    operation_id: Some(operation_id),
                    ..scope
                };
                delete(cx, child, End::Deleted, round).await?;
                view = Some(load(cx, scope).await?);
            }
            (Next::Watch | Next::Create(_), _) => {
                let pause = Duration::from_millis(next_check_ms.take().unwrap_or(0));
                if !pause.is_zero() && cx.wait_wake_or(pause).await == Woken::ByMessage {
                    // What woke it stands in the row; however many messages came, one look is enough.
                    cx.drain_wakes().await;
                    view = Some(load(cx, scope).await?);
                    continue;
                }
                let checked = check_health(cx, scope).await?;
                next_check_ms = Some(checked.next_check_ms);
                // A record that wants nothing new is watched further without being read again.
                view = match next(&checked.intent) {
                    Next::Watch => None,
                    _ => Some(load(cx, scope).await?),
                };
            }
        }
    }
    Ok(Some(
        next_check_ms.map(|next_check_ms| Resume::Watching { next_check_ms }),
    ))
}

async fn load(cx: &Context, scope: Scope) -> Result<load_intent::Output, Failure> {
    call_with::<LoadIntent>(cx, RetryPolicy::patient(), scope).await
}

/// An id for a child that no other child has had: the engine can't start an ended id again.
fn child_id(cx: &Context, name: &str, scope: Scope, round: u32) -> String {
    let operation = scope.operation_id.map(|id| id.to_string()).unwrap_or_default();
    format!(
        "{name}-{operation}-{}-{}-{round}",
        scope.incarnation,
        cx.execution_id()
    )
}

/// Makes the instance. `Ok(Err(_))`: that failed, and what it made must go.
async fn create(
    cx: &Context,
    scope: Scope,
    operation_id: OperationId,
    deadline_ms: u64,
    round: u32,
) -> Result<Result<(), OperationError>, Failure> {
    let scope = Scope {
        operation_id: Some(operation_id),
        ..scope
    };
    let id = child_id(cx, CreateInstance::NAME, scope, round);
    match run_child::<CreateInstance>(cx, id, create_instance::Input { scope, deadline_ms }).await {
        Ok(()) => Ok(Ok(())),
        Err(failure) if failure.kind == ErrorKind::Superseded => {
            // Either somebody wants it gone, which the deletion sees to, or another actor has taken over, which
            // refuses this record too.
            let end = End::Cancelled("the instance is being deleted".to_owned());
            call_with::<RecordEnd>(cx, RetryPolicy::patient(), record_end::Input { scope, end }).await?;
            Ok(Ok(()))
        }
        Err(failure) => Ok(Err(OperationError {
            code: failure.code,
            message: failure.message,
        })),
    }
}

/// Takes away what a failed create made, and records why it failed. A deletion that came meanwhile does that itself.
async fn undo(
    cx: &Context,
    scope: Scope,
    operation_id: OperationId,
    error: OperationError,
    round: u32,
) -> Result<(), Failure> {
    let scope = Scope {
        operation_id: Some(operation_id),
        ..scope
    };
    delete(cx, scope, End::Failed(error), round).await
}

async fn delete(cx: &Context, scope: Scope, end: End, round: u32) -> Result<(), Failure> {
    let id = child_id(cx, DeleteInstance::NAME, scope, round);
    match run_child::<DeleteInstance>(cx, id, delete_instance::Input { scope, end }).await {
        Err(failure) if failure.kind == ErrorKind::Superseded => Ok(()),
        result => result,
    }
}

/// Checks, records, and has the platform repair what does not answer.
async fn check_health(cx: &Context, scope: Scope) -> Result<record_health_check::Output, Failure> {
    let tested = call::<TestConnection>(cx, scope).await?;
    let healthy = tested.check.healthy;
    let record = record_health_check::Input {
        scope,
        check: tested.check,
        endpoint: tested.endpoint,
    };
    let recorded = call::<RecordHealthCheck>(cx, record).await?;
    if !healthy && next(&recorded.intent) == Next::Watch {
        match call_with::<DeployPostgres>(cx, RetryPolicy::once(), scope).await {
            Err(failure) if failure.kind == ErrorKind::Superseded => return Err(failure),
            // Said by the alarm, the log and the next check, which tries again.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(recorded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use toygres_models::intent::PendingOperation;

    fn intent(state: InstanceState, desired_state: DesiredState, kind: Option<OperationKind>) -> Intent {
        let operation = kind.map(|kind| PendingOperation {
            id: OperationId(uuid::Uuid::nil()),
            kind,
        });
        Intent {
            state,
            desired_state,
            operation,
            failed_checks: 0,
        }
    }

    #[test]
    fn one_difference_at_a_time() {
        use DesiredState as D;
        use InstanceState as S;
        let id = OperationId(uuid::Uuid::nil());
        let create = Some(OperationKind::Create);
        let delete = Some(OperationKind::Delete);
        assert_eq!(next(&intent(S::Creating, D::Running, create)), Next::Create(id));
        assert_eq!(next(&intent(S::Running, D::Running, None)), Next::Watch);
        assert_eq!(next(&intent(S::Degraded, D::Running, None)), Next::Watch);
        assert_eq!(next(&intent(S::Deleting, D::Deleted, delete)), Next::Delete(id));
        assert_eq!(next(&intent(S::Failed, D::Deleted, delete)), Next::Delete(id));
        assert_eq!(next(&intent(S::Failed, D::Running, None)), Next::End);
        assert_eq!(next(&intent(S::Deleted, D::Deleted, None)), Next::End);
    }
}
