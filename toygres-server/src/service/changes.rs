//! Following what happens: one reader of the control database a process, any number of listeners.

use super::Service;
use futures_util::Stream;
use futures_util::stream::unfold;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use toygres_cms::{Change, Cms, EventFilter};
use toygres_models::events::InstanceEvent;
use toygres_models::operations::Operation;
use toygres_models::{Error, ErrorKind, InstanceId, OperationId, OwnerName, Result};

/// Events that wait for the slowest listener. One that is further behind is cut off; it comes back with the last id it
/// has seen, and is served from the database.
const BUFFER: usize = 1024;
/// Events read at once.
const PAGE: u32 = 500;
/// What a lost notification costs.
const POLL_PERIOD: Duration = Duration::from_secs(5);
/// How often a followed operation is read when nothing says that it has changed.
const OPERATION_PERIOD: Duration = Duration::from_secs(10);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Who tells the listeners of this process.
pub(crate) struct Changes {
    events: broadcast::Sender<Arc<InstanceEvent>>,
    /// None: any may have changed.
    operations: broadcast::Sender<Option<OperationId>>,
    streams: Arc<Semaphore>,
    most_streams: usize,
    stop: CancellationToken,
}

impl Changes {
    pub(crate) fn new(most_streams: usize, stop: CancellationToken) -> Self {
        Self {
            events: broadcast::Sender::new(BUFFER),
            operations: broadcast::Sender::new(BUFFER),
            streams: Arc::new(Semaphore::new(most_streams)),
            most_streams,
            stop,
        }
    }

    /// Reads the control database until told to stop. `last`: the newest event before anybody listened.
    pub(crate) async fn run(&self, cms: Cms, mut last: i64) {
        while !self.stop.is_cancelled() {
            let followed = tokio::select! {
                followed = self.follow(&cms, &mut last) => followed,
                () = self.stop.cancelled() => return,
            };
            if let Err(error) = followed {
                tracing::warn!(detail = error.detail(), "changes can't be followed: {error}");
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE_AFTER_ERROR) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    async fn follow(&self, cms: &Cms, last: &mut i64) -> Result<()> {
        let mut changes = cms.listen().await?;
        // What happened while nobody could be told.
        self.operations.send(None).ok();
        self.tell(cms, last).await?;
        loop {
            match tokio::time::timeout(POLL_PERIOD, changes.next()).await {
                Ok(Ok(Change::Operation(id))) => {
                    self.operations.send(Some(id)).ok();
                    continue;
                }
                Ok(Ok(Change::Event)) | Err(_) => {}
                Ok(Ok(Change::Reconnected)) => {
                    self.operations.send(None).ok();
                }
                Ok(Err(error)) => return Err(error),
            }
            self.tell(cms, last).await?;
        }
    }

    /// Tells the listeners of the events behind `last`.
    async fn tell(&self, cms: &Cms, last: &mut i64) -> Result<()> {
        loop {
            let filter = EventFilter {
                instance_id: None,
                user_name: None,
                after: Some(*last),
                limit: PAGE,
            };
            let events = cms.list_events(&filter).await?;
            let is_last_page = events.len() < PAGE as usize;
            for event in events {
                *last = event.id;
                self.events.send(Arc::new(event)).ok();
            }
            if is_last_page {
                return Ok(());
            }
        }
    }

    /// A stream more.
    ///
    /// # Errors
    /// [`ErrorKind::Throttled`], code `too_many_streams`.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            let message = format!(
                "{} streams are open already, which is all there may be",
                self.most_streams
            );
            Error::new(ErrorKind::Throttled, "too_many_streams", message)
                .hint("close one, or raise TOYGRES_MAX_STREAMS")
        })
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.most_streams.saturating_sub(self.streams.available_permits())
    }

    /// Cancelled when the server stops: streams end then.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }
}

/// Which events somebody listens to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interest {
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) user_name: Option<OwnerName>,
}

impl Interest {
    fn wants(&self, event: &InstanceEvent) -> bool {
        self.instance_id.is_none_or(|id| id == event.instance_id)
            && self
                .user_name
                .as_ref()
                .is_none_or(|name| *name == event.user_name)
    }
}

