//! What can be configured about instances on Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use toygres_models::PostgresVersion;

/// How the control plane reaches an instance, and what it tells clients in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Address {
    /// By the name of its service: `shop-1a2b3c4d-rw.databases.svc.cluster.local`.
    #[default]
    Dns,
    /// By the cluster IP of its service, where names can't be resolved: in a cluster without DNS, or from a node.
    ClusterIp,
    /// By a loopback port of the machine that the control plane runs on, which the API server forwards: for trying
    /// toygres out from a machine outside the cluster.
    PortForward,
}

impl FromStr for Address {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "dns" => Ok(Self::Dns),
            "cluster-ip" => Ok(Self::ClusterIp),
            "port-forward" => Ok(Self::PortForward),
            _ => Err("must be \"dns\", \"cluster-ip\" or \"port-forward\""),
        }
    }
}

/// Which part of the work this process does, and so what it must be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Duty {
    /// Everything.
    #[default]
    All,
    /// It answers requests.
    Api,
    /// It makes, repairs and removes instances.
    Worker,
}

/// Who may connect to instances, as a
/// [network policy](https://kubernetes.io/docs/concepts/services-networking/network-policies/) knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Addresses.
    Cidr(String),
    /// Every pod of a namespace.
    Namespace(String),
}

impl FromStr for Source {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str = "must be like 10.0.0.0/8 or namespace:NAME";
        if let Some(namespace) = text.strip_prefix("namespace:") {
            return if is_label(namespace) {
                Ok(Self::Namespace(namespace.to_owned()))
            } else {
                Err(ALLOWED)
            };
        }
        let (address, prefix) = text.split_once('/').ok_or(ALLOWED)?;
        let address: IpAddr = address.parse().map_err(|_| ALLOWED)?;
        let prefix: u8 = prefix.parse().map_err(|_| ALLOWED)?;
        if prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err(ALLOWED);
        }
        Ok(Self::Cidr(format!("{address}/{prefix}")))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr(cidr) => f.write_str(cidr),
            Self::Namespace(namespace) => write!(f, "namespace:{namespace}"),
        }
    }
}

/// Whether it is an RFC 1123 label, as names of namespaces are.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// How to reach the cluster, and what instances are like there.
#[derive(Debug, Clone)]
pub struct KubernetesConfig {
    /// Which part of the work this process does.
    pub duty: Duty,
    /// A kubeconfig file. None: `KUBECONFIG`, `~/.kube/config`, else the service account of the pod that this is.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig. None: its current one.
    pub context: Option<String>,
    /// Where instances are that do not name a namespace. None: the context's, or the pod's own.
    pub namespace: Option<String>,
    /// Where else instances may be.
    pub allowed_namespaces: BTreeSet<String>,
    /// Where the control plane keeps what is its own, and from where it connects. None: as `namespace`.
    pub control_plane_namespace: Option<String>,
    /// The image's repository; the major version is its tag.
    pub image: String,
    /// The major versions to offer.
    pub versions: BTreeSet<PostgresVersion>,
    /// Digests (`sha256:...`) that pin the images of versions.
    pub image_digests: BTreeMap<PostgresVersion, String>,
    /// A secret with credentials for the repository, in every namespace of instances.
    pub image_pull_secret: Option<String>,
    /// The storage class of volume claims. None: the cluster's default.
    pub storage_class: Option<String>,
    /// CPUs of instances that do not say, as a Kubernetes quantity. None: neither reserved nor limited.
    pub default_cpu: Option<String>,
    /// Memory of instances that do not say, in MiB.
    pub default_memory_mb: i32,
    /// Annotations of the services that clients connect to; `{name}` stands for the instance's name.
    pub service_annotations: BTreeMap<String, String>,
    /// Labels of the nodes that instances may run on.
    pub node_selector: BTreeMap<String, String>,
    /// Who may connect besides the control plane. None: the instance's namespace, and everybody to instances that are
    /// not internal.
    pub allowed_sources: Option<BTreeSet<Source>>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// How instances are reached inside the cluster.
    pub address: Address,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            duty: Duty::default(),
            kubeconfig: None,
            context: None,
            namespace: None,
            allowed_namespaces: BTreeSet::new(),
            control_plane_namespace: None,
            image: "docker.io/library/postgres".to_owned(),
            versions: [15_i32, 16, 17, 18]
                .into_iter()
                .filter_map(|major| PostgresVersion::try_from(major).ok())
                .collect(),
            image_digests: BTreeMap::new(),
            image_pull_secret: None,
            storage_class: None,
            default_cpu: Some("500m".to_owned()),
            default_memory_mb: 512,
            service_annotations: BTreeMap::new(),
            node_selector: BTreeMap::new(),
            allowed_sources: None,
            cluster_domain: "cluster.local".to_owned(),
            address: Address::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_addresses_or_namespaces() {
        for text in ["10.0.0.0/8", "::/0", "namespace:apps", "192.168.1.1/32"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "namespace:",
            "namespace:A",
            "apps",
            "10.0.0/8",
        ] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    fn is_what_it_is_printed_as(text: &str) {
        if let Ok(source) = text.parse::<Source>() {
            assert_eq!(source.to_string().parse(), Ok(source));
        }
        text.parse::<Address>().ok();
    }

    #[test]
    fn fuzz_source() {
        bolero::check!().for_each(|bytes: &[u8]| is_what_it_is_printed_as(&String::from_utf8_lossy(bytes)));
    }

    proptest::proptest! {
        #[test]
        fn a_source_is_what_it_is_printed_as(
            any in ".*", near in "(namespace:|[0-9a-f.:]{0,16}/)[0-9a-z-]{0,64}",
        ) {
            for text in [any, near] {
                is_what_it_is_printed_as(&text);
            }
        }
    }
}
