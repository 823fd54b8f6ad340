//! What a server on Kubernetes costs, beside `kubectl apply` of the same manifests in the same run. Called by
//! `scripts/bench.sh`, which makes the namespaces, and removes them with all that is in them.
//!
//! Clients connect to the services' cluster IPs: it runs where those can be reached, such as on a node. Arguments:
//! `--json FILE`, `--program PROGRAM` (toygres), `--kubectl PROGRAM`, `--kubeconfig FILE`, `--namespace NAME`,
//! `--namespace-of-many NAME`, `--node-label KEY` (of no node yet), and optionally `--rounds N`, `--parallel N`,
//! `--parallel-rounds N`, `--wait-seconds N`, `--many N`, `--idle-seconds N`. A part that is asked for 0 times is left
//! out.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic and prints"
)]

mod cluster;
mod server;

use chrono::Utc;
use cluster::{Cluster, Manifests, PATIENCE};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use server::{Server, own_cpu_seconds};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use toygres_models::operations::Reason;
use toygres_models::{InstanceId, Secret};
use toygres_platform::kubernetes::{KubernetesConfig, KubernetesPlatform};
use toygres_platform::{InstanceSpec, Observation, Platform, Storage};
use toygres_server::config::{ConfigOverrides, PlatformKind, ServerConfig};
use toygres_testing::proxy::FaultProxy;
use toygres_testing::{TestHome, wait_for};

/// How many are made at once where that is not what is measured.
const WORKERS: usize = 16;

/// Times by name, in milliseconds.
type Times = BTreeMap<String, f64>;

/// What all parts need.
struct Bench {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
    node_label: String,
    cluster: Cluster,
    /// Where `kubectl` finds its files.
    files: TestHome,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)).cloned()
    };
    let text = |name: &str| value(name).unwrap_or_else(|| panic!("{name} is missing"));
    let number = |name: &str, default: usize| value(name).map_or(default, |text| text.parse().unwrap());
    let kubeconfig = PathBuf::from(text("--kubeconfig"));
    let namespace = text("--namespace");
    let bench = Bench {
        program: text("--program").into(),
        cluster: Cluster::watch(&kubeconfig, text("--kubectl").into(), &namespace).await,
        kubeconfig,
        namespace,
        node_label: text("--node-label"),
        files: TestHome::new(),
    };
    let mut result = serde_json::Map::new();
    let (rounds, at_once) = (number("--rounds", 10), number("--parallel", 20));
    if rounds > 0 || at_once > 0 {
        let server = bench.server(TestHome::new(), &[]).await;
        let manifests = bench.manifests(&server).await;
        if rounds > 0 {
            result.insert(
                "create".to_owned(),
                bench.create(&server, &manifests, rounds).await,
            );
        }
        if at_once > 0 {
            let rounds = number("--parallel-rounds", 3);
            let at_once = bench.at_once(&server, &manifests, at_once, rounds).await;
            result.insert("at_once".to_owned(), at_once);
        }
        server.stop().await;
    }
    let seconds = number("--wait-seconds", 30);
    if seconds > 0 {
        result.insert("api_calls".to_owned(), bench.calls(seconds as u64).await);
    }
    let many = number("--many", 500);
    if many > 0 {
        let idle = Duration::from_secs(number("--idle-seconds", 30) as u64);
        let namespace = text("--namespace-of-many");
        result.insert("many".to_owned(), bench.many(&namespace, many, idle).await);
    }
    let result = serde_json::to_string_pretty(&result).unwrap();
    if let Some(file) = value("--json") {
        std::fs::write(file, &result).unwrap();
    }
    println!("{result}");
}

impl Bench {
    async fn server(&self, home: TestHome, settings: &[(&str, &str)]) -> Server {
        let mut all = vec![("TOYGRES_KUBERNETES_NAMESPACE", self.namespace.as_str())];
        all.extend(settings);
        Server::start(&self.program, home, &all).await
    }

    /// Of the first instance, which also has everything warm.
    async fn manifests(&self, server: &Server) -> Manifests {
        let accepted = server.create("template").await;
        server.succeeded(&accepted).await;
        let id = accepted.instance.id;
        let object_name = format!("template-{}", id.short());
        let manifests = self.cluster.manifests(&id.to_string(), &object_name).await;
        server.succeeded(&server.delete("template").await).await;
        manifests
    }

