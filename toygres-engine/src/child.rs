//! Orchestrations that run other orchestrations.
//!
//! duroxide can end a child without telling its parent, and it cancels a child whose future is dropped while the
//! child's activity goes on. So a child is never awaited alone and never dropped before it has ended: now and then its
//! parent asks how it is.

use crate::activity::{Activity, ActivityContext, engine_name};
use crate::client::EngineStatus;
use crate::envelope;
use crate::error;
use crate::failure::Failure;
use crate::orchestration::{self, Context, Orchestration};
use crate::sql;
use duroxide::Either2;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use toygres_models::ErrorKind;

/// When a parent asks for the first time how its child is. The pause doubles up to six times this.
pub const CHILD_CHECK_PERIOD: Duration = Duration::from_secs(5);
/// The longest pause between two questions, as a multiple of the first.
const LONGEST_PAUSE: u32 = 6;
/// A child that is not there after so many questions was never started (about ten minutes by default).
const MOST_ABSENCES: u32 = 20;

/// Runs a child orchestration under this id and waits for it. The id must be new: an ended orchestration can't be
/// started again.
///
/// # Errors
/// The child's failure; `child_lost` when it ended without a word.
pub async fn run_child<O: Orchestration>(
    cx: &Context,
    child_id: String,
    input: O::Input,
) -> Result<O::Output, Failure> {
    run_child_checking::<O>(cx, child_id, input, CHILD_CHECK_PERIOD).await
}

/// As [`run_child`], asking for the first time after `period`.
///
/// # Errors
/// As [`run_child`].
pub async fn run_child_checking<O: Orchestration>(
    cx: &Context,
    child_id: String,
    input: O::Input,
    period: Duration,
) -> Result<O::Output, Failure> {
    let envelope = orchestration::seal_input::<O>(cx.traceparent.as_deref(), false, &input)?;
    let name = orchestration::engine_name::<O>();
    let mut child = cx
        .inner
        .schedule_sub_orchestration_with_id(name, child_id.as_str(), envelope);
    let mut pause = period;
    let mut absences = 0;
    loop {
        let told = match cx.inner.select2(&mut child, cx.inner.schedule_timer(pause)).await {
            Either2::First(told) => told,
            Either2::Second(()) => {
                // One try is enough: the next question comes anyway.
                let question = cx.seal(&child_id)?;
                let question = cx.inner.schedule_activity(engine_name::<ChildStatus>(), question);
                match cx.inner.select2(&mut child, question).await {
                    Either2::First(told) => told,
                    Either2::Second(answer) => {
                        pause = (pause * 2).min(period * LONGEST_PAUSE);
                        match read(answer) {
                            Ok(Answer::Completed { output }) => Ok(output),
                            Ok(Answer::Failed { error }) => Err(lost(&error).encode()),
                            Ok(Answer::Absent) if absences < MOST_ABSENCES => {
                                absences += 1;
                                continue;
                            }
                            Ok(Answer::Absent) => Err(lost("").encode()),
                            // It has ended, with an output that does not fit into an answer.
                            Err(failure) if failure.kind == ErrorKind::TooLarge => Err(failure.encode()),
                            Ok(Answer::Running) | Err(_) => continue,
                        }
                    }
                }
            }
        };
        return match told {
            Ok(output) => envelope::decode(&output),
            Err(text) => Err(Failure::decode(&text)),
        };
    }
}

fn read(answer: Result<String, String>) -> Result<Answer, Failure> {
    answer
        .map_err(|text| Failure::decode(&text))
        .and_then(|text| envelope::decode(&text))
}

/// A child that ended by a failure of its own says so also when its message was lost.
fn lost(error: &str) -> Failure {
    Failure::read(error).unwrap_or_else(|| {
        Failure::new(
            ErrorKind::Internal,
            "child_lost",
            "a part of the work ended without a word",
        )
    })
}

/// Asks how an orchestration is. Built in. Asks for the end that was recorded: duroxide's own answer comes from the
/// history, which may be what broke the child.
pub(crate) struct ChildStatus;

/// Where the orchestrations are.
pub(crate) struct Place {
    pub(crate) pool: PgPool,
    pub(crate) schema: Arc<str>,
}

/// How it is.
#[derive(Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(crate) enum Answer {
    Absent,
    Running,
    Completed { output: String },
    Failed { error: String },
}

impl Activity for ChildStatus {
    const CRATE: &'static str = "toygres-engine";
    const NAME: &'static str = "child-status";
    type Deps = Place;
    type Input = String;
    type Output = Answer;

    async fn run(place: &Place, _: &ActivityContext, id: String) -> toygres_models::Result<Answer> {
        let end = sql::end(&place.pool, &place.schema, &id).await;
        Ok(match end.map_err(error::from_sqlx)? {
            None => Answer::Absent,
            Some((EngineStatus::Running, _)) => Answer::Running,
            Some((EngineStatus::Completed, output)) => Answer::Completed { output },
            Some((EngineStatus::Failed, error)) => Answer::Failed { error },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As an answer, as a failure of the question, and as what a child ended with.
    fn is_understood_or_refused(text: &str) {
        match read(Ok(text.to_owned())) {
            Ok(answer) => {
                let written = envelope::encode(&answer).unwrap();
                let again = read(Ok(written.clone())).unwrap();
                assert_eq!(envelope::encode(&again).unwrap(), written);
            }
            Err(failure) => assert_eq!(failure.code, "payload_invalid"),
        }
        let failed = read(Err(text.to_owned())).err().unwrap();
        assert_eq!(failed, Failure::decode(text));
        // Of a child that ended without a word of its own that is said, and no word of somebody else's.
        let lost = lost(text);
        assert!(lost.code == "child_lost" || lost == failed, "{lost:?}");
    }

    #[test]
    fn fuzz_answer_of_a_child() {
        bolero::check!().for_each(|bytes: &[u8]| is_understood_or_refused(&String::from_utf8_lossy(bytes)));
    }

    proptest! {
        #[test]
        fn whatever_is_said_of_a_child_is_understood_or_refused(
            any in ".*", status in "(absent|running|completed|failed|.?)", field in "(output|error|x)", said in ".*",
        ) {
            is_understood_or_refused(&any);
            let near = serde_json::json!({ "status": status, field: said });
            is_understood_or_refused(&near.to_string());
            let failure = Failure::app("own_code", said);
            prop_assert_eq!(lost(&failure.encode()), failure);
        }
    }
}
