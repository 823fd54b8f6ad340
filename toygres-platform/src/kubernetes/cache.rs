//! What the cluster has of instances, kept up to date by watches: one a kind and namespace for the whole process, so
//! that looking and waiting cost the API server nothing.

use super::manifests::{MANAGED, MANAGER, clients_service_name, pod_name};
use crate::InstanceRef;
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, Resource, ResourceExt};
use rand::RngExt;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result};

/// After so many seconds a watch is begun anew, from where it was. One whose connection has died without a word is
/// found dead five seconds later: for so long, and no longer, what happens may go unseen. Kubernetes' own clients,
/// which ping, find out as late. Beginning anew sends nothing twice, and costs a request a kind.
pub(super) const WATCH_SECONDS: u32 = 30;
/// How long the first lists may take.
const FIRST_LISTS_LIMIT: Duration = Duration::from_secs(20);

/// A pod that was put out is made again within this time, and events tell whole seconds.
const REPLACED_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// See the module.
pub(super) struct Cache {
    namespaces: HashMap<String, Kinds>,
    changes: watch::Receiver<()>,
    /// Ends with the cache.
    _watches: JoinSet<()>,
}

/// The kinds of one namespace.
struct Kinds {
    stateful_sets: Store<StatefulSet>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    services: Store<Service>,
    policies: Store<NetworkPolicy>,
    /// Without their contents, which nobody here has to know.
    secrets: Store<PartialObjectMeta<Secret>>,
    /// Warnings about anything in the namespace.
    warnings: Store<Event>,
}

/// What there is of one instance.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) stateful_set: Option<Arc<StatefulSet>>,
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) claim: Option<Arc<PersistentVolumeClaim>>,
    pub(super) clients_service: Option<Arc<Service>>,
    pub(super) governing_service: Option<Arc<Service>>,
    pub(super) policy: Option<Arc<NetworkPolicy>>,
    pub(super) secret: Option<Arc<PartialObjectMeta<Secret>>>,
}

impl Seen {
    /// Every object of it that is there, with its kind.
    pub(super) fn objects(&self) -> Vec<(&'static str, &ObjectMeta)> {
        fn of<'a, K: Resource>(
            kind: &'static str,
            object: &'a Option<Arc<K>>,
        ) -> Option<(&'static str, &'a ObjectMeta)> {
            object.as_ref().map(|object| (kind, object.meta()))
        }
        [
            of("stateful set", &self.stateful_set),
            of("pod", &self.pod),
            of("volume claim", &self.claim),
            of("service", &self.clients_service),
            of("service", &self.governing_service),
            of("network policy", &self.policy),
            of("secret", &self.secret),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Whether all of these objects are in it, each as it is or newer.
    pub(super) fn has_all(&self, applied: &[ObjectMeta]) -> bool {
        let objects = self.objects();
        applied.iter().all(|wanted| {
            objects.iter().any(|(_, seen)| {
                seen.uid == wanted.uid && (seen.generation >= wanted.generation || seen.generation.is_none())
            })
        })
    }
}

impl Cache {
    /// Starts the watches, and waits until each has listed what there is.
    pub(super) async fn start(client: &Client, namespaces: &[String]) -> Result<Self> {
        let (changed, changes) = watch::channel(());
        let mut watches = JoinSet::new();
        let mut kinds = HashMap::new();
        for namespace in namespaces {
            let start = Start {
                client,
                namespace,
                changed: &changed,
            };
            kinds.insert(namespace.clone(), start.kinds(&mut watches));
        }
        let listed = futures_util::future::try_join_all(kinds.values().map(Kinds::listed));
        match tokio::time::timeout(FIRST_LISTS_LIMIT, listed).await {
            Ok(Ok(_)) => Ok(Self {
                namespaces: kinds,
                changes,
                _watches: watches,
            }),
            Ok(Err(_)) | Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                Reason::PlatformUnavailable.as_str(),
                "the Kubernetes API server does not list what there is",
            )
            .hint("the log says what it answers")),
        }
    }

    /// What there is of an instance.
    pub(super) fn look(&self, namespace: &str, instance: &InstanceRef) -> Seen {
        let Some(kinds) = self.namespaces.get(namespace) else {
            return Seen::default();
        };
        let name = instance.object_name();
        Seen {
            stateful_set: get(&kinds.stateful_sets, namespace, &name),
            pod: get(&kinds.pods, namespace, &pod_name(&name)),
            claim: get(&kinds.claims, namespace, &name),
            clients_service: get(&kinds.services, namespace, &clients_service_name(&name)),
            governing_service: get(&kinds.services, namespace, &name),
            policy: get(&kinds.policies, namespace, &name),
            secret: get(&kinds.secrets, namespace, &name),
        }
    }

    /// The newest warning about an object of this namespace: by kind and name, and by the object's identity, since an
    /// earlier object of the same name is another.
    pub(super) fn warning(&self, namespace: &str, kind: &str, object: &ObjectMeta) -> Option<String> {
        let warnings = &self.namespaces.get(namespace)?.warnings;
        let about = |event: &Event| {
            let about = &event.involved_object;
            about.kind.as_deref() == Some(kind) && about.name == object.name && about.uid == object.uid
        };
        let newest = warnings
            .state_filter(about)
            .into_iter()
            .max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        newest?.message.clone()
    }

    /// What a node said when it put out the pod of this name that was there before the present one: such a pod is
    /// replaced so soon that it is seldom seen itself.
    pub(super) fn eviction(&self, namespace: &str, name: &str, present: Option<&Pod>) -> Option<String> {
        let warnings = &self.namespaces.get(namespace)?.warnings;
        let made_at = present.and_then(|pod| pod.metadata.creation_timestamp.as_ref());
        let replaced_at = made_at.map_or_else(Timestamp::now, |time| time.0);
        let is_it = |event: &Event| {
            let about = &event.involved_object;
            let at = event.last_timestamp.as_ref();
            event.reason.as_deref() == Some("Evicted")
                && about.name.as_deref() == Some(name)
                && present.is_none_or(|pod| about.uid != pod.metadata.uid)
                && at.is_some_and(|at| at.0.duration_until(replaced_at).abs() <= REPLACED_WITHIN)
        };
        warnings.state_filter(is_it).first()?.message.clone()
    }

    /// The metadata of every object in every namespace, and whether it is a pod that is ready.
    pub(super) fn all(&self) -> Vec<(ObjectMeta, bool)> {
        let mut all = Vec::new();
        for kinds in self.namespaces.values() {
            fn add<K: Resource + Lookup + Clone + 'static>(
                all: &mut Vec<(ObjectMeta, bool)>,
                store: &Store<K>,
            ) where
                <K as Lookup>::DynamicType: Eq + Hash + Clone + Default,
            {
                all.extend(store.state().iter().map(|object| (object.meta().clone(), false)));
            }
            add(&mut all, &kinds.stateful_sets);
            add(&mut all, &kinds.claims);
            add(&mut all, &kinds.services);
            add(&mut all, &kinds.policies);
            add(&mut all, &kinds.secrets);
            let pods = kinds.pods.state();
            all.extend(
                pods.iter()
                    .map(|pod| (pod.metadata.clone(), super::reason::is_started(pod))),
            );
        }
        all
    }

    /// Tells when anything has changed since this was called.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        changes
    }

    /// Waits until what is seen of an instance is as said, or the time is over; tells which.
    pub(super) async fn wait_until(
        &self,
        namespace: &str,
        instance: &InstanceRef,
        limit: Duration,
        is_so: impl Fn(&Seen) -> bool,
    ) -> bool {
        let mut changes = self.changes();
        let so = async {
            while !is_so(&self.look(namespace, instance)) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, so).await.is_ok()
    }
}

