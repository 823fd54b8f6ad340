//! Orchestrations: durable workflows that decide and never do I/O.

use crate::activity::{Interceptor, short_name};
use crate::envelope::{self, Envelope};
use crate::failure::Failure;
use crate::place;
use duroxide::runtime::{OrchestrationRegistry, OrchestrationRegistryBuilder};
use duroxide::{Either2, OrchestrationContext};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The queue that wake-ups arrive in.
pub(crate) const WAKE_QUEUE: &str = "wake";
/// The most wake-ups taken at once. duroxide ends an orchestration that asks more than 100 times in a turn.
const MOST_WAKES: usize = 50;

/// A durable workflow. Its code is run again from the start whenever something happened, and must then do the same:
/// no clock, no randomness, no spawning, no I/O, nothing but its [`Context`].
pub trait Orchestration: Send + Sync + 'static {
    /// The crate it belongs to, the first part of its name in the engine.
    const CRATE: &'static str = "toygres-orchestrations";
    /// Its name in kebab case (`create-instance`). Running work depends on it.
    const NAME: &'static str;
    /// The version of its behaviour. Other behaviour is another version beside this one, while anything runs on it.
    const VERSION: &'static str = "1.0.0";
    /// Whether it goes on for long, by continuing as new. Then each execution is a trace of its own.
    const LONG_RUNNING: bool = false;
    /// What it is given.
    type Input: Serialize + DeserializeOwned + Send + 'static;
    /// What it answers.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Runs it.
    fn run(
        cx: Context,
        input: Self::Input,
    ) -> impl Future<Output = Result<Turn<Self::Output, Self::Input>, Failure>> + Send;
}

/// The name an orchestration has in the engine: `toygres-orchestrations::orchestration::create-instance`.
pub(crate) fn engine_name<O: Orchestration>() -> String {
    format!("{}::orchestration::{}", O::CRATE, O::NAME)
}

/// The input of an orchestration, as it travels.
pub(crate) fn seal_input<O: Orchestration>(
    traceparent: Option<&str>,
    restarted: bool,
    input: &O::Input,
) -> Result<String, Failure> {
    envelope::encode(&Envelope {
        restarted,
        long_running: O::LONG_RUNNING,
        ..Envelope::new(traceparent, input)
    })
}

/// How an execution ends when it does not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn<Output, Input> {
    /// The orchestration is done.
    Done(Output),
    /// It goes on with an empty history, at the newest version, under the same id.
    ContinueAsNew(Input),
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Somebody called [`EngineClient::wake`](crate::EngineClient::wake).
    ByMessage,
    /// The time was over.
    ByTimer,
}

/// An orchestration's only way to the world.
#[derive(Clone)]
pub struct Context {
    pub(crate) inner: OrchestrationContext,
    /// Where this execution stands in its trace; what it calls belongs there.
    pub(crate) traceparent: Option<Arc<str>>,
}

impl Context {
    /// The orchestration's id.
    #[must_use]
    pub fn instance_id(&self) -> String {
        self.inner.instance_id()
    }

    /// Which execution this is: 1, and one more with each [`Turn::ContinueAsNew`].
    #[must_use]
    pub fn execution_id(&self) -> u64 {
        self.inner.execution_id()
    }

    /// The orchestration's name in kebab case.
    #[must_use]
    pub fn name(&self) -> String {
        short_name(&self.inner.orchestration_name()).to_owned()
    }

    /// Waits. Durable: the time goes on while nothing of toygres runs.
    pub async fn timer(&self, duration: Duration) {
        self.inner.schedule_timer(duration).await;
    }

    /// Waits for a wake-up, for so long at most. A wake-up that came earlier and was not taken counts.
    pub async fn wait_wake_or(&self, limit: Duration) -> Woken {
        let wake = self.inner.dequeue_event(WAKE_QUEUE);
        match self.inner.select2(wake, self.inner.schedule_timer(limit)).await {
            Either2::First(_) => Woken::ByMessage,
            Either2::Second(()) => Woken::ByTimer,
        }
    }

    /// Takes the wake-ups that are already there, so that ten of them cause one round of work. Costs a turn.
    pub async fn drain_wakes(&self) {
        let mut now = self.inner.schedule_timer(Duration::ZERO);
        for _ in 0..MOST_WAKES {
            let wake = self.inner.dequeue_event(WAKE_QUEUE);
            if let Either2::Second(()) = self.inner.select2(wake, &mut now).await {
                return;
            }
        }
    }

