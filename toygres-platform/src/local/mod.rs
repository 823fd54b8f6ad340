//! PostgreSQL as processes of this machine: the embedded default.
//!
//! One directory and one loopback port an instance. The servers outlive the control plane, as pods do; a new control
//! plane finds them by what stands in their directories.

mod cluster;
mod programs;
mod record;
mod user;
mod work;

pub use cluster::{Cluster, ServerState, StartOptions};
pub use programs::Programs;
pub use user::RunAs;

use crate::{InstanceRef, InstanceSpec, Listed, LogOptions, Observation, Platform, Storage};
use async_trait::async_trait;
use cluster::io_error;
use record::Record;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, InstanceId, PostgresVersion, Result};
use user::private_directory;
use work::{Progress, Work};

/// The only address that local instances listen on.
const HOST: &str = "127.0.0.1";

/// How long a wait goes by without looking itself.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where local instances live.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    directory: PathBuf,
    ports: RangeInclusive<u16>,
    search_path: String,
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

    /// This machine's name: only it acts on its instances.
    #[must_use]
    pub fn host(mut self, host: String) -> Self {
        self.host = host;
        self
    }
}

/// See the module.
pub struct LocalPlatform {
    config: LocalConfig,
    programs: Programs,
    run_as: RunAs,
    slots: Mutex<HashMap<InstanceId, Arc<Slot>>>,
    /// Held while a port is chosen and written down.
    ports: Mutex<()>,
    at_once: Arc<Semaphore>,
}

/// What this process knows of an instance beyond its directory.
#[derive(Default)]
struct Slot {
    /// Puts the calls for one instance in order.
    turn: Arc<AsyncMutex<()>>,
    work: Mutex<Option<Work>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LocalPlatform {
    /// Looks what programs there are, and takes up what is below the directory.
    ///
    /// # Errors
    /// `Config`: `binaries_missing`, or `permission_denied` if the user that PostgreSQL runs as can't go there.
    pub async fn open(config: LocalConfig) -> Result<Self> {
        let programs = Programs::find(&config.directory, &config.search_path);
        programs.newest()?;
        let run_as = RunAs::find()?;
        for directory in [
            &config.directory,
            &config.directory.join("instances"),
            &config.directory.join("trash"),
        ] {
            passable_directory(directory).map_err(|cause| io_error(directory, cause))?;
        }
        run_as.check_can_enter(&config.directory.join("instances"))?;
        let at_once = Arc::new(Semaphore::new(config.at_once));
        let platform = Self {
            config,
            programs,
            run_as,
            slots: Mutex::default(),
            ports: Mutex::default(),
            at_once,
        };
        platform.empty_trash("").await?;
        Ok(platform)
    }

    fn directory(&self, instance: &InstanceRef) -> PathBuf {
        self.config
            .directory
            .join("instances")
            .join(instance.object_name())
    }

    fn slot(&self, id: InstanceId) -> Arc<Slot> {
        lock(&self.slots).entry(id).or_default().clone()
    }

    async fn turn(&self, id: InstanceId) -> (Arc<Slot>, OwnedMutexGuard<()>) {
        let slot = self.slot(id);
        let turn = slot.turn.clone().lock_owned().await;
        (slot, turn)
    }

    fn cluster(&self, instance: &InstanceRef, version: PostgresVersion) -> Result<Cluster> {
        Ok(Cluster::new(
            self.directory(instance),
            self.programs.directory(version)?.to_owned(),
            self.run_as,
        ))
    }

    /// For looking only: no program is run by it.
    fn any_cluster(&self, instance: &InstanceRef) -> Cluster {
        Cluster::new(self.directory(instance), PathBuf::new(), self.run_as)
    }

    /// The instance's record, made or repaired; its port is free unless it was handed out before.
    fn record(&self, spec: &InstanceSpec, storage: Storage) -> Result<Record> {
        let directory = self.directory(&spec.reference());
        let _choosing = lock(&self.ports);
        let known = Record::read(&directory).filter(|record| record.id == spec.id);
        let port = match &known {
            Some(record) if matches!(storage, Storage::MustExist { .. }) || is_free(record.port) => {
                record.port
            }
            _ => self.choose_port(spec.id)?,
        };
        let record = Record {
            id: spec.id,
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            postgres_version: spec.postgres_version,
            port,
            host: self.config.host.clone(),
            storage_size_gb: spec.storage_size_gb,
        };
        if known.as_ref() != Some(&record) {
            private_directory(&directory, self.run_as).map_err(|cause| io_error(&directory, cause))?;
            record.write(&directory)?;
        }
        Ok(record)
    }

    /// A port that no other instance has and nobody listens on. Where the search begins depends on the instance, so
    /// that homes on the same machine seldom want the same one.
    fn choose_port(&self, id: InstanceId) -> Result<u16> {
        let taken: Vec<u16> = self.records().map(|record| record.port).collect();
        let (first, count) = (*self.config.ports.start(), self.config.ports.len());
        let offset = usize::try_from(id.0.as_u128() % count as u128).unwrap_or(0);
        let candidates =
            (0..count).filter_map(|n| u16::try_from((offset + n) % count).ok()?.checked_add(first));
        candidates
            .into_iter()
            .find(|port| !taken.contains(port) && is_free(*port))
            .ok_or_else(|| {
                let range = format!("{} to {}", self.config.ports.start(), self.config.ports.end());
                Error::new(
                    ErrorKind::Throttled,
                    Reason::PortTaken.as_str(),
                    format!("no port from {range} is free"),
                )
            })
    }

    fn records(&self) -> impl Iterator<Item = Record> {
        let entries = std::fs::read_dir(self.config.directory.join("instances"));
        entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Record::read(&entry.path()))
    }

