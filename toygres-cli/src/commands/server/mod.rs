//! `toygres server`: the server of this machine, and what operators ask of any.

mod bootstrap;
mod drift;
mod foreground;
mod home;
mod logs;
mod orchestrations;
mod settings;
mod start;
mod status;
mod stop;

use super::{Target, watch};
use crate::args::{Audit, Restart, Server, ServerOptions, Watch};
use crate::client::Client;
use crate::failure::Result;
use crate::printer::{Live, Printer};
use std::process::ExitCode;
use toygres_models::server::Worker;
use toygres_server::config::{ConfigOverrides, Paths};

pub(super) async fn run(command: Server, target: &Target, printer: &Printer) -> Result<ExitCode> {
    let client = || target.client();
    match command {
        Server::Start(args) if args.foreground => foreground::run(&args).await?,
        Server::Start(args) => start::run(&args.options, printer).await?,
        Server::Stop(args) => stop::run(&args, printer).await?,
        Server::Restart(args) => restart(args, printer).await?,
        Server::Status => return status::run(printer).await,
        Server::Logs(args) => logs::run(&args, target, printer).await?,
        Server::Stats(args) => stats(&args, &client()?, printer).await?,
        Server::Workers(args) => workers(&args, &client()?, printer).await?,
        Server::Config => settings::config(target, printer).await?,
        Server::Env(args) => settings::env(&args, target, printer)?,
        Server::Drift(args) => drift::run(&args, &client()?, printer).await?,
        Server::Audit(args) => audit(args, &client()?, printer).await?,
        Server::Orchestrations(args) => orchestrations::list(args, &client()?, printer).await?,
        Server::Orchestration(args) => orchestrations::show(&args, &client()?, printer).await?,
        Server::Cancel(args) => orchestrations::cancel(args, &client()?, printer).await?,
        Server::RaiseEvent(args) => orchestrations::raise_event(&args, &client()?, printer).await?,
        Server::Recreate(args) => orchestrations::recreate(args, &client()?, printer).await?,
        Server::Flows(args) => orchestrations::flows(&args, &client()?, printer).await?,
        Server::BootstrapToken(args) => bootstrap::run(&args, printer)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn stats(args: &Watch, client: &Client, printer: &Printer) -> Result<()> {
    if !args.watch {
        return printer.stats(&client.stats().await?);
    }
    let mut live = Live::new(printer);
    watch::watch(
        args,
        async || client.stats().await,
        |stats| live.whole(stats, Printer::stats),
    )
    .await
}

async fn workers(args: &Watch, client: &Client, printer: &Printer) -> Result<()> {
    if !args.watch {
        return printer.workers(&client.workers().await?);
    }
    let mut live = Live::new(printer);
    let key = |worker: &Worker| format!("{} (pid {})", worker.host, worker.pid);
    watch::watch(
        args,
        async || client.workers().await,
        |workers| live.rows(workers, key, Printer::workers),
    )
    .await
}

async fn audit(args: Audit, client: &Client, printer: &Printer) -> Result<()> {
    let query = [
        ("actor", args.actor),
        ("action", args.action),
        ("instance", args.instance.map(|name| name.as_str().to_owned())),
    ];
    printer.audit(&client.audit(query, args.rows.limit).await?)
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
        mode: options.mode.clone(),
    }
}

/// The command line that starts the server in a process of its own.
fn child_arguments(options: &ServerOptions) -> Vec<String> {
    // In full, so that an option that is added can't be forgotten here.
    let ServerOptions { port, platform, mode } = options;
    let mut arguments: Vec<String> = ["server", "start", "--foreground", "--no-console"]
        .map(str::to_owned)
        .into();
    arguments.extend(port.map(|port| format!("--port={port}")));
    arguments.extend(platform.as_ref().map(|platform| format!("--platform={platform}")));
    arguments.extend(mode.as_ref().map(|mode| format!("--mode={mode}")));
    arguments
}
