//! Makes an instance: deploys PostgreSQL, waits until it is ready, tests a connection, records that it runs.
//!
//! It undoes nothing: whatever way it ends without success, the actor has `delete-instance` take away what is there.

use crate::flow::{self, Does, Step as _, Stepwise, To};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use toygres_activities::{
    BeginOperation, DeployPostgres, RecordRunning, TestConnection, WaitForReady, record_running,
    test_connection, wait_for_ready,
};
use toygres_engine::{Activity, Context, Failure, Orchestration, RetryPolicy, Turn};
use toygres_models::Scope;
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;

/// See the module.
pub struct CreateInstance;

/// Pause before the next look, or try.
const SLOW_WAIT: Duration = Duration::from_secs(2);

/// What to make, and how patiently.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Who works on which operation.
    pub scope: Scope,
    /// Without progress for so long it has failed, in milliseconds.
    pub deadline_ms: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Begin,
    Deploy,
    Ready,
    Connect,
    Record,
}

/// What a step can come to.
#[derive(Clone, Copy)]
pub(crate) enum Came {
    Done,
    /// It can still come: the same again.
    NotYet,
    /// The cause may be gone, or a crash may have cut the work off: have it taken up again.
    Broken,
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pause = SLOW_WAIT.as_secs();
        match self {
            Self::Done => Ok(()),
            Self::NotYet => write!(f, "not yet, and not for too long: after {pause} s"),
            Self::Broken => write!(
                f,
                "something is in the way, and not for too long: after {pause} s"
            ),
        }
    }
}

impl flow::Step for Step {
    type Came = Came;
    const STEPS: &'static [Self] = &[
        Self::Begin,
        Self::Deploy,
        Self::Ready,
        Self::Connect,
        Self::Record,
    ];
    const CAME: &'static [Came] = &[Came::Done, Came::NotYet, Came::Broken];

    fn does(self) -> Does {
        Does::Calls(match self {
            Self::Begin => &[BeginOperation::NAME],
            Self::Deploy => &[DeployPostgres::NAME],
            Self::Ready => &[WaitForReady::NAME],
            Self::Connect => &[TestConnection::NAME],
            Self::Record => &[RecordRunning::NAME],
        })
    }

    fn next(self, came: Came) -> Option<To<Self>> {
        Some(match (self, came) {
            (Self::Begin, Came::Done) => To::Step(Self::Deploy),
            (Self::Deploy, Came::Done) => To::Step(Self::Ready),
            (Self::Ready, Came::Done) => To::Step(Self::Connect),
            (Self::Connect, Came::Done) => To::Step(Self::Record),
            (Self::Record, Came::Done) => To::End(flow::End::Completed),
            (Self::Deploy | Self::Ready | Self::Connect, Came::NotYet) => To::Step(self),
            (Self::Ready, Came::Broken) => To::Step(Self::Deploy),
            (Self::Begin | Self::Record, Came::NotYet)
            | (Self::Begin | Self::Deploy | Self::Connect | Self::Record, Came::Broken) => return None,
        })
    }
}

impl Stepwise for CreateInstance {
    type Step = Step;
    const SUMMARY: &'static str = "Makes an instance: deploys PostgreSQL, waits until it is ready, tests a connection, \
         records that it runs. Undoes nothing: its actor sees to that.";
}

impl Orchestration for CreateInstance {
    const NAME: &'static str = "create-instance";
    type Input = Input;
    type Output = ();

    async fn run(cx: Context, input: Input) -> Result<Turn<(), Input>, Failure> {
        let mut create = Create {
            cx,
            scope: input.scope,
            patience: Patience::new(Duration::from_millis(input.deadline_ms)),
            quick: true,
            ready: None,
            tested: None,
        };
        let mut step = Step::Begin;
        loop {
            let came = match create.act(step).await {
                // What can pass (no room, a quota, a platform that is away) is waited out.
                Err(failure) if failure.retryable && step.next(Came::NotYet).is_some() => {
                    create.wait(&failure.code, &failure.message).await?;
                    Came::NotYet
                }
                came => came?,
            };
            match flow::onward(step, came)? {
                To::Step(next) => step = next,
                To::End(_) => return Ok(Turn::Done(())),
            }
        }
    }
}