    /// With `MustExist`: the data must be there and be the right one.
    fn check_storage(&self, cluster: &Cluster, spec: &InstanceSpec, storage: Storage) -> Result<()> {
        let Storage::MustExist { system_identifier } = storage else {
            return Ok(());
        };
        let lost =
            |reason: Reason, message: String| Error::new(ErrorKind::StorageLost, reason.as_str(), message);
        let data = cluster.data();
        if !cluster.exists() {
            return Err(lost(
                Reason::StorageMissing,
                format!("the data of {} is not at {}", spec.name, data.display()),
            ));
        }
        let foreign_record =
            Record::read(&self.directory(&spec.reference())).is_some_and(|record| record.id != spec.id);
        let foreign_data = system_identifier.is_some() && cluster.system_identifier() != system_identifier;
        if foreign_record || foreign_data {
            return Err(lost(
                Reason::StorageForeign,
                format!("the data at {} is not that of {}", data.display(), spec.name),
            ));
        }
        Ok(())
    }

    fn look(&self, instance: &InstanceRef) -> Observation {
        let directory = self.directory(instance);
        if !directory.exists() {
            return Observation::Absent;
        }
        let cluster = self.any_cluster(instance);
        let slot = self.slot(instance.id);
        let not_ready = |reason, message: &str| Observation::NotReady {
            reason,
            message: message.to_owned(),
        };
        if cluster.state() == ServerState::Ready
            && let Some(port) = cluster.running_port()
        {
            let endpoint = Endpoint {
                host: HOST.to_owned(),
                port,
            };
            return Observation::Ready {
                endpoint,
                system_identifier: cluster.system_identifier(),
            };
        }
        if let Some(work) = lock(&slot.work).as_ref() {
            match work.progress() {
                Progress::Queued => return not_ready(Reason::Queued, "other instances are made first"),
                Progress::Making => return not_ready(Reason::Starting, "its data directory is being made"),
                Progress::Starting => return not_ready(Reason::Starting, "its server is starting"),
                Progress::Failed { reason, message } => return Observation::NotReady { reason, message },
                Progress::Done => {}
            }
        }
        match cluster.state() {
            ServerState::Starting => not_ready(Reason::Starting, "its server starts or recovers"),
            _ if cluster.exists() => not_ready(Reason::Stopped, "its server does not run"),
            _ => not_ready(Reason::Stopped, "its data directory is not there"),
        }
    }

    /// Removes what removals of instances whose name begins so have left to do.
    async fn empty_trash(&self, prefix: &str) -> Result<()> {
        let trash = self.config.directory.join("trash");
        let prefix = prefix.to_owned();
        let emptied = tokio::task::spawn_blocking(move || {
            for entry in std::fs::read_dir(&trash).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    remove_directory(&entry.path()).map_err(|cause| io_error(&entry.path(), cause))?;
                }
            }
            Ok(())
        });
        emptied
            .await
            .unwrap_or_else(|_| Err(Error::internal("removing files panicked")))
    }
}

