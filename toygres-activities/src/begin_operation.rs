//! Takes an operation up: from now on it is shown as running.

use crate::Deps;
use toygres_engine::{Activity, ActivityContext};
use toygres_models::{Result, Scope};

/// See the module.
pub struct BeginOperation;

impl Activity for BeginOperation {
    const NAME: &'static str = "cms-begin-operation";
    type Deps = Deps;
    type Input = Scope;
    type Output = ();

    fn about(input: &Scope) -> Option<&Scope> {
        Some(input)
    }

    async fn run(deps: &Deps, _: &ActivityContext, scope: Scope) -> Result<()> {
        deps.cms.begin_operation(&scope).await
    }
}
