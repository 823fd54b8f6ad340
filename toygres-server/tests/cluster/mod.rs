//! A toygres server with instances in a namespace of its own, in the cluster of `TOYGRES_TEST_KUBECONFIG`.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "each test program uses its part, and tests panic"
)]

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, PostParams, PropagationPolicy};
use kube::{Api, Resource};
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};
use toygres_models::instances::InstanceAccepted;
use toygres_models::operations::{Operation, OperationState};
use toygres_models::server::Drift;
use toygres_platform::kubernetes::{Address, KubernetesConfig, KubernetesPlatform};
use toygres_testing::{TestHome, TestNamespace, TestServer, TestServerOptions, wait_for};

pub const PASSWORD: &str = "canary-2b7e151628aed2a6";
/// What people may have to wait to learn why something does not go on.
pub const TOLD_WITHIN: Duration = Duration::from_secs(30);
/// Far more than anything takes.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Six periods of the sweeper.
pub const FOUND_WITHIN: Duration = Duration::from_secs(30);
/// Between two health checks.
const CHECKED_EVERY_SECONDS: &str = "1";

/// See the module.
pub struct Cluster {
    // The server ends before the namespace goes.
    pub server: TestServer,
    pub config: KubernetesConfig,
    pub namespace: TestNamespace,
}

/// What goes on while no server runs.
pub struct Stopped {
    pub config: KubernetesConfig,
    pub namespace: TestNamespace,
    database_url: String,
    home: Arc<TestHome>,
}

impl Cluster {
    /// None, after saying so, without a cluster.
    pub async fn start(test: &str) -> Option<Self> {
        Self::start_with(test, |_| {}).await
    }

    pub async fn start_with(test: &str, change: impl FnOnce(&mut KubernetesConfig)) -> Option<Self> {
        let namespace = TestNamespace::new(&toygres_testing::kubeconfig(test)?).await;
        let mut config = KubernetesConfig {
            kubeconfig: Some(namespace.kubeconfig.clone()),
            namespace: Some(namespace.name.clone()),
            versions: ["15".parse().unwrap()].into(),
            default_cpu: None,
            default_memory_mb: 256,
            address: Address::ClusterIp,
            ..KubernetesConfig::default()
        };
        change(&mut config);
        let server = serve(&config, None).await;
        Some(Self {
            server,
            config,
            namespace,
        })
    }

    pub async fn stop(self) -> Stopped {
        let (database_url, home) = self.server.stop().await;
        Stopped {
            config: self.config,
            namespace: self.namespace,
            database_url,
            home,
        }
    }

    pub async fn create(&self, name: &str) -> InstanceAccepted {
        self.create_with(name, json!({})).await
    }

    /// With more fields in the request.
    pub async fn create_with(&self, name: &str, more: Value) -> InstanceAccepted {
        let mut body = json!({"name": name, "password": PASSWORD, "storage_size_gb": 1, "internal": true});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let (status, body) = self.server.post("/api/instances", &body).await;
        assert_eq!(status, 202, "{body}");
        serde_json::from_value(body).unwrap()
    }

    /// Makes one, and waits until it runs; gives the name of its objects.
    pub async fn created(&self, name: &str) -> String {
        let accepted = self.create(name).await;
        self.succeeds(&accepted).await;
        object_name(&accepted)
    }

    /// Waits until the operation has succeeded, which it must; gives how long that took.
    pub async fn succeeds(&self, accepted: &InstanceAccepted) -> Duration {
        let begun = Instant::now();
        let path = format!("/api/operations/{}", accepted.operation.id);
        let ended = wait_for(&format!("the end of {path}"), PATIENCE, async || {
            let (status, body) = self.server.get(&path).await;
            assert_eq!(status, 200, "{body}");
            let operation: Operation = serde_json::from_value(body).unwrap();
            operation.state.is_terminal().then_some(operation)
        })
        .await;
        assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
        begun.elapsed()
    }

    /// Waits until a step of the operation names this reason, and so does the instance; gives what the instance says,
    /// and how long it took.
    pub async fn told(&self, accepted: &InstanceAccepted, reason: &str) -> (String, Duration) {
        let begun = Instant::now();
        let path = format!("/api/operations/{}", accepted.operation.id);
        wait_for(&format!("{reason} in the operation"), TOLD_WITHIN, async || {
            let (_, operation) = self.server.get(&path).await;
            let steps = operation["steps"].as_array()?;
            steps.iter().any(|step| step["reason"] == reason).then_some(())
        })
        .await;
        let (said, _) = self.told_of(&accepted.instance.id.to_string(), reason).await;
        (said, begun.elapsed())
    }

