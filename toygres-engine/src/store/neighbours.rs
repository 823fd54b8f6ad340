//! Telling other processes that there is work, by LISTEN and NOTIFY.
//!
//! A process tells the others only of work that none of its own slots was waiting for, and at most twenty times a
//! second. A lost notification costs no more than the time to the next regular look.

use super::Queues;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use toygres_models::Secret;

/// Notifications are gathered for so long.
const GATHER: Duration = Duration::from_millis(50);
/// The longest name PostgreSQL takes for a channel, in bytes.
const LONGEST_CHANNEL: usize = 63;

/// Work to tell the others of.
#[derive(Default)]
pub(super) struct Outbox {
    orchestrations: AtomicUsize,
    activities: AtomicUsize,
    filled: Notify,
}

impl Outbox {
    pub(super) fn add_orchestrations(&self, count: usize) {
        self.add(&self.orchestrations, count);
    }

    pub(super) fn add_activities(&self, count: usize) {
        self.add(&self.activities, count);
    }

    fn add(&self, counter: &AtomicUsize, count: usize) {
        if count > 0 {
            counter.fetch_add(count, Ordering::SeqCst);
            self.filled.notify_one();
        }
    }
}

/// The channel of this schema.
fn channel(schema: &str) -> String {
    let mut name = format!("toygres_engine_{schema}");
    name.truncate(name.floor_char_boundary(LONGEST_CHANNEL));
    name
}

/// Sends what is in the outbox, for ever.
pub(super) async fn tell(pool: PgPool, schema: String, node: String, outbox: Arc<Outbox>) {
    let channel = channel(&schema);
    loop {
        outbox.filled.notified().await;
        let orchestrations = outbox.orchestrations.swap(0, Ordering::SeqCst);
        let activities = outbox.activities.swap(0, Ordering::SeqCst);
        let payload = format!("{node} {orchestrations} {activities}");
        if let Err(error) = crate::sql::notify(&pool, &channel, &payload).await {
            tracing::debug!(%error, "other processes were not told of work");
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// Hears what others send, for as long as the queues live.
pub(super) async fn listen(url: Secret, schema: String, node: String, queues: Weak<Queues>) {
    let channel = channel(&schema);
    let mut failures = 0;
    while queues.strong_count() > 0 {
        match hear(&url, &channel, &node, &queues, &mut failures).await {
            Ok(()) => return,
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(%error, "work of other processes is found by looking until they can be heard again");
                }
                tokio::time::sleep(super::retry::pause_after(failures)).await;
            }
        }
    }
}

async fn hear(
    url: &Secret,
    channel: &str,
    node: &str,
    queues: &Weak<Queues>,
    failures: &mut u32,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect(url.reveal()).await?;
    listener.listen(channel).await?;
    *failures = 0;
    // What was said while nobody listened is made up for by one look.
    let mut heard = Some((1, 1));
    loop {
        let Some(queues) = queues.upgrade() else {
            return Ok(());
        };
        if let Some((orchestrations, activities)) = heard {
            queues.orchestrations.hint_unsure(orchestrations);
            queues.activities.hint_unsure(activities);
        }
        drop(queues);
        heard = match listener.try_recv().await? {
            Some(notification) => read(notification.payload(), node),
            None => Some((1, 1)),
        };
    }
}

/// The numbers of a notification of another process.
fn read(payload: &str, node: &str) -> Option<(usize, usize)> {
    let mut words = payload.split(' ');
    let sender = words.next()?;
    let numbers = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (sender != node).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_notification_of_work() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            if read(&text, "me").is_some() {
                assert!(!text.starts_with("me "));
            }
        });
    }

    #[test]
    fn only_others_are_heard() {
        assert_eq!(read("a 3 0", "b"), Some((3, 0)));
        assert_eq!(read("a 3 0", "a"), None);
        assert_eq!(read("rubbish", "a"), None);
        assert_eq!(channel(&"s".repeat(63)).len(), LONGEST_CHANNEL);
    }
}
