//! Finds an instance's address and has a real connection run a real query.

use crate::Deps;
use crate::connection::{Probed, probe};
use crate::deps::{differences, reference};
use crate::step::in_step;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use toygres_cms::Provisioning;
use toygres_engine::{Activity, ActivityContext};
use toygres_models::health::HealthCheck;
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result, Scope};
use toygres_platform::Observation;

/// See the module.
pub struct TestConnection;

/// A server that has just begun to listen may still say that it starts: it is asked again for so long.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(2);
const FIRST_ANSWER_PAUSE: Duration = Duration::from_millis(100);

/// What was found. A failed check is an output, not an error: the activity did its work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Output {
    /// The check.
    pub check: HealthCheck,
    /// Where it was tried, if the platform knows an address.
    pub endpoint: Option<Endpoint>,
    /// Where clients outside the platform's network reach it, if there is such an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_endpoint: Option<Endpoint>,
    /// The identity of the server that answered.
    pub system_identifier: Option<u64>,
    /// What is to be made right although it answers. Looked for in the periodic check only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

impl Activity for TestConnection {
    const NAME: &'static str = "test-connection";
    type Deps = Deps;
    type Input = Scope;
    type Output = Output;

    fn about(input: &Scope) -> Option<&Scope> {
        Some(input)
    }

    async fn run(deps: &Deps, _: &ActivityContext, scope: Scope) -> Result<Output> {
        if scope.operation_id.is_none() {
            let provisioning = deps.provisioning(&scope).await?;
            let mut output = test(deps, &provisioning).await?;
            if output.check.healthy {
                output.differences = differences(deps, &provisioning).await.unwrap_or_default();
            }
            return Ok(output);
        }
        // As a step of an operation an unanswered connection is something to wait for.
        in_step(deps, &scope, Self::NAME, async {
            let provisioning = deps.provisioning(&scope).await?;
            let begun = Instant::now();
            let mut output = test(deps, &provisioning).await?;
            while !output.check.healthy && begun.elapsed() < FIRST_ANSWER_LIMIT {
                tokio::time::sleep(FIRST_ANSWER_PAUSE).await;
                output = test(deps, &provisioning).await?;
            }
            if output.check.healthy {
                // Before anybody is told that it runs.
                deps.platform.keep_data(&reference(&provisioning)).await?;
                return Ok(output);
            }
            let why = output.check.error_message.unwrap_or_default();
            Err(Error::new(
                ErrorKind::Unavailable,
                Reason::NotAccepting.as_str(),
                why,
            ))
        })
        .await
    }
}

async fn test(deps: &Deps, provisioning: &Provisioning) -> Result<Output> {
    let Some(password) = &provisioning.password else {
        return Err(Error::internal("a live instance has no credentials"));
    };
    let serving = match deps.platform.observe(&reference(provisioning)).await? {
        Observation::Ready(serving) => serving,
        Observation::NotReady { reason, message } => return Ok(failed(reason.as_str(), message)),
        Observation::Absent => {
            return Ok(failed(
                Reason::StorageMissing.as_str(),
                "nothing of it is there".to_owned(),
            ));
        }
    };
    let Probed {
        mut check,
        system_identifier,
    } = probe(
        &serving,
        deps.platform.certificate_authority(),
        password,
        deps.settings.health_check_timeout,
    )
    .await;
    if let (Some(expected), Some(found)) = (provisioning.system_identifier, system_identifier)
        && expected != found
    {
        check.healthy = false;
        check.error_code = Some(Reason::StorageForeign.as_str().to_owned());
        check.error_message = Some("another server answers at its address".to_owned());
    }
    if let (false, Some((reason, message))) = (check.healthy, serving.doubt) {
        check.error_code = Some(reason.as_str().to_owned());
        check.error_message = Some(message);
    }
    Ok(Output {
        check,
        endpoint: Some(serving.endpoint),
        external_endpoint: serving.external_endpoint,
        system_identifier,
        differences: Vec::new(),
    })
}

fn failed(code: &str, message: String) -> Output {
    let check = HealthCheck {
        checked_at: Utc::now(),
        healthy: false,
        response_time_ms: None,
        server_version: None,
        error_code: Some(code.to_owned()),
        error_message: Some(message),
    };
    Output {
        check,
        endpoint: None,
        external_endpoint: None,
        system_identifier: None,
        differences: Vec::new(),
    }
}
