//! The command line, parsed: what was asked for, in types that hold valid values only.

mod access;
mod instances;
mod server;
mod values;

pub(crate) use access::*;
pub(crate) use instances::*;
pub(crate) use server::*;
pub(crate) use values::NameOrId;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use toygres_models::Secret;
use toygres_models::server::SettingOrigin;

/// What every command knows stands at the end of its help.
const GLOBAL: &str = "Global options";

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: refused by the server, the work failed, or the answer is no (server status, test)
  2    the command line is wrong, or a question could not be asked without a terminal
  3    the server can't be reached, or does not answer in time
  4    it took longer than the time limit; the work goes on
  130  interrupted; the work goes on
  psql passes on its own exit code.

Which server, the first that is given: --api-url, --context, TOYGRES_API_URL, TOYGRES_CONTEXT, the
context in use (toygres context use), the server running on this home, http://127.0.0.1:8080.
A context's token goes to its own server only.

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
    #[arg(short, long, global = true, help_heading = GLOBAL, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Address of the API.
    #[arg(long, global = true, help_heading = GLOBAL, env = "TOYGRES_API_URL", value_name = "URL")]
    pub(crate) api_url: Option<String>,
    /// The server to talk to, as the configuration file names it.
    #[arg(long, global = true, help_heading = GLOBAL, env = "TOYGRES_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Trust the certificate authorities in this PEM file too.
    #[arg(long, global = true, help_heading = GLOBAL, env = "TOYGRES_CA_CERT", value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// How long a request may take.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DURATION", default_value = "20s", value_parser = values::duration)]
    pub(crate) request_timeout: Duration,
    /// The API token. Hidden, since arguments can be seen by everybody on the machine: use the variable.
    #[arg(long, global = true, help_heading = GLOBAL, env = "TOYGRES_TOKEN", hide = true, hide_env_values = true, value_parser = values::secret)]
    pub(crate) token: Option<Secret>,
    /// No colours, also on a terminal. Any value that is not empty counts (no-color.org).
    #[arg(long, global = true, help_heading = GLOBAL, env = "NO_COLOR", hide = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "1")]
    pub(crate) no_color: Option<String>,
}

/// A value and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Chosen<T> {
    pub(crate) value: T,
    pub(crate) origin: SettingOrigin,
}

/// What the command line and the environment say of the server to talk to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    pub(crate) api_url: Option<Chosen<String>>,
    pub(crate) context: Option<Chosen<String>>,
    pub(crate) token: Option<Chosen<Secret>>,
    pub(crate) ca_cert: Option<Chosen<PathBuf>>,
}

