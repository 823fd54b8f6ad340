//! Where orchestrations stand in traces.
//!
//! An orchestration's span is written when it ends, but what it calls has to name it before. So the span's id is made of
//! what never changes: the orchestration's id and the number of the execution.

use sha2::{Digest, Sha256};
use toygres_telemetry::trace::TraceParent;

/// The place of an execution. One that runs for long begins a trace of its own with each execution; any other one is
/// part of the trace of whoever began it, and of none if that had none.
pub(crate) fn of_execution(
    orchestration_id: &str,
    execution_id: u64,
    begun_by: Option<&str>,
    long_running: bool,
) -> Option<TraceParent> {
    let digest = Sha256::digest(format!("{orchestration_id}\n{execution_id}"));
    let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
    trace_id.copy_from_slice(&digest[..16]);
    span_id.copy_from_slice(&digest[16..24]);
    let span_id = u64::from_be_bytes(span_id);
    match long_running {
        true => Some(TraceParent::of(u128::from_be_bytes(trace_id), span_id)),
        false => Some(TraceParent::parse(begun_by?)?.with_span(span_id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_execution_has_the_same_place_in_every_process() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let place = |execution, long| {
            of_execution("actor-1", execution, Some(parent), long)
                .unwrap()
                .header()
        };
        assert_eq!(
            place(1, false),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-e32272116eea980c-01"
        );
        assert_ne!(place(1, false), place(2, false));
        assert!(!place(1, true).contains("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_ne!(place(1, true)[3..35], place(2, true)[3..35]);
        assert_eq!(of_execution("x", 1, None, false), None);
        assert_eq!(of_execution("x", 1, Some("nonsense"), false), None);
    }
}
