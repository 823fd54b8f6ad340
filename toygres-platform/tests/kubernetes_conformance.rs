//! The Kubernetes platform does what every platform must do, on a real cluster.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod kubernetes_support;

toygres_platform::platform_conformance!({
    let Some(kubeconfig) = kubernetes_support::kubeconfig("conformance") else {
        return;
    };
    kubernetes_support::Kubernetes::start(kubeconfig)
});
