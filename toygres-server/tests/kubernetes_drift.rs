//! What is in a cluster and what the rows say drift apart: it is found, shown, and put right where that loses nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod cluster;

use cluster::{Cluster, PATIENCE, destroy, note, object_name};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, PropagationPolicy,
};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::{Duration, Instant};
use toygres_models::InstanceId;
use toygres_testing::wait_for;

/// What is changed by hand is right again within this time.
const RIGHT_WITHIN: Duration = Duration::from_secs(60);

async fn write_row(cluster: &Cluster) {
    let sql = "create table kept as select 42 as number";
    cluster.execute("demo", sql).await;
}

async fn row_is_there(cluster: &Cluster) -> bool {
    let mut connection = cluster.connect("demo").await.unwrap();
    let row = sqlx::query_scalar("select number from kept").fetch_one(&mut connection);
    row.await.is_ok_and(|number: i32| number == 42)
}

async fn make<K>(cluster: &Cluster, object: Value)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Serialize
        + Debug,
{
    let object = serde_json::from_value(object).unwrap();
    let made = cluster.api::<K>().create(&PostParams::default(), &object).await;
    made.unwrap();
}

/// What a toygres would have made whose rows are gone; its name.
async fn make_stranger(cluster: &Cluster, id: InstanceId) -> String {
    let name = format!("stranger-{}", id.short());
    let metadata = json!({
        "name": name,
        "labels": {
            "app.kubernetes.io/managed-by": "toygres",
            "app.kubernetes.io/instance": name,
            "toygres.io/instance-id": id,
        },
    });
    let claim = json!({
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    });
    make::<PersistentVolumeClaim>(cluster, json!({"metadata": metadata, "spec": claim})).await;
    make::<Secret>(cluster, json!({"metadata": metadata})).await;
    let selector = json!({"app.kubernetes.io/instance": name});
    let stateful_set = json!({
        "replicas": 0,
        "serviceName": name,
        "selector": {"matchLabels": selector},
        "template": {
            "metadata": {"labels": selector},
            "spec": {"containers": [{"name": "none", "image": "docker.io/library/postgres:15"}]},
        },
    });
    make::<StatefulSet>(cluster, json!({"metadata": metadata, "spec": stateful_set})).await;
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_no_instance_is_removed_on_request_only() {
    let test = "kubernetes::kubernetes_drift::what_belongs_to_no_instance_is_removed_on_request_only";
    let Some(cluster) = Cluster::start(test).await else {
        return;
    };
    cluster.created("demo").await;
    write_row(&cluster).await;
    cluster.no_drift().await;

    let ids = [InstanceId::generate(), InstanceId::generate()];
    let removed = make_stranger(&cluster, ids[0]).await;
    let kept = make_stranger(&cluster, ids[1]).await;
    cluster.make_nobodys("nobodys").await;
    let begun = Instant::now();
    let strangers = [
        cluster.found("unknown_object", &removed).await,
        cluster.found("unknown_object", &kept).await,
    ];
    let nobodys = cluster.found("unknown_object", "nobodys").await;
    note("unknown objects: found", begun.elapsed());
    for (found, id) in strangers.iter().zip(ids) {
        assert!(
            found.fixable && found.instance_id == Some(id) && found.remedy.contains("drift --fix"),
            "{found:?}"
        );
    }
    assert_eq!(nobodys.instance_id, None);
    cluster.cannot_be_fixed(&nobodys).await;

    let before = cluster.objects().await;
    assert_eq!(before.len(), 7 + 3 + 3 + 1, "{before:?}");
    cluster.two_sweeps().await;
    assert_eq!(cluster.objects().await, before, "nobody has asked");

    let (status, fixed) = cluster.fix(&strangers[0]).await;
    assert_eq!(
        (status.as_u16(), &fixed["object"]),
        (200, &json!(removed)),
        "{fixed}"
    );
    let others = before.into_iter().filter(|object| !object.contains(&removed));
    assert_eq!(cluster.objects().await, others.collect::<Vec<_>>());
    wait_for("it to be found no more", PATIENCE, async || {
        let drift = cluster.drift().await;
        assert!(drift.iter().any(|found| found.object == kept), "{drift:?}");
        (drift.len() == 2).then_some(())
    })
    .await;
    let (_, audit) = cluster.server.get("/api/audit?action=fix_drift").await;
    assert_eq!(audit.as_array().map(Vec::len), Some(1), "{audit}");
    cluster.recovers("demo").await;
    assert!(row_is_there(&cluster).await);
    assert_eq!(cluster.events("demo", "repaired").await, Vec::<String>::new());
    cluster.stop().await;
}

/// What becomes of a volume whose claim goes.
async fn set_reclaim_policy(volumes: &Api<PersistentVolume>, name: &str, policy: &str) {
    let policy = Patch::Merge(json!({"spec": {"persistentVolumeReclaimPolicy": policy}}));
    volumes
        .patch(name, &PatchParams::default(), &policy)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_objects_are_gone_is_an_alarm_until_its_data_is_back() {
    let test =
        "kubernetes::kubernetes_drift::an_instance_whose_objects_are_gone_is_an_alarm_until_its_data_is_back";
    let Some(cluster) = Cluster::start(test).await else {
        return;
    };
    let accepted = cluster.create("demo").await;
    cluster.succeeds(&accepted).await;
    let (id, name) = (accepted.instance.id.to_string(), object_name(&accepted));
    write_row(&cluster).await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let volumes: Api<PersistentVolume> = Api::all(cluster.namespace.client.clone());
    let claim = claims.get(&name).await.unwrap().spec.unwrap();
    let volume = claim.volume_name.clone().unwrap();
    // As administrators have it who want to undo such a thing.
    set_reclaim_policy(&volumes, &volume, "Retain").await;

    claims.delete(&name, &DeleteParams::default()).await.unwrap();
    // From then on nothing of it is made anew, so that all can go.
    cluster.told_of("demo", "storage_missing").await;
    destroy::<StatefulSet>(&cluster.namespace, &name, PropagationPolicy::Orphan).await;
    destroy::<Pod>(
        &cluster.namespace,
        &format!("{name}-0"),
        PropagationPolicy::Background,
    )
    .await;
    for service in [name.clone(), format!("{name}-rw")] {
        destroy::<Service>(&cluster.namespace, &service, PropagationPolicy::Background).await;
    }
    destroy::<NetworkPolicy>(&cluster.namespace, &name, PropagationPolicy::Background).await;
    destroy::<Secret>(&cluster.namespace, &name, PropagationPolicy::Background).await;
    wait_for("nothing to be left", PATIENCE, async || {
        cluster.objects().await.is_empty().then_some(())
    })
    .await;

    let finding = wait_for("it to be said", PATIENCE, async || {
        let finding = cluster.found("storage_missing", &id).await;
        finding.message.contains("is not there").then_some(finding)
    })
    .await;
    assert_eq!(finding.instance_id, Some(accepted.instance.id));
    assert!(finding.remedy.contains("bring the data back"), "{finding:?}");
    cluster.cannot_be_fixed(&finding).await;
    cluster.two_sweeps().await;
    assert_eq!(cluster.objects().await, Vec::<String>::new(), "it was made anew");
    let (_, instance) = cluster.server.get("/api/instances/demo").await;
    assert_eq!(
        (&instance["state"], &instance["state_reason_code"]),
        (&json!("degraded"), &json!("storage_missing"))
    );
    assert_eq!(cluster.events("demo", "alarm").await.len(), 1, "said once");

    let nobodys = Patch::Merge(json!({"spec": {"claimRef": null}}));
    volumes
        .patch(&volume, &PatchParams::default(), &nobodys)
        .await
        .unwrap();
    let begun = Instant::now();
    make::<PersistentVolumeClaim>(&cluster, json!({"metadata": {"name": name}, "spec": claim})).await;
    cluster.recovers("demo").await;
    note("claim that is back: over", begun.elapsed());
    assert!(row_is_there(&cluster).await);
    cluster.no_drift().await;
    wait_for("all of it to be labelled", PATIENCE, async || {
        (cluster.objects().await.len() == 7).then_some(())
    })
    .await;
    // It goes with the namespace.
    set_reclaim_policy(&volumes, &volume, "Delete").await;
    cluster.stop().await;
}

/// Something that somebody changes.
struct Change {
    kind: ApiResource,
    object: String,
    patch: Patch<Value>,
    /// What is to be as it was before, as a JSON pointer.
    right: &'static str,
    /// What toygres says of it.
    said: String,
}

fn change<K>(object: &str, patch: Value, right: &'static str, said: &str) -> Change
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Change {
        kind: ApiResource::erase::<K>(&()),
        object: object.to_owned(),
        patch: Patch::Merge(patch),
        right,
        said: format!("{said} {object} is not as it should be"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_by_hand_comes_right() {
    let test = "kubernetes::kubernetes_drift::what_is_changed_by_hand_comes_right";
    let Some(cluster) = Cluster::start(test).await else {
        return;
    };
    let name = cluster.created("demo").await;
    write_row(&cluster).await;
    let clients = format!("{name}-rw");
    let spec = |fields: Value| json!({ "spec": fields });
    let other_port = json!([{"name": "postgresql", "port": 5433, "targetPort": "postgresql"}]);
    let other_pod = json!({"app.kubernetes.io/instance": "other", "no": "pod"});
    let data = |file: &str| json!({"data": {file: "bm9uc2Vuc2UK"}});
    let changes = [
        change::<StatefulSet>(
            &name,
            spec(json!({"replicas": 0})),
            "/spec",
            "spec.replicas of the stateful set",
        ),
        Change {
            patch: Patch::Strategic(spec(json!({"template": {"spec": {"containers": [
                {"name": "postgresql", "env": [{"name": "NOT_TOYGRES", "value": "1"}]},
                {"name": "beside", "image": "docker.io/library/postgres:15"},
            ]}}}))),
            ..change::<StatefulSet>(
                &name,
                Value::Null,
                "/spec",
                "spec.template.spec.containers of the stateful set",
            )
        },
        change::<Service>(
            &clients,
            spec(json!({"ports": other_port})),
            "/spec",
            "spec.ports.0.port of the service",
        ),
        change::<Service>(
            &clients,
            spec(json!({"selector": other_pod})),
            "/spec",
            "spec.selector of the service",
        ),
        change::<NetworkPolicy>(
            &name,
            spec(json!({"ingress": [{}]})),
            "/spec",
            "spec.ingress.0.from of the network policy",
        ),
        change::<NetworkPolicy>(
            &name,
            spec(json!({"podSelector": {"matchLabels": {"no": "pod"}}})),
            "/spec",
            "spec.podSelector of the network policy",
        ),
        change::<Secret>(
            &name,
            data("password"),
            "/data/password",
            "data.password of the secret",
        ),
        change::<Secret>(
            &name,
            data("pg_hba.conf"),
            "/data/pg_hba.conf",
            "data.pg_hba.conf of the secret",
        ),
        // A new one takes its place: that it is good shows below.
        change::<Secret>(
            &name,
            data("tls.crt"),
            "/data/ca.crt",
            "data.tls.crt of the secret",
        ),
    ];
    for change in &changes {
        let objects: Api<DynamicObject> = Api::namespaced_with(
            cluster.namespace.client.clone(),
            &cluster.namespace.name,
            &change.kind,
        );
        let part = async || {
            let object = objects.get(&change.object).await.unwrap();
            serde_json::to_value(object)
                .unwrap()
                .pointer(change.right)
                .cloned()
        };
        let before = part().await;
        let begun = Instant::now();
        objects
            .patch(&change.object, &PatchParams::default(), &change.patch)
            .await
            .unwrap();
        wait_for(&change.said, RIGHT_WITHIN, async || {
            let is_right = part().await == before;
            let said = cluster.events("demo", "repaired").await;
            (is_right && said.contains(&change.said)).then_some(())
        })
        .await;
        cluster.recovers("demo").await;
        let took = begun.elapsed();
        note(&format!("{}: right", change.said), took);
        assert!(took < RIGHT_WITHIN, "{}", change.said);
        assert!(row_is_there(&cluster).await, "{}", change.said);
        cluster.no_drift().await;
    }
    let said: BTreeSet<String> = cluster.events("demo", "repaired").await.into_iter().collect();
    let changed = changes.iter().map(|change| change.said.clone());
    assert_eq!(said, changed.collect(), "and nothing else");

    // Its server reads what stands in the secret by now.
    destroy::<Pod>(
        &cluster.namespace,
        &format!("{name}-0"),
        PropagationPolicy::Background,
    )
    .await;
    cluster.recovers("demo").await;
    assert!(row_is_there(&cluster).await);
    cluster.stop().await;
}