    /// From the command to the first answered query; both in turn.
    async fn create(&self, server: &Server, manifests: &Manifests, rounds: usize) -> Value {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        let mut cpu = [0.0; 2];
        for round in 0..rounds {
            // Who goes second meets what the first has left to the disk: so each is first in turn.
            for kubectl in [round % 2 == 0, round % 2 != 0] {
                if kubectl {
                    bare.push(self.one_bare(manifests).await);
                } else {
                    ours.push(
                        self.one_of_ours(server, &format!("bench-{round}"), &mut cpu)
                            .await,
                    );
                }
            }
        }
        let pairs = bare.iter().zip(&ours);
        let overheads = pairs.map(|(bare, ours)| ours["first_query_ms"] - bare["first_query_ms"]);
        let overhead = median(overheads.collect());
        let (bare, ours) = (medians(&bare), medians(&ours));
        json!({
            "rounds": rounds,
            "overhead_ms": overhead,
            "ratio": ours["first_query_ms"] / bare["first_query_ms"],
            "kubectl": bare,
            "toygres": ours,
            "server_cpu_seconds_each": cpu[0] / rounds as f64,
            "database_cpu_seconds_each": cpu[1] / rounds as f64,
            "server_peak_memory_mib": server.peak_memory_mib(),
        })
    }

    async fn one_bare(&self, manifests: &Manifests) -> Times {
        let (text, ids) = manifests.copies(1);
        let file = self.write(&text);
        rustix::fs::sync();
        let begun = Instant::now();
        let arguments = ["apply", "-f", &file];
        let apply = async {
            self.cluster.kubectl(&arguments).await;
            begun.elapsed()
        };
        let (applied, answered) = tokio::join!(apply, self.cluster.first_query(&ids[0]));
        let mut times = self.times(begun, &ids[0], answered).await;
        times.insert("command_ms".to_owned(), milliseconds(applied));
        self.cluster.remove_own().await;
        times
    }

    async fn one_of_ours(&self, server: &Server, name: &str, cpu: &mut [f64; 2]) -> Times {
        let before = server.cpu_seconds();
        rustix::fs::sync();
        let (begun, begun_at) = (Instant::now(), Utc::now());
        let accepted = server.create(name).await;
        let posted = begun.elapsed();
        let id = accepted.instance.id.to_string();
        let answered = self.cluster.first_query(&id).await;
        let operation = server.succeeded(&accepted).await;
        let after = server.cpu_seconds();
        for (sum, (after, before)) in cpu.iter_mut().zip(after.iter().zip(before)) {
            *sum += after - before;
        }
        let mut times = self.times(begun, &id, answered).await;
        times.insert("command_ms".to_owned(), milliseconds(posted));
        let since = |time: chrono::DateTime<Utc>| (time - begun_at).as_seconds_f64() * 1000.0;
        times.insert("succeeded_ms".to_owned(), since(operation.finished_at.unwrap()));
        for step in operation.steps {
            times.insert(format!("step_{}_begun_ms", step.name), since(step.started_at));
            times.insert(
                format!("step_{}_ended_ms", step.name),
                since(step.finished_at.unwrap()),
            );
        }
        let begun = Instant::now();
        let accepted = server.delete(name).await;
        server.succeeded(&accepted).await;
        times.insert(
            "delete_to_nothing_left_ms".to_owned(),
            milliseconds(begun.elapsed()),
        );
        times
    }

    /// What was seen of an instance that answers, and when.
    async fn times(&self, begun: Instant, id: &str, answered: Instant) -> Times {
        let pod = wait_for("the pod's start to be told", PATIENCE, || async {
            let pod = self.cluster.seen(id).pod;
            pod.iter().all(|(_, at)| at.is_some()).then_some(pod)
        })
        .await;
        let seen = pod.into_iter().filter_map(|(name, at)| Some((name, at?)));
        seen.chain([("first_query_ms", answered)])
            .map(|(name, at)| (name.to_owned(), milliseconds(at - begun)))
            .collect()
    }

