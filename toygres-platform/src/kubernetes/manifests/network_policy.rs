//! The network policy: who may connect.

use super::{PORT, Wanted};
use crate::kubernetes::config::Source;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::{BTreeMap, BTreeSet};

/// The label that every namespace has since Kubernetes 1.21, with its own name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Lets nothing but PostgreSQL's port be reached, by the sources that are allowed and by the control plane.
pub(in super::super) fn network_policy(wanted: &Wanted<'_>) -> NetworkPolicy {
    NetworkPolicy {
        metadata: wanted.metadata(wanted.object_name()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(wanted.selector()),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(sources(wanted).into_iter().map(peer).collect()),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::Int(i32::from(PORT))),
                    protocol: Some("TCP".to_owned()),
                    ..NetworkPolicyPort::default()
                }]),
            }]),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn sources(wanted: &Wanted<'_>) -> BTreeSet<Source> {
    let mut sources = wanted.config.allowed_sources.clone().unwrap_or_else(|| {
        let own = Source::Namespace(wanted.namespace.to_owned());
        let everybody = ["0.0.0.0/0", "::/0"].map(|cidr| Source::Cidr(cidr.to_owned()));
        let outside = if wanted.spec.internal {
            None
        } else {
            Some(everybody)
        };
        outside.into_iter().flatten().chain([own]).collect()
    });
    sources.insert(Source::Namespace(wanted.control_plane_namespace.to_owned()));
    sources
}

fn peer(source: Source) -> NetworkPolicyPeer {
    match source {
        Source::Cidr(cidr) => NetworkPolicyPeer {
            ip_block: Some(IPBlock {
                cidr,
                ..IPBlock::default()
            }),
            ..NetworkPolicyPeer::default()
        },
        Source::Namespace(namespace) => NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector {
                match_labels: Some(BTreeMap::from([(NAMESPACE_NAME.to_owned(), namespace)])),
                ..LabelSelector::default()
            }),
            ..NetworkPolicyPeer::default()
        },
    }
}
