//! The way to the cluster, and whether toygres may do there what it has to.

use super::config::{Address, KubernetesConfig};
use super::fault::{fault, timeout};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::client::ClientBuilder;
use kube::client::retry::RetryPolicy;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use std::collections::BTreeMap;
use std::time::Duration;
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result};

/// A call that takes longer has failed. Watches and logs that are followed are not such calls.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// What toygres does with each kind of object: group, resource, verbs. docs/kubernetes.md says why, and the chart
/// allows just these.
pub(super) const PERMISSIONS: &[(&str, &str, &[&str])] = &[
    (
        "",
        "persistentvolumeclaims",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    (
        "",
        "secrets",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    (
        "",
        "services",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    (
        "apps",
        "statefulsets",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    (
        "networking.k8s.io",
        "networkpolicies",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    ("", "pods", &["get", "list", "watch", "delete"]),
    ("", "pods/log", &["get"]),
    ("", "events", &["list", "watch"]),
];

/// What it does besides with [`Address::PortForward`].
const FORWARDING: (&str, &str, &str) = ("", "pods/portforward", "create");

/// The namespaces that matter.
#[derive(Debug, Clone)]
pub(super) struct Namespaces {
    /// Where instances are that do not say.
    pub(super) default: String,
    /// Where instances may be, the default among them.
    pub(super) allowed: Vec<String>,
    /// Where the control plane is.
    pub(super) control_plane: String,
}

/// A client for the cluster that is configured, and the namespaces in it. Connects to nothing yet.
pub(super) async fn connect(config: &KubernetesConfig) -> Result<(Client, Namespaces)> {
    let wrong = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(
            ErrorKind::Config,
            "bad_kubeconfig",
            "there is no way to a Kubernetes cluster",
        )
        .hint("set KUBECONFIG to a kubeconfig file, or run toygres in a pod with a service account")
        .source(cause)
    };
    let options = KubeConfigOptions {
        context: config.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut way = match &config.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|cause| wrong(cause.into()))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|cause| wrong(cause.into()))?
        }
        None if config.context.is_some() => Config::from_kubeconfig(&options)
            .await
            .map_err(|cause| wrong(cause.into()))?,
        None => Config::infer().await.map_err(|cause| wrong(cause.into()))?,
    };
    way.connect_timeout = Some(Duration::from_secs(5));
    // Its own retries go on for as long as a quarter of an hour; who called would not learn why it takes so long.
    way.default_retry = false;
    let default = config
        .namespace
        .clone()
        .unwrap_or_else(|| way.default_namespace.clone());
    let namespaces = Namespaces {
        allowed: [default.clone()]
            .into_iter()
            .chain(
                config
                    .allowed_namespaces
                    .iter()
                    .filter(|name| **name != default)
                    .cloned(),
            )
            .collect(),
        control_plane: config
            .control_plane_namespace
            .clone()
            .unwrap_or_else(|| default.clone()),
        default,
    };
    // 429 and Retry-After are obeyed; what is not over after a few tries is for the orchestration to wait out.
    let retries = RetryPolicy::new(Duration::from_millis(50), Duration::from_secs(1), 4, true)
        .map_err(|cause| Error::internal("a retry policy can't be made").source(cause))?;
    let client = ClientBuilder::try_from(way)
        .map_err(|cause| wrong(cause.into()))?
        .with_layer(&BufferLayer::new(1024))
        .with_layer(&RetryLayer::new(retries))
        .build();
    Ok((client, namespaces))
}

/// Waits for a call's answer, for as long as a call may take.
pub(super) async fn call<T>(doing: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer.map_err(|cause| fault(doing, cause)),
        Err(_) => Err(timeout(doing)),
    }
}

/// Makes sure that all that toygres has to do is allowed.
///
/// # Errors
/// `Config` `permission_denied` with everything that is missing.
pub(super) async fn check_permissions(
    client: &Client,
    namespaces: &Namespaces,
    address: Address,
) -> Result<()> {
    let mut missing: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let wanted = namespaces.allowed.iter().flat_map(|namespace| {
        let all = |(group, resource, verbs): &'static (&str, &str, &[&str])| {
            verbs.iter().map(move |verb| (*group, *resource, *verb))
        };
        let forwarding = (address == Address::PortForward).then_some(FORWARDING);
        PERMISSIONS
            .iter()
            .flat_map(all)
            .chain(forwarding)
            .map(move |permission| (namespace.as_str(), permission))
    });
    // The certificate authority.
    let own = ["get", "create"].map(|verb| (namespaces.control_plane.as_str(), ("", "secrets", verb)));
    let reviews = wanted.chain(own).map(|(namespace, permission)| async move {
        let allowed = is_allowed(client, namespace, permission).await?;
        Ok::<_, Error>((namespace, permission, allowed))
    });
    for reviewed in futures_util::future::join_all(reviews).await {
        let (namespace, (group, resource, verb), allowed) = reviewed?;
        if !allowed {
            let object = match group {
                "" => format!("{resource} in the namespace {namespace}"),
                _ => format!("{resource}.{group} in the namespace {namespace}"),
            };
            let verbs = missing.entry(object).or_default();
            if !verbs.contains(&verb) {
                verbs.push(verb);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = missing
        .iter()
        .map(|(object, verbs)| format!("{} {object}", verbs.join(", ")))
        .collect();
    Err(Error::new(
        ErrorKind::Config,
        Reason::PermissionDenied.as_str(),
        format!("toygres is not allowed to: {}", list.join("; ")),
    )
    .hint("give its service account or user the role of docs/kubernetes.md"))
}

async fn is_allowed(client: &Client, namespace: &str, permission: (&str, &str, &str)) -> Result<bool> {
    let (group, resource, verb) = permission;
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                namespace: Some(namespace.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = call(
        "ask what toygres is allowed to do",
        reviews.create(&PostParams::default(), &review),
    )
    .await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
