//! The command line, parsed: what was asked for, in types that hold valid values only.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::time::Duration;
use toygres_models::health::HealthStatus;
use toygres_models::instances::InstanceState;
use toygres_models::{InstanceId, InstanceName, OperationId, OwnerName, PostgresVersion, Secret};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: refused by the server, the work failed, or (server status) no server is ready
  2    the command line is wrong, or a question could not be asked without a terminal
  3    the server can't be reached
  4    it took longer than the time limit; the work goes on
  130  interrupted; the work goes on
  psql passes on its own exit code.

Example:
  toygres server start
  toygres create demo --wait
  toygres psql demo -- -c 'select version()'";

/// PostgreSQL as a service.
#[derive(Debug, Parser)]
#[command(name = "toygres", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// How data is printed on standard output.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Address of the API. Without it: that of the server running on this home, else http://127.0.0.1:8080.
    #[arg(long, global = true, env = "TOYGRES_API_URL", value_name = "URL")]
    pub(crate) api_url: Option<String>,
    /// The API token. Hidden, since arguments can be seen by everybody on the machine: use the variable.
    #[arg(long, global = true, env = "TOYGRES_TOKEN", hide = true, hide_env_values = true, value_parser = secret)]
    pub(crate) token: Option<Secret>,
    /// No colours, also on a terminal. Any value that is not empty counts (no-color.org).
    #[arg(long, global = true, env = "NO_COLOR", hide = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "1")]
    pub(crate) no_color: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a database.
    #[command(
        after_help = "Example:\n  toygres create shop --wait --tag team=web --version 17\n  \
        printf '%s\\n' \"$PASSWORD\" | toygres create shop --password-stdin"
    )]
    Create(Create),
    /// List databases.
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  toygres list --state running -o json | jq -r '.[].name'"
    )]
    List(List),
    /// Show one database.
    #[command(after_help = "Example:\n  toygres get shop")]
    Get(Named),
    /// Remove a database and all its data.
    #[command(
        after_help = "Example:\n  toygres delete shop --wait\n  toygres delete shop --force   # asks nothing"
    )]
    Delete(Delete),
    /// Show how to connect to a database.
    #[command(after_help = "Example:\n  toygres connect shop --show-password")]
    Connect(Connect),
    /// Open psql on a database.
    #[command(after_help = "Example:\n  toygres psql shop\n  toygres psql shop -- -c 'select version()'")]
    Psql(Psql),
    /// Show what happened to a database.
    #[command(after_help = "Example:\n  toygres events shop")]
    Events(Named),
    /// Show a database's health checks.
    #[command(after_help = "Example:\n  toygres health shop")]
    Health(Named),
    /// List operations, or show one with its steps.
    #[command(
        after_help = "Example:\n  toygres operations\n  toygres operations 01890a5d-ac96-774b-bcce-b302099a8057"
    )]
    Operations(Operations),
    /// Run and look after the server of this machine.
    #[command(
        subcommand,
        after_help = "Example:\n  toygres server start && toygres server status"
    )]
    Server(Server),
    /// Show the versions of this program and of the server.
    #[command(after_help = "Example:\n  toygres version -o json")]
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The name: 1 to 40 lower-case letters, digits and hyphens, a letter first.
    pub(crate) name: InstanceName,
    /// Ask for the password of the role postgres. Without it and --password-stdin the server makes one.
    #[arg(long, conflicts_with = "password_stdin")]
    pub(crate) password: bool,
    /// Read the password from the first line of standard input.
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// The owner [server's default: default].
    #[arg(long, value_name = "OWNER")]
    pub(crate) user_name: Option<OwnerName>,
    /// PostgreSQL major version [server's default: the newest there is].
    #[arg(long = "version", value_name = "MAJOR")]
    pub(crate) postgres_version: Option<PostgresVersion>,
    /// Storage in GiB [server's default: 10].
    #[arg(long, value_name = "GIB")]
    pub(crate) storage: Option<u32>,
    /// No address outside the cluster.
    #[arg(long)]
    pub(crate) internal: bool,
    /// The namespace to put it in, where the platform has such.
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    /// A label of your own; may be given again.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,
    /// Refuse deletion.
    #[arg(long)]
    pub(crate) deletion_protection: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Wait until it is done, with progress on standard error.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, such as 90s, 10m or 1h; then exit code 4. The work goes on.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those in this state.
    #[arg(long)]
    pub(crate) state: Option<InstanceState>,
    /// Only those of this health.
    #[arg(long)]
    pub(crate) health: Option<HealthStatus>,
    /// More columns.
    #[arg(long)]
    pub(crate) wide: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The database's name or id.
    pub(crate) name: NameOrId,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The database's name or id.
    pub(crate) name: NameOrId,
    /// Do not ask.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The database's name or id.
    pub(crate) name: NameOrId,
    /// Show the password too.
    #[arg(long)]
    pub(crate) show_password: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Psql {
    /// The database's name or id.
    pub(crate) name: NameOrId,
    /// Arguments for psql.
    #[arg(last = true)]
    pub(crate) arguments: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Operations {
    /// Show this one.
    pub(crate) id: Option<OperationId>,
}

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
    /// Show whether the server runs and is ready: exit code 0 if so, else 1.
    #[command(after_help = "Example:\n  toygres server status")]
    Status,
    /// Show the server's log.
    #[command(
        after_help = "Example:\n  toygres server logs -f\n  toygres server logs --tail 1000 -o json | jq 'select(.level==\"ERROR\")'"
    )]
    Logs(Logs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Start {
    /// Stay in the foreground, with the log on standard error.
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
    /// Where databases run [default: local, or TOYGRES_PLATFORM].
    #[arg(long)]
    pub(crate) platform: Option<String>,
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
    /// Go on with what is written from now on.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last lines to show.
    #[arg(long, value_name = "LINES", default_value_t = 100)]
    pub(crate) tail: usize,
}

/// What names an instance: live ones by name, all by id.
#[derive(Debug, Clone)]
pub(crate) struct NameOrId(String);

impl NameOrId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<InstanceId> for NameOrId {
    fn from(id: InstanceId) -> Self {
        Self(id.to_string())
    }
}

impl std::str::FromStr for NameOrId {
    type Err = toygres_models::names::ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<InstanceId>() {
            Ok(id) => Ok(Self(id.to_string())),
            Err(_) => text.parse::<InstanceName>().map(|name| Self(name.into())),
        }
    }
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text.to_owned()))
}

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be like team=web".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let number_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds))
    {
        Some(seconds) if seconds > 0 && seconds <= 31 * 86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a duration such as 90s, 10m or 1h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        fn check(command: &clap::Command) {
            for command in command.get_subcommands() {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(
                    help.contains("Example:\n  toygres "),
                    "{} has no example",
                    command.get_name()
                );
                assert!(command.get_about().is_some());
                check(command);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        for bad in [
            "",
            "0s",
            "m",
            "-1s",
            "1d",
            "1.5m",
            "10 m",
            "99999999999999999999s",
            "9999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_can_be_put_into_a_path_is_a_name_or_an_id() {
        for good in ["demo", "6f2c4b8e-0000-4000-8000-000000000001"] {
            assert!(good.parse::<NameOrId>().is_ok(), "{good}");
        }
        for bad in ["", "../health", "a/b", "a?b", "A"] {
            assert!(bad.parse::<NameOrId>().is_err(), "{bad}");
        }
    }
}
