//! Activities and orchestrations for tests.

use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Barrier;
use toygres_engine::{
    Activities, Activity, ActivityContext, Context, Failure, Orchestration, Orchestrations, RetryPolicy,
    Turn, Woken, call, call_with, run_child_checking,
};
use toygres_models::{Error, ErrorKind, Result};

/// What the activities work with.
pub(crate) struct World {
    /// The attempts of every run, in order.
    pub(crate) runs: Mutex<Vec<u32>>,
    /// For runs that must overlap.
    pub(crate) barrier: Barrier,
}

impl World {
    pub(crate) fn new(together: usize) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            runs: Mutex::default(),
            barrier: Barrier::new(together),
        })
    }

    pub(crate) fn runs(&self) -> Vec<u32> {
        self.runs.lock().unwrap().clone()
    }
}

/// What the one activity does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Nothing.
    Nothing,
    /// Takes so long, but ends at once when nobody waits any more.
    Take { ms: u64 },
    /// Waits for the others.
    Meet,
    /// Fails at every attempt up to this one, in a way that passes.
    FailUntil { attempt: u32 },
    /// Fails for good.
    Refuse,
    /// Fails by its set-up.
    Misconfigured,
    /// Panics.
    Panic,
    /// Answers so many bytes.
    Answer { bytes: usize },
    /// Takes so many bytes.
    Bytes { text: String },
}

pub(crate) struct Work;

impl Activity for Work {
    const NAME: &'static str = "work";
    const TIMEOUT: Duration = Duration::from_secs(8);
    type Deps = World;
    type Input = Task;
    type Output = String;

    async fn run(world: &World, cx: &ActivityContext, task: Task) -> Result<String> {
        world.runs.lock().unwrap().push(cx.attempt());
        match task {
            Task::Nothing | Task::Bytes { .. } => Ok("done".to_owned()),
            Task::Take { ms } => {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(ms)) => Ok("done".to_owned()),
                    () = cx.cancelled() => Err(Error::internal("cancelled")),
                }
            }
            Task::Meet => {
                world.barrier.wait().await;
                Ok("met".to_owned())
            }
            Task::FailUntil { attempt } if cx.attempt() < attempt => {
                Err(Error::new(ErrorKind::Unavailable, "away", "it is away").context("inward canary"))
            }
            Task::FailUntil { .. } => Ok("done".to_owned()),
            Task::Refuse => Err(Error::new(ErrorKind::Invalid, "refused", "it is not allowed")),
            Task::Misconfigured => Err(Error::new(ErrorKind::Config, "no_such_thing", "it is not set up")),
            Task::Panic => panic!("a defect"),
            Task::Answer { bytes } => Ok("x".repeat(bytes)),
        }
    }
}

/// An activity that takes too long.
pub(crate) struct Slow;

impl Activity for Slow {
    const NAME: &'static str = "slow";
    const TIMEOUT: Duration = Duration::from_millis(50);
    type Deps = World;
    type Input = ();
    type Output = ();

    async fn run(_: &World, _: &ActivityContext, (): ()) -> Result<()> {
        std::future::pending().await
    }
}

/// An activity that does not listen.
pub(crate) struct Deaf;

impl Activity for Deaf {
    const NAME: &'static str = "deaf";
    const TIMEOUT: Duration = Duration::from_secs(60);
    type Deps = World;
    type Input = ();
    type Output = ();

    async fn run(world: &World, cx: &ActivityContext, (): ()) -> Result<()> {
        world.runs.lock().unwrap().push(cx.attempt());
        std::future::pending().await
    }
}

/// An activity that no process knows.
pub(crate) struct Unknown;

impl Activity for Unknown {
    const NAME: &'static str = "unknown";
    type Deps = World;
    type Input = ();
    type Output = ();

    async fn run(_: &World, _: &ActivityContext, (): ()) -> Result<()> {
        Ok(())
    }
}

