//! `toygres update`

use crate::args::{OnOff, Update};
use crate::client::Client;
use crate::failure::Result;
use crate::printer::Printer;
use toygres_models::instances::PatchInstanceRequest;

pub(super) async fn run(args: Update, client: &Client, printer: &Printer) -> Result<()> {
    let again = format!(
        "look at it: toygres get {}; then run it again",
        args.name.as_str()
    );
    let set = args.tags.into_iter().map(|(key, value)| (key, Some(value)));
    let removed = args.remove_tags.into_iter().map(|key| (key, None));
    let tags: std::collections::BTreeMap<_, _> = set.chain(removed).collect();
    let change = PatchInstanceRequest {
        tags: (!tags.is_empty()).then_some(tags),
        deletion_protection: args.deletion_protection.map(|word| word == OnOff::On),
    };
    match client.update(&args.name, &change).await {
        Ok(instance) => printer.instance(&instance),
        Err(failure) if failure.code.as_deref() == Some("changed_meanwhile") => Err(failure.next(again)),
        Err(failure) => Err(failure),
    }
}
