//! Kubernetes for tests: a namespace of its own for each, in the cluster of `TOYGRES_TEST_KUBECONFIG`.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "each test program uses its part, and tests panic"
)]

use async_trait::async_trait;
use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams, PropagationPolicy};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::task::JoinSet;
use toygres_platform::conformance::Hooks;
use toygres_platform::kubernetes::{KubernetesConfig, KubernetesPlatform};
use toygres_platform::{InstanceRef, Platform};
use toygres_testing::proxy::FaultProxy;
use toygres_testing::wait_for;
use uuid::Uuid;

const MANAGED: &str = "app.kubernetes.io/managed-by=toygres";

/// A platform in a namespace that goes with it.
pub struct Kubernetes {
    kubeconfig: PathBuf,
    pub client: Client,
    pub namespace: String,
    pub config: KubernetesConfig,
    pub platform: KubernetesPlatform,
}

/// The cluster for the test that runs on this thread; none, after saying so, if there is none.
pub fn kubeconfig(program: &str) -> Option<PathBuf> {
    let thread = std::thread::current();
    toygres_testing::kubeconfig(&format!(
        "kubernetes::{program}::{}",
        thread.name().unwrap_or_default()
    ))
}

pub async fn client(kubeconfig: &PathBuf) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// How instances are reached: by cluster IPs on a node, else as `TOYGRES_TEST_KUBERNETES_ADDRESS` says.
#[allow(
    clippy::disallowed_methods,
    reason = "what only tests read is no configuration of the server"
)]
pub fn address() -> String {
    let said = std::env::var("TOYGRES_TEST_KUBERNETES_ADDRESS");
    said.unwrap_or_else(|_| "cluster-ip".to_owned())
}

/// What tests need of instances: little, on a small machine.
pub fn config(kubeconfig: PathBuf, namespace: &str) -> KubernetesConfig {
    KubernetesConfig {
        kubeconfig: Some(kubeconfig),
        namespace: Some(namespace.to_owned()),
        versions: ["15".parse().unwrap()].into(),
        default_cpu: None,
        default_memory_mb: 256,
        address: address().parse().unwrap(),
        ..KubernetesConfig::default()
    }
}

impl Kubernetes {
    pub async fn start(kubeconfig: PathBuf) -> Self {
        Self::start_with(kubeconfig, |_| {}).await
    }

    pub async fn start_with(kubeconfig: PathBuf, change: impl FnOnce(&mut KubernetesConfig)) -> Self {
        let client = client(&kubeconfig).await;
        let namespace = make_namespace(&client).await;
        let mut config = config(kubeconfig.clone(), &namespace);
        change(&mut config);
        let platform = KubernetesPlatform::open(config.clone()).await.unwrap();
        Self {
            kubeconfig,
            client,
            namespace,
            config,
            platform,
        }
    }

    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn names<K>(&self) -> Vec<String>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let list = self
            .api::<K>()
            .list(&ListParams::default().labels(MANAGED))
            .await
            .unwrap();
        let name = |object: K| {
            format!(
                "{} {}",
                K::kind(&()),
                object.meta().name.as_deref().unwrap_or_default()
            )
        };
        list.items.into_iter().map(name).collect()
    }

    /// Deletes it at once, and waits until it is gone.
    pub async fn destroy<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api = self.api::<K>();
        let Some(there) = api.get_opt(name).await.unwrap() else {
            return;
        };
        let uid = there.meta().uid.clone();
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        api.delete(name, &at_once).await.unwrap();
        let gone = async || {
            let there = api.get_opt(name).await.unwrap();
            there.is_none_or(|there| there.meta().uid != uid).then_some(())
        };
        wait_for(&format!("{name} to be gone"), Duration::from_secs(60), gone).await;
    }
}

/// A kubeconfig of one cluster and one user, as JSON.
pub fn write_kubeconfig(cluster: &serde_json::Value, user: &serde_json::Value) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    });
    std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
    file
}

