//! The metadata repository ("CMS"): the only crate with SQL on toygres's tables, which live in the schema `cms`.
//!
//! What is wanted of an instance stands in its row. The API writes it ([`Cms::create_instance`],
//! [`Cms::request_delete`], [`Cms::retry_operation`]); the instance's actor reads it ([`Cms::intent`]) and records what it did. Every write of
//! an actor is fenced: it names the actor's incarnation, and one that is not the row's is refused with
//! [`Superseded`](toygres_models::ErrorKind::Superseded), code `superseded`, and changes nothing. Every write may be
//! made twice, since the answer of the first may have been lost.
//!
//! Errors that any function may give, besides its own: [`Unavailable`](toygres_models::ErrorKind::Unavailable), code
//! `database_unavailable`, when the database does not answer, and [`Config`](toygres_models::ErrorKind::Config) when
//! it refuses the login or lacks the tables.

mod actors;
mod audit;
mod changes;
mod counts;
mod credentials;
mod drift;
mod errors;
mod events;
mod health;
mod idempotency;
mod instances;
mod migrate;
mod operations;
mod quotas;
mod retry;
mod rows;
mod sweep;
mod tokens;
mod update;
mod workers;

pub use actors::Provisioning;
pub use audit::{AuditFilter, Origin};
pub use changes::{Change, Changes};
pub use counts::{Counts, Fleet};
pub use credentials::MasterKey;
pub use drift::DriftFinding;
pub use events::EventFilter;
pub use idempotency::Idempotency;
pub use instances::{CreateInstance, Created, Deletion, InstanceFilter, InstanceSelector, TagFilter};
pub use migrate::migrate;
pub use operations::{EndedOperation, OperationFilter};
pub use retry::Retried;
pub use sweep::{Pruned, Retention, WantedActor};

use crate::errors::database;
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use std::sync::Arc;
use toygres_models::Result;

/// The metadata repository: a pool of connections and the keys of what is stored encrypted. Cheap to clone.
#[derive(Clone)]
pub struct Cms {
    pool: PgPool,
    key: Arc<MasterKey>,
}

impl Cms {
    /// A repository on a database that [`migrate`] was run on.
    #[must_use]
    pub fn new(pool: PgPool, key: MasterKey) -> Self {
        Self {
            pool,
            key: Arc::new(key),
        }
    }

    /// A connection, for statements with many rows: from the pool itself they come through one more stream of sqlx, which
    /// enters the present span again for each.
    async fn connection(&self) -> Result<PoolConnection<Postgres>> {
        self.pool.acquire().await.map_err(database)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// See the crate.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("select 1")
            .execute(&self.pool)
            .await
            .map_err(database)?;
        Ok(())
    }
}
