//! Timing and counting the calls of the inner store.

use super::verdict::{error_type, verdict};
use duroxide::providers::ProviderError;
use std::time::{Duration, Instant};
use toygres_telemetry::Event;
use toygres_telemetry::events::{ProviderCalled, ProviderErrorType, ProviderOperation, ProviderRetried};

pub(super) const FETCH_ORCHESTRATION: Call = Call::new(ProviderOperation::Fetch, "fetch_orchestration_item");
pub(super) const FETCH_ACTIVITY: Call = Call::new(ProviderOperation::Fetch, "fetch_work_item");

/// A call that nobody waited for any more has failed if it took so long. One that ends sooner had another reason: the
/// work that it renewed is done, or the process stops.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is called, and what for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) operation: ProviderOperation,
    /// The method of the store.
    pub(super) method: &'static str,
}

impl Call {
    pub(super) const fn new(operation: ProviderOperation, method: &'static str) -> Self {
        Self { operation, method }
    }

    /// It failed, and is made again now.
    pub(super) fn is_tried_again(self) {
        ProviderRetried {
            operation: self.operation,
        }
        .emit();
    }
}

/// A call that has begun. It is told of when it ends, or when it is dropped after a while.
pub(super) struct Timed {
    call: Call,
    begun: Instant,
    told: bool,
}

impl Timed {
    pub(super) fn new(call: Call) -> Self {
        Self {
            call,
            begun: Instant::now(),
            told: false,
        }
    }

    pub(super) fn found_nothing(&mut self) {
        self.call.operation = ProviderOperation::FetchEmpty;
    }

    pub(super) fn ended(mut self, error: Option<&ProviderError>) {
        if let Some(error) = error {
            let (method, elapsed) = (self.call.method, self.begun.elapsed());
            tracing::debug!(method, ?elapsed, verdict = ?verdict(error), %error, "the store refused");
        }
        self.tell(error.map(error_type));
    }

    fn tell(&mut self, error: Option<ProviderErrorType>) {
        self.told = true;
        ProviderCalled {
            operation: self.call.operation,
            method: self.call.method,
            duration: self.begun.elapsed(),
            error,
        }
        .emit();
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if !self.told && self.begun.elapsed() >= PATIENCE {
            self.tell(Some(ProviderErrorType::Timeout));
        }
    }
}
