//! The alerting and recording rules: that they ask for what there is, and that each alert has a test, a runbook and a
//! dashboard. What they compute, promtool tests.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use toygres_telemetry::metric::{Kind, Metric};

/// Words of PromQL that the rules use.
const WORDS: &[&str] = &[
    "absent",
    "and",
    "bool",
    "by",
    "count",
    "group",
    "histogram_quantile",
    "increase",
    "last_over_time",
    "max",
    "max_over_time",
    "offset",
    "on",
    "or",
    "rate",
    "sum",
    "unless",
];

/// What Prometheus and the collector say of themselves.
const OTHERS: &[&str] = &[
    "otelcol_exporter_enqueue_failed_log_records",
    "otelcol_exporter_enqueue_failed_spans",
    "otelcol_exporter_send_failed_log_records",
    "otelcol_exporter_send_failed_spans",
    "prometheus_rule_evaluation_failures_total",
    "scrape_samples_scraped",
    "up",
];

/// Labels that series have beside those of the table.
const LABELS: &[&str] = &["exporter", "instance", "job", "le", "rule_group"];

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

struct Rule {
    name: String,
    is_alert: bool,
    text: String,
    expression: String,
}

/// The rules, by the lines of the file: one begins with its name, and an expression ends where the next key stands.
fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut in_expression = false;
    for line in read("observability/prometheus-rules.yml").lines() {
        let words = line.trim();
        if words.starts_with('#') {
            continue;
        }
        let named = ["- alert: ", "- record: "].map(|key| words.strip_prefix(key));
        if let Some(name) = named[0].or(named[1]) {
            rules.push(Rule {
                name: name.to_owned(),
                is_alert: named[0].is_some(),
                text: String::new(),
                expression: String::new(),
            });
            in_expression = false;
        }
        let Some(rule) = rules.last_mut() else { continue };
        rule.text += line;
        rule.text.push('\n');
        let indent = line.len() - line.trim_start().len();
        if let Some(rest) = words.strip_prefix("expr: ") {
            in_expression = true;
            rule.expression += rest.trim_start_matches('|');
        } else if in_expression && indent > 8 {
            rule.expression += words;
            rule.expression.push(' ');
        } else {
            in_expression = false;
        }
    }
    rules
}

/// The names in an expression: those of metrics, functions and operators, and those of labels.
fn names(expression: &str) -> (Vec<String>, Vec<String>) {
    let (mut names, mut labels) = (Vec::new(), Vec::new());
    // What is in quotes is no name.
    let bare: String = expression.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut rest = bare.as_str();
    let mut closes = None;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        if length == 0 {
            // The labels that are chosen, and those that are grouped and matched by.
            let grouped = names.last().is_some_and(|name| name == "by" || name == "on");
            if closes.is_none() {
                closes = match first {
                    '{' => Some('}'),
                    '(' if grouped => Some(')'),
                    '[' => Some(']'),
                    _ => None,
                };
                if grouped && first == '(' {
                    names.pop();
                }
            } else if closes == Some(first) {
                closes = None;
            }
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (name, after) = rest.split_at(length);
        rest = after;
        let offset = names.last().is_some_and(|name| name == "offset");
        if !first.is_ascii_digit() && closes != Some(']') {
            let to = if closes.is_some() { &mut labels } else { &mut names };
            to.push(name.to_owned());
        } else if offset {
            names.pop();
        }
    }
    (names, labels)
}

#[test]
fn names_are_found() {
    let (found, labels) =
        names(r#"sum by (a, b) (rate(m:x{c="d", e!~"f|g"}[5m] offset 15m)) > 0.5 and on (h) up"#);
    assert_eq!(found, ["sum", "rate", "m:x", "and", "up"]);
    assert_eq!(labels, ["a", "b", "c", "e", "h"]);
}

#[test]
fn rules_ask_for_metrics_and_labels_that_there_are() {
    let rules = rules();
    assert!(rules.len() > 40, "{} rules were found", rules.len());
    let mut known: BTreeSet<String> = WORDS.iter().chain(OTHERS).map(ToString::to_string).collect();
    let mut known_labels: BTreeSet<&str> = LABELS.iter().copied().collect();
    for metric in Metric::ALL {
        let definition = metric.definition();
        known_labels.extend(definition.labels);
        if let Kind::Histogram(_) = definition.kind {
            known.extend(["_bucket", "_sum", "_count"].map(|ending| format!("{}{ending}", definition.name)));
        } else {
            known.insert(definition.name.to_owned());
        }
    }
    known.extend(rules.iter().filter(|r| !r.is_alert).map(|r| r.name.clone()));
    for rule in &rules {
        let (names, labels) = names(&rule.expression);
        assert!(!names.is_empty(), "{} has no expression", rule.name);
        for name in names {
            assert!(
                known.contains(&name),
                "{} asks for {name}, which is not there",
                rule.name
            );
        }
        for label in labels {
            let is_known = known_labels.contains(label.as_str());
            assert!(
                is_known,
                "{} asks for the label {label}, which is not there",
                rule.name
            );
        }
    }
}

#[test]
fn alerts_say_what_to_do() {
    let runbooks = read("docs/runbooks.md");
    // Long lines are wrapped there.
    let tests = read("observability/tests/rules_test.yml");
    let tests = tests.split_whitespace().collect::<Vec<_>>().join(" ");
    let found: Vec<&str> = runbooks.lines().filter(|line| line.starts_with("### ")).collect();
    let mut headings = BTreeSet::new();
    for rule in rules().iter().filter(|rule| rule.is_alert) {
        let Rule { name, text, .. } = rule;
        let severities = ["severity: page", "severity: ticket"];
        assert!(
            severities.iter().any(|s| text.contains(s)),
            "{name} is neither page nor ticket"
        );
        for part in [
            "for: ",
            "summary: ",
            "description: ",
            "dashboard_url: http://localhost:3001/d/toygres-",
        ] {
            assert!(text.contains(part), "{name} has no {part}");
        }
        let heading = format!("### {name}");
        let place = found.iter().position(|other| *other == heading);
        let place = place.unwrap_or_else(|| panic!("{name} has no runbook")) + 1;
        // The place on the page is the panel's id on the dashboard that is made of it.
        let runbook = format!("runbook_url: http://localhost:3001/d/toygres-runbooks?viewPanel={place}\n");
        assert!(text.contains(&runbook), "{name}: {runbook}");
        assert!(headings.insert(heading), "{name} is there twice");
        let fires = format!("alertname=\"{name}\", alertstate=\"firing\"");
        assert!(tests.contains(&fires), "{name} has no test");
    }
    let found = found.into_iter().map(str::to_owned).collect();
    assert_eq!(headings, found, "the runbooks are not those of the alerts");
}
