//! The real programs of the observability stack, with the configuration of `observability/`.

use crate::cluster::needed;
use crate::wait_for;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const START_LIMIT: Duration = Duration::from_secs(120);

/// Where the collector and Prometheus are: `TOYGRES_TEST_COLLECTOR` and `TOYGRES_TEST_PROMETHEUS`, as `scripts/test.sh`
/// sets them. `None` without them, after saying that the test of this name is skipped.
pub fn observability_programs(test: &str) -> Option<(PathBuf, PathBuf)> {
    let collector = needed(test, "TOYGRES_TEST_COLLECTOR")?;
    Some((collector, needed(test, "TOYGRES_TEST_PROMETHEUS")?))
}

/// The same of Loki and Tempo.
pub fn store_programs(test: &str) -> Option<(PathBuf, PathBuf)> {
    let loki = needed(test, "TOYGRES_TEST_LOKI")?;
    Some((loki, needed(test, "TOYGRES_TEST_TEMPO")?))
}

/// One of the programs. It ends when this is dropped.
pub struct Program {
    /// Where it answers.
    pub url: String,
    child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Program {
    /// Starts it with its log in `directory`, and waits until it answers at this path of this port.
    pub async fn start(command: &mut Command, directory: &Path, port: u16, ready: &str) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let file = directory.join("log");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&file)
            .unwrap();
        let child = command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let ready = format!("{url}{ready}");
        let mut this = Self { url, child };
        wait_for(&ready, START_LIMIT, || {
            let ended = this.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "it ended: {}",
                std::fs::read_to_string(&file).unwrap()
            );
            let asked = reqwest::get(ready.clone());
            async { asked.await.ok()?.error_for_status().ok().map(drop) }
        })
        .await;
        this
    }

    /// Loki or Tempo, with its data in `directory`. Also the port where it takes OTLP/gRPC.
    async fn store(program: &Path, name: &str, file: &str, directory: &Path) -> (Self, u16) {
        let prefix = format!("TOYGRES_{name}");
        let [port, grpc, otlp] = free_ports();
        let mut command = Command::new(program);
        command
            .arg(format!("-config.file={}", shared(file).display()))
            .arg("-config.expand-env=true")
            .env(format!("{prefix}_PORT"), port.to_string())
            .env(format!("{prefix}_GRPC_PORT"), grpc.to_string())
            .env(format!("{prefix}_OTLP_PORT"), otlp.to_string())
            .env(format!("{prefix}_DATA"), directory);
        (Self::start(&mut command, directory, port, "/ready").await, otlp)
    }

    /// Loki.
    pub async fn loki(program: &Path, directory: &Path) -> Self {
        Self::store(program, "LOKI", "loki-config.yaml", directory)
            .await
            .0
    }

    /// Tempo, and the port where it takes OTLP/gRPC.
    pub async fn tempo(program: &Path, directory: &Path) -> (Self, u16) {
        Self::store(program, "TEMPO", "tempo.yaml", directory).await
    }

    /// Prometheus with this configuration.
    pub async fn prometheus(program: &Path, configuration: &Path, directory: &Path) -> Self {
        let [port] = free_ports();
        Self::prometheus_at(port, program, configuration, directory).await
    }

    async fn prometheus_at(port: u16, program: &Path, configuration: &Path, directory: &Path) -> Self {
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--enable-feature=exemplar-storage");
        Self::start(&mut command, directory, port, "/-/ready").await
    }

    /// What it answers to a query, if it does.
    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        let request = reqwest::Client::new()
            .get(format!("{}{path}", self.url))
            .query(parameters);
        request.send().await.ok()?.json().await.ok()
    }
}

/// A collector and a Prometheus that fetches from it; with [`Observability::start_whole`] also Loki and Tempo. They end when
/// this is dropped.
pub struct Observability {
    directory: PathBuf,
    collector_program: PathBuf,
    /// OTLP/gRPC, OTLP/HTTP, metrics, health, own metrics.
    ports: [u16; 5],
    collector: Option<Program>,
    prometheus: Program,
    stores: Option<Stores>,
}

struct Stores {
    loki: Program,
    tempo: Program,
    tempo_port: u16,
}

impl Observability {
    /// Starts the collector, which writes logs and traces to files, and Prometheus, which fetches every second, with all
    /// they have in `directory`.
    pub async fn start((collector, prometheus): (PathBuf, PathBuf), directory: &Path) -> Self {
        Self::start_with(collector, &prometheus, None, directory).await
    }

    /// Starts all, as in production: nothing comes sooner.
    pub async fn start_whole(
        (collector, prometheus): (PathBuf, PathBuf),
        (loki, tempo): (PathBuf, PathBuf),
        directory: &Path,
    ) -> Self {
        let loki = Program::loki(&loki, &directory.join("loki")).await;
        let (tempo, tempo_port) = Program::tempo(&tempo, &directory.join("tempo")).await;
        let stores = Stores {
            loki,
            tempo,
            tempo_port,
        };
        Self::start_with(collector, &prometheus, Some(stores), directory).await
    }

