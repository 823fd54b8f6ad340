//! One file a command: each resolves its arguments, asks the server and hands the answer to the printer.

mod create;
mod delete;
mod psql;
mod server;
mod version;
mod wait;

use crate::args::{Cli, Command, Global};
use crate::client::{Client, DEFAULT_API_URL};
use crate::failure::{Failure, Result};
use crate::printer::Printer;
use std::process::ExitCode;

/// Runs the command. The exit code is that of success, or what another program (psql) or question
/// (`server status`) says.
pub(crate) fn run(cli: Cli, printer: &Printer) -> Result<ExitCode> {
    // Only the server has use for more than one thread.
    let mut runtime = match &cli.command {
        Command::Server(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|cause| Failure::failed("the program can't start its threads").why(cause))?;
    runtime.block_on(act(cli, printer))
}

async fn act(cli: Cli, printer: &Printer) -> Result<ExitCode> {
    let command = match cli.command {
        Command::Server(command) => return server::run(command, printer).await,
        command => command,
    };
    let client = connect(cli.global)?;
    match command {
        Command::Server(_) => {}
        Command::Create(args) => create::run(args, &client, printer).await?,
        Command::List(args) => printer.instances(&client.list(&args).await?, args.wide)?,
        Command::Get(args) => printer.instance(&client.get(&args.name).await?)?,
        Command::Delete(args) => delete::run(args, &client, printer).await?,
        Command::Connect(args) => {
            let connection = client.connection(args.name.as_str(), args.show_password).await?;
            printer.connection(args.name.as_str(), &connection)?;
        }
        Command::Psql(args) => return psql::run(args, &client).await,
        Command::Events(args) => printer.events(&client.events(&args.name).await?)?,
        Command::Health(args) => printer.health_checks(&client.health_checks(&args.name).await?)?,
        Command::Operations(args) => match args.id {
            Some(id) => printer.operation(&client.operation(id).await?)?,
            None => printer.operations(&client.operations().await?)?,
        },
        Command::Version => version::run(&client, printer).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn connect(global: Global) -> Result<Client> {
    // A variable that is set to nothing counts as not set.
    let url = global
        .api_url
        .filter(|url| !url.is_empty())
        .or_else(server::url_of_running)
        .unwrap_or_else(|| DEFAULT_API_URL.to_owned());
    let token = global.token.filter(|token| !token.reveal().is_empty());
    Client::new(&url, token)
}
