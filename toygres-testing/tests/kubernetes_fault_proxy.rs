//! The fault proxy, in front of a real API server: what the client sees, and what was done.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use hyper::Request;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{
    Api, AttachParams, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::client::Body;
use kube::core::Status;
use kube::runtime::watcher;
use kube::{Client, Error};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use toygres_testing::proxy::{After, Fault, FaultProxy, Rule, Verb};
use toygres_testing::wait_for;

const LIMIT: Duration = Duration::from_secs(60);

/// A client through the proxy, one past it, and a namespace.
struct Scene {
    proxy: FaultProxy,
    client: Client,
    namespace: String,
    /// Through the proxy.
    maps: Api<ConfigMap>,
    /// Past the proxy.
    direct: Api<ConfigMap>,
}

fn without_retries(proxy: &FaultProxy) -> Client {
    let mut config = proxy.config();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// Runs a test in a namespace of its own, which is removed also when the test fails.
async fn on_cluster<F>(test: &str, run: impl FnOnce(Scene) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(kubeconfig) = toygres_testing::kubeconfig(&format!("kubernetes::fault_proxy::{test}")) else {
        return;
    };
    let proxy = FaultProxy::start(&kubeconfig).await;
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    let direct = Client::try_from(config.unwrap()).unwrap();
    let namespace = format!("toygres-test-proxy-{}", uuid::Uuid::new_v4().simple());
    let namespaces: Api<Namespace> = Api::all(direct.clone());
    let metadata = ObjectMeta {
        name: Some(namespace.clone()),
        ..ObjectMeta::default()
    };
    let object = Namespace {
        metadata,
        ..Namespace::default()
    };
    namespaces.create(&PostParams::default(), &object).await.unwrap();
    let client = without_retries(&proxy);
    let scene = Scene {
        proxy,
        maps: Api::namespaced(client.clone(), &namespace),
        client,
        namespace: namespace.clone(),
        direct: Api::namespaced(direct, &namespace),
    };
    let result = tokio::spawn(run(scene)).await;
    namespaces
        .delete(&namespace, &DeleteParams::background())
        .await
        .unwrap();
    if let Err(failure) = result {
        std::panic::resume_unwind(failure.into_panic());
    }
}

fn address(proxy: &FaultProxy) -> String {
    proxy.config().cluster_url.authority().unwrap().to_string()
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "is": "ours" } } })).unwrap()
}

fn ours() -> ListParams {
    ListParams::default().labels("is=ours")
}

fn refused_with(result: Result<impl std::fmt::Debug, Error>) -> Box<Status> {
    match result {
        Err(Error::Api(status)) => status,
        other => panic!("not refused by the API: {other:?}"),
    }
}

impl Scene {
    async fn create(&self, name: &str) -> Result<ConfigMap, Error> {
        self.maps.create(&PostParams::default(), &map(name)).await
    }

    async fn exists(&self, name: &str) -> bool {
        self.direct.get_opt(name).await.unwrap().is_some()
    }

    async fn names(&self) -> Vec<String> {
        let list = self.maps.list(&ours()).await.unwrap();
        list.items
            .into_iter()
            .filter_map(|map| map.metadata.name)
            .collect()
    }

    /// A raw answer: what of its body arrived, and whether it ended well.
    async fn read(&self, path: &str) -> (Vec<u8>, bool) {
        let uri = format!("/api/v1/namespaces/{}/{path}", self.namespace);
        let request = Request::get(uri).body(Body::empty()).unwrap();
        let mut body = self.client.send(request).await.unwrap().into_body();
        let mut read = Vec::new();
        loop {
            match body.frame().await {
                Some(Ok(frame)) => read.extend(frame.into_data().unwrap()),
                Some(Err(_)) => return (read, false),
                None => return (read, true),
            }
        }
    }
}