    /// Runs two calls that do not depend on each other at the same time, and waits for both.
    pub async fn join2<A: Future, B: Future>(&self, a: A, b: B) -> (A::Output, B::Output) {
        self.inner.join2(a, b).await
    }

    /// Runs calls that do not depend on each other at the same time, and waits for all of them.
    pub async fn join<F: Future>(&self, calls: Vec<F>) -> Vec<F::Output> {
        self.inner.join(calls).await
    }

    /// The same, for calls that belong to another trace than the rest: that of a request that is worked on.
    #[must_use]
    pub fn joining(&self, traceparent: Option<&str>) -> Self {
        Self {
            inner: self.inner.clone(),
            traceparent: traceparent.map(Into::into).or_else(|| self.traceparent.clone()),
        }
    }

    /// Logs a line, once, also when the code is run again.
    pub fn info(&self, message: impl Into<String>) {
        self.inner.trace_info(message);
    }

    /// Logs a warning, once, also when the code is run again.
    pub fn warn(&self, message: impl Into<String>) {
        self.inner.trace_warn(message);
    }

    pub(crate) fn seal<T: Serialize>(&self, body: &T) -> Result<String, Failure> {
        envelope::encode(&Envelope::new(self.traceparent.as_deref(), body))
    }
}

/// The orchestrations that a process can run.
pub struct Orchestrations {
    package: &'static str,
    names: Vec<String>,
    interceptor: Arc<OnceLock<Arc<dyn Interceptor>>>,
    registry: OrchestrationRegistryBuilder,
}

impl Orchestrations {
    /// An empty list for the orchestrations of the crate `package`.
    #[must_use]
    pub fn new(package: &'static str) -> Self {
        Self {
            package,
            names: Vec::new(),
            interceptor: Arc::default(),
            registry: OrchestrationRegistry::builder(),
        }
    }

    /// Has `interceptor` told of the turns of all of them. The first one stays.
    #[must_use]
    pub fn intercepted_by(self, interceptor: Arc<dyn Interceptor>) -> Self {
        self.interceptor.get_or_init(|| interceptor);
        self
    }

    /// Adds an orchestration. Versions of one name are added in rising order; new starts take the highest.
    ///
    /// # Panics
    /// When it is there already, is out of order, or says that it belongs to another crate: defects seen at the first
    /// start.
    #[must_use]
    pub fn register<O: Orchestration>(mut self) -> Self {
        assert_eq!(
            O::CRATE,
            self.package,
            "orchestration {} belongs to another crate",
            O::NAME
        );
        let name = engine_name::<O>();
        let versioned = format!("{name}@{}", O::VERSION);
        assert!(
            !self.names.contains(&versioned),
            "orchestration {versioned} is registered twice"
        );
        self.names.push(versioned);
        let interceptor = Arc::clone(&self.interceptor);
        self.registry = self
            .registry
            .register_versioned(name, O::VERSION, move |cx, input| {
                let interceptor = interceptor.get().cloned();
                async move {
                    if let Some(interceptor) = interceptor {
                        interceptor.turn(&cx.instance_id());
                    }
                    run::<O>(cx, &input).await.map_err(|failure| failure.encode())
                }
            });
        self
    }

    /// The names in the engine with their versions (`crate::orchestration::name@1.0.0`), in the order of
    /// registration.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn build(self) -> OrchestrationRegistry {
        self.registry.build()
    }
}

async fn run<O: Orchestration>(cx: OrchestrationContext, input: &str) -> Result<String, Failure> {
    let Envelope {
        traceparent: begun_by,
        long_running,
        body,
        ..
    } = envelope::open::<O::Input>(input)?;
    let place = place::of_execution(
        &cx.instance_id(),
        cx.execution_id(),
        begun_by.as_deref(),
        long_running,
    );
    let cx = Context {
        inner: cx,
        traceparent: place.map(|place| place.header().into()),
    };
    match O::run(cx.clone(), body).await? {
        Turn::Done(output) => envelope::encode(&output),
        Turn::ContinueAsNew(input) => {
            let input = seal_input::<O>(begun_by.as_deref(), false, &input)?;
            // Never resolves: duroxide ends the execution here.
            cx.inner
                .continue_as_new(input)
                .await
                .map_err(|error| Failure::decode(&error))
        }
    }
}
