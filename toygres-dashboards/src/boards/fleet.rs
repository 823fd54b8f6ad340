use super::shared::{self, CREATED, CREATIONS};
use crate::panel::{bars, heatmap, lines, logs, ranking, stat, table, traces};
use crate::promql::{
    BAR, RANGE, SMOOTH, cells, counted, mean_by, measured, only, or_none, or_zero, quantile, steady_quantile,
    sum, sum_by, told, told_by,
};
use crate::{Board, Dashboard};
use toygres_telemetry::metric::Metric;

pub(super) fn dashboard() -> Dashboard {
    let panels =
        vec![
        shared::instances(),
        shared::unwell(),
        stat(
            "s",
            (
                "When was the longest unchecked database last checked?",
                "The age of the oldest last health check of the databases that are watched.",
                "Far above the interval of checks: its watcher stands still. The sweeper replaces it; if \
                 not, see the workers.",
                Board::Workers,
            ),
        )
        .ask(told(Metric::HealthCheckAge), "oldest")
        .good_below(120.0, 600.0)
        .may_be_empty("there is no database to watch"),
        stat(
            "short",
            (
                "Is there anything that should not be?",
                "Differences between what should exist and what does. While there is none there is no \
                 series: that is zero.",
                "`toygres server drift` lists them and puts them right.",
                Board::Logs,
            ),
        )
        .ask(or_zero(sum(told_by("kind", Metric::Drift))), "differences")
        .good_if_none(),
        shared::by_state(),
        shared::by_health(),
        lines(
            "short",
            (
                "How does the number of databases change?",
                "Databases that are not deleted, by state.",
                "A line of degraded or failed that does not fall: repair does not help.",
                Board::Logs,
            ),
        )
        .ask(
            or_none("state", sum_by("state", told_by("state, health", Metric::Instances))),
            "{{state}}",
        ),
        lines(
            "s",
            (
                "Are health checks on time?",
                "The age of the oldest last health check.",
                "Rising in a straight line: one database is not checked any more.",
                Board::Workers,
            ),
        )
        .ask(told(Metric::HealthCheckAge), "oldest")
        .good_below(120.0, 600.0)
        .may_be_empty("there is no database to watch"),
        ranking(
            "s",
            (
                "Which phase of making a database takes longest?",
                "The average time of each phase in the time shown: deploying, waiting until it is ready, the \
                 first connection, recording it.",
                "deploy: the platform. wait_for_ready: fetching the image, scheduling, the volume; ask for \
                 the operation's steps.",
                Board::Activities,
            ),
        )
        .ask(mean_by("phase", Metric::ProvisionPhaseDuration, RANGE), "{{phase}}")
        .with_traces(CREATIONS),
        lines(
            "s",
            (
                "Which phase became slower, and when?",
                "95 of 100 runs of each phase took at most this time.",
                "Compare the time of the step with changes of the cluster and of images.",
                Board::Activities,
            ),
        )
        .ask(
            quantile(0.95, "phase", Metric::ProvisionPhaseDuration, SMOOTH),
            "{{phase}}",
        )
        .with_traces(CREATIONS),
        heatmap(
            "s",
            (
                "How long does a new database take?",
                "Times from the request of a creation until the database was ready. Each dot is a trace that \
                 can be opened.",
                "Open a dot in the upper rows.",
                Board::Traces,
            ),
        )
        .ask(cells(only(Metric::OperationDuration, CREATED)), "")
        .with_traces(CREATIONS),
        table(
            "short",
            (
                "What was asked for, and how did it end?",
                "Operations that ended in the time shown, and 95 of 100 took at most so long.",
                "failed: `toygres operations` lists them with their errors.",
                Board::Production,
            ),
        )
        .ask(
            or_none("kind", sum_by("kind, outcome", counted(Metric::Operations, RANGE))),
            "operations",
        )
        .column(
            "s",
            quantile(0.95, "kind, outcome", Metric::OperationDuration, RANGE),
            "p95",
        ),
        shared::created(),
        bars(
            "short",
            (
                "How many databases were deleted?",
                "Deletions that ended in each bar's time, by how they ended.",
                "failed: something of the database is still there; see the differences.",
                Board::Logs,
            ),
        )
        .ask(
            or_none(
                "outcome",
                sum_by("outcome", counted(only(Metric::Operations, r#"kind="delete""#), BAR)),
            ),
            "{{outcome}}",
        ),
        lines(
            "s",
            (
                "How fast do the databases answer?",
                "95 of 100 health checks took at most this time, by what they found.",
                "All slower: the network or the machine. unhealthy at the limit: they don't answer at all.",
                Board::Activities,
            ),
        )
        .ask(steady_quantile(0.95, "outcome", Metric::HealthCheckDuration), "{{outcome}}")
        .good_below(0.5, 2.0),
        bars(
            "short",
            (
                "What do health checks find?",
                "Health checks in each bar's time, by what they found.",
                "unhealthy: after some in a row the database is degraded and repair begins.",
                Board::Logs,
            ),
        )
        .ask(
            or_none(
                "outcome",
                sum_by("outcome", counted(measured(Metric::HealthCheckDuration), BAR)),
            ),
            "{{outcome}}",
        ),
        traces((
            "Which creations were there lately?",
            "Traces of creations that are kept: slow ones, failed ones, and one in ten of the rest.",
            "Open one: phase by phase.",
            Board::Traces,
        ))
        .ask(CREATIONS, "")
        .sized(24, 8)
        .may_be_empty("no creation was slow, failed or among the tenth that is kept"),
        logs((
            "What happened to the databases?",
            "Lines that name an instance, the newest first.",
            "Write the instance's name into the dashboard of logs to see one alone.",
            Board::Logs,
        ))
        .ask(r#"{service_name="toygres"} | instance_id!="" | level=~"INFO|WARN|ERROR""#, ""),
    ];
    Dashboard {
        board: Board::Fleet,
        variables: Vec::new(),
        panels,
        logs: r#"{service_name="toygres"} | instance_id!="" | level=~"WARN|ERROR""#,
        traces: CREATIONS,
    }
}
