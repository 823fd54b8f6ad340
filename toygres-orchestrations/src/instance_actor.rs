//! The one writer of an instance. Each turn it looks at what its row wants and makes one difference go away; when
//! there is none, it checks the instance's health.
//!
//! It is level-triggered: a message only wakes it, what to do stands in the row. A lost message costs one period.

use crate::flow::{self, Does, OnFailure, Stepwise, To};
use crate::{CreateInstance, DeleteInstance, create_instance, delete_instance};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use toygres_activities::record_end::{self, End};
use toygres_activities::{
    DeployPostgres, LoadIntent, RecordEnd, RecordHealthCheck, TestConnection, load_intent,
    record_health_check,
};
use toygres_engine::{Activity, Context, Failure, Orchestration, RetryPolicy, Turn, Woken};
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
    /// What the last try to remove the instance failed with. Set by itself only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_failed: Option<OperationError>,
}

impl Input {
    /// What an actor is started with.
    #[must_use]
    pub fn new(instance_id: InstanceId, incarnation: i64) -> Self {
        Self {
            instance_id,
            incarnation,
            resume: None,
            removal_failed: None,
        }
    }
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
        /// The trace that it belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Begin,
    Load,
    Decide,
    Create,
    Cancel,
    Remove,
    Wait,
    Check,
    Repair,
}

/// What a step can come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Done,
    Fresh,
    Watching,
    Undoing,
    Delete,
    Create,
    Over,
    Watch,
    Enough,
    Superseded,
    Failed,
    Woken,
    Due,
    Nothing,
    News,
    Differs,
    Unhealthy,
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = WANTS.iter().position(|want| want.came == *self) {
            return write!(f, "{}: {}", place + 1, WANTS[place].words);
        }
        f.write_str(match self {
            Self::Delete | Self::Create | Self::Over | Self::Done => "",
            Self::Fresh => "nothing",
            Self::Watching => "when to check next",
            Self::Undoing => "a create failed, and what it made is there",
            Self::Watch => "else",
            Self::Enough => return write!(f, "after {ROUNDS} rounds"),
            Self::Superseded => "overtaken",
            Self::Failed => "failed",
            Self::Woken => "woken",
            Self::Due => "time is over",
            Self::Nothing => "healthy, and all is as it should be",
            Self::Differs => "healthy, but something of it is not as it should be",
            Self::News => "something else is wanted by now",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// What a row can want.
struct Want {
    came: Came,
    words: &'static str,
    holds: fn(&Intent) -> bool,
}

/// The one difference to make go away: the first that holds.
const WANTS: &[Want] = &[
    Want {
        came: Came::Delete,
        words: "it is to be deleted",
        holds: |intent| intent.desired_state == DesiredState::Deleted && intent.operation.is_some(),
    },
    Want {
        came: Came::Create,
        words: "it is to be made",
        holds: |intent| {
            let operation = intent.operation;
            intent.desired_state == DesiredState::Running
                && operation.is_some_and(|operation| operation.kind == OperationKind::Create)
        },
    },
    Want {
        came: Came::Over,
        words: "it is deleted or failed",
        holds: |intent| matches!(intent.state, InstanceState::Deleted | InstanceState::Failed),
    },
];

fn wanted(intent: &Intent) -> Came {
    let first = WANTS.iter().find(|want| (want.holds)(intent));
    first.map_or(Came::Watch, |want| want.came)
}

impl flow::Step for Step {
    type Came = Came;
    const STEPS: &'static [Self] = &[
        Self::Begin,
        Self::Load,
        Self::Decide,
        Self::Create,
        Self::Cancel,
        Self::Remove,
        Self::Wait,
        Self::Check,
        Self::Repair,
    ];
    const CAME: &'static [Came] = &[
        Came::Done,
        Came::Fresh,
        Came::Watching,
        Came::Undoing,
        Came::Enough,
        Came::Delete,
        Came::Create,
        Came::Over,
        Came::Watch,
        Came::Superseded,
        Came::Failed,
        Came::Woken,
        Came::Due,
        Came::Nothing,
        Came::News,
        Came::Differs,
        Came::Unhealthy,
    ];
    const FAILURES: &'static [OnFailure] = &[
        OnFailure {
            words: "another incarnation has taken over",
            holds: |failure| failure.kind == ErrorKind::Superseded,
            end: flow::End::Completed,
        },
        OnFailure {
            words: "it fails for good, but an actor does not give up: after a pause",
            holds: |_| true,
            end: flow::End::ContinuedAsNew,
        },
    ];

    fn does(self) -> Does {
        match self {
            Self::Begin => Does::Decides("what did the last execution leave?"),
            Self::Load => Does::Calls(&[LoadIntent::NAME]),
            Self::Decide => Does::Decides("what does the row want? The first that holds"),
            Self::Create => Does::Runs(CreateInstance::NAME),
            Self::Cancel => Does::Calls(&[RecordEnd::NAME]),
            Self::Remove => Does::Runs(DeleteInstance::NAME),
            Self::Wait => Does::Waits("a wake-up, or the time of the next check"),
            Self::Check => Does::Calls(&[TestConnection::NAME, RecordHealthCheck::NAME]),
            Self::Repair => Does::Calls(&[DeployPostgres::NAME]),
        }
    }

    fn next(self, came: Came) -> Option<To<Self>> {
        Some(match (self, came) {
            (Self::Begin, Came::Fresh) => To::Step(Self::Load),
            (Self::Begin, Came::Watching) => To::Step(Self::Decide),
            (Self::Begin, Came::Undoing) => To::Step(Self::Remove),
            (Self::Load, Came::Done) => To::Step(Self::Decide),
            (Self::Decide, Came::Enough) => To::End(flow::End::ContinuedAsNew),
            (Self::Decide, Came::Delete) => To::Step(Self::Remove),
            (Self::Decide, Came::Create) => To::Step(Self::Create),
            (Self::Decide, Came::Over) => To::End(flow::End::Completed),
            (Self::Decide, Came::Watch) => To::Step(Self::Wait),
            (Self::Create, Came::Done) => To::Step(Self::Load),
            // Either somebody wants it gone, which the deletion sees to, or another actor has taken over, which
            // refuses this record too.
            (Self::Create, Came::Superseded) => To::Step(Self::Cancel),
            (Self::Create, Came::Failed) => To::End(flow::End::ContinuedAsNew),
            (Self::Cancel | Self::Remove, Came::Done) => To::Step(Self::Load),
            // What woke it stands in the row.
            (Self::Wait, Came::Woken) => To::Step(Self::Load),
            (Self::Wait, Came::Due) => To::Step(Self::Check),
            // A record that wants nothing new is watched further without being read again.
            (Self::Check, Came::Nothing) => To::Step(Self::Decide),
            (Self::Check, Came::News) => To::Step(Self::Load),
            (Self::Check, Came::Differs | Came::Unhealthy) => To::Step(Self::Repair),
            (Self::Repair, Came::Done) => To::Step(Self::Decide),
            _ => return None,
        })
    }
}

