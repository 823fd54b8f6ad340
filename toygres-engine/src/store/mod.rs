//! The decorator round duroxide's PostgreSQL store.
//!
//! It wakes waiting slots at once instead of letting them poll, keeps work alive when the database fails for a while,
//! and keeps out what would do damage. Each of these guards can be switched off, so that tests can show what it is
//! for.

mod calls;
mod clock;
mod contain;
mod neighbours;
mod provider;
mod queue;
mod retry;
mod turns;
mod verdict;

pub(crate) use verdict::{TOO_LARGE, Verdict, transient_sqlstate, verdict};

use crate::slots::Slots;
use calls::{Call, Timed};
use clock::Clock;
use duroxide::providers::{Provider, ProviderError, WorkItem};
use neighbours::Outbox;
use queue::Queue;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use toygres_models::Secret;
use turns::Turns;

type Answer<T> = Result<T, ProviderError>;

/// How many turns are remembered unless it is said.
const MOST_TURNS: usize = 256;

/// Which guards are on. All of them, but in tests and benchmarks.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guards {
    /// Slots are woken instead of polling.
    pub wake: bool,
    /// A failed renewal is not taken for a lost lock.
    pub renewals: bool,
    /// Errors that pass are told from those that stay, and tried again.
    pub retries: bool,
    /// duroxide's own failures reach the orchestration that waits, instead of failing it.
    pub failures: bool,
    /// Payloads have a limit.
    pub payloads: bool,
    /// All events of a turn have the same time, so that turns can be counted. This alone changes what is written.
    pub turns: bool,
}

impl Guards {
    /// Every guard.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            wake: true,
            renewals: true,
            retries: true,
            failures: true,
            payloads: true,
            turns: true,
        }
    }

    /// No guard: the bare store.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            wake: false,
            renewals: false,
            retries: false,
            failures: false,
            payloads: false,
            turns: false,
        }
    }
}

/// The two queues of the store.
struct Queues {
    orchestrations: Queue,
    activities: Queue,
}

/// See the module.
#[doc(hidden)]
pub struct Store {
    inner: Arc<dyn Provider>,
    guards: Guards,
    queues: Arc<Queues>,
    clock: Clock,
    turns: Turns,
    outbox: Option<Arc<Outbox>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Store {
    /// Puts the guards round a store. `look_period`: how often a waiting slot looks for work it was not told of.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(inner: Arc<dyn Provider>, guards: Guards, look_period: Duration) -> Self {
        let orchestrations = Queue::new(calls::FETCH_ORCHESTRATION);
        let activities = Queue::new(calls::FETCH_ACTIVITY);
        let queues = Arc::new(Queues {
            orchestrations,
            activities,
        });
        let tasks = vec![tokio::spawn(keep_time(Arc::clone(&queues), look_period))];
        Self {
            inner,
            guards,
            queues,
            clock: Clock::default(),
            turns: Turns::new(MOST_TURNS),
            outbox: None,
            tasks,
        }
    }

    /// Says how many orchestrations are worked on at the same time at most.
    #[must_use]
    pub fn with_slots(mut self, count: usize) -> Self {
        self.turns = Turns::new(count);
        self
    }

    /// Has it tell other processes of work, and listen to them, on a connection of its own.
    #[must_use]
    pub fn with_neighbours(mut self, pool: PgPool, url: Secret, schema: &str) -> Self {
        let node = uuid::Uuid::new_v4().simple().to_string();
        let outbox = Arc::new(Outbox::default());
        let tell = neighbours::tell(pool, schema.to_owned(), node.clone(), Arc::clone(&outbox));
        let listen = neighbours::listen(url, schema.to_owned(), node, Arc::downgrade(&self.queues));
        self.tasks.extend([tokio::spawn(tell), tokio::spawn(listen)]);
        self.outbox = Some(outbox);
        self
    }

