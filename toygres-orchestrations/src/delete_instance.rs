//! The one teardown: removes everything of an instance, makes sure that it is gone, records the end.
//!
//! It serves a deletion as well as a create that did not succeed, and can be run any number of times.

use crate::flow::{self, Does, Stepwise, To, call};
use serde::{Deserialize, Serialize};
use std::fmt;
use toygres_activities::record_end::{self, End};
use toygres_activities::{BeginOperation, RecordEnd, RemovePostgres, VerifyGone, begin_operation};
use toygres_engine::{Activity, Context, Failure, Orchestration, RetryPolicy, Turn};
use toygres_models::Scope;
use toygres_models::operations::OperationError;

/// See the module.
pub struct DeleteInstance;

/// What to remove, and how that ends its operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Who works on which operation.
    pub scope: Scope,
    /// What is recorded once nothing is left.
    pub end: End,
    /// What the last try failed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<OperationError>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Begin,
    Remove,
    Verify,
    Record,
}

/// All that a step can come to.
#[derive(Clone, Copy)]
pub(crate) struct Done;

impl fmt::Display for Done {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl flow::Step for Step {
    type Came = Done;
    const STEPS: &'static [Self] = &[Self::Begin, Self::Remove, Self::Verify, Self::Record];
    const CAME: &'static [Done] = &[Done];

    fn does(self) -> Does {
        Does::Calls(match self {
            Self::Begin => &[BeginOperation::NAME],
            Self::Remove => &[RemovePostgres::NAME],
            Self::Verify => &[VerifyGone::NAME],
            Self::Record => &[RecordEnd::NAME],
        })
    }

    fn next(self, _: Done) -> Option<To<Self>> {
        Some(match self {
            Self::Begin => To::Step(Self::Remove),
            Self::Remove => To::Step(Self::Verify),
            Self::Verify => To::Step(Self::Record),
            Self::Record => To::End(flow::End::Completed),
        })
    }
}

impl Stepwise for DeleteInstance {
    type Step = Step;
    const SUMMARY: &'static str =
        "Removes everything of an instance, makes sure that it is gone, records the end.";
}

impl Orchestration for DeleteInstance {
    const NAME: &'static str = "delete-instance";
    type Input = Input;
    type Output = ();

    async fn run(cx: Context, input: Input) -> Result<Turn<(), Input>, Failure> {
        let mut step = Step::Begin;
        loop {
            act(step, &cx, &input).await?;
            match flow::onward(step, Done)? {
                To::Step(next) => step = next,
                To::End(_) => return Ok(Turn::Done(())),
            }
        }
    }
}

async fn act(step: Step, cx: &Context, input: &Input) -> Result<(), Failure> {
    let scope = input.scope;
    let patient = RetryPolicy::patient();
    match step {
        Step::Begin => {
            let removal_failed = input.failed.clone();
            let begin = begin_operation::Input {
                scope,
                removal_failed,
            };
            call::<BeginOperation>(step, cx, patient, begin).await
        }
        Step::Remove => call::<RemovePostgres>(step, cx, patient, scope).await,
        Step::Verify => call::<VerifyGone>(step, cx, patient, scope).await,
        Step::Record => {
            let end = input.end.clone();
            call::<RecordEnd>(step, cx, patient, record_end::Input { scope, end }).await
        }
    }
}
