//! Makes what is there like the specification.

use super::KubernetesPlatform;
use super::access::call;
use super::certificates::ServerCertificate;
use super::config::Address;
use super::difference::difference;
use super::forward;
use super::manifests::{
    self, Contents, INSTANCE_ID, MANAGER, Wanted, claim, clients_service, file_of_another, governing_service,
    holding_data, is_marked_as_holding_data, network_policy, stateful_set,
};
use super::reason::{is_started, why_not_ready};
use crate::{InstanceRef, InstanceSpec, Storage};
use chrono::{DateTime, Utc};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result};

/// How long the watches may take to see what was applied. Nothing is lost if they take longer.
const SEEN_LIMIT: Duration = Duration::from_secs(2);
/// When a stateful set was last told to try again, on the stateful set.
const TRIED_AT: &str = "toygres.io/tried-at";
/// How long it is then left to itself.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);

impl KubernetesPlatform {
    pub(super) async fn apply_all(&self, spec: &InstanceSpec, storage: Storage) -> Result<()> {
        let wanted = self.wanted(spec)?;
        let claim = self.ensure_claim(&wanted, storage).await?;
        let seen = self.cache.look(wanted.namespace, &spec.reference());
        let service = ["ports", "selector"];
        let (service, governing, policy) = futures_util::future::try_join3(
            self.apply_whole(&wanted, clients_service(&wanted), seen.clients_service, &service),
            self.apply_whole(
                &wanted,
                governing_service(&wanted),
                seen.governing_service,
                &service,
            ),
            self.apply_whole(&wanted, network_policy(&wanted), seen.policy, &["podSelector"]),
        )
        .await?;
        let secret = self.ensure_secret(&wanted, &service, storage).await?;
        let stateful_set = self.apply_stateful_set(&wanted).await?;
        match self.cache.look(wanted.namespace, &spec.reference()).pod {
            Some(pod) if is_stuck(&pod, &stateful_set) => self.replace_pod(&wanted, &pod).await?,
            None if self.is_refused(&wanted, &stateful_set) => {
                self.try_pod_again(&wanted, &stateful_set).await?;
            }
            Some(_) | None => {}
        }
        // So that whoever looks next sees what was applied.
        let applied = [
            claim.metadata,
            service.metadata,
            governing.metadata,
            policy.metadata,
            secret.metadata,
            stateful_set.metadata,
        ];
        self.cache
            .wait_until(wanted.namespace, &spec.reference(), SEEN_LIMIT, |seen| {
                seen.has_all(&applied)
            })
            .await;
        // What is on the volume only the server can see.
        let seen = self.cache.look(wanted.namespace, &spec.reference());
        match why_not_ready(&seen, &|_, _| None) {
            Some((Reason::StorageMissing, message)) if storage != Storage::Create => {
                Err(lost(Reason::StorageMissing, message))
            }
            _ => Ok(()),
        }
    }

