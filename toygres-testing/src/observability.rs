//! The real OpenTelemetry Collector and Prometheus, with the configuration of `observability/`.

use crate::cluster::needed;
use crate::wait_for;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(60);

/// Where their programs are: `TOYGRES_TEST_COLLECTOR` and `TOYGRES_TEST_PROMETHEUS`, as `scripts/test.sh` sets them.
/// `None` without them, after saying that the test of this name is skipped.
pub fn observability_programs(test: &str) -> Option<(PathBuf, PathBuf)> {
    let collector = needed(test, "TOYGRES_TEST_COLLECTOR")?;
    Some((collector, needed(test, "TOYGRES_TEST_PROMETHEUS")?))
}

/// A collector and a Prometheus that fetches from it every second. They end when this is dropped.
pub struct Observability {
    directory: PathBuf,
    collector: PathBuf,
    ports: [u16; 6],
    children: Vec<Child>,
    http: reqwest::Client,
}

impl Observability {
    /// Starts both, with their files in `directory`, and waits until the one fetches from the other.
    pub async fn start((collector, prometheus): (PathBuf, PathBuf), directory: &Path) -> Self {
        let ports = [(); 6].map(|()| free_port());
        let mut this = Self {
            directory: directory.to_owned(),
            collector,
            ports,
            children: Vec::new(),
            http: reqwest::Client::new(),
        };
        this.start_collector().await;
        let [_, _, exported, _, own, prometheus_port] = ports;
        let configuration = std::fs::read_to_string(shared("prometheus.yml")).unwrap();
        let configuration = [
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("scrape_timeout: 10s", "scrape_timeout: 1s"),
        ]
        .into_iter()
        .fold(configuration, |text, (from, to)| {
            assert!(text.contains(from), "prometheus.yml has no {from}");
            text.replace(from, to)
        });
        let targets = [
            ("toygres", exported),
            ("otel-collector", own),
            ("prometheus", prometheus_port),
        ]
        .map(|(job, port)| json!({"labels": {"job": job}, "targets": [format!("127.0.0.1:{port}")]}));
        let targets = serde_json::to_string(&targets).unwrap();
        std::fs::write(directory.join("prometheus-targets.yml"), targets).unwrap();
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        let child = Command::new(prometheus)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{prometheus_port}"))
            .arg("--enable-feature=exemplar-storage")
            .stderr(log(directory, "prometheus.log"))
            .spawn()
            .unwrap();
        this.children.push(child);
        wait_for("Prometheus fetches from the collector", START_LIMIT, async || {
            let up = this.ask("up{job=\"toygres\"} == 1").await;
            up.filter(|series| !series.is_empty()).map(drop)
        })
        .await;
        this
    }

    async fn start_collector(&mut self) {
        let [grpc, http, exported, health, own, _] = self.ports.map(|port| port.to_string());
        let child = Command::new(&self.collector)
            .arg("--config")
            .arg(shared("otel-collector-config.yaml"))
            .arg("--config")
            .arg(shared("collector/test-config.yaml"))
            .env("TOYGRES_COLLECTOR_GRPC_PORT", grpc)
            .env("TOYGRES_COLLECTOR_HTTP_PORT", http)
            .env("TOYGRES_COLLECTOR_PROMETHEUS_PORT", exported)
            .env("TOYGRES_COLLECTOR_HEALTH_PORT", &health)
            .env("TOYGRES_COLLECTOR_TELEMETRY_PORT", own)
            .env("TOYGRES_TEST_TELEMETRY", &self.directory)
            .stderr(log(&self.directory, "collector.log"))
            .spawn()
            .unwrap();
        self.children.insert(0, child);
        let http = self.http.clone();
        wait_for("the collector", START_LIMIT, async || {
            let answer = http
                .get(format!("http://127.0.0.1:{health}/"))
                .send()
                .await
                .ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Where the collector takes OTLP/gRPC.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Kills the collector.
    pub fn kill_collector(&mut self) {
        let mut child = self.children.remove(0);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts it again.
    pub async fn restart_collector(&mut self) {
        self.start_collector().await;
    }

    /// What Prometheus answers a query: its series. None: it does not answer, or not yet.
    pub async fn ask(&self, query: &str) -> Option<Vec<Value>> {
        let answer = self.get("query", &[("query", query)]).await?;
        answer["data"]["result"].as_array().cloned()
    }

    /// The sum of the values of a query's series.
    pub async fn number(&self, query: &str) -> Option<f64> {
        let series = self.ask(query).await?;
        let value = |series: &Value| series["value"][1].as_str()?.parse::<f64>().ok();
        let values: Vec<f64> = series.iter().filter_map(value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The exemplars of a query of the last minutes.
    pub async fn exemplars(&self, query: &str) -> Vec<Value> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let (start, end) = ((now - 600).to_string(), (now + 10).to_string());
        let range = [("query", query), ("start", &start), ("end", &end)];
        let answer = self.get("query_exemplars", &range).await.unwrap_or_default();
        answer["data"].as_array().cloned().unwrap_or_default()
    }

    async fn get(&self, what: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/{what}", self.ports[5]);
        let answer = self.http.get(url).query(parameters).send().await.ok()?;
        answer.json().await.ok()
    }

    /// What the collector has written of `logs`, `traces` or `stored-traces`, as text: OTLP in JSON.
    pub fn written(&self, what: &str) -> String {
        std::fs::read_to_string(self.directory.join(format!("{what}.jsonl"))).unwrap_or_default()
    }
}

impl Drop for Observability {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../observability")
        .join(path)
}

fn log(directory: &Path, name: &str) -> Stdio {
    std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join(name))
        .unwrap()
        .into()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
