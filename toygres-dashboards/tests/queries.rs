//! Every query, of panels, links and pages, is read by the program that it is for.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;
use std::process::Command;
use toygres_dashboards::Language::{self, LogQl, PromQl, ServiceMap, TraceQl};
use toygres_dashboards::promql::{counted, sum_by};
use toygres_dashboards::{dashboards, document, panels, substitute, use_cases};
use toygres_telemetry::metric::Metric;
use toygres_testing::{Program, needed};

/// All queries in this language, and where they stand.
fn queries(language: Language) -> Vec<(String, String)> {
    let of_panels = panels()
        .filter(|asked| asked.query.language == language)
        .map(|asked| (asked.panel.title, asked.query.text));
    let mut all: Vec<(String, String)> = of_panels.collect();
    for case in use_cases() {
        let queries = case
            .queries
            .into_iter()
            .filter(|query| query.language == language);
        all.extend(queries.map(|query| (case.question.to_owned(), query.query)));
    }
    for dashboard in dashboards() {
        let title = dashboard.board.title();
        for panel in &dashboard.panels {
            let link = match language {
                LogQl => dashboard.logs,
                TraceQl => dashboard.traces_of(panel),
                PromQl | ServiceMap => continue,
            };
            all.push((format!("{title}: link of {}", panel.title), link.to_owned()));
        }
    }
    let page = document();
    let examples = page.lines().filter_map(|line| line.strip_prefix("    "));
    let examples = examples.filter(|line| match language {
        LogQl => line.contains("{service_name="),
        TraceQl => line.contains("{resource."),
        PromQl | ServiceMap => false,
    });
    all.extend(examples.map(|line| ("DASHBOARDS.md".to_owned(), line.to_owned())));
    for (_, query) in &mut all {
        *query = substitute(query).unwrap();
    }
    all
}

/// Puts every query to this address, with the parameter and others.
async fn all_are_read(language: Language, url: &str, parameter: &str, others: &[(&str, &str)]) {
    let http = reqwest::Client::new();
    let read = async |query: &str| {
        let request = http.get(url).query(&[(parameter, query)]).query(others);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (
            status.is_success(),
            format!("{status}: {}", answer.text().await.unwrap()),
        )
    };
    let (was_read, _) = read("sum(nonsense{").await;
    assert!(!was_read, "{url} takes anything");
    let queries = queries(language);
    assert!(!queries.is_empty());
    let mut wrong = Vec::new();
    for (place, query) in &queries {
        let (was_read, said) = read(query).await;
        if !was_read {
            wrong.push(format!("{place}: {query}\n    {said}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        queries.len(),
        wrong.join("\n")
    );
}

fn program(test: &str, variable: &str) -> Option<(PathBuf, tempfile::TempDir)> {
    let program = needed(&format!("queries::{test}"), variable)?;
    Some((program, tempfile::tempdir().unwrap()))
}

#[tokio::test]
async fn prometheus_reads_them() {
    let Some((program, directory)) = program("prometheus_reads_them", "TOYGRES_TEST_PROMETHEUS") else {
        return;
    };
    let file = directory.path().join("prometheus.yml");
    std::fs::write(&file, "scrape_configs: []\n").unwrap();
    let running = Program::prometheus(&program, &file, directory.path()).await;
    let url = &running.url;
    // Asked, not only read: what Prometheus finds wrong only then is found as well.
    all_are_read(PromQl, &format!("{url}/api/v1/query"), "query", &[]).await;
    all_are_read(ServiceMap, &format!("{url}/api/v1/query"), "query", &[]).await;
}

#[test]
fn what_is_rare_is_counted_from_its_first() {
    let Some((prometheus, directory)) = program(
        "what_is_rare_is_counted_from_its_first",
        "TOYGRES_TEST_PROMETHEUS",
    ) else {
        return;
    };
    // A failure of a new sort, one that goes on, and an old one that was not told for eleven minutes.
    let rules = format!(
        r#"
tests:
  - interval: 1m
    input_series:
      - {{series: 'duroxide_activity_errors_total{{activity_name="new"}}', values: '_x12 1x8'}}
      - {{series: 'duroxide_activity_errors_total{{activity_name="on"}}', values: '100+1x20'}}
      - {{series: 'duroxide_activity_errors_total{{activity_name="away"}}', values: '100x2 _x10 100x7'}}
    promql_expr_test:
      - expr: {}
        eval_time: 15m
        exp_samples:
          - {{labels: '{{activity_name="new"}}', value: 1}}
          - {{labels: '{{activity_name="on"}}', value: 5}}
          - {{labels: '{{activity_name="away"}}', value: 0}}
"#,
        sum_by("activity_name", counted(Metric::ActivityErrors, "5m"))
    );
    let file = directory.path().join("test.yml");
    std::fs::write(&file, rules).unwrap();
    let promtool = prometheus.with_file_name("promtool");
    let output = Command::new(promtool)
        .args(["test", "rules"])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn loki_reads_them() {
    let Some((program, directory)) = program("loki_reads_them", "TOYGRES_TEST_LOKI") else {
        return;
    };
    let running = Program::loki(&program, directory.path()).await;
    let others = [("since", "1h"), ("step", "60")];
    all_are_read(
        LogQl,
        &format!("{}/loki/api/v1/query_range", running.url),
        "query",
        &others,
    )
    .await;
}

#[tokio::test]
async fn tempo_reads_them() {
    let Some((program, directory)) = program("tempo_reads_them", "TOYGRES_TEST_TEMPO") else {
        return;
    };
    let (running, _) = Program::tempo(&program, directory.path()).await;
    all_are_read(
        TraceQl,
        &format!("{}/api/search", running.url),
        "q",
        &[("limit", "20")],
    )
    .await;
}
