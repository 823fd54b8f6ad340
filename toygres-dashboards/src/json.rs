//! Dashboards as Grafana 11 and later read them.

use crate::panel::{Language, Look, Panel, Query};
use crate::{Board, Dashboard};
use serde_json::{Value, json};

/// The least time that a bar stands for: four scrapes.
const LEAST_BAR: &str = "1m";

pub(crate) fn dashboard(dashboard: &Dashboard) -> Value {
    let board = dashboard.board;
    let variables: Vec<Value> = dashboard
        .variables
        .iter()
        .map(|variable| variable.json())
        .collect();
    json!({
        "uid": board.uid(),
        "title": board.title(),
        "description": board.question(),
        "tags": ["toygres", board.tag()],
        "schemaVersion": 41,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {"refresh_intervals": ["10s", "30s", "1m", "5m"]},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [{
            "type": "dashboards", "title": "Dashboards", "tags": ["toygres"], "asDropdown": true,
            "includeVars": true, "keepTime": true, "icon": "external link", "targetBlank": false, "tooltip": "",
            "url": "",
        }],
        "templating": {"list": variables},
        "panels": panels(dashboard),
    })
}

/// From left to right, and then below.
fn panels(dashboard: &Dashboard) -> Vec<Value> {
    let (mut x, mut y, mut height) = (0, 0, 0);
    let mut placed = Vec::new();
    for (n, panel) in (1..).zip(&dashboard.panels) {
        let (w, h) = panel.size;
        if x + w > 24 {
            (x, y, height) = (0, y + height, 0);
        }
        let mut json = match panel.look {
            Look::Heading => json!({"type": "row", "title": panel.title, "collapsed": false, "panels": []}),
            _ => self::panel(dashboard, panel),
        };
        json["id"] = json!(n);
        json["gridPos"] = json!({"x": x, "y": y, "w": w, "h": h});
        placed.push(json);
        x += w;
        height = height.max(h);
    }
    placed
}

fn panel(dashboard: &Dashboard, panel: &Panel) -> Value {
    let mut description = format!("{}\n\n**When it looks bad:** {}", panel.means, panel.act);
    if panel.next != dashboard.board {
        let next = format!(
            "\n\n**Then look at** [{}](/d/{}).",
            panel.next.title(),
            panel.next.uid()
        );
        description.push_str(&next);
    }
    let mut json = json!({
        "type": kind(panel.look),
        "title": panel.title,
        "description": description,
        "datasource": source(panel.queries.first().map_or(Language::PromQl, |query| query.language)),
        "targets": targets(panel),
        "links": links(dashboard, panel),
        "fieldConfig": {"defaults": defaults(panel), "overrides": overrides(panel)},
        "options": options(panel),
    });
    if let Look::Bars | Look::Heatmap = panel.look {
        json["interval"] = json!(LEAST_BAR);
    }
    if panel.look == Look::Table {
        json["transformations"] = transformations(panel);
    }
    if let Some(time) = panel.over {
        json["timeFrom"] = json!(time);
    }
    json
}

fn kind(look: Look) -> &'static str {
    match look {
        Look::Stat => "stat",
        Look::Gauge => "gauge",
        Look::Lines | Look::Bars => "timeseries",
        Look::Heatmap => "heatmap",
        Look::Ranking => "bargauge",
        Look::Table | Look::Traces | Look::Spans => "table",
        Look::Logs => "logs",
        Look::Graph => "nodeGraph",
        Look::Heading => "row",
    }
}

fn source(language: Language) -> Value {
    let name = match language {
        Language::PromQl => "prometheus",
        Language::LogQl => "loki",
        Language::TraceQl | Language::ServiceMap => "tempo",
    };
    json!({"type": name, "uid": name})
}

fn targets(panel: &Panel) -> Vec<Value> {
    ('A'..)
        .zip(&panel.queries)
        .map(|(id, query)| {
            let mut target = target(panel, query);
            target["refId"] = json!(id.to_string());
            target["datasource"] = source(query.language);
            target
        })
        .collect()
}

