//! Has the platform make what is there like the instance's row: the first time with new storage, later never.
//! Outside an operation it repairs, and what differed is told as events.

use crate::Deps;
use crate::deps::{differences, specification, storage};
use crate::step::in_step;
use toygres_engine::{Activity, ActivityContext};
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result, Scope};

/// See the module.
pub struct DeployPostgres;

impl Activity for DeployPostgres {
    const NAME: &'static str = "deploy-postgres";
    type Deps = Deps;
    type Input = Scope;
    type Output = ();

    fn about(input: &Scope) -> Option<&Scope> {
        Some(input)
    }

    async fn run(deps: &Deps, _: &ActivityContext, scope: Scope) -> Result<()> {
        in_step(deps, &scope, Self::NAME, async {
            let provisioning = deps.provisioning(&scope).await?;
            let differences = match scope.operation_id {
                // What is being made differs from what it is to be.
                Some(_) => Vec::new(),
                None => differences(deps, &provisioning).await.unwrap_or_default(),
            };
            let ensured = deps
                .platform
                .ensure(&specification(&provisioning)?, storage(&provisioning))
                .await;
            if let Err(error) = &ensured
                && error.kind() == ErrorKind::StorageLost
            {
                alarm(deps, &scope, error).await?;
            }
            ensured?;
            if differences.is_empty() {
                return Ok(());
            }
            for difference in deps.cms.record_repaired(&scope, &differences).await? {
                tracing::info!(instance_id = %scope.instance_id, difference, "made right what differed");
            }
            Ok(())
        })
        .await
    }
}

async fn alarm(deps: &Deps, scope: &Scope, error: &Error) -> Result<()> {
    tracing::error!(instance_id = %scope.instance_id, code = error.code(), detail = error.detail(), "{error}");
    let reason = error.code().parse().unwrap_or(Reason::StorageMissing);
    deps.cms.record_alarm(scope, reason, error.message()).await
}
