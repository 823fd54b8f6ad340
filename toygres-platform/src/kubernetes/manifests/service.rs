//! The services: how the server is reached.

use super::{PORT, Wanted, clients_service_name};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// What clients connect to; with a load balancer's address unless the instance is internal.
pub(in super::super) fn clients_service(wanted: &Wanted<'_>) -> Service {
    let mut metadata = wanted.metadata(clients_service_name(&wanted.object_name()));
    let annotations = &wanted.config.service_annotations;
    if !annotations.is_empty() {
        let name = wanted.spec.name.as_str();
        let filled = |(key, value): (&String, &String)| (key.clone(), value.replace("{name}", name));
        metadata.annotations = Some(annotations.iter().map(filled).collect::<BTreeMap<_, _>>());
    }
    let kind = if wanted.spec.internal {
        "ClusterIP"
    } else {
        "LoadBalancer"
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            // There is one pod: while it starts, "the database system is starting up" says more than a refused
            // connection, and no time is lost until the network knows that it is ready.
            publish_not_ready_addresses: Some(true),
            ..spec(wanted)
        }),
        ..Service::default()
    }
}

/// The one that a stateful set needs, for the name of its pod.
pub(in super::super) fn governing_service(wanted: &Wanted<'_>) -> Service {
    Service {
        metadata: wanted.metadata(wanted.object_name()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            ..spec(wanted)
        }),
        ..Service::default()
    }
}

fn spec(wanted: &Wanted<'_>) -> ServiceSpec {
    ServiceSpec {
        selector: Some(wanted.selector()),
        ports: Some(vec![ServicePort {
            name: Some("postgresql".to_owned()),
            port: i32::from(PORT),
            protocol: Some("TCP".to_owned()),
            target_port: Some(IntOrString::String("postgresql".to_owned())),
            ..ServicePort::default()
        }]),
        ..ServiceSpec::default()
    }
}
