//! `toygres server`: the server of this machine.

mod foreground;
mod home;
mod logs;
mod start;
mod status;
mod stop;

use crate::args::{Restart, Server, ServerOptions};
use crate::failure::Result;
use crate::printer::Printer;
use std::process::ExitCode;
use toygres_server::config::{ConfigOverrides, Paths};

pub(crate) async fn run(command: Server, printer: &Printer) -> Result<ExitCode> {
    match command {
        Server::Start(args) if args.foreground => foreground::run(&args).await?,
        Server::Start(args) => start::run(&args.options, printer).await?,
        Server::Stop(args) => stop::run(&args, printer).await?,
        Server::Restart(args) => restart(args, printer).await?,
        Server::Status => return status::run(printer).await,
        Server::Logs(args) => logs::run(&args, printer).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the server that runs on this home listens, if one does.
pub(crate) fn url_of_running() -> Option<String> {
    let paths = Paths::from_environment().ok()?;
    home::running(&paths).ok()??.url
}

async fn restart(args: Restart, printer: &Printer) -> Result<()> {
    let mut options = args.options;
    // It comes back where it was.
    let before = url_of_running().and_then(|url| url.rsplit_once(':')?.1.parse().ok());
    options.port = options.port.or(before);
    stop::run(&args.stop, printer).await?;
    start::run(&options, printer).await
}

fn overrides(options: &ServerOptions) -> ConfigOverrides {
    ConfigOverrides {
        port: options.port,
        platform: options.platform.clone(),
        ..ConfigOverrides::default()
    }
}

/// The command line that starts the server in a process of its own.
fn child_arguments(options: &ServerOptions) -> Vec<String> {
    // In full, so that an option that is added can't be forgotten here.
    let ServerOptions { port, platform } = options;
    let mut arguments: Vec<String> = ["server", "start", "--foreground", "--no-console"]
        .map(str::to_owned)
        .into();
    arguments.extend(port.map(|port| format!("--port={port}")));
    arguments.extend(platform.as_ref().map(|platform| format!("--platform={platform}")));
    arguments
}
