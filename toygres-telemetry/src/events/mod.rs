//! What happens, each as a struct that writes its log line and its numbers together.
//!
//! A number without an event can't be recorded: the functions that do it are this crate's own. Labels are words of
//! enums, or names from a registry, capped; what tells one instance from another stands in the log line only.

mod activities;
mod client;
mod http;
mod instances;
mod orchestrations;
mod provider;
mod telemetry;
mod workers;

pub use activities::{ActivityEnded, ActivityOutcome, ActivityPoisoned, ErrorType, FailedTry};
pub use client::{CancellationAsked, ClientWaited, ExternalEventRaised, OrchestrationAsked};
pub use http::RequestAnswered;
pub use instances::{
    DriftSeen, FleetSeen, HealthChecked, HealthChecksSeen, OperationEnded, PhaseEnded, PoolSeen,
    ReportingEnded,
};
pub use orchestrations::{
    ActiveOrchestrationsSeen, ExecutionEnd, ExecutionEnded, ExecutionStarted, InitiatedBy,
    OrchestrationFailure, SubOrchestrationEnded,
};
pub use provider::{ProviderCalled, ProviderErrorType, ProviderOperation, ProviderRetried};
pub use telemetry::{ItemsHandled, Signal};
pub use workers::{QueuesSeen, WorkerType, WorkersSeen};

/// Something that happened.
pub trait Event {
    /// Writes its log line, if it has one, and its numbers.
    fn emit(self);
}

/// An enum whose words are values of a label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl $name {
            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    };
}
pub(crate) use label;
