//! What `ensure` has under way: making the data and starting the server, out of the caller's sight.

use super::cluster::{Cluster, ServerState, StartOptions};
use super::fault::reason_of;
use super::home::Home;
use super::record::Record;
use crate::Storage;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use toygres_models::operations::Reason;
use toygres_models::{Error, Result, Secret};

/// How often a server that dies while it starts is started again by one `ensure`, and the pause before.
const START_ATTEMPTS: u32 = 3;
const START_PAUSE: Duration = Duration::from_millis(500);
/// How long a server that starts keeps its place in the queue. Recovery may take an hour, others need not wait.
const PLACE_LIMIT: Duration = Duration::from_secs(2);
/// What a server gets that asks for no memory, and the least any gets, in MiB.
const DEFAULT_SHARED_BUFFERS_MB: u64 = 64;
const LEAST_SHARED_BUFFERS_MB: u64 = 32;

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Queued,
    Making,
    Starting,
    Done,
    Failed { reason: Reason, message: String },
}

/// What one piece of work is about.
pub(crate) struct Task {
    pub(crate) home: Arc<Home>,
    pub(crate) cluster: Cluster,
    pub(crate) record: Record,
    pub(crate) storage: Storage,
    pub(crate) password: Secret,
    pub(crate) places: Arc<Semaphore>,
}

/// A piece of work that has begun, and how it goes. If it is dropped, the work goes on.
pub(crate) struct Work {
    task: JoinHandle<()>,
    progress: watch::Receiver<Progress>,
}

impl Work {
    pub(crate) fn begin(task: Task) -> Self {
        let (say, progress) = watch::channel(Progress::Queued);
        let task = tokio::spawn(async move {
            let end = match task.run(&say).await {
                Ok(()) => Progress::Done,
                Err(error) => {
                    let instance = task.record.instance().object_name();
                    tracing::warn!(
                        instance,
                        code = error.code(),
                        detail = error.detail(),
                        "a local instance did not start: {error}"
                    );
                    Progress::Failed {
                        reason: reason_of(&error),
                        message: error.to_string(),
                    }
                }
            };
            say.send_replace(end);
        });
        Self { task, progress }
    }

    pub(crate) fn is_going_on(&self) -> bool {
        !self.task.is_finished()
    }

    pub(crate) fn progress(&self) -> Progress {
        // Asked in this order, since it ends by saying so.
        let is_going_on = self.is_going_on();
        match self.progress.borrow().clone() {
            Progress::Queued | Progress::Making | Progress::Starting if !is_going_on => Progress::Failed {
                reason: Reason::Stopped,
                message: "the work on it was cut off".to_owned(),
            },
            progress => progress,
        }
    }

    /// Hears of every change from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        let mut progress = self.progress.clone();
        progress.mark_unchanged();
        progress
    }

    /// Returns when it has ended by itself, which is soon after it said how it ended.
    pub(crate) async fn end(self) {
        self.task.await.ok();
    }

    /// Ends it, and returns when it has ended. A server that it has started goes on.
    pub(crate) async fn abort(self) {
        self.task.abort();
        self.task.await.ok();
    }
}

impl Task {
    async fn run(&self, say: &watch::Sender<Progress>) -> Result<()> {
        let mut record = self.record.clone();
        let was_known = record.port_is_known;
        let place = self.places.acquire().await;
        let place = place.map_err(|_| Error::internal("the queue is closed"))?;
        // What was there when this was asked for may be gone by now, and is never made anew.
        let (home, instance, storage) = (self.home.clone(), record.instance(), self.storage);
        blocking(move || home.check_storage(&instance, storage)).await?;
        if self.storage == Storage::Create && !self.cluster.exists() {
            say.send_replace(Progress::Making);
            self.cluster.create(&self.password).await?;
        }
        say.send_replace(Progress::Starting);
        let mut place = Some(place);
        let mut attempt = 1;
        loop {
            let error = match self.start(&mut record, &mut place).await {
                Ok(()) => break,
                Err(error) => error,
            };
            place = None;
            if reason_of(&error) != Reason::CrashLoop {
                return Err(error);
            }
            if attempt == START_ATTEMPTS {
                let message = format!("its server was started {attempt} times and died each time: {error}");
                return Err(Error::new(error.kind(), Reason::CrashLoop.as_str(), message));
            }
            attempt += 1;
            tokio::time::sleep(START_PAUSE).await;
        }
        // Those who wait need not wait for the disk.
        say.send_replace(Progress::Done);
        // Whoever asked meanwhile for a lost record to be made again left that to this work.
        if !was_known || self.home.record_is_lost(&record.instance()).is_some() {
            self.write(&record).await?;
        }
        Ok(())
    }

    /// Starts the server and waits until it takes connections, however long it takes.
    async fn start<P>(&self, record: &mut Record, place: &mut Option<P>) -> Result<()> {
        loop {
            match self.cluster.start(&options(record)).await {
                // Nobody can know the port yet.
                Err(error) if reason_of(&error) == Reason::PortTaken && !record.port_is_known => {
                    self.choose_another_port(record).await?;
                }
                result => break result?,
            }
        }
        // From now on somebody may have seen it ready.
        record.port_is_known = true;
        let mut state = self.cluster.wait_ready(PLACE_LIMIT).await;
        *place = None;
        if state == ServerState::Starting {
            state = self.cluster.wait_ready(Duration::MAX).await;
        }
        match state {
            ServerState::Ready => Ok(()),
            ServerState::Starting | ServerState::Stopped => Err(self.cluster.why_ended(record.port)),
        }
    }

    async fn choose_another_port(&self, record: &mut Record) -> Result<()> {
        let (home, mut changed) = (self.home.clone(), record.clone());
        *record = blocking(move || home.choose_port(&mut changed).map(|()| changed)).await?;
        Ok(())
    }

    async fn write(&self, record: &Record) -> Result<()> {
        let (directory, record) = (self.cluster.directory.clone(), record.clone());
        blocking(move || record.write(&directory)).await
    }
}

/// Does long file work where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::internal("file work panicked")))
}

fn options(record: &Record) -> StartOptions {
    let machine = rustix::system::sysinfo();
    let machine_mb = machine.totalram as u64 * u64::from(machine.mem_unit) / (1024 * 1024);
    let shared_buffers = match record.memory_mb.and_then(|memory| u64::try_from(memory).ok()) {
        // More than the machine has could not be started.
        Some(memory) => (memory.min(machine_mb) / 4).max(LEAST_SHARED_BUFFERS_MB),
        None => DEFAULT_SHARED_BUFFERS_MB,
    };
    let settings = vec![
        format!("cluster_name={}", record.instance().object_name()),
        "max_connections=100".to_owned(),
        format!("shared_buffers={shared_buffers}MB"),
    ];
    StartOptions {
        port: record.port,
        settings,
    }
}
