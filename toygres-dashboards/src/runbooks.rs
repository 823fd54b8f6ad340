//! `docs/runbooks.md` as a dashboard, a panel an alert: what an alert links to opens where people look at it.

use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/runbooks.md");
/// Its address in Grafana.
pub const UID: &str = "toygres-runbooks";

/// An alert's runbook.
struct Runbook<'a> {
    alert: &'a str,
    text: &'a str,
}

fn runbooks() -> impl Iterator<Item = Runbook<'static>> {
    PAGE.split("\n### ").skip(1).filter_map(|section| {
        let (alert, text) = section.split_once('\n')?;
        // The next part of the page.
        let text = text.split("\n## ").next()?;
        Some(Runbook {
            alert,
            text: text.trim(),
        })
    })
}

/// As Grafana reads it. A panel's id is its place on the page: rules link to `?viewPanel=ID`.
#[must_use]
pub fn dashboard() -> Value {
    let mut y = 0;
    let panels: Vec<Value> = (1..)
        .zip(runbooks())
        .map(|(id, runbook)| {
            let height = runbook.text.lines().count() + 4;
            let place = json!({"x": 0, "y": y, "w": 24, "h": height});
            y += height;
            json!({
                "id": id,
                "type": "text",
                "title": runbook.alert,
                "gridPos": place,
                "options": {"mode": "markdown", "content": linked(runbook.text)},
            })
        })
        .collect();
    json!({
        "uid": UID,
        "title": "Runbooks",
        "description": "What is to be done at an alert? Made of docs/runbooks.md.",
        "tags": ["toygres", "runbooks"],
        "schemaVersion": 41,
        "editable": false,
        "panels": panels,
    })
}

/// With links from one runbook to another; those to other pages, which Grafana does not have, are their words alone.
fn linked(text: &str) -> String {
    let mut all = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        all.push_str(before);
        let link = after
            .split_once("](")
            .and_then(|(words, after)| Some((words, after.split_once(')')?)))
            // Else this bracket is that of a range in a query.
            .filter(|(words, _)| !words.contains(['[', '`']));
        rest = match link {
            None => {
                all.push('[');
                after
            }
            Some((words, (target, after))) => {
                let place = target.strip_prefix('#').and_then(|target| {
                    let alert = |runbook: Runbook<'_>| runbook.alert.to_lowercase() == target;
                    runbooks().position(alert)
                });
                match place {
                    Some(place) => all.push_str(&format!("[{words}](/d/{UID}?viewPanel={})", place + 1)),
                    None => all.push_str(words),
                }
                after
            }
        };
    }
    all + rest
}
