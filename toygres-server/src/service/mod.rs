//! The rules: what a request means, free of HTTP on one side and of SQL on the other.

mod instances;
mod operations;
mod server;

pub(crate) use instances::Accepted;

use crate::config::Mode;
use std::sync::Arc;
use toygres_cms::Cms;
use toygres_engine::EngineClient;
use toygres_models::{InstanceId, PostgresVersion};
use toygres_orchestrations::{InstanceActor, actor_id, instance_actor};
use toygres_platform::Platform;

/// What requests are answered with.
pub(crate) struct Service {
    pub(crate) cms: Cms,
    pub(crate) engine: EngineClient,
    pub(crate) platform: Arc<dyn Platform>,
    /// The version of instances that do not name one.
    pub(crate) default_version: PostgresVersion,
    pub(crate) mode: Mode,
}

impl Service {
    /// Has the instance's actor look at its row: starts the actor if it is not there yet, and wakes it.
    ///
    /// What is wanted stands in the row already. If this fails, the sweeper does it later; so it is not an error.
    async fn nudge(&self, instance_id: InstanceId, incarnation: i64, is_new: bool) {
        let id = actor_id(instance_id, incarnation);
        let nudged = async {
            if is_new {
                let input = instance_actor::Input {
                    instance_id,
                    incarnation,
                    resume: None,
                };
                self.engine.start::<InstanceActor>(&id, input).await
            } else {
                self.engine.wake(&id).await
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(2), nudged).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%instance_id, detail = error.detail(), "the actor was not reached: {error}")
            }
            Err(_) => tracing::warn!(%instance_id, "the actor was not reached in time"),
        }
    }
}
