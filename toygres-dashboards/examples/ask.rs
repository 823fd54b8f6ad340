//! Asks everything that the dashboards ask, of what runs, and prints what came: a row for each query of each panel.
//!
//!     cargo run -p toygres-dashboards --example ask -- --prometheus http://localhost:9090 \
//!         --loki http://localhost:3100 --tempo http://localhost:3200 [--markdown FILE]
//!
//! Fails if a panel has no data that must have some.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints")]

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use toygres_dashboards::{Asked, Language, Look, panels, substitute};

type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "ask [--prometheus URL] [--loki URL] [--tempo URL] [--markdown FILE]";

/// What came of a query.
struct Answer {
    /// Series, lines or traces.
    count: usize,
    /// The last value of the first of them, the newest line, the newest trace.
    last: String,
}

struct Stack {
    http: reqwest::Client,
    prometheus: String,
    loki: String,
    tempo: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool> {
    let mut options = BTreeMap::from(
        [
            ("--prometheus", "http://localhost:9090"),
            ("--loki", "http://localhost:3100"),
            ("--tempo", "http://localhost:3200"),
            ("--markdown", ""),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let option = options.get_mut(&name);
        let (Some(option), Some(value)) = (option, arguments.next()) else {
            return Err(format!("{name} is not understood\n{USAGE}"));
        };
        *option = value;
    }
    let stack = Stack {
        http: reqwest::Client::new(),
        prometheus: options["--prometheus"].clone(),
        loki: options["--loki"].clone(),
        tempo: options["--tempo"].clone(),
    };

    let mut table = "| dashboard | panel | query | series | last value |\n|---|---|---|---|---|\n".to_owned();
    // Of each panel: how much came, and why it may be nothing.
    let mut came: BTreeMap<(String, String), (usize, Option<&str>)> = BTreeMap::new();
    let mut failed = Vec::new();
    for asked in panels() {
        let (board, title) = (asked.board.title(), asked.panel.title.as_str());
        let answer = stack.ask(&asked).await.unwrap_or_else(|error| {
            failed.push(format!("{board}: {title}: {error}"));
            Answer {
                count: 0,
                last: "error".to_owned(),
            }
        });
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let marks = if asked.query.text.contains('`') { "``" } else { "`" };
        let _ = writeln!(
            table,
            "| {board} | {title} | {marks}{}{marks} | {} | {} |",
            cell(&asked.query.text),
            answer.count,
            cell(&answer.last)
        );
        let panel = came.entry((board.to_owned(), title.to_owned())).or_default();
        *panel = (panel.0 + answer.count, asked.panel.may_be_empty);
    }
    println!("{table}");
    if !options["--markdown"].is_empty() {
        std::fs::write(&options["--markdown"], &table)
            .map_err(|e| format!("{}: {e}", options["--markdown"]))?;
    }
    let empty = came.iter().filter(|(_, (count, _))| *count == 0);
    for ((board, title), (_, why)) in empty {
        match why {
            Some(why) => eprintln!("no data, as may be: {board}: {title} ({why})"),
            None => failed.push(format!("{board}: {title}: no data")),
        }
    }
    for failure in &failed {
        eprintln!("error: {failure}");
    }
    let with_data = came.values().filter(|(count, _)| *count > 0).count();
    eprintln!("{with_data} of {} panels have data", came.len());
    Ok(failed.is_empty())
}

impl Stack {
    async fn ask(&self, asked: &Asked) -> Result<Answer> {
        let query = substitute(&asked.query.text).map_err(|name| format!("nobody knows ${name}"))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(|e| e.to_string())?
            .as_secs();
        let (range, step) = match asked.panel.over {
            Some(_) => (7 * 86_400, "3600"),
            None => (3600, "15"),
        };
        let (start, end) = ((now - range).to_string(), now.to_string());
        let over = [("start", start.as_str()), ("end", &end)];
        let at_once = matches!(
            asked.panel.look,
            Look::Stat | Look::Gauge | Look::Ranking | Look::Table
        );
        let kind = if at_once { "query" } else { "query_range" };
        let mut parameters = vec![("query", query.as_str())];
        if !at_once {
            parameters.extend(over);
            parameters.push(("step", step));
        }
        match asked.query.language {
            Language::PromQl | Language::ServiceMap => {
                let answer = self
                    .get(format!("{}/api/v1/{kind}", self.prometheus), &parameters)
                    .await?;
                Ok(numbers(&answer["data"]["result"]))
            }
            Language::LogQl => {
                let answer = self
                    .get(format!("{}/loki/api/v1/{kind}", self.loki), &parameters)
                    .await?;
                let result = &answer["data"]["result"];
                Ok(match asked.panel.look {
                    Look::Logs => lines(result),
                    _ => numbers(result),
                })
            }
            Language::TraceQl => {
                let mut parameters = vec![("q", query.as_str()), ("limit", "20")];
                parameters.extend(over);
                let answer = self
                    .get(format!("{}/api/search", self.tempo), &parameters)
                    .await?;
                let traces = list(&answer["traces"]);
                let last = traces.first().map_or_else(String::new, |trace| {
                    let name = trace["rootTraceName"].as_str().unwrap_or("?");
                    format!("{name}, {} ms", trace["durationMs"].as_u64().unwrap_or_default())
                });
                Ok(Answer {
                    count: traces.len(),
                    last,
                })
            }
        }
    }

    async fn get(&self, url: String, parameters: &[(&str, &str)]) -> Result<Value> {
        let request = self.http.get(&url).query(parameters);
        let answer = request.send().await.map_err(|e| format!("{url}: {e}"))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| format!("{url}: {e}"))?;
        if !status.is_success() {
            return Err(format!("{url}: {status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|e| format!("{url}: {e}: {text}"))
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The series that have a number, at one time or over time.
fn numbers(result: &Value) -> Answer {
    let number = |point: &Value| point[1].as_str()?.parse::<f64>().ok().filter(|n| !n.is_nan());
    let last: Vec<f64> = list(result)
        .iter()
        .filter_map(|series| {
            number(&series["value"]).or_else(|| list(&series["values"]).iter().rev().find_map(number))
        })
        .collect();
    Answer {
        count: last.len(),
        last: last.first().map_or_else(String::new, |n| format!("{n:.4}")),
    }
}

/// The lines of the log.
fn lines(result: &Value) -> Answer {
    let mut lines: Vec<(&str, &str)> = list(result)
        .iter()
        .flat_map(|stream| list(&stream["values"]))
        .filter_map(|line| Some((line[0].as_str()?, line[1].as_str()?)))
        .collect();
    lines.sort_unstable();
    Answer {
        count: lines.len(),
        last: lines
            .last()
            .map_or_else(String::new, |(_, line)| line.chars().take(60).collect()),
    }
}
