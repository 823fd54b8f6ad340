use super::shared::{self, FAILED, TRACES, TROUBLE};
use crate::panel::{lines, stat};
use crate::promql::{counted, only, or_zero, part, quantile, success, sum};
use crate::{Board, Dashboard};
use toygres_telemetry::metric::Metric;

pub(super) fn dashboard() -> Dashboard {
    let panels =
        vec![
        stat(
            "percentunit",
            (
                "Did orchestrations succeed in the last 7 days?",
                "The part of all orchestrations that ended in the last 7 days which ended with success. The \
                 bar is 95 %.",
                "See since when in the trend beside it, then what fails.",
                Board::Production,
            ),
        )
        .ask(success("", "", "7d"), "success")
        .good_from(0.9, 0.95)
        .sized(6, 8),
        lines(
            "percentunit",
            (
                "Has it become better or worse in 7 days?",
                "The success rate of each hour of the last 7 days. Hours in which nothing ended have no \
                 point.",
                "A step down: compare its time with deployments and with the alerts of that time.",
                Board::Production,
            ),
        )
        .ask(success("", "", "1h"), "success")
        .good_from(0.9, 0.95)
        .over("7d")
        .sized(18, 8),
        shared::alerts(),
        shared::instances(),
        shared::unwell(),
        shared::active(),
        stat(
            "percentunit",
            (
                "How much failed in the last hour?",
                "The part of the orchestrations that ended in the last hour which failed.",
                "Find out what fails and by what class.",
                Board::Production,
            ),
        )
        .ask(
            part(
                counted(only(Metric::OrchestrationCompletions, r#"status="failed""#), "1h"),
                counted(Metric::OrchestrationCompletions, "1h"),
            ),
            "failed",
        )
        .good_below(0.01, 0.05)
        .with_traces(FAILED),
        shared::provisioning("How long did a new database take in the last hour?", "1h"),
        stat(
            "s",
            (
                "How long did an orchestration take in the last hour?",
                "95 of 100 orchestrations that succeeded in the last hour took at most this time.",
                "See which orchestration it is, and its heat map.",
                Board::Orchestrations,
            ),
        )
        .ask(
            quantile(0.95, "", only(Metric::OrchestrationDuration, r#"status="success""#), "1h"),
            "p95",
        )
        .good_below(60.0, 300.0),
        stat(
            "short",
            (
                "How many databases were made in the last hour?",
                "Creations that succeeded in the last hour.",
                "Fewer than usual: see whether creations fail, or are not asked for.",
                Board::Fleet,
            ),
        )
        .ask(
            or_zero(sum(counted(only(Metric::Operations, shared::CREATED), "1h"))),
            "made",
        ),
        shared::by_state().sized(6, 8),
        shared::by_health().sized(6, 8),
        lines(
            "short",
            (
                "How many databases are made per hour?",
                "Creations that succeeded in the hour before each point, over the last 7 days.",
                "Plan capacity by the highest hour.",
                Board::Fleet,
            ),
        )
        .ask(
            or_zero(sum(counted(only(Metric::Operations, shared::CREATED), "1h"))),
            "made per hour",
        )
        .over("7d"),
    ];
    Dashboard {
        board: Board::Overview,
        variables: Vec::new(),
        panels,
        logs: TROUBLE,
        traces: TRACES,
    }
}
