//! PostgreSQL in a Kubernetes cluster: one stateful set with one pod an instance.
//!
//! docs/kubernetes.md says what is made, and why.

mod access;
mod authority;
mod cache;
mod certificates;
mod config;
mod difference;
mod ensure;
mod fault;
mod forward;
mod logs;
mod manifests;
mod reach;
mod reason;
mod remove;

pub use config::{Address, Duty, KubernetesConfig, Source, is_label};

use crate::words::printable;
use crate::{
    InstanceRef, InstanceSpec, Listed, LogOptions, Observation, Platform, Serving, Storage, Unknown,
};
use access::{Clients, Namespaces};
use async_trait::async_trait;
use cache::{Cache, Seen};
use certificates::Authority;
use forward::Forwards;
use futures_util::stream::BoxStream;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, ResourceExt};
use manifests::{INSTANCE_ID, PORT, Wanted};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, InstanceId, PostgresVersion, Result};

/// See the module.
pub struct KubernetesPlatform {
    config: KubernetesConfig,
    namespaces: Namespaces,
    client: Client,
    /// For what goes on until somebody ends it.
    streams: Client,
    authority: Authority,
    cache: Arc<Cache>,
    forwards: Forwards,
}

impl KubernetesPlatform {
    /// Connects to the cluster, checks that toygres may do there what it has to, and begins to watch.
    ///
    /// # Errors
    /// `Config` `bad_kubeconfig` without a way to a cluster, `permission_denied` with everything that is not allowed;
    /// `Unavailable` if the API server does not answer.
    pub async fn open(config: KubernetesConfig) -> Result<Self> {
        let (clients, namespaces) = access::connect(&config).await?;
        let Clients {
            calls: client,
            streams,
            forwards,
        } = clients;
        access::check_permissions(&client, &namespaces, &config).await?;
        let authority = authority::load_or_create(&client, &namespaces.control_plane).await?;
        let cache = Arc::new(Cache::start(&streams, &namespaces.allowed).await?);
        Ok(Self {
            config,
            namespaces,
            forwards: Forwards::new(forwards),
            client,
            streams,
            authority,
            cache,
        })
    }

    fn namespace<'a>(&'a self, named: Option<&'a str>) -> &'a str {
        named.unwrap_or(&self.namespaces.default)
    }

    fn wanted<'a>(&'a self, spec: &'a InstanceSpec) -> Result<Wanted<'a>> {
        if !self.config.versions.contains(&spec.postgres_version) {
            let there: Vec<String> = self.versions().iter().map(ToString::to_string).collect();
            return Err(Error::new(
                ErrorKind::Config,
                Reason::VersionUnavailable.as_str(),
                format!(
                    "PostgreSQL {} is not offered; there is {}",
                    spec.postgres_version,
                    there.join(", ")
                ),
            ));
        }
        self.check_namespace(spec.namespace.as_deref())?;
        Ok(Wanted {
            config: &self.config,
            spec,
            namespace: self.namespace(spec.namespace.as_deref()),
            control_plane_namespace: &self.namespaces.control_plane,
        })
    }

    fn look(&self, instance: &InstanceRef) -> Observation {
        let namespace = self.namespace(instance.namespace.as_deref());
        let seen = self.cache.look(namespace, instance);
        if seen.objects().is_empty() {
            return Observation::Absent;
        }
        let warning = |kind: &str, object: &ObjectMeta| self.cache.warning(namespace, kind, object);
        let not_ready = |(reason, message)| Observation::NotReady { reason, message };
        if let Some((reason, message)) = reason::why_not_ready(&seen, &warning) {
            let pod = manifests::pod_name(&instance.object_name());
            let evicted = || self.cache.eviction(namespace, &pod, seen.pod.as_deref());
            return not_ready(match reason {
                Reason::Starting | Reason::Unschedulable => match evicted() {
                    Some(said) => {
                        let said = format!("its node has put it out: {said}; now {message}");
                        (Reason::Evicted, printable(&said, reason::LONGEST))
                    }
                    None => (reason, message),
                },
                _ => (reason, message),
            });
        }
        match self.serving(namespace, &seen) {
            Some(serving) => Observation::Ready(serving),
            None => not_ready((
                Reason::Stopped,
                "there is no way to it: its service is not there".to_owned(),
            )),
        }
    }

