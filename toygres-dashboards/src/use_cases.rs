//! What operators come with, and what to ask then.

use crate::Language::{self, LogQl, PromQl, TraceQl};
use crate::promql::{
    at_most, counted, mean_by, measured, only, quantile, success, sum, sum_by, told_by, total, utilisation,
    work_off, workers_needed,
};
use toygres_telemetry::metric::Metric;

/// A question that operators come with.
#[derive(Debug, Clone)]
pub struct UseCase {
    /// The question.
    pub question: &'static str,
    /// What to ask, in this order.
    pub queries: Vec<UseCaseQuery>,
}

/// A query that helps to answer it.
#[derive(Debug, Clone)]
pub struct UseCaseQuery {
    /// What the answer says.
    pub says: &'static str,
    /// Its language.
    pub language: Language,
    /// The query. `$instance` stands for the name of a database.
    pub query: String,
}

fn query(says: &'static str, language: Language, query: impl Into<String>) -> UseCaseQuery {
    UseCaseQuery {
        says,
        language,
        query: query.into(),
    }
}

/// All of them. Times are an hour and five minutes: outside of Grafana there is no time that is shown.
#[must_use]
pub fn use_cases() -> Vec<UseCase> {
    let creations =
        |metric, filter: &str| only(metric, &format!("orchestration_name=\"create-instance\"{filter}"));
    let ended = creations(Metric::OrchestrationDuration, "");
    vec![
        UseCase {
            question: "Why are creations failing?",
            queries: vec![
                query(
                    "by what sort of error, and what it was about",
                    PromQl,
                    sum_by(
                        "error_type, error_category",
                        counted(creations(Metric::OrchestrationFailures, ""), "1h"),
                    ),
                ),
                query(
                    "in which activity, of which class, and whether trying again can help",
                    PromQl,
                    sum_by(
                        "activity_name, error_type, error_code, retryable",
                        counted(Metric::ActivityErrors, "1h"),
                    ),
                ),
                query(
                    "in words",
                    LogQl,
                    r#"{service_name="toygres"} | orchestration_name="create-instance" | level=~"WARN|ERROR""#,
                ),
                query(
                    "call by call: all failed ones are kept",
                    TraceQl,
                    r#"{resource.service.name="toygres" && name="create-instance" && status=error}"#,
                ),
            ],
        },
        UseCase {
            question: "Why is creation slow?",
            queries: vec![
                query(
                    "how long 95 of 100 take",
                    PromQl,
                    quantile(
                        0.95,
                        "",
                        only(Metric::OperationDuration, r#"kind="create",outcome="succeeded""#),
                        "1h",
                    ),
                ),
                query(
                    "which phase it is",
                    PromQl,
                    quantile(0.95, "phase", Metric::ProvisionPhaseDuration, "1h"),
                ),
                query(
                    "which activity",
                    PromQl,
                    quantile(0.95, "activity_name", Metric::ActivityDuration, "1h"),
                ),
                query(
                    "whether it is the database of the orchestrations",
                    PromQl,
                    quantile(0.95, "operation", Metric::ProviderOperationDuration, "1h"),
                ),
                query(
                    "how many took longer than 5 minutes",
                    PromQl,
                    format!(
                        "{} - {}",
                        sum(counted(measured(ended.clone()), "1h")),
                        sum(counted(at_most(ended, "300"), "1h"))
                    ),
                ),
                query(
                    "call by call: all over 2 s are kept",
                    TraceQl,
                    r#"{resource.service.name="toygres" && name="create-instance"}"#,
                ),
            ],
        },
        UseCase {
            question: "How many workers are needed?",
            queries: vec![
                query(
                    "what waits",
                    PromQl,
                    told_by("worker_type", Metric::WorkerQueueDepth),
                ),
                query(
                    "how many seconds of work that is: the backlog by the rate",
                    PromQl,
                    work_off("5m"),
                ),
                query("how busy the workers are", PromQl, utilisation("5m")),
                query(
                    "how many would keep up, and work off what waits within a minute",
                    PromQl,
                    workers_needed("5m"),
                ),
            ],
        },
        UseCase {
            question: "Are we meeting 95 %?",
            queries: vec![
                query("in the last hour", PromQl, success("", "", "1h")),
                query(
                    "by orchestration",
                    PromQl,
                    success("", "orchestration_name", "1h"),
                ),
                query("in the last 7 days", PromQl, success("", "", "7d")),
                query(
                    "how many databases were made in the last hour",
                    PromQl,
                    sum(counted(
                        only(Metric::Operations, r#"kind="create",outcome="succeeded""#),
                        "1h",
                    )),
                ),
            ],
        },
        UseCase {
            question: "Which activity should be made faster first?",
            queries: vec![
                query(
                    "which took most time, all tries together",
                    PromQl,
                    sum_by("activity_name", counted(total(Metric::ActivityDuration), "1h")),
                ),
                query(
                    "which is slowest",
                    PromQl,
                    quantile(0.95, "activity_name", Metric::ActivityDuration, "1h"),
                ),
                query(
                    "which phase of a creation takes longest: a long wait is many short activities",
                    PromQl,
                    mean_by("phase", Metric::ProvisionPhaseDuration, "1h"),
                ),
            ],
        },
        UseCase {
            question: "Why is a user's instance stuck?",
            queries: vec![
                query(
                    "what was said about it",
                    LogQl,
                    r#"{service_name="toygres"} | instance_name="$instance" or instance_id="$instance""#,
                ),
                query(
                    "what was done for it: take instance_id from a line of the log",
                    TraceQl,
                    r#"{resource.service.name="toygres" && (span.instance_name="$instance" || span.instance_id="$instance")}"#,
                ),
                query(
                    "whether all creations wait in the same phase",
                    PromQl,
                    quantile(0.95, "phase", Metric::ProvisionPhaseDuration, "1h"),
                ),
                query(
                    "whether work waits for a worker",
                    PromQl,
                    told_by("worker_type", Metric::WorkerQueueAge),
                ),
                query(
                    "whether the database of the orchestrations is slow to hand out work",
                    PromQl,
                    quantile(
                        0.95,
                        "method",
                        only(Metric::ProviderOperationDuration, r#"operation="fetch""#),
                        "1h",
                    ),
                ),
            ],
        },
    ]
}
