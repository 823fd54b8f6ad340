//! Every call to the platform fails in every way, in turn: whatever happens, an operation ends right, and a clean
//! slate is left.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use toygres_models::operations::OperationState;
use toygres_models::{Error, ErrorKind, PostgresVersion, Result};
use toygres_platform::local::{LocalConfig, LocalPlatform};
use toygres_platform::{InstanceRef, InstanceSpec, Listed, LogOptions, Observation, Platform, Storage};
use toygres_testing::{TestHome, TestServer, TestServerOptions};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Ensure,
    Observe,
    WaitReady,
    Remove,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Not done, and no retry will help.
    Fatal,
    /// Not done, twice; then it works.
    Transient,
    /// Done, but the caller is told that the platform did not answer.
    AnswerLost,
    /// Done twice.
    Twice,
    /// The activity's code has a defect.
    Panic,
}

/// Real processes behind a caller that can be lied to.
struct FaultyPlatform {
    inner: LocalPlatform,
    plan: Mutex<Option<(Verb, Fault)>>,
    hits: AtomicU32,
}

impl FaultyPlatform {
    fn plan(&self, plan: Option<(Verb, Fault)>) {
        *self.plan.lock().unwrap() = plan;
        self.hits.store(0, Ordering::SeqCst);
    }

    async fn call<T, F: Future<Output = Result<T>>>(&self, verb: Verb, work: impl Fn() -> F) -> Result<T> {
        let planned = self.plan.lock().unwrap().filter(|(planned, _)| *planned == verb);
        let hit = if planned.is_some() {
            self.hits.fetch_add(1, Ordering::SeqCst)
        } else {
            0
        };
        let away = || {
            Error::new(
                ErrorKind::Unavailable,
                "platform_unavailable",
                "the platform does not answer",
            )
        };
        match planned.map(|(_, fault)| fault) {
            Some(Fault::Fatal) if hit == 0 => {
                Err(Error::new(ErrorKind::Config, "planned_fault", "it can't be done"))
            }
            Some(Fault::Transient) if hit < 2 => Err(away()),
            Some(Fault::Panic) if hit == 0 => panic!("a planned defect"),
            Some(Fault::AnswerLost) if hit == 0 => {
                work().await?;
                Err(away())
            }
            Some(Fault::Twice) if hit == 0 => {
                work().await?;
                work().await
            }
            _ => work().await,
        }
    }
}

#[async_trait]
impl Platform for FaultyPlatform {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn host(&self) -> Option<&str> {
        self.inner.host()
    }
    fn versions(&self) -> Vec<PostgresVersion> {
        self.inner.versions()
    }
    async fn ensure(&self, spec: &InstanceSpec, storage: Storage) -> Result<()> {
        self.call(Verb::Ensure, || self.inner.ensure(spec, storage)).await
    }
    async fn keep_data(&self, instance: &InstanceRef) -> Result<()> {
        self.inner.keep_data(instance).await
    }
    async fn observe(&self, instance: &InstanceRef) -> Result<Observation> {
        self.call(Verb::Observe, || self.inner.observe(instance)).await
    }
    async fn wait_ready(&self, instance: &InstanceRef, budget: Duration) -> Result<Observation> {
        self.call(Verb::WaitReady, || self.inner.wait_ready(instance, budget))
            .await
    }
    async fn logs(&self, instance: &InstanceRef, options: LogOptions) -> Result<Vec<String>> {
        self.inner.logs(instance, options).await
    }
    async fn follow_logs(
        &self,
        instance: &InstanceRef,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<String>>> {
        self.inner.follow_logs(instance, options).await
    }
    async fn remove(&self, instance: &InstanceRef) -> Result<()> {
        self.call(Verb::Remove, || self.inner.remove(instance)).await
    }
    async fn list(&self) -> Result<Vec<Listed>> {
        self.inner.list().await
    }
}

async fn start() -> (TestServer, Arc<FaultyPlatform>) {
    let home = Arc::new(TestHome::new());
    let config = LocalConfig::new(home.path().to_owned()).host("test-host".to_owned());
    let inner = LocalPlatform::open(config).await.unwrap();
    let platform = Arc::new(FaultyPlatform {
        inner,
        plan: Mutex::new(None),
        hits: AtomicU32::new(0),
    });
    // Checks are far apart, so that only the operation at hand meets the fault.
    let settings = vec![(
        "TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS".to_owned(),
        "3600".to_owned(),
    )];
    let options = TestServerOptions {
        home: Some(home),
        settings,
        platform: Some(platform.clone()),
        ..Default::default()
    };
    (TestServer::start_with(options).await, platform)
}

const FAULTS: [Fault; 5] = [
    Fault::Fatal,
    Fault::Transient,
    Fault::AnswerLost,
    Fault::Twice,
    Fault::Panic,
];

#[tokio::test(flavor = "multi_thread")]
async fn create_unwinds_from_every_step_and_its_steps_are_idempotent() {
    let (server, platform) = start().await;
    for verb in [Verb::Ensure, Verb::WaitReady, Verb::Observe] {
        for fault in FAULTS {
            platform.plan(Some((verb, fault)));
            let name = format!("{verb:?}-{fault:?}").to_lowercase();
            let accepted = server.create(&name, "unwind-secret").await;
            let operation = server.ended(&accepted).await;
            assert!(
                platform.hits.load(Ordering::SeqCst) > 0,
                "{name}: the fault was never met"
            );
            platform.plan(None);
            let expected = match fault {
                Fault::Fatal | Fault::Panic => OperationState::Failed,
                Fault::Transient | Fault::AnswerLost | Fault::Twice => OperationState::Succeeded,
            };
            assert_eq!(operation.state, expected, "{name}: {operation:?}");
            if expected == OperationState::Failed {
                assert!(operation.error.is_some(), "{name}: a failure names its cause");
                let (_, instance) = server.get(&format!("/api/instances/{name}")).await;
                assert_eq!(instance["state"], "failed", "{name}");
                assert_eq!(platform.list().await.unwrap(), [], "{name}: something was left");
            }
            let deletion = server.request_delete(&name).await;
            assert_eq!(
                server.ended(&deletion).await.state,
                OperationState::Succeeded,
                "{name}"
            );
            assert_eq!(platform.list().await.unwrap(), [], "{name}: something was left");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_is_done_whatever_fails_and_its_steps_are_idempotent() {
    let (server, platform) = start().await;
    for verb in [Verb::Remove, Verb::Observe] {
        for fault in FAULTS {
            let name = format!("{verb:?}-{fault:?}").to_lowercase();
            let accepted = server.create(&name, "unwind-secret").await;
            assert_eq!(
                server.ended(&accepted).await.state,
                OperationState::Succeeded,
                "{name}"
            );
            platform.plan(Some((verb, fault)));
            let deletion = server.request_delete(&name).await;
            let operation = server.ended(&deletion).await;
            assert!(
                platform.hits.load(Ordering::SeqCst) > 0,
                "{name}: the fault was never met"
            );
            platform.plan(None);
            assert_eq!(
                operation.state,
                OperationState::Succeeded,
                "{name}: {operation:?}"
            );
            assert_eq!(platform.list().await.unwrap(), [], "{name}: something was left");
        }
    }
    server.stop().await;
}