    /// What of an instance differs from what would be applied.
    pub(super) fn all_differences(&self, spec: &InstanceSpec, storage: Storage) -> Result<Vec<String>> {
        fn of<K: Resource + Serialize>(
            differences: &mut Vec<String>,
            kind: &str,
            wanted: &K,
            seen: Option<&Arc<K>>,
        ) {
            let name = wanted.meta().name.clone().unwrap_or_default();
            let Some(seen) = seen else {
                differences.push(format!("the {kind} {name} is missing"));
                return;
            };
            if let (Ok(wanted), Ok(seen)) = (serde_json::to_value(wanted), serde_json::to_value(&**seen))
                && let Some(field) = difference(&wanted, &seen)
            {
                differences.push(format!("{field} of the {kind} {name} is not as it should be"));
            }
        }
        let wanted = self.wanted(spec)?;
        let seen = self.cache.look(wanted.namespace, &spec.reference());
        let mut all = Vec::new();
        of(
            &mut all,
            "stateful set",
            &stateful_set(&wanted),
            seen.stateful_set.as_ref(),
        );
        of(
            &mut all,
            "service",
            &clients_service(&wanted),
            seen.clients_service.as_ref(),
        );
        of(
            &mut all,
            "service",
            &governing_service(&wanted),
            seen.governing_service.as_ref(),
        );
        of(
            &mut all,
            "network policy",
            &network_policy(&wanted),
            seen.policy.as_ref(),
        );
        let name = spec.reference().object_name();
        match &seen.claim {
            None => all.push(format!("the volume claim {name} is missing")),
            Some(claim) if claim.metadata.deletion_timestamp.is_some() => {
                all.push(format!("the volume claim {name} is to be deleted"));
            }
            Some(_) => {}
        }
        match (&seen.secret, &seen.clients_service) {
            (None, _) => all.push(format!("the secret {name} is missing")),
            (Some(secret), _)
                if storage != Storage::Create && !is_marked_as_holding_data(&secret.metadata) =>
            {
                all.push(format!(
                    "the secret {name} does not say that the volume holds data"
                ));
            }
            (Some(secret), Some(service)) => {
                let names = self.server_names(&wanted, service);
                if let Some(why) = self.authority.is_outdated(&secret.metadata, &names, Utc::now()) {
                    all.push(why.to_owned());
                }
                if let Some(file) = file_of_another(&secret.metadata) {
                    all.push(format!("data.{file} of the secret {name} is not as it should be"));
                }
            }
            (Some(_), None) => {}
        }
        match (&seen.pod, &seen.stateful_set) {
            (Some(pod), Some(stateful_set)) if is_stuck(pod, stateful_set) => {
                let pod = pod.name_any();
                all.push(format!("the pod {pod} does not run and is of an older kind"));
            }
            (None, Some(stateful_set)) if self.is_refused(&wanted, stateful_set) => {
                all.push(format!("the stateful set {name} was refused its pod"));
            }
            _ => {}
        }
        Ok(all)
    }

