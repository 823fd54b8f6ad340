use super::{Event, label};
use crate::metric::Metric;
use crate::recorder::{add, observe};
use std::time::Duration;

label! {
    /// What a worker slot works on.
    WorkerType {
        /// Turns of orchestrations.
        Orchestration = "orchestration",
        /// Activities.
        Activity = "activity",
    }
}

/// What the worker slots of this process did since they were last looked at.
#[derive(Debug, Clone)]
pub struct WorkersSeen {
    /// What they work on.
    pub worker_type: WorkerType,
    /// Items that each slot finished a second.
    pub rates: Vec<f64>,
    /// Time that they were busy, all together.
    pub busy: Duration,
}

impl WorkersSeen {
    /// Emits what was seen of both sorts: gauges are replaced as a whole.
    pub fn emit_all(seen: &[Self]) {
        let names: Vec<String> = (0..seen.iter().map(|s| s.rates.len()).max().unwrap_or(0))
            .map(|slot| slot.to_string())
            .collect();
        let rates = seen.iter().flat_map(|of| {
            let slots = of.rates.iter().zip(&names);
            slots.map(|(rate, slot)| (vec![of.worker_type.as_str(), slot.as_str()], *rate))
        });
        observe(Metric::WorkerProcessingRate, rates);
        let counts = seen
            .iter()
            .map(|of| (vec![of.worker_type.as_str()], of.rates.len() as f64));
        observe(Metric::WorkerCount, counts);
        for of in seen {
            let labels = [of.worker_type.as_str()];
            add(Metric::WorkerActiveTime, of.busy.as_secs_f64(), &labels);
        }
    }
}

/// The two queues, as the database has them.
#[derive(Debug, Clone)]
pub struct QueuesSeen {
    /// Of each: items that could be worked on now, and how long the oldest has waited.
    pub queues: Vec<(WorkerType, u64, Duration)>,
}

impl Event for QueuesSeen {
    fn emit(self) {
        let each = |value: fn(&(WorkerType, u64, Duration)) -> f64| {
            let points: Vec<_> = self
                .queues
                .iter()
                .map(|queue| (vec![queue.0.as_str()], value(queue)))
                .collect();
            points
        };
        observe(Metric::WorkerQueueDepth, each(|(_, depth, _)| *depth as f64));
        observe(Metric::WorkerQueueAge, each(|(_, _, age)| age.as_secs_f64()));
    }
}
