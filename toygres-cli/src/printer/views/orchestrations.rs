//! Orchestrations and how they go.

use super::{span, time};
use crate::failure::Result;
use crate::printer::table::Cell;
use crate::printer::{Mood, Printer, clean};
use chrono::Utc;
use toygres_models::orchestrations::{
    Flow, HistoryEvent, Orchestration, OrchestrationDetails, OrchestrationError, OrchestrationNode,
    OrchestrationStatus,
};

impl Printer {
    pub(crate) fn orchestrations(&self, orchestrations: &[Orchestration]) -> Result<()> {
        if self.document(orchestrations)? {
            return Ok(());
        }
        let mut headings = vec!["ID", "NAME", "STATUS", "EXECUTION", "LAST STEP"];
        if self.is_wide() {
            headings.extend(["VERSION", "INSTANCE", "PARENT", "ERROR"]);
        }
        let rows = orchestrations.iter().map(|orchestration| {
            let mut row = vec![
                orchestration.id.as_str().into(),
                orchestration.name.as_str().into(),
                status(orchestration.status),
                orchestration.execution_id.to_string().into(),
                format!("{} ago", span(Utc::now() - orchestration.updated_at)).into(),
            ];
            if self.is_wide() {
                let instance = orchestration.instance_id.map(|id| id.to_string());
                row.extend([
                    orchestration.version.as_str().into(),
                    instance.unwrap_or_default().into(),
                    orchestration.parent_id.clone().unwrap_or_default().into(),
                    error(orchestration.error.as_ref()).into(),
                ]);
            }
            row
        });
        self.table(&headings, rows.collect())
    }

    pub(crate) fn orchestration(&self, details: &OrchestrationDetails) -> Result<()> {
        if self.document(details)? {
            return Ok(());
        }
        let orchestration = &details.orchestration;
        let failed = orchestration.error.as_ref();
        self.fields(vec![
            ("id", Some(orchestration.id.as_str().into())),
            ("name", Some(orchestration.name.as_str().into())),
            ("version", Some(orchestration.version.as_str().into())),
            ("status", Some(status(orchestration.status))),
            ("error", failed.map(|e| Cell::new(error(Some(e)), Mood::Bad))),
            (
                "instance",
                orchestration.instance_id.map(|id| id.to_string().into()),
            ),
            ("parent", orchestration.parent_id.clone().map(Into::into)),
            ("begun", Some(time(orchestration.created_at).into())),
            ("last step", Some(time(orchestration.updated_at).into())),
        ])?;
        self.line("")?;
        let executions = details.executions.iter().map(|execution| {
            vec![
                execution.execution_id.to_string().into(),
                status(execution.status),
                time(execution.started_at).into(),
                execution.finished_at.map(time).unwrap_or_default().into(),
                execution.events.to_string().into(),
            ]
        });
        self.table(
            &["EXECUTION", "STATUS", "STARTED", "FINISHED", "EVENTS"],
            executions.collect(),
        )?;
        if details.tree.children.is_empty() {
            return Ok(());
        }
        self.line("")?;
        self.tree(&details.tree, 0)
    }

    fn tree(&self, node: &OrchestrationNode, depth: usize) -> Result<()> {
        let indent = "  ".repeat(depth);
        let Cell(word, mood) = status(node.status);
        let (name, id) = (clean(&node.name), clean(&node.id));
        self.line(&format!("{indent}{name} {} {id}", self.paint(&word, mood)))?;
        node.children
            .iter()
            .try_for_each(|child| self.tree(child, depth + 1))
    }

    pub(crate) fn history(&self, events: &[HistoryEvent]) -> Result<()> {
        if self.document(events)? {
            return Ok(());
        }
        let rows = events.iter().map(|event| {
            let mut parts = vec![error(event.error.as_ref())];
            parts.extend(event.child_id.as_ref().map(|id| format!("began {id}")));
            parts.extend(event.fire_at.map(|at| format!("until {}", time(at))));
            parts.extend(event.input.as_ref().map(|input| format!("input {input}")));
            parts.extend(event.output.as_ref().map(|output| format!("output {output}")));
            parts.retain(|part| !part.is_empty());
            vec![
                event.event_id.to_string().into(),
                time(event.at).into(),
                event.kind.as_str().into(),
                event.name.clone().unwrap_or_default().into(),
                event
                    .source_event_id
                    .map(|id| id.to_string())
                    .unwrap_or_default()
                    .into(),
                parts.join("; ").into(),
            ]
        });
        self.table(
            &["EVENT", "TIME", "KIND", "NAME", "ANSWERS", "DETAIL"],
            rows.collect(),
        )
    }

    pub(crate) fn flows(&self, flows: &[Flow]) -> Result<()> {
        if self.document(flows)? {
            return Ok(());
        }
        let rows = flows.iter().map(|flow| {
            vec![
                flow.name.as_str().into(),
                flow.version.as_str().into(),
                flow.summary.as_str().into(),
            ]
        });
        self.table(&["NAME", "VERSION", "SUMMARY"], rows.collect())
    }

    /// The flowchart alone, for a program that draws it.
    pub(crate) fn flow(&self, flow: &Flow) -> Result<()> {
        if self.document(flow)? {
            return Ok(());
        }
        flow.mermaid.lines().try_for_each(|line| self.line(&clean(line)))
    }
}

fn status(status: OrchestrationStatus) -> Cell {
    let mood = match status {
        OrchestrationStatus::Running => Mood::Busy,
        OrchestrationStatus::Completed => Mood::Good,
        OrchestrationStatus::Failed => Mood::Bad,
        OrchestrationStatus::ContinuedAsNew => Mood::Plain,
    };
    Cell::new(status, mood)
}

fn error(error: Option<&OrchestrationError>) -> String {
    error
        .map(|error| format!("{}: {}", error.code, error.message))
        .unwrap_or_default()
}