#[tokio::test]
async fn without_faults_all_goes_through() {
    on_cluster("without_faults_all_goes_through", async |scene| {
        let mut events = scene
            .maps
            .watch(&WatchParams::default().labels("is=ours"), "0")
            .await
            .unwrap()
            .boxed();
        scene.create("one").await.unwrap();
        let event = tokio::time::timeout(LIMIT, events.try_next())
            .await
            .unwrap()
            .unwrap();
        assert!(matches!(event, Some(WatchEvent::Added(map)) if map.metadata.name.as_deref() == Some("one")));
        let apply = PatchParams::apply("toygres-test").force();
        let applied = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "key": "value" } });
        scene
            .maps
            .patch("one", &apply, &Patch::Apply(&applied))
            .await
            .unwrap();
        assert_eq!(scene.names().await, ["one"]);
        scene.maps.delete("one", &DeleteParams::default()).await.unwrap();
        assert!(!scene.exists("one").await);

        let requests = scene.proxy.requests();
        let verbs: Vec<Verb> = requests.iter().map(|request| request.verb).collect();
        assert_eq!(
            verbs,
            [Verb::Watch, Verb::Create, Verb::Apply, Verb::List, Verb::Delete]
        );
        assert!(requests[0].watch && !requests[1].watch);
        assert!(requests[4].path.ends_with("/configmaps/one") && requests[4].method == "DELETE");
        scene.proxy.reset_requests();
        assert!(scene.proxy.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_long_answer_arrives_whole_before_the_connection_is_closed() {
    on_cluster(
        "a_long_answer_arrives_whole_before_the_connection_is_closed",
        async |scene| {
            let mut connection = tokio::net::TcpStream::connect(address(&scene.proxy))
                .await
                .unwrap();
            let request = b"GET /openapi/v2 HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n";
            connection.write_all(request).await.unwrap();
            // A slow reader: megabytes are still in the proxy's socket when it has written all.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut answer = Vec::new();
            connection.read_to_end(&mut answer).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            serde_json::from_str::<serde_json::Value>(body).expect("the whole document");
        },
    )
    .await;
}

#[tokio::test]
async fn the_api_servers_own_errors_are_passed_on() {
    on_cluster("the_api_servers_own_errors_are_passed_on", async |scene| {
        // A second proxy, for which the first one is the API server.
        let file = std::env::temp_dir().join(&scene.namespace);
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{}", address(&scene.proxy)) } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "" } }],
            "current-context": "c",
        });
        std::fs::write(&file, kubeconfig.to_string()).unwrap();
        let outer = FaultProxy::start(&file).await;
        std::fs::remove_file(file).unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(without_retries(&outer), &scene.namespace);

        let fault = Fault::Status { code: 503, retry_after: None };
        let _inner = scene.proxy.inject(Rule::new(fault).times(1));
        let stale = outer.inject(Rule::new(Fault::StaleList));
        // It is not asked again unseen, and no error is kept as a list.
        assert_eq!(refused_with(maps.list(&ours()).await).code, 503);
        assert_eq!(scene.proxy.requests().len(), 1);
        assert!(maps.list(&ours()).await.unwrap().items.is_empty());
        assert_eq!((scene.proxy.requests().len(), stale.fired()), (2, 0));

        // An API server that is away is away for the client of the proxy.
        scene.proxy.refuse(true).await;
        let told = maps.get("one").await.unwrap_err();
        assert!(format!("{told:?}").contains("ConnectionReset"), "{told:?}");
    })
    .await;
}

#[tokio::test]
async fn exec_goes_through() {
    on_cluster("exec_goes_through", async |scene| {
        let pods: Api<Pod> = Api::namespaced(scene.client.clone(), &scene.namespace);
        let pod = json!({
            "metadata": { "name": "sleeper" },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "sleeper", "image": "postgres:17", "command": ["sleep", "600"] }],
            },
        });
        // The namespace's service account may come a moment after it.
        let pod = serde_json::from_value(pod).unwrap();
        wait_for("the pod to be taken", LIMIT, || async {
            pods.create(&PostParams::default(), &pod).await.ok()
        })
        .await;
        wait_for("the pod to run", LIMIT * 3, || async {
            let phase = pods.get("sleeper").await.unwrap().status?.phase?;
            (phase == "Running").then_some(())
        })
        .await;
        let mut process = pods
            .exec("sleeper", ["echo", "hello"], &AttachParams::default())
            .await
            .unwrap();
        let mut said = String::new();
        process.stdout().unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello\n");
    })
    .await;
}

