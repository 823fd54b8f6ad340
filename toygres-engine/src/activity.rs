//! Activities: what orchestrations may do to the world.

use crate::category;
use crate::envelope::{self, Envelope};
use crate::failure::{Failure, FailureClass};
use crate::slots::Slots;
use duroxide::runtime::registry::{ActivityRegistry, ActivityRegistryBuilder};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use toygres_models::{Error, ErrorKind, Result, Scope};
use toygres_telemetry::Event;
use toygres_telemetry::events::{ActivityEnded, ActivityOutcome, FailedTry};
use toygres_telemetry::trace::TraceParent;
use tracing::Instrument;
use tracing::field::{Empty, display};

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

    /// Whom it is about, for the log.
    fn about(_input: &Self::Input) -> Option<&Scope> {
        None
    }

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
}

/// One try of an activity's work, which may be done any number of times. What it answers is JSON.
pub type Work = Arc<dyn Fn() -> BoxFuture<'static, Result<serde_json::Value>> + Send + Sync>;

/// Stands between the engine and what it runs, so that tests can have it fail, run twice, or be the last thing that the
/// process does.
pub trait Interceptor: Send + Sync + 'static {
    /// Answers in place of the work of the activity of this name, by doing it or not.
    fn intercept(
        &self,
        activity_name: &'static str,
        scope: Option<Scope>,
        work: Work,
    ) -> BoxFuture<'_, Result<serde_json::Value>>;

    /// Is called whenever the code of the orchestration of this id is run, for what happened last or again from the
    /// start. A panic is one of that code.
    fn turn(&self, _instance_id: &str) {}
}

