//! PostgreSQL as processes of this machine: the embedded default.
//!
//! One directory and one loopback port an instance. The servers outlive the control plane, as pods do; a new control
//! plane finds them by what stands in their directories. All servers run as one user of the machine, so they are kept
//! apart by their passwords, not by the operating system.

mod cluster;
mod create;
mod fault;
mod files;
mod home;
mod log;
mod ports;
mod process;
mod programs;
mod record;
mod run_as;
mod start;
mod work;

pub use cluster::{Cluster, ServerState, StartOptions};
pub use log::tail;
pub use programs::Programs;
pub use run_as::RunAs;

use crate::{
    InstanceRef, InstanceSpec, Listed, LogOptions, Observation, Platform, Serving, Storage, Unknown,
};
use async_trait::async_trait;
use fault::reason_of;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use home::Home;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_models::{PostgresVersion, Result};
use work::{Progress, Task, Work, blocking};

/// How long a wait goes by without looking itself.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where local instances live.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    directory: PathBuf,
    ports: RangeInclusive<u16>,
    search_path: String,
    programs: Option<Programs>,
    host: String,
    at_once: usize,
}

impl LocalConfig {
    /// Instances below `directory`, on the ports 20000 to 29999.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        // More than the cores: making a data directory also waits for the disk.
        let at_once = 2 * std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            directory,
            ports: 20_000..=29_999,
            search_path: String::new(),
            programs: None,
            host: "localhost".to_owned(),
            at_once,
        }
    }

    /// The loopback ports for them. Outside the ephemeral ports, else an outgoing connection may sit on one.
    #[must_use]
    pub fn ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.ports = ports;
        self
    }

    /// Where programs are looked for, besides the usual places: the value of `PATH`.
    #[must_use]
    pub fn search_path(mut self, search_path: &str) -> Self {
        search_path.clone_into(&mut self.search_path);
        self
    }

    /// These programs, instead of those that are found.
    #[must_use]
    pub fn programs(mut self, programs: Programs) -> Self {
        self.programs = Some(programs);
        self
    }

    /// This machine's name: only it acts on its instances.
    #[must_use]
    pub fn host(mut self, host: String) -> Self {
        self.host = host;
        self
    }

    /// How many instances are made or started at the same time, at least 1; twice the cores if not said.
    #[must_use]
    pub fn at_once(mut self, at_once: usize) -> Self {
        self.at_once = at_once.max(1);
        self
    }
}

/// See the module.
pub struct LocalPlatform {
    home: Arc<Home>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    places: Arc<Semaphore>,
}

/// What this process knows of an instance beyond its directory.
#[derive(Default)]
struct Slot {
    /// Puts the calls that change an instance in order.
    turn: AsyncMutex<()>,
    work: Mutex<Option<Work>>,
}

