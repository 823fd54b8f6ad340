//! Records how an operation ended that leaves no instance behind.

use crate::Deps;
use crate::step::tell_ended;
use serde::{Deserialize, Serialize};
use toygres_engine::{Activity, ActivityContext};
use toygres_models::operations::OperationError;
use toygres_models::{Result, Scope};

/// See the module.
pub struct RecordEnd;

/// How it ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// A deletion is done.
    Deleted,
    /// A create failed, and what it had made is gone.
    Failed(OperationError),
    /// Something newer was asked for, which will see to what is left.
    Cancelled(String),
}

/// What is recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Who records it.
    pub scope: Scope,
    /// How it ended.
    pub end: End,
}

impl Activity for RecordEnd {
    const NAME: &'static str = "cms-record-end";
    type Deps = Deps;
    type Input = Input;
    type Output = ();

    fn about(input: &Input) -> Option<&Scope> {
        Some(&input.scope)
    }

    async fn run(deps: &Deps, _: &ActivityContext, input: Input) -> Result<()> {
        let ended = match &input.end {
            End::Deleted => deps.cms.record_deleted(&input.scope).await,
            End::Failed(error) => deps.cms.record_failed(&input.scope, error).await,
            End::Cancelled(why) => deps.cms.record_cancelled(&input.scope, why).await,
        };
        tell_ended(&ended?);
        Ok(())
    }
}
