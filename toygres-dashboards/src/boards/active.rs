use super::shared::{self, TROUBLE};
use crate::panel::{bars, lines, ranking, stat, table, traces};
use crate::promql::{
    BAR, RANGE, SMOOTH, counted, only, or_none, or_zero, quantile, sum, sum_by, told, told_by,
};
use crate::{Board, Dashboard, Variable};
use toygres_telemetry::metric::Metric;

pub(super) fn dashboard() -> Dashboard {
    let active = |filter: &str| {
        let filter = match filter {
            "" => r#"orchestration_name=~"$orchestration""#.to_owned(),
            filter => format!(r#"orchestration_name=~"$orchestration",{filter}"#),
        };
        told_by(
            "orchestration_name, state",
            only(Metric::OrchestrationActiveInstances, &filter),
        )
    };
    let panels = vec![
        shared::active(),
        stat(
            "short",
            (
                "How many have work to do now?",
                "Orchestrations with a message or the end of an activity to be worked on.",
                "Many for long: the workers don't keep up.",
                Board::Workers,
            ),
        )
        .ask(or_zero(sum(active(r#"state="running""#))), "running"),
        stat(
            "short",
            (
                "How many wait?",
                "Orchestrations that wait for an activity, a timer or a message. Those that watch databases \
                 mostly wait.",
                "Many of create-instance: databases are slow to start; see the phases.",
                Board::Fleet,
            ),
        )
        .ask(or_zero(sum(active(r#"state="waiting""#))), "waiting"),
        shared::queue_age(),
        lines(
            "short",
            (
                "Does their number keep to what is usual?",
                "Orchestrations that have not ended, counted in the database.",
                "Rising without end: something begins and never ends; see which below.",
                Board::Production,
            ),
        )
        .ask(told(Metric::ActiveOrchestrations), "active"),
        lines(
            "short",
            (
                "Which ones are active?",
                "Orchestrations that have not ended, by name.",
                "Choose the one that grows in the dashboard about orchestrations.",
                Board::Orchestrations,
            ),
        )
        .ask(sum_by("orchestration_name", active("")), "{{orchestration_name}}"),
        ranking(
            "short",
            (
                "Do they run or wait?",
                "Orchestrations that have not ended, by name and state.",
                "running that does not fall while workers are idle: they stand still. The sweeper replaces \
                 them.",
                Board::Workers,
            ),
        )
        .ask(active(""), "{{orchestration_name}} {{state}}"),
        bars(
            "short",
            (
                "Do as many end as begin?",
                "Orchestrations that began and that ended in each bar's time; those that continue as new do \
                 neither.",
                "More that begin, for long: see the workers.",
                Board::Workers,
            ),
        )
        .ask(shared::began(), "began")
        .ask(
            or_zero(sum(counted(
                only(
                    Metric::OrchestrationCompletions,
                    r#"orchestration_name=~"$orchestration""#,
                ),
                BAR,
            ))),
            "ended",
        ),
        lines(
            "s",
            (
                "How long do clients wait for them?",
                "95 of 100 waits of clients for the end of an orchestration took at most this time.",
                "See which orchestrations became slower.",
                Board::Orchestrations,
            ),
        )
        .ask(quantile(0.95, "", Metric::ClientWaitDuration, SMOOTH), "p95")
        .may_be_empty("no client waited"),
        table(
            "short",
            (
                "What ended lately, and how long did it take?",
                "Executions that ended in the time shown, and 95 of 100 took at most so long.",
                "failed: see by what.",
                Board::Orchestrations,
            ),
        )
        .ask(
            or_none(
                "orchestration_name",
                sum_by(
                    "orchestration_name, status",
                    counted(
                        only(
                            Metric::OrchestrationExecutions,
                            r#"orchestration_name=~"$orchestration""#,
                        ),
                        RANGE,
                    ),
                ),
            ),
            "executions",
        )
        .column(
            "s",
            quantile(
                0.95,
                "orchestration_name, status",
                only(
                    Metric::OrchestrationDuration,
                    r#"orchestration_name=~"$orchestration""#,
                ),
                RANGE,
            ),
            "p95",
        ),
        traces((
            "What did they do lately?",
            "Kept traces in which one of the chosen orchestrations did something; its own span comes when it \
             ends.",
            "Open one: the last span is what it came to.",
            Board::Traces,
        ))
        .ask(
            r#"{resource.service.name="toygres" && span.orchestration_name=~"$orchestration"}"#,
            "",
        )
        .sized(24, 8),
    ];
    Dashboard {
        board: Board::Active,
        variables: vec![Variable::Orchestration],
        panels,
        logs: TROUBLE,
        traces: r#"{resource.service.name="toygres" && span.orchestration_name=~"$orchestration"}"#,
    }
}
