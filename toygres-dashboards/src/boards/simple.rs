use super::shared::{self, TRACES, TROUBLE};
use crate::panel::stat;
use crate::promql::{RANGE, UP, counted, only_other, or_zero, quantile, sum};
use crate::{Board, Dashboard};
use toygres_telemetry::metric::Metric;

pub(super) fn dashboard() -> Dashboard {
    let panels = vec![
        shared::success(),
        shared::by_state().sized(9, 8),
        shared::created().sized(9, 8),
        shared::instances(),
        shared::unwell(),
        shared::active(),
        shared::alerts(),
        shared::provisioning("How long does a new database take?", RANGE),
        shared::queue_age(),
        stat(
            "s",
            (
                "Is the API fast?",
                "95 of 100 answers in the time shown took at most this time.",
                "See which route is slow.",
                Board::Production,
            ),
        )
        .ask(
            quantile(0.95, "", Metric::HttpServerRequestDuration, RANGE),
            "p95",
        )
        .good_below(0.5, 2.0),
        stat(
            "short",
            (
                "Is anything unreachable?",
                "What Prometheus fetches metrics from and does not reach now.",
                "`scripts/observability-status.sh` says which, and why.",
                Board::Logs,
            ),
        )
        .ask(
            or_zero(format!("count({} == 0)", only_other(UP, ""))),
            "unreachable",
        )
        .good_if_none(),
        shared::failures(),
        stat(
            "short",
            (
                "How many tries of activities failed?",
                "In the time shown, those that were tried again among them.",
                "See which activity, and by what.",
                Board::Activities,
            ),
        )
        .ask(or_zero(sum(counted(Metric::ActivityErrors, RANGE))), "failed")
        .good_below(1.0, 10.0)
        .sized(12, 8),
    ];
    Dashboard {
        board: Board::Simple,
        variables: Vec::new(),
        panels,
        logs: TROUBLE,
        traces: TRACES,
    }
}