    /// Time since the store last answered a slot that looked for work, with work or without.
    #[must_use]
    pub fn since_last_fetch(&self) -> Duration {
        let latest = self
            .queues
            .orchestrations
            .last_look()
            .max(self.queues.activities.last_look());
        Instant::now().saturating_duration_since(latest)
    }

    /// Says how far this machine's clock is ahead of the database's. Away by more than 2 s it takes no work.
    pub fn clock_seen(&self, ahead_ms: i64) {
        self.clock.seen(ahead_ms);
    }

    /// Whether locks and timers may go by this machine's clock.
    #[must_use]
    pub fn clock_fits(&self) -> bool {
        self.clock.fits()
    }

    /// Takes work (again).
    pub fn open(&self) {
        self.queues.orchestrations.open();
        self.queues.activities.open();
    }

    /// Takes no work any more. Work that is being taken right now is waited for, for so long at most, so that no lock
    /// is left behind.
    pub async fn close(&self, limit: Duration) {
        tokio::join!(
            self.queues.orchestrations.close(limit),
            self.queues.activities.close(limit)
        );
    }

    /// The slots that orchestrations are worked on in.
    pub(crate) fn slots(&self) -> &Arc<Slots> {
        self.turns.slots()
    }

    /// The one place that every call to the inner store passes, but for those that look for work.
    async fn pass<T>(&self, call: Call, answer: impl Future<Output = Answer<T>>) -> Answer<T> {
        let timed = Timed::new(call);
        let answer = answer.await;
        timed.ended(answer.as_ref().err());
        answer
    }

    /// As [`pass`](Self::pass), for those. With a clock that does not fit there is nothing to be found.
    async fn look<T>(
        &self,
        call: Call,
        answer: impl Future<Output = Answer<Option<T>>>,
    ) -> Answer<Option<T>> {
        if !self.clock.fits() {
            return Ok(None);
        }
        let mut timed = Timed::new(call);
        let answer = answer.await;
        if let Ok(None) = answer {
            timed.found_nothing();
        }
        timed.ended(answer.as_ref().err());
        answer
    }

    /// Says that work for orchestrations is there, or will be.
    fn hint_orchestrations(&self, items: &[WorkItem]) {
        let mut now = 0;
        for item in items {
            match delay_of(item) {
                Some(delay) => self.queues.orchestrations.hint_after(delay),
                None => now += 1,
            }
        }
        self.hint_orchestrations_now(now);
    }

    fn hint_orchestrations_now(&self, count: usize) {
        let unserved = self.queues.orchestrations.hint(count);
        if let Some(outbox) = &self.outbox {
            outbox.add_orchestrations(unserved);
        }
    }

    fn hint_activities(&self, count: usize) {
        let unserved = self.queues.activities.hint(count);
        if let Some(outbox) = &self.outbox {
            outbox.add_activities(unserved);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// How long until an item can be fetched, if not at once.
fn delay_of(item: &WorkItem) -> Option<Duration> {
    let WorkItem::TimerFired { fire_at_ms, .. } = item else {
        return None;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // A millisecond more, since the store compares whole ones.
    (Duration::from_millis(*fire_at_ms) + Duration::from_millis(1)).checked_sub(now)
}

/// Gives hints when they are due, and lets one slot a queue look every `period` whether or not there was a hint.
async fn keep_time(queues: Arc<Queues>, period: Duration) {
    let Queues {
        orchestrations,
        activities,
    } = &*queues;
    let mut next_look = Instant::now() + period;
    loop {
        let due = orchestrations
            .give_due()
            .into_iter()
            .chain(activities.give_due())
            .min();
        let until = due.map_or(next_look, |due| due.min(next_look));
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = orchestrations.sooner.notified() => {}
            () = activities.sooner.notified() => {}
        }
        if Instant::now() >= next_look {
            orchestrations.hint_unsure(1);
            activities.hint_unsure(1);
            next_look = Instant::now() + period;
        }
    }
}
