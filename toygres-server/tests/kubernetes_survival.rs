//! What must not lose data in a cluster: whatever is taken away from an instance but its data, every row that was
//! acknowledged is there afterwards, once. And data that was taken away is never made anew.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod cluster;

use cluster::{Cluster, PATIENCE, Stopped, connect, destroy, note, object_name, run_on_volume};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, PropagationPolicy};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use toygres_testing::wait_for;

/// How long an insert may take until it counts as not acknowledged.
const INSERT_LIMIT: Duration = Duration::from_secs(5);

/// Inserts numbers for as long as it lives, and keeps those that were acknowledged.
struct Writer {
    options: Arc<Mutex<PgConnectOptions>>,
    acknowledged: Arc<Mutex<Vec<i64>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Writer {
    async fn start(cluster: &Cluster, name: &str) -> Self {
        cluster.execute(name, "create table kept (number bigint)").await;
        let options = Arc::new(Mutex::new(cluster.options(name).await));
        let acknowledged = Arc::default();
        let stop = CancellationToken::new();
        let task = write(Arc::clone(&options), Arc::clone(&acknowledged));
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                () = stopped => {}
            }
        });
        Self {
            options,
            acknowledged,
            stop,
            task,
        }
    }

    /// Waits until more is acknowledged than by now.
    async fn goes_on(&self) {
        let before = self.acknowledged.lock().await.len();
        wait_for("the writer to go on", PATIENCE, async || {
            (self.acknowledged.lock().await.len() > before + 5).then_some(())
        })
        .await;
    }

    /// Clients ask for the address again.
    async fn find_again(&self, cluster: &Cluster, name: &str) {
        *self.options.lock().await = cluster.options(name).await;
    }

    /// Ends it, and makes sure that every acknowledged number is there, once; gives how many those are.
    async fn all_are_there(self, cluster: &Cluster, name: &str) -> usize {
        self.stop.cancel();
        self.task.await.unwrap();
        let mut connection = cluster.connect(name).await.unwrap();
        let there: Vec<i64> = sqlx::query_scalar("select number from kept order by number")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        assert!(
            there.is_sorted_by(|one, next| one < next),
            "a number is there twice"
        );
        let acknowledged = self.acknowledged.lock().await;
        let lost: Vec<&i64> = acknowledged
            .iter()
            .filter(|number| there.binary_search(number).is_err())
            .collect();
        assert!(lost.is_empty(), "of {} lost: {lost:?}", acknowledged.len());
        acknowledged.len()
    }
}

