//! One file a command: each resolves its arguments, asks the server and hands the answer to the printer.

mod bulk;
mod confirm;
mod context;
mod create;
mod delete;
mod follow;
mod operations;
mod psql;
mod quota;
mod server;
mod shell;
mod status;
mod test;
mod token;
mod trace;
mod update;
mod version;
mod wait;
mod watch;

use crate::args::{Cli, Command, Get, Given, List};
use crate::client::Client;
use crate::config::{Access, ConfigFile};
use crate::failure::{Failure, Result};
use crate::printer::{Checked, Live, Printer};
use std::process::ExitCode;
use std::time::Duration;
use toygres_models::Secret;

/// How to reach the server, for the commands that do.
struct Target {
    given: Given,
    timeout: Duration,
}

impl Target {
    fn access(&self) -> Result<Access> {
        crate::config::resolve(self.given.clone(), ConfigFile::load, server::url_of_running)
    }

    fn client(&self) -> Result<Client> {
        Client::new(self.access()?, self.timeout)
    }
}

/// Runs the command. The exit code is that of success, or what another program (psql) or question
/// (`server status`) says.
pub(crate) fn run(cli: Cli, given: Given, printer: &Printer) -> Result<ExitCode> {
    // Only the server has use for more than one thread.
    let mut runtime = match &cli.command {
        Command::Server(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|cause| Failure::failed("the program can't start its threads").why(cause))?;
    let target = Target {
        given,
        timeout: cli.global.request_timeout,
    };
    let name = cli.command.name();
    // The server tells of itself.
    match cli.command {
        Command::Server(_) => runtime.block_on(act(cli.command, target, printer)),
        _ => runtime.block_on(trace::traced(&name, act(cli.command, target, printer))),
    }
}

async fn act(command: Command, target: Target, printer: &Printer) -> Result<ExitCode> {
    match command {
        Command::Server(command) => return server::run(command, &target, printer).await,
        Command::Create(args) => create::run(args, &target.client()?, printer).await?,
        Command::List(args) => list(&args, &target.client()?, printer).await?,
        Command::Get(args) => get(&args, &target.client()?, printer).await?,
        Command::Status(args) => status::run(&args.name, &target.client()?, printer).await?,
        Command::Update(args) => update::run(args, &target.client()?, printer).await?,
        Command::Delete(args) => delete::run(args, &target.client()?, printer).await?,
        Command::Connect(args) => {
            let connection = target
                .client()?
                .connection(&args.name, args.show_password)
                .await?;
            printer.connection(args.name.as_str(), &connection)?;
        }
        Command::Ca => printer.certificate(&target.client()?.certificate_authority().await?)?,
        Command::Psql(args) => return psql::run(args, &target.client()?).await,
        Command::Test(args) => return test::run(&args.name, &target.client()?, printer).await,
        Command::Health(args) => {
            printer.health_checks(&target.client()?.health_checks(&args.name, args.limit).await?)?;
        }
        Command::Logs(args) if args.follow => follow::follow_logs(&args, &target.client()?, printer).await?,
        Command::Logs(args) => follow::logs(&args, &target.client()?, printer).await?,
        Command::Events(args) => follow::events(&args, &target.client()?, printer).await?,
        Command::Operations(args) => operations::run(args, &target.client()?, printer).await?,
        Command::Token(command) => token::run(command, &target.client()?, printer).await?,
        Command::Quota(command) => quota::run(command, &target.client()?, printer).await?,
        Command::Context(command) => context::run(command, target.given, printer)?,
        Command::Completions { shell } => shell::completions(shell, printer)?,
        Command::Man { command } => shell::man(&command, printer)?,
        Command::Version => version::run(&target.client()?, printer).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &List, client: &Client, printer: &Printer) -> Result<()> {
    let printer = if args.wide { &printer.wide() } else { printer };
    if !args.watch.watch {
        let instances = client.list(args).await?;
        if instances.is_empty() && args.is_narrowed() && !printer.is_document() {
            printer.note("there are none like that; all there are: toygres list");
            return Ok(());
        }
        return printer.instances(&instances);
    }
    let mut live = Live::new(printer);
    let fetch = async || client.list(args).await;
    watch::watch(&args.watch, fetch, |instances| {
        let key = |instance: &toygres_models::instances::Instance| instance.name.to_string();
        live.rows(instances, key, Printer::instances)
    })
    .await
}

/// How many checks `get --show-health` shows.
const CHECKS_SHOWN: u32 = 10;

async fn get(args: &Get, client: &Client, printer: &Printer) -> Result<()> {
    let fetch = async || {
        Ok(Checked {
            instance: client.get(&args.name).await?,
            health_checks: match args.show_health {
                true => Some(client.health_checks(&args.name, CHECKS_SHOWN).await?),
                false => None,
            },
        })
    };
    if !args.watch.watch {
        return printer.checked(&fetch().await?);
    }
    let mut live = Live::new(printer);
    watch::watch(&args.watch, fetch, |now| live.whole(now, Printer::checked)).await
}

/// A secret from the first line of standard input; none if there is none.
fn secret_from_stdin(what: &str) -> Result<Option<Secret>> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|cause| {
        Failure::failed(format!("the {what} can't be read from standard input")).why(cause)
    })?;
    let secret = line.trim_end_matches(['\r', '\n']).to_owned();
    Ok((!secret.is_empty()).then(|| Secret::new(secret)))
}
