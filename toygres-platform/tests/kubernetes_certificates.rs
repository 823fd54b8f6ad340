//! The certificates of instances on a real cluster: for whom they are, and how they are replaced.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod kubernetes_support;

use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{Patch, PatchParams};
use kubernetes_support::{Kubernetes, kubeconfig};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use std::time::Duration;
use toygres_models::instances::Endpoint;
use toygres_platform::conformance::{PASSWORD, made, new_spec, remove};
use toygres_platform::kubernetes::KubernetesPlatform;
use toygres_platform::{InstanceSpec, Observation, Platform, Serving, Storage};
use toygres_testing::wait_for;

const HOLDS_DATA: Storage = Storage::MustExist {
    system_identifier: None,
};

async fn connect(kubernetes: &Kubernetes, endpoint: &Endpoint) -> Result<PgConnection, sqlx::Error> {
    let authority = kubernetes.platform.certificate_authority().unwrap();
    PgConnectOptions::new_without_pgpass()
        .host(&endpoint.host)
        .port(endpoint.port)
        .username("postgres")
        .password(PASSWORD)
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert_from_pem(authority.as_bytes().to_vec())
        .connect()
        .await
}

async fn differences(kubernetes: &Kubernetes, spec: &InstanceSpec) -> Vec<String> {
    let differences = kubernetes.platform.differences(spec, HOLDS_DATA).await;
    differences.unwrap().unwrap()
}

async fn serving(kubernetes: &Kubernetes, spec: &InstanceSpec) -> Serving {
    match kubernetes.platform.observe(&spec.reference()).await.unwrap() {
        Observation::Ready(serving) => serving,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_can_check_the_server_and_must_use_tls() {
    let Some(kubeconfig) = kubeconfig("certificates") else {
        return;
    };
    let kubernetes = Kubernetes::start(kubeconfig).await;
    let spec = new_spec(&kubernetes, "tls");
    let (endpoint, _) = made(&kubernetes, &spec).await;
    let mut connection = connect(&kubernetes, &endpoint).await.unwrap();
    let version: String = sqlx::query_scalar("select version from pg_stat_ssl where pid = pg_backend_pid()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(version.starts_with("TLSv1."), "{version}");
    connection.close().await.unwrap();

    let plain = PgConnectOptions::new_without_pgpass()
        .host(&endpoint.host)
        .username("postgres")
        .password(PASSWORD)
        .ssl_mode(PgSslMode::Disable);
    let refused = plain.connect().await.unwrap_err();
    let code = refused
        .as_database_error()
        .and_then(|error| error.code().map(String::from));
    assert_eq!(code.as_deref(), Some("28000"), "{refused}");
    remove(&kubernetes, &spec.reference()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_load_balancer_is_told_once_the_certificate_is_for_it() {
    let Some(kubeconfig) = kubeconfig("certificates") else {
        return;
    };
    let kubernetes = Kubernetes::start(kubeconfig).await;
    let spec = InstanceSpec {
        internal: false,
        ..new_spec(&kubernetes, "balanced")
    };
    made(&kubernetes, &spec).await;
    kubernetes.platform.ensure(&spec, HOLDS_DATA).await.unwrap();
    assert_eq!(serving(&kubernetes, &spec).await.external_endpoint, None);
    assert_eq!(differences(&kubernetes, &spec).await, Vec::<String>::new());

    // What a cloud's controller does.
    let service = format!("{}-rw", spec.reference().object_name());
    let address = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}});
    kubernetes
        .api::<Service>()
        .patch_status(&service, &PatchParams::default(), &Patch::Merge(address))
        .await
        .unwrap();
    let seen = wait_for("the address to be seen", Duration::from_secs(60), async || {
        let differences = differences(&kubernetes, &spec).await;
        (!differences.is_empty()).then_some(differences)
    })
    .await;
    assert_eq!(seen, ["its certificate is for other addresses"]);
    assert_eq!(serving(&kubernetes, &spec).await.external_endpoint, None);

    kubernetes.platform.ensure(&spec, HOLDS_DATA).await.unwrap();
    let external = serving(&kubernetes, &spec).await.external_endpoint.unwrap();
    assert_eq!((external.host.as_str(), external.port), ("203.0.113.7", 5432));
    assert_eq!(differences(&kubernetes, &spec).await, Vec::<String>::new());
    remove(&kubernetes, &spec.reference()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_processes_that_start_at_once_one_makes_the_authority() {
    let Some(kubeconfig) = kubeconfig("certificates") else {
        return;
    };
    let kubernetes = Kubernetes::start(kubeconfig).await;
    kubernetes.destroy::<Secret>("toygres-ca").await;
    let opened =
        futures_util::future::join_all((0..5).map(|_| KubernetesPlatform::open(kubernetes.config.clone())))
            .await;
    let authorities: Vec<String> = opened
        .into_iter()
        .map(|platform| platform.unwrap().certificate_authority().unwrap().to_owned())
        .collect();
    assert!(authorities.iter().all(|authority| *authority == authorities[0]));
}
