//! `toygres status`

use crate::args::NameOrId;
use crate::client::Client;
use crate::failure::Result;
use crate::printer::{Overview, Printer};

/// How many of the last checks and events are shown.
const LAST: usize = 5;

pub(super) async fn run(name: &NameOrId, client: &Client, printer: &Printer) -> Result<()> {
    let instance = client.get(name).await?;
    // By its id, so that all of it is about the same one.
    let id = NameOrId::from(instance.id);
    let query = [("instance", Some(id.as_str().to_owned()))];
    let (health, operations, events) = tokio::try_join!(
        client.health_checks(&id, LAST as u32),
        client.operations(query, 1),
        client.events(&id),
    )?;
    let older = events.len().saturating_sub(LAST);
    printer.overview(&Overview {
        instance,
        health,
        operation: operations.into_iter().next(),
        events: events.into_iter().skip(older).collect(),
    })
}
