//! What more than one dashboard shows or asks.

use crate::Board;
use crate::panel::{Panel, bars, gauge, ranking, stat};
use crate::promql::{
    ALERTS, BAR, RANGE, counted, only, only_other, or_none, or_zero, quantile, sum, sum_by, told, told_by,
};
use toygres_telemetry::metric::Metric;

/// The lines that say what went wrong.
pub(super) const TROUBLE: &str = r#"{service_name="toygres"} | level=~"WARN|ERROR""#;
/// All traces that are kept.
pub(super) const TRACES: &str = r#"{resource.service.name="toygres"}"#;
/// Those of them that failed.
pub(super) const FAILED: &str = r#"{resource.service.name="toygres" && status=error}"#;
/// Those of creations.
pub(super) const CREATIONS: &str = r#"{resource.service.name="toygres" && name="create-instance"}"#;

pub(super) const CREATED: &str = r#"kind="create",outcome="succeeded""#;

pub(super) fn success() -> Panel {
    gauge(
        "percentunit",
        (
            "Are orchestrations succeeding?",
            "The part of the orchestrations that ended in the time shown which ended with success. The bar \
             is 95 %.",
            "See which orchestration fails and by what sort of error, then open one of the failed traces.",
            Board::Production,
        ),
    )
    .ask(crate::promql::success("", "", RANGE), "success")
    .good_from(0.9, 0.95)
    .with_traces(FAILED)
}

pub(super) fn active() -> Panel {
    stat(
        "short",
        (
            "How many orchestrations are active now?",
            "Orchestrations that have not ended. Each database has one that watches it for as long as it \
             lives.",
            "A number that rises while the number of databases does not: something no longer ends.",
            Board::Active,
        ),
    )
    .ask(told(Metric::ActiveOrchestrations), "active")
}

pub(super) fn instances() -> Panel {
    stat(
        "short",
        (
            "How many databases are there?",
            "Databases that are not deleted, in whatever state; those that could not be made are still \
             listed.",
            "Compare it with what the users know of: what is not wanted any more can be deleted.",
            Board::Fleet,
        ),
    )
    .ask(
        or_zero(sum(told_by("state, health", Metric::Instances))),
        "databases",
    )
}

pub(super) fn unwell() -> Panel {
    stat(
        "short",
        (
            "How many databases are not well?",
            "Databases that are degraded or failed by their state.",
            "Ask for their names with `toygres list`, then read the log of one of them.",
            Board::Fleet,
        ),
    )
    .ask(
        or_zero(sum(told_by(
            "state, health",
            only(Metric::Instances, r#"state=~"degraded|failed""#),
        ))),
        "not well",
    )
    .good_if_none()
}

pub(super) fn by_state() -> Panel {
    ranking(
        "short",
        (
            "In what state are the databases?",
            "The databases that are not deleted, by state.",
            "Many that stay in creating: see the phases. Any that is degraded or failed: read its log.",
            Board::Fleet,
        ),
    )
    .ask(
        or_none(
            "state",
            sum_by("state", told_by("state, health", Metric::Instances)),
        ),
        "{{state}}",
    )
}

pub(super) fn by_health() -> Panel {
    ranking(
        "short",
        (
            "Are the databases healthy?",
            "The databases that are not deleted, by what their last health check found.",
            "Unhealthy ones are repaired by themselves; look at those that stay so.",
            Board::Fleet,
        ),
    )
    .ask(
        or_none(
            "health",
            sum_by("health", told_by("state, health", Metric::Instances)),
        ),
        "{{health}}",
    )
}

pub(super) fn provisioning(title: &'static str, time: &'static str) -> Panel {
    stat(
        "s",
        (
            title,
            "95 of 100 databases were ready after at most this time, counted from the request.",
            "See which phase takes it: deploying, waiting until it is ready, or the first connection.",
            Board::Fleet,
        ),
    )
    .ask(
        quantile(0.95, "", only(Metric::OperationDuration, CREATED), time),
        "p95",
    )
    .good_below(60.0, 300.0)
    .with_traces(CREATIONS)
}

pub(super) fn failures() -> Panel {
    bars(
        "short",
        (
            "By what do orchestrations fail?",
            "Orchestrations that failed in each bar's time, by the sort of error.",
            "app_error: the work itself; infrastructure_error: what it runs on; config_error and \
             nondeterminism: this program or its settings; poison: given up after too many attempts.",
            Board::Orchestrations,
        ),
    )
    .ask(
        or_none(
            "error_type",
            sum_by("error_type", counted(Metric::OrchestrationFailures, BAR)),
        ),
        "{{error_type}}",
    )
    .with_traces(FAILED)
}

pub(super) fn alerts() -> Panel {
    stat(
        "short",
        (
            "Is any alert firing?",
            "Alerts that are firing now.",
            "Open the alert: it names its page of the runbook, which says what to do.",
            Board::Production,
        ),
    )
    .ask(
        or_zero(sum(only_other(ALERTS, r#"alertstate="firing""#))),
        "firing",
    )
    .good_if_none()
}

pub(super) fn queue_age() -> Panel {
    stat(
        "s",
        (
            "How long does work wait?",
            "How long the oldest item that could be worked on has waited for a worker.",
            "More than a few seconds: the workers don't keep up, or stand still.",
            Board::Workers,
        ),
    )
    .ask(told(Metric::WorkerQueueAge), "oldest")
    .good_below(5.0, 60.0)
}

pub(super) fn created() -> Panel {
    bars(
        "short",
        (
            "How many databases were made?",
            "Creations that ended in each bar's time, by how they ended.",
            "Failed ones: see what failed, by class, and the traces of the failed ones.",
            Board::Production,
        ),
    )
    .ask(
        or_none(
            "outcome",
            sum_by(
                "outcome",
                counted(only(Metric::Operations, r#"kind="create""#), BAR),
            ),
        ),
        "{{outcome}}",
    )
    .with_traces(CREATIONS)
}

/// The chosen orchestrations that began in each bar's time.
pub(super) fn began() -> String {
    let first = r#"orchestration_name=~"$orchestration",initiated_by!="continueAsNew""#;
    or_zero(sum(counted(only(Metric::OrchestrationStarts, first), BAR)))
}
