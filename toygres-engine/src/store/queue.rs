//! Waiting for work.
//!
//! Worker slots wait here instead of asking the store again and again. Whoever puts work into the store says so by a
//! hint, and a hint lets one slot ask. So idle slots cost nothing, one piece of work wakes one slot, and a hundred
//! pieces wake a hundred.

use super::calls::Call;
use super::retry;
use super::verdict::{Verdict, verdict};
use duroxide::providers::ProviderError;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// More hints than anybody has slots are of no use.
const MOST_HINTS: usize = 1024;
/// How many slots ask at the same time. More would only compete for the oldest work, and fill the pool of connections
/// while the database does not answer.
const AT_THE_SAME_TIME: usize = 4;
/// Hints for later than this are left to the regular look.
const FURTHEST_HINT: Duration = Duration::from_secs(60 * 60);

/// One of the store's two queues, as seen by the slots of this process.
pub(super) struct Queue {
    call: Call,
    /// One permit, one look at the store.
    ready: Semaphore,
    /// Rises with every hint.
    hints: AtomicU64,
    /// Slots that wait.
    waiting: AtomicUsize,
    /// Slots that look right now.
    looking: AtomicUsize,
    /// How many may look at the same time.
    turns: Semaphore,
    /// How many hints had been given when the store was last found empty.
    empty_at: AtomicU64,
    /// Whether there may be work that was not hinted at: of other processes, or whose lock ran out.
    unsure: AtomicBool,
    /// Failed looks in a row.
    failures: AtomicU32,
    /// Failed looks that were not made again yet.
    failed: AtomicU32,
    /// When to give a hint.
    later: Mutex<BinaryHeap<Reverse<Instant>>>,
    pub(super) sooner: Notify,
    last_look: Mutex<Instant>,
    closed: AtomicBool,
}

impl Queue {
    pub(super) fn new(call: Call) -> Self {
        Self {
            call,
            ready: Semaphore::new(1),
            hints: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            looking: AtomicUsize::new(0),
            turns: Semaphore::new(AT_THE_SAME_TIME),
            empty_at: AtomicU64::new(u64::MAX),
            unsure: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            later: Mutex::new(BinaryHeap::new()),
            sooner: Notify::new(),
            last_look: Mutex::new(Instant::now()),
            closed: AtomicBool::new(false),
        }
    }

    /// So many pieces of work are there. Answers how many of them no slot of this process was waiting for.
    pub(super) fn hint(&self, count: usize) -> usize {
        let unserved = count.saturating_sub(self.waiting.load(Ordering::SeqCst));
        self.hints.fetch_add(1, Ordering::SeqCst);
        let room = MOST_HINTS.saturating_sub(self.ready.available_permits());
        self.ready.add_permits(count.min(room));
        unserved
    }

    /// There may be work: one slot looks, and for every piece it finds another one looks.
    pub(super) fn hint_unsure(&self, count: usize) {
        self.unsure.store(true, Ordering::SeqCst);
        let missing = count.saturating_sub(self.ready.available_permits());
        self.hint(missing);
    }

    /// A piece of work will be there.
    pub(super) fn hint_after(&self, delay: Duration) {
        if delay < FURTHEST_HINT {
            let mut later = self.later();
            later.push(Reverse(Instant::now() + delay));
            drop(later);
            self.sooner.notify_one();
        }
    }

    /// Gives the hints that are due, and says when the next one is.
    pub(super) fn give_due(&self) -> Option<Instant> {
        let mut later = self.later();
        let now = Instant::now();
        let mut due = 0;
        while later.peek().is_some_and(|next| next.0 <= now) {
            later.pop();
            due += 1;
        }
        let next = later.peek().map(|next| next.0);
        drop(later);
        if due > 0 {
            self.hint(due);
        }
        next
    }

    /// When the store last answered a look, with work or without.
    pub(super) fn last_look(&self) -> Instant {
        *self
            .last_look
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets them look (again).
    pub(super) fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.hint_unsure(1);
    }

