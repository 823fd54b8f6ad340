//! Has the platform stop an instance and remove everything of it, its data included.

use crate::Deps;
use crate::deps::reference;
use crate::step::in_step;
use toygres_engine::{Activity, ActivityContext};
use toygres_models::{Result, Scope};

/// See the module.
pub struct RemovePostgres;

impl Activity for RemovePostgres {
    const NAME: &'static str = "remove-postgres";
    type Deps = Deps;
    type Input = Scope;
    type Output = ();

    fn about(input: &Scope) -> Option<&Scope> {
        Some(input)
    }

    async fn run(deps: &Deps, _: &ActivityContext, scope: Scope) -> Result<()> {
        in_step(deps, &scope, Self::NAME, async {
            let provisioning = deps.provisioning(&scope).await?;
            deps.platform.remove(&reference(&provisioning)).await
        })
        .await
    }
}
