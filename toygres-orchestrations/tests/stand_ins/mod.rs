//! Stand-ins for the activities: the real orchestrations run, and nothing is done.

use serde_json::{Value, json};
use std::marker::PhantomData;
use std::sync::Arc;
use toygres_activities::{
    BeginOperation, DeployPostgres, LoadIntent, RecordEnd, RecordHealthCheck, RecordRunning, RemovePostgres,
    TestConnection, VerifyGone, WaitForReady,
};
use toygres_engine::{Activities, Activity, ActivityContext};
use toygres_models::{Error, ErrorKind, Result, Scope};

/// Says what activities answer.
pub(crate) trait Answers: Send + Sync + 'static {
    fn answer(
        &self,
        activity: &'static str,
        scope: Scope,
        input: Value,
    ) -> impl Future<Output = Result<Value>> + Send;
}

/// Has the name and the types of an activity and does nothing.
struct StandIn<A, S>(PhantomData<(A, S)>);

impl<A: Activity, S: Answers> Activity for StandIn<A, S> {
    const CRATE: &'static str = A::CRATE;
    const NAME: &'static str = A::NAME;
    type Deps = S;
    type Input = A::Input;
    type Output = A::Output;

    async fn run(answers: &S, _: &ActivityContext, input: A::Input) -> Result<A::Output> {
        let scope = *A::about(&input).unwrap();
        let input = serde_json::to_value(input).unwrap();
        let answer = answers.answer(A::NAME, scope, input).await?;
        Ok(serde_json::from_value(answer).unwrap())
    }
}

/// A stand-in for every activity.
pub(crate) fn stand_ins<S: Answers>(answers: Arc<S>) -> Activities<S> {
    macro_rules! all {
        ($($activity:ident),+) => {
            Activities::new(toygres_activities::CRATE, answers)
                $(.register::<StandIn<$activity, S>>())+
        };
    }
    all!(
        BeginOperation,
        DeployPostgres,
        LoadIntent,
        RecordEnd,
        RecordHealthCheck,
        RecordRunning,
        RemovePostgres,
        TestConnection,
        VerifyGone,
        WaitForReady
    )
}

pub(crate) fn ready() -> Value {
    json!({"is": "ready", "endpoint": {"host": "127.0.0.1", "port": 5432}, "system_identifier": 1})
}

pub(crate) fn not_ready(reason: &str) -> Value {
    json!({"is": "not_ready", "reason": reason, "message": "not yet"})
}

pub(crate) fn tested(healthy: bool) -> Value {
    json!({"check": {"checked_at": "2026-01-01T00:00:00Z", "healthy": healthy}})
}

pub(crate) fn refused(kind: ErrorKind) -> Result<Value> {
    Err(Error::new(kind, "scripted", "as the script says"))
}
