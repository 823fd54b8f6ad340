//! Sorts of drift: differences between what is there and what the rows say. An alarm is one too; its sort is its
//! [`Reason`].

use crate::operations::Reason;

/// Something on the platform that no row knows.
pub const UNKNOWN_OBJECT: &str = "unknown_object";
/// An instance that its row says was never made to the end, with data.
pub const FAILED_WITH_DATA: &str = "failed_with_data";
/// What is left of an instance that has ended, and can't be removed.
pub const LEFTOVER_STUCK: &str = "leftover_stuck";
/// An instance that is being removed, and can't be.
pub const REMOVAL_STUCK: &str = "removal_stuck";
/// An operation that has not ended long after it should have.
pub const OPERATION_OVERDUE: &str = "operation_overdue";

/// What to do about a difference of this sort, for people. `has_owner`: it says whose it is.
#[must_use]
pub fn remedy(kind: &str, has_owner: bool) -> &'static str {
    match kind {
        UNKNOWN_OBJECT if has_owner => {
            "`toygres server drift --fix` removes it with its data; keep it if the rows come from an older backup"
        }
        UNKNOWN_OBJECT => "remove it by hand once it is sure to be nobody's",
        FAILED_WITH_DATA => {
            "`toygres operations ID --retry` with the failed create takes the data up again; `toygres delete` with \
             the instance's id removes it"
        }
        OPERATION_OVERDUE => {
            "`toygres server logs` says what its steps fail with; it is tried again by itself once that is put right"
        }
        LEFTOVER_STUCK | REMOVAL_STUCK => {
            "put right what is in the way; it is tried again by itself every few seconds"
        }
        _ if kind == Reason::StorageMissing.as_str() || kind == Reason::StorageForeign.as_str() => {
            "bring the data back to its place, and the instance goes on by itself; if it is lost for good, \
             `toygres delete` the instance: toygres never makes an empty one in its place"
        }
        _ => "put right what is in the way; the rest goes on by itself",
    }
}
