//! Makes sure that nothing of an instance is left, before anybody is told so.

use crate::Deps;
use crate::deps::reference;
use crate::step::in_step;
use toygres_engine::{Activity, ActivityContext};
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result, Scope};
use toygres_platform::Observation;

/// See the module.
pub struct VerifyGone;

impl Activity for VerifyGone {
    const NAME: &'static str = "verify-gone";
    type Deps = Deps;
    type Input = Scope;
    type Output = ();

    fn about(input: &Scope) -> Option<&Scope> {
        Some(input)
    }

    async fn run(deps: &Deps, _: &ActivityContext, scope: Scope) -> Result<()> {
        in_step(deps, &scope, Self::NAME, async {
            let provisioning = deps.provisioning(&scope).await?;
            match deps.platform.observe(&reference(&provisioning)).await? {
                Observation::Absent => Ok(()),
                Observation::Ready(_) => Err(still_there("it still takes connections")),
                Observation::NotReady { message, .. } => Err(still_there(&message)),
            }
        })
        .await
    }
}

fn still_there(what: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        Reason::Stopped.as_str(),
        format!("something of it is still there: {what}"),
    )
}
