//! Instances are reached from outside the cluster's network by forwarded ports.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod kubernetes_support;

use kubernetes_support::{Kubernetes, kubeconfig};
use toygres_platform::conformance;
use toygres_platform::kubernetes::Address;

macro_rules! forwarded {
    ($($case:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let Some(kubeconfig) = kubeconfig("port_forward") else {
                    return;
                };
                let hooks = Kubernetes::start_with(kubeconfig, |config| config.address = Address::PortForward).await;
                conformance::$case(&hooks).await;
                for listed in conformance::Hooks::platform(&hooks).list().await.unwrap() {
                    conformance::remove(&hooks, &listed.instance).await;
                }
            }
        )+
    };
}

forwarded! {
    an_instance_takes_connections_with_its_password_only
    a_killed_server_is_seen_and_ensured_again_with_its_data
    remove_leaves_nothing_and_can_be_repeated
}
