//! What the turns of orchestrations tell: how executions begin, how they go on, and how they end.
//!
//! All of it is read from the history that is written, so that a restart, another node or a lost answer does not bend
//! it. What has been written before comes with the fetch of a turn, and is kept in short until the turn is written.

use crate::activity::short_name;
use crate::category;
use crate::envelope;
use crate::place;
use crate::slots::{Busy, Slots};
use duroxide::providers::{OrchestrationItem, WorkItem};
use duroxide::{ErrorDetails, Event, EventKind, PoisonMessageType};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use toygres_telemetry::Event as _;
use toygres_telemetry::events::{
    ExecutionEnd, ExecutionEnded, ExecutionStarted, InitiatedBy, OrchestrationFailure, SubOrchestrationEnded,
};
use toygres_telemetry::trace::{PastSpan, TraceParent};

/// The turns that are worked on now.
pub(super) struct Turns {
    slots: Arc<Slots>,
    most: usize,
    /// By lock token, the oldest first.
    open: Mutex<Vec<(String, Turn)>>,
}

struct Turn {
    slot: Busy,
    before: Execution,
}

/// What the history of an execution tells in short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Execution {
    name: String,
    version: String,
    begun: Begun,
    began_ms: u64,
    last_ms: u64,
    turns: u64,
    events: u64,
    has_begun: bool,
    ended: bool,
    /// Sub-orchestrations that were called, by event: their names, and when.
    calls: HashMap<u64, (String, u64)>,
}

/// What the input of an execution says of how it began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Begun {
    by: Option<String>,
    restarted: bool,
    long_running: bool,
}

impl Begun {
    fn of(input: &str) -> Self {
        let envelope = envelope::outside(input);
        envelope.map_or_else(Self::default, |envelope| Self {
            by: envelope.traceparent,
            restarted: envelope.restarted,
            long_running: envelope.long_running,
        })
    }
}

impl Turns {
    /// `most`: how many turns there can be. Any more were left by a run-time that gave them up without a word.
    pub(super) fn new(most: usize) -> Self {
        Self {
            slots: Arc::default(),
            most,
            open: Mutex::default(),
        }
    }

    pub(super) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// A turn was fetched.
    pub(super) fn begin(&self, lock_token: &str, item: &OrchestrationItem) {
        let before = Execution::of(item);
        let mut open = self.open();
        if open.len() >= self.most {
            open.remove(0);
        }
        let slot = self.slots.begin();
        open.push((lock_token.to_owned(), Turn { slot, before }));
    }

    /// Gives all events of a turn the same time, later than that of any turn before: so the history tells its turns.
    /// duroxide gives each of them its own, and reads none.
    pub(super) fn stamp(&self, lock_token: &str, delta: &mut [Event]) {
        let Some(now) = delta.last().map(|event| event.timestamp_ms) else {
            return;
        };
        let open = self.open();
        let turn = open.iter().find(|(token, _)| token == lock_token);
        let before = turn.map(|(_, turn)| &turn.before);
        let last = before
            .filter(|before| !before.is_left_by(delta))
            .map_or(0, |before| before.last_ms);
        for event in delta {
            event.timestamp_ms = now.max(last + 1);
        }
    }

    /// A turn was given up, or others work on it.
    pub(super) fn lost(&self, lock_token: &str) {
        self.take(lock_token);
    }

    /// A turn was written.
    pub(super) fn acked(&self, lock_token: &str, execution_id: u64, delta: &[Event]) {
        let Some(turn) = self.take(lock_token) else { return };
        turn.slot.finish();
        // Messages to one that has ended already are read and leave nothing behind.
        if !delta.is_empty() {
            turn.before.go_on(execution_id, delta);
        }
    }

    fn take(&self, lock_token: &str) -> Option<Turn> {
        let mut open = self.open();
        let place = open.iter().position(|(token, _)| token == lock_token)?;
        Some(open.remove(place).1)
    }

    fn open(&self) -> MutexGuard<'_, Vec<(String, Turn)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Execution {
    fn of(item: &OrchestrationItem) -> Self {
        let mut execution = Self::named(&item.orchestration_name, &item.version);
        // What can't be read was written when it began.
        execution.has_begun = item.history_error.is_some();
        for event in &item.history {
            execution.add(event);
        }
        execution
    }

