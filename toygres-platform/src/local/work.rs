//! What `ensure` has under way: making the data directory and starting the server, out of the caller's sight.

use super::cluster::{Cluster, ServerState, StartOptions};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Secret};

/// After so long the work is not watched any more; recovery of much data may take longer, and goes on.
const WATCHED: Duration = Duration::from_secs(60);

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Queued,
    Making,
    Starting,
    Done,
    Failed { reason: Reason, message: String },
}

/// See the module.
pub(crate) struct Work {
    task: Option<JoinHandle<()>>,
    /// Told when the work is not wanted any more.
    unwanted: Arc<Notify>,
    progress: watch::Receiver<Progress>,
}

impl Work {
    /// Begins. With a password the data directory is made first, when it is this one's turn.
    pub(crate) fn begin(
        cluster: Cluster,
        password: Option<Secret>,
        options: StartOptions,
        at_once: Arc<Semaphore>,
    ) -> Self {
        let (say, progress) = watch::channel(Progress::Queued);
        let unwanted = Arc::new(Notify::new());
        let told = unwanted.clone();
        let task = tokio::spawn(async move {
            let end = match run(&cluster, password, &options, &at_once, &say, &told).await {
                Ok(()) => Progress::Done,
                Err(error) => {
                    tracing::warn!(
                        code = error.code(),
                        detail = error.detail(),
                        "a local instance did not start: {error}"
                    );
                    let reason = error.code().parse().unwrap_or(Reason::CrashLoop);
                    Progress::Failed {
                        reason,
                        message: error.message().to_owned(),
                    }
                }
            };
            say.send_replace(end);
        });
        Self {
            task: Some(task),
            unwanted,
            progress,
        }
    }

    /// Work that could not even begin.
    pub(crate) fn failed(reason: Reason, message: String) -> Self {
        let (_, progress) = watch::channel(Progress::Failed { reason, message });
        Self {
            task: None,
            unwanted: Arc::default(),
            progress,
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        let progress = self.progress.borrow().clone();
        if !self.is_going_on() && matches!(progress, Progress::Queued | Progress::Making | Progress::Starting)
        {
            let message = "the work on it was cut off".to_owned();
            return Progress::Failed {
                reason: Reason::Stopped,
                message,
            };
        }
        progress
    }

    pub(crate) fn is_going_on(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        let mut progress = self.progress.clone();
        progress.mark_unchanged();
        progress
    }

    /// Ends it, and returns when it has ended. Whatever process it started is in `postmaster.pid` by then.
    pub(crate) async fn abort(self) {
        if let Some(task) = self.task {
            // Kept until it is asked for, so it can't come too early.
            self.unwanted.notify_one();
            task.await.ok();
        }
    }
}

async fn run(
    cluster: &Cluster,
    password: Option<Secret>,
    options: &StartOptions,
    at_once: &Semaphore,
    say: &watch::Sender<Progress>,
    unwanted: &Notify,
) -> Result<(), Error> {
    let make = async {
        let place = at_once
            .acquire()
            .await
            .map_err(|_| Error::internal("the queue is closed"))?;
        if let Some(password) = password {
            say.send_replace(Progress::Making);
            cluster.create(&password).await?;
        }
        Ok(place)
    };
    let _place = unless(unwanted, make).await?;
    say.send_replace(Progress::Starting);
    // Never cut off: a process that nobody has written down could not be found again.
    cluster.start(options).await?;
    let state = unless(unwanted, async { Ok(cluster.wait_ready(WATCHED).await) }).await?;
    if state == ServerState::Stopped {
        let last_words = cluster.last_words(3).join(" | ");
        if super::cluster::disk_is_full(&last_words) {
            return Err(super::cluster::disk_full());
        }
        return Err(super::cluster::ended_while_starting(&last_words));
    }
    Ok(())
}

async fn unless<T>(unwanted: &Notify, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        result = work => result,
        () = unwanted.notified() => {
            Err(Error::new(ErrorKind::Superseded, Reason::Stopped.as_str(), "it is not wanted any more"))
        }
    }
}
