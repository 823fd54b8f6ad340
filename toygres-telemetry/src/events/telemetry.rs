use super::{Event, label};
use crate::metric::Metric;
use crate::recorder::add;

label! {
    /// A signal of OpenTelemetry.
    Signal {
        /// Log records.
        Logs = "logs",
        /// Spans.
        Traces = "traces",
        /// Exports of metrics. They are cumulative: a lost one costs resolution.
        Metrics = "metrics",
        /// Lines of the log file.
        File = "file",
    }
}

/// Items were delivered, or lost for good.
#[derive(Debug, Clone, Copy)]
pub struct ItemsHandled {
    /// Of which signal.
    pub signal: Signal,
    /// Whether they were delivered.
    pub delivered: bool,
    /// How many.
    pub count: u64,
}

impl Event for ItemsHandled {
    fn emit(self) {
        let outcome = if self.delivered { "exported" } else { "lost" };
        let labels = [self.signal.as_str(), outcome];
        add(Metric::TelemetryItems, self.count as f64, &labels);
    }
}
