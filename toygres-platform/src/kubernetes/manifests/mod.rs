//! What an instance is made of in Kubernetes: typed manifests, from pure functions.
//!
//! All of an instance has one name, `<name>-<8 hex>`, which is never used again, and says by labels whose it is. The
//! objects hold only fields that are toygres's to decide, since they are applied on the server's side
//! ([Server-Side Apply](https://kubernetes.io/docs/reference/using-api/server-side-apply/)).

mod claim;
mod network_policy;
mod secret;
mod service;
mod stateful_set;

pub(super) use claim::claim;
pub(super) use network_policy::network_policy;
pub(super) use secret::{Contents, file_of_another, holding_data, is_marked_as_holding_data, secret};
pub(super) use service::{clients_service, governing_service};
pub(super) use stateful_set::{NO_DATABASE, stateful_set};

use super::config::KubernetesConfig;
use crate::{InstanceRef, InstanceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// The field manager, and the value of `app.kubernetes.io/managed-by`.
pub(super) const MANAGER: &str = "toygres";
/// Finds all that toygres has made.
pub(super) const MANAGED: &str = "app.kubernetes.io/managed-by=toygres";
/// The label with an instance's whole id.
pub(super) const INSTANCE_ID: &str = "toygres.io/instance-id";
/// Where PostgreSQL listens.
pub(super) const PORT: u16 = 5432;
/// Where the secret's files are in the container.
const SECRET_DIRECTORY: &str = "/etc/toygres";

/// What the manifests are made from.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) config: &'a KubernetesConfig,
    pub(super) spec: &'a InstanceSpec,
    /// Where the instance is.
    pub(super) namespace: &'a str,
    /// Where the control plane is.
    pub(super) control_plane_namespace: &'a str,
}

impl Wanted<'_> {
    fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.to_owned()),
            labels: Some(self.labels()),
            ..ObjectMeta::default()
        }
    }

    /// The [recommended labels](https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/), and
    /// the instance's id.
    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.extend(
            [
                ("app.kubernetes.io/name", "postgresql".to_owned()),
                (
                    "app.kubernetes.io/version",
                    self.spec.postgres_version.to_string(),
                ),
                ("app.kubernetes.io/component", "database".to_owned()),
                ("app.kubernetes.io/managed-by", MANAGER.to_owned()),
                (INSTANCE_ID, self.spec.id.to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        labels
    }

    /// The labels that choose the instance's pod. They can't be changed later.
    fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("app.kubernetes.io/instance".to_owned(), self.object_name())])
    }

    fn object_name(&self) -> String {
        self.spec.reference().object_name()
    }

    fn memory_mb(&self) -> i32 {
        self.spec.memory_mb.unwrap_or(self.config.default_memory_mb)
    }
}

/// The selector of everything of one instance.
pub(super) fn selector(instance: &InstanceRef) -> String {
    format!("{MANAGED},{INSTANCE_ID}={}", instance.id)
}

/// The name of the service that clients connect to.
pub(super) fn clients_service_name(object_name: &str) -> String {
    format!("{object_name}-rw")
}

