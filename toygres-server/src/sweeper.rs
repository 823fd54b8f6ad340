//! The sweeper: finds what fell through, and puts it right.
//!
//! It starts actors that were never started, replaces actors that ended or stand still, removes what should be gone,
//! reports what nobody knows, prunes what is old, and tells the metrics what is the same for all nodes. Everything it
//! does can be done twice.

use crate::config::Pruning;
use crate::service::Service;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use toygres_cms::{DriftFinding, WantedActor};
use toygres_engine::EngineStatus;
use toygres_models::instances::InstanceState;
use toygres_models::{Result, drift};
use toygres_orchestrations::{InstanceActor, actor_id, instance_actor};
use toygres_platform::InstanceRef;
use toygres_telemetry::Event;
use toygres_telemetry::events::{DriftSeen, FleetSeen, HealthChecksSeen, ReportingEnded};

const PERIOD: Duration = Duration::from_secs(5);
const LEASE: &str = "sweeper";
/// Longer than a period, so that a holder that lives keeps it.
const LEASE_TIME: Duration = Duration::from_secs(20);
/// A row this young is still being started by the request that wrote it.
const START_GRACE: Duration = Duration::from_secs(3);
const OBSERVE_PERIOD: Duration = Duration::from_secs(10);

/// One process's sweeper.
pub(crate) struct Sweeper {
    service: Arc<Service>,
    holder: uuid::Uuid,
    /// An actor whose instance shows no progress for so long is replaced, and an operation that takes as long is an
    /// alarm.
    stalled_after: Duration,
    pruning: Pruning,
    pruned: Option<Instant>,
    observed: Option<Instant>,
}

impl Sweeper {
    pub(crate) fn new(service: Arc<Service>, stalled_after: Duration, pruning: Pruning) -> Self {
        Self {
            service,
            holder: uuid::Uuid::new_v4(),
            stalled_after,
            pruning,
            pruned: None,
            observed: None,
        }
    }

