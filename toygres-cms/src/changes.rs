//! News of changes, by the database's notifications.

use crate::Cms;
use crate::errors::database;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use std::sync::Arc;
use std::time::Duration;
use toygres_models::{OperationId, Result};

const CHANNEL: &str = "toygres_changes";

/// A server that refuses connections, as one that starts does, is asked again for so long.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// What is to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There are new events.
    Event,
    /// The operation, or one of its steps, has changed.
    Operation(OperationId),
    /// The connection was lost and is there again: anything may have changed in between.
    Reconnected,
}

/// Changes as they are committed, on a connection of its own.
pub struct Changes {
    options: Arc<PgConnectOptions>,
    listener: Option<PgListener>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes")
            .field("connected", &self.listener.is_some())
            .finish_non_exhaustive()
    }
}

impl Cms {
    /// Begins to listen: every change that is committed from now on is told, however many there are. The connection
    /// is not one of the pool, so that nobody who listens keeps a request waiting.
    ///
    /// # Errors
    /// See the crate.
    pub async fn listen(&self) -> Result<Changes> {
        let options = self.pool.connect_options();
        Ok(Changes {
            listener: Some(connect(&options).await?),
            options,
        })
    }
}

impl Changes {
    /// Waits for the next change. May be given up at any time without losing one.
    ///
    /// A connection that the network has swallowed is noticed only when the system does: whoever must not wait so
    /// long looks by itself now and then.
    ///
    /// # Errors
    /// When the connection is lost and can't be had again. Called again, after a pause, it goes on, with
    /// [`Change::Reconnected`] first. Else see the crate.
    pub async fn next(&mut self) -> Result<Change> {
        loop {
            let Some(listener) = &mut self.listener else {
                self.listener = Some(connect(&self.options).await?);
                return Ok(Change::Reconnected);
            };
            match listener.try_recv().await {
                Ok(Some(notification)) => {
                    // Others may be a newer release's.
                    if let Some(change) = parse(notification.payload()) {
                        return Ok(change);
                    }
                }
                Ok(None) | Err(_) => self.listener = None,
            }
        }
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgListener> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(CONNECT_PATIENCE)
        .connect_with(options.clone())
        .await
        .map_err(database)?;
    let mut listener = PgListener::connect_with(&pool).await.map_err(database)?;
    // Else the loss would be told only once the connection is there again, and the attempt could not be given up.
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await.map_err(database)?;
    Ok(listener)
}

fn parse(payload: &str) -> Option<Change> {
    match payload.split_once(':') {
        None if payload == "event" => Some(Change::Event),
        Some(("operation", id)) => id.parse().ok().map(Change::Operation),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_a_change_or_nothing(text: &str) {
        match parse(text) {
            Some(Change::Operation(id)) => {
                assert_eq!(parse(&format!("operation:{id}")), Some(Change::Operation(id)));
            }
            Some(change) => assert_eq!((change, text), (Change::Event, "event")),
            None => {}
        }
    }

    #[test]
    fn fuzz_notification() {
        bolero::check!().for_each(|bytes: &[u8]| is_a_change_or_nothing(&String::from_utf8_lossy(bytes)));
    }

    proptest! {
        #[test]
        fn a_notification_is_a_change_or_nothing(any in ".*", near in "(event|operation):?[0-9a-f-]{0,40}") {
            for text in [any, near] {
                is_a_change_or_nothing(&text);
            }
        }
    }
}