/// What the one orchestration does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Plan {
    /// These tasks, one after the other.
    Tasks(Vec<Task>),
    /// These tasks, at the same time.
    Together(Vec<Task>),
    /// One task, its failure as output.
    Failing(Task),
    /// The activity that takes too long.
    Slow,
    /// The same, which fails it.
    TooSlow,
    /// The activity that does not listen.
    Deaf,
    /// The activity that nobody knows.
    Unknown,
    /// A child of this id, asked for its status with this period.
    Child {
        id: String,
        period_ms: u64,
        plan: Box<Plan>,
    },
    /// A timer.
    Timer { ms: u64 },
    /// So many timers, one after the other.
    Timers { count: u32 },
    /// A timer when it is run first, and something else when it is run again.
    Fickle,
    /// Waits for a wake-up, takes them all, goes on as new so many times.
    Woken { times: u32 },
    /// So many executions that do nothing.
    Executions { left: u32 },
}

pub(crate) struct Planned;

fn quick() -> RetryPolicy {
    RetryPolicy::standard().with_pauses(Duration::from_millis(10), Duration::from_millis(10))
}

impl Orchestration for Planned {
    const NAME: &'static str = "planned";
    type Input = Plan;
    type Output = String;

    async fn run(cx: Context, plan: Plan) -> Result<Turn<String, Plan>, Failure> {
        let output = match plan {
            Plan::Tasks(tasks) => {
                let mut last = String::new();
                for task in tasks {
                    last = call_with::<Work>(&cx, quick(), task).await?;
                }
                last
            }
            Plan::Together(tasks) => {
                let calls = tasks.into_iter().map(|task| call::<Work>(&cx, task)).collect();
                let mut answers = cx.join(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
                answers.pop().unwrap_or_default()
            }
            Plan::Failing(task) => said(call_with::<Work>(&cx, quick(), task).await.unwrap_err()),
            Plan::Slow => said(call_with::<Slow>(&cx, RetryPolicy::once(), ()).await.unwrap_err()),
            Plan::TooSlow => {
                call_with::<Slow>(&cx, RetryPolicy::once(), ()).await?;
                String::new()
            }
            Plan::Deaf => {
                call::<Deaf>(&cx, ()).await?;
                String::new()
            }
            Plan::Unknown => said(call::<Unknown>(&cx, ()).await.unwrap_err()),
            Plan::Child { id, period_ms, plan } => {
                let period = Duration::from_millis(period_ms);
                match run_child_checking::<Self>(&cx, id, *plan, period).await {
                    Ok(output) => output,
                    Err(failure) => said(failure),
                }
            }
            Plan::Timer { ms } => {
                cx.timer(Duration::from_millis(ms)).await;
                "rung".to_owned()
            }
            Plan::Timers { count } => {
                for _ in 0..count {
                    cx.timer(Duration::ZERO).await;
                }
                "rung".to_owned()
            }
            Plan::Fickle => {
                static RUNS: AtomicU32 = AtomicU32::new(0);
                match RUNS.fetch_add(1, Ordering::SeqCst) {
                    0 => cx.timer(Duration::ZERO).await,
                    _ => drop(call::<Work>(&cx, Task::Nothing).await?),
                }
                String::new()
            }
            Plan::Woken { times } => {
                let woken = cx.wait_wake_or(Duration::from_secs(60)).await;
                assert_eq!(woken, Woken::ByMessage);
                cx.drain_wakes().await;
                call::<Work>(&cx, Task::Nothing).await?;
                if times > 1 {
                    return Ok(Turn::ContinueAsNew(Plan::Woken { times: times - 1 }));
                }
                "woken".to_owned()
            }
            Plan::Executions { left: 0 } => "over".to_owned(),
            Plan::Executions { left } => {
                return Ok(Turn::ContinueAsNew(Plan::Executions { left: left - 1 }));
            }
        };
        Ok(Turn::Done(output))
    }
}

fn said(failure: Failure) -> String {
    serde_json::to_string(&failure).unwrap()
}

pub(crate) fn activities(world: &std::sync::Arc<World>) -> Activities<World> {
    Activities::new("toygres-activities", std::sync::Arc::clone(world))
        .register::<Work>()
        .register::<Slow>()
        .register::<Deaf>()
}

pub(crate) fn orchestrations() -> Orchestrations {
    Orchestrations::new("toygres-orchestrations").register::<Planned>()
}
