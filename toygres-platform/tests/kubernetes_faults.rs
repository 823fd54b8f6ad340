//! The Kubernetes platform with an API server that does not do as it should: instances come and go all the same, and
//! nothing is made twice.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may panic, and print what was injected"
)]

mod kubernetes_support;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::PostParams;
use kube::config::Kubeconfig;
use kubernetes_support::{Kubernetes, Made, kubeconfig, kubeconfig_through, write_kubeconfig};
use serde_json::{Value, json};
use sqlx::Connection;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind};
use toygres_platform::conformance::{Hooks, PASSWORD, connect, new_spec};
use toygres_platform::kubernetes::{KubernetesConfig, KubernetesPlatform};
use toygres_platform::{InstanceRef, InstanceSpec, Observation, Platform, Storage};
use toygres_testing::proxy::{After, Fault, FaultProxy, Rule, Verb};
use toygres_testing::{seed, wait_for};

/// How long an instance may take to come or to go while there are faults, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

/// A platform behind a proxy, in a namespace whose objects are all noted.
struct Scene {
    kubernetes: Kubernetes,
    made: Made,
    proxy: FaultProxy,
    _way: NamedTempFile,
}

impl Scene {
    async fn start(kubeconfig: &Path) -> Self {
        let proxy = FaultProxy::start(kubeconfig).await;
        let way = kubeconfig_through(&proxy);
        let kubernetes = Kubernetes::start_with(kubeconfig.to_owned(), |config| {
            config.kubeconfig = Some(way.path().to_owned());
        })
        .await;
        Self {
            made: Made::watch(&kubernetes.client, &kubernetes.namespace),
            kubernetes,
            proxy,
            _way: way,
        }
    }

    fn platform(&self) -> &KubernetesPlatform {
        &self.kubernetes.platform
    }

    fn spec(&self, name: &str) -> InstanceSpec {
        new_spec(&self.kubernetes, name)
    }

    async fn ensured(&self, spec: &InstanceSpec, storage: Storage) {
        retried("ensure", || self.platform().ensure(spec, storage)).await;
    }

    /// Waits as an orchestration does: what is not there is made again.
    async fn ready(&self, spec: &InstanceSpec) -> Endpoint {
        let instance = &spec.reference();
        let begun = Instant::now();
        loop {
            let wait = || self.platform().wait_ready(instance, Duration::from_secs(1));
            match retried("wait", wait).await {
                Observation::Ready(serving) => return serving.endpoint,
                Observation::NotReady {
                    reason: Reason::Starting,
                    ..
                } => {}
                _ => self.ensured(spec, Storage::Create).await,
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{} is not ready",
                instance.object_name()
            );
        }
    }

    async fn write_a_row(&self, endpoint: &Endpoint) {
        let mut connection = connect(&self.kubernetes, endpoint, PASSWORD).await.unwrap();
        sqlx::query("create table kept as select 42::bigint as n")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }

    async fn read_the_row(&self, endpoint: &Endpoint) {
        let mut connection = connect(&self.kubernetes, endpoint, PASSWORD).await.unwrap();
        let n: i64 = sqlx::query_scalar("select n from kept")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(n, 42);
        connection.close().await.unwrap();
    }

    /// Makes an instance, uses it, has it made like its specification once more.
    async fn made(&self, spec: &InstanceSpec) {
        self.ensured(spec, Storage::Create).await;
        let endpoint = self.ready(spec).await;
        self.write_a_row(&endpoint).await;
        let system_identifier = None;
        self.ensured(spec, Storage::MustExist { system_identifier }).await;
        self.read_the_row(&endpoint).await;
    }

    /// Removes an instance; makes sure that all of it was made once, and nothing is left.
    async fn removed(&self, spec: &InstanceSpec) {
        let instance = spec.reference();
        retried("remove", || self.platform().remove(&instance)).await;
        let seen = retried("observe", || self.platform().observe(&instance)).await;
        assert_eq!(seen, Observation::Absent);
        assert_eq!(self.left_over(&instance).await, Vec::<String>::new());
        self.made.each_once(&instance.object_name()).await;
    }

    /// What the cluster has of an instance.
    async fn left_over(&self, instance: &InstanceRef) -> Vec<String> {
        let name = instance.object_name();
        let mut all = self.kubernetes.left_over().await;
        all.retain(|object| object.contains(&name));
        all
    }
}

