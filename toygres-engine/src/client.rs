//! What everybody but orchestrations uses of the engine.

use crate::envelope;
use crate::error::{from_client, from_sqlx, unavailable};
use crate::failure::Failure;
use crate::orchestration::{Orchestration, WAKE_QUEUE, engine_name, seal_input};
use crate::slots::Slots;
use crate::store::Store;
use duroxide::{Client, ClientError, OrchestrationStatus};
use sqlx::PgPool;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use toygres_models::{Error, Result};
use toygres_telemetry::Event;
use toygres_telemetry::events::{CancellationAsked, ClientWaited, ExternalEventRaised, OrchestrationAsked};

/// How long a caller waits for the store. duroxide-pg itself would wait for a connection for 30 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// How an orchestration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineStatus {
    /// It goes on, or waits to be taken up.
    Running,
    /// It ended with an output.
    Completed,
    /// It ended with a failure, or was cancelled.
    Failed,
}

/// Starts, wakes, cancels and asks. Cheap to clone.
#[derive(Clone)]
pub struct EngineClient {
    pub(crate) client: Client,
    pub(crate) store: Arc<Store>,
    pub(crate) pool: PgPool,
    pub(crate) schema: Arc<str>,
    pub(crate) current_traceparent: fn() -> Option<String>,
    pub(crate) orchestration_slots: usize,
    pub(crate) activity_slots: usize,
    /// Known once the engine has started.
    pub(crate) activities: Arc<OnceLock<Arc<Slots>>>,
}

impl EngineClient {
    /// Says how far this machine's clock is ahead of the database's. Away by more than 2 s this process takes no work,
    /// since locks and timers go by the clock of whoever sets them.
    pub fn clock_seen(&self, ahead_ms: i64) {
        self.store.clock_seen(ahead_ms);
    }

    /// Whether this machine's clock lets this process take work.
    #[must_use]
    pub fn clock_fits(&self) -> bool {
        self.store.clock_fits()
    }

    /// Starts an orchestration. Idempotent by id: if one with this id runs or has ended, nothing happens, and the
    /// caller is not told.
    ///
    /// # Errors
    /// `payload_too_large`; `database_unavailable`, after which it may or may not have been started: do it again.
    pub async fn start<O: Orchestration>(&self, id: &str, input: O::Input) -> Result<()> {
        self.begin::<O>(id, input, false).await
    }

    /// As [`start`](Self::start), of one that takes the place of another that was lost. The metrics tell them apart.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart<O: Orchestration>(&self, id: &str, input: O::Input) -> Result<()> {
        self.begin::<O>(id, input, true).await
    }

    async fn begin<O: Orchestration>(&self, id: &str, input: O::Input, restarted: bool) -> Result<()> {
        if id.is_empty() {
            return Err(Error::internal("an orchestration needs an id"));
        }
        let traceparent = (self.current_traceparent)();
        let input = seal_input::<O>(traceparent.as_deref(), restarted, &input)?;
        let start = self.client.start_orchestration(id, engine_name::<O>(), input);
        soon(from_client, start).await?;
        OrchestrationAsked {
            orchestration_name: O::NAME,
        }
        .emit();
        Ok(())
    }

    /// Wakes an orchestration that waits. A wake-up of one that has not been taken up yet, or is not there, is lost,
    /// which is harmless: a wake-up says only "look now".
    ///
    /// # Errors
    /// `database_unavailable`.
    pub async fn wake(&self, id: &str) -> Result<()> {
        soon(from_client, self.client.enqueue_event(id, WAKE_QUEUE, "")).await?;
        ExternalEventRaised {
            event_name: WAKE_QUEUE,
        }
        .emit();
        Ok(())
    }

    /// Fails an orchestration at once. Nothing is undone, and a running activity goes on for some seconds.
    ///
    /// # Errors
    /// `database_unavailable`.
    pub async fn cancel(&self, id: &str, reason: &str) -> Result<()> {
        soon(from_client, self.client.cancel_instance(id, reason)).await?;
        CancellationAsked { orchestration_id: id }.emit();
        Ok(())
    }

    /// How these orchestrations are, by one query. Absent: never started, or pruned.
    ///
    /// # Errors
    /// `database_unavailable`.
    pub async fn statuses(&self, ids: &[String]) -> Result<HashMap<String, EngineStatus>> {
        soon(from_sqlx, crate::sql::statuses(&self.pool, &self.schema, ids)).await
    }

    /// Waits until an orchestration has ended. Reads its whole history again and again: for tests.
    ///
    /// # Errors
    /// `orchestration_timeout`; `database_unavailable`.
    pub async fn wait<O: Orchestration>(
        &self,
        id: &str,
        limit: Duration,
    ) -> Result<std::result::Result<O::Output, Failure>> {
        let begun = Instant::now();
        let status = self.client.wait_for_orchestration(id, limit).await;
        ClientWaited {
            duration: begun.elapsed(),
        }
        .emit();
        match status.map_err(from_client)? {
            OrchestrationStatus::Completed { output, .. } => Ok(envelope::decode(&output)),
            OrchestrationStatus::Failed { details, .. } => Ok(Err(Failure::of_details(&details))),
            OrchestrationStatus::Running { .. } | OrchestrationStatus::NotFound => {
                Err(from_client(ClientError::Timeout))
            }
        }
    }

    /// Time since the store last answered a slot that looked for work, with work or without. Above some seconds the
    /// store does not answer, the run-time has stopped, or was never started in this process.
    #[must_use]
    pub fn since_last_fetch(&self) -> Duration {
        self.store.since_last_fetch()
    }

    /// How many activities this process runs at this moment.
    #[must_use]
    pub fn activities_running(&self) -> usize {
        self.activities.get().map_or(0, |slots| slots.busy())
    }

    /// How many activities this process can run at the same time.
    #[must_use]
    pub fn activity_slots(&self) -> usize {
        self.activity_slots
    }

    /// How many orchestrations this process can work on at the same time.
    #[must_use]
    pub fn orchestration_slots(&self) -> usize {
        self.orchestration_slots
    }
}

/// What the store answers, if it does so in time.
pub(crate) async fn soon<T, E>(
    error: fn(E) -> Error,
    call: impl Future<Output = std::result::Result<T, E>>,
) -> Result<T> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(error),
        Err(_) => Err(unavailable().context("no answer in time")),
    }
}
