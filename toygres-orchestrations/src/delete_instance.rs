//! The one teardown: removes everything of an instance, makes sure that it is gone, records the end.
//!
//! It serves a deletion as well as a create that did not succeed, and can be run any number of times.

use serde::{Deserialize, Serialize};
use toygres_activities::record_end::{self, End};
use toygres_activities::{BeginOperation, RecordEnd, RemovePostgres, VerifyGone};
use toygres_engine::{Context, Failure, Orchestration, RetryPolicy, Turn, call_with};
use toygres_models::Scope;

/// See the module.
pub struct DeleteInstance;

/// What to remove, and how that ends its operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Who works on which operation.
    pub scope: Scope,
    /// What is recorded once nothing is left.
    pub end: End,
}

impl Orchestration for DeleteInstance {
    const NAME: &'static str = "delete-instance";
    type Input = Input;
    type Output = ();

    async fn run(cx: Context, input: Input) -> Result<Turn<(), Input>, Failure> {
        let scope = input.scope;
        let patient = RetryPolicy::patient();
        call_with::<BeginOperation>(&cx, patient, scope).await?;
        call_with::<RemovePostgres>(&cx, patient, scope).await?;
        call_with::<VerifyGone>(&cx, patient, scope).await?;
        call_with::<RecordEnd>(
            &cx,
            patient,
            record_end::Input {
                scope,
                end: input.end,
            },
        )
        .await?;
        Ok(Turn::Done(()))
    }
}
