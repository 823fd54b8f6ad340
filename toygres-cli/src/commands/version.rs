//! `toygres version`

use crate::client::Client;
use crate::failure::Result;
use crate::printer::Printer;

/// The server's version is shown if it can be had; that it can't is no failure of this command.
pub(crate) async fn run(client: &Client, printer: &Printer) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let server = client.server_health().await.map(|health| health.version);
    if printer.is_document() {
        let versions = serde_json::json!({ "client": own, "server": server.ok(), "url": client.base() });
        return printer.document(&versions).map(|_| ());
    }
    printer.line(&format!("toygres {own}"))?;
    match server {
        Ok(version) => printer.line(&format!("server  {version} at {}", client.base())),
        Err(failure) => {
            printer.note(&failure.message);
            Ok(())
        }
    }
}