impl Slot {
    fn work(&self) -> std::sync::MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalPlatform {
    /// Looks what programs there are, and takes up what is below the directory.
    ///
    /// # Errors
    /// `Config`: `binaries_missing`, or `permission_denied` if the directory can't be used by this process or
    /// entered by the user that PostgreSQL runs as.
    pub async fn open(config: LocalConfig) -> Result<Self> {
        let places = Arc::new(Semaphore::new(config.at_once));
        let home = blocking(move || {
            let programs = config
                .programs
                .unwrap_or_else(|| Programs::find(&config.directory, &config.search_path));
            programs.newest()?;
            let home = Home {
                directory: config.directory,
                ports: config.ports,
                programs,
                run_as: RunAs::find()?,
                host: config.host,
                choosing: Mutex::default(),
            };
            home.prepare()?;
            home.empty_trash(None)?;
            home.remove_unfinished()?;
            Ok(home)
        });
        Ok(Self {
            home: Arc::new(home.await?),
            slots: Mutex::default(),
            places,
        })
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, instance: &InstanceRef) -> Arc<Slot> {
        self.slots().entry(instance.object_name()).or_default().clone()
    }

    /// Lets go of what is known of an instance, unless another call holds it too.
    fn forget(&self, instance: &InstanceRef, slot: &Arc<Slot>) {
        let mut slots = self.slots();
        // Two: the map's and the caller's. Nobody gets another while the map is locked.
        if Arc::strong_count(slot) == 2 {
            slots.remove(&instance.object_name());
        }
    }

    fn progress(&self, instance: &InstanceRef) -> Option<Progress> {
        let slot = self.slots().get(&instance.object_name()).cloned()?;
        slot.work().as_ref().map(Work::progress)
    }

    /// The work that goes on for an instance.
    fn watch(&self, instance: &InstanceRef) -> Option<tokio::sync::watch::Receiver<Progress>> {
        let slot = self.slots().get(&instance.object_name()).cloned()?;
        slot.work()
            .as_ref()
            .filter(|work| work.is_going_on())
            .map(Work::watch)
    }

    fn look(&self, instance: &InstanceRef) -> Result<Observation> {
        // Before the files: what it has done by now is then seen in them.
        let progress = self.progress(instance);
        let not_ready = |reason, message: String| Ok(Observation::NotReady { reason, message });
        if !self.home.has(instance)? {
            return if self.home.is_in_trash(instance)? {
                not_ready(Reason::Stopped, "its files are not all removed yet".to_owned())
            } else {
                Ok(Observation::Absent)
            };
        }
        if let Err(error) = self.home.check_owner(instance) {
            return not_ready(reason_of(&error), error.to_string());
        }
        let cluster = self.home.any_cluster(instance);
        let state = cluster.state();
        if state == ServerState::Ready
            && let Some(port) = cluster.running_port()
        {
            let host = ports::HOST.to_owned();
            return Ok(Observation::Ready(Serving {
                endpoint: Endpoint { host, port },
                external_endpoint: None,
                system_identifier: cluster.system_identifier(),
                doubt: None,
            }));
        }
        if state == ServerState::Starting && cluster.is_disk_full() {
            let error = cluster::disk_full(&cluster.directory);
            return not_ready(reason_of(&error), error.to_string());
        }
        match progress {
            Some(Progress::Queued) => not_ready(Reason::Queued, "others are made first".to_owned()),
            Some(Progress::Making) => {
                not_ready(Reason::Starting, "its data directory is being made".to_owned())
            }
            Some(Progress::Starting) => not_ready(Reason::Starting, "its server is starting".to_owned()),
            _ if state != ServerState::Stopped => not_ready(
                Reason::Starting,
                "its server starts, recovers or stops".to_owned(),
            ),
            Some(Progress::Failed { reason, message }) => not_ready(reason, message),
            Some(Progress::Done) | None => self.why_stopped(instance, &cluster),
        }
    }

    /// What the files say of an instance whose server does not run and which nobody works on.
    fn why_stopped(&self, instance: &InstanceRef, cluster: &Cluster) -> Result<Observation> {
        let (reason, message) = if cluster.exists() {
            let said = log::since_start(&cluster.log());
            let reason = if log::says_disk_full(&said) {
                Reason::DiskFull
            } else {
                Reason::Stopped
            };
            let last_words = log::last_words(&said);
            (
                reason,
                format!("its server does not run; its last words: {last_words}"),
            )
        } else if self.home.has_served(instance) {
            (
                Reason::StorageMissing,
                "its data is not there any more".to_owned(),
            )
        } else {
            (
                Reason::Stopped,
                "its data directory was not made to the end".to_owned(),
            )
        };
        Ok(Observation::NotReady { reason, message })
    }
}

#[async_trait]
impl Platform for LocalPlatform {
    fn name(&self) -> &'static str {
        "local"
    }

    fn host(&self) -> Option<&str> {
        Some(&self.home.host)
    }

    fn versions(&self) -> Vec<PostgresVersion> {
        self.home.programs.versions()
    }

