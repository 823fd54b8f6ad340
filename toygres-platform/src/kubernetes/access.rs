//! The way to the cluster, and whether toygres may do there what it has to.

use super::authority;
use super::cache::WATCH_SECONDS;
use super::config::{Address, Duty, KubernetesConfig};
use super::fault::fault;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::client::ClientBuilder;
use kube::client::retry::RetryPolicy;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use std::collections::BTreeMap;
use std::time::Duration;
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, Result};
use tracing::Instrument;

/// Connecting may take so long.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// An API server that is silent for so long does not answer. Counted for each try, so that one that asks to be left
/// alone for longer (`Retry-After`) is.
const CALL_SILENCE: Duration = Duration::from_secs(10);
/// The same for watches and logs that are followed, which may well have nothing to say: longer than a watch takes
/// until it is begun anew.
const STREAM_SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// What toygres does with a kind of object.
struct Permission {
    group: &'static str,
    resource: &'static str,
    /// What every process does.
    verbs: &'static [&'static str],
    /// What those besides do that make and repair instances.
    worker: &'static [&'static str],
    /// What those besides do that answer requests.
    api: &'static [&'static str],
}

/// A kind that instances are made of: everybody watches it, and removes what is nobody's.
const fn part(group: &'static str, resource: &'static str, worker: &'static [&'static str]) -> Permission {
    Permission {
        group,
        resource,
        verbs: &["list", "watch", "delete"],
        worker,
        api: &[],
    }
}

/// All that toygres does in a namespace of instances. The chart in deploy/ allows just this, and says why.
const PERMISSIONS: &[Permission] = &[
    part("", "persistentvolumeclaims", &["get", "create", "patch"]),
    part("", "secrets", &["get", "create", "patch"]),
    part("", "services", &["create", "patch"]),
    part("apps", "statefulsets", &["create", "patch"]),
    part("networking.k8s.io", "networkpolicies", &["create", "patch"]),
    part("", "pods", &[]),
    Permission {
        group: "",
        resource: "pods/log",
        verbs: &[],
        worker: &[],
        api: &["get"],
    },
    Permission {
        group: "",
        resource: "events",
        verbs: &["list", "watch"],
        worker: &[],
        api: &[],
    },
];

/// What it does besides with [`Address::PortForward`]. A WebSocket begins as a `get`, which is all that API servers ask
/// about before Kubernetes 1.35; from then on they ask about `create` too.
const FORWARDING: Permission = Permission {
    group: "",
    resource: "pods/portforward",
    verbs: &["get", "create"],
    worker: &[],
    api: &[],
};

/// Group, resource and verb of all that a process does in a namespace of instances.
fn needed(duty: Duty, address: Address) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let forwarding = (address == Address::PortForward).then_some(&FORWARDING);
    PERMISSIONS.iter().chain(forwarding).flat_map(move |permission| {
        let worker = (duty != Duty::Api).then_some(permission.worker);
        let api = (duty != Duty::Worker).then_some(permission.api);
        let verbs = [Some(permission.verbs), worker, api];
        let verbs = verbs.into_iter().flatten().flatten();
        verbs.map(|verb| (permission.group, permission.resource, *verb))
    })
}

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

/// Clients for the cluster that is configured. They differ in how long they wait for something to come.
pub(super) struct Clients {
    /// For what is answered at once.
    pub(super) calls: Client,
    /// For watches, and logs that are followed.
    pub(super) streams: Client,
    /// For connections that are forwarded.
    pub(super) forwards: Client,
}

/// The way to the cluster that is configured, and the namespaces in it. Connects to nothing yet.
pub(super) async fn connect(config: &KubernetesConfig) -> Result<(Clients, Namespaces)> {
    let options = KubeConfigOptions {
        context: config.context.clone(),
        ..KubeConfigOptions::default()
    };
    let read = async {
        match &config.kubeconfig {
            Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await,
            None => match Config::from_kubeconfig(&options).await {
                // Outside a cluster the kubeconfig is what somebody has to mend.
                Err(cause) if config.context.is_none() => Config::incluster().map_err(|_| cause),
                found => found,
            },
        }
    };
    let mut way = read.await.map_err(no_way)?;
    way.connect_timeout = Some(CONNECT_LIMIT);
    // What counts is the time since a request was sent, not since a connection was last used.
    way.reset_reader_on_write = true;
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
    let client = |silence| {
        let mut way = way.clone();
        way.read_timeout = silence;
        let client = ClientBuilder::try_from(way)
            .map_err(|cause| fault("use the kubeconfig", cause))?
            .with_layer(&BufferLayer::new(1024))
            .with_layer(&RetryLayer::new(retries.clone()))
            .build();
        Ok::<_, Error>(client)
    };
    let clients = Clients {
        calls: client(Some(CALL_SILENCE))?,
        streams: client(Some(STREAM_SILENCE))?,
        forwards: client(None)?,
    };
    Ok((clients, namespaces))
}

