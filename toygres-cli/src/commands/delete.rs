//! `toygres delete`

use super::confirm::Question;
use super::{bulk, wait};
use crate::args::{Delete, NameOrId};
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::printer::Printer;

pub(crate) async fn run(args: Delete, client: &Client, printer: &Printer) -> Result<()> {
    question(&args.names).ask(args.force)?;
    let [name] = args.names.as_slice() else {
        let results = client.delete_many(&args.names).await?;
        return bulk::finish(results, &args.wait, client, printer, "deleted").await;
    };
    let accepted = match client.delete(name).await {
        Err(failure) if failure.code.as_deref() == Some("deletion_protected") => {
            let switch_off = format!("toygres update {} --deletion-protection off", name.as_str());
            return Err(Failure {
                next: vec![switch_off],
                ..failure
            });
        }
        accepted => accepted?,
    };
    if !args.wait.wait {
        return printer.operation_begun(&accepted);
    }
    let operation = wait::for_end(&accepted.operation, args.wait.timeout, client).await?;
    let ended = wait::succeeded(&operation);
    if printer.document(&operation)? {
        return ended;
    }
    ended?;
    printer.line(&format!("{} is deleted", accepted.instance.name))
}

fn question(names: &[NameOrId]) -> Question {
    let names: Vec<&str> = names.iter().map(NameOrId::as_str).collect();
    let forced = format!("toygres delete {} --force", names.join(" "));
    match names.as_slice() {
        [name] => Question {
            text: format!("This deletes {name} and all its data."),
            answer: Some((*name).to_owned()),
            otherwise: format!("{name} is not deleted"),
            forced,
        },
        many => Question {
            text: format!(
                "This deletes {} databases and all their data: {}.",
                many.len(),
                many.join(", ")
            ),
            answer: Some(format!("delete {}", many.len())),
            otherwise: "nothing is deleted".to_owned(),
            forced,
        },
    }
}