    /// Many at once, until the last one answers its first query; both in turn.
    async fn at_once(&self, server: &Server, manifests: &Manifests, count: usize, rounds: usize) -> Value {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for kubectl in [round % 2 == 0, round % 2 != 0] {
                if kubectl {
                    bare.push(self.bare_at_once(manifests, count).await);
                } else {
                    ours.push(self.ours_at_once(server, round, count).await);
                }
            }
        }
        let (bare, ours) = (medians(&bare), medians(&ours));
        json!({
            "at_once": count,
            "rounds": rounds,
            "ratio": ours["last_first_query_ms"] / bare["last_first_query_ms"],
            "kubectl": bare,
            "toygres": ours,
        })
    }

    async fn bare_at_once(&self, manifests: &Manifests, count: usize) -> Times {
        let (text, ids) = manifests.copies(count);
        let file = self.write(&text);
        rustix::fs::sync();
        let begun = Instant::now();
        let arguments = ["apply", "-f", &file];
        let apply = async {
            self.cluster.kubectl(&arguments).await;
            begun.elapsed()
        };
        let answers = join_all(ids.iter().map(|id| self.cluster.first_query(id)));
        let (applied, answered) = tokio::join!(apply, answers);
        let times = at_once_times(begun, applied, &answered);
        self.cluster.remove_own().await;
        times
    }

    async fn ours_at_once(&self, server: &Server, round: usize, count: usize) -> Times {
        let names: Vec<String> = (0..count).map(|n| format!("many-{round}-{n}")).collect();
        rustix::fs::sync();
        let (begun, begun_at) = (Instant::now(), Utc::now());
        let created = names.iter().map(|name| async {
            let accepted = server.create(name).await;
            let posted = begun.elapsed();
            let answered = self.cluster.first_query(&accepted.instance.id.to_string()).await;
            (accepted, posted, answered)
        });
        let created = join_all(created).await;
        let posted = created.iter().map(|(_, posted, _)| *posted).max().unwrap();
        let answered: Vec<Instant> = created.iter().map(|(.., answered)| *answered).collect();
        let mut times = at_once_times(begun, posted, &answered);
        let ended = created.iter().map(|(accepted, ..)| server.succeeded(accepted));
        let last = join_all(ended)
            .await
            .into_iter()
            .filter_map(|operation| operation.finished_at);
        let succeeded = (last.max().unwrap() - begun_at).as_seconds_f64() * 1000.0;
        times.insert("last_succeeded_ms".to_owned(), succeeded);
        let begun = Instant::now();
        join_all(names.iter().map(|name| async {
            let accepted = server.delete(name).await;
            server.succeeded(&accepted).await;
        }))
        .await;
        times.insert(
            "delete_to_nothing_left_ms".to_owned(),
            milliseconds(begun.elapsed()),
        );
        times
    }

    /// What is asked of the API server for a create that nothing hinders, for one that waits for a node, in the time
    /// after them, and for a delete.
    async fn calls(&self, seconds: u64) -> Value {
        let proxy = FaultProxy::start(&self.kubeconfig).await;
        let home = TestHome::new();
        let kubeconfig = write_kubeconfig(&proxy, home.path());
        let selector = format!("{}=yes", self.node_label);
        let settings = [
            ("KUBECONFIG", kubeconfig.to_str().unwrap()),
            ("TOYGRES_KUBERNETES_NODE_SELECTOR", &selector),
            ("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "5"),
        ];
        let server = self.server(home, &settings).await;
        self.label_nodes(&selector).await;
        let wait = Duration::from_secs(seconds);

        proxy.reset_requests();
        server.succeeded(&server.create("quick").await).await;
        let quick = count(&proxy);
        proxy.reset_requests();
        // The first health check is followed by the note that there is a database now.
        tokio::time::sleep(wait).await;
        let after_it = count(&proxy);
        proxy.reset_requests();
        tokio::time::sleep(wait).await;
        let idle = count(&proxy);
        proxy.reset_requests();
        server.succeeded(&server.delete("quick").await).await;
        let delete = count(&proxy);

        self.label_nodes(&format!("{}-", self.node_label)).await;
        proxy.reset_requests();
        let accepted = server.create("waiting").await;
        tokio::time::sleep(wait).await;
        self.label_nodes(&selector).await;
        server.succeeded(&accepted).await;
        let waiting = count(&proxy);
        server.succeeded(&server.delete("waiting").await).await;
        server.stop().await;
        json!({
            "seconds": seconds,
            "create": quick,
            "create_that_waits_for_a_node": waiting,
            "more_for_waiting": but_watches(&waiting).saturating_sub(but_watches(&quick)),
            "after_the_create": after_it,
            "one_instance_idle": idle,
            "delete": delete,
        })
    }

    async fn label_nodes(&self, label: &str) {
        self.cluster
            .kubectl(&["label", "nodes", "--all", "--overwrite", label])
            .await;
    }

    /// Many instances that no node takes: all but the servers themselves.
    async fn many(&self, namespace: &str, many: usize, idle: Duration) -> Value {
        let proxy = FaultProxy::start(&self.kubeconfig).await;
        let config = KubernetesConfig {
            kubeconfig: Some(write_kubeconfig(&proxy, self.files.path())),
            namespace: Some(namespace.to_owned()),
            node_selector: BTreeMap::from([(self.node_label.clone(), "none".to_owned())]),
            ..configured()
        };
        let platform = KubernetesPlatform::open(config.clone()).await.unwrap();
        let specs: Vec<InstanceSpec> = (0..many)
            .map(|n| InstanceSpec {
                id: InstanceId::generate(),
                name: format!("many-{n}").parse().unwrap(),
                postgres_version: platform.versions()[0],
                password: Secret::new(cluster::PASSWORD.to_owned()),
                storage_size_gb: 1,
                cpu: None,
                memory_mb: None,
                internal: true,
                namespace: None,
            })
            .collect();
        let begun = Instant::now();
        stream::iter(&specs)
            .for_each_concurrent(WORKERS, |spec| async {
                platform.ensure(spec, Storage::Create).await.unwrap();
            })
            .await;
        let ensured = begun.elapsed();
        let calls_each = proxy.requests().len() as f64 / many as f64;
        for spec in &specs {
            let reference = spec.reference();
            wait_for("the scheduler's word", PATIENCE, || async {
                let seen = platform.observe(&reference).await.unwrap();
                matches!(
                    seen,
                    Observation::NotReady {
                        reason: Reason::Unschedulable,
                        ..
                    }
                )
                .then_some(())
            })
            .await;
        }
        proxy.reset_requests();
        let begun = Instant::now();
        assert_eq!(platform.list().await.unwrap().len(), many);
        let listed = begun.elapsed();
        let begun = Instant::now();
        for spec in &specs {
            platform.observe(&spec.reference()).await.unwrap();
        }
        let observed = begun.elapsed();
        let calls = count(&proxy)["all"];
        let before = (own_cpu_seconds(), Instant::now());
        tokio::time::sleep(idle).await;
        let core = (own_cpu_seconds() - before.0) / before.1.elapsed().as_secs_f64();
        proxy.reset_requests();
        let begun = Instant::now();
        drop(KubernetesPlatform::open(config).await.unwrap());
        let opened = begun.elapsed();
        json!({
            "instances": many,
            "ensure_each_ms": milliseconds(ensured) / many as f64,
            "ensure_api_calls_each": calls_each,
            "list_ms": milliseconds(listed),
            "observe_each_ms": milliseconds(observed) / many as f64,
            "api_calls_of_list_and_observes": calls,
            "idle_core_percent": core * 100.0,
            "start_ms": milliseconds(opened),
        })
    }

    fn write(&self, text: &str) -> String {
        let file = self.files.path().join("manifests.json");
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }
}

