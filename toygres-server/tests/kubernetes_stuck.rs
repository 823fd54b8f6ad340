//! What can keep an instance from becoming or staying ready in a cluster: each has its named reason in the operation
//! and in the instance within 30 seconds, and is over once its cause is gone.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod cluster;

use cluster::{Cluster, PATIENCE, TOLD_WITHIN, destroy, end_processes_of, note, object_name, run_on_volume};
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Namespace, Node, PersistentVolumeClaim, Pod, ResourceQuota, Secret,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use toygres_testing::{TestNamespace, wait_for};

macro_rules! stuck {
    ($(async fn $test:ident($cluster:ident, $config:ident $change:block) $body:block)+) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let name = concat!("kubernetes::kubernetes_stuck::", stringify!($test));
            #[allow(unused_variables, reason = "most tests change nothing")]
            let Some($cluster) = Cluster::start_with(name, |$config| $change).await else {
                return;
            };
            $body
        })+
    };
}

fn read<T: serde::de::DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

/// A namespace's quota.
async fn set_quota(cluster: &Cluster, hard: Value) {
    let quotas: Api<ResourceQuota> = cluster.api();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard},
    });
    let set = quotas
        .patch(
            "small",
            &PatchParams::apply("test").force(),
            &Patch::Apply(&quota),
        )
        .await;
    set.unwrap();
    wait_for("the quota to hold", PATIENCE, async || {
        let quota = quotas.get("small").await.unwrap();
        let holds = quota.status?.hard? == quota.spec?.hard?;
        holds.then_some(())
    })
    .await;
}

