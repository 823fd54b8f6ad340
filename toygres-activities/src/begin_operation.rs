//! Takes an operation up: from now on it is shown as running.

use crate::Deps;
use serde::{Deserialize, Serialize};
use toygres_engine::{Activity, ActivityContext};
use toygres_models::operations::OperationError;
use toygres_models::{Result, Scope};

/// See the module.
pub struct BeginOperation;

/// Which operation is taken up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Who works on which operation.
    #[serde(flatten)]
    pub scope: Scope,
    /// What the last try to remove the instance failed with: an alarm until the operation ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_failed: Option<OperationError>,
}

impl From<Scope> for Input {
    fn from(scope: Scope) -> Self {
        Self {
            scope,
            removal_failed: None,
        }
    }
}

impl Activity for BeginOperation {
    const NAME: &'static str = "cms-begin-operation";
    type Deps = Deps;
    type Input = Input;
    type Output = ();

    fn about(input: &Input) -> Option<&Scope> {
        Some(&input.scope)
    }

    async fn run(deps: &Deps, _: &ActivityContext, input: Input) -> Result<()> {
        deps.cms.begin_operation(&input.scope).await?;
        if let Some(error) = &input.removal_failed
            && deps.cms.record_removal_stuck(&input.scope, error).await?
        {
            tracing::error!(
                instance_id = %input.scope.instance_id,
                code = error.code,
                "an instance can't be removed: {}",
                error.message
            );
        }
        Ok(())
    }
}