impl Stepwise for InstanceActor {
    type Step = Step;
    const SUMMARY: &'static str = "The one writer of an instance: looks at what its row wants and makes one difference \
         go away; when there is none, it checks the instance's health.";
}

impl Orchestration for InstanceActor {
    const NAME: &'static str = "instance-actor";
    const LONG_RUNNING: bool = true;
    type Input = Input;
    type Output = ();

    async fn run(cx: Context, input: Input) -> Result<Turn<(), Input>, Failure> {
        // Until what a failed create made is gone, every execution begins with that.
        let undoing = input
            .resume
            .clone()
            .filter(|resume| matches!(resume, Resume::Undoing { .. }));
        let mut actor = Actor {
            cx,
            scope: Scope {
                instance_id: input.instance_id,
                incarnation: input.incarnation,
                operation_id: None,
            },
            resume: input.resume.clone(),
            removal_failed: input.removal_failed.clone(),
            round: 0,
            view: None,
            operation_id: None,
            traceparent: None,
            end: End::Deleted,
            next_check_ms: None,
        };
        let resume = match actor.rounds().await {
            Ok(flow::End::ContinuedAsNew) => actor.resume,
            Ok(flow::End::Completed | flow::End::Failed) => return Ok(Turn::Done(())),
            Err(failure) => match flow::end_of::<Step>(&failure) {
                flow::End::Completed => return Ok(Turn::Done(())),
                flow::End::Failed => return Err(failure),
                flow::End::ContinuedAsNew => {
                    actor.cx.timer(PAUSE_AFTER_FAILURE).await;
                    undoing
                }
            },
        };
        Ok(Turn::ContinueAsNew(Input {
            resume,
            removal_failed: actor.removal_failed,
            ..input
        }))
    }
}

