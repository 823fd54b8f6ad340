//! Operations and their steps.

use super::{span, time};
use crate::failure::Result;
use crate::printer::table::Cell;
use crate::printer::{Mood, Printer};
use chrono::Utc;
use toygres_models::operations::{Operation, OperationState, StepState};

impl Printer {
    pub(crate) fn operations(&self, operations: &[Operation]) -> Result<()> {
        if self.document(operations)? {
            return Ok(());
        }
        let rows = operations.iter().map(|operation| {
            let step = operation
                .steps
                .iter()
                .rev()
                .find(|step| step.state != StepState::Succeeded);
            vec![
                operation.id.to_string().into(),
                operation.kind.as_str().into(),
                operation.instance_name.as_str().into(),
                operation_state(operation.state),
                step.map(|step| step.name.clone()).unwrap_or_default().into(),
                span(Utc::now() - operation.requested_at).into(),
            ]
        });
        self.table(
            &["ID", "KIND", "INSTANCE", "STATE", "STEP", "AGE"],
            rows.collect(),
        )
    }

    pub(crate) fn operation(&self, operation: &Operation) -> Result<()> {
        if self.document(operation)? {
            return Ok(());
        }
        self.fields(vec![
            ("id", Some(operation.id.to_string().into())),
            ("kind", Some(operation.kind.as_str().into())),
            ("instance", Some(operation.instance_name.as_str().into())),
            ("state", Some(operation_state(operation.state))),
            (
                "error",
                operation
                    .error
                    .as_ref()
                    .map(|e| Cell::new(format!("{}: {}", e.code, e.message), Mood::Bad)),
            ),
            ("requested", Some(time(operation.requested_at).into())),
            ("started", operation.started_at.map(|at| time(at).into())),
            ("finished", operation.finished_at.map(|at| time(at).into())),
        ])?;
        self.line("")?;
        let rows = operation.steps.iter().map(|step| {
            let took = step.finished_at.unwrap_or_else(Utc::now) - step.started_at;
            let mood = match step.state {
                StepState::Running => Mood::Busy,
                StepState::Succeeded => Mood::Good,
                StepState::Failed => Mood::Bad,
            };
            vec![
                step.name.as_str().into(),
                Cell::new(step.state, mood),
                step.attempts.to_string().into(),
                format!("{:.1}s", took.as_seconds_f64().max(0.0)).into(),
                step.reason
                    .map(|reason| reason.as_str())
                    .unwrap_or_default()
                    .into(),
                step.message.clone().unwrap_or_default().into(),
            ]
        });
        self.table(
            &["STEP", "STATE", "ATTEMPTS", "TOOK", "REASON", "MESSAGE"],
            rows.collect(),
        )
    }
}

pub(super) fn operation_state(state: OperationState) -> Cell {
    let mood = match state {
        OperationState::Pending | OperationState::Running => Mood::Busy,
        OperationState::Succeeded => Mood::Good,
        OperationState::Failed => Mood::Bad,
        OperationState::Cancelled => Mood::Plain,
    };
    Cell::new(state, mood)
}
