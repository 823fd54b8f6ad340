//! How each kind of answer looks.

mod access;
mod instances;
mod operations;
mod orchestrations;
mod server;

pub(crate) use access::ContextView;
pub(crate) use instances::{Checked, Overview, Tested};
pub(crate) use server::{ServerStatus, Settings};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A span of time by its largest unit.
fn span(span: TimeDelta) -> String {
    match span.num_seconds().max(0) {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7_200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}