    async fn start_with(
        collector_program: PathBuf,
        prometheus: &Path,
        stores: Option<Stores>,
        directory: &Path,
    ) -> Self {
        let [ports @ .., prometheus_port] = free_ports::<6>();
        let [_, _, exported, _, own] = ports;
        let mut configuration = std::fs::read_to_string(shared("prometheus.yml")).unwrap();
        if stores.is_none() {
            for (from, to) in [
                ("scrape_interval: 15s", "scrape_interval: 1s"),
                ("scrape_timeout: 10s", "scrape_timeout: 1s"),
            ] {
                assert!(configuration.contains(from), "prometheus.yml has no {from}");
                configuration = configuration.replace(from, to);
            }
        }
        let targets = [
            ("toygres", exported),
            ("otel-collector", own),
            ("prometheus", prometheus_port),
        ]
        .map(|(job, port)| json!({"labels": {"job": job}, "targets": [format!("127.0.0.1:{port}")]}));
        let targets = serde_json::to_string(&targets).unwrap();
        std::fs::write(directory.join("prometheus-targets.yml"), targets).unwrap();
        std::fs::copy(
            shared("prometheus-rules.yml"),
            directory.join("prometheus-rules.yml"),
        )
        .unwrap();
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        let prometheus =
            Program::prometheus_at(prometheus_port, prometheus, &file, &directory.join("prometheus")).await;
        let mut this = Self {
            directory: directory.to_owned(),
            collector_program,
            ports,
            collector: None,
            prometheus,
            stores,
        };
        this.restart_collector().await;
        wait_for("Prometheus fetches from the collector", START_LIMIT, async || {
            let up = this.ask("up{job=\"toygres\"} == 1").await;
            up.filter(|series| !series.is_empty()).map(drop)
        })
        .await;
        this
    }

    /// Where the collector takes OTLP/gRPC.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Kills the collector.
    pub fn kill_collector(&mut self) {
        self.collector = None;
    }

    /// Starts it again.
    pub async fn restart_collector(&mut self) {
        let [grpc, http, exported, health, own] = self.ports.map(|port| port.to_string());
        let mut command = Command::new(&self.collector_program);
        command
            .arg("--config")
            .arg(shared("otel-collector-config.yaml"))
            .env("TOYGRES_COLLECTOR_GRPC_PORT", grpc)
            .env("TOYGRES_COLLECTOR_HTTP_PORT", http)
            .env("TOYGRES_COLLECTOR_PROMETHEUS_PORT", exported)
            .env("TOYGRES_COLLECTOR_HEALTH_PORT", health)
            .env("TOYGRES_COLLECTOR_TELEMETRY_PORT", own);
        match &self.stores {
            Some(stores) => command
                .env("TOYGRES_LOKI_ENDPOINT", format!("{}/otlp", stores.loki.url))
                .env(
                    "TOYGRES_TEMPO_ENDPOINT",
                    format!("127.0.0.1:{}", stores.tempo_port),
                ),
            None => command
                .arg("--config")
                .arg(shared("collector/test-config.yaml"))
                .env("TOYGRES_TEST_TELEMETRY", &self.directory),
        };
        let directory = self.directory.join("collector");
        self.collector = Some(Program::start(&mut command, &directory, self.ports[3], "/").await);
    }

    /// What Prometheus answers a query: its series. None: it does not answer, or not yet.
    pub async fn ask(&self, query: &str) -> Option<Vec<Value>> {
        let answer = self.prometheus.get("/api/v1/query", &[("query", query)]).await?;
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (start, end) = ((now - 600).to_string(), (now + 10).to_string());
        let range = [("query", query), ("start", &start), ("end", &end)];
        let answer = self.prometheus.get("/api/v1/query_exemplars", &range).await;
        answer.unwrap_or_default()["data"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// The streams that Loki finds of the last hour.
    ///
    /// # Panics
    /// Without Loki.
    pub async fn streams(&self, query: &str) -> Option<Vec<Value>> {
        let loki = &self.stores.as_ref().unwrap().loki;
        let parameters = [("query", query), ("since", "1h"), ("limit", "1000")];
        let answer = loki.get("/loki/api/v1/query_range", &parameters).await?;
        answer["data"]["result"].as_array().cloned()
    }

    /// The traces that Tempo finds.
    ///
    /// # Panics
    /// Without Tempo.
    pub async fn traces(&self, query: &str) -> Option<Vec<Value>> {
        let tempo = &self.stores.as_ref().unwrap().tempo;
        let answer = tempo.get("/api/search", &[("q", query), ("limit", "20")]).await?;
        answer["traces"].as_array().cloned()
    }

    /// What the collector has written of `logs`, `traces` or `stored-traces`, as text: OTLP in JSON.
    pub fn written(&self, what: &str) -> String {
        std::fs::read_to_string(self.directory.join(format!("{what}.jsonl"))).unwrap_or_default()
    }
}

fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../observability")
        .join(path)
}

/// `COUNT` ports that are free, no two alike. Nothing holds them.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
