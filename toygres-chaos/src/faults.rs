//! Faults at the activities and in the code of orchestrations.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use toygres_engine::{Interceptor, Work};
use toygres_models::{Error, ErrorKind, Result, Scope};

/// Holds the faults, in the directory of a server's faults.
const PLAN: &str = "faults.json";
/// Bears a line for each time that one was met: its place among them.
const HITS: &str = "hits";
/// Bears the name of each activity that was run.
const RUN: &str = "run";
/// Bears a line for each time that the code of an orchestration was run.
const TURNS: &str = "turns";
/// Bears the id of the orchestration whose code panics when it is run the next time.
const PANIC: &str = "panic";

/// What is to go wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The activity.
    pub activity: String,
    /// Only where it is a step of an operation, or only where it is not.
    pub of_operation: bool,
    /// When.
    pub moment: Moment,
    /// What.
    pub effect: Effect,
    /// How often.
    pub times: u32,
}

impl Fault {
    /// Before an activity that is a step of an operation.
    #[must_use]
    pub fn before_step(activity: &str, effect: Effect, times: u32) -> Self {
        Self {
            activity: activity.to_owned(),
            of_operation: true,
            moment: Moment::Before,
            effect,
            times,
        }
    }
}

/// Before or after the work of the activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// Nothing is done yet.
    Before,
    /// It is done, and nobody knows.
    After,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// The process is gone, as by SIGKILL.
    Crash,
    /// An error that no retry helps against.
    Fatal,
    /// An error that can pass.
    Unavailable,
    /// The time is up.
    Timeout,
    /// The work is done once more.
    Again,
    /// A defect.
    Panic,
}

/// A call of an activity that took place.
#[derive(Clone)]
pub struct Call {
    /// The activity.
    pub activity: &'static str,
    /// Whom it was about.
    pub scope: Option<Scope>,
    /// Does its work again.
    pub work: Work,
    /// What it answered.
    pub answer: Result<Value, String>,
}

/// Stands before every activity. What goes wrong stands in a directory, where other processes can change it.
pub struct Faults {
    directory: PathBuf,
    /// None: they are not kept.
    calls: Mutex<Option<Vec<Call>>>,
}

impl Faults {
    /// The faults of this directory, which is there.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            calls: Mutex::default(),
        }
    }

    /// The same, with all calls kept: they need memory.
    #[must_use]
    pub fn keeping_calls(directory: &Path) -> Self {
        Self {
            calls: Mutex::new(Some(Vec::new())),
            ..Self::new(directory)
        }
    }

    /// From now on this goes wrong; `None`: nothing. Forgets how often the last one was met.
    pub fn plan(directory: &Path, fault: Option<&Fault>) {
        Self::plan_all(directory, fault.map(std::slice::from_ref).unwrap_or_default());
    }

    /// From now on each of these goes wrong. Forgets how often others were met.
    pub fn plan_all(directory: &Path, faults: &[Fault]) {
        let written = directory.join("faults.new");
        std::fs::write(&written, serde_json::to_vec(faults).unwrap()).unwrap();
        std::fs::remove_file(directory.join(PLAN)).ok();
        std::fs::remove_file(directory.join(HITS)).ok();
        std::fs::rename(written, directory.join(PLAN)).unwrap();
    }

    /// How often a fault was met.
    #[must_use]
    pub fn hits(directory: &Path) -> usize {
        hits(directory).len()
    }

    /// The code of the orchestration of this id panics when it is run the next time.
    pub fn plan_panic(directory: &Path, id: &str) {
        let written = directory.join("panic.new");
        std::fs::write(&written, id).unwrap();
        std::fs::rename(written, directory.join(PANIC)).unwrap();
    }

    /// Whether it has panicked.
    #[must_use]
    pub fn has_panicked(directory: &Path) -> bool {
        !directory.join(PANIC).exists()
    }

    /// How often the code of an orchestration was run.
    #[must_use]
    pub fn turns(directory: &Path) -> usize {
        lines(&directory.join(TURNS)).len()
    }

    /// The names of the activities that were run, one for each time.
    #[must_use]
    pub fn activities(directory: &Path) -> Vec<String> {
        lines(&directory.join(RUN))
    }

    /// The calls that took place, if they are kept.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.clone().unwrap_or_default()
    }

    fn keep(&self, activity: &'static str, scope: Option<Scope>, work: &Work, answer: &Result<Value>) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(calls) = calls.as_mut() {
            calls.push(Call {
                activity,
                scope,
                work: work.clone(),
                answer: match answer {
                    Ok(value) => Ok(value.clone()),
                    Err(error) => Err(error.code().to_owned()),
                },
            });
        }
    }

    /// The planned effect, if this is its place, and the times are not used up.
    fn met(&self, activity: &str, scope: Option<Scope>, moment: Moment) -> Option<Effect> {
        let plan = std::fs::read(self.directory.join(PLAN)).ok()?;
        let faults: Vec<Fault> = serde_json::from_slice(&plan).unwrap();
        let of_operation = scope.is_some_and(|scope| scope.operation_id.is_some());
        // Several can come here at once; one after the other they look whether there are times left.
        let _guard = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let hits = hits(&self.directory);
        let (place, fault) = faults.iter().enumerate().find(|(place, fault)| {
            let here = (fault.activity.as_str(), fault.of_operation, fault.moment)
                == (activity, of_operation, moment);
            here && hits.iter().filter(|hit| *hit == place).count() < fault.times as usize
        })?;
        append(&self.directory.join(HITS), &place.to_string());
        Some(fault.effect)
    }
}

fn hits(directory: &Path) -> Vec<usize> {
    let hits = lines(&directory.join(HITS));
    hits.iter().map(|hit| hit.parse().unwrap()).collect()
}

/// Those of a file that is there once something was appended to it.
fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// One write a line: others append too.
pub(crate) fn append(path: &Path, line: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn error(effect: Effect) -> Error {
    let (kind, code) = match effect {
        Effect::Unavailable => (ErrorKind::Unavailable, "planned_outage"),
        Effect::Timeout => (ErrorKind::Timeout, "planned_timeout"),
        _ => (ErrorKind::Config, "planned_fault"),
    };
    Error::new(kind, code, "this was to go wrong")
}

async fn strike(effect: Effect, work: &Work) -> Result<()> {
    match effect {
        Effect::Crash => {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            std::future::pending().await
        }
        Effect::Again => work().await.map(drop),
        Effect::Panic => panic!("a planned defect"),
        Effect::Fatal | Effect::Unavailable | Effect::Timeout => Err(error(effect)),
    }
}

impl Interceptor for Faults {
    fn intercept(
        &self,
        activity: &'static str,
        scope: Option<Scope>,
        work: Work,
    ) -> BoxFuture<'_, Result<Value>> {
        Box::pin(async move {
            if let Some(effect) = self.met(activity, scope, Moment::Before) {
                strike(effect, &work).await?;
            }
            let answer = work().await;
            append(&self.directory.join(RUN), activity);
            self.keep(activity, scope, &work, &answer);
            if let Some(effect) = self.met(activity, scope, Moment::After) {
                strike(effect, &work).await?;
            }
            answer
        })
    }

    fn turn(&self, id: &str) {
        append(&self.directory.join(TURNS), id);
        let file = self.directory.join(PANIC);
        // Once: who takes the file away panics.
        let planned = std::fs::read_to_string(&file).is_ok_and(|planned| planned == id);
        if planned && std::fs::remove_file(&file).is_ok() {
            panic!("a planned defect");
        }
    }
}