/// An actor, and what it knows so far.
struct Actor {
    cx: Context,
    scope: Scope,
    /// What the last execution left, then what the next one is left.
    resume: Option<Resume>,
    /// What the last try to remove the instance failed with: the next one has it recorded.
    removal_failed: Option<OperationError>,
    round: u32,
    /// What the row said when it was last read; `None` if a check has found since that nothing new is wanted.
    view: Option<load_intent::Output>,
    /// The operation that is worked on.
    operation_id: Option<OperationId>,
    /// The trace that it belongs to.
    traceparent: Option<String>,
    /// How that ends once nothing of the instance is left.
    end: End,
    next_check_ms: Option<u64>,
}

impl Actor {
    async fn rounds(&mut self) -> Result<flow::End, Failure> {
        let mut step = Step::Begin;
        loop {
            let came = self.act(step).await?;
            match flow::onward(step, came)? {
                To::Step(next) => step = next,
                To::End(end) => return Ok(end),
            }
        }
    }

    async fn act(&mut self, step: Step) -> Result<Came, Failure> {
        match step {
            Step::Begin => Ok(self.begin()),
            Step::Load => {
                let view =
                    flow::call::<LoadIntent>(step, &self.cx, RetryPolicy::patient(), self.scope).await?;
                self.view = Some(view);
                Ok(Came::Done)
            }
            Step::Decide => Ok(self.decide()),
            Step::Create => self.create(step).await,
            Step::Cancel => {
                let record = record_end::Input {
                    scope: self.working(),
                    end: End::Cancelled("the instance is being deleted".to_owned()),
                };
                flow::call::<RecordEnd>(step, &self.cx, RetryPolicy::patient(), record).await?;
                Ok(Came::Done)
            }
            Step::Remove => self.remove(step).await,
            Step::Wait => Ok(self.wait().await),
            Step::Check => self.check(step).await,
            Step::Repair => {
                match flow::call::<DeployPostgres>(step, &self.cx, RetryPolicy::once(), self.scope).await {
                    Err(failure) if failure.kind == ErrorKind::Superseded => Err(failure),
                    // Said by the alarm, the log and the next check, which tries again.
                    Ok(()) | Err(_) => Ok(Came::Done),
                }
            }
        }
    }

    fn begin(&mut self) -> Came {
        match self.resume.take() {
            None => Came::Fresh,
            Some(Resume::Watching { next_check_ms }) => {
                self.next_check_ms = Some(next_check_ms);
                Came::Watching
            }
            Some(Resume::Undoing {
                operation_id,
                error,
                traceparent,
            }) => {
                self.operation_id = Some(operation_id);
                self.traceparent = traceparent;
                self.end = End::Failed(error);
                Came::Undoing
            }
        }
    }

    fn decide(&mut self) -> Came {
        if self.round == ROUNDS {
            self.resume = self
                .next_check_ms
                .map(|next_check_ms| Resume::Watching { next_check_ms });
            return Came::Enough;
        }
        self.round += 1;
        let Some(view) = &self.view else {
            return Came::Watch;
        };
        self.operation_id = view.intent.operation.map(|operation| operation.id);
        self.traceparent.clone_from(&view.traceparent);
        self.end = End::Deleted;
        wanted(&view.intent)
    }

    async fn create(&mut self, step: Step) -> Result<Came, Failure> {
        let (Some(view), Some(operation_id)) = (&self.view, self.operation_id) else {
            return Err(flow::out_of_order());
        };
        let scope = self.working();
        let deadline_ms = view.create_deadline_ms;
        self.next_check_ms = Some(view.next_check_ms);
        let id = self.child_id(CreateInstance::NAME);
        let input = create_instance::Input { scope, deadline_ms };
        match flow::child::<CreateInstance>(step, &self.of_operation(), id, input).await {
            Ok(()) => Ok(Came::Done),
            // An operator's cancellation is a failure as any other: nobody has asked for anything newer.
            Err(failure) if failure.kind == ErrorKind::Superseded && failure.code != "cancelled" => {
                Ok(Came::Superseded)
            }
            Err(failure) => {
                let error = OperationError {
                    code: failure.code,
                    message: failure.message,
                };
                self.resume = Some(Resume::Undoing {
                    operation_id,
                    error,
                    traceparent: self.traceparent.clone(),
                });
                Ok(Came::Failed)
            }
        }
    }

