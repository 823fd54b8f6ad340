//! The cluster: what is seen of instances there, and instances that `kubectl` makes of the same manifests.

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::task::JoinSet;
use toygres_testing::wait_for;
use uuid::Uuid;

/// The password of every instance.
pub(crate) const PASSWORD: &str = "benchmark";
/// Room for a slow machine; what is measured takes far less.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// A client's pause between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(20);
const INSTANCE_ID: &str = "toygres.io/instance-id";
/// In place of `app.kubernetes.io/managed-by=toygres`, so that toygres does not see it.
const OWN: &str = "toygres-bench";

/// When something of an instance was first seen, and where it is to be reached.
#[derive(Default, Clone)]
pub(crate) struct Seen {
    address: Option<String>,
    /// In the order that they come.
    pub(crate) pod: [(&'static str, Option<Instant>); 4],
}

/// See the module.
pub(crate) struct Cluster {
    kubectl: PathBuf,
    namespace: String,
    seen: Arc<Mutex<HashMap<String, Seen>>>,
    _watches: JoinSet<()>,
}

impl Cluster {
    pub(crate) async fn watch(kubeconfig: &Path, kubectl: PathBuf, namespace: &str) -> Self {
        let file = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let seen: Arc<Mutex<HashMap<String, Seen>>> = Arc::default();
        let mut watches = JoinSet::new();
        watches.spawn(follow(&client, namespace, seen.clone(), note_pod));
        watches.spawn(follow(&client, namespace, seen.clone(), note_service));
        Self {
            kubectl,
            namespace: namespace.to_owned(),
            seen,
            _watches: watches,
        }
    }

    pub(crate) fn seen(&self, id: &str) -> Seen {
        self.seen.lock().unwrap().get(id).cloned().unwrap_or_default()
    }

    /// Waits for the answer to a query, as a client that begins to try as soon as the service has an address.
    pub(crate) async fn first_query(&self, id: &str) -> Instant {
        let address = wait_for("the service's address", PATIENCE, || async {
            self.seen(id).address
        })
        .await;
        let options = PgConnectOptions::new_without_pgpass()
            .host(&address)
            .port(5432)
            .username("postgres")
            .password(PASSWORD)
            .database("postgres")
            .ssl_mode(PgSslMode::Require)
            .disable_statement_logging();
        let begun = Instant::now();
        let mut tries = tokio::time::interval(TRY_AGAIN);
        loop {
            tries.tick().await;
            let query = async {
                let mut connection = PgConnection::connect_with(&options).await?;
                sqlx::query("select 1").execute(&mut connection).await
            };
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), query).await {
                return Instant::now();
            }
            assert!(begun.elapsed() < PATIENCE, "{address} does not answer");
        }
    }

    /// Runs kubectl in the namespace.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new(&self.kubectl);
        command.args(["--namespace", &self.namespace]).args(arguments);
        let output = command.kill_on_drop(true).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {said}");
        output.stdout
    }

    /// The objects of an instance that toygres has made, as somebody would have them in a file.
    pub(crate) async fn manifests(&self, id: &str, object_name: &str) -> Manifests {
        let of_it = format!("{INSTANCE_ID}={id}");
        let kinds = "secrets,persistentvolumeclaims,services,networkpolicies,statefulsets";
        let list = self.kubectl(&["get", kinds, "-l", &of_it, "-o", "json"]).await;
        let list: Value = serde_json::from_slice(&list).unwrap();
        let mut objects = list["items"].as_array().unwrap().clone();
        objects.iter_mut().for_each(strip);
        Manifests {
            objects,
            id: id.to_owned(),
            object_name: object_name.to_owned(),
        }
    }

    /// Removes what was made of manifests, and waits until it is gone.
    pub(crate) async fn remove_own(&self) {
        let kinds = "statefulsets,pods,services,networkpolicies,secrets,persistentvolumeclaims";
        let own = format!("app.kubernetes.io/managed-by={OWN}");
        self.kubectl(&["delete", kinds, "-l", &own, "--grace-period=2"])
            .await;
    }
}

/// See [`Cluster::manifests`].
pub(crate) struct Manifests {
    objects: Vec<Value>,
    id: String,
    object_name: String,
}

impl Manifests {
    /// The same for so many new instances, as one file's text; and their ids.
    pub(crate) fn copies(&self, count: usize) -> (String, Vec<String>) {
        let text = serde_json::to_string(&self.objects).unwrap();
        let ids: Vec<String> = (0..count).map(|_| Uuid::new_v4().to_string()).collect();
        let copies = ids.iter().flat_map(|id| {
            let copy = text
                .replace(&self.id, id)
                .replace(&self.object_name, &format!("bare-{}", &id[..8]))
                .replace(
                    r#""app.kubernetes.io/managed-by":"toygres""#,
                    &format!(r#""app.kubernetes.io/managed-by":"{OWN}""#),
                );
            serde_json::from_str::<Vec<Value>>(&copy).unwrap()
        });
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": copies.collect::<Vec<_>>() });
        (list.to_string(), ids)
    }
}

/// Takes away what the cluster has added.
fn strip(object: &mut Value) {
    let fields = object.as_object_mut().unwrap();
    fields.remove("status");
    let metadata = fields["metadata"].as_object_mut().unwrap();
    metadata.retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "labels" | "annotations"));
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, _| key.starts_with("toygres.io/"));
        // It says that there is a database already.
        annotations.remove("toygres.io/holds-data");
    }
    if let Some(data) = fields.get_mut("data").and_then(Value::as_object_mut) {
        data.remove("holds-data");
    }
    let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    spec.remove("volumeName");
    spec.remove("clusterIPs");
    if spec.get("clusterIP").is_some_and(|address| address != "None") {
        spec.remove("clusterIP");
    }
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        port.as_object_mut().unwrap().remove("nodePort");
    }
}

async fn watch_all<K>(api: Api<K>, mut note: impl FnMut(K))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let objects = watcher(api, watcher::Config::default()).default_backoff();
    let mut objects = std::pin::pin!(objects.applied_objects());
    while let Some(object) = objects.next().await {
        if let Ok(object) = object {
            note(object);
        }
    }
}

fn follow<K>(
    client: &Client,
    namespace: &str,
    seen: Arc<Mutex<HashMap<String, Seen>>>,
    note: fn(&mut Seen, &K),
) -> impl Future<Output = ()> + Send + use<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    watch_all(Api::<K>::namespaced(client.clone(), namespace), move |object| {
        if let Some(id) = object.labels().get(INSTANCE_ID) {
            note(seen.lock().unwrap().entry(id.clone()).or_default(), &object);
        }
    })
}

fn note_service(seen: &mut Seen, service: &Service) {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    if let Some(address) = address.filter(|address| address != "None") {
        seen.address = Some(address);
    }
}

fn note_pod(seen: &mut Seen, pod: &Pod) {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let scheduled = conditions
        .iter()
        .any(|condition| condition.type_ == "PodScheduled" && condition.status == "True");
    let container = status.container_statuses.unwrap_or_default().pop();
    let running = container
        .as_ref()
        .and_then(|container| container.state.as_ref())
        .is_some_and(|state| state.running.is_some());
    let started = container.is_some_and(|container| container.started == Some(true));
    let now = Instant::now();
    let reached = [
        ("pod_made_ms", true),
        ("pod_scheduled_ms", scheduled),
        ("container_running_ms", running),
        ("container_started_ms", started),
    ];
    for (place, (name, reached)) in seen.pod.iter_mut().zip(reached) {
        place.0 = name;
        if reached {
            place.1.get_or_insert(now);
        }
    }
}
