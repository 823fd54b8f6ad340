//! Makes an instance: deploys PostgreSQL, waits until it is ready, tests a connection, records that it runs.
//!
//! It undoes nothing: whatever way it ends without success, the actor has `delete-instance` take away what is there.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use toygres_activities::{
    BeginOperation, DeployPostgres, RecordRunning, TestConnection, WaitForReady, record_running,
    test_connection, wait_for_ready,
};
use toygres_engine::{Context, Failure, Orchestration, Turn, call};
use toygres_models::Scope;
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;

/// See the module.
pub struct CreateInstance;

/// Pause between two looks once the quick wait is over.
const SLOW_WAIT: Duration = Duration::from_secs(2);

/// What to make, and how patiently.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Who works on which operation.
    pub scope: Scope,
    /// Without progress for so long it has failed, in milliseconds.
    pub deadline_ms: u64,
}

impl Orchestration for CreateInstance {
    const NAME: &'static str = "create-instance";
    type Input = Input;
    type Output = ();

    async fn run(cx: Context, input: Input) -> Result<Turn<(), Input>, Failure> {
        let scope = input.scope;
        call::<BeginOperation>(&cx, scope).await?;
        let mut patience = Patience::new(Duration::from_millis(input.deadline_ms));
        deploy(&cx, scope, &mut patience).await?;
        let (endpoint, system_identifier) = ready(&cx, scope, &mut patience).await?;
        let tested = connection(&cx, scope, &mut patience).await?;
        let system_identifier = tested.system_identifier.or(system_identifier);
        let record = record_running::Input {
            scope,
            endpoint,
            system_identifier,
            check: tested.check,
        };
        call::<RecordRunning>(&cx, record).await?;
        Ok(Turn::Done(()))
    }
}

/// Deploys; what can pass (no room, a quota, a platform that is away) is waited out.
async fn deploy(cx: &Context, scope: Scope, patience: &mut Patience) -> Result<(), Failure> {
    loop {
        match call::<DeployPostgres>(cx, scope).await {
            Err(failure) if failure.retryable => {
                patience
                    .wait(cx, SLOW_WAIT, &failure.code, &failure.message)
                    .await?
            }
            result => return result,
        }
    }
}

/// Waits until the platform says that it takes connections.
async fn ready(
    cx: &Context,
    scope: Scope,
    patience: &mut Patience,
) -> Result<(Endpoint, Option<u64>), Failure> {
    let mut quick = true;
    loop {
        match call::<WaitForReady>(cx, wait_for_ready::Input { scope, quick }).await {
            Ok(wait_for_ready::Output::Ready {
                endpoint,
                system_identifier,
            }) => {
                return Ok((endpoint, system_identifier));
            }
            Ok(wait_for_ready::Output::NotReady { reason, message }) => {
                patience.wait(cx, SLOW_WAIT, reason.as_str(), &message).await?;
                if !matches!(reason, Reason::Starting | Reason::Queued) {
                    // The cause may be gone, or a crash may have cut the work off: have it taken up again.
                    deploy(cx, scope, patience).await?;
                }
            }
            Err(failure) if failure.retryable => {
                patience
                    .wait(cx, SLOW_WAIT, &failure.code, &failure.message)
                    .await?;
            }
            Err(failure) => return Err(failure),
        }
        quick = false;
    }
}

/// Tests until a connection is answered.
async fn connection(
    cx: &Context,
    scope: Scope,
    patience: &mut Patience,
) -> Result<test_connection::Output, Failure> {
    loop {
        match call::<TestConnection>(cx, scope).await {
            Err(failure) if failure.retryable => {
                patience
                    .wait(cx, SLOW_WAIT, &failure.code, &failure.message)
                    .await?
            }
            result => return result,
        }
    }
}

/// Counts the time without progress. A new reason to wait is progress.
struct Patience {
    limit: Duration,
    waited: Duration,
    reason: String,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            waited: Duration::ZERO,
            reason: String::new(),
        }
    }

    async fn wait(
        &mut self,
        cx: &Context,
        pause: Duration,
        reason: &str,
        message: &str,
    ) -> Result<(), Failure> {
        if self.reason != reason {
            reason.clone_into(&mut self.reason);
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
