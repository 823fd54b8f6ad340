//! `toygres server drift`

use crate::args::Drift;
use crate::client::Client;
use crate::commands::confirm::Question;
use crate::failure::{Failure, Result};
use crate::printer::Printer;

pub(super) async fn run(args: &Drift, client: &Client, printer: &Printer) -> Result<()> {
    let drift = client.drift().await?;
    if !args.fix {
        printer.drift(&drift)?;
        if drift.iter().any(|drift| drift.fixable) {
            printer.note("put right what can be: toygres server drift --fix");
        }
        return Ok(());
    }
    let (fixable, other): (Vec<_>, Vec<_>) = drift.iter().partition(|drift| drift.fixable);
    for drift in &other {
        printer.note(&format!(
            "{}: {}: can't be put right from here: {}",
            drift.kind, drift.object, drift.remedy
        ));
    }
    if fixable.is_empty() {
        if drift.is_empty() || printer.is_document() {
            return printer.drift(&[]);
        }
        return Ok(());
    }
    for drift in &fixable {
        printer.note(&format!("{}: {}: {}", drift.kind, drift.object, drift.message));
    }
    Question {
        text: format!(
            "This puts {} right; what nobody owns is removed with its data.",
            fixable.len()
        ),
        answer: None,
        otherwise: "nothing is put right".to_owned(),
        forced: "toygres server drift --fix --force".to_owned(),
    }
    .ask(args.force)?;
    let mut fixed = Vec::new();
    let mut failed = Vec::new();
    for drift in fixable {
        match client.fix_drift(drift.id).await {
            Ok(drift) => fixed.push(drift),
            Err(failure) => failed.push(format!("{}: {}", drift.object, failure.message)),
        }
    }
    if !fixed.is_empty() || printer.is_document() {
        printer.drift(&fixed)?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    let failure = Failure::failed(format!("{} could not be put right", failed.len()));
    Err(failed.into_iter().fold(failure, Failure::why))
}
