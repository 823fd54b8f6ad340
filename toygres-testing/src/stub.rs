//! A platform without processes.

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use toygres_models::instances::Endpoint;
use toygres_models::operations::Reason;
use toygres_models::{Error, ErrorKind, InstanceId, PostgresVersion, Result};
use toygres_platform::{
    InstanceRef, InstanceSpec, Listed, LogOptions, Observation, Platform, Serving, Storage,
};

/// What it says of instances that are being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mood {
    #[default]
    Ready,
    Refuses,
    Waits,
}

#[derive(Default)]
struct State {
    instances: HashMap<InstanceId, InstanceRef>,
    differing: HashMap<InstanceId, String>,
    external: Option<Endpoint>,
    mood: Mood,
}

/// A platform on which everything is ready at once: the actors and the database do the work. Every instance is the
/// same PostgreSQL server, which must let everybody in.
pub struct StubPlatform {
    port: u16,
    certificate_authority: Option<String>,
    state: Mutex<State>,
}

impl StubPlatform {
    /// With the server of this URL behind every instance.
    #[must_use]
    pub fn new(server_url: &str) -> Arc<Self> {
        Self::build(server_url, None)
    }

    /// The same with a server that does TLS, by a certificate for `127.0.0.1` that this authority has signed.
    #[must_use]
    pub fn with_tls(server_url: &str, certificate_authority: String) -> Arc<Self> {
        Self::build(server_url, Some(certificate_authority))
    }

    fn build(server_url: &str, certificate_authority: Option<String>) -> Arc<Self> {
        let authority = server_url.split('/').nth(2).unwrap();
        Arc::new(Self {
            port: authority.rsplit(':').next().unwrap().parse().unwrap(),
            certificate_authority,
            state: Mutex::default(),
        })
    }

    /// From now on nothing can be made: every attempt ends with an error that no retry helps against.
    pub fn refuse(&self) {
        self.state.lock().unwrap().mood = Mood::Refuses;
    }

    /// From now on nothing becomes ready.
    pub fn hold(&self) {
        self.state.lock().unwrap().mood = Mood::Waits;
    }

    /// From now on all is well again.
    pub fn release(&self) {
        self.state.lock().unwrap().mood = Mood::Ready;
    }

    /// From now on this is different with every instance there is, each until it is made right.
    pub fn differ(&self, difference: &str) {
        let state = &mut *self.state.lock().unwrap();
        let ids = state.instances.keys();
        state.differing = ids.map(|id| (*id, difference.to_owned())).collect();
    }

    /// Whether something is different still.
    #[must_use]
    pub fn differs(&self) -> bool {
        !self.state.lock().unwrap().differing.is_empty()
    }

    /// From now on this is the address of every instance for clients outside.
    pub fn expose(&self, external: Option<Endpoint>) {
        self.state.lock().unwrap().external = external;
    }

    /// Has something there that no row knows.
    pub fn put(&self, instance: InstanceRef) {
        self.state.lock().unwrap().instances.insert(instance.id, instance);
    }
}

#[async_trait]
impl Platform for StubPlatform {
    fn name(&self) -> &'static str {
        "stub"
    }
    fn host(&self) -> Option<&str> {
        None
    }
    fn versions(&self) -> Vec<PostgresVersion> {
        vec!["17".parse().unwrap()]
    }
    fn certificate_authority(&self) -> Option<&str> {
        self.certificate_authority.as_deref()
    }
    fn check_namespace(&self, namespace: Option<&str>) -> Result<()> {
        match namespace {
            Some("forbidden") => Err(Error::invalid_field("namespace", "is not one for instances")),
            _ => Ok(()),
        }
    }
    async fn keep_data(&self, _: &InstanceRef) -> Result<()> {
        Ok(())
    }
    async fn differences(&self, spec: &InstanceSpec, _storage: Storage) -> Result<Option<Vec<String>>> {
        let state = self.state.lock().unwrap();
        let differing = state.differing.get(&spec.id);
        Ok(differing.map(|difference| vec![difference.clone()]))
    }
    async fn ensure(&self, spec: &InstanceSpec, _: Storage) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.mood == Mood::Refuses {
            return Err(Error::new(
                ErrorKind::Config,
                "stub_refuses",
                "the platform can't make it",
            ));
        }
        state.instances.insert(spec.id, spec.reference());
        state.differing.remove(&spec.id);
        Ok(())
    }
    async fn observe(&self, instance: &InstanceRef) -> Result<Observation> {
        let state = self.state.lock().unwrap();
        if !state.instances.contains_key(&instance.id) {
            return Ok(Observation::Absent);
        }
        if state.mood == Mood::Waits {
            return Ok(Observation::NotReady {
                reason: Reason::Starting,
                message: "it is held back".to_owned(),
            });
        }
        let endpoint = Endpoint {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        };
        Ok(Observation::Ready(Serving {
            endpoint,
            external_endpoint: state.external.clone(),
            system_identifier: None,
            doubt: None,
        }))
    }
    async fn wait_ready(&self, instance: &InstanceRef, budget: Duration) -> Result<Observation> {
        let begun = std::time::Instant::now();
        loop {
            let observation = self.observe(instance).await?;
            if !matches!(observation, Observation::NotReady { .. }) || begun.elapsed() >= budget {
                return Ok(observation);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    async fn logs(&self, _: &InstanceRef, _: LogOptions) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    async fn follow_logs(
        &self,
        _: &InstanceRef,
        _: LogOptions,
    ) -> Result<BoxStream<'static, Result<String>>> {
        Ok(futures_util::stream::empty().boxed())
    }
    async fn remove(&self, instance: &InstanceRef) -> Result<()> {
        self.state.lock().unwrap().instances.remove(&instance.id);
        Ok(())
    }
    async fn list(&self) -> Result<Vec<Listed>> {
        let state = self.state.lock().unwrap();
        let listed = |instance: &InstanceRef| Listed {
            instance: instance.clone(),
            running: true,
            holds_data: false,
        };
        Ok(state.instances.values().map(listed).collect())
    }
}