async fn write(options: Arc<Mutex<PgConnectOptions>>, acknowledged: Arc<Mutex<Vec<i64>>>) {
    let mut connection: Option<PgConnection> = None;
    // Each number is tried once: of one that was not acknowledged nobody knows whether it is there.
    for number in 0.. {
        let Some(open) = &mut connection else {
            let options = options.lock().await.clone();
            connection = connect(&options).await.ok();
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let insert = sqlx::query("insert into kept values ($1)")
            .bind(number)
            .execute(open);
        match tokio::time::timeout(INSERT_LIMIT, insert).await {
            Ok(Ok(_)) => acknowledged.lock().await.push(number),
            Ok(Err(_)) | Err(_) => connection = None,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until toygres has said that it made this right.
async fn repaired(cluster: &Cluster, what: &str) {
    wait_for(&format!("the repair of {what}"), PATIENCE, async || {
        let all = cluster.events("demo", "repaired").await;
        all.iter().any(|said| said.contains(what)).then_some(())
    })
    .await;
}

/// How long the control plane is away: `TOYGRES_TEST_ABSENCE_SECONDS`.
#[allow(
    clippy::disallowed_methods,
    reason = "what only tests read is no configuration of the server"
)]
fn absence() -> Duration {
    let seconds = std::env::var("TOYGRES_TEST_ABSENCE_SECONDS").ok();
    Duration::from_secs(seconds.map_or(20, |seconds| seconds.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_the_loss_of_every_object_but_the_claim() {
    let test = "kubernetes::kubernetes_survival::rows_survive_the_loss_of_every_object_but_the_claim";
    let Some(cluster) = Cluster::start(test).await else {
        return;
    };
    let name = cluster.created("demo").await;
    let pod = format!("{name}-0");
    let clients_service = format!("{name}-rw");
    let writer = Writer::start(&cluster, "demo").await;
    let namespace = &cluster.namespace;

    writer.goes_on().await;
    destroy::<Pod>(namespace, &pod, PropagationPolicy::Background).await;
    note("pod: over", cluster.recovers("demo").await);
    writer.goes_on().await;

    destroy::<StatefulSet>(namespace, &name, PropagationPolicy::Orphan).await;
    let begun = Instant::now();
    repaired(&cluster, &format!("the stateful set {name} is missing")).await;
    note("stateful set, orphaning its pod: over", begun.elapsed());
    writer.goes_on().await;

    destroy::<StatefulSet>(namespace, &name, PropagationPolicy::Background).await;
    note("stateful set with its pod: over", cluster.recovers("demo").await);
    writer.goes_on().await;

    destroy::<NetworkPolicy>(namespace, &name, PropagationPolicy::Background).await;
    let begun = Instant::now();
    repaired(&cluster, &format!("the network policy {name} is missing")).await;
    note("network policy: over", begun.elapsed());

    destroy::<Secret>(namespace, &name, PropagationPolicy::Background).await;
    let begun = Instant::now();
    repaired(&cluster, &format!("the secret {name} is missing")).await;
    note("secret: over", begun.elapsed());

    destroy::<Service>(namespace, &name, PropagationPolicy::Background).await;
    let begun = Instant::now();
    repaired(&cluster, &format!("the service {name} is missing")).await;
    note("governing service: over", begun.elapsed());
    cluster.recovers("demo").await;
    writer.goes_on().await;

    destroy::<Service>(namespace, &clients_service, PropagationPolicy::Background).await;
    note("service: over", cluster.recovers("demo").await);
    writer.find_again(&cluster, "demo").await;
    writer.goes_on().await;

    let rows = writer.all_are_there(&cluster, "demo").await;
    eprintln!("every object but the claim: {rows} acknowledged, 0 lost");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_deleted_is_an_alarm_and_never_made_anew() {
    let test = "kubernetes::kubernetes_survival::a_claim_that_is_deleted_is_an_alarm_and_never_made_anew";
    let Some(cluster) = Cluster::start(test).await else {
        return;
    };
    let name = cluster.created("demo").await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    claims.delete(&name, &DeleteParams::default()).await.unwrap();
    // It is there for as long as its pod is.
    let (said, took) = cluster.told_of("demo", "storage_missing").await;
    assert!(said.contains("is being deleted"), "{said}");
    note("claim: told", took);
    let degraded = async || {
        let (_, instance) = cluster.server.get("/api/instances/demo").await;
        (instance["state"] == "degraded").then_some(())
    };
    wait_for("it to be degraded", PATIENCE, degraded).await;
    checked_again(&cluster, 3).await;
    degraded().await.expect("it stays degraded");

    destroy::<Pod>(
        &cluster.namespace,
        &format!("{name}-0"),
        PropagationPolicy::Background,
    )
    .await;
    wait_for("the claim to be gone", PATIENCE, async || {
        claims.get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
    checked_again(&cluster, 3).await;
    degraded().await.expect("it is not well without its data");
    assert!(claims.get_opt(&name).await.unwrap().is_none(), "it was made anew");
    assert_eq!(cluster.events("demo", "alarm").await.len(), 1, "said once");

    // What is left of it can be removed.
    let deletion = cluster.server.request_delete("demo").await;
    cluster.succeeds(&deletion).await;
    assert_eq!(cluster.objects().await, Vec::<String>::new());
    cluster.stop().await;
}

/// Waits until so many health checks more were made.
async fn checked_again(cluster: &Cluster, times: usize) {
    for _ in 0..times {
        let last = cluster.last_check("demo").await;
        wait_for("another check", PATIENCE, async || {
            (cluster.last_check("demo").await["checked_at"] != last["checked_at"]).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_was_emptied_is_an_alarm_and_no_database_is_made_on_it() {
    let test = "kubernetes::kubernetes_survival::a_volume_that_was_emptied_is_an_alarm_and_no_database_is_made_on_it";
    let Some(cluster) = Cluster::start(test).await else {
        return;
    };
    let accepted = cluster.create("demo").await;
    cluster.succeeds(&accepted).await;
    let name = object_name(&accepted);
    cluster
        .execute("demo", "create table kept as select 7 as value")
        .await;
    run_on_volume(&cluster.namespace, &name, "mv /data/15 /data/aside").await;
    destroy::<Pod>(
        &cluster.namespace,
        &format!("{name}-0"),
        PropagationPolicy::Background,
    )
    .await;
    let (said, took) = cluster.told_of("demo", "storage_missing").await;
    assert!(said.contains("not on this volume any more"), "{said}");
    note("emptied volume: told", took);
    let id = accepted.instance.id.to_string();
    let finding = cluster.found("storage_missing", &id).await;
    assert!(finding.remedy.contains("bring the data back"), "{finding:?}");
    cluster.cannot_be_fixed(&finding).await;
    cluster.two_sweeps().await;
    let (_, instance) = cluster.server.get("/api/instances/demo").await;
    assert_eq!(instance["state"], "degraded");
    assert_eq!(cluster.events("demo", "alarm").await.len(), 1, "said once");

    let bring_back = "test ! -e /data/15 && mv /data/aside /data/15";
    run_on_volume(&cluster.namespace, &name, bring_back).await;
    note("emptied volume: over", cluster.recovers("demo").await);
    let mut connection = cluster.connect("demo").await.unwrap();
    let value: i32 = sqlx::query_scalar("select value from kept")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(value, 7);
    cluster.no_drift().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_are_never_on_one_volume() {
    let test = "kubernetes::kubernetes_survival::two_servers_are_never_on_one_volume";
    let Some(cluster) = Cluster::start(test).await else {
        return;
    };
    let name = cluster.created("demo").await;
    let pods = cluster.api::<Pod>();
    run_on_volume(&cluster.namespace, &name, "! flock -n /data/toygres.lock true").await;

    // Has the volume as soon as the server is gone, as one would that does not end.
    let other = run_on_volume(&cluster.namespace, &name, "flock /data/toygres.lock sleep 10");
    let meanwhile = async {
        wait_for("the other one", PATIENCE, async || {
            let other = pods.get_opt(&format!("{name}-script")).await.unwrap()?;
            (other.status?.phase? == "Running").then_some(())
        })
        .await;
        destroy::<Pod>(
            &cluster.namespace,
            &format!("{name}-0"),
            PropagationPolicy::Background,
        )
        .await;
        wait_for("the server to wait", PATIENCE, async || {
            let (_, log) = cluster.server.get("/api/instances/demo/logs").await;
            log.to_string().contains("is still on this volume").then_some(())
        })
        .await;
    };
    tokio::join!(other, meanwhile);
    cluster.recovers("demo").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_the_end_of_the_nodes_own_programs() {
    let test = "kubernetes::kubernetes_survival::rows_survive_the_end_of_the_nodes_own_programs";
    let Some(devcluster) = toygres_testing::devcluster(test) else {
        return;
    };
    let Some(cluster) = Cluster::start(test).await else {
        return;
    };
    cluster.created("demo").await;
    let writer = Writer::start(&cluster, "demo").await;
    writer.goes_on().await;
    let devcluster = |command: &str| {
        let ended = Command::new(&devcluster)
            .args([command, "kubelet", "containerd"])
            .status();
        assert!(ended.unwrap().success(), "{command}");
    };
    devcluster("crash");
    writer.goes_on().await;
    let begun = Instant::now();
    devcluster("start");
    note("kubelet and containerd: started", begun.elapsed());
    note("kubelet and containerd: over", cluster.recovers("demo").await);
    writer.goes_on().await;
    let rows = writer.all_are_there(&cluster, "demo").await;
    eprintln!("kubelet and containerd: {rows} acknowledged, 0 lost");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_the_absence_of_the_control_plane() {
    let test = "kubernetes::kubernetes_survival::rows_survive_the_absence_of_the_control_plane";
    let Some(cluster) = Cluster::start(test).await else {
        return;
    };
    let name = cluster.created("demo").await;
    let writer = Writer::start(&cluster, "demo").await;
    writer.goes_on().await;
    let stopped: Stopped = cluster.stop().await;
    let begun = Instant::now();
    writer.goes_on().await;
    destroy::<Pod>(
        &stopped.namespace,
        &format!("{name}-0"),
        PropagationPolicy::Background,
    )
    .await;
    writer.goes_on().await;
    note("pod, without the control plane: over", begun.elapsed());
    // The absence itself.
    tokio::time::sleep_until((begun + absence()).into()).await;

    let cluster = stopped.start().await;
    note("control plane: over", cluster.recovers("demo").await);
    writer.goes_on().await;
    let rows = writer.all_are_there(&cluster, "demo").await;
    eprintln!(
        "{:?} without the control plane: {rows} acknowledged, 0 lost",
        absence()
    );
    cluster.stop().await;
}