    /// Lets nobody look any more, and waits until nobody does: work that was taken is then in the hands of a slot.
    pub(super) async fn close(&self, limit: Duration) {
        self.closed.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + limit;
        while self.looking.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for work as long as `limit`. `look` asks the store once.
    pub(super) async fn fetch<T, F>(
        &self,
        limit: Duration,
        mut look: impl FnMut() -> F,
    ) -> Result<Option<T>, ProviderError>
    where
        F: Future<Output = Result<Option<T>, ProviderError>>,
    {
        let deadline = Instant::now() + limit;
        let mut looked = false;
        loop {
            let hint = self.wait(deadline).await;
            // Every call asks once at least.
            if hint.is_none() && looked {
                return Ok(None);
            }
            looked = true;
            match self.take_turn(hint, &mut look).await? {
                Turn::Found(work) => return Ok(Some(work)),
                Turn::Nothing => {}
                Turn::Closed => {
                    tokio::time::sleep_until(deadline).await;
                    return Ok(None);
                }
            }
        }
    }

    /// Waits for a hint and takes it. `None`: the time is over.
    async fn wait(&self, deadline: Instant) -> Option<Hint<'_>> {
        if let Ok(permit) = self.ready.try_acquire() {
            return Some(Hint::taken(self, permit));
        }
        let _waiting = Count::one_more(&self.waiting);
        match tokio::time::timeout_at(deadline, self.ready.acquire()).await {
            Ok(Ok(permit)) => Some(Hint::taken(self, permit)),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Asks the store once, if that makes sense yet.
    async fn take_turn<T, F>(
        &self,
        hint: Option<Hint<'_>>,
        look: &mut impl FnMut() -> F,
    ) -> Result<Turn<T>, ProviderError>
    where
        F: Future<Output = Result<Option<T>, ProviderError>>,
    {
        let Ok(turn) = self.turns.acquire().await else {
            return Ok(Turn::Closed);
        };
        let hints = self.hints.load(Ordering::SeqCst);
        if hint.is_some() && self.empty_at.load(Ordering::SeqCst) == hints {
            Hint::use_up(hint);
            return Ok(Turn::Nothing);
        }
        let looking = Count::one_more(&self.looking);
        // Counted before it is checked, so that whoever closes the queue can wait for it.
        if self.closed.load(Ordering::SeqCst) {
            return Ok(Turn::Closed);
        }
        let again = |failed: u32| failed.checked_sub(1);
        if self
            .failed
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, again)
            .is_ok()
        {
            self.call.is_tried_again();
        }
        let answer = look().await;
        drop((turn, looking));
        Hint::use_up(hint);
        match answer {
            Ok(Some(work)) => {
                self.answered();
                if self.unsure.load(Ordering::SeqCst) {
                    self.hint_unsure(1);
                }
                Ok(Turn::Found(work))
            }
            Ok(None) => {
                self.answered();
                // Nothing is there, so the hints that were given before are void.
                if self.hints.load(Ordering::SeqCst) == hints {
                    self.empty_at.store(hints, Ordering::SeqCst);
                    self.unsure.store(false, Ordering::SeqCst);
                    self.ready.forget_permits(MOST_HINTS);
                }
                Ok(Turn::Nothing)
            }
            Err(error) => {
                let failures = self.failures.fetch_add(1, Ordering::SeqCst) + 1;
                self.failed.fetch_add(1, Ordering::SeqCst);
                self.unsure.store(true, Ordering::SeqCst);
                self.hint_after(retry::pause_after(failures));
                if verdict(&error) != Verdict::Transient {
                    return Err(error);
                }
                // Said here and not to duroxide, whose own pauses (100 * 2^n) overflow in the end.
                retry::warn(self.call.method, failures, &error);
                Ok(Turn::Nothing)
            }
        }
    }

    fn answered(&self) {
        self.failures.store(0, Ordering::SeqCst);
        *self
            .last_look
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    fn later(&self) -> std::sync::MutexGuard<'_, BinaryHeap<Reverse<Instant>>> {
        self.later
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Counts while it lives.
struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    fn one_more(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What came of a slot's turn.
enum Turn<T> {
    Found(T),
    Nothing,
    Closed,
}

/// A hint that was taken. Given back, if it is dropped before it was used.
struct Hint<'a> {
    queue: &'a Queue,
    used: bool,
}

impl<'a> Hint<'a> {
    fn taken(queue: &'a Queue, permit: SemaphorePermit<'a>) -> Self {
        permit.forget();
        Self { queue, used: false }
    }

    fn use_up(hint: Option<Self>) {
        if let Some(mut hint) = hint {
            hint.used = true;
        }
    }
}

impl Drop for Hint<'_> {
    fn drop(&mut self) {
        if !self.used {
            self.queue.hint_unsure(1);
        }
    }
}