    fn named(name: &str, version: &str) -> Self {
        Self {
            name: short_name(name).to_owned(),
            version: version.to_owned(),
            ..Self::default()
        }
    }

    fn add(&mut self, event: &Event) {
        let at = event.timestamp_ms;
        match &event.kind {
            EventKind::OrchestrationStarted {
                name, version, input, ..
            } => {
                self.name = short_name(name).to_owned();
                self.version.clone_from(version);
                self.begun = Begun::of(input);
            }
            EventKind::SubOrchestrationScheduled { name, .. } => {
                self.calls
                    .insert(event.event_id, (short_name(name).to_owned(), at));
            }
            _ => {}
        }
        if self.events == 0 {
            self.began_ms = at;
        }
        if self.events == 0 || at > self.last_ms {
            self.turns += 1;
            self.last_ms = at;
        }
        self.events += 1;
        self.has_begun = true;
        self.ended |= event.is_terminal();
    }

    /// Whether these events belong to the execution after this one.
    fn is_left_by(&self, delta: &[Event]) -> bool {
        self.ended
            || matches!(delta, [first, ..] if matches!(first.kind, EventKind::OrchestrationStarted { .. }))
    }

    /// Tells what these events add.
    fn go_on(mut self, execution_id: u64, delta: &[Event]) {
        if self.is_left_by(delta) {
            self = Self::named(&self.name, &self.version);
        }
        let is_first = !self.has_begun;
        for event in delta {
            self.add(event);
        }
        let Some(first) = delta.first() else { return };
        let Begun { by, long_running, .. } = &self.begun;
        let place = place::of_execution(&first.instance_id, execution_id, by.as_deref(), *long_running);
        match place {
            Some(place) => place
                .clone()
                .scope(|| self.tell(execution_id, delta, is_first, Some(place))),
            None => self.tell(execution_id, delta, is_first, None),
        }
    }

    fn tell(&self, execution_id: u64, delta: &[Event], is_first: bool, place: Option<TraceParent>) {
        for event in delta {
            let succeeded = match event.kind {
                EventKind::SubOrchestrationCompleted { .. } => true,
                EventKind::SubOrchestrationFailed { .. } => false,
                _ => continue,
            };
            if let Some((child, called_ms)) = event.source_event_id.and_then(|id| self.calls.get(&id)) {
                SubOrchestrationEnded {
                    parent_orchestration: &self.name,
                    child_orchestration: child,
                    succeeded,
                    duration: between(*called_ms, event.timestamp_ms),
                }
                .emit();
            }
        }
        if let Some(first) = delta.first().filter(|_| is_first) {
            ExecutionStarted {
                orchestration_name: &self.name,
                version: &self.version,
                orchestration_id: &first.instance_id,
                execution_id,
                initiated_by: self.initiated_by(first, execution_id),
            }
            .emit();
        }
        // duroxide adds a second end when the first one is over a limit of its own.
        let Some(last) = delta.iter().rfind(|event| event.is_terminal()) else {
            return;
        };
        let failure = match &last.kind {
            EventKind::OrchestrationFailed { details } => Some(category::of_details(details)),
            _ => None,
        };
        let end = match (&last.kind, &failure) {
            (EventKind::OrchestrationContinuedAsNew { .. }, _) => ExecutionEnd::ContinuedAsNew,
            (_, Some(Some((error_type, error_category, failure)))) => {
                ExecutionEnd::Failed(OrchestrationFailure {
                    error_type: *error_type,
                    error_category,
                    message: &failure.message,
                })
            }
            (_, Some(None)) => ExecutionEnd::Cancelled,
            (_, None) => ExecutionEnd::Success,
        };
        ExecutionEnded {
            orchestration_name: &self.name,
            version: &self.version,
            orchestration_id: &last.instance_id,
            execution_id,
            end,
            duration: between(self.began_ms, last.timestamp_ms),
            turns: self.turns,
            history_size: self.events,
        }
        .emit();
        if let Some(place) = place {
            let error = match end {
                ExecutionEnd::Failed(failure) => Some(failure.message.to_owned()),
                ExecutionEnd::Success | ExecutionEnd::Cancelled | ExecutionEnd::ContinuedAsNew => None,
            };
            self.emit_span(place, &last.instance_id, execution_id, error);
        }
    }

