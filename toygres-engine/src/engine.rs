//! Connecting, starting and stopping.

use crate::activity::{Activities, Activity};
use crate::child::{ChildStatus, Place};
use crate::client::EngineClient;
use crate::error::from_sqlx;
use crate::orchestration::Orchestrations;
use crate::slots::Workers;
use crate::store::{Guards, Store};
use duroxide::providers::Provider;
use duroxide::runtime::{ObservabilityConfig, Runtime, RuntimeOptions};
use duroxide_pg::{PostgresProvider, ProviderConfig};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use toygres_models::{Error, ErrorKind, Result, Secret};

/// The longest wait for work being taken while stopping.
const LONGEST_CLOSE: Duration = Duration::from_secs(2);

/// How the engine runs. Make one by [`EngineConfig::new`] and change what should differ.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The database that holds the orchestrations.
    pub database_url: Secret,
    /// The schema for them. Letters, digits and underscores.
    pub schema: String,
    /// How many orchestrations can be worked on at the same time.
    pub orchestration_concurrency: usize,
    /// How many activities can run at the same time.
    pub worker_concurrency: usize,
    /// How long an orchestration stays locked by a process that died.
    pub orchestrator_lock_timeout: Duration,
    /// How long an activity stays locked by a process that died; renewed at half of it, which is also when an activity
    /// learns that nobody waits for it any more.
    pub worker_lock_timeout: Duration,
    /// How often an idle process looks for work it was not told of.
    pub fallback_poll: Duration,
    /// The trace context of the caller, for orchestrations it starts.
    pub current_traceparent: fn() -> Option<String>,
    /// Which guards of the store are on.
    #[doc(hidden)]
    pub guards: Guards,
}

impl EngineConfig {
    /// The defaults.
    #[must_use]
    pub fn new(database_url: Secret) -> Self {
        Self {
            database_url,
            schema: "duroxide".to_owned(),
            orchestration_concurrency: 8,
            worker_concurrency: 32,
            orchestrator_lock_timeout: Duration::from_secs(5),
            worker_lock_timeout: Duration::from_secs(10),
            fallback_poll: Duration::from_secs(1),
            current_traceparent: || None,
            guards: Guards::all(),
        }
    }

    fn runtime_options(&self) -> RuntimeOptions {
        RuntimeOptions {
            orchestration_concurrency: self.orchestration_concurrency,
            worker_concurrency: self.worker_concurrency,
            orchestrator_lock_timeout: self.orchestrator_lock_timeout,
            worker_lock_timeout: self.worker_lock_timeout,
            observability: ObservabilityConfig {
                // Its query counts the whole history, and its gauges are wrong.
                gauge_poll_interval: Duration::from_secs(365 * 24 * 60 * 60),
                ..ObservabilityConfig::default()
            },
            ..RuntimeOptions::default()
        }
    }
}

/// A connection to the orchestrations of a database. Does no work before [`start`](Self::start).
pub struct Engine {
    config: EngineConfig,
    client: EngineClient,
}

impl Engine {
    /// Connects, and brings duroxide's tables up to date. `pool` is for the engine's own few queries; duroxide keeps
    /// connections of its own (10 at most), and one more listens to other processes.
    ///
    /// # Errors
    /// `database_unavailable`; `engine_schema` when the tables belong to another version of duroxide.
    pub async fn connect(config: EngineConfig, pool: PgPool) -> Result<Self> {
        let mut provider = ProviderConfig::url(config.database_url.reveal().clone());
        provider.schema_name = Some(config.schema.clone());
        let provider = PostgresProvider::new_with_config(provider)
            .await
            .map_err(|error| match error.downcast::<sqlx::Error>() {
                Ok(error) => from_sqlx(error),
                Err(error) => {
                    let message = "the orchestration tables do not fit this version of toygres";
                    Error::new(ErrorKind::Config, "engine_schema", message).context(error.to_string())
                }
            })?;
        Ok(Self::with_provider(config, pool, Arc::new(provider)))
    }

    /// As [`connect`](Self::connect), with another store inside, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn with_provider(config: EngineConfig, pool: PgPool, provider: Arc<dyn Provider>) -> Self {
        let mut store = Store::new(provider, config.guards, config.fallback_poll)
            .with_slots(config.orchestration_concurrency);
        if config.guards.wake {
            store = store.with_neighbours(pool.clone(), config.database_url.clone(), &config.schema);
        }
        let store = Arc::new(store);
        let client = EngineClient {
            client: duroxide::Client::new(Arc::clone(&store) as Arc<dyn Provider>),
            store,
            pool,
            schema: config.schema.as_str().into(),
            current_traceparent: config.current_traceparent,
            orchestration_slots: config.orchestration_concurrency,
            activity_slots: config.worker_concurrency,
            activities: Arc::default(),
        };
        Self { config, client }
    }

    /// For those who start, wake and ask.
    #[must_use]
    pub fn client(&self) -> EngineClient {
        self.client.clone()
    }

    /// Begins to work.
    ///
    /// # Panics
    /// When an activity of the engine's own is registered by others.
    pub async fn start<D>(&self, activities: Activities<D>, orchestrations: Orchestrations) -> Running
    where
        D: Send + Sync + 'static,
    {
        let activities = activities.register_with::<ChildStatus>(Arc::new(Place {
            pool: self.client.pool.clone(),
            schema: Arc::clone(&self.client.schema),
        }));
        tracing::info!(
            activities = activities.names().len(),
            orchestrations = orchestrations.names().len(),
            built_in = ChildStatus::NAME,
            "the orchestration engine starts"
        );
        let store = Arc::clone(&self.client.store);
        let workers = Workers {
            orchestrations: (Arc::clone(store.slots()), self.config.orchestration_concurrency),
            activities: (Arc::clone(activities.slots()), self.config.worker_concurrency),
        };
        self.client
            .activities
            .get_or_init(|| Arc::clone(activities.slots()));
        store.open();
        let provider = Arc::clone(&store) as Arc<dyn Provider>;
        let options = self.config.runtime_options();
        let runtime =
            Runtime::start_with_options(provider, activities.build(), orchestrations.build(), options).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(workers.clone().watch());
        Running {
            runtime,
            store,
            workers,
            tasks,
        }
    }
}

/// An engine at work.
pub struct Running {
    runtime: Arc<Runtime>,
    store: Arc<Store>,
    workers: Workers,
    /// Ended when this is dropped.
    tasks: JoinSet<()>,
}

impl Running {
    /// Stops: takes no work any more, lets what runs end within `grace`, then aborts it. Aborted work is taken up by
    /// another process, or the next one, once its lock has run out.
    pub async fn shutdown(mut self, grace: Duration) {
        self.store.close(grace.min(LONGEST_CLOSE)).await;
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.runtime.shutdown(Some(grace)).await;
        self.tasks.shutdown().await;
        self.workers.tell_last();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_shows_soon_and_history_is_never_counted() {
        let options = EngineConfig::new(Secret::new(String::new())).runtime_options();
        assert_eq!(options.orchestrator_lock_timeout, Duration::from_secs(5));
        assert_eq!(options.worker_lock_timeout, Duration::from_secs(10));
        assert!(options.observability.gauge_poll_interval > Duration::from_secs(24 * 60 * 60));
    }
}