    /// The claim, which is made only as long as it never held anything.
    async fn ensure_claim(&self, wanted: &Wanted<'_>, storage: Storage) -> Result<PersistentVolumeClaim> {
        let claim = claim(wanted);
        let name = claim.name_any();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), wanted.namespace);
        let there = call(&format!("read the volume claim {name}"), claims.get_opt(&name)).await?;
        let Some(there) = there else {
            return match storage {
                Storage::Create => self.apply(wanted, claim).await,
                Storage::MustExist { .. } => Err(lost(
                    Reason::StorageMissing,
                    format!("its volume claim {name} is not there"),
                )),
            };
        };
        let owner = there.labels().get(INSTANCE_ID);
        if owner.is_some_and(|owner| *owner != wanted.spec.id.to_string()) {
            return Err(lost(
                Reason::StorageForeign,
                format!("the volume claim {name} belongs to another instance"),
            ));
        }
        let phase = there.status.as_ref().and_then(|status| status.phase.as_deref());
        match storage {
            Storage::Create if there.metadata.deletion_timestamp.is_some() => Err(Error::new(
                ErrorKind::Unavailable,
                Reason::Finalizer.as_str(),
                format!("the volume claim {name} is being deleted, and has to be gone first"),
            )),
            Storage::Create => self.apply(wanted, claim).await,
            Storage::MustExist { .. } if there.metadata.deletion_timestamp.is_some() => Err(lost(
                Reason::StorageMissing,
                format!("its volume claim {name} is being deleted: its data goes when its pod ends"),
            )),
            Storage::MustExist { .. } if phase == Some("Lost") => Err(lost(
                Reason::StorageMissing,
                format!("its volume claim {name} has lost its volume"),
            )),
            Storage::MustExist { .. } if owner.is_none() => {
                // Not applied: if it went away just now, that would make an empty one.
                let labels =
                    Patch::Merge(json!({"metadata": {"uid": there.uid(), "labels": claim.labels()}}));
                let parameters = PatchParams::default();
                let patched = claims.patch(&name, &parameters, &labels);
                call(&format!("label the volume claim {name}"), patched).await
            }
            Storage::MustExist { .. } => Ok(there),
        }
    }

    /// The secret, with the certificate that it has as long as that is good.
    async fn ensure_secret(
        &self,
        wanted: &Wanted<'_>,
        service: &Service,
        storage: Storage,
    ) -> Result<Secret> {
        let name = wanted.spec.reference().object_name();
        let names = self.server_names(wanted, service);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), wanted.namespace);
        let there = call(&format!("read the secret {name}"), secrets.get_opt(&name)).await?;
        let now = Utc::now();
        // Once said, it stays said: an `ensure` that was begun earlier may come late.
        let held = there
            .as_ref()
            .is_some_and(|secret| is_marked_as_holding_data(&secret.metadata));
        let kept = there.filter(|secret| {
            let outdated = self.authority.is_outdated(&secret.metadata, &names, now);
            outdated.is_none() && file_of_another(&secret.metadata).is_none()
        });
        let certificate = match kept.as_ref().and_then(stored_certificate) {
            Some(certificate) => certificate,
            None => self.authority.issue(&names, now)?,
        };
        let contents = Contents {
            certificate: &certificate,
            authority: self.authority.certificate(),
            storage: match storage {
                Storage::Create if held => Storage::MustExist {
                    system_identifier: None,
                },
                storage => storage,
            },
        };
        self.apply(wanted, manifests::secret(wanted, &contents)).await
    }

    /// Has the server refuse to make an empty database from now on.
    pub(super) async fn mark_as_holding_data(&self, namespace: &str, instance: &InstanceRef) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let name = instance.object_name();
        let mark = Patch::Merge(holding_data());
        let parameters = PatchParams::apply(MANAGER);
        let marked = secrets.patch_metadata(&name, &parameters, &mark);
        call(&format!("mark the secret {name}"), marked).await?;
        Ok(())
    }

    /// Every name and address of the server that a client may use.
    fn server_names(&self, wanted: &Wanted<'_>, service: &Service) -> BTreeSet<String> {
        let name = service.name_any();
        let namespace = wanted.namespace;
        let domain = &self.config.cluster_domain;
        let mut names = BTreeSet::from([
            format!("{name}.{namespace}"),
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}.svc.{domain}"),
            name,
        ]);
        let spec = service.spec.as_ref();
        let addresses = spec.and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
        let address = spec.and_then(|spec| spec.cluster_ip.clone());
        names.extend(
            addresses
                .into_iter()
                .chain(address)
                .filter(|ip| ip != "None" && !ip.is_empty()),
        );
        if self.config.address == Address::PortForward {
            names.insert(forward::HOST.to_owned());
        }
        for ingress in super::load_balancer(service) {
            names.extend(ingress.ip.iter().chain(&ingress.hostname).cloned());
        }
        names
    }

    /// Whether a stateful set was refused its pod, and is to try again. By itself it does so ever less often, in the end
    /// once in a quarter of an hour; any change has it try at once.
    fn is_refused(&self, wanted: &Wanted<'_>, stateful_set: &StatefulSet) -> bool {
        let tried_at = stateful_set.annotations().get(TRIED_AT);
        let tried_at = tried_at.and_then(|time| DateTime::parse_from_rfc3339(time).ok());
        let warning = self
            .cache
            .warning(wanted.namespace, "StatefulSet", &stateful_set.metadata);
        warning.is_some() && tried_at.is_none_or(|time| time + TRY_AGAIN_AFTER <= Utc::now())
    }

    async fn try_pod_again(&self, wanted: &Wanted<'_>, stateful_set: &StatefulSet) -> Result<()> {
        let stateful_sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), wanted.namespace);
        let name = stateful_set.name_any();
        let now = Utc::now().to_rfc3339();
        let tried = json!({"metadata": {"uid": stateful_set.uid(), "annotations": {TRIED_AT: now}}});
        let (tried, parameters) = (Patch::Merge(tried), PatchParams::default());
        let patched = stateful_sets.patch_metadata(&name, &parameters, &tried);
        call(&format!("have the stateful set {name} try again"), patched).await?;
        Ok(())
    }

    /// Deletes the pod, so that the stateful set makes a new one: it leaves one alone that does not run.
    async fn replace_pod(&self, wanted: &Wanted<'_>, pod: &Pod) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), wanted.namespace);
        let name = pod.name_any();
        let this_one = DeleteParams {
            // As it was seen: one that has started since is left alone.
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: pod.resource_version(),
            }),
            ..DeleteParams::default()
        };
        match call(&format!("delete the pod {name}"), pods.delete(&name, &this_one)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Applies an object of whose specification these fields are toygres's as a whole. What somebody else has put into
    /// them is taken out first: applied, they would keep it, or be refused for it.
    async fn apply_whole<K>(
        &self,
        wanted: &Wanted<'_>,
        object: K,
        seen: Option<Arc<K>>,
        fields: &[&str],
    ) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        if let Some(seen) = seen
            && let (Ok(should), Ok(seen)) = (serde_json::to_value(&object), serde_json::to_value(&*seen))
            && let Some(patch) = replacement(&should, &seen, fields)
        {
            match self.put_right::<K>(wanted, &object.name_any(), patch).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        self.apply(wanted, object).await
    }

    /// Applies the stateful set, and takes out what somebody else has put beside its container, or into it. Only
    /// afterwards, so that a change of toygres's own is one revision, for which the server restarts once.
    async fn apply_stateful_set(&self, wanted: &Wanted<'_>) -> Result<StatefulSet> {
        let object = stateful_set(wanted);
        let applied = self.apply(wanted, object.clone()).await?;
        let template = |object: &StatefulSet| serde_json::to_value(&object.spec.as_ref()?.template).ok();
        if let (Some(should), Some(there)) = (template(&object), template(&applied))
            && let Some(patch) = replacement(&should, &there, &["containers", "volumes"])
        {
            let patch = json!({"spec": {"template": patch}});
            return self.put_right(wanted, &object.name_any(), patch).await;
        }
        Ok(applied)
    }

    async fn put_right<K>(&self, wanted: &Wanted<'_>, name: &str, patch: Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), wanted.namespace);
        let patch = Patch::Strategic(patch);
        let parameters = PatchParams::apply(MANAGER);
        let doing = format!("put right the {} {name}", K::kind(&K::DynamicType::default()));
        call(&doing, api.patch(name, &parameters, &patch)).await
    }

    async fn apply<K>(&self, wanted: &Wanted<'_>, object: K) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), wanted.namespace);
        let name = object.name_any();
        let doing = format!("apply the {} {name}", K::kind(&K::DynamicType::default()));
        // By force: what somebody else has changed of toygres's fields is changed back.
        let parameters = PatchParams::apply(MANAGER).force();
        call(&doing, api.patch(&name, &parameters, &Patch::Apply(&object))).await
    }
}