#[tokio::test]
async fn a_status_is_told_and_nothing_done() {
    on_cluster("a_status_is_told_and_nothing_done", async |scene| {
        let reasons = [
            (401, "Unauthorized"),
            (403, "Forbidden"),
            (409, "AlreadyExists"),
            (410, "Expired"),
            (422, "Invalid"),
            (429, "TooManyRequests"),
            (500, "InternalError"),
            (503, "ServiceUnavailable"),
            (504, "Timeout"),
        ];
        for (code, reason) in reasons {
            let fault = Fault::Status {
                code,
                retry_after: None,
            };
            let rule = scene.proxy.inject(
                Rule::new(fault)
                    .verb(Verb::Create)
                    .resource("configmaps")
                    .name("one"),
            );
            let status = refused_with(scene.create("one").await);
            assert_eq!((status.code, &*status.reason), (code, reason));
            assert_eq!(rule.fired(), 1);
            assert!(!scene.exists("one").await);
            scene.create(&format!("other-{code}")).await.unwrap();
        }
        // Every rule ended with its handle.
        scene.create("one").await.unwrap();
        let _rule = scene.proxy.inject(Rule::new(Fault::Status {
            code: 409,
            retry_after: None,
        }));
        let status = refused_with(
            scene
                .maps
                .replace("one", &PostParams::default(), &map("one"))
                .await,
        );
        assert_eq!(status.reason, "Conflict");
    })
    .await;
}