/// Why there is no way to a cluster. Never in the words of a parser: they may be lines of the file, with a token in them.
fn no_way(cause: KubeconfigError) -> Error {
    let why = match cause {
        KubeconfigError::ReadConfig(cause, path) => {
            format!("{} can't be read: {}", path.display(), cause.kind())
        }
        KubeconfigError::CurrentContextNotSet => {
            "the kubeconfig does not say which context to use".to_owned()
        }
        KubeconfigError::LoadContext(context) => format!("the kubeconfig has no context {context}"),
        KubeconfigError::LoadClusterOfContext(cluster) => format!("the kubeconfig has no cluster {cluster}"),
        KubeconfigError::FindPath => "there is no kubeconfig".to_owned(),
        _ => "the kubeconfig is not one that can be used".to_owned(),
    };
    Error::new(
        ErrorKind::Config,
        "bad_kubeconfig",
        format!("there is no way to a Kubernetes cluster: {why}"),
    )
    .hint("set KUBECONFIG to a kubeconfig file, or run toygres in a pod with a service account")
}

/// A call's answer, its failure classed.
pub(super) async fn call<T>(doing: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T> {
    // Without the object's name there are as many names of spans as there are calls in the program.
    let name: Vec<&str> = doing.split(' ').take(3).collect();
    let span = tracing::debug_span!(
        "kubernetes",
        otel.name = name.join(" "),
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        peer.service = "kubernetes",
        doing
    );
    let answer = call.instrument(span.clone()).await;
    if answer.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    answer.map_err(|cause| fault(doing, cause))
}

/// Makes sure that all that toygres has to do is allowed.
///
/// # Errors
/// `Config` `permission_denied` with everything that is missing.
pub(super) async fn check_permissions(
    client: &Client,
    namespaces: &Namespaces,
    config: &KubernetesConfig,
) -> Result<()> {
    let mut missing: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let wanted = namespaces.allowed.iter().flat_map(|namespace| {
        needed(config.duty, config.address).map(move |permission| (namespace.as_str(), permission, None))
    });
    // The certificate authority. What is to be created has no name yet that could be allowed.
    let own = [("get", Some(authority::NAME)), ("create", None)];
    let own = own.map(|(verb, name)| (namespaces.control_plane.as_str(), ("", "secrets", verb), name));
    let reviews = wanted.chain(own).map(|(namespace, permission, name)| async move {
        let allowed = is_allowed(client, namespace, permission, name).await?;
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

async fn is_allowed(
    client: &Client,
    namespace: &str,
    permission: (&str, &str, &str),
    name: Option<&str>,
) -> Result<bool> {
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
                name: name.map(str::to_owned),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The rules of a part of the chart's template, as [`needed`] has them.
    fn rules(template: &str) -> BTreeSet<(&str, &str, &str)> {
        let mut rules = BTreeSet::new();
        let (mut group, mut resources) = ("", Vec::new());
        for line in template.lines() {
            let Some((key, list)) = line.split_once(": [") else {
                continue;
            };
            let list: Vec<&str> = list.trim_end_matches(']').split(", ").collect();
            match key.trim_start_matches(['-', ' ']) {
                "apiGroups" => group = list[0].trim_matches('"'),
                "resources" => resources = list,
                "verbs" => {
                    for resource in &resources {
                        rules.extend(list.iter().map(|verb| (group, *resource, *verb)));
                    }
                }
                other => panic!("unknown key {other}"),
            }
        }
        rules
    }

    #[test]
    fn the_chart_allows_just_what_is_needed() {
        const TEMPLATE: &str = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../deploy/helm/toygres/templates/_helpers.tpl"
        ));
        let (_, template) = TEMPLATE.split_once("{{- define \"toygres.rules\" -}}").unwrap();
        let (both, template) = template.split_once("{{- if eq . \"api\" }}").unwrap();
        let (api, template) = template.split_once("{{- else }}").unwrap();
        let (worker, _) = template.split_once("{{- end }}").unwrap();
        for (duty, parts) in [
            (Duty::Api, vec![both, api]),
            (Duty::Worker, vec![both, worker]),
            (Duty::All, vec![both, api, worker]),
        ] {
            let allowed: BTreeSet<_> = parts.into_iter().flat_map(rules).collect();
            assert_eq!(allowed, needed(duty, Address::Dns).collect(), "{duty:?}");
        }
    }

    #[test]
    fn golden_the_guide_lists_every_permission() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kubernetes.md");
        let guide = std::fs::read_to_string(path).unwrap();
        let rows: Vec<String> = PERMISSIONS
            .iter()
            .chain([&FORWARDING])
            .map(|permission| {
                let group = match permission.group {
                    "" => "core",
                    group => group,
                };
                let verbs = [permission.verbs, permission.worker, permission.api].map(|verbs| match verbs {
                    [] => "-".to_owned(),
                    verbs => verbs.join(", "),
                });
                format!("| {group} | `{}` | {} | ", permission.resource, verbs.join(" | "))
            })
            .collect();
        let listed = guide
            .lines()
            .filter(|line| rows.iter().any(|row| line.starts_with(row)));
        assert_eq!(
            listed.count(),
            rows.len(),
            "docs/kubernetes.md must have these rows, each with its reason:\n{}",
            rows.join("\n")
        );
        // And none that is not needed.
        let table = guide.split("| group | resource |").nth(1).unwrap();
        let in_table = table.lines().take_while(|line| !line.is_empty()).count();
        assert_eq!(in_table, rows.len() + 2, "{table}");
    }
}