    async fn ensure(&self, spec: &InstanceSpec, storage: Storage) -> Result<()> {
        let instance = spec.reference();
        let cluster = self.home.cluster(&instance, spec.postgres_version)?;
        let slot = self.slot(&instance);
        let _turn = slot.turn.lock().await;
        let (home, wanted) = (self.home.clone(), instance.clone());
        blocking(move || home.check_storage(&wanted, storage)).await?;
        let work = slot.work().take();
        if let Some(work) = work {
            if matches!(work.progress(), Progress::Done | Progress::Failed { .. }) {
                work.end().await;
            } else {
                *slot.work() = Some(work);
                return Ok(());
            }
        }
        let (home, wanted) = (self.home.clone(), spec.clone());
        let record = blocking(move || home.record(&wanted, storage)).await?;
        // One that lives but does not answer is left alone: recovery can take long, and killing it starts it anew.
        if cluster.state() == ServerState::Stopped {
            let task = Task {
                home: self.home.clone(),
                cluster,
                record,
                storage,
                password: spec.password.clone(),
                places: self.places.clone(),
            };
            *slot.work() = Some(Work::begin(task));
        }
        Ok(())
    }

    async fn keep_data(&self, instance: &InstanceRef) -> Result<()> {
        let (home, instance) = (self.home.clone(), instance.clone());
        blocking(move || home.keep_data(&instance)).await
    }

    /// The record, which is not asked for its server. Of the rest a platform of processes can't tell more than what it
    /// observes.
    async fn differences(&self, spec: &InstanceSpec, _: Storage) -> Result<Option<Vec<String>>> {
        let (home, instance) = (self.home.clone(), spec.reference());
        blocking(move || Ok(home.record_is_lost(&instance).map(|lost| vec![lost]))).await
    }

    async fn observe(&self, instance: &InstanceRef) -> Result<Observation> {
        self.look(instance)
    }

    async fn wait_ready(&self, instance: &InstanceRef, budget: Duration) -> Result<Observation> {
        let begin = Instant::now();
        loop {
            let work = self.watch(instance);
            let seen = self.look(instance)?;
            let waiting_helps = matches!(
                &seen,
                Observation::NotReady {
                    reason: Reason::Starting | Reason::Queued,
                    ..
                }
            );
            let left = budget.saturating_sub(begin.elapsed());
            if !waiting_helps || left.is_zero() {
                return Ok(seen);
            }
            match work {
                // It looks often enough for all who wait, and says when it has got somewhere.
                Some(mut progress) => {
                    tokio::time::timeout(left.min(LOOK_AGAIN), progress.changed())
                        .await
                        .ok();
                }
                None => {
                    self.home
                        .any_cluster(instance)
                        .wait_ready(left.min(LOOK_AGAIN))
                        .await;
                }
            }
        }
    }

    async fn logs(&self, instance: &InstanceRef, options: LogOptions) -> Result<Vec<String>> {
        let cluster = self.home.any_cluster(instance);
        blocking(move || Ok(cluster.last_words(options.tail))).await
    }

    async fn follow_logs(
        &self,
        instance: &InstanceRef,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<String>>> {
        let path = self.home.any_cluster(instance).log();
        // What is there already is read at once.
        blocking(move || Ok(log::follow(path, options.tail).boxed())).await
    }

    async fn remove(&self, instance: &InstanceRef) -> Result<()> {
        let slot = self.slot(instance);
        let turn = slot.turn.lock().await;
        let work = slot.work().take();
        if let Some(work) = work {
            work.abort().await;
        }
        self.home.check_owner(instance)?;
        self.home.any_cluster(instance).end_all().await?;
        let (home, removed) = (self.home.clone(), instance.clone());
        blocking(move || {
            home.move_to_trash(&removed)?;
            home.empty_trash(Some(&removed))
        })
        .await?;
        drop(turn);
        self.forget(instance, &slot);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Listed>> {
        let home = self.home.clone();
        blocking(move || home.list()).await
    }

    async fn unknown(&self) -> Result<Vec<Unknown>> {
        let home = self.home.clone();
        blocking(move || home.unknown()).await
    }
}