    /// Waits until the instance names this reason; gives the sentence, and how long it took.
    pub async fn told_of(&self, name: &str, reason: &str) -> (String, Duration) {
        let begun = Instant::now();
        let said = wait_for(&format!("{reason} of {name}"), TOLD_WITHIN, async || {
            let (_, instance) = self.server.get(&format!("/api/instances/{name}")).await;
            let said = instance["state_reason"].as_str().unwrap_or_default().to_owned();
            (instance["state_reason_code"] == reason).then_some(said)
        })
        .await;
        (said, begun.elapsed())
    }

    /// Waits until a health check that was made from now on finds it healthy; gives how long that took.
    pub async fn recovers(&self, name: &str) -> Duration {
        let begun = Instant::now();
        let last = self.last_check(name).await["checked_at"].clone();
        wait_for(&format!("{name} to be healthy again"), PATIENCE, async || {
            let (_, instance) = self.server.get(&format!("/api/instances/{name}")).await;
            let check = self.last_check(name).await;
            let is_new = check["checked_at"] != last && check["healthy"] == true;
            (is_new && instance["state"] == "running" && instance["health_status"] == "healthy").then_some(())
        })
        .await;
        begun.elapsed()
    }

    pub async fn last_check(&self, name: &str) -> Value {
        let (_, checks) = self
            .server
            .get(&format!("/api/instances/{name}/health?limit=1"))
            .await;
        checks[0].clone()
    }

    /// The sentences of an instance's events of this kind.
    pub async fn events(&self, name: &str, kind: &str) -> Vec<String> {
        let (_, events) = self.server.get(&format!("/api/instances/{name}/events")).await;
        let events = events.as_array().cloned().unwrap_or_default();
        let of_kind = events.into_iter().filter(|event| event["kind"] == kind);
        of_kind
            .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    pub async fn drift(&self) -> Vec<Drift> {
        let (status, drift) = self.server.get("/api/server/drift").await;
        assert_eq!(status, 200, "{drift}");
        serde_json::from_value(drift).unwrap()
    }

    /// Waits until there is a finding of this kind about this object, which takes no more than a few sweeps.
    pub async fn found(&self, kind: &str, object: &str) -> Drift {
        wait_for(&format!("{kind} of {object}"), FOUND_WITHIN, async || {
            let mut drift = self.drift().await.into_iter();
            drift.find(|drift| drift.kind == kind && drift.object == object)
        })
        .await
    }

    pub async fn no_drift(&self) {
        wait_for("no drift", FOUND_WITHIN, async || {
            self.drift().await.is_empty().then_some(())
        })
        .await;
    }

    /// Asks to have it put right; the status and the answer.
    pub async fn fix(&self, drift: &Drift) -> (StatusCode, Value) {
        let path = format!("/api/server/drift/{}/fix", drift.id);
        self.server.post(&path, &json!({})).await
    }

    /// That it is not for toygres to put right.
    pub async fn cannot_be_fixed(&self, drift: &Drift) {
        assert!(!drift.fixable, "{drift:?}");
        let (status, refused) = self.fix(drift).await;
        assert_eq!(
            (status, &refused["code"], &refused["hint"]),
            (
                StatusCode::CONFLICT,
                &json!("drift_not_fixable"),
                &json!(drift.remedy)
            )
        );
    }

    /// Waits until the sweeper has gone by twice more: what it has not done by then, it does not do.
    pub async fn two_sweeps(&self) {
        let secrets = self.api::<Secret>();
        for _ in 0..2 {
            let stranger = format!("stranger-{}", uuid::Uuid::new_v4().simple());
            self.make_nobodys(&stranger).await;
            self.found("unknown_object", &stranger).await;
            secrets.delete(&stranger, &DeleteParams::default()).await.unwrap();
        }
    }

    /// Makes a secret that is labelled as toygres's, but does not say whose it is.
    pub async fn make_nobodys(&self, name: &str) {
        let labels = json!({"app.kubernetes.io/managed-by": "toygres"});
        let secret = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}));
        let secrets = self.api::<Secret>();
        secrets
            .create(&PostParams::default(), &secret.unwrap())
            .await
            .unwrap();
    }

    /// How a client connects: by the connection string, and the certificate of the authority.
    pub async fn options(&self, name: &str) -> PgConnectOptions {
        let authority = self
            .server
            .request(reqwest::Method::GET, "/api/certificate-authority");
        let authority = authority.send().await.unwrap().bytes().await.unwrap();
        let connection = self.server.connection(name).await;
        assert_eq!(connection.sslmode.as_deref(), Some("verify-full"));
        let options: PgConnectOptions = connection.connection_string.parse().unwrap();
        options
            .ssl_root_cert_from_pem(authority.to_vec())
            .disable_statement_logging()
    }

    pub async fn connect(&self, name: &str) -> sqlx::Result<PgConnection> {
        connect(&self.options(name).await).await
    }

    pub async fn execute(&self, name: &str, sql: &'static str) {
        let mut connection = self.connect(name).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        self.namespace.api()
    }

    /// What is there of instances, deletion under way or not: kinds, names and identities.
    pub async fn objects(&self) -> Vec<String> {
        let mut all = names::<StatefulSet>(&self.namespace).await;
        all.extend(names::<Pod>(&self.namespace).await);
        all.extend(names::<Service>(&self.namespace).await);
        all.extend(names::<Secret>(&self.namespace).await);
        all.extend(names::<NetworkPolicy>(&self.namespace).await);
        all.extend(names::<PersistentVolumeClaim>(&self.namespace).await);
        all
    }
}