/// Calls again for as long as the error says that this may help, as orchestrations do.
async fn retried<T, F>(doing: &str, mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = toygres_models::Result<T>>,
{
    let begun = Instant::now();
    loop {
        match call().await {
            Ok(done) => return done,
            Err(error) => {
                assert_no_secret(&error);
                assert!(
                    error.retryable() && begun.elapsed() < PATIENCE,
                    "{doing}: {error:?} {}",
                    error.detail()
                );
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Neither the password nor what it is in a secret's JSON.
fn assert_no_secret(error: &Error) {
    let all = format!("{error} {error:?} {:?} {}", error.next_step(), error.detail());
    for secret in [PASSWORD, "Y29uZm9ybWFuY2UtY2FuYXJ5"] {
        assert!(!all.contains(secret), "{all}");
    }
}

fn status(code: u16) -> Fault {
    Fault::Status {
        code,
        retry_after: None,
    }
}

/// Every call of `ensure`, and every deletion of `remove`.
const CALLS: &[(Verb, &str)] = &[
    (Verb::Get, "persistentvolumeclaims"),
    (Verb::Apply, "persistentvolumeclaims"),
    (Verb::Apply, "services"),
    (Verb::Apply, "networkpolicies"),
    (Verb::Get, "secrets"),
    (Verb::Apply, "secrets"),
    (Verb::Apply, "statefulsets"),
    (Verb::Delete, "statefulsets"),
    (Verb::Delete, "pods"),
    (Verb::Delete, "services"),
    (Verb::Delete, "networkpolicies"),
    (Verb::Delete, "secrets"),
    (Verb::Delete, "persistentvolumeclaims"),
];
/// What `remove` and `observe` list.
const LISTS: &[&str] = &[
    "statefulsets",
    "pods",
    "services",
    "networkpolicies",
    "secrets",
    "persistentvolumeclaims",
];

fn is_write(verb: Verb) -> bool {
    matches!(verb, Verb::Apply | Verb::Delete)
}

fn is_for_writes(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::DoneButStatus(_) | Fault::DoneButReset | Fault::DoneButHang
    )
}

/// An instance each of whose calls meets each of these faults once.
async fn each_call_meets(scene: &Scene, name: &str, faults: &[Fault]) {
    let spec = scene.spec(name);
    let object_name = spec.reference().object_name();
    let inject = |verb, resource: &'static str, part: &str| {
        let of_it = faults
            .iter()
            .filter(move |fault| is_write(verb) || !is_for_writes(fault));
        let rules = of_it.map(move |fault| {
            let rule = Rule::new(fault.clone()).verb(verb).resource(resource).name(part);
            let what = format!("{fault:?} {verb:?} {resource}");
            (what, scene.proxy.inject(rule.times(1)))
        });
        rules.collect::<Vec<_>>()
    };
    let of_calls = CALLS
        .iter()
        .flat_map(|(verb, resource)| inject(*verb, resource, &object_name));
    let of_calls: Vec<_> = of_calls.collect();
    scene.made(&spec).await;
    let of_lists: Vec<_> = LISTS
        .iter()
        .flat_map(|resource| inject(Verb::List, resource, ""))
        .collect();
    scene.removed(&spec).await;
    let rules = of_calls.iter().chain(&of_lists);
    let (fired, not): (Vec<_>, Vec<_>) = rules.partition(|(_, rule)| rule.fired() > 0);
    eprintln!("each call once: {name} {} times", fired.len());
    for (what, _) in not {
        // What its stateful set's end has ended already is not deleted by toygres.
        assert!(what.ends_with("Delete pods"), "{name}: {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_may_meet_each_fault() {
    let Some(kubeconfig) = kubeconfig("faults") else {
        return;
    };
    let scene = &Scene::start(&kubeconfig).await;
    let busy = Fault::Status {
        code: 429,
        retry_after: Some(1),
    };
    let done_but = Fault::DoneButStatus;
    let latency = Fault::Latency(Duration::from_millis(300));
    // What is done, even if told otherwise, comes last: it is not asked for again.
    let lives = [
        ("conflict", vec![status(409), busy, done_but(409)]),
        ("trouble", vec![status(500), status(503), done_but(500)]),
        ("too-late", vec![status(410), status(504), done_but(504)]),
        ("slow", vec![latency, Fault::DoneButReset]),
        // Each is given up after ten seconds, so that this one takes two minutes, beside the others.
        ("silent", vec![Fault::DoneButHang]),
        ("reset", vec![Fault::ResetMidBody { after_bytes: 20 }]),
    ];
    let lives = lives
        .iter()
        .map(|(name, faults)| each_call_meets(scene, name, faults));
    futures_util::future::join_all(lives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_of_all_calls_may_fail() {
    let Some(kubeconfig) = kubeconfig("faults") else {
        return;
    };
    let seed = seed("a fifth of all calls");
    let scene = &Scene::start(&kubeconfig).await;
    let anything = [
        ("latency", Fault::Latency(Duration::from_millis(500))),
        ("409", status(409)),
        ("429", status(429)),
        ("500", status(500)),
        ("503", status(503)),
        ("504", status(504)),
        ("reset", Fault::ResetMidBody { after_bytes: 100 }),
    ];
    let writes = [
        ("done but 500", Fault::DoneButStatus(500)),
        ("done but reset", Fault::DoneButReset),
    ];
    let mut rules: Vec<_> = anything
        .into_iter()
        .zip(seed..)
        .map(|((name, fault), seed)| (name, Rule::new(fault).chance(0.03, seed)))
        .collect();
    for (name, fault) in writes {
        for verb in [Verb::Apply, Verb::Delete] {
            rules.push((name, Rule::new(fault.clone()).verb(verb).chance(0.08, seed)));
        }
    }
    let rules: Vec<_> = rules
        .into_iter()
        .map(|(name, rule)| (name, scene.proxy.inject(rule)))
        .collect();
    let lives = (0..3).map(|number| async move {
        let spec = scene.spec(&format!("mixed-{number}"));
        scene.made(&spec).await;
        scene.removed(&spec).await;
    });
    futures_util::future::join_all(lives).await;
    let fired: Vec<String> = rules
        .iter()
        .map(|(name, rule)| format!("{name} {}", rule.fired()))
        .collect();
    let all: u64 = rules.iter().map(|(_, rule)| rule.fired()).sum();
    let calls = scene.proxy.requests().len();
    eprintln!("a fifth of all calls: {all} of {calls}: {}", fired.join(", "));
    assert!(all > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_does_not_answer_or_is_away_is_waited_for() {
    let Some(kubeconfig) = kubeconfig("faults") else {
        return;
    };
    let scene = &Scene::start(&kubeconfig).await;
    let spec = scene.spec("away");
    let instance = spec.reference();
    let object_name = instance.object_name();
    // Each is given up after ten seconds, and was not done.
    let hangs = [(Verb::Apply, "statefulsets"), (Verb::Delete, "statefulsets")].map(|(verb, resource)| {
        let rule = Rule::new(Fault::Hang).verb(verb).resource(resource);
        scene.proxy.inject(rule.name(&object_name).times(1))
    });
    let begun = Instant::now();
    let error = scene.platform().ensure(&spec, Storage::Create).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Timeout, "platform_unavailable")
    );
    assert!(error.next_step().is_some());
    assert_no_secret(&error);
    let took = begun.elapsed();
    assert!((10..60).contains(&took.as_secs()), "given up after {took:?}");

    scene.ensured(&spec, Storage::Create).await;
    scene.proxy.refuse(true).await;
    let waited = scene
        .platform()
        .wait_ready(&instance, Duration::from_secs(3))
        .await
        .unwrap();
    assert_ne!(waited, Observation::Absent, "what was seen is still known");
    let error = scene.platform().ensure(&spec, Storage::Create).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Unavailable, "platform_unavailable")
    );
    assert!(error.next_step().is_some());
    let error = scene.platform().remove(&instance).await.unwrap_err();
    assert!(error.retryable(), "{error:?}");
    let pod = format!("{object_name}-0");
    wait_for("the pod to be ready unseen", PATIENCE, async || {
        let pod = scene.kubernetes.api::<Pod>().get_opt(&pod).await.unwrap()?;
        let conditions = pod.status?.conditions?;
        conditions
            .iter()
            .any(|is| is.type_ == "Ready" && is.status == "True")
            .then_some(())
    })
    .await;

    scene.proxy.refuse(false).await;
    let back = Instant::now();
    let waited = scene.platform().wait_ready(&instance, PATIENCE).await.unwrap();
    let Observation::Ready(serving) = waited else {
        panic!("{waited:?}");
    };
    let took = back.elapsed();
    eprintln!("back: seen after {took:?}");
    assert!(took < Duration::from_secs(30), "seen {took:?} after it is back");
    scene.write_a_row(&serving.endpoint).await;
    scene.removed(&spec).await;
    assert!(hangs.iter().all(|rule| rule.fired() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_break_off_are_begun_again() {
    let Some(kubeconfig) = &kubeconfig("faults") else {
        return;
    };
    let scene = &Scene::start(kubeconfig).await;
    let watch = |fault| Rule::new(fault).verb(Verb::Watch);
    let truncate = Fault::TruncateWatch(After::Bytes(1500));
    let reset = Fault::ResetMidBody { after_bytes: 1500 };
    let silence = Fault::SilenceWatch(After::Events(0));
    // Each with how many seconds late it may be seen what happens.
    let cases = [
        ("expire", watch(Fault::ExpireWatch).every(2), 20),
        ("truncate", watch(truncate).every(2), 20),
        ("reset", watch(reset).every(2), 20),
        ("refuse", watch(status(500)).every(2), 20),
        // The first one of each kind, until it is given up.
        ("silence", watch(silence).times(7), 40),
        ("hang", watch(Fault::Hang).times(7), 45),
    ];
    // Several that look at the same instance, each through a proxy of its own.
    let lookers = cases.map(|(name, rule, limit)| async move {
        let proxy = FaultProxy::start(kubeconfig).await;
        let rule = proxy.inject(rule);
        let way = kubeconfig_through(&proxy);
        let config = KubernetesConfig {
            kubeconfig: Some(way.path().to_owned()),
            ..scene.kubernetes.config.clone()
        };
        let platform = KubernetesPlatform::open(config).await.unwrap();
        (name, platform, proxy, rule, Duration::from_secs(limit))
    });
    let lookers = futures_util::future::join_all(lookers).await;
    let spec = scene.spec("watched");
    let instance = &spec.reference();
    scene.ensured(&spec, Storage::Create).await;
    let endpoint = scene.ready(&spec).await;
    let ready_at = Instant::now();
    let seen = lookers.iter().map(|(name, platform, _, _, limit)| async move {
        wait_for(&format!("{name} to see it ready"), *limit, async || {
            let seen = platform
                .wait_ready(instance, Duration::from_secs(1))
                .await
                .unwrap();
            matches!(seen, Observation::Ready(_)).then_some(())
        })
        .await;
        eprintln!("watches: {name}: seen {:?} late", ready_at.elapsed());
    });
    futures_util::future::join_all(seen).await;
    scene.write_a_row(&endpoint).await;
    // They look on while it goes.
    let removed = lookers.iter().map(|(name, platform, _, rule, _)| async move {
        retried("remove", || platform.remove(instance)).await;
        let seen = retried("observe", || platform.observe(instance)).await;
        assert_eq!(seen, Observation::Absent, "{name}");
        assert!(rule.fired() > 0, "{name}");
        eprintln!("watches: {name} {} times", rule.fired());
    });
    futures_util::future::join_all(removed).await;
    scene.removed(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_list_says_is_not_believed() {
    let Some(kubeconfig) = kubeconfig("faults") else {
        return;
    };
    let scene = &Scene::start(&kubeconfig).await;
    let stale_list = || Rule::new(Fault::StaleList).verb(Verb::List);

    // It is there, and the lists say that it is not.
    let spec = scene.spec("present");
    let instance = spec.reference();
    let stale = scene.proxy.inject(stale_list());
    let seen = scene.platform().observe(&instance).await.unwrap();
    assert_eq!(seen, Observation::Absent);
    scene.made(&spec).await;
    let seen = scene.platform().observe(&instance).await.unwrap();
    assert!(matches!(seen, Observation::Ready(_)), "{seen:?}");
    let error = scene.platform().remove(&instance).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Unavailable, "platform_unavailable")
    );
    assert_eq!(scene.left_over(&instance).await.len(), 7);
    assert!(stale.fired() > 0);
    drop(stale);
    scene.removed(&spec).await;

    // It has gone, and the lists say that it is there.
    let spec = scene.spec("gone");
    let instance = spec.reference();
    scene.made(&spec).await;
    let stale = scene.proxy.inject(stale_list());
    let error = scene.platform().remove(&instance).await.unwrap_err();
    assert!(error.retryable(), "{error:?}");
    wait_for("it to be gone", PATIENCE, async || {
        scene.left_over(&instance).await.is_empty().then_some(())
    })
    .await;
    let seen = scene.platform().observe(&instance).await.unwrap();
    assert!(matches!(seen, Observation::NotReady { .. }), "{seen:?}");
    assert!(stale.fired() > 0);
    drop(stale);
    scene.removed(&spec).await;
}

/// When requests of this method about a path that ends so arrived.
fn arrivals(proxy: &FaultProxy, method: &str, end: &str) -> Vec<Instant> {
    let requests = proxy.requests().into_iter();
    requests
        .filter(|request| request.method.as_str() == method && !request.watch && request.path.ends_with(end))
        .map(|request| request.at)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_asks_for_time_gets_it() {
    let Some(kubeconfig) = kubeconfig("faults") else {
        return;
    };
    let scene = &Scene::start(&kubeconfig).await;
    let refusal = |retry_after| {
        let code = 429;
        let retry_after = Some(retry_after);
        Rule::new(Fault::Status { code, retry_after }).times(1)
    };
    let spec = scene.spec("busy");
    let object_name = spec.reference().object_name();
    // The second one is longer than an API server may take that says nothing.
    for (retry_after, verb, method, resource) in [
        (3, Verb::Apply, "PATCH", "networkpolicies"),
        (12, Verb::Get, "GET", "secrets"),
    ] {
        let path = format!("/{resource}/{object_name}");
        let rule = refusal(retry_after).verb(verb).resource(resource);
        let rule = scene.proxy.inject(rule.name(&object_name));
        scene.proxy.reset_requests();
        scene.platform().ensure(&spec, Storage::Create).await.unwrap();
        assert_eq!(rule.fired(), 1);
        let arrived = arrivals(&scene.proxy, method, &path);
        assert_eq!(arrived.len(), 2, "{path}");
        let pause = arrived[1] - arrived[0];
        eprintln!("Retry-After: {retry_after}: the next came after {pause:?}");
        assert!(pause >= Duration::from_secs(retry_after), "{path}: {pause:?}");
    }
    scene.removed(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_class() {
    use ErrorKind as K;
    let Some(kubeconfig) = kubeconfig("faults") else {
        return;
    };
    let scene = &Scene::start(&kubeconfig).await;
    let spec = scene.spec("refused");
    let instance = spec.reference();
    for (fault, kind, code) in [
        (status(401), K::Unavailable, "platform_unauthenticated"),
        (status(403), K::Config, "permission_denied"),
        (status(409), K::Unavailable, "platform_unavailable"),
        (status(410), K::Unavailable, "platform_unavailable"),
        (status(422), K::Config, "platform_refused"),
        (status(429), K::Throttled, "platform_unavailable"),
        (status(500), K::Unavailable, "platform_unavailable"),
        (status(503), K::Unavailable, "platform_unavailable"),
        (status(504), K::Unavailable, "platform_unavailable"),
        (Fault::DoneButReset, K::Unavailable, "platform_unavailable"),
        (
            Fault::ResetMidBody { after_bytes: 20 },
            K::Unavailable,
            "platform_unavailable",
        ),
        // An answer that ends in the middle as if it were whole, so that it can't be read.
        (
            Fault::TruncateWatch(After::Bytes(20)),
            K::Unavailable,
            "platform_unavailable",
        ),
    ] {
        let failed = |error: Error| {
            assert_eq!(
                (error.kind(), error.code()),
                (kind, code),
                "{fault:?}: {error:?} {}",
                error.detail()
            );
            assert_no_secret(&error);
        };
        let _all = [Verb::List, Verb::Get, Verb::Apply]
            .map(|verb| scene.proxy.inject(Rule::new(fault.clone()).verb(verb)));
        failed(scene.platform().observe(&instance).await.unwrap_err());
        failed(scene.platform().remove(&instance).await.unwrap_err());
        failed(scene.platform().ensure(&spec, Storage::Create).await.unwrap_err());
    }
    // The password is in the answers that get lost.
    scene.ensured(&spec, Storage::Create).await;
    for (verb, fault) in [
        (Verb::Get, Fault::ResetMidBody { after_bytes: 400 }),
        (Verb::Get, Fault::TruncateWatch(After::Bytes(400))),
        (Verb::Apply, Fault::ResetMidBody { after_bytes: 400 }),
        (Verb::Apply, Fault::TruncateWatch(After::Bytes(400))),
    ] {
        let rule = Rule::new(fault).verb(verb).resource("secrets").times(1);
        let rule = scene.proxy.inject(rule);
        let error = scene.platform().ensure(&spec, Storage::Create).await.unwrap_err();
        let class = (error.kind(), error.code());
        assert_eq!(class, (K::Unavailable, "platform_unavailable"));
        assert_no_secret(&error);
        assert_eq!(rule.fired(), 1);
    }
    retried("remove", || scene.platform().remove(&instance)).await;
}

/// What keeps a platform from being opened.
async fn refused(config: &KubernetesConfig, way: &Path) -> Error {
    let config = KubernetesConfig {
        kubeconfig: Some(way.to_owned()),
        ..config.clone()
    };
    let error = KubernetesPlatform::open(config).await.err().unwrap();
    assert!(error.next_step().is_some(), "{error:?}");
    eprintln!("open: {:?} {}: {error}", error.kind(), error.code());
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_does_not_lead_there_is_told() {
    let Some(kubeconfig) = kubeconfig("faults") else {
        return;
    };
    let scene = Scene::start(&kubeconfig).await;
    let config = &scene.kubernetes.config;
    let class = |error: &Error| (error.kind(), error.code().to_owned());
    let unavailable = |code: &str| (ErrorKind::Unavailable, code.to_owned());
    let real = Kubeconfig::read_from(&kubeconfig).unwrap();
    let server = serde_json::to_value(real.clusters[0].cluster.clone().unwrap()).unwrap();
    let user = serde_json::to_value(real.auth_infos[0].auth_info.clone().unwrap()).unwrap();

    let key = rcgen::KeyPair::generate().unwrap();
    let another = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let authority = NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), another.pem()).unwrap();
    let wrong = json!({ "server": server["server"], "certificate-authority": authority.path() });
    let way = write_kubeconfig(&wrong, &user);
    assert_eq!(
        class(&refused(config, way.path()).await),
        unavailable("platform_certificate")
    );

    let way = write_kubeconfig(&server, &json!({ "token": "not-a-token" }));
    let error = refused(config, way.path()).await;
    assert_eq!(class(&error), unavailable("platform_unauthenticated"));
    assert!(!format!("{error:?} {}", error.detail()).contains("not-a-token"));

    let way = write_kubeconfig(&server, &json!({ "token": weak_token(&scene.kubernetes).await }));
    let error = refused(config, way.path()).await;
    assert_eq!(class(&error), (ErrorKind::Config, "permission_denied".to_owned()));
    let namespace = &scene.kubernetes.namespace;
    assert_eq!(
        error.message(),
        format!(
            "toygres is not allowed to: get pods/log in the namespace {namespace}; delete services in the namespace \
             {namespace}"
        )
    );

    let way = kubeconfig_through(&scene.proxy);
    let hang = scene.proxy.inject(Rule::new(Fault::Hang));
    let begun = Instant::now();
    let error = refused(config, way.path()).await;
    assert_eq!(
        class(&error),
        (ErrorKind::Timeout, "platform_unavailable".to_owned())
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
    drop(hang);

    scene.proxy.refuse(true).await;
    assert_eq!(
        class(&refused(config, way.path()).await),
        unavailable("platform_unavailable")
    );
}

/// The token of an account that may do all that toygres has to, but for two verbs.
async fn weak_token(kubernetes: &Kubernetes) -> String {
    let all = ["get", "list", "watch", "create", "patch", "delete"];
    let without_delete = &all[..5];
    let rule = |group: &str, resource: &str, verbs: &[&str]| -> Value {
        json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs })
    };
    let name = json!({ "name": "weak" });
    let role = json!({
        "metadata": name,
        "rules": [
            rule("", "persistentvolumeclaims", &all),
            rule("", "secrets", &all),
            rule("", "services", without_delete),
            rule("apps", "statefulsets", &all),
            rule("networking.k8s.io", "networkpolicies", &all),
            rule("", "pods", &["get", "list", "watch", "delete"]),
            rule("", "events", &["list", "watch"]),
        ],
    });
    let binding = json!({
        "metadata": name,
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "weak" },
        "subjects": [{ "kind": "ServiceAccount", "name": "weak", "namespace": kubernetes.namespace }],
    });
    let parameters = PostParams::default();
    let accounts = kubernetes.api::<ServiceAccount>();
    let account: ServiceAccount = serde_json::from_value(json!({ "metadata": name })).unwrap();
    accounts.create(&parameters, &account).await.unwrap();
    let role: Role = serde_json::from_value(role).unwrap();
    kubernetes.api::<Role>().create(&parameters, &role).await.unwrap();
    let binding: RoleBinding = serde_json::from_value(binding).unwrap();
    let bindings = kubernetes.api::<RoleBinding>();
    bindings.create(&parameters, &binding).await.unwrap();
    let request: TokenRequest = serde_json::from_value(json!({ "spec": { "audiences": [] } })).unwrap();
    let request = accounts
        .create_token_request("weak", &parameters, &request)
        .await
        .unwrap();
    request.status.unwrap().token
}
