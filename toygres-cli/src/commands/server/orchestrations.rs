//! `toygres server orchestrations` and the like: the engine, for operators.

use crate::args::{Cancel, Flows, Orchestration, Orchestrations, RaiseEvent, Recreate};
use crate::client::Client;
use crate::commands::confirm::Question;
use crate::failure::Result;
use crate::printer::Printer;

pub(super) async fn list(args: Orchestrations, client: &Client, printer: &Printer) -> Result<()> {
    let query = [
        ("status", args.status.map(|status| status.to_string())),
        ("name", args.name),
        ("instance", args.instance.map(|name| name.as_str().to_owned())),
        ("prefix", args.prefix),
    ];
    printer.orchestrations(&client.orchestrations(query, args.rows.limit).await?)
}

pub(super) async fn show(args: &Orchestration, client: &Client, printer: &Printer) -> Result<()> {
    if !args.history {
        return printer.orchestration(&client.orchestration(&args.id).await?);
    }
    let history = client.history(&args.id, args.execution).await?;
    if !printer.is_document() {
        printer.orchestration(&client.orchestration(&args.id).await?)?;
        printer.line("")?;
    }
    printer.history(&history)
}

pub(super) async fn cancel(args: Cancel, client: &Client, printer: &Printer) -> Result<()> {
    let id = args.id;
    Question {
        text: format!("This ends {id} before its time; what it has done stays."),
        answer: None,
        otherwise: format!("{id} is not cancelled"),
        forced: format!("toygres server cancel {id} --force"),
    }
    .ask(args.force)?;
    client.cancel(&id, args.reason).await?;
    printer.note(&format!(
        "{id} is told to end; see it: toygres server orchestration {id}"
    ));
    Ok(())
}

pub(super) async fn raise_event(args: &RaiseEvent, client: &Client, printer: &Printer) -> Result<()> {
    client.raise_event(&args.id, &args.event).await?;
    printer.note(&format!("{} is sent to {}", args.event, args.id));
    Ok(())
}

pub(super) async fn recreate(args: Recreate, client: &Client, printer: &Printer) -> Result<()> {
    let id = args.id;
    Question {
        text: format!("This begins {id} anew."),
        answer: None,
        otherwise: format!("{id} is not begun anew"),
        forced: format!("toygres server recreate {id} --force"),
    }
    .ask(args.force)?;
    let new = client.recreate(&id).await?;
    if printer.document(&serde_json::json!({ "id": new }))? {
        return Ok(());
    }
    printer.line(&new)?;
    printer.note(&format!("see it: toygres server orchestration {new}"));
    Ok(())
}

pub(super) async fn flows(args: &Flows, client: &Client, printer: &Printer) -> Result<()> {
    match &args.name {
        Some(name) => printer.flow(&client.flow(name).await?),
        None => printer.flows(&client.flows().await?),
    }
}
