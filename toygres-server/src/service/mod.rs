//! The rules: what a request means, free of HTTP on one side and of SQL on the other.

mod access;
mod administration;
mod changes;
mod instances;
mod operations;
mod orchestrations;
mod server;

pub(crate) use access::{Access, Principal};
pub(crate) use changes::{Changes, Interest};
pub(crate) use instances::Accepted;

use crate::config::Mode;
use futures_util::stream::BoxStream;
use sqlx::PgPool;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use toygres_cms::Cms;
use toygres_engine::EngineClient;
use toygres_models::quotas::QuotaLimits;
use toygres_models::server::EffectiveSetting;
use toygres_models::{InstanceId, PostgresVersion, Result};
use toygres_orchestrations::{InstanceActor, actor_id, instance_actor};
use toygres_platform::Platform;
use uuid::Uuid;

/// What requests are answered with.
pub(crate) struct Service {
    pub(crate) cms: Cms,
    pub(crate) engine: EngineClient,
    pub(crate) platform: Arc<dyn Platform>,
    /// The version of instances that do not name one.
    pub(crate) default_version: PostgresVersion,
    pub(crate) mode: Mode,
    pub(crate) access: Access,
    pub(crate) changes: Changes,
    /// What owners may have that have no quota of their own.
    pub(crate) default_quota: QuotaLimits,
    /// This process, new with each start.
    pub(crate) process_id: Uuid,
    pub(crate) started: Instant,
    /// Cancelled when the server is told to stop: it still serves, but wants no more work.
    pub(crate) stopping: CancellationToken,
    pub(crate) settings: Vec<EffectiveSetting>,
    pub(crate) server_log: PathBuf,
    /// To be counted.
    pub(crate) pool: PgPool,
}

/// An instance's own log.
pub(crate) enum Logs {
    Whole(Vec<String>),
    /// Ends with `stop`.
    Followed {
        lines: BoxStream<'static, Result<String>>,
        stop: CancellationToken,
        permit: OwnedSemaphorePermit,
    },
}

impl Service {
    /// Has the instance's actor look at its row: starts the actor if it is not there yet, and wakes it.
    ///
    /// What is wanted stands in the row already. If this fails, the sweeper does it later; so it is not an error.
    async fn nudge(&self, instance_id: InstanceId, incarnation: i64, is_new: bool) {
        let id = actor_id(instance_id, incarnation);
        let nudged = async {
            if is_new {
                let input = instance_actor::Input::new(instance_id, incarnation);
                match incarnation {
                    1 => self.engine.start::<InstanceActor>(&id, input).await,
                    _ => self.engine.restart::<InstanceActor>(&id, input).await,
                }
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
