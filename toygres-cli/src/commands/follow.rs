//! `toygres events` and `toygres logs`: what was, and what comes.

use super::watch;
use crate::args::{Events, InstanceLogs};
use crate::client::Client;
use crate::failure::Result;
use crate::printer::Printer;
use toygres_models::events::InstanceEvent;

pub(super) async fn events(args: &Events, client: &Client, printer: &Printer) -> Result<()> {
    let name = args.name.as_ref();
    let past = match name {
        Some(name) => client.events(name).await?,
        None => Vec::new(),
    };
    if !args.follow {
        return printer.events(&past);
    }
    past.iter().try_for_each(|event| printer.event(event))?;
    // One that nothing happened to yet is followed from its beginning.
    let mut last = name.map(|_| past.last().map_or(0, |event| event.id));
    watch::streams(async || {
        let mut stream = client.follow_events(name, last).await?;
        while let Some(event) = stream.next().await {
            if event.event == "instance_event" {
                let event: InstanceEvent = client.event_data(&event)?;
                printer.event(&event)?;
                last = Some(event.id);
            }
        }
        Ok(())
    })
    .await
}

pub(super) async fn logs(args: &InstanceLogs, client: &Client, printer: &Printer) -> Result<()> {
    let mut lines = client.instance_log(&args.name, args.tail, args.follow).await?;
    while let Some(line) = lines.next().await {
        printer.instance_log_line(&line)?;
    }
    Ok(())
}

/// What is written while no stream is open can't be had again: it is said that something may be missing.
pub(super) async fn follow_logs(args: &InstanceLogs, client: &Client, printer: &Printer) -> Result<()> {
    let mut is_first = true;
    watch::streams(async || {
        let tail = if is_first { args.tail } else { 0 };
        let mut lines = client.instance_log(&args.name, tail, true).await?;
        if !std::mem::take(&mut is_first) {
            printer.note(&format!(
                "the log goes on; what was written meanwhile: toygres logs {}",
                args.name.as_str()
            ));
        }
        while let Some(line) = lines.next().await {
            printer.instance_log_line(&line)?;
        }
        Ok(())
    })
    .await
}
