//! What can be chosen above a dashboard, and what stands for it where there is no Grafana.

use serde_json::{Value, json};
use toygres_telemetry::metric::Metric;

/// Something to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// Orchestrations, by name.
    Orchestration,
    /// Activities, by name.
    Activity,
    /// Levels of the log.
    Level,
    /// A database, by its id or name.
    Instance,
    /// A text.
    Search,
}

impl Variable {
    /// Its name in queries.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Orchestration => "orchestration",
            Self::Activity => "activity",
            Self::Level => "level",
            Self::Instance => "instance",
            Self::Search => "search",
        }
    }

    pub(crate) fn json(self) -> Value {
        let name = self.name();
        match self {
            Self::Orchestration => values(
                "Orchestration",
                name,
                Metric::OrchestrationStarts,
                "orchestration_name",
            ),
            Self::Activity => values("Activity", name, Metric::ActivityExecutions, "activity_name"),
            Self::Level => {
                let words = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
                let options = words.map(|word| json!({"selected": false, "text": word, "value": word}));
                json!({
                    "type": "custom", "name": name, "label": "Level", "query": words.join(","),
                    "options": options, "multi": true, "includeAll": true, "allValue": ".*",
                    "current": {"text": ["All"], "value": ["$__all"]},
                })
            }
            Self::Instance => text("Instance (id or name)", name),
            Self::Search => text("Text", name),
        }
    }
}

fn values(label: &str, name: &str, metric: Metric, of: &str) -> Value {
    let query = format!("label_values({},{of})", metric.definition().name);
    json!({
        "type": "query", "name": name, "label": label,
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "query": {"qryType": 1, "query": query, "refId": "variable"}, "refresh": 2, "sort": 1, "regex": "",
        "multi": true, "includeAll": true, "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]}, "options": [],
    })
}

fn text(label: &str, name: &str) -> Value {
    json!({
        "type": "textbox", "name": name, "label": label, "query": "", "current": {"text": "", "value": ""},
        "options": [{"selected": true, "text": "", "value": ""}],
    })
}

/// The query as Grafana would send it for a range of an hour, with everything chosen and nothing written.
///
/// # Errors
/// The name of a variable that nobody knows.
pub fn substitute(query: &str) -> Result<String, String> {
    let mut result = String::new();
    let mut rest = query;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        let inside = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        let (name, after) = inside.unwrap_or_else(|| {
            let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            after.split_at(after.find(is_end).unwrap_or(after.len()))
        });
        result.push_str(match name.split(':').next().unwrap_or_default() {
            "__range" => "1h",
            "__range_s" => "3600",
            "__interval" | "__rate_interval" | "__auto" => "1m",
            "orchestration" | "activity" | "level" => ".*",
            "instance" | "search" => "",
            _ => return Err(name.to_owned()),
        });
        rest = after;
    }
    result.push_str(rest);
    Ok(result)
}
