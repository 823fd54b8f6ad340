use super::Event;
use crate::metric::Metric;
use crate::recorder::{add, record};
use std::time::Duration;

/// A client asked to start an orchestration.
#[derive(Debug, Clone, Copy)]
pub struct OrchestrationAsked {
    /// Its name in kebab case.
    pub orchestration_name: &'static str,
}

impl Event for OrchestrationAsked {
    fn emit(self) {
        add(Metric::ClientOrchestrationStarts, 1.0, &[self.orchestration_name]);
    }
}

/// A client sent a message to an orchestration.
#[derive(Debug, Clone, Copy)]
pub struct ExternalEventRaised {
    /// The message's name.
    pub event_name: &'static str,
}

impl Event for ExternalEventRaised {
    fn emit(self) {
        add(Metric::ClientExternalEventsRaised, 1.0, &[self.event_name]);
    }
}

/// A client asked to cancel an orchestration.
#[derive(Debug, Clone, Copy)]
pub struct CancellationAsked<'a> {
    /// Which.
    pub orchestration_id: &'a str,
}

impl Event for CancellationAsked<'_> {
    fn emit(self) {
        add(Metric::ClientCancellations, 1.0, &[]);
        tracing::info!(
            orchestration_id = self.orchestration_id,
            "asked to cancel an orchestration"
        );
    }
}

/// A client waited for the end of an orchestration.
#[derive(Debug, Clone, Copy)]
pub struct ClientWaited {
    /// How long.
    pub duration: Duration,
}

impl Event for ClientWaited {
    fn emit(self) {
        record(Metric::ClientWaitDuration, self.duration.as_secs_f64(), &[]);
    }
}
