//! Removes everything of an instance, and proves it.

use super::KubernetesPlatform;
use super::access::call;
use super::manifests;
use super::reason::held;
use crate::InstanceRef;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Preconditions, PropagationPolicy};
use kube::{Api, Resource};
use std::time::{Duration, Instant};
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result};

/// One call waits no longer for things to go; the next one goes on.
const LIMIT: Duration = Duration::from_secs(15);
/// How long a watch is trusted to tell that something has gone. A kubelet needs 7 to 10 s for a pod, and each look is a
/// list a kind.
const LOOK_AGAIN: Duration = Duration::from_secs(7);
/// What its server gets to end, in seconds. Nothing of it is kept, so that it need not write a checkpoint.
const GRACE_SECONDS: u32 = 2;

/// An object that is still there.
struct Left {
    resource: ApiResource,
    metadata: ObjectMeta,
}

impl KubernetesPlatform {
    pub(super) async fn remove_all(&self, namespace: &str, instance: &InstanceRef) -> Result<()> {
        let begun = Instant::now();
        loop {
            let left = self.left(namespace, instance).await?;
            for object in left
                .iter()
                .filter(|left| left.metadata.deletion_timestamp.is_none())
            {
                self.delete(namespace, object).await?;
            }
            let is_unseen = self
                .cache
                .wait_until(namespace, instance, LOOK_AGAIN, |seen| seen.objects().is_empty())
                .await;
            // Lists and watches have to say so: either may be behind.
            if left.is_empty() && is_unseen {
                return Ok(());
            }
            if begun.elapsed() + LOOK_AGAIN > LIMIT {
                return Err(still_there(&left));
            }
        }
    }

    /// Whether the API server has nothing of an instance.
    pub(super) async fn is_gone(&self, namespace: &str, instance: &InstanceRef) -> Result<bool> {
        Ok(self.left(namespace, instance).await?.is_empty())
    }

    /// Asks the API server itself: a watch may be behind.
    async fn left(&self, namespace: &str, instance: &InstanceRef) -> Result<Vec<Left>> {
        fn kind<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>() -> ApiResource {
            ApiResource::erase::<K>(&())
        }
        let selector = ListParams::default().labels(&manifests::selector(instance));
        // In this order they are deleted: what makes others first.
        let kinds = [
            kind::<StatefulSet>(),
            kind::<Pod>(),
            kind::<Service>(),
            kind::<NetworkPolicy>(),
            kind::<Secret>(),
            kind::<PersistentVolumeClaim>(),
        ];
        let lists = kinds.map(|resource| {
            let selector = &selector;
            async move {
                let objects: Api<DynamicObject> =
                    Api::namespaced_with(self.client.clone(), namespace, &resource);
                let doing = format!("list the {} of {}", resource.plural, instance.object_name());
                let list = call(&doing, objects.list_metadata(selector)).await?;
                let left = list.items.into_iter().map(|object| Left {
                    resource: resource.clone(),
                    metadata: object.metadata,
                });
                Ok::<_, Error>(left.collect::<Vec<_>>())
            }
        });
        let left = futures_util::future::try_join_all(lists).await?;
        Ok(left.into_iter().flatten().collect())
    }

    async fn delete(&self, namespace: &str, left: &Left) -> Result<()> {
        let name = left.metadata.name.clone().unwrap_or_default();
        let objects: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &left.resource);
        let is_pod = left.resource.kind == "Pod";
        let this_one = DeleteParams {
            grace_period_seconds: is_pod.then_some(GRACE_SECONDS),
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions {
                uid: left.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let doing = format!("delete the {} {name}", left.resource.kind);
        match call(&doing, objects.delete(&name, &this_one)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn still_there(left: &[Left]) -> Error {
    let held = left
        .iter()
        .find_map(|left| held(&left.resource.kind, &left.metadata));
    if let Some((reason, message)) = held {
        return Error::new(ErrorKind::Unavailable, reason.as_str(), message)
            .hint("find out who set that finalizer, and have it let go");
    }
    if left.is_empty() {
        return Error::new(
            ErrorKind::Unavailable,
            Reason::PlatformUnavailable.as_str(),
            "the Kubernetes API server lists nothing of it any more, but has not said yet that it has gone",
        );
    }
    let names: Vec<String> = left
        .iter()
        .map(|left| {
            let name = left.metadata.name.as_deref().unwrap_or_default();
            format!("{} {name}", left.resource.kind)
        })
        .collect();
    Error::new(
        ErrorKind::Unavailable,
        Reason::Stopped.as_str(),
        format!("not gone yet: {}", names.join(", ")),
    )
}