/// Whether the pod does not run, and is not as it should be by now.
fn is_stuck(pod: &Pod, applied: &StatefulSet) -> bool {
    let Some(status) = &applied.status else {
        return false;
    };
    status.observed_generation == applied.metadata.generation
        && pod.labels().get("controller-revision-hash") != status.update_revision.as_ref()
        && !is_started(pod)
        && pod.metadata.deletion_timestamp.is_none()
}

/// Has those of the fields that differ replaced, as a
/// [strategic patch](https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/).
fn replacement(should: &Value, seen: &Value, fields: &[&str]) -> Option<Value> {
    let mut spec = serde_json::Map::new();
    for field in fields {
        let of = |object: &Value| json!({*field: object["spec"][field]});
        if difference(&of(should), &of(seen)).is_some() {
            let mut value = should["spec"][field].clone();
            match &mut value {
                Value::Array(items) => items.insert(0, json!({"$patch": "replace"})),
                value => value["$patch"] = json!("replace"),
            }
            spec.insert((*field).to_owned(), value);
        }
    }
    (!spec.is_empty()).then(|| json!({"spec": spec}))
}

fn stored_certificate(secret: &Secret) -> Option<ServerCertificate> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    ServerCertificate::stored(
        &secret.metadata,
        text("tls.crt")?,
        toygres_models::Secret::new(text("tls.key")?),
    )
}

fn lost(reason: Reason, message: String) -> Error {
    Error::new(ErrorKind::StorageLost, reason.as_str(), message)
}