    fn serving(&self, namespace: &str, seen: &Seen) -> Option<Serving> {
        let service = seen.clients_service.as_ref()?;
        let (host, port) = match self.config.address {
            Address::Dns => {
                let domain = &self.config.cluster_domain;
                (format!("{}.{namespace}.svc.{domain}", service.name_any()), PORT)
            }
            Address::ClusterIp => (service.spec.as_ref()?.cluster_ip.clone()?, PORT),
            Address::PortForward => {
                let pod = seen.pod.as_ref()?.name_any();
                (
                    forward::HOST.to_owned(),
                    self.forwards.port(namespace, &pod).ok()?,
                )
            }
        };
        let secret = seen.secret.as_ref();
        // Told once the certificate is for it too.
        let external = load_balancer(service)
            .iter()
            .find_map(|ingress| ingress.hostname.clone().or_else(|| ingress.ip.clone()))
            .filter(|host| secret.is_some_and(|secret| certificates::is_for(&secret.metadata, host)));
        Some(Serving {
            endpoint: Endpoint { host, port },
            external_endpoint: external.map(|host| Endpoint { host, port: PORT }),
            system_identifier: None,
            doubt: seen.pod.as_deref().and_then(reason::node_lost),
        })
    }
}

/// The addresses that a load balancer has given a service.
fn load_balancer(service: &Service) -> &[LoadBalancerIngress] {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    balancer
        .and_then(|balancer| balancer.ingress.as_deref())
        .unwrap_or_default()
}

#[async_trait]
impl Platform for KubernetesPlatform {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn host(&self) -> Option<&str> {
        None
    }

    fn versions(&self) -> Vec<PostgresVersion> {
        self.config.versions.iter().rev().copied().collect()
    }

    fn check_namespace(&self, namespace: Option<&str>) -> Result<()> {
        let namespace = self.namespace(namespace);
        let allowed = &self.namespaces.allowed;
        if allowed.iter().any(|allowed| allowed == namespace) {
            return Ok(());
        }
        let message = format!("{namespace} is not allowed; there is {}", allowed.join(", "));
        Err(Error::invalid_field("namespace", message))
    }

    fn certificate_authority(&self) -> Option<&str> {
        Some(self.authority.certificate())
    }

    async fn ensure(&self, spec: &InstanceSpec, storage: Storage) -> Result<()> {
        self.apply_all(spec, storage).await
    }

    async fn keep_data(&self, instance: &InstanceRef) -> Result<()> {
        let namespace = self.namespace(instance.namespace.as_deref());
        self.mark_as_holding_data(namespace, instance).await
    }

    async fn differences(&self, spec: &InstanceSpec, storage: Storage) -> Result<Option<Vec<String>>> {
        self.all_differences(spec, storage).map(Some)
    }

    async fn observe(&self, instance: &InstanceRef) -> Result<Observation> {
        let seen = self.look(instance);
        let namespace = self.namespace(instance.namespace.as_deref());
        if seen == Observation::Absent && !self.is_gone(namespace, instance).await? {
            return Ok(Observation::NotReady {
                reason: Reason::Starting,
                message: "something of it is there".to_owned(),
            });
        }
        Ok(seen)
    }

    async fn wait_ready(&self, instance: &InstanceRef, budget: Duration) -> Result<Observation> {
        let end = Instant::now() + budget;
        loop {
            // Before the look, so that what comes after it is heard of.
            let mut changes = self.cache.changes();
            let seen = self.look(instance);
            match &seen {
                Observation::Absent => return Ok(seen),
                Observation::Ready(serving) => {
                    return Ok(match reach::listens(&serving.endpoint, end).await {
                        Ok(()) => seen,
                        Err(message) => Observation::NotReady {
                            reason: Reason::NotAccepting,
                            message,
                        },
                    });
                }
                Observation::NotReady { .. } => {}
            }
            if tokio::time::timeout_at(end, changes.changed()).await.is_err() {
                return Ok(seen);
            }
        }
    }

