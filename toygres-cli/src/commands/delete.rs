//! `toygres delete`

use super::wait;
use crate::args::Delete;
use crate::client::Client;
use crate::failure::{Exit, Failure, Result};
use crate::printer::Printer;
use std::io::{IsTerminal, Write};

pub(crate) async fn run(args: Delete, client: &Client, printer: &Printer) -> Result<()> {
    if !args.force {
        confirm(&args)?;
    }
    let accepted = client.delete(&args.name).await?;
    if !args.wait.wait {
        if printer.is_json() {
            return printer.json(&accepted);
        }
        printer.operation_begun(&accepted)?;
        printer.note(&format!(
            "follow it: toygres operations {}",
            accepted.operation.id
        ));
        return Ok(());
    }
    let operation = wait::for_end(&accepted.operation, args.wait.timeout, client).await?;
    let ended = wait::succeeded(&operation);
    if printer.is_json() {
        return printer.json(&operation).and(ended);
    }
    ended?;
    printer.line(&format!("{} is deleted", accepted.instance.name))
}

fn confirm(args: &Delete) -> Result<()> {
    let name = args.name.as_str();
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            format!("{name} is not deleted: there is no terminal to ask at"),
        )
        .next(format!("toygres delete {name} --force")));
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "Delete {name} and all its data? [y/N] ")
        .and_then(|()| stderr.flush())
        .ok();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|cause| Failure::failed("the terminal can't be read").why(cause))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed(format!("{name} is not deleted"))),
    }
}