    /// Sweeps until it is told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.sweep().await {
                tracing::warn!(
                    code = error.code(),
                    detail = error.detail(),
                    "the sweep was cut short: {error}"
                );
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
        // Another node need not wait until it expires.
        self.service.cms.release_lease(LEASE, self.holder).await.ok();
        ReportingEnded.emit();
    }

    async fn sweep(&mut self) -> Result<()> {
        let leads = self.leads().await?;
        let led = match leads {
            true => self.lead().await,
            false => {
                ReportingEnded.emit();
                Ok(())
            }
        };
        // Processes of a machine can only be seen there, so every machine looks for itself. Last, and whatever the rest
        // came to: a platform that can't be read keeps no actor from being started, nor the other way round.
        if leads || self.service.platform.host().is_some() {
            self.drift().await?;
        }
        led
    }

    /// Whether this node is the one that sweeps for all.
    async fn leads(&self) -> Result<bool> {
        // What it would start by a wrong clock would begin at a wrong time: another node does it.
        if !self.service.engine.clock_fits() {
            self.service.cms.release_lease(LEASE, self.holder).await?;
            return Ok(false);
        }
        self.service.cms.try_lease(LEASE, self.holder, LEASE_TIME).await
    }

    /// What one node does for all.
    async fn lead(&mut self) -> Result<()> {
        if self.observed.is_none_or(|at| at.elapsed() > OBSERVE_PERIOD) {
            // What is only told of must not keep the rest from being done.
            if let Err(error) = self.observe().await {
                tracing::debug!(detail = error.detail(), "the metrics were not told: {error}");
            }
            self.observed = Some(Instant::now());
        }
        self.actors().await?;
        for (instance_id, message) in self.service.cms.record_overdue(self.stalled_after).await? {
            tracing::error!(%instance_id, "{message}");
        }
        if self.pruned.is_none_or(|at| at.elapsed() >= self.pruning.interval) {
            self.service.engine.prune(&self.pruning.history).await?;
            self.service.cms.prune(&self.pruning.rows).await?;
            self.pruned = Some(Instant::now());
        }
        Ok(())
    }

    /// Tells the metrics what is the same for all nodes, and is told by this one.
    async fn observe(&self) -> Result<()> {
        self.service.engine.observe_backlog().await?;
        let fleet = self.service.cms.fleet().await?;
        FleetSeen {
            counts: fleet.instances,
        }
        .emit();
        HealthChecksSeen {
            oldest: fleet.oldest_check,
        }
        .emit();
        DriftSeen { counts: fleet.drift }.emit();
        Ok(())
    }

    async fn actors(&self) -> Result<()> {
        let wanted = self.service.cms.actors_wanted().await?;
        let ids: Vec<String> = wanted
            .iter()
            .map(|w| actor_id(w.instance_id, w.incarnation))
            .collect();
        let statuses = self.service.engine.statuses(&ids).await?;
        for (wanted, id) in wanted.iter().zip(&ids) {
            match statuses.get(id) {
                None if wanted.age < START_GRACE => {}
                None => self.start(wanted, wanted.incarnation).await?,
                Some(EngineStatus::Running) if wanted.since_progress < self.stalled_after => {}
                Some(EngineStatus::Running) => {
                    tracing::warn!(instance_id = %wanted.instance_id, "the actor stands still and is replaced");
                    self.service.engine.cancel(id, "replaced by the sweeper").await?;
                    self.replace(wanted).await?;
                }
                Some(EngineStatus::Completed | EngineStatus::Failed) => self.replace(wanted).await?,
            }
        }
        Ok(())
    }

    async fn replace(&self, wanted: &WantedActor) -> Result<()> {
        match self
            .service
            .cms
            .replace_actor(wanted.instance_id, wanted.incarnation, None)
            .await?
        {
            Some(incarnation) => self.start(wanted, incarnation).await,
            None => Ok(()),
        }
    }

    async fn start(&self, wanted: &WantedActor, incarnation: i64) -> Result<()> {
        tracing::info!(instance_id = %wanted.instance_id, incarnation, "the sweeper starts an actor");
        let instance_id = wanted.instance_id;
        let input = instance_actor::Input::new(instance_id, incarnation);
        self.service
            .engine
            .restart::<InstanceActor>(&actor_id(instance_id, incarnation), input)
            .await
    }

    /// Compares what exists with what should. The platform is read before the rows: whatever is being made in
    /// between has its row already.
    async fn drift(&self) -> Result<()> {
        let listed = self.service.platform.list().await?;
        let ids: Vec<_> = listed.iter().map(|listed| listed.instance.id).collect();
        let owners = self.service.cms.owners(&ids).await?;
        let unreadable = self.service.platform.unknown().await?;
        let mut findings: Vec<DriftFinding> = unreadable
            .into_iter()
            .map(|unknown| DriftFinding {
                kind: drift::UNKNOWN_OBJECT.to_owned(),
                object: unknown.object,
                instance_id: None,
                message: unknown.message,
            })
            .collect();
        for listed in listed {
            let found = match owners.get(&listed.instance.id) {
                None => Some((
                    drift::UNKNOWN_OBJECT,
                    "it is on the platform, but there is no instance it belongs to; it is left alone"
                        .to_owned(),
                )),
                // What failed was never ready, so there is nothing of anybody in it. The rows may be those of an older
                // backup, though, and it was made again since.
                Some(InstanceState::Failed) if listed.holds_data => Some((
                    drift::FAILED_WITH_DATA,
                    "its row says that it was never made, but it holds data; it is left alone".to_owned(),
                )),
                Some(InstanceState::Deleted | InstanceState::Failed) => {
                    self.remove_rest(&listed.instance).await?
                }
                Some(_) => None,
            };
            findings.extend(found.map(|(kind, message)| DriftFinding {
                kind: kind.to_owned(),
                object: listed.instance.object_name(),
                instance_id: Some(listed.instance.id),
                message,
            }));
        }
        let host = self.service.platform.host();
        self.service.cms.record_drift(&findings, host).await
    }

    /// Removes what is left of an instance that has ended; what is found when that can't be done.
    async fn remove_rest(&self, instance: &InstanceRef) -> Result<Option<(&'static str, String)>> {
        // It may be made again at any time, so it is looked at again.
        let remove = async {
            tracing::warn!(instance_id = %instance.id, "removing what is left of an ended instance");
            Ok(self.service.platform.remove(instance).await)
        };
        let removed = self.service.cms.while_ended(instance.id, remove).await?;
        Ok(removed.and_then(Result::err).map(|error| {
            let message = format!("what is left of an ended instance can't be removed: {error}");
            (drift::LEFTOVER_STUCK, message)
        }))
    }
}