/// A create, and what it has found so far.
struct Create {
    cx: Context,
    scope: Scope,
    patience: Patience,
    /// The first look may wait for a while, the others only look.
    quick: bool,
    ready: Option<(Endpoint, Option<u64>)>,
    tested: Option<test_connection::Output>,
}

impl Create {
    async fn act(&mut self, step: Step) -> Result<Came, Failure> {
        let scope = self.scope;
        match step {
            Step::Begin => self.note::<BeginOperation>(step, scope.into()).await?,
            Step::Deploy => self.call::<DeployPostgres>(step, scope).await?,
            Step::Ready => {
                let quick = std::mem::replace(&mut self.quick, false);
                let look = wait_for_ready::Input { scope, quick };
                match self.call::<WaitForReady>(step, look).await? {
                    wait_for_ready::Output::Ready {
                        endpoint,
                        system_identifier,
                    } => self.ready = Some((endpoint, system_identifier)),
                    wait_for_ready::Output::NotReady {
                        reason,
                        message,
                        differs,
                    } => {
                        self.wait(reason.as_str(), &message).await?;
                        let comes_by_itself = match differs {
                            Some(differs) => !differs,
                            None => matches!(reason, Reason::Starting | Reason::Queued),
                        };
                        return Ok(if comes_by_itself {
                            Came::NotYet
                        } else {
                            Came::Broken
                        });
                    }
                }
            }
            Step::Connect => self.tested = Some(self.call::<TestConnection>(step, scope).await?),
            Step::Record => {
                let (Some((endpoint, system_identifier)), Some(tested)) =
                    (self.ready.take(), self.tested.take())
                else {
                    return Err(flow::out_of_order());
                };
                let record = record_running::Input {
                    scope,
                    endpoint,
                    external_endpoint: tested.external_endpoint,
                    system_identifier: tested.system_identifier.or(system_identifier),
                    check: tested.check,
                };
                self.note::<RecordRunning>(step, record).await?;
            }
        }
        Ok(Came::Done)
    }

    async fn call<A: Activity>(&self, step: Step, input: A::Input) -> Result<A::Output, Failure> {
        flow::call::<A>(step, &self.cx, RetryPolicy::standard(), input).await
    }

    /// Writes to the control database, whose troubles are no reason to give up what is made.
    async fn note<A: Activity>(&self, step: Step, input: A::Input) -> Result<A::Output, Failure> {
        flow::call::<A>(step, &self.cx, RetryPolicy::patient(), input).await
    }

    async fn wait(&mut self, reason: &str, message: &str) -> Result<(), Failure> {
        self.patience.wait(&self.cx, SLOW_WAIT, reason, message).await
    }
}

/// Counts the time without progress. A reason to wait that there was not before is progress; two that take turns are not.
struct Patience {
    limit: Duration,
    waited: Duration,
    reasons: Vec<String>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            waited: Duration::ZERO,
            reasons: Vec::new(),
        }
    }

    async fn wait(
        &mut self,
        cx: &Context,
        pause: Duration,
        reason: &str,
        message: &str,
    ) -> Result<(), Failure> {
        if !self.reasons.iter().any(|known| known == reason) {
            self.reasons.push(reason.to_owned());
            self.waited = Duration::ZERO;
        }
        if self.waited >= self.limit {
            let minutes = self.limit.as_secs() / 60;
            return Err(Failure::app(
                reason,
                format!("no progress for {minutes} minutes: {message}"),
            ));
        }
        self.waited += pause;
        cx.timer(pause).await;
        Ok(())
    }
}
