//! The commands on the server.

use super::instances::{Rows, Watch};
use super::values::{NameOrId, duration};
use clap::{Args, Subcommand};
use std::time::Duration;
use toygres_models::orchestrations::OrchestrationStatus;

#[derive(Debug, Subcommand)]
pub(crate) enum Server {
    /// Start the server in the background and wait until it is ready.
    #[command(after_help = "Example:\n  toygres server start --port 9000")]
    Start(Start),
    /// Stop the server. Databases go on.
    #[command(after_help = "Example:\n  toygres server stop --force")]
    Stop(Stop),
    /// Stop the server, if it runs, and start it.
    #[command(after_help = "Example:\n  toygres server restart")]
    Restart(Restart),
    /// Show whether the server of this machine runs and is ready: exit code 0 if so, else 1.
    #[command(after_help = "Example:\n  toygres server status")]
    Status,
    /// Show the server's log: of this machine, or of the server that an address or context names.
    #[command(
        after_help = "Example:\n  toygres server logs -f\n  toygres server logs --tail 1000 -o json | jq 'select(.level==\"ERROR\")'"
    )]
    Logs(Logs),
    /// Show the server's numbers.
    #[command(after_help = "Example:\n  toygres server stats --watch")]
    Stats(Watch),
    /// List the processes of the control plane.
    #[command(after_help = "Example:\n  toygres server workers")]
    Workers(Watch),
    /// Show the settings in effect, of the server and of this program, each with where it comes from.
    #[command(after_help = "Example:\n  toygres server config -o json")]
    Config,
    /// Print the lines that make a shell use the same server.
    #[command(after_help = "Example:\n  eval \"$(toygres server env --show-secrets)\"")]
    Env(Env),
    /// Show, and with --fix mend, what is there but should not be, or the other way round.
    #[command(after_help = "Example:\n  toygres server drift\n  toygres server drift --fix")]
    Drift(Drift),
    /// Show who changed what.
    #[command(after_help = "Example:\n  toygres server audit --actor token:ci")]
    Audit(Audit),
    /// List the orchestrations: the durable work behind operations.
    #[command(after_help = "Example:\n  toygres server orchestrations --status failed")]
    Orchestrations(Orchestrations),
    /// Show one orchestration with its executions and those that it began.
    #[command(after_help = "Example:\n  toygres server orchestration ID --history")]
    Orchestration(Orchestration),
    /// End an orchestration before its time.
    #[command(after_help = "Example:\n  toygres server cancel ID --reason 'stands still'")]
    Cancel(Cancel),
    /// Send an event to an orchestration.
    #[command(after_help = "Example:\n  toygres server raise-event ID")]
    RaiseEvent(RaiseEvent),
    /// Begin anew what has ended: an actor's next incarnation, or a failed operation again.
    #[command(after_help = "Example:\n  toygres server recreate ID")]
    Recreate(Recreate),
    /// List how orchestrations go, or print one as a Mermaid flowchart.
    #[command(after_help = "Example:\n  toygres server flows create-instance >flow.mmd")]
    Flows(Flows),
    /// Make the first token, on the server's own machine. Works while the server is stopped.
    #[command(
        after_help = "Example:\n  toygres server bootstrap-token | toygres context add here --api-url URL --token-stdin"
    )]
    BootstrapToken(BootstrapToken),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Start {
    /// Stay in the foreground, with the log on standard error: as JSON lines, unless that is a terminal.
    #[arg(long)]
    pub(crate) foreground: bool,
    #[command(flatten)]
    pub(crate) options: ServerOptions,
    /// Stay in the foreground without the log on standard error: how the background process is started.
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) no_console: bool,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServerOptions {
    /// Port of the API [default: 8080, or that of TOYGRES_LISTEN].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Where databases run: local or kubernetes [default: local, or TOYGRES_PLATFORM].
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Which parts this server is: api, worker or all [default: all, or TOYGRES_MODE].
    #[arg(long)]
    pub(crate) mode: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Stop {
    /// Kill it if it has not ended in time.
    #[arg(long)]
    pub(crate) force: bool,
    /// How long to wait for it to end.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    pub(crate) stop: Stop,
    #[command(flatten)]
    pub(crate) options: ServerOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on with what is written from now on. On the server's own machine.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last lines to look at.
    #[arg(long, value_name = "LINES", default_value_t = 100)]
    pub(crate) tail: usize,
    /// Show only lines about this orchestration.
    #[arg(long, value_name = "ID")]
    pub(crate) orchestration: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Env {
    /// Print the token too.
    #[arg(long)]
    pub(crate) show_secrets: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Drift {
    /// Put right what can be put right.
    #[arg(long)]
    pub(crate) fix: bool,
    /// Do not ask.
    #[arg(long, requires = "fix")]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only what this one did: loopback, bootstrap, or token: and a token's name.
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// Only this, such as create_instance.
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only what was done to this database.
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<NameOrId>,
    #[command(flatten)]
    pub(crate) rows: Rows,
}

#[derive(Debug, Args)]
pub(crate) struct Orchestrations {
    /// Only those that are so: running, completed, failed or continued_as_new.
    #[arg(long)]
    pub(crate) status: Option<OrchestrationStatus>,
    /// Only those that do this, such as instance-actor.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Only those of this database.
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<NameOrId>,
    /// Only those whose id begins with this.
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    #[command(flatten)]
    pub(crate) rows: Rows,
}

#[derive(Debug, Args)]
pub(crate) struct Orchestration {
    /// The orchestration's id.
    pub(crate) id: String,
    /// Show its history, event by event.
    #[arg(long)]
    pub(crate) history: bool,
    /// The history of this execution [default: the last].
    #[arg(long, value_name = "N", requires = "history")]
    pub(crate) execution: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The orchestration's id.
    pub(crate) id: String,
    /// Why, for its history.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Do not ask.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RaiseEvent {
    /// The orchestration's id.
    pub(crate) id: String,
    /// The event.
    #[arg(default_value = "wake")]
    pub(crate) event: String,
}

#[derive(Debug, Args)]
pub(crate) struct Recreate {
    /// The orchestration's id.
    pub(crate) id: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Flows {
    /// Print this one.
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BootstrapToken {
    /// Replace the one there is without asking.
    #[arg(long)]
    pub(crate) force: bool,
    /// Take it away: the token is worthless from then on.
    #[arg(long, conflicts_with = "force")]
    pub(crate) remove: bool,
}