/// What the node has, and what of it is asked for already, in MiB.
async fn free_memory(cluster: &Cluster) -> (String, i64) {
    fn mebibytes(text: &str) -> i64 {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: i64 = text[..digits].parse().unwrap();
        match &text[digits..] {
            "" => number >> 20,
            "Ki" => number >> 10,
            "Mi" => number,
            "Gi" => number << 10,
            other => panic!("{other}"),
        }
    }
    let memory = |quantities: Option<&BTreeMap<String, _>>| {
        let quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
            quantities.and_then(|all| all.get("memory"));
        quantity.map_or(0, |quantity| mebibytes(&quantity.0))
    };
    let nodes: Api<Node> = Api::all(cluster.namespace.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.unwrap().items;
    let [node] = &nodes[..] else {
        panic!("a cluster of one node");
    };
    let has = memory(node.status.as_ref().unwrap().allocatable.as_ref());
    let pods: Api<Pod> = Api::all(cluster.namespace.client.clone());
    let pods = pods.list(&ListParams::default()).await.unwrap().items;
    let containers = pods.iter().flat_map(|pod| &pod.spec.as_ref().unwrap().containers);
    let asked: i64 = containers
        .filter_map(|container| container.resources.as_ref())
        .map(|resources| memory(resources.requests.as_ref()))
        .sum();
    (node.metadata.name.clone().unwrap(), has - asked)
}

stuck! {
    async fn an_image_that_does_not_exist(cluster, config {
        config.image = "docker.io/library/no-such-postgres".to_owned();
    }) {
        let accepted = cluster.create("demo").await;
        let (said, took) = cluster.told(&accepted, "image_pull").await;
        assert!(said.contains("no-such-postgres"), "{said}");
        note("image: told", took);

        let mut stopped = cluster.stop().await;
        stopped.config.image = "docker.io/library/postgres".to_owned();
        let cluster = stopped.start().await;
        note("image: over", cluster.succeeds(&accepted).await);
        cluster.stop().await;
    }

    async fn a_storage_class_that_does_not_exist(cluster, config {
        config.storage_class = config.namespace.clone();
    }) {
        let accepted = cluster.create("demo").await;
        let (said, took) = cluster.told(&accepted, "volume_pending").await;
        assert!(said.contains("not found"), "{said}");
        note("storage class: told", took);

        let classes: Api<StorageClass> = Api::all(cluster.namespace.client.clone());
        let standard = classes.list(&ListParams::default()).await.unwrap().items.into_iter();
        let mut class = standard.into_iter().next().expect("a storage class");
        let name = cluster.namespace.name.clone();
        class.metadata = read(json!({"name": name}));
        classes.create(&PostParams::default(), &class).await.unwrap();
        note("storage class: over", cluster.succeeds(&accepted).await);
        classes.delete(&name, &DeleteParams::default()).await.unwrap();
        cluster.stop().await;
    }

    async fn a_quota_that_refuses_the_claim(cluster, config {}) {
        set_quota(&cluster, json!({"persistentvolumeclaims": "0"})).await;
        let accepted = cluster.create("demo").await;
        let (said, took) = cluster.told(&accepted, "quota").await;
        assert!(said.contains("small"), "{said}");
        note("quota of claims: told", took);

        set_quota(&cluster, json!({"persistentvolumeclaims": "1"})).await;
        note("quota of claims: over", cluster.succeeds(&accepted).await);
        cluster.stop().await;
    }

    async fn a_quota_that_refuses_the_pod(cluster, config {}) {
        set_quota(&cluster, json!({"requests.memory": "64Mi"})).await;
        let accepted = cluster.create("demo").await;
        let (said, took) = cluster.told(&accepted, "quota").await;
        assert!(said.contains("small"), "{said}");
        note("quota of memory: told", took);
        // The longer a stateful set is refused its pod, the less often it tries by itself.
        tokio::time::sleep(Duration::from_secs(45)).await;

        set_quota(&cluster, json!({"requests.memory": "1Gi"})).await;
        let took = cluster.succeeds(&accepted).await;
        note("quota of memory: over", took);
        assert!(took < TOLD_WITHIN, "{took:?}");
        cluster.stop().await;
    }

    async fn a_node_that_is_full(cluster, config {}) {
        const ASKED_MB: i64 = 6144;
        let (node, free) = free_memory(&cluster).await;
        // Leaves half of what is asked for, so that others find room.
        let filler = format!("{}Mi", free - ASKED_MB / 2);
        let pod = json!({
            "metadata": {"name": "filler"},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "sleeps", "image": "docker.io/library/postgres:15", "command": ["sleep", "600"],
                    "resources": {"requests": {"memory": filler}},
                }],
            },
        });
        let pods: Api<Pod> = cluster.api();
        pods.create(&PostParams::default(), &read(pod)).await.unwrap();
        let accepted = cluster.create_with("demo", json!({"memory_mb": ASKED_MB})).await;
        let (said, took) = cluster.told(&accepted, "unschedulable").await;
        assert!(said.contains("memory"), "{said}");
        note("full node: told", took);

        destroy::<Pod>(&cluster.namespace, "filler", PropagationPolicy::Background).await;
        note("full node: over", cluster.succeeds(&accepted).await);
        cluster.stop().await;
    }

    async fn a_finalizer_that_is_left_on_a_claim(cluster, config {}) {
        let claim = cluster.created("demo").await;
        let claims: Api<PersistentVolumeClaim> = cluster.api();
        let finalizers = |held: Value| json!({"metadata": {"finalizers": held}});
        let hold = Patch::Merge(finalizers(json!(["kubernetes.io/pvc-protection", "example.org/backup"])));
        claims.patch(&claim, &PatchParams::default(), &hold).await.unwrap();
        let deletion = cluster.server.request_delete("demo").await;
        let (said, took) = cluster.told(&deletion, "finalizer").await;
        assert!(said.contains("example.org/backup") && said.contains(&claim), "{said}");
        note("finalizer: told", took);

        let release = Patch::Merge(finalizers(Value::Null));
        claims.patch(&claim, &PatchParams::default(), &release).await.unwrap();
        note("finalizer: over", cluster.succeeds(&deletion).await);
        assert_eq!(cluster.objects().await, Vec::<String>::new());
        cluster.stop().await;
    }

    async fn a_secret_that_is_removed_while_its_server_runs(cluster, config {}) {
        let secret = cluster.created("demo").await;
        let begun = Instant::now();
        destroy::<Secret>(&cluster.namespace, &secret, PropagationPolicy::Background).await;
        wait_for("the repair", TOLD_WITHIN, async || {
            let repaired = cluster.events("demo", "repaired").await;
            repaired.contains(&format!("the secret {secret} is missing")).then_some(())
        })
        .await;
        note("secret of a running server: repaired", begun.elapsed());
        cluster.recovers("demo").await;

        // Its pod with it, while nobody repairs anything.
        let stopped = cluster.stop().await;
        destroy::<Secret>(&stopped.namespace, &secret, PropagationPolicy::Background).await;
        destroy::<Pod>(&stopped.namespace, &format!("{secret}-0"), PropagationPolicy::Background).await;
        let events: Api<Event> = stopped.namespace.api();
        wait_for("the pod to miss its secret", PATIENCE, async || {
            let failed = ListParams::default().fields("reason=FailedMount");
            let said = events.list(&failed).await.unwrap().items;
            (!said.is_empty()).then_some(())
        })
        .await;
        let cluster = stopped.start().await;
        let (said, took) = cluster.told_of("demo", "secret_missing").await;
        assert!(said.contains("secret"), "{said}");
        note("secret and pod: told", took);
        note("secret and pod: over", cluster.recovers("demo").await);
        cluster.stop().await;
    }

    async fn a_pod_that_is_evicted(cluster, config {}) {
        let pod = format!("{}-0", cluster.created("demo").await);
        let pods: Api<Pod> = cluster.api();
        let before = pods.get(&pod).await.unwrap().metadata.uid;
        // More than the node lets it have there.
        let mut connection = cluster.connect("demo").await.unwrap();
        sqlx::raw_sql("copy (select repeat('x', 1000000) from generate_series(1, 100)) to '/tmp/much'")
            .execute(&mut connection)
            .await
            .unwrap();
        wait_for("the eviction", PATIENCE, async || {
            let events: Api<Event> = cluster.api();
            let evicted = events.list(&ListParams::default().fields("reason=Evicted")).await.unwrap();
            (!evicted.items.is_empty()).then_some(())
        })
        .await;
        let (said, took) = cluster.told_of("demo", "evicted").await;
        note(&format!("eviction: told {said:?}"), took);
        note("eviction: over", cluster.recovers("demo").await);
        assert_ne!(pods.get(&pod).await.unwrap().metadata.uid, before);
        cluster.stop().await;
    }

    async fn a_node_that_is_restarted(cluster, config {}) {
        let pod = format!("{}-0", cluster.created("demo").await);
        cluster.execute("demo", "create table kept as select 7 as value").await;
        let pods: Api<Pod> = cluster.api();
        // All at once, the pod's own process among them: as after a power failure.
        end_processes_of(&pods.get(&pod).await.unwrap());
        let told = wait_for("a reason", TOLD_WITHIN, async || {
            let (_, instance) = cluster.server.get("/api/instances/demo").await;
            Some(instance["state_reason_code"].as_str()?.to_owned())
        })
        .await;
        eprintln!("restarted node: told {told}");
        note("restarted node: over", cluster.recovers("demo").await);
        let mut connection = cluster.connect("demo").await.unwrap();
        let value: i32 = sqlx::query_scalar("select value from kept").fetch_one(&mut connection).await.unwrap();
        assert_eq!(value, 7);
        cluster.stop().await;
    }

    async fn a_server_that_ends_as_soon_as_it_starts(cluster, config {}) {
        let name = cluster.created("demo").await;
        cluster.execute("demo", "alter system set shared_preload_libraries = 'no-such-library'").await;
        let begun = Instant::now();
        destroy::<Pod>(&cluster.namespace, &format!("{name}-0"), PropagationPolicy::Background).await;
        let (said, _) = cluster.told_of("demo", "crash_loop").await;
        assert!(said.contains("no-such-library"), "{said}");
        note("crash loop: told", begun.elapsed());

        let mend = "sed -i /shared_preload_libraries/d /data/15/docker/postgresql.auto.conf";
        run_on_volume(&cluster.namespace, &name, mend).await;
        note("crash loop: over", cluster.recovers("demo").await);
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_being_deleted() {
    let test = "kubernetes::kubernetes_stuck::a_namespace_that_is_being_deleted";
    let Some(kubeconfig) = toygres_testing::kubeconfig(test) else {
        return;
    };
    let other = TestNamespace::new(&kubeconfig).await;
    let started = Cluster::start_with(test, |config| {
        config.allowed_namespaces.insert(other.name.clone());
    });
    let cluster = started.await.unwrap();
    // Something in it goes only when it is told to.
    let maps: Api<ConfigMap> = other.api();
    let holds = json!({"metadata": {"name": "holds", "finalizers": ["example.org/backup"]}});
    maps.create(&PostParams::default(), &read(holds)).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(other.client.clone());
    namespaces
        .delete(&other.name, &DeleteParams::default())
        .await
        .unwrap();

    let accepted = cluster
        .create_with("demo", json!({"namespace": other.name}))
        .await;
    let (said, took) = cluster.told(&accepted, "namespace_terminating").await;
    note(&format!("namespace that ends: told {said:?}"), took);

    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("holds", &PatchParams::default(), &release)
        .await
        .unwrap();
    wait_for("the namespace to be gone", PATIENCE, async || {
        let there = namespaces.get_opt(&other.name).await.unwrap();
        there.is_none().then_some(())
    })
    .await;
    let (said, took) = cluster.told(&accepted, "namespace_missing").await;
    assert!(said.contains(&other.name), "{said}");
    note("namespace that is gone: told", took);

    other.create().await;
    note("namespace: over", cluster.succeeds(&accepted).await);
    let running = other
        .api::<Pod>()
        .get_opt(&format!("{}-0", object_name(&accepted)))
        .await;
    assert!(running.unwrap().is_some());
    cluster.stop().await;
}
