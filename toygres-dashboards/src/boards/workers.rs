use super::shared::{self, TRACES, TROUBLE};
use crate::panel::{lines, stat};
use crate::promql::{RANGE, SMOOTH, rate, sum, sum_by, told_by, work_off, workers_needed};
use crate::promql::{counted, only, or_zero, share};
use crate::{Board, Dashboard};
use toygres_telemetry::metric::Metric;

pub(super) fn dashboard() -> Dashboard {
    let panels =
        vec![
        stat(
            "short",
            (
                "How many worker slots are needed?",
                "Slots that would do what comes in now and work off what waits within a minute, at the \
                 present time per item.",
                "More than there are: start one more server on the same database. Fewer by far: nothing is \
                 wrong.",
                Board::Activities,
            ),
        )
        .ask(workers_needed(SMOOTH), "{{worker_type}}")
        .sized(8, 4),
        stat(
            "short",
            (
                "How many worker slots are there?",
                "Slots of all processes together.",
                "Fewer than expected: a process is gone, or has not reported for some minutes.",
                Board::Logs,
            ),
        )
        .ask(sum_by("worker_type", only(Metric::WorkerCount, "")), "{{worker_type}}")
        .sized(8, 4),
        shared::queue_age().sized(8, 4),
        lines(
            "short",
            (
                "Does work pile up?",
                "Items that could be worked on now, by the sort of worker that they wait for.",
                "Rising: see whether workers are all busy (more are needed) or idle (something stands \
                 still).",
                Board::Storage,
            ),
        )
        .ask(
            told_by("worker_type", Metric::WorkerQueueDepth),
            "{{worker_type}}",
        )
        .good_below(100.0, 1000.0),
        lines(
            "s",
            (
                "How long does the oldest item wait?",
                "How long the oldest item that could be worked on has waited.",
                "Over a minute while workers are idle: the store does not hand out work; look for errors of \
                 its calls.",
                Board::Storage,
            ),
        )
        .ask(
            told_by("worker_type", Metric::WorkerQueueAge),
            "{{worker_type}}",
        )
        .good_below(5.0, 60.0),
        lines(
            "ops",
            (
                "How much do the workers get done?",
                "Items that all slots together finished a second.",
                "Falling while work piles up: each item takes longer; see the activities and the store.",
                Board::Activities,
            ),
        )
        .ask(
            sum_by("worker_type", only(Metric::WorkerProcessingRate, "")),
            "{{worker_type}}",
        ),
        lines(
            "percentunit",
            (
                "How busy are the workers?",
                "The part of the slots' time in which they worked.",
                "Over 80 % for long: there is no room for a burst; start one more server.",
                Board::Activities,
            ),
        )
        .ask(
            share(
                sum_by("worker_type", rate(Metric::WorkerActiveTime)),
                sum_by("worker_type", only(Metric::WorkerCount, "")),
            ),
            "{{worker_type}}",
        )
        .good_below(0.8, 0.95),
        lines(
            "s",
            (
                "How long would what waits keep them busy?",
                "The number of items that wait, by how many are finished a second. Where nothing is \
                 finished, a hundredth of an item a second is assumed.",
                "Over a minute: one more server, or faster activities.",
                Board::Activities,
            ),
        )
        .ask(work_off(SMOOTH), "{{worker_type}}")
        .good_below(10.0, 60.0),
        lines(
            "ops",
            (
                "Do the slots share the work?",
                "Items that slots finished a second, by their number. Work takes the lowest number that is \
                 free, so that the first ones do most.",
                "High numbers busy too: all slots are used.",
                Board::Workers,
            ),
        )
        .ask(
            sum_by("worker_type, worker_id", only(Metric::WorkerProcessingRate, "")),
            "{{worker_type}} {{worker_id}}",
        ),
        lines(
            "ops",
            (
                "Do the workers ask for work?",
                "Calls a second by which workers look for work, those that found none among them.",
                "None for a minute: the workers stand still; restart the server and keep its log.",
                Board::Storage,
            ),
        )
        .ask(
            sum_by(
                "operation",
                rate(crate::promql::measured(only(
                    Metric::ProviderOperationDuration,
                    r#"operation=~"fetch|fetch_empty""#,
                ))),
            ),
            "{{operation}}",
        ),
        lines(
            "short",
            (
                "How much processor does each process use?",
                "Processors in use; 1 is one whole processor.",
                "As many as the machine has: it is the limit. Add a machine, or see what works so much.",
                Board::Storage,
            ),
        )
        .ask(sum_by("instance", rate(Metric::ProcessCpu)), "{{instance}}"),
        lines(
            "bytes",
            (
                "How much memory does each process use?",
                "Memory that is resident.",
                "Rising day by day at the same load: keep the process's log, restart it, and tell its \
                 programmers.",
                Board::Active,
            ),
        )
        .ask(sum_by("instance", only(Metric::ProcessMemory, "")), "{{instance}}"),
        lines(
            "short",
            (
                "How many files does each process have open?",
                "Open file descriptors, connections among them.",
                "Near the limit of the system (`ulimit -n`): connections are not given back, or the limit is \
                 too low.",
                Board::Storage,
            ),
        )
        .ask(sum_by("instance", only(Metric::ProcessOpenFiles, "")), "{{instance}}"),
        stat(
            "short",
            (
                "Is telemetry lost?",
                "Log records, spans, exports of metrics and lines of the log file that were lost in the time \
                 shown.",
                "The collector was away for longer than a minute, or too slow: see its log and its memory.",
                Board::Logs,
            ),
        )
        .ask(
            or_zero(sum(counted(
                only(Metric::TelemetryItems, r#"outcome="lost""#),
                RANGE,
            ))),
            "lost",
        )
        .good_if_none()
        .sized(12, 8),
    ];
    Dashboard {
        board: Board::Workers,
        variables: Vec::new(),
        panels,
        logs: TROUBLE,
        traces: TRACES,
    }
}