    async fn logs(&self, instance: &InstanceRef, options: LogOptions) -> Result<Vec<String>> {
        let namespace = self.namespace(instance.namespace.as_deref());
        self.last_lines(namespace, instance, options).await
    }

    async fn follow_logs(
        &self,
        instance: &InstanceRef,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<String>>> {
        let namespace = self.namespace(instance.namespace.as_deref()).to_owned();
        Ok(self.follow_lines(namespace, instance.clone(), options))
    }

    async fn remove(&self, instance: &InstanceRef) -> Result<()> {
        let namespace = self.namespace(instance.namespace.as_deref());
        self.remove_all(namespace, instance).await?;
        self.forwards
            .end(namespace, &manifests::pod_name(&instance.object_name()));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Listed>> {
        let mut listed: HashMap<InstanceId, Listed> = HashMap::new();
        for (metadata, is_started) in self.cache.all() {
            if let Some(instance) = owner(&metadata, &self.namespaces.default) {
                let entry = listed.entry(instance.id).or_insert(Listed {
                    instance,
                    running: false,
                    holds_data: false,
                });
                entry.running |= is_started;
                entry.holds_data |= manifests::is_marked_as_holding_data(&metadata);
            }
        }
        Ok(listed.into_values().collect())
    }

    async fn unknown(&self) -> Result<Vec<Unknown>> {
        let all = self.cache.all().into_iter();
        Ok(all
            .filter(|(metadata, _)| owner(metadata, &self.namespaces.default).is_none())
            .map(|(metadata, _)| Unknown {
                object: metadata.name.unwrap_or_default(),
                message: "it is labelled as toygres's, but does not say whose it is".to_owned(),
            })
            .collect())
    }
}

/// The instance that an object says it belongs to.
fn owner(metadata: &ObjectMeta, default_namespace: &str) -> Option<InstanceRef> {
    let labels = metadata.labels.as_ref()?;
    let id: InstanceId = labels.get(INSTANCE_ID)?.parse().ok()?;
    let object_name = labels.get("app.kubernetes.io/instance")?;
    let name = object_name.strip_suffix(&id.short())?.strip_suffix('-')?;
    let namespace = metadata.namespace.clone();
    Some(InstanceRef {
        id,
        name: name.parse().ok()?,
        namespace: namespace.filter(|namespace| namespace != default_namespace),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Whose it is, is what its labels say; nobody else's objects are taken for an instance's.
    fn is_owned_or_not(metadata: &ObjectMeta) {
        let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key));
        if let Some(instance) = owner(metadata, "default") {
            assert_eq!(Some(&instance.object_name()), label("app.kubernetes.io/instance"));
            assert_eq!(
                label(INSTANCE_ID).and_then(|id| id.parse().ok()),
                Some(instance.id)
            );
            assert_ne!(instance.namespace.as_deref(), Some("default"));
        }
    }

    fn labelled(id: &str, object_name: &str, namespace: Option<&str>) -> ObjectMeta {
        let labels = json!({ INSTANCE_ID: id, "app.kubernetes.io/instance": object_name });
        serde_json::from_value(json!({ "namespace": namespace, "labels": labels })).unwrap()
    }

    #[test]
    fn fuzz_owner() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let mut lines = text.split('\n');
            let [id, object_name] = std::array::from_fn(|_| lines.next().unwrap_or_default());
            is_owned_or_not(&labelled(id, object_name, lines.next()));
        });
    }

    proptest! {
        #[test]
        fn an_object_is_its_instances(
            any in ".*", name in "[a-z][a-z0-9-]{0,39}", namespace in proptest::option::of("(default|[a-z]{1,9})"),
            whole: bool,
        ) {
            let id = InstanceId::generate();
            let object_name = if whole { format!("{name}-{}", id.short()) } else { any };
            let metadata = labelled(&id.to_string(), &object_name, namespace.as_deref());
            is_owned_or_not(&metadata);
            let found = owner(&metadata, "default").map(|instance| instance.name.to_string());
            prop_assert!(!whole || name.ends_with('-') || found == Some(name));
        }
    }
}
