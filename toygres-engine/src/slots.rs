//! Worker slots: how many of them work, and on how much.
//!
//! duroxide does not say which of its slots runs something, so they are numbered here: whatever begins gets the lowest
//! number that is free. The numbers then say how many slots the work would need, instead of naming slots.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use toygres_telemetry::events::{WorkerType, WorkersSeen};

/// How often it is told what the slots did.
const PERIOD: Duration = Duration::from_secs(10);

/// The slots of one sort.
#[derive(Default)]
pub(crate) struct Slots(Mutex<Vec<Slot>>);

#[derive(Clone, Copy, Default)]
struct Slot {
    /// Since when it works, or since when that has not been counted yet.
    busy_since: Option<Instant>,
    busy: Duration,
    finished: u32,
}

impl Slots {
    /// Something begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        let mut slots = self.lock();
        let free = slots.iter().position(|slot| slot.busy_since.is_none());
        let index = free.unwrap_or(slots.len());
        if index == slots.len() {
            slots.push(Slot::default());
        }
        slots[index].busy_since = Some(Instant::now());
        drop(slots);
        Busy {
            slots: Arc::clone(self),
            index,
            finished: false,
        }
    }

    /// How many of them work.
    pub(crate) fn busy(&self) -> usize {
        self.lock()
            .iter()
            .filter(|slot| slot.busy_since.is_some())
            .count()
    }

    /// What they finished and how long they worked since this was last asked.
    fn take(&self) -> (Vec<u32>, Duration) {
        let now = Instant::now();
        let mut slots = self.lock();
        let mut all = Duration::ZERO;
        let finished = slots.iter_mut().map(|slot| {
            all += slot.busy;
            if let Some(since) = &mut slot.busy_since {
                all += now - std::mem::replace(since, now);
            }
            slot.busy = Duration::ZERO;
            std::mem::take(&mut slot.finished)
        });
        (finished.collect(), all)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot that works, until this is dropped.
pub(crate) struct Busy {
    slots: Arc<Slots>,
    index: usize,
    finished: bool,
}

impl Busy {
    /// The work is done, and was not merely dropped.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let slot = &mut self.slots.lock()[self.index];
        slot.busy += slot.busy_since.take().unwrap_or_else(Instant::now).elapsed();
        slot.finished += u32::from(self.finished);
    }
}

/// The slots of both sorts, and how many duroxide was given of each.
#[derive(Clone)]
pub(crate) struct Workers {
    pub(crate) orchestrations: (Arc<Slots>, usize),
    pub(crate) activities: (Arc<Slots>, usize),
}

impl Workers {
    /// Tells what they do, for ever.
    pub(crate) async fn watch(self) {
        let mut ticks = tokio::time::interval(PERIOD);
        let mut last = Instant::now();
        loop {
            ticks.tick().await;
            let elapsed = std::mem::replace(&mut last, Instant::now()).elapsed();
            self.tell(elapsed);
        }
    }

    /// Tells what they did since they were last looked at, and that they are no more.
    pub(crate) fn tell_last(&self) {
        self.tell(PERIOD);
        WorkersSeen::emit_all(&[]);
    }

    fn tell(&self, elapsed: Duration) {
        let seen = [
            (WorkerType::Orchestration, &self.orchestrations),
            (WorkerType::Activity, &self.activities),
        ]
        .map(|(worker_type, (slots, count))| {
            let (mut finished, busy) = slots.take();
            finished.resize(*count, 0);
            let seconds = elapsed.as_secs_f64().max(f64::EPSILON);
            let rates = finished.into_iter().map(|count| f64::from(count) / seconds);
            WorkersSeen {
                worker_type,
                rates: rates.collect(),
                busy,
            }
        });
        WorkersSeen::emit_all(&seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_taken_and_time_is_counted_once() {
        let slots = Arc::new(Slots::default());
        let (a, b, c) = (slots.begin(), slots.begin(), slots.begin());
        assert_eq!((a.index, b.index, c.index), (0, 1, 2));
        b.finish();
        let d = slots.begin();
        assert_eq!((d.index, slots.busy()), (1, 3));
        drop(a);
        let begun = Instant::now();
        let (finished, first) = slots.take();
        assert_eq!(finished, [0, 1, 0]);
        c.finish();
        d.finish();
        let (finished, second) = slots.take();
        assert_eq!(finished, [0, 1, 1]);
        assert!(first > Duration::ZERO && second <= begun.elapsed() * 2);
        assert_eq!(slots.take(), (vec![0, 0, 0], Duration::ZERO));
    }
}
