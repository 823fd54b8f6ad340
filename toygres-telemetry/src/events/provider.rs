use super::{Event, label};
use crate::metric::Metric;
use crate::recorder::{add, record};
use std::time::Duration;

label! {
    /// What a call of the orchestration store is for.
    ProviderOperation {
        /// It looked for work and found some.
        Fetch = "fetch",
        /// It looked for work and found none.
        FetchEmpty = "fetch_empty",
        /// It wrote what came of work.
        Ack = "ack",
        /// It wrote history.
        SaveEvent = "save_event",
        /// It wrote the start of an orchestration.
        CreateInstance = "create_instance",
        /// It wrote work or a message.
        Enqueue = "enqueue",
        /// It held on to work.
        Renew = "renew",
        /// It gave work back.
        Abandon = "abandon",
        /// It asked.
        Query = "query",
    }
}

label! {
    /// Why a call of the orchestration store failed.
    ProviderErrorType {
        /// No answer in time.
        Timeout = "timeout",
        /// No connection, or a lost one.
        Connection = "connection",
        /// A deadlock.
        Deadlock = "deadlock",
        /// Another transaction was first.
        Serialization = "serialization",
        /// Something that must be unique or refer to something else.
        ConstraintViolation = "constraint_violation",
        /// What is stored can't be read.
        Corruption = "corruption",
        /// Else.
        Other = "other",
    }
}

/// A call of the orchestration store ended.
#[derive(Debug, Clone, Copy)]
pub struct ProviderCalled {
    /// What it was for.
    pub operation: ProviderOperation,
    /// The method's name.
    pub method: &'static str,
    /// How long it took.
    pub duration: Duration,
    /// Why it failed, if it did.
    pub error: Option<ProviderErrorType>,
}

impl Event for ProviderCalled {
    fn emit(self) {
        let status = if self.error.is_none() { "success" } else { "error" };
        record(
            Metric::ProviderOperationDuration,
            self.duration.as_secs_f64(),
            &[self.operation.as_str(), self.method, status],
        );
        if let Some(error) = self.error {
            let labels = [self.operation.as_str(), error.as_str()];
            add(Metric::ProviderErrors, 1.0, &labels);
        }
    }
}

/// A call of the orchestration store is made again after a failure.
#[derive(Debug, Clone, Copy)]
pub struct ProviderRetried {
    /// What it is for.
    pub operation: ProviderOperation,
}

impl Event for ProviderRetried {
    fn emit(self) {
        add(Metric::ProviderRetries, 1.0, &[self.operation.as_str()]);
    }
}
