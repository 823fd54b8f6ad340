//! A Kubernetes namespace for one test.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde_json::json;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// See the module. It is deleted with all that is in it when this is dropped.
pub struct TestNamespace {
    /// Its name.
    pub name: String,
    /// For the cluster that it is in.
    pub client: Client,
    /// The way to that cluster.
    pub kubeconfig: PathBuf,
}

impl TestNamespace {
    /// Makes one in this cluster.
    pub async fn new(kubeconfig: &Path) -> Self {
        let made = Self {
            name: format!("toygres-test-{}", &Uuid::new_v4().simple().to_string()[..8]),
            client: client(kubeconfig).await,
            kubeconfig: kubeconfig.to_owned(),
        };
        made.create().await;
        made
    }

    /// Makes it again after it was deleted.
    pub async fn create(&self) {
        let namespace = serde_json::from_value(json!({"metadata": {"name": self.name}})).unwrap();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
    }

    /// The objects of a kind in it.
    #[must_use]
    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.name)
    }
}

/// A client for the cluster of a kubeconfig.
async fn client(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

impl Drop for TestNamespace {
    /// On a thread of its own, since nothing can be waited for here.
    fn drop(&mut self) {
        let (kubeconfig, name) = (self.kubeconfig.clone(), self.name.clone());
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let namespaces: Api<Namespace> = Api::all(client(&kubeconfig).await);
                namespaces.delete(&name, &DeleteParams::default()).await.ok();
            });
        });
        removed.join().ok();
    }
}