fn target(panel: &Panel, query: &Query) -> Value {
    let Query { text, legend, .. } = query;
    let now = matches!(panel.look, Look::Stat | Look::Gauge | Look::Ranking | Look::Table);
    match query.language {
        Language::PromQl => json!({
            "expr": text,
            "legendFormat": if panel.look == Look::Heatmap { "{{le}}" } else { legend },
            "editorMode": "code",
            "instant": now,
            "range": !now,
            "format": match panel.look {
                Look::Heatmap => "heatmap",
                Look::Table => "table",
                _ => "time_series",
            },
            "exemplar": !now && text.contains("_bucket"),
        }),
        Language::LogQl => json!({
            "expr": text,
            "legendFormat": legend,
            "editorMode": "code",
            "queryType": if now { "instant" } else { "range" },
        }),
        Language::TraceQl => json!({
            "query": text,
            "queryType": "traceql",
            "tableType": if panel.look == Look::Spans { "spans" } else { "traces" },
            "limit": 20,
            "filters": [],
        }),
        Language::ServiceMap => json!({"queryType": "serviceMap", "filters": []}),
    }
}

/// To the logs, to the traces, and to the dashboard that says more.
fn links(dashboard: &Dashboard, panel: &Panel) -> Vec<Value> {
    let link = |title: &str, url: String| json!({"title": title, "url": url, "targetBlank": true});
    let mut links = vec![
        link("Logs", explore(Language::LogQl, dashboard.logs)),
        link("Traces", explore(Language::TraceQl, dashboard.traces_of(panel))),
    ];
    if panel.next != dashboard.board {
        links.push(link(panel.next.title(), url(panel.next)));
    }
    links
}

fn url(board: Board) -> String {
    format!("/d/{}?${{__url_time_range}}", board.uid())
}

/// Grafana's Explore, with this query, in the time that the dashboard shows.
fn explore(language: Language, query: &str) -> String {
    let query = ["orchestration", "activity", "level"]
        .into_iter()
        .fold(query.to_owned(), |query, name| {
            query.replace(&format!("${name}"), &format!("${{{name}:regex}}"))
        });
    let ask = match language {
        Language::TraceQl | Language::ServiceMap => {
            let source = source(language);
            json!({"refId": "A", "datasource": source, "queryType": "traceql", "tableType": "traces", "query": query})
        }
        Language::PromQl | Language::LogQl => {
            json!({"refId": "A", "datasource": source(language), "expr": query})
        }
    };
    let panes = json!({"a": {
        "datasource": source(language)["uid"],
        "queries": [ask],
        "range": {"from": "${__from}", "to": "${__to}"},
    }});
    format!(
        "/explore?schemaVersion=1&orgId=1&panes={}",
        percent_encoded(&panes.to_string())
    )
}

/// All but what Grafana puts a value for.
fn percent_encoded(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, (inside, after))) = rest
        .split_once("${")
        .and_then(|(before, after)| Some((before, after.split_once('}')?)))
    {
        encode(before, &mut result);
        result.push_str(&format!("${{{inside}}}"));
        rest = after;
    }
    encode(rest, &mut result);
    result
}

fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => into.push(byte.into()),
            _ => into.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn defaults(panel: &Panel) -> Value {
    let mut steps = vec![json!({"color": panel.base, "value": null})];
    steps.extend(
        panel
            .colours
            .iter()
            .map(|(value, color)| json!({"color": color, "value": value})),
    );
    let is_line = matches!(panel.look, Look::Lines | Look::Bars);
    let mut defaults = json!({
        "unit": panel.unit,
        "min": 0,
        "noValue": "none in this time",
        "mappings": [{
            "type": "special", "options": {"match": "nan", "result": {"text": "none in this time", "index": 0}},
        }],
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": if is_line { "palette-classic" } else { "thresholds" }},
        "links": data_links(panel),
        "custom": custom(panel),
    });
    if panel.unit == "percentunit" {
        defaults["max"] = json!(1);
    }
    defaults
}

