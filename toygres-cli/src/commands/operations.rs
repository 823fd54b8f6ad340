//! `toygres operations`

use crate::args::Operations;
use crate::client::Client;
use crate::failure::Result;
use crate::printer::Printer;

pub(super) async fn run(args: Operations, client: &Client, printer: &Printer) -> Result<()> {
    let Some(id) = args.id else {
        let query = [
            ("instance", args.instance.map(|name| name.as_str().to_owned())),
            ("state", args.state.map(|state| state.to_string())),
            ("kind", args.kind.map(|kind| kind.to_string())),
            ("user_name", args.user_name.map(String::from)),
        ];
        return printer.operations(&client.operations(query, args.rows.limit).await?);
    };
    if args.retry {
        return printer.operation_begun(&client.retry_operation(id).await?);
    }
    printer.operation(&client.operation(id).await?)
}