/// A kubeconfig of the way through a proxy.
pub fn kubeconfig_through(proxy: &FaultProxy) -> NamedTempFile {
    let server = proxy.config().cluster_url.to_string();
    write_kubeconfig(&json!({ "server": server }), &json!({}))
}

/// Every object of toygres's that there ever was in a namespace since this was started.
pub struct Made {
    all: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
    _watches: JoinSet<()>,
}

impl Made {
    /// Watches the namespace, not through a proxy.
    pub fn watch(client: &Client, namespace: &str) -> Self {
        let kinds = [
            ApiResource::erase::<StatefulSet>(&()),
            ApiResource::erase::<Pod>(&()),
            ApiResource::erase::<Service>(&()),
            ApiResource::erase::<Secret>(&()),
            ApiResource::erase::<NetworkPolicy>(&()),
            ApiResource::erase::<PersistentVolumeClaim>(&()),
        ];
        let all: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>> = Arc::default();
        let mut watches = JoinSet::new();
        for kind in kinds {
            let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
            let all = all.clone();
            let seen = watcher(objects, watcher::Config::default().labels(MANAGED))
                .default_backoff()
                .touched_objects()
                .for_each(move |object| {
                    let metadata = object.unwrap().metadata;
                    let name = format!("{} {}", kind.kind, metadata.name.unwrap());
                    let uids = &mut *all.lock().unwrap();
                    uids.entry(name).or_default().insert(metadata.uid.unwrap());
                    std::future::ready(())
                });
            watches.spawn(seen);
        }
        Self {
            all,
            _watches: watches,
        }
    }

    /// Waits until the seven objects of an instance were seen; makes sure that each was made once.
    pub async fn each_once(&self, object_name: &str) {
        let of_it = || {
            let all = self.all.lock().unwrap();
            let of_it = all.iter().filter(|(name, _)| name.contains(object_name));
            of_it
                .map(|(name, uids)| (name.clone(), uids.len()))
                .collect::<Vec<_>>()
        };
        wait_for("all to be seen", Duration::from_secs(60), async || {
            (of_it().len() >= 7).then_some(())
        })
        .await;
        let made = of_it();
        assert!(
            made.len() == 7 && made.iter().all(|(_, times)| *times == 1),
            "{made:?}"
        );
    }
}

pub async fn make_namespace(client: &Client) -> String {
    let name = format!("toygres-test-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    name
}

impl Drop for Kubernetes {
    /// The namespace, on a thread of its own, since nothing can be waited for here.
    fn drop(&mut self) {
        let (kubeconfig, namespace) = (self.kubeconfig.clone(), self.namespace.clone());
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let namespaces: Api<Namespace> = Api::all(client(&kubeconfig).await);
                namespaces
                    .delete(&namespace, &DeleteParams::default())
                    .await
                    .unwrap();
            });
        });
        removed.join().ok();
    }
}

#[async_trait]
impl Hooks for Kubernetes {
    fn platform(&self) -> &dyn Platform {
        &self.platform
    }

    async fn reopened(&self) -> Box<dyn Platform> {
        Box::new(KubernetesPlatform::open(self.config.clone()).await.unwrap())
    }

    async fn kill_server(&self, instance: &InstanceRef) {
        self.destroy::<Pod>(&format!("{}-0", instance.object_name()))
            .await;
    }

    async fn destroy_storage(&self, instance: &InstanceRef) {
        let name = instance.object_name();
        self.destroy::<StatefulSet>(&name).await;
        self.destroy::<Pod>(&format!("{name}-0")).await;
        self.destroy::<PersistentVolumeClaim>(&name).await;
    }

    async fn left_over(&self) -> Vec<String> {
        let mut all = self.names::<StatefulSet>().await;
        all.extend(self.names::<Pod>().await);
        all.extend(self.names::<Service>().await);
        all.extend(self.names::<Secret>().await);
        all.extend(self.names::<NetworkPolicy>().await);
        all.extend(self.names::<PersistentVolumeClaim>().await);
        all
    }
}
