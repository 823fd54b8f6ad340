//! The steps of orchestrations and the ways between them: what their code goes by, and what their pictures are drawn
//! from.

use std::fmt::{self, Debug, Display, Write};
use toygres_engine::{Activity, Context, Failure, Orchestration, RetryPolicy, call_with, run_child};
use toygres_models::ErrorKind;
use toygres_models::orchestrations::Flow;

/// An orchestration that goes by steps.
pub(crate) trait Stepwise: Orchestration {
    /// Its steps.
    type Step: Step;
    /// What it is for.
    const SUMMARY: &'static str;
}

/// The steps of an orchestration.
pub(crate) trait Step: Copy + Debug + 'static {
    /// What a step can come to. Its words stand on the way that it leads.
    type Came: Copy + Display + 'static;
    /// Every step, the first one first.
    const STEPS: &'static [Self];
    /// Everything that steps can come to.
    const CAME: &'static [Self::Came];
    /// How a failure that no way leads on from ends the orchestration: the first that holds.
    const FAILURES: &'static [OnFailure] = &[OnFailure {
        words: "it fails for good",
        holds: |_| true,
        end: End::Failed,
    }];

    /// What is done in it.
    fn does(self) -> Does;

    /// Where it leads. `None`: this step does not come to that.
    fn next(self, came: Self::Came) -> Option<To<Self>>;
}

/// What is done in a step.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    /// Calls these activities, one after the other.
    Calls(&'static [&'static str]),
    /// Runs this orchestration.
    Runs(&'static str),
    /// Waits for this.
    Waits(&'static str),
    /// Answers this question from what is known.
    Decides(&'static str),
}

/// Where a way leads.
pub(crate) enum To<S> {
    Step(S),
    End(End),
}

/// How an execution ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Completed,
    Failed,
    ContinuedAsNew,
}

/// How some failures end an orchestration.
pub(crate) struct OnFailure {
    pub(crate) words: &'static str,
    pub(crate) holds: fn(&Failure) -> bool,
    pub(crate) end: End,
}

/// Where this leads, in code that knows that the step can come to it.
pub(crate) fn onward<S: Step>(step: S, came: S::Came) -> Result<To<S>, Failure> {
    step.next(came).ok_or_else(out_of_order)
}

/// How this failure ends the orchestration.
pub(crate) fn end_of<S: Step>(failure: &Failure) -> End {
    let first = S::FAILURES.iter().find(|on| (on.holds)(failure));
    first.map_or(End::Failed, |on| on.end)
}

/// A defect: the code and its list of steps do not fit.
pub(crate) fn out_of_order() -> Failure {
    let message = "the steps of the work do not follow each other as they should";
    Failure::new(ErrorKind::Internal, "step_out_of_order", message)
}

/// Calls an activity of this step.
pub(crate) async fn call<A: Activity>(
    step: impl Step,
    cx: &Context,
    policy: RetryPolicy,
    input: A::Input,
) -> Result<A::Output, Failure> {
    debug_assert!(
        matches!(step.does(), Does::Calls(names) if names.contains(&A::NAME)),
        "{step:?} does not say that it calls {}",
        A::NAME
    );
    call_with::<A>(cx, policy, input).await
}

/// Runs the orchestration of this step.
pub(crate) async fn child<O: Orchestration>(
    step: impl Step,
    cx: &Context,
    id: String,
    input: O::Input,
) -> Result<O::Output, Failure> {
    debug_assert!(
        matches!(step.does(), Does::Runs(name) if name == O::NAME),
        "{step:?} does not say that it runs {}",
        O::NAME
    );
    run_child::<O>(cx, id, input).await
}

/// How an orchestration goes.
pub(crate) fn flow<O: Stepwise>() -> Flow {
    let mut mermaid = String::new();
    // Writing to a string can't fail.
    let _ = draw::<O::Step>(&mut mermaid, O::NAME);
    Flow {
        name: O::NAME.to_owned(),
        version: O::VERSION.to_owned(),
        summary: O::SUMMARY.to_owned(),
        mermaid,
    }
}

fn draw<S: Step>(out: &mut String, name: &str) -> fmt::Result {
    writeln!(out, "flowchart TD")?;
    writeln!(out, "    Start([\"{name}\"])")?;
    for step in S::STEPS {
        match step.does() {
            Does::Calls(names) => writeln!(out, "    {step:?}[\"{}\"]", names.join(", then ")),
            Does::Runs(name) => writeln!(out, "    {step:?}[[\"{name}\"]]"),
            Does::Waits(what) => writeln!(out, "    {step:?}[/\"{what}\"/]"),
            Does::Decides(what) => writeln!(out, "    {step:?}{{\"{what}\"}}"),
        }?;
    }
    writeln!(out, "    Any>\"any step\"]")?;
    let mut ends = Vec::new();
    let mut ways = String::new();
    let mut way = |from: &dyn Debug, words: &str, to: To<S>| {
        let words = if words.is_empty() {
            String::new()
        } else {
            format!("|\"{words}\"|")
        };
        match to {
            To::Step(step) => writeln!(ways, "    {from:?} -->{words} {step:?}"),
            To::End(end) => {
                if !ends.contains(&end) {
                    ends.push(end);
                }
                writeln!(ways, "    {from:?} -->{words} {end:?}")
            }
        }
    };
    for step in S::STEPS {
        for came in S::CAME {
            if let Some(to) = step.next(*came) {
                way(step, &came.to_string(), to)?;
            }
        }
    }
    for failure in S::FAILURES {
        way(&format_args!("Any"), failure.words, To::End(failure.end))?;
    }
    for end in ends {
        let words = match end {
            End::Completed => "completed",
            End::Failed => "failed",
            End::ContinuedAsNew => "continued as new",
        };
        writeln!(out, "    {end:?}([\"{words}\"])")?;
    }
    if let Some(first) = S::STEPS.first() {
        writeln!(out, "    Start --> {first:?}")?;
    }
    out.push_str(&ways);
    Ok(())
}