/// What the environment says of instances.
fn configured() -> KubernetesConfig {
    let overrides = ConfigOverrides {
        platform: Some("kubernetes".to_owned()),
        ..ConfigOverrides::default()
    };
    match ServerConfig::load(overrides).unwrap().platform {
        PlatformKind::Kubernetes(config) => *config,
        PlatformKind::Local => unreachable!("it was asked for the other"),
    }
}

/// A kubeconfig of the way through the proxy.
fn write_kubeconfig(proxy: &FaultProxy, directory: &Path) -> PathBuf {
    let url = proxy.config().cluster_url.to_string();
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "proxy", "cluster": { "server": url } }],
        "contexts": [{ "name": "proxy", "context": { "cluster": "proxy", "user": "proxy" } }],
        "users": [{ "name": "proxy", "user": {} }],
        "current-context": "proxy",
    });
    let file = directory.join("kubeconfig");
    std::fs::write(&file, kubeconfig.to_string()).unwrap();
    file
}

/// The calls that were made, by verb, watches included: a watch that stays costs one call now and then.
fn count(proxy: &FaultProxy) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::from([("all".to_owned(), 0)]);
    for request in proxy.requests() {
        for verb in ["all".to_owned(), format!("{:?}", request.verb).to_lowercase()] {
            *calls.entry(verb).or_default() += 1;
        }
    }
    calls
}

/// All but watches, which are renewed whatever happens.
fn but_watches(calls: &BTreeMap<String, u64>) -> u64 {
    calls["all"] - calls.get("watch").copied().unwrap_or(0)
}

fn at_once_times(begun: Instant, command: Duration, answered: &[Instant]) -> Times {
    let answered: Vec<f64> = answered.iter().map(|at| milliseconds(*at - begun)).collect();
    let last = answered.iter().copied().fold(0.0, f64::max);
    BTreeMap::from([
        ("command_ms".to_owned(), milliseconds(command)),
        ("last_first_query_ms".to_owned(), last),
        ("median_first_query_ms".to_owned(), median(answered)),
    ])
}

fn medians(rounds: &[Times]) -> Times {
    let names = rounds[0].keys();
    names
        .map(|name| {
            let of_it = rounds.iter().map(|times| times[name]).collect();
            (name.clone(), median(of_it))
        })
        .collect()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
