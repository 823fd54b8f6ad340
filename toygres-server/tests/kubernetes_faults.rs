//! The whole way, from a request to a query, with an API server that does not do as it should.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may panic, and print what was injected"
)]

#[path = "../../toygres-platform/tests/kubernetes_support/mod.rs"]
mod kubernetes_support;

use futures_util::future::join_all;
use kubernetes_support::{Kubernetes, Made, kubeconfig, kubeconfig_through};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use std::sync::Arc;
use std::time::Duration;
use toygres_models::operations::OperationState;
use toygres_platform::Platform;
use toygres_platform::conformance::Hooks;
use toygres_platform::kubernetes::KubernetesPlatform;
use toygres_testing::proxy::{Fault, FaultProxy, Rule, Verb};
use toygres_testing::{TestServer, TestServerOptions, seed};

const PASSWORD: &str = "kubernetes-faults-secret";

fn status(code: u16) -> Fault {
    Fault::Status {
        code,
        retry_after: (code == 429).then_some(1),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_databases_at_once_come_and_go_with_a_tenth_of_all_calls_failing() {
    let Some(kubeconfig) = kubeconfig("server_faults") else {
        return;
    };
    let seed = seed("a tenth of all calls");
    let kubernetes = &Kubernetes::start(kubeconfig.clone()).await;
    let made = &Made::watch(&kubernetes.client, &kubernetes.namespace);
    let proxy = FaultProxy::start(&kubeconfig).await;
    let way = kubeconfig_through(&proxy);
    let mut config = kubernetes.config.clone();
    config.kubeconfig = Some(way.path().to_owned());
    let platform = KubernetesPlatform::open(config).await.unwrap();
    let authority = &platform.certificate_authority().unwrap().as_bytes().to_vec();
    let options = TestServerOptions {
        platform: Some(Arc::new(platform)),
        ..TestServerOptions::default()
    };
    let server = &TestServer::start_with(options).await;

    let latency = |milliseconds| Fault::Latency(Duration::from_millis(milliseconds));
    let anything = [
        ("latency 100 ms", latency(100)),
        ("latency 500 ms", latency(500)),
        ("429", status(429)),
        ("500", status(500)),
        ("503", status(503)),
        ("reset", Fault::ResetMidBody { after_bytes: 100 }),
    ];
    let mut rules: Vec<_> = anything
        .into_iter()
        .zip(seed..)
        .map(|((name, fault), seed)| (name, Rule::new(fault).chance(0.018, seed)))
        .collect();
    for verb in [Verb::Apply, Verb::Delete] {
        let rule = Rule::new(Fault::DoneButStatus(500)).verb(verb);
        rules.push(("done but 500", rule.chance(0.03, seed)));
        // Few: each is given up after ten seconds.
        let rule = Rule::new(Fault::DoneButHang).verb(verb);
        rules.push(("done but no answer", rule.every(25)));
    }
    let rules: Vec<_> = rules
        .into_iter()
        .map(|(name, rule)| (name, proxy.inject(rule)))
        .collect();
    proxy.reset_requests();

    let lives = (0..10).map(|number| async move {
        let name = format!("faulty-{number}");
        let accepted = server.create(&name, PASSWORD).await;
        let created = server.ended(&accepted).await;
        assert_eq!(created.state, OperationState::Succeeded, "{created:?}");
        let url = server.connection(&name).await.connection_string;
        let options: PgConnectOptions = url.parse().unwrap();
        let options = options.ssl_root_cert_from_pem(authority.clone());
        let mut connection = options.connect().await.unwrap();
        let answer: i32 = sqlx::query_scalar("select 40 + 2")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(answer, 42);
        drop(connection);
        let deletion = server.request_delete(&name).await;
        let deleted = server.ended(&deletion).await;
        assert_eq!(deleted.state, OperationState::Succeeded, "{deleted:?}");
        made.each_once(&format!("{name}-{}", accepted.instance.id.short()))
            .await;
    });
    join_all(lives).await;
    assert_eq!(kubernetes.left_over().await, Vec::<String>::new());
    let fired: Vec<String> = rules
        .iter()
        .map(|(name, rule)| format!("{name} {}", rule.fired()))
        .collect();
    let all: u64 = rules.iter().map(|(_, rule)| rule.fired()).sum();
    let calls = proxy.requests().len();
    eprintln!("a tenth of all calls: {all} of {calls}: {}", fired.join(", "));
    assert!(all > 10);
    for (name, rule) in &rules {
        assert!(*name != "done but no answer" || rule.fired() > 0, "{name}");
    }
}