#[tokio::test]
async fn retry_after_is_heard() {
    on_cluster("retry_after_is_heard", async |scene| {
        let fault = Fault::Status {
            code: 429,
            retry_after: Some(1),
        };
        let rule = scene.proxy.inject(Rule::new(fault).verb(Verb::Create).times(2));
        let details = refused_with(scene.create("one").await).details.unwrap();
        assert_eq!(details.retry_after_seconds, 1);
        // A client with kube's own retries waits as it is told.
        let begun = Instant::now();
        let client = Client::try_from(scene.proxy.config()).unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client, &scene.namespace);
        maps.create(&PostParams::default(), &map("one")).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_eq!(rule.fired(), 2);
        assert_eq!(scene.proxy.requests().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn done_but_told_otherwise() {
    on_cluster("done_but_told_otherwise", async |scene| {
        let rule = scene.proxy.inject(Rule::new(Fault::DoneButStatus(500)).times(1));
        assert_eq!(refused_with(scene.create("one").await).code, 500);
        assert_eq!(rule.fired(), 1);
        assert!(scene.exists("one").await);
        assert_eq!(refused_with(scene.create("one").await).reason, "AlreadyExists");
    })
    .await;
}

#[tokio::test]
async fn done_but_reset() {
    on_cluster("done_but_reset", async |scene| {
        let rule = scene
            .proxy
            .inject(Rule::new(Fault::DoneButReset).verb(Verb::Delete).times(1));
        scene.create("one").await.unwrap();
        let told = scene.maps.delete("one", &DeleteParams::default()).await;
        assert!(format!("{told:?}").contains("ConnectionReset"), "{told:?}");
        assert_eq!(rule.fired(), 1);
        assert!(!scene.exists("one").await);
        let told = scene.maps.delete("one", &DeleteParams::default()).await;
        assert_eq!(refused_with(told).code, 404);
    })
    .await;
}

#[tokio::test]
async fn done_but_without_an_answer() {
    on_cluster("done_but_without_an_answer", async |scene| {
        let rule = scene
            .proxy
            .inject(Rule::new(Fault::DoneButHang).verb(Verb::Create).times(1));
        let creating = scene.create("one");
        tokio::pin!(creating);
        let done = async {
            wait_for("it to be done", LIMIT, || async {
                scene.exists("one").await.then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        tokio::select! {
            told = &mut creating => panic!("an answer: {told:?}"),
            () = done => {}
        }
        assert_eq!(rule.fired(), 1);
        assert_eq!(refused_with(scene.create("one").await).reason, "AlreadyExists");
    })
    .await;
}

#[tokio::test]
async fn reset_within_the_answer() {
    on_cluster("reset_within_the_answer", async |scene| {
        let rule = scene
            .proxy
            .inject(Rule::new(Fault::ResetMidBody { after_bytes: 20 }));
        assert!(scene.create("one").await.is_err());
        assert!(scene.exists("one").await);
        let (read, well) = scene.read("configmaps/one").await;
        assert_eq!((read.len(), well), (20, false));
        assert_eq!(&read[..9], br#"{"kind":""#);
        assert_eq!(rule.fired(), 2);
        drop(rule);
        assert!(scene.read("configmaps/one").await.1);
    })
    .await;
}

#[tokio::test]
async fn a_request_hangs_until_the_client_gives_up() {
    on_cluster("a_request_hangs_until_the_client_gives_up", async |scene| {
        let rule = scene
            .proxy
            .inject(Rule::new(Fault::Hang).verb(Verb::Create).times(1));
        let told = tokio::time::timeout(Duration::from_millis(300), scene.create("one")).await;
        assert!(told.is_err());
        assert_eq!(rule.fired(), 1);
        assert!(!scene.exists("one").await);
        scene.create("one").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn latency_comes_before_another_fault() {
    on_cluster("latency_comes_before_another_fault", async |scene| {
        let slow = scene
            .proxy
            .inject(Rule::new(Fault::Latency(Duration::from_millis(300))).times(2));
        let refused = scene.proxy.inject(
            Rule::new(Fault::Status {
                code: 500,
                retry_after: None,
            })
            .times(1),
        );
        let begun = Instant::now();
        assert_eq!(refused_with(scene.create("one").await).code, 500);
        assert!(begun.elapsed() >= Duration::from_millis(300));
        let begun = Instant::now();
        scene.create("one").await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert_eq!((slow.fired(), refused.fired()), (2, 1));
    })
    .await;
}

#[tokio::test]
async fn a_watch_expires() {
    on_cluster("a_watch_expires", async |scene| {
        scene.create("one").await.unwrap();
        let rule = scene.proxy.inject(Rule::new(Fault::ExpireWatch).verb(Verb::Watch).times(2));
        let watch = scene.maps.watch(&WatchParams::default(), "0").await.unwrap();
        let events: Vec<_> = watch.collect().await;
        assert!(matches!(&events[..], [Ok(WatchEvent::Error(error))] if error.code == 410 && error.reason == "Expired"));
        assert!(scene.proxy.requests().iter().all(|request| request.verb != Verb::List));

        // kube's watcher lists again.
        let mut events = watcher(scene.maps.clone(), watcher::Config::default().labels("is=ours")).boxed();
        let mut listed = 0;
        while listed < 2 {
            let event = tokio::time::timeout(LIMIT, events.next()).await.unwrap().unwrap();
            listed += usize::from(matches!(event, Ok(watcher::Event::InitDone)));
        }
        assert_eq!(rule.fired(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_watch_ends_early() {
    on_cluster("a_watch_ends_early", async |scene| {
        for name in ["one", "two", "three"] {
            scene.create(name).await.unwrap();
        }
        let watch = "configmaps?watch=true&resourceVersion=0&labelSelector=is%3Dours";
        let rule = scene
            .proxy
            .inject(Rule::new(Fault::TruncateWatch(After::Events(2))).verb(Verb::Watch));
        let (read, well) = scene.read(watch).await;
        assert!(well);
        assert_eq!(read.split_inclusive(|byte| *byte == b'\n').count(), 2);
        assert!(read.ends_with(b"}\n"));
        assert_eq!(rule.fired(), 1);
        drop(rule);
        let rule = scene
            .proxy
            .inject(Rule::new(Fault::TruncateWatch(After::Bytes(30))).verb(Verb::Watch));
        let (read, well) = scene.read(watch).await;
        assert_eq!((read.len(), well, rule.fired()), (30, true, 1));
    })
    .await;
}

#[tokio::test]
async fn a_list_is_stale() {
    on_cluster("a_list_is_stale", async |scene| {
        scene.create("one").await.unwrap();
        let rule = scene
            .proxy
            .inject(Rule::new(Fault::StaleList).verb(Verb::List).times(2));
        assert_eq!(scene.names().await, ["one"]);
        assert_eq!(rule.fired(), 0);
        scene.create("two").await.unwrap();
        assert_eq!(scene.names().await, ["one"]);
        assert_eq!(scene.names().await, ["one"]);
        assert_eq!(rule.fired(), 2);
        assert_eq!(scene.names().await, ["one", "two"]);
    })
    .await;
}

#[tokio::test]
async fn away_and_back_on_the_same_port() {
    on_cluster("away_and_back_on_the_same_port", async |scene| {
        let watch = scene
            .maps
            .watch(&WatchParams::default().labels("is=ours"), "0")
            .await
            .unwrap();
        scene.proxy.refuse(true).await;
        let events: Vec<_> = tokio::time::timeout(LIMIT, watch.collect()).await.unwrap();
        assert!(matches!(&events[..], [Err(_)]), "{events:?}");
        let told = scene.create("one").await.unwrap_err();
        assert!(format!("{told:?}").contains("ConnectionRefused"), "{told:?}");
        scene.proxy.refuse(true).await;
        assert!(!scene.exists("one").await);
        // Nobody else gets the port in the meantime.
        let address = address(&scene.proxy);
        assert!(tokio::net::TcpListener::bind(&address).await.is_err());
        scene.proxy.refuse(false).await;
        scene.proxy.refuse(false).await;
        scene.create("one").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn dropped_it_ends() {
    on_cluster("dropped_it_ends", async |scene| {
        let watch = scene.maps.watch(&WatchParams::default(), "0").await.unwrap();
        let rule = scene.proxy.inject(Rule::new(Fault::Hang).verb(Verb::Create));
        let maps = scene.maps.clone();
        let hanging = tokio::spawn(async move { maps.create(&PostParams::default(), &map("one")).await });
        wait_for("the create to hang", LIMIT, || async {
            (rule.fired() == 1).then_some(())
        })
        .await;
        drop(scene.proxy);
        tokio::time::timeout(LIMIT, watch.count()).await.unwrap();
        assert!(
            tokio::time::timeout(LIMIT, hanging)
                .await
                .unwrap()
                .unwrap()
                .is_err()
        );
        let told = scene.maps.get("one").await.unwrap_err();
        assert!(format!("{told:?}").contains("ConnectionRefused"), "{told:?}");
    })
    .await;
}

#[tokio::test]
async fn many_requests_at_once_get_as_many_faults_as_the_rule_says() {
    on_cluster(
        "many_requests_at_once_get_as_many_faults_as_the_rule_says",
        async |scene| {
            let scene = Arc::new(scene);
            let rule = scene
                .proxy
                .inject(Rule::new(Fault::DoneButReset).verb(Verb::Create).every(4));
            let creates = (0..40).map(|index| {
                let scene = scene.clone();
                tokio::spawn(async move { scene.create(&format!("map-{index}")).await.is_ok() })
            });
            let told_well = futures_util::future::join_all(creates.collect::<Vec<_>>()).await;
            assert_eq!(
                told_well.iter().filter(|well| *well.as_ref().unwrap()).count(),
                30
            );
            assert_eq!(rule.fired(), 10);
            assert_eq!(scene.names().await.len(), 40);
        },
    )
    .await;
}