fn custom(panel: &Panel) -> Value {
    let is_bars = panel.look == Look::Bars;
    match panel.look {
        Look::Lines | Look::Bars => json!({
            "drawStyle": if is_bars { "bars" } else { "line" },
            "lineInterpolation": "linear",
            "lineWidth": if is_bars { 0 } else { 2 },
            "fillOpacity": if is_bars { 80 } else { 10 },
            "showPoints": "auto",
            "pointSize": 4,
            // What is measured now and then is joined up, what ended is not.
            "spanNulls": 300_000,
            "stacking": {"mode": if is_bars { "normal" } else { "none" }, "group": "A"},
            "thresholdsStyle": {"mode": if panel.colours.is_empty() { "off" } else { "dashed" }},
            "axisSoftMin": 0,
        }),
        Look::Table => json!({"align": "auto", "filterable": true, "cellOptions": {"type": "auto"}}),
        _ => json!({}),
    }
}

/// From a name to the dashboard about what is named.
fn data_links(panel: &Panel) -> Vec<Value> {
    [
        ("orchestration_name", Board::Orchestrations, "orchestration"),
        ("activity_name", Board::Activities, "activity"),
    ]
    .into_iter()
    .filter(|(label, ..)| {
        let grouped = |query: &Query| {
            query.language == Language::PromQl && query.legend.contains(&format!("{{{{{label}}}}}"))
        };
        panel.queries.iter().any(grouped)
    })
    .map(|(label, board, variable)| {
        let url = format!("{}&var-{variable}=${{__field.labels.{label}}}", url(board));
        json!({"title": format!("{} of this one", board.title()), "url": url})
    })
    .collect()
}

fn overrides(panel: &Panel) -> Vec<Value> {
    panel
        .queries
        .iter()
        .filter_map(|query| {
            let unit = query.unit?;
            Some(json!({
                "matcher": {"id": "byName", "options": query.legend},
                "properties": [{"id": "unit", "value": unit}],
            }))
        })
        .collect()
}

/// One row for the same labels, the columns named by their queries.
fn transformations(panel: &Panel) -> Value {
    let names: serde_json::Map<String, Value> = ('A'..)
        .zip(&panel.queries)
        .map(|(id, query)| {
            let column = match panel.queries.len() {
                1 => "Value".to_owned(),
                _ => format!("Value #{id}"),
            };
            (column, json!(query.legend))
        })
        .collect();
    json!([
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": true}, "indexByName": {}, "renameByName": names}},
    ])
}

fn options(panel: &Panel) -> Value {
    let reduce = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
    match panel.look {
        Look::Stat => json!({
            "reduceOptions": reduce, "colorMode": "value", "graphMode": "none", "justifyMode": "auto",
            "orientation": "auto", "textMode": "auto", "wideLayout": true, "showPercentChange": false,
        }),
        Look::Gauge => json!({
            "reduceOptions": reduce, "orientation": "auto", "showThresholdLabels": false, "showThresholdMarkers": true,
            "sizing": "auto",
        }),
        Look::Ranking => json!({
            "reduceOptions": reduce, "displayMode": "gradient", "orientation": "horizontal", "showUnfilled": true,
            "valueMode": "color", "namePlacement": "auto", "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16,
        }),
        Look::Lines | Look::Bars => json!({
            "legend": {
                "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }),
        Look::Heatmap => json!({
            "calculate": false, "cellGap": 1, "showValue": "never", "rowsFrame": {"layout": "auto"},
            "color": {
                "mode": "scheme", "scheme": "Oranges", "scale": "exponential", "exponent": 0.5, "steps": 64,
                "fill": "dark-orange", "reverse": false,
            },
            "yAxis": {"axisPlacement": "left", "unit": panel.unit, "reverse": false},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": true},
            "tooltip": {"mode": "single", "yHistogram": true, "showColorScale": false},
        }),
        Look::Table | Look::Traces | Look::Spans => json!({"showHeader": true, "cellHeight": "sm"}),
        Look::Logs => json!({
            "showTime": true, "wrapLogMessage": true, "enableLogDetails": true, "sortOrder": "Descending",
            "dedupStrategy": "none", "prettifyLogMessage": false, "showLabels": false, "showCommonLabels": false,
        }),
        Look::Graph => json!({"nodes": {}, "edges": {}}),
        Look::Heading => json!({}),
    }
}