impl Kinds {
    async fn listed(&self) -> Result<(), reflector::store::WriterDropped> {
        self.stateful_sets.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.policies.wait_until_ready().await?;
        self.secrets.wait_until_ready().await?;
        self.warnings.wait_until_ready().await
    }
}

fn get<K: Lookup + Clone + 'static>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K::DynamicType: Eq + Hash + Clone + Default,
{
    store.get(&ObjectRef::new(name).within(namespace))
}

/// Starts the watches of a namespace.
struct Start<'a> {
    client: &'a Client,
    namespace: &'a str,
    changed: &'a watch::Sender<()>,
}

impl Start<'_> {
    fn kinds(&self, watches: &mut JoinSet<()>) -> Kinds {
        let any = || watcher::Config::default().timeout(WATCH_SECONDS);
        let managed = || any().labels(MANAGED);
        let nobody = |_: &ManagedFieldsEntry| false;
        let toygres = |writer: &ManagedFieldsEntry| writer.manager.as_deref() == Some(MANAGER);
        Kinds {
            stateful_sets: self.objects(watches, managed(), nobody),
            pods: self.objects(watches, managed(), nobody),
            claims: self.objects(watches, managed(), nobody),
            services: self.objects(watches, managed(), nobody),
            policies: self.objects(watches, managed(), nobody),
            secrets: self.objects(watches, managed(), toygres),
            warnings: self.objects(watches, any().fields("type=Warning"), nobody),
        }
    }

    /// `writers`: of whom it is kept which fields they wrote.
    fn objects<K>(
        &self,
        watches: &mut JoinSet<()>,
        which: watcher::Config,
        writers: fn(&ManagedFieldsEntry) -> bool,
    ) -> Store<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
        <K as Resource>::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let (store, writer) = reflector::store();
        let changed = self.changed.clone();
        let namespace = self.namespace.to_owned();
        let events =
            watch_objects(api, which).modify(move |object| object.managed_fields_mut().retain(writers));
        let followed =
            reflector::reflector(writer, events.backoff(Pauses::default())).for_each(move |event| {
                match event {
                    Ok(_) => {
                        changed.send_replace(());
                    }
                    Err(cause) => {
                        tracing::warn!(
                            namespace,
                            "a watch of the Kubernetes API server broke off, and begins again"
                        );
                        tracing::debug!(namespace, "{cause}");
                    }
                }
                std::future::ready(())
            });
        watches.spawn(followed);
        store
    }
}

/// The pauses before a watch that broke off begins again: short at first, then no longer than people like to wait.
#[derive(Default)]
struct Pauses(u32);

impl Iterator for Pauses {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(100).saturating_mul(2_u32.saturating_pow(self.0));
        self.0 += 1;
        Some(
            pause
                .min(Duration::from_secs(5))
                .mul_f64(rand::rng().random_range(0.5..1.0)),
        )
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = 0;
    }
}
