//! The process of a server is killed while instances in a cluster are made, watched and deleted: all of it comes to its
//! end, each object is made once, and nothing is left.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may panic and print"
)]

#[path = "../../toygres-platform/tests/kubernetes_support/mod.rs"]
mod kubernetes_support;

use futures_util::future::join_all;
use kubernetes_support::{Kubernetes, Made, address, kubeconfig, kubeconfig_through};
use rand::RngExt;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use toygres_chaos::{ServerOptions, ServerProcess, random};
use toygres_models::instances::{Connection, InstanceAccepted};
use toygres_models::operations::OperationState;
use toygres_platform::Platform;
use toygres_platform::conformance::Hooks;
use toygres_testing::proxy::{Fault, FaultProxy, Rule, Verb};
use toygres_testing::{TestHome, TestPostgres, wait_for};

/// Far more than anything takes, so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(240);

/// Every write that makes an instance.
const MAKE: [(Verb, &str); 6] = [
    (Verb::Apply, "persistentvolumeclaims"),
    (Verb::Apply, "services"),
    (Verb::Apply, "networkpolicies"),
    (Verb::Apply, "secrets"),
    (Verb::Apply, "statefulsets"),
    // It holds data from now on.
    (Verb::Patch, "secrets"),
];
/// Every write that deletes one. Its pod goes with its stateful set.
const DELETE: [(Verb, &str); 5] = [
    (Verb::Delete, "statefulsets"),
    (Verb::Delete, "services"),
    (Verb::Delete, "networkpolicies"),
    (Verb::Delete, "secrets"),
    (Verb::Delete, "persistentvolumeclaims"),
];

/// A server in a process of its own, whose instances are in a namespace in which all objects are noted.
struct Scene {
    server: ServerProcess,
    made: Made,
    kubernetes: Kubernetes,
    _postgres: TestPostgres,
}

impl Scene {
    /// `way`: the kubeconfig that the server has.
    async fn start(kubeconfig: &Path, way: &Path) -> Self {
        let kubernetes = Kubernetes::start(kubeconfig.to_owned()).await;
        let postgres = TestPostgres::start().await;
        let settings = vec![
            ("TOYGRES_PLATFORM", "kubernetes".to_owned()),
            ("KUBECONFIG", way.display().to_string()),
            ("TOYGRES_KUBERNETES_NAMESPACE", kubernetes.namespace.clone()),
            ("TOYGRES_KUBERNETES_VERSIONS", "15".to_owned()),
            ("TOYGRES_KUBERNETES_DEFAULT_CPU", "0".to_owned()),
            ("TOYGRES_KUBERNETES_DEFAULT_MEMORY_MB", "256".to_owned()),
            ("TOYGRES_KUBERNETES_ADDRESS", address()),
        ];
        let options = ServerOptions {
            program: env!("CARGO_BIN_EXE_chaos-server"),
            database_url: postgres.new_database().await,
            home: Arc::new(TestHome::new()),
            shared: None,
            settings,
        };
        Self {
            server: ServerProcess::start(options).await,
            made: Made::watch(&kubernetes.client, &kubernetes.namespace),
            kubernetes,
            _postgres: postgres,
        }
    }

    async fn succeeds(&self, accepted: &InstanceAccepted) {
        let operation = self.server.ended(accepted).await;
        assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
    }

    async fn created(&self, name: &str) -> InstanceAccepted {
        let accepted = self.server.create(name).await;
        self.succeeds(&accepted).await;
        accepted
    }

    async fn connect(&self, name: &str) -> PgConnection {
        let path = format!("/api/instances/{name}/connection?reveal=true");
        let connection: Connection = serde_json::from_value(self.server.get(&path).await).unwrap();
        let authority = self.kubernetes.platform.certificate_authority().unwrap();
        let options: PgConnectOptions = connection.connection_string.parse().unwrap();
        let options = options.ssl_root_cert_from_pem(authority.as_bytes().to_vec());
        options.connect().await.unwrap()
    }

    async fn write_row(&self, name: &str) {
        let mut connection = self.connect(name).await;
        sqlx::query("create table kept as select 42 as number")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }

    async fn row_is_there(&self, name: &str) -> bool {
        let mut connection = self.connect(name).await;
        let row = sqlx::query_scalar("select number from kept").fetch_one(&mut connection);
        row.await.is_ok_and(|number: i32| number == 42)
    }

    /// Waits until a health check that was made from now on finds it healthy.
    async fn is_watched(&self, name: &str) {
        let path = format!("/api/instances/{name}/health?limit=1");
        let last = self.server.get(&path).await[0]["checked_at"].clone();
        wait_for("a good health check", PATIENCE, || async {
            let check = self.server.get(&path).await[0].clone();
            (check["checked_at"] != last && check["healthy"] == true).then_some(())
        })
        .await;
    }