/// Parses this process's command line. Ends the process if it is wrong, or asks for help.
pub(crate) fn parse() -> (Cli, Given) {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let origin = |argument: &str| match matches.value_source(argument) {
        Some(ValueSource::CommandLine) => SettingOrigin::Flag,
        _ => SettingOrigin::Environment,
    };
    let global = &cli.global;
    // A variable that is set to nothing counts as not set.
    let text = |value: &Option<String>, argument: &str| {
        let value = value.clone().filter(|value| !value.is_empty())?;
        Some(Chosen {
            value,
            origin: origin(argument),
        })
    };
    let token = global.token.clone().filter(|token| !token.reveal().is_empty());
    let ca_cert = global.ca_cert.clone().filter(|file| !file.as_os_str().is_empty());
    let given = Given {
        api_url: text(&global.api_url, "api_url"),
        context: text(&global.context, "context"),
        token: token.map(|value| Chosen {
            value,
            origin: origin("token"),
        }),
        ca_cert: ca_cert.map(|value| Chosen {
            value,
            origin: origin("ca_cert"),
        }),
    };
    (cli, given)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For people with wide terminals.
    Wide,
    /// For programs: the API's own documents.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Command {
    /// Its name, without what belongs to it.
    pub(crate) fn name(&self) -> String {
        let whole = format!("{self:?}");
        let name = whole.split(|c: char| !c.is_ascii_alphanumeric()).next();
        name.unwrap_or_default().to_lowercase()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a database, or several.
    #[command(
        after_help = "Example:\n  toygres create shop --wait --tag team=web --version 17\n  \
        printf '%s\\n' \"$PASSWORD\" | toygres create shop --password-stdin\n  \
        toygres create test --count 5 --wait"
    )]
    Create(Create),
    /// List databases.
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  toygres list --state running -o json | jq -r '.[].name'\n  toygres list --filter 'test-*' --watch"
    )]
    List(List),
    /// Show one database.
    #[command(after_help = "Example:\n  toygres get shop --show-health")]
    Get(Get),
    /// Show how a database is doing: its last checks, its last operation, what happened last.
    #[command(after_help = "Example:\n  toygres status shop")]
    Status(Named),
    /// Change a database's tags or deletion protection.
    #[command(
        after_help = "Example:\n  toygres update shop --tag team=web --remove-tag old\n  toygres update shop --deletion-protection on"
    )]
    Update(Update),
    /// Remove databases and all their data.
    #[command(
        after_help = "Example:\n  toygres delete shop --wait\n  toygres delete test-1 test-2 --force   # asks nothing"
    )]
    Delete(Delete),
    /// Show how to connect to a database.
    #[command(after_help = "Example:\n  toygres connect shop --show-password")]
    Connect(Connect),
    /// Print the certificate of the authority that signs those of databases, where these take TLS.
    #[command(after_help = "Example:\n  toygres ca >toygres-ca.pem   # psql's sslrootcert")]
    Ca,
    /// Open psql on a database.
    #[command(after_help = "Example:\n  toygres psql shop\n  toygres psql shop -- -c 'select version()'")]
    Psql(Psql),
    /// Log in to a database from this machine and run a query: exit code 0 if that works, else 1.
    #[command(after_help = "Example:\n  toygres test shop")]
    Test(Named),
    /// Show a database's health checks.
    #[command(after_help = "Example:\n  toygres health shop --limit 10")]
    Health(Health),
    /// Show a database's own log.
    #[command(after_help = "Example:\n  toygres logs shop -f --tail 20")]
    Logs(InstanceLogs),
    /// Show what happened to a database.
    #[command(
        after_help = "Example:\n  toygres events shop\n  toygres events -f   # of all databases, from now on"
    )]
    Events(Events),
    /// List operations, or show one with its steps.
    #[command(
        after_help = "Example:\n  toygres operations --instance shop --state failed\n  \
        toygres operations 01890a5d-ac96-774b-bcce-b302099a8057 --retry"
    )]
    Operations(Operations),
    /// Run and look after a server.
    #[command(
        subcommand,
        after_help = "Example:\n  toygres server start && toygres server status"
    )]
    Server(Server),
    /// Look after API tokens.
    #[command(subcommand, after_help = "Example:\n  toygres token create ci --scope write")]
    Token(Token),
    /// Look after what owners may have.
    #[command(
        subcommand,
        after_help = "Example:\n  toygres quota set web --max-instances 10"
    )]
    Quota(Quota),
    /// Look after the servers that are written down in the configuration file.
    #[command(subcommand, after_help = "Example:\n  toygres context use prod")]
    Context(Context),
    /// Print what makes a shell complete commands.
    #[command(
        after_help = "Example:\n  toygres completions bash >~/.local/share/bash-completion/completions/toygres"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of the whole or of one command.
    #[command(after_help = "Example:\n  toygres man server drift | man -l -")]
    Man {
        /// The command.
        command: Vec<String>,
    },
    /// Show the versions of this program and of the server.
    #[command(after_help = "Example:\n  toygres version -o json")]
    Version,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &clap::Command) {
        for command in command.get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.starts_with("Example:\n  ") && help.contains("toygres "),
                "{} has no example",
                command.get_name()
            );
            assert!(command.get_about().is_some());
            check(command);
        }
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        check(&Cli::command());
    }

    fn is_understood_or_refused<'a>(words: impl Iterator<Item = &'a str>) {
        let words = std::iter::once("toygres").chain(words);
        if let Err(error) = Cli::command().try_get_matches_from(words) {
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn fuzz_command_line() {
        bolero::check!()
            .for_each(|bytes: &[u8]| is_understood_or_refused(String::from_utf8_lossy(bytes).lines()));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_command_line_is_it_is_understood_or_refused(
            words in proptest::collection::vec(
                proptest::prop_oneof![
                    ".*",
                    "-{0,2}[a-z-]{1,12}(=.{0,9})?",
                    proptest::strategy::Strategy::prop_map(proptest::sample::select(vec![
                        "create", "list", "delete", "get", "server", "start", "status", "logs", "token", "quota",
                        "operations", "--tag", "--wait", "--output", "json", "--limit", "-f", "--",
                    ]), str::to_owned),
                ],
                0..8,
            ),
        ) {
            is_understood_or_refused(words.iter().map(String::as_str));
        }
    }
}