/// The activities that a process can run, and what they work with.
pub struct Activities<D> {
    package: &'static str,
    deps: Arc<D>,
    names: Vec<String>,
    slots: Arc<Slots>,
    interceptor: Arc<OnceLock<Arc<dyn Interceptor>>>,
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
            slots: Arc::default(),
            interceptor: Arc::default(),
            registry: ActivityRegistry::builder(),
        }
    }

    /// Has `interceptor` stand before all of them. The first one stays.
    #[must_use]
    pub fn intercepted_by(self, interceptor: Arc<dyn Interceptor>) -> Self {
        self.interceptor.get_or_init(|| interceptor);
        self
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
        let slots = Arc::clone(&self.slots);
        let interceptor = Arc::clone(&self.interceptor);
        self.registry = self.registry.register(name.clone(), move |cx, input| {
            let deps = Arc::clone(&deps);
            let slots = Arc::clone(&slots);
            let interceptor = interceptor.get().cloned();
            async move {
                let slot = slots.begin();
                let result = run::<A>(deps, cx, &input, interceptor).await;
                slot.finish();
                result.map_err(|failure| failure.encode())
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

    /// The slots that they run in.
    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    pub(crate) fn build(self) -> ActivityRegistry {
        self.registry.build()
    }
}

/// A try that has begun. Of one that is dropped it is only told if nobody waited for it any more: what a shutdown
/// drops is done again by others.
struct Try<'a> {
    activity_name: &'static str,
    cx: &'a ActivityContext,
    more: bool,
    begun: Instant,
    told: bool,
}

impl Try<'_> {
    fn ended(mut self, failure: Option<&Failure>, detail: Option<&str>) {
        let failure = failure.filter(|_| !self.cx.is_cancelled());
        let outcome = match failure {
            None if self.cx.is_cancelled() => ActivityOutcome::Cancelled,
            None => ActivityOutcome::Success,
            Some(failure) if failure.retryable && self.more => ActivityOutcome::Retry,
            Some(failure) => match failure.class {
                FailureClass::App => ActivityOutcome::AppError,
                FailureClass::Infrastructure => ActivityOutcome::InfraError,
                FailureClass::Config => ActivityOutcome::ConfigError,
                FailureClass::Timeout => ActivityOutcome::Timeout,
            },
        };
        let error = failure.map(|failure| FailedTry {
            error_type: category::error_type(failure.class),
            code: &failure.code,
            message: &failure.message,
            detail,
            retryable: failure.retryable,
        });
        self.tell(outcome, error);
    }

    fn tell(&mut self, outcome: ActivityOutcome, error: Option<FailedTry<'_>>) {
        self.told = true;
        ActivityEnded {
            activity_name: self.activity_name,
            outcome,
            attempt: self.cx.attempt,
            duration: self.begun.elapsed(),
            error,
        }
        .emit();
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        if !self.told && self.cx.is_cancelled() {
            self.tell(ActivityOutcome::Cancelled, None);
        }
    }
}

/// One try: span, time-out, panics, errors, size of the output.
async fn run<A: Activity>(
    deps: Arc<A::Deps>,
    cx: duroxide::ActivityContext,
    input: &str,
    interceptor: Option<Arc<dyn Interceptor>>,
) -> Result<String, Failure> {
    let begun = Instant::now();
    let (traceparent, attempt, more, body) = match envelope::open::<A::Input>(input) {
        Ok(Envelope {
            traceparent,
            attempt,
            more,
            body,
            ..
        }) => (traceparent, attempt, more, Ok(body)),
        Err(failure) => (None, 1, false, Err(failure)),
    };
    let cx = Arc::new(ActivityContext {
        inner: cx,
        attempt,
        traceparent,
    });
    let begin = || {
        tracing::info_span!(
            "activity",
            otel.name = A::NAME,
            activity_name = A::NAME,
            orchestration_name = cx.orchestration_name(),
            orchestration_id = cx.instance_id(),
            execution_id = cx.execution_id(),
            attempt = cx.attempt,
            user_name = Empty,
            instance_id = Empty,
            instance_name = Empty,
            operation_id = Empty,
        )
    };
    let span = match cx.traceparent().and_then(TraceParent::parse) {
        Some(parent) => parent.scope(begin),
        None => begin(),
    };
    if let Some(scope) = body.as_ref().ok().and_then(A::about) {
        span.record("instance_id", display(scope.instance_id));
        if let Some(operation_id) = scope.operation_id {
            span.record("operation_id", display(operation_id));
        }
    }
    let work = async {
        let this_try = Try {
            activity_name: A::NAME,
            cx: &cx,
            more,
            begun,
            told: false,
        };
        let mut detail = None;
        let result = match body {
            Ok(body) => match intercepted::<A>(interceptor, deps, &cx, body).await {
                Ok(output) => envelope::encode(&output),
                Err(error) => {
                    // The only place that sees the inward side: what goes on from here is stored and logged by
                    // duroxide.
                    detail = Some(error.detail()).filter(|detail| !detail.is_empty());
                    Err(Failure::from(&error))
                }
            },
            Err(failure) => Err(failure),
        };
        this_try.ended(result.as_ref().err(), detail.as_deref());
        result
    };
    work.instrument(span).await
}

/// The work, or what an interceptor makes of it.
async fn intercepted<A: Activity>(
    interceptor: Option<Arc<dyn Interceptor>>,
    deps: Arc<A::Deps>,
    cx: &Arc<ActivityContext>,
    input: A::Input,
) -> Result<A::Output> {
    let Some(interceptor) = interceptor else {
        return work::<A>(&deps, cx, input).await;
    };
    let json = |what, cause: serde_json::Error| Error::internal(format!("{what} of {}: {cause}", A::NAME));
    let scope = A::about(&input).copied();
    let input = serde_json::to_value(&input).map_err(|cause| json("the input", cause))?;
    let cx = Arc::clone(cx);
    let work: Work = Arc::new(move || {
        let (deps, cx, input) = (Arc::clone(&deps), Arc::clone(&cx), input.clone());
        Box::pin(async move {
            let input = serde_json::from_value(input).map_err(|cause| json("the input", cause))?;
            let output = work::<A>(&deps, &cx, input).await?;
            serde_json::to_value(&output).map_err(|cause| json("the output", cause))
        })
    });
    let output = interceptor.intercept(A::NAME, scope, work).await?;
    serde_json::from_value(output).map_err(|cause| json("the output", cause))
}

/// The work itself. Panics and time-outs are errors like others.
async fn work<A: Activity>(deps: &A::Deps, cx: &ActivityContext, input: A::Input) -> Result<A::Output> {
    let work = AssertUnwindSafe(A::run(deps, cx, input)).catch_unwind();
    match tokio::time::timeout(A::TIMEOUT, work).await {
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
    }
}