    /// Now that its times are known.
    fn emit_span(&self, place: TraceParent, id: &str, execution_id: u64, error: Option<String>) {
        let by = self.begun.by.as_deref().and_then(TraceParent::parse);
        let (parent, link) = match self.begun.long_running {
            true => (None, by),
            false => (by, None),
        };
        let time = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        PastSpan {
            name: self.name.clone(),
            place,
            parent,
            link,
            start: time(self.began_ms),
            end: time(self.last_ms),
            attributes: vec![
                ("orchestration_name", self.name.clone()),
                ("orchestration_id", id.to_owned()),
                ("execution_id", execution_id.to_string()),
            ],
            error,
        }
        .emit();
    }

    fn initiated_by(&self, first: &Event, execution_id: u64) -> InitiatedBy {
        match &first.kind {
            _ if execution_id > 1 => InitiatedBy::ContinueAsNew,
            EventKind::OrchestrationStarted {
                parent_instance: Some(_),
                ..
            } => InitiatedBy::SubOrchestration,
            _ if self.begun.restarted => InitiatedBy::Signal,
            _ => InitiatedBy::Client,
        }
    }
}

fn between(from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(to_ms.saturating_sub(from_ms))
}

/// The name and the orchestration of an activity that is given up by this message.
pub(super) fn poisoned(completion: &WorkItem) -> Option<(String, String)> {
    let WorkItem::ActivityFailed {
        details:
            ErrorDetails::Poison {
                message_type:
                    PoisonMessageType::Activity {
                        instance,
                        activity_name,
                        ..
                    },
                ..
            },
        ..
    } = completion
    else {
        return None;
    };
    Some((short_name(activity_name).to_owned(), instance.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> EventKind {
        EventKind::OrchestrationStarted {
            name: "crate::orchestration::name".to_owned(),
            version: "1.0.0".to_owned(),
            input: String::new(),
            parent_instance: None,
            parent_id: None,
            parent_execution_id: None,
            carry_forward_events: None,
            initial_custom_status: None,
        }
    }

    fn fired() -> EventKind {
        EventKind::TimerFired { fire_at_ms: 0 }
    }

    fn event(timestamp_ms: u64, kind: EventKind) -> Event {
        Event {
            timestamp_ms,
            ..Event::with_event_id(1, "o", 1, None, kind)
        }
    }

    fn item(history: Vec<Event>) -> OrchestrationItem {
        OrchestrationItem {
            instance: "o".to_owned(),
            orchestration_name: "crate::orchestration::name".to_owned(),
            execution_id: 1,
            version: "1.0.0".to_owned(),
            history,
            messages: Vec::new(),
            history_error: None,
            kv_snapshot: HashMap::new(),
        }
    }

    #[test]
    fn a_turn_is_later_than_the_one_before_whatever_the_clocks_say() {
        let turns = Turns::new(2);
        let mut history = Vec::new();
        // Three turns: the clock of the second is behind, that of the third the same.
        for (token, clock) in [("a", 1_000), ("b", 400), ("c", 1_001)] {
            turns.begin(token, &item(history.clone()));
            let kind = if history.is_empty() { started() } else { fired() };
            // The machine was busy, so the events of a turn are well apart.
            let mut delta = vec![event(clock - 90, kind), event(clock, fired())];
            turns.stamp(token, &mut delta);
            turns.acked(token, 1, &delta);
            history.extend(delta);
        }
        let stamps: Vec<_> = history.iter().map(|event| event.timestamp_ms).collect();
        assert_eq!(stamps, [1_000, 1_000, 1_001, 1_001, 1_002, 1_002]);
        let all = Execution::of(&item(history.clone()));
        assert_eq!((all.turns, all.events, all.name.as_str()), (3, 6, "name"));

        // The next execution begins anew.
        turns.begin("d", &item(history));
        let mut delta = vec![event(500, started())];
        turns.stamp("d", &mut delta);
        assert_eq!(delta[0].timestamp_ms, 500);
    }

    #[test]
    fn turns_that_were_left_are_forgotten() {
        let turns = Turns::new(2);
        for token in ["a", "b", "c"] {
            turns.begin(token, &item(Vec::new()));
        }
        assert_eq!(turns.slots().busy(), 2);
        assert!(turns.take("a").is_none() && turns.take("c").is_some());
        turns.lost("b");
        assert_eq!(turns.slots().busy(), 0);
    }
}
