//! Activities: what orchestrations may do to the world.

use crate::envelope;
use crate::failure::Failure;
use duroxide::runtime::registry::{ActivityRegistry, ActivityRegistryBuilder};
use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use toygres_models::{Error, ErrorKind, Result};
use toygres_telemetry::trace::{TraceParent, set_parent};
use tracing::Instrument;

/// A short, idempotent piece of work. It runs at least once: it may run twice, also at the same time, and its answer
/// may be lost after its work was done.
pub trait Activity: Send + Sync + 'static {
    /// The crate it belongs to, the first part of its name in the engine.
    const CRATE: &'static str = "toygres-activities";
    /// Its name in kebab case (`deploy-postgres`). Running work depends on it.
    const NAME: &'static str;
    /// How long one try may take. Above 20 s a worker slot is held for too long.
    const TIMEOUT: Duration = Duration::from_secs(20);
    /// What it works with.
    type Deps: Send + Sync + 'static;
    /// What it is given.
    type Input: Serialize + DeserializeOwned + Send + 'static;
    /// What it answers.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Does it.
    fn run(
        deps: &Self::Deps,
        cx: &ActivityContext,
        input: Self::Input,
    ) -> impl Future<Output = Result<Self::Output>> + Send;
}

/// The name an activity has in the engine: `toygres-activities::activity::deploy-postgres`.
pub(crate) fn engine_name<A: Activity>() -> String {
    format!("{}::activity::{}", A::CRATE, A::NAME)
}

/// The last part of a name in the engine, for people.
pub(crate) fn short_name(engine_name: &str) -> &str {
    engine_name.rsplit("::").next().unwrap_or(engine_name)
}

/// Who called an activity.
pub struct ActivityContext {
    inner: duroxide::ActivityContext,
    attempt: u32,
    traceparent: Option<String>,
}

impl ActivityContext {
    /// The id of the orchestration that called.
    #[must_use]
    pub fn instance_id(&self) -> &str {
        self.inner.instance_id()
    }

    /// Which execution of that orchestration, from 1.
    #[must_use]
    pub fn execution_id(&self) -> u64 {
        self.inner.execution_id()
    }

    /// The orchestration's name in kebab case.
    #[must_use]
    pub fn orchestration_name(&self) -> &str {
        short_name(self.inner.orchestration_name())
    }

    /// Which try of the same call this is, from 1. The same try may still run more than once.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The trace this belongs to, as W3C `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// Ends when nobody waits for the result any more.
    pub async fn cancelled(&self) {
        self.inner.cancelled().await;
    }

    /// Whether nobody waits for the result any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.is_cancelled()
    }

    pub(crate) fn client(&self) -> duroxide::Client {
        self.inner.get_client()
    }
}

/// The activities that a process can run, and what they work with.
pub struct Activities<D> {
    package: &'static str,
    deps: Arc<D>,
    names: Vec<String>,
    running: Arc<AtomicUsize>,
    registry: ActivityRegistryBuilder,
}

impl<D: Send + Sync + 'static> Activities<D> {
    /// An empty list for the activities of the crate `package`.
    #[must_use]
    pub fn new(package: &'static str, deps: Arc<D>) -> Self {
        Self {
            package,
            deps,
            names: Vec::new(),
            running: Arc::default(),
            registry: ActivityRegistry::builder(),
        }
    }

    /// Adds an activity.
    ///
    /// # Panics
    /// When it is there already, or says that it belongs to another crate: defects seen at the first start.
    #[must_use]
    pub fn register<A: Activity<Deps = D>>(self) -> Self {
        assert_eq!(
            A::CRATE,
            self.package,
            "activity {} belongs to another crate",
            A::NAME
        );
        let deps = Arc::clone(&self.deps);
        self.register_with::<A>(deps)
    }

    pub(crate) fn register_with<A: Activity>(mut self, deps: Arc<A::Deps>) -> Self {
        let name = engine_name::<A>();
        assert!(!self.names.contains(&name), "activity {name} is registered twice");
        let running = Arc::clone(&self.running);
        self.registry = self.registry.register(name.clone(), move |cx, input| {
            let deps = Arc::clone(&deps);
            let running = Arc::clone(&running);
            async move {
                let _counted = Counted::new(&running);
                run::<A>(&deps, cx, &input)
                    .await
                    .map_err(|failure| failure.encode())
            }
        });
        self.names.push(name);
        self
    }

    /// The names in the engine, in the order of registration.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many of them run at this moment.
    pub(crate) fn running(&self) -> &Arc<AtomicUsize> {
        &self.running
    }

    pub(crate) fn build(self) -> ActivityRegistry {
        self.registry.build()
    }
}

/// One that runs, whatever way it ends: also dropped by a shutdown.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(running: &'a AtomicUsize) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Self(running)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One try: span, time-out, panics, errors, size of the output.
async fn run<A: Activity>(
    deps: &A::Deps,
    cx: duroxide::ActivityContext,
    input: &str,
) -> Result<String, Failure> {
    let envelope = envelope::open::<A::Input>(input)?;
    let cx = ActivityContext {
        inner: cx,
        attempt: envelope.attempt,
        traceparent: envelope.traceparent,
    };
    let span = tracing::info_span!(
        "activity",
        otel.name = A::NAME,
        activity_name = A::NAME,
        orchestration_name = cx.orchestration_name(),
        orchestration_id = cx.instance_id(),
        execution_id = cx.execution_id(),
        attempt = cx.attempt,
    );
    if let Some(parent) = cx.traceparent().and_then(TraceParent::parse) {
        set_parent(&span, &parent);
    }
    let work = async {
        let work = AssertUnwindSafe(A::run(deps, &cx, envelope.body)).catch_unwind();
        let result = match tokio::time::timeout(A::TIMEOUT, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::new(
                ErrorKind::Internal,
                "activity_panicked",
                "the step ended by a defect",
            )),
            Err(_) => {
                let message = format!("the step took longer than {} s", A::TIMEOUT.as_secs_f32());
                Err(Error::new(ErrorKind::Timeout, "activity_timeout", message))
            }
        };
        let result = match result {
            Ok(output) => envelope::encode(&output),
            Err(error) => {
                // The only place that sees the inward side: what goes on from here is stored and logged by duroxide.
                tracing::warn!(
                    code = error.code(),
                    detail = error.detail(),
                    "activity failed: {error}"
                );
                Err(Failure::from(&error))
            }
        };
        if let Err(failure) = &result
            && failure.code == "payload_too_large"
        {
            tracing::error!("the activity's output is too large: {failure}");
        }
        result
    };
    work.instrument(span).await
}