struct EventFollower {
    cms: Cms,
    interest: Interest,
    events: broadcast::Receiver<Arc<InstanceEvent>>,
    last: i64,
    backlog: VecDeque<Arc<InstanceEvent>>,
    catching_up: bool,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl EventFollower {
    async fn next(&mut self) -> Option<Arc<InstanceEvent>> {
        loop {
            if let Some(event) = self.backlog.pop_front() {
                self.last = event.id;
                return Some(event);
            }
            if self.catching_up {
                let filter = EventFilter {
                    instance_id: self.interest.instance_id,
                    user_name: self.interest.user_name.clone(),
                    after: Some(self.last),
                    limit: PAGE,
                };
                match self.cms.list_events(&filter).await {
                    Ok(events) => {
                        self.catching_up = events.len() == PAGE as usize;
                        self.backlog.extend(events.into_iter().map(Arc::new));
                    }
                    Err(error) => {
                        tracing::warn!(detail = error.detail(), "a stream of events ends: {error}");
                        return None;
                    }
                }
                continue;
            }
            let received = tokio::select! {
                received = self.events.recv() => received,
                () = self.stop.cancelled() => return None,
            };
            match received {
                Ok(event) if event.id > self.last && self.interest.wants(&event) => {
                    self.last = event.id;
                    return Some(event);
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    tracing::info!(missed, "a listener that is too slow is cut off");
                    return None;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

struct OperationFollower {
    service: Arc<Service>,
    id: OperationId,
    within: Option<OwnerName>,
    changes: broadcast::Receiver<Option<OperationId>>,
    /// The operation as it was last told.
    told: Option<String>,
    ended: bool,
    first: Option<Operation>,
    _permit: OwnedSemaphorePermit,
}

impl OperationFollower {
    async fn next(&mut self) -> Option<(Operation, String)> {
        loop {
            if self.ended {
                return None;
            }
            let operation = match self.first.take() {
                Some(operation) => operation,
                None => {
                    self.changed().await?;
                    let read = self.service.cms.get_operation(self.id, self.within.as_ref());
                    read.await.ok()?
                }
            };
            self.ended = operation.state.is_terminal();
            let revision = revision(&operation);
            if self.told.as_deref() != Some(revision.as_str()) {
                self.told = Some(revision.clone());
                return Some((operation, revision));
            }
        }
    }

    /// Waits until it may have changed. None: the server stops.
    async fn changed(&mut self) -> Option<()> {
        let stop = self.service.changes.stop();
        let changed = async {
            loop {
                match self.changes.recv().await {
                    Ok(Some(id)) if id != self.id => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return Some(()),
                    Err(RecvError::Closed) => return None,
                }
            }
        };
        tokio::select! {
            changed = changed => changed,
            () = tokio::time::sleep(OPERATION_PERIOD) => Some(()),
            () = stop.cancelled() => None,
        }
    }
}

/// Differs when anything of the operation does.
fn revision(operation: &Operation) -> String {
    use sha2::Digest;
    let shown = serde_json::to_vec(operation).unwrap_or_default();
    let hash = sha2::Sha256::digest(shown);
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl Service {
    /// The events behind the one with the id `after`, and those to come; only those to come without it.
    pub(crate) async fn follow_events(
        &self,
        interest: Interest,
        after: Option<i64>,
    ) -> Result<impl Stream<Item = Arc<InstanceEvent>> + use<>> {
        let permit = self.changes.admit()?;
        // Before the backlog is read, so that nothing can happen unseen in between.
        let events = self.changes.events.subscribe();
        let last = match after {
            Some(after) => after,
            None => self.cms.latest_event_id().await?,
        };
        let follower = EventFollower {
            cms: self.cms.clone(),
            interest,
            events,
            last,
            backlog: VecDeque::new(),
            catching_up: true,
            stop: self.changes.stop(),
            _permit: permit,
        };
        Ok(unfold(follower, |mut follower| async move {
            follower.next().await.map(|event| (event, follower))
        }))
    }

    /// The operation as it is and whenever it changes, each with its revision, until it has ended. `seen`: the
    /// revision that the listener knows already.
    pub(crate) async fn follow_operation(
        self: &Arc<Self>,
        id: &str,
        within: Option<OwnerName>,
        seen: Option<String>,
    ) -> Result<impl Stream<Item = (Operation, String)> + use<>> {
        let permit = self.changes.admit()?;
        let changes = self.changes.operations.subscribe();
        let operation = self.get_operation(id, within.as_ref()).await?;
        let follower = OperationFollower {
            service: self.clone(),
            id: operation.id,
            within,
            changes,
            told: seen,
            ended: false,
            first: Some(operation),
            _permit: permit,
        };
        Ok(unfold(follower, |mut follower| async move {
            follower.next().await.map(|told| (told, follower))
        }))
    }
}
