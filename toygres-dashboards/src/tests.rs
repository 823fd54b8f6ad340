//! The files are what the program says, and the dashboards keep to their rules.

use super::*;
use crate::promql::Other;
use std::collections::BTreeSet;
use std::path::Path;
use toygres_telemetry::metric::{Definition, Kind, Metric};

#[test]
fn golden_dashboards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../observability");
    let mut files = vec![("DASHBOARDS.md".to_owned(), document())];
    for dashboard in dashboards() {
        let name = format!("grafana/dashboards/{}.json", dashboard.board.uid());
        files.push((name, format!("{:#}\n", dashboard.json())));
    }
    files.push((
        format!("grafana/dashboards/{}.json", runbooks::UID),
        format!("{:#}\n", runbooks::dashboard()),
    ));
    let new = std::env::temp_dir().join("toygres-dashboards");
    let mut differ = Vec::new();
    for (name, expected) in &files {
        if std::fs::read_to_string(root.join(name)).unwrap_or_default() != *expected {
            let file = new.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, expected).unwrap();
            differ.push(name.as_str());
        }
    }
    assert!(
        differ.is_empty(),
        "{differ:?} in observability/ are not what the program says: cp -r {}/. observability/",
        new.display()
    );
    let there = std::fs::read_dir(root.join("grafana/dashboards"))
        .unwrap()
        .count();
    assert_eq!(there, Board::ALL.len() + 1, "a file that no dashboard is made of");
}

#[test]
fn a_runbook_leads_to_others_and_keeps_its_queries() {
    let dashboard = runbooks::dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let text = |alert: &str| {
        let panel = panels.iter().find(|panel| panel["title"] == alert).unwrap();
        (panel["id"].clone(), panel["options"]["content"].as_str().unwrap())
    };
    let (id, _) = text("ToygresCrashLoop");
    let (_, poison) = text("DuroxidePoison");
    assert!(
        poison.contains(&format!("[crash loop](/d/toygres-runbooks?viewPanel={id})")),
        "{poison}"
    );
    let (_, failures) = text("DuroxideFailureRateHigh");
    assert!(
        failures.contains("[30m]") && !failures.contains("].md"),
        "{failures}"
    );
    // Of the last of a part nothing of the next part.
    assert!(panels.iter().all(|panel| !panel.to_string().contains("\n## ")));
}

#[test]
fn each_panel_says_what_people_need() {
    let mut titles = BTreeSet::new();
    for dashboard in dashboards() {
        let board = dashboard.board.title();
        assert!(titles.insert(board), "{board} is there twice");
        let mut questions = BTreeSet::new();
        for panel in dashboard
            .panels
            .iter()
            .filter(|panel| panel.look != Look::Heading)
        {
            let title = &panel.title;
            assert!(questions.insert(title), "{board}: {title} is there twice");
            assert!(title.ends_with('?'), "{board}: {title}");
            assert!(
                panel.means.ends_with('.') && panel.act.ends_with('.'),
                "{board}: {title}"
            );
            assert!(
                !panel.unit.is_empty() && !panel.queries.is_empty(),
                "{board}: {title}"
            );
            let sorted = panel.colours.is_sorted_by(|a, b| a.0 <= b.0);
            assert!(sorted, "{board}: {title}: colours");
        }
    }
}

#[test]
fn panels_lie_beside_each_other() {
    for dashboard in dashboards() {
        let json = dashboard.json();
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in json["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()));
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|of| panel["gridPos"][of].as_u64().unwrap());
            assert!(w > 0 && h > 0 && x + w <= 24, "{}", panel["title"]);
            for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(place), "{} lies on another", panel["title"]);
            }
        }
    }
}

/// All queries in PromQL, and where they are.
fn promql() -> Vec<(String, String)> {
    let of_panels = panels()
        .filter(|asked| matches!(asked.query.language, Language::PromQl | Language::ServiceMap))
        .map(|asked| {
            (
                format!("{}: {}", asked.board.title(), asked.panel.title),
                asked.query.text,
            )
        });
    let of_cases = use_cases().into_iter().flat_map(|case| {
        let queries = case.queries.into_iter();
        queries
            .filter(|query| query.language == Language::PromQl)
            .map(move |query| (case.question.to_owned(), query.query))
    });
    of_panels.chain(of_cases).collect()
}

/// The names of series in a query, each with the labels that it is chosen by, and the labels of all groups.
fn names(query: &str) -> (BTreeSet<(String, Vec<String>)>, Vec<String>) {
    let (mut series, mut groups) = (BTreeSet::new(), Vec::new());
    let labels = |text: &str, separator: &[char]| {
        let label = |part: &str| part.split(separator).next().unwrap().trim().to_owned();
        text.split(',').map(label).collect::<Vec<_>>()
    };
    let mut rest = query;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '"' | '$' | '['))
    {
        rest = &rest[start..];
        let skip = match rest.as_bytes()[0] {
            b'"' => rest[1..].find('"').unwrap() + 2,
            b'[' => rest.find(']').unwrap(),
            _ => 0,
        };
        if skip > 0 {
            rest = &rest[skip..];
            continue;
        }
        let end = rest[1..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
            .map_or(rest.len(), |end| end + 1);
        let (name, after) = rest.split_at(end);
        rest = after;
        if let Some(inside) = after.strip_prefix('{') {
            let (filter, after) = inside.split_once('}').unwrap();
            series.insert((name.to_owned(), labels(filter, &['=', '!'])));
            rest = after;
        } else if name == "by" {
            let (by, after) = after.trim_start_matches([' ', '(']).split_once(')').unwrap();
            groups.extend(labels(by, &[]));
            rest = after;
        } else if name.contains('_') && !after.starts_with('(') && !name.starts_with('$')
            || matches!(name, "up" | "ALERTS")
        {
            series.insert((name.to_owned(), Vec::new()));
        }
    }
    (series, groups)
}