/// The name of an instance's only pod.
pub(super) fn pod_name(object_name: &str) -> String {
    format!("{object_name}-0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Storage;
    use crate::kubernetes::certificates::ServerCertificate;
    use crate::kubernetes::config::Source;
    use std::path::Path;
    use toygres_models::{InstanceId, Secret};

    fn spec(version: i32) -> InstanceSpec {
        InstanceSpec {
            id: "1a2b3c4d-0000-4000-8000-000000000000"
                .parse::<InstanceId>()
                .unwrap(),
            name: "shop".parse().unwrap(),
            postgres_version: version.try_into().unwrap(),
            password: Secret::new("correct-horse".to_owned()),
            storage_size_gb: 10,
            cpu: None,
            memory_mb: None,
            internal: true,
            namespace: None,
        }
    }

    /// All that is applied for it, as YAML.
    fn applied(config: &KubernetesConfig, spec: &InstanceSpec, storage: Storage) -> String {
        let wanted = Wanted {
            config,
            spec,
            namespace: "databases",
            control_plane_namespace: "toygres",
        };
        let contents = Contents {
            certificate: &ServerCertificate::example(),
            authority: "authority\n",
            storage,
        };
        let yaml = |value: serde_json::Value| serde_saphyr::to_string(&value).unwrap();
        [
            serde_json::to_value(claim(&wanted)),
            serde_json::to_value(clients_service(&wanted)),
            serde_json::to_value(governing_service(&wanted)),
            serde_json::to_value(network_policy(&wanted)),
            serde_json::to_value(secret(&wanted, &contents)),
            serde_json::to_value(stateful_set(&wanted)),
        ]
        .map(|object| yaml(object.unwrap()))
        .join("---\n")
    }

    /// Compares with the file, and leaves what it should be for whoever wants it so.
    fn golden(name: &str, found: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/kubernetes")
            .join(name);
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        if wanted != found {
            let new = std::env::temp_dir().join(name);
            std::fs::write(&new, found).unwrap();
            panic!("{} differs: see and copy {}", path.display(), new.display());
        }
    }

    #[test]
    fn golden_each_version_as_it_comes() {
        for version in [15, 16, 17, 18] {
            let yaml = applied(&KubernetesConfig::default(), &spec(version), Storage::Create);
            golden(&format!("postgres-{version}.yaml"), &yaml);
        }
    }

    #[test]
    fn golden_everything_configured() {
        let pairs = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let digest = format!("sha256:{}", "0a".repeat(32));
        let config = KubernetesConfig {
            image: "registry.example.org/postgres".to_owned(),
            image_digests: [(18.try_into().unwrap(), digest)].into(),
            image_pull_secret: Some("registry".to_owned()),
            storage_class: Some("fast".to_owned()),
            service_annotations: pairs("example.org/dns-label", "{name}-db"),
            node_selector: pairs("example.org/pool", "databases"),
            allowed_sources: Some(
                ["10.0.0.0/8", "namespace:apps"]
                    .map(|source| source.parse::<Source>().unwrap())
                    .into(),
            ),
            ..KubernetesConfig::default()
        };
        let spec = InstanceSpec {
            cpu: Some("2".to_owned()),
            memory_mb: Some(4096),
            internal: false,
            ..spec(18)
        };
        golden("everything.yaml", &applied(&config, &spec, Storage::Create));
    }

    #[test]
    fn golden_external_with_data_and_without_cpu_limits() {
        let config = KubernetesConfig {
            default_cpu: None,
            ..KubernetesConfig::default()
        };
        let spec = InstanceSpec {
            internal: false,
            ..spec(17)
        };
        let storage = Storage::MustExist {
            system_identifier: None,
        };
        golden("external-with-data.yaml", &applied(&config, &spec, storage));
    }

    #[test]
    fn the_password_is_in_the_secret_alone() {
        let yaml = applied(&KubernetesConfig::default(), &spec(17), Storage::Create);
        let encoded = "Y29ycmVjdC1ob3JzZQ==";
        for object in yaml.split("---\n") {
            assert!(!object.contains("correct-horse"), "{object}");
            assert_eq!(
                object.contains(encoded),
                object.contains("kind: Secret"),
                "{object}"
            );
        }
    }

    #[test]
    fn names_fit_where_kubernetes_puts_them() {
        let longest = "n".repeat(toygres_models::InstanceName::MAX_LEN);
        let spec = InstanceSpec {
            name: longest.parse().unwrap(),
            ..spec(17)
        };
        let object_name = spec.reference().object_name();
        // A label of the pod is this with a hyphen and a hash of ten digits behind it.
        assert!(object_name.len() <= 52, "{object_name}");
        assert!(clients_service_name(&object_name).len() <= 63);
    }
}
