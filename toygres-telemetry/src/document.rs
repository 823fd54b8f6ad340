//! `docs/metrics.md`, made of the table of metrics.

use crate::metric::{Definition, Family, Kind, Metric};
use std::fmt::Write as _;

const HEAD: &str = "\
# Metrics

Made from the program: `cargo test -p toygres-telemetry golden` says how to renew it. Every metric goes out by OTLP/gRPC
every ten seconds, cumulative; names and labels are the same in Prometheus, where a histogram is `_bucket`, `_sum` and
`_count`, and each series also has `service_name` and `service_version`, `job` (the same as `service_name`) and
`instance` (one a process).

- Names of orchestrations and activities are the kebab names alone (`create-instance`, `deploy-postgres`).
- No label holds an id of an instance, a user, a token or free text. A label has at most
  `DUROXIDE_METRICS_MAX_LABEL_VALUES` values, error codes 100, activities 500; what comes later is `other`. Values are cut
  after 100 characters.
- Counters live in the process and begin at zero with it: use `rate` and `increase`. Gauges \"from the database, by one
  node\" are told by the node that holds the sweeper's lease: use `max by`, since the series of the one before ends only
  a minute later.
- Histograms carry exemplars: for each bucket the last measurement whose trace is kept.
";

const REPLACED: &str = "\
## What the orchestration engine records itself

duroxide 0.1.32 records through the facade `metrics`. toygres installs no recorder for it, so that none of its series
leaves the process; those below are made by toygres from what passes the orchestration store, the client and the
activities.

| duroxide's series | what was wrong | here |
|---|---|---|
| `duroxide_orchestration_starts_total` | counts turns; no version at first; children are `client` | one an execution |
| `duroxide_orchestration_completions_total` | turns always `1-5`; cancelled is `failed`; continuing as new is a completion | right; executions of every end are in `duroxide_orchestration_executions_total` |
| `duroxide_orchestration_failures_total`, `..._infrastructure_errors_total`, `..._configuration_errors_total` | each counted twice, once without a name | counted once |
| `duroxide_orchestration_duration_seconds` | time of the last turn | from the beginning of an execution to its end |
| `duroxide_orchestration_turns` | always 1 | counted in the history |
| `duroxide_orchestration_history_size` | right | as there |
| `duroxide_orchestration_continue_as_new_total` | label `execution_id`, without bound | without that label |
| `duroxide_active_orchestrations` | falls below zero | counted in the database |
| `duroxide_orchestration_poison_total`, `duroxide_activity_poison_total` | without names | with names |
| `duroxide_activity_executions_total` | attempt always 0; a second series without names; the engine's own calls | right; without label `tag` |
| `duroxide_activity_duration_seconds` | label `tag`; the engine's own calls | without them |
| `duroxide_activity_infrastructure_errors_total`, `..._configuration_errors_total` | without names | with names |
| `duroxide_provider_operation_duration_seconds` | not of clients; empty looks among the rest | every call; empty looks are `fetch_empty` |
| `duroxide_provider_errors_total` | always `other` | by what the server says |
| `duroxide_orchestrator_queue_depth`, `duroxide_worker_queue_depth` | every 60 s, by a query that counts all history | `duroxide_worker_queue_depth{worker_type}` and `duroxide_worker_queue_age_seconds`, every 10 s |
| `duroxide_orchestration_dispatcher_*`, `duroxide_worker_dispatcher_*`, `duroxide_orchestration_success_rate` | declared, never recorded | left out: rates are made of counters |
| the others of the tables above | declared, never recorded | recorded |

`duroxide_storage_*` of older documents is `duroxide_provider_*`.
";

/// The document.
#[must_use]
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    for (family, title, switch) in [
        (
            Family::Orchestration,
            "Orchestrations",
            "DUROXIDE_METRICS_ORCHESTRATION",
        ),
        (Family::Activity, "Activities", "DUROXIDE_METRICS_ACTIVITY"),
        (
            Family::Provider,
            "Orchestration store",
            "DUROXIDE_METRICS_PROVIDER",
        ),
        (Family::Worker, "Workers", "DUROXIDE_METRICS_WORKER"),
        (Family::Toygres, "toygres", ""),
    ] {
        // Writing to a string can't fail.
        let _ = writeln!(text, "\n## {title}\n");
        if !switch.is_empty() {
            let _ = writeln!(text, "Off with `{switch}=false`.\n");
        }
        let _ = writeln!(text, "| metric | type | labels | meaning |\n|---|---|---|---|");
        let of_family = Metric::ALL
            .iter()
            .map(|metric| metric.definition())
            .filter(|definition| definition.family == family);
        for definition in of_family {
            row(&mut text, definition);
        }
    }
    let _ = writeln!(text, "\n{REPLACED}");
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn row(text: &mut String, definition: &Definition) {
    let Definition {
        name,
        kind,
        labels,
        help,
        ..
    } = definition;
    let kind = match kind {
        Kind::Histogram(bounds) => {
            let bounds: Vec<String> = bounds.iter().map(f64::to_string).collect();
            format!("histogram {}", bounds.join(" "))
        }
        kind => kind.as_str().to_owned(),
    };
    let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
    let _ = writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_metrics_document() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let expected = document();
        if std::fs::read_to_string(path).unwrap_or_default() == expected {
            return;
        }
        let new = std::env::temp_dir().join("metrics.md");
        std::fs::write(&new, expected).unwrap();
        panic!(
            "docs/metrics.md is not what the program says: copy {} there",
            new.display()
        );
    }
}