/// The labels of a series.
fn labels_of(name: &str) -> Option<Vec<&'static str>> {
    let is = |known: &str, is_histogram: bool| {
        let part = name.strip_prefix(known);
        match is_histogram {
            true => part.is_some_and(|part| ["_bucket", "_count", "_sum"].contains(&part)),
            false => part == Some(""),
        }
    };
    let own = Metric::ALL.iter().map(|metric| metric.definition());
    let own = own.map(|known| (known.name, known.labels, matches!(known.kind, Kind::Histogram(_))));
    let others = Other::ALL.iter();
    let others = others.map(|known| (known.name, known.labels, known.name.ends_with("_seconds")));
    own.chain(others)
        .find(|(known, _, is_histogram)| is(known, *is_histogram))
        .map(|(_, labels, _)| labels.to_vec())
}

#[test]
fn queries_name_what_there_is() {
    const OF_THE_PIPELINE: [&str; 5] = ["le", "instance", "job", "service_name", "service_version"];
    for (place, query) in promql() {
        let (series, groups) = names(&query);
        assert!(!series.is_empty(), "{place}: {query}");
        let mut known = OF_THE_PIPELINE.to_vec();
        for (name, filters) in &series {
            let labels = labels_of(name).unwrap_or_else(|| panic!("{place}: there is no {name}: {query}"));
            for filter in filters {
                let is_known =
                    labels.contains(&filter.as_str()) || OF_THE_PIPELINE.contains(&filter.as_str());
                assert!(is_known, "{place}: {name} has no label {filter}");
            }
            known.extend(labels);
        }
        for group in groups {
            assert!(
                known.contains(&group.as_str()),
                "{place}: no label {group}: {query}"
            );
        }
    }
}

#[test]
fn wrong_names_are_seen() {
    let (series, groups) =
        names(r#"sum by (le, phase) (rate(a_b{x="y_z",w!="1"}[5m])) or on() vector(0) / up"#);
    let expected = [("a_b", vec!["x", "w"]), ("up", vec![])];
    let expected =
        expected.map(|(name, labels)| (name.to_owned(), labels.iter().map(|l| l.to_string()).collect()));
    assert_eq!(series, BTreeSet::from(expected));
    assert_eq!(groups, ["le", "phase"]);
    assert_eq!(labels_of("toygres_nothing"), None);
    assert_eq!(
        labels_of("duroxide_activity_duration_seconds"),
        None,
        "a histogram has no such series"
    );
}

#[test]
fn every_metric_is_on_a_dashboard() {
    let shown: BTreeSet<String> = promql()
        .iter()
        .flat_map(|(_, query)| names(query).0)
        .map(|(name, _)| name)
        .collect();
    for metric in Metric::ALL {
        let Definition { name, kind, .. } = metric.definition();
        let shown = match kind {
            Kind::Histogram(_) => shown.contains(&format!("{name}_bucket")),
            Kind::Counter | Kind::Gauge => shown.contains(*name),
        };
        assert!(shown, "{name} is on no dashboard");
    }
}

#[test]
fn variables_are_there_to_be_chosen() {
    let chosen = ["orchestration", "activity", "level", "instance", "search"];
    for dashboard in dashboards() {
        let names: Vec<&str> = dashboard
            .variables
            .iter()
            .map(|variable| variable.name())
            .collect();
        for panel in &dashboard.panels {
            let texts = panel.queries.iter().map(|query| query.text.as_str());
            for text in texts.chain([dashboard.logs, dashboard.traces_of(panel)]) {
                substitute(text).unwrap_or_else(|name| panic!("{}: ${name}", panel.title));
                for name in chosen.iter().filter(|name| !names.contains(name)) {
                    let is_used = text.contains(&format!("${name}")) || text.contains(&format!("${{{name}"));
                    assert!(!is_used, "{}: {}: ${name}", dashboard.board.title(), panel.title);
                }
            }
        }
        for name in names {
            let is_used = dashboard
                .panels
                .iter()
                .flat_map(|panel| &panel.queries)
                .any(|query| {
                    query.text.contains(&format!("${name}")) || query.text.contains(&format!("${{{name}"))
                });
            assert!(is_used, "{}: ${name} changes nothing", dashboard.board.title());
        }
    }
}

#[test]
fn links_are_read_by_grafana_as_they_were_meant() {
    let dashboards = dashboards();
    let board = dashboards
        .iter()
        .find(|d| d.board == Board::Orchestrations)
        .unwrap();
    let json = board.json();
    let link = json["panels"][0]["links"][0]["url"].as_str().unwrap();
    assert!(
        link.starts_with("/explore?schemaVersion=1&orgId=1&panes=%7B%22a%22")
            && link.contains("orchestration_name%3D~%5C%22${orchestration:regex}%5C%22")
            && link.contains("%22from%22%3A%22${__from}%22"),
        "{link}"
    );
}