    /// A deletion, or the removal of what a failed create made, in which case a deletion that came meanwhile does it.
    async fn remove(&mut self, step: Step) -> Result<Came, Failure> {
        let input = delete_instance::Input {
            scope: self.working(),
            end: self.end.clone(),
            failed: self.removal_failed.take(),
        };
        let id = self.child_id(DeleteInstance::NAME);
        match flow::child::<DeleteInstance>(step, &self.of_operation(), id, input).await {
            // By an operator: what was begun is still to be removed.
            Err(failure) if failure.code == "cancelled" => Err(Failure::app(failure.code, failure.message)),
            Err(failure) if failure.kind != ErrorKind::Superseded => {
                self.removal_failed = Some(OperationError {
                    code: failure.code.clone(),
                    message: failure.message.clone(),
                });
                Err(failure)
            }
            Ok(()) | Err(_) => Ok(Came::Done),
        }
    }

    async fn wait(&mut self) -> Came {
        let pause = Duration::from_millis(self.next_check_ms.take().unwrap_or(0));
        if pause.is_zero() || self.cx.wait_wake_or(pause).await == Woken::ByTimer {
            return Came::Due;
        }
        // However many messages came, one look is enough.
        self.cx.drain_wakes().await;
        Came::Woken
    }

    async fn check(&mut self, step: Step) -> Result<Came, Failure> {
        let (cx, scope, standard) = (&self.cx, self.scope, RetryPolicy::standard());
        let tested = flow::call::<TestConnection>(step, cx, standard, scope).await?;
        let found = match (tested.check.healthy, tested.differences.is_empty()) {
            (true, true) => Came::Nothing,
            (true, false) => Came::Differs,
            (false, _) => Came::Unhealthy,
        };
        let record = record_health_check::Input {
            scope,
            check: tested.check,
            endpoint: tested.endpoint,
            external_endpoint: tested.external_endpoint,
        };
        let recorded = flow::call::<RecordHealthCheck>(step, cx, standard, record).await?;
        self.next_check_ms = Some(recorded.next_check_ms);
        if wanted(&recorded.intent) != Came::Watch {
            return Ok(Came::News);
        }
        self.view = None;
        Ok(found)
    }

    /// What it calls belongs to the trace of the request that asked for the operation.
    fn of_operation(&self) -> Context {
        self.cx.joining(self.traceparent.as_deref())
    }

    /// Who works on which operation.
    fn working(&self) -> Scope {
        Scope {
            operation_id: self.operation_id,
            ..self.scope
        }
    }

    /// An id for a child that no other child has had: the engine can't start an ended id again.
    fn child_id(&self, name: &str) -> String {
        let operation = self.operation_id.map(|id| id.to_string()).unwrap_or_default();
        format!(
            "{name}-{operation}-{}-{}-{}",
            self.scope.incarnation,
            self.cx.execution_id(),
            self.round
        )
    }
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
        let create = Some(OperationKind::Create);
        let delete = Some(OperationKind::Delete);
        assert_eq!(wanted(&intent(S::Creating, D::Running, create)), Came::Create);
        assert_eq!(wanted(&intent(S::Running, D::Running, None)), Came::Watch);
        assert_eq!(wanted(&intent(S::Degraded, D::Running, None)), Came::Watch);
        assert_eq!(wanted(&intent(S::Deleting, D::Deleted, delete)), Came::Delete);
        assert_eq!(wanted(&intent(S::Failed, D::Deleted, delete)), Came::Delete);
        assert_eq!(wanted(&intent(S::Failed, D::Running, None)), Came::Over);
        assert_eq!(wanted(&intent(S::Deleted, D::Deleted, None)), Came::Over);
    }
}