/// A process that was just killed may still put a file into a directory that is being emptied: then once more.
fn remove_directory(path: &Path) -> std::io::Result<()> {
    let mut tries = 0;
    loop {
        match std::fs::remove_dir_all(path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(cause) if cause.kind() == std::io::ErrorKind::DirectoryNotEmpty && tries < 10 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Others may go through, but not look around.
fn passable_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
}

fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind((HOST, port)).is_ok()
}

#[async_trait]
impl Platform for LocalPlatform {
    fn name(&self) -> &'static str {
        "local"
    }

    fn host(&self) -> Option<&str> {
        Some(&self.config.host)
    }

    fn versions(&self) -> Vec<PostgresVersion> {
        self.programs.versions()
    }

    async fn ensure(&self, spec: &InstanceSpec, storage: Storage) -> Result<()> {
        let instance = spec.reference();
        let cluster = self.cluster(&instance, spec.postgres_version)?;
        let (slot, _turn) = self.turn(spec.id).await;
        if lock(&slot.work).as_ref().is_some_and(Work::is_going_on) {
            return Ok(());
        }
        self.check_storage(&cluster, spec, storage)?;
        if cluster.state() != ServerState::Stopped {
            return Ok(());
        }
        let record = self.record(spec, storage)?;
        if !is_free(record.port) {
            let message = format!("another program listens on its port {}", record.port);
            *lock(&slot.work) = Some(Work::failed(Reason::PortTaken, message.clone()));
            return Err(Error::new(
                ErrorKind::Unavailable,
                Reason::PortTaken.as_str(),
                message,
            ));
        }
        let settings = spec
            .memory_mb
            .map(|memory| format!("shared_buffers={}MB", (memory / 4).max(16)));
        let options = StartOptions {
            port: record.port,
            settings: settings.into_iter().collect(),
        };
        let password = (!cluster.exists()).then(|| spec.password.clone());
        *lock(&slot.work) = Some(Work::begin(cluster, password, options, self.at_once.clone()));
        Ok(())
    }

    async fn observe(&self, instance: &InstanceRef) -> Result<Observation> {
        Ok(self.look(instance))
    }

    async fn wait_ready(&self, instance: &InstanceRef, budget: Duration) -> Result<Observation> {
        let begun = Instant::now();
        loop {
            let seen = self.look(instance);
            let waiting_helps = matches!(
                &seen,
                Observation::NotReady {
                    reason: Reason::Starting | Reason::Queued,
                    ..
                }
            );
            let left = budget.saturating_sub(begun.elapsed());
            if !waiting_helps || left.is_zero() {
                return Ok(seen);
            }
            let work = lock(&self.slot(instance.id).work)
                .as_ref()
                .filter(|work| work.is_going_on())
                .map(Work::watch);
            match work {
                // Whoever does the work says when it has got somewhere. What was said just before this is seen by the
                // next look.
                Some(mut progress) => {
                    tokio::time::timeout(left.min(LOOK_AGAIN), progress.changed())
                        .await
                        .ok();
                }
                None => {
                    self.any_cluster(instance).wait_ready(left).await;
                }
            }
        }
    }

    async fn logs(&self, instance: &InstanceRef, options: LogOptions) -> Result<Vec<String>> {
        Ok(self.any_cluster(instance).last_words(options.tail))
    }

    async fn remove(&self, instance: &InstanceRef) -> Result<()> {
        let (slot, _turn) = self.turn(instance.id).await;
        let work = lock(&slot.work).take();
        if let Some(work) = work {
            work.abort().await;
        }
        let directory = self.directory(instance);
        if directory.exists() {
            let cluster = self.any_cluster(instance);
            cluster.stop_making();
            cluster.stop_immediately().await;
            let trash = self.config.directory.join("trash");
            let target = trash.join(format!(
                "{}-{:08x}",
                instance.object_name(),
                rand::random::<u32>()
            ));
            std::fs::rename(&directory, &target).map_err(|cause| io_error(&directory, cause))?;
        }
        self.empty_trash(&instance.object_name()).await?;
        lock(&self.slots).remove(&instance.id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Listed>> {
        let entries = std::fs::read_dir(self.config.directory.join("instances"));
        let mut listed = Vec::new();
        for entry in entries.into_iter().flatten().flatten() {
            let Some(record) = Record::read(&entry.path()) else {
                tracing::warn!(directory = %entry.path().display(), "a directory that no instance is known for");
                continue;
            };
            let instance = InstanceRef {
                id: record.id,
                name: record.name,
                namespace: record.namespace,
            };
            let running = self.any_cluster(&instance).state() != ServerState::Stopped;
            listed.push(Listed { instance, running });
        }
        Ok(listed)
    }
}