impl Stopped {
    /// Starts a server again, with the configuration as it is by now.
    pub async fn start(self) -> Cluster {
        let server = serve(&self.config, Some((self.database_url, self.home))).await;
        Cluster {
            server,
            config: self.config,
            namespace: self.namespace,
        }
    }
}

async fn serve(config: &KubernetesConfig, kept: Option<(String, Arc<TestHome>)>) -> TestServer {
    let platform = KubernetesPlatform::open(config.clone()).await.unwrap();
    let (database_url, home) = kept.unzip();
    TestServer::start_with(TestServerOptions {
        database_url,
        home,
        settings: vec![(
            "TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS".to_owned(),
            CHECKED_EVERY_SECONDS.to_owned(),
        )],
        platform: Some(Arc::new(platform)),
        ..TestServerOptions::default()
    })
    .await
}

/// Connects, but not for too long.
pub async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let connected = PgConnection::connect_with(options);
    let limit = tokio::time::timeout(Duration::from_secs(5), connected);
    limit.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// The name of everything that is made for it.
pub fn object_name(accepted: &InstanceAccepted) -> String {
    format!("{}-{}", accepted.instance.name, accepted.instance.id.short())
}

async fn names<K>(namespace: &TestNamespace) -> Vec<String>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let managed = ListParams::default().labels("app.kubernetes.io/managed-by=toygres");
    let list = namespace.api::<K>().list(&managed).await.unwrap();
    let name = |object: K| {
        let metadata = object.meta();
        let (name, uid) = (metadata.name.as_deref(), metadata.uid.as_deref());
        let kind = K::kind(&());
        format!("{kind} {} {}", name.unwrap_or_default(), uid.unwrap_or_default())
    };
    list.items.into_iter().map(name).collect()
}

/// Deletes it at once, and waits until it is gone.
pub async fn destroy<K>(namespace: &TestNamespace, name: &str, propagation: PropagationPolicy)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api = namespace.api::<K>();
    let uid = api.get(name).await.unwrap().meta().uid.clone();
    let at_once = DeleteParams {
        grace_period_seconds: Some(0),
        propagation_policy: Some(propagation),
        ..DeleteParams::default()
    };
    api.delete(name, &at_once).await.unwrap();
    wait_for(&format!("{name} to be gone"), PATIENCE, async || {
        let there = api.get_opt(name).await.unwrap();
        there.is_none_or(|there| there.meta().uid != uid).then_some(())
    })
    .await;
}

/// Runs a script on an instance's volume, in a pod beside it.
pub async fn run_on_volume(namespace: &TestNamespace, claim: &str, script: &str) {
    let pods: Api<Pod> = namespace.api();
    let name = format!("{claim}-script");
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsUser": 999, "runAsGroup": 999},
            "containers": [{
                "name": "script", "image": "docker.io/library/postgres:15", "command": ["sh", "-ec", script],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    });
    let pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    wait_for("the script on the volume", PATIENCE, async || {
        let status = pods.get(&name).await.unwrap().status?;
        let phase = status.phase.unwrap_or_default();
        assert_ne!(phase, "Failed");
        (phase == "Succeeded").then_some(())
    })
    .await;
    destroy::<Pod>(namespace, &name, PropagationPolicy::Background).await;
}

/// Says how long something took, for whoever reads the test's output.
pub fn note(what: &str, took: Duration) {
    eprintln!("{what}: {:.1} s", took.as_secs_f64());
}

/// Ends every process of a pod with SIGKILL, and the pod's own. They must be on this machine.
pub fn end_processes_of(pod: &Pod) {
    let uid = pod.metadata.uid.clone().unwrap();
    let of_pod = |pid: &u32| {
        let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        group.contains(&uid) || group.contains(&uid.replace('-', "_"))
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pids: Vec<u32> = pids.filter(of_pod).collect();
    assert!(!pids.is_empty(), "the cluster's node is not this machine");
    let killed = std::process::Command::new("kill")
        .arg("-KILL")
        .args(pids.iter().map(u32::to_string))
        .status();
    killed.unwrap();
}