    /// That each object of these was made once, and that there is nothing more of anything.
    async fn each_made_once_and_nothing_left(&self, all: &[&InstanceAccepted]) {
        for accepted in all {
            let instance = &accepted.instance;
            let object_name = format!("{}-{}", instance.name, instance.id.short());
            self.made.each_once(&object_name).await;
        }
        assert_eq!(self.kubernetes.left_over().await, Vec::<String>::new());
        let drift = self.server.get("/api/server/drift").await;
        assert_eq!(drift.as_array().map(Vec::len), Some(0), "{drift}");
    }
}

/// Has the server ask for what it does by these calls, and kills it at each, when that is done and not answered yet.
async fn die_at_each(
    scene: &mut Scene,
    proxy: &FaultProxy,
    calls: &[(Verb, &str)],
    ask: impl AsyncFnOnce(&ServerProcess) -> InstanceAccepted,
) -> InstanceAccepted {
    let mut ask = Some(ask);
    let mut accepted = None;
    for (verb, resource) in calls {
        let rule = Rule::new(Fault::DoneButHang).verb(*verb).resource(resource);
        let rule = proxy.inject(rule.name("killed").times(1));
        match ask.take() {
            Some(ask) => accepted = Some(ask(&scene.server).await),
            None => scene.server.start_again().await,
        }
        let begun = Instant::now();
        wait_for(&format!("{verb:?} {resource}"), PATIENCE, || async {
            (rule.fired() > 0).then_some(())
        })
        .await;
        scene.server.kill();
        eprintln!("killed at {verb:?} {resource}, after {:?}", begun.elapsed());
    }
    scene.server.start_again().await;
    accepted.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_die_at_each_write() {
    let Some(kubeconfig) = kubeconfig("crashes") else {
        return;
    };
    let proxy = FaultProxy::start(&kubeconfig).await;
    let way = kubeconfig_through(&proxy);
    let mut scene = Scene::start(&kubeconfig, way.path()).await;
    let watched = scene.created("watched").await;
    scene.write_row("watched").await;

    let killed = die_at_each(&mut scene, &proxy, &MAKE, async |server| {
        server.create("killed").await
    })
    .await;
    scene.succeeds(&killed).await;
    scene.write_row("killed").await;
    scene.is_watched("watched").await;
    scene.is_watched("killed").await;
    assert!(scene.row_is_there("killed").await);

    let deletion = die_at_each(&mut scene, &proxy, &DELETE, async |server| {
        server.request_delete("killed").await
    })
    .await;
    scene.succeeds(&deletion).await;
    scene.is_watched("watched").await;
    assert!(scene.row_is_there("watched").await);
    let deletion = scene.server.request_delete("watched").await;
    scene.succeeds(&deletion).await;
    scene.each_made_once_and_nothing_left(&[&watched, &killed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_die_at_any_time() {
    const TIMES: usize = 4;
    let Some(kubeconfig) = kubeconfig("crashes") else {
        return;
    };
    let mut random = random("kubernetes_crashes");
    let mut scene = Scene::start(&kubeconfig, &kubeconfig).await;
    let names = ["any-0", "any-1", "any-2"];
    let created = join_all(names.map(|name| scene.server.create(name))).await;
    die_at_times(&mut scene.server, TIMES, || random.random_range(0..5000)).await;
    for accepted in &created {
        scene.succeeds(accepted).await;
    }
    for name in names {
        scene.write_row(name).await;
    }
    die_at_times(&mut scene.server, 1, || random.random_range(0..2000)).await;
    for name in names {
        scene.is_watched(name).await;
        assert!(scene.row_is_there(name).await, "{name}");
    }
    let deleted = join_all(names.map(|name| scene.server.request_delete(name))).await;
    die_at_times(&mut scene.server, TIMES, || random.random_range(0..5000)).await;
    for accepted in &deleted {
        scene.succeeds(accepted).await;
    }
    let created: Vec<_> = created.iter().collect();
    scene.each_made_once_and_nothing_left(&created).await;
}

/// Kills it so many times, each so many milliseconds after it is ready, and starts it again.
async fn die_at_times(server: &mut ServerProcess, times: usize, mut milliseconds: impl FnMut() -> u64) {
    for _ in 0..times {
        let time = milliseconds();
        tokio::time::sleep(Duration::from_millis(time)).await;
        server.kill();
        eprintln!("killed after {time} ms");
        server.start_again().await;
    }
}
