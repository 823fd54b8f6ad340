//! Configuration: the one place that reads the environment.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toygres_models::{Error, ErrorKind, PostgresVersion, Result, Secret};

/// A variable of the environment that the server reads.
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// Every variable that the server reads. The README's table is made from this list.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "TOYGRES_HOME",
        default: "`~/.toygres`",
        meaning: "Log and pid file; if set, also keys and PostgreSQL's directories (else, for root, those are in `/var/lib/toygres`)",
    },
    Setting {
        name: "TOYGRES_LISTEN",
        default: "`127.0.0.1:8080`",
        meaning: "Address of the API; loopback only",
    },
    Setting {
        name: "DATABASE_URL",
        default: "embedded",
        meaning: "Control database; without it an embedded PostgreSQL is run",
    },
    Setting {
        name: "TOYGRES_MASTER_KEY",
        default: "file",
        meaning: "32 bytes in base64 that encrypt credentials; without it the file `master.key`, made at first start",
    },
    Setting {
        name: "TOYGRES_PLATFORM",
        default: "`local`",
        meaning: "Where instances run: `local`",
    },
    Setting {
        name: "TOYGRES_MODE",
        default: "`all`",
        meaning: "`api`, `worker` or `all`; the first two need `DATABASE_URL`",
    },
    Setting {
        name: "TOYGRES_POSTGRES_VERSION",
        default: "newest there is",
        meaning: "Major version of instances that do not name one",
    },
    Setting {
        name: "TOYGRES_LOCAL_PORTS",
        default: "`20000-29999`",
        meaning: "Loopback ports for local instances",
    },
    Setting {
        name: "TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS",
        default: "`30`",
        meaning: "Time between two health checks of an instance",
    },
    Setting {
        name: "TOYGRES_HEALTH_CHECK_TIMEOUT_SECONDS",
        default: "`5`",
        meaning: "A health check that takes longer has failed",
    },
    Setting {
        name: "TOYGRES_CREATE_DEADLINE_SECONDS",
        default: "`900`",
        meaning: "A create without progress for so long has failed",
    },
    Setting {
        name: "TOYGRES_SHUTDOWN_GRACE_SECONDS",
        default: "`20`",
        meaning: "How long requests and activities may take to end when the server stops",
    },
    Setting {
        name: "RUST_LOG",
        default: "`info`",
        meaning: "Which log lines are written",
    },
];

/// What the command line says, which wins over the environment.
#[derive(Debug, Clone, Default)]
pub struct ConfigOverrides {
    /// `--port`.
    pub port: Option<u16>,
    /// `--platform`.
    pub platform: Option<String>,
    /// `--mode`.
    pub mode: Option<String>,
}

/// Where instances run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformKind {
    /// Processes of this machine.
    Local,
}

/// Which parts of the server this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The API alone.
    Api,
    /// The workers alone.
    Worker,
    /// Both.
    All,
}

/// Files and directories of a toygres home.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The home itself.
    pub home: PathBuf,
    /// The log, JSON lines.
    pub server_log: PathBuf,
    /// The process id of the server that runs on this home.
    pub pid_file: PathBuf,
    /// Held locked by the server that runs on this home.
    pub lock_file: PathBuf,
    /// The key that encrypts credentials.
    pub master_key: PathBuf,
    /// The password of the embedded control database.
    pub control_password: PathBuf,
    /// PostgreSQL's directories: `control/` and `instances/`.
    pub postgres_home: PathBuf,
}

impl Paths {
    /// The paths that the environment says.
    ///
    /// # Errors
    /// `Config` if there is neither `TOYGRES_HOME` nor `HOME`.
    pub fn from_environment() -> Result<Self> {
        Self::read(&from_process)
    }

    fn read(variable: &Variables) -> Result<Self> {
        let chosen = variable("TOYGRES_HOME").map(PathBuf::from);
        let home = match (&chosen, variable("HOME")) {
            (Some(home), _) => home.clone(),
            (None, Some(home)) => PathBuf::from(home).join(".toygres"),
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Config,
                    "no_home",
                    "neither TOYGRES_HOME nor HOME is set",
                )
                .hint("set TOYGRES_HOME to a directory for toygres"));
            }
        };
        let home =
            std::path::absolute(&home).map_err(|cause| wrong("TOYGRES_HOME", "is no path").source(cause))?;
        // No other user can enter /root, and PostgreSQL refuses to run as root.
        let postgres_home = if chosen.is_none() && rustix::process::getuid().is_root() {
            PathBuf::from("/var/lib/toygres")
        } else {
            home.clone()
        };
        Ok(Self {
            server_log: home.join("server.log"),
            pid_file: home.join("server.pid"),
            lock_file: home.join("server.lock"),
            // Beside the data that they open: whoever comes with another home finds both or neither.
            master_key: postgres_home.join("master.key"),
            control_password: postgres_home.join("control.password"),
            postgres_home,
            home,
        })
    }
}

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Files and directories.
    pub paths: Paths,
    /// Address of the API.
    pub listen: SocketAddr,
    /// The control database; none: embedded.
    pub database_url: Option<Secret>,
    /// The key that encrypts credentials, in base64; none: the file.
    pub master_key: Option<Secret>,
    /// Where instances run.
    pub platform: PlatformKind,
    /// Which parts this process is.
    pub mode: Mode,
    /// The version of instances that do not name one; none: the newest there is.
    pub postgres_version: Option<PostgresVersion>,
    /// Loopback ports for local instances.
    pub local_ports: RangeInclusive<u16>,
    /// Time between two health checks of an instance.
    pub health_check_interval: Duration,
    /// A health check that takes longer has failed.
    pub health_check_timeout: Duration,
    /// A create without progress for so long has failed.
    pub create_deadline: Duration,
    /// How long requests and activities may take to end when the server stops.
    pub shutdown_grace: Duration,
    /// Which log lines are written.
    pub log_filter: String,
    /// Where programs are looked for.
    pub search_path: String,
}

type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

#[allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn from_process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn wrong(name: &str, why: &str) -> Error {
    Error::new(ErrorKind::Config, "bad_setting", format!("{name} {why}"))
        .hint("see the configuration table in README.md")
}

impl ServerConfig {
    /// Reads the environment and what the command line says.
    ///
    /// # Errors
    /// `Config` that names the setting that is wrong, and how.
    pub fn load(overrides: ConfigOverrides) -> Result<Self> {
        Self::read(overrides, &from_process)
    }

    /// Reads `variable` in place of the environment.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn read(overrides: ConfigOverrides, variable: &Variables) -> Result<Self> {
        let mut listen: SocketAddr = match variable("TOYGRES_LISTEN") {
            None => SocketAddr::from(([127, 0, 0, 1], 8080)),
            Some(text) => text
                .parse()
                .map_err(|_| wrong("TOYGRES_LISTEN", "must be like 127.0.0.1:8080"))?,
        };
        if let Some(port) = overrides.port {
            listen.set_port(port);
        }
        if !listen.ip().is_loopback() {
            return Err(wrong(
                "TOYGRES_LISTEN",
                "must be a loopback address: there are no API tokens yet",
            ));
        }
        let platform = match overrides
            .platform
            .or_else(|| variable("TOYGRES_PLATFORM"))
            .as_deref()
        {
            None | Some("local") => PlatformKind::Local,
            Some(_) => return Err(wrong("TOYGRES_PLATFORM (--platform)", "must be \"local\"")),
        };
        let mode = match overrides.mode.or_else(|| variable("TOYGRES_MODE")).as_deref() {
            None | Some("all") => Mode::All,
            Some("api") => Mode::Api,
            Some("worker") => Mode::Worker,
            Some(_) => {
                return Err(wrong(
                    "TOYGRES_MODE (--mode)",
                    "must be \"api\", \"worker\" or \"all\"",
                ));
            }
        };
        let database_url = variable("DATABASE_URL").map(Secret::new);
        if mode != Mode::All && database_url.is_none() {
            return Err(wrong(
                "TOYGRES_MODE (--mode)",
                "other than \"all\" needs DATABASE_URL: the embedded database serves one process",
            ));
        }
        let postgres_version = match variable("TOYGRES_POSTGRES_VERSION") {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|why| wrong("TOYGRES_POSTGRES_VERSION", &format!("{why}")))?,
            ),
        };
        Ok(Self {
            paths: Paths::read(variable)?,
            listen,
            database_url,
            master_key: variable("TOYGRES_MASTER_KEY").map(Secret::new),
            platform,
            mode,
            postgres_version,
            local_ports: ports(variable)?,
            health_check_interval: seconds(variable, "TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", 30)?,
            health_check_timeout: seconds(variable, "TOYGRES_HEALTH_CHECK_TIMEOUT_SECONDS", 5)?,
            create_deadline: seconds(variable, "TOYGRES_CREATE_DEADLINE_SECONDS", 900)?,
            shutdown_grace: seconds(variable, "TOYGRES_SHUTDOWN_GRACE_SECONDS", 20)?,
            log_filter: variable("RUST_LOG").unwrap_or_else(|| "info".to_owned()),
            search_path: variable("PATH").unwrap_or_default(),
        })
    }
}

fn seconds(variable: &Variables, name: &str, default: u64) -> Result<Duration> {
    let value = match variable(name) {
        None => default,
        Some(text) => text
            .parse()
            .ok()
            .filter(|s| (1..=86_400).contains(s))
            .ok_or_else(|| wrong(name, "must be a whole number of seconds from 1 to 86400"))?,
    };
    Ok(Duration::from_secs(value))
}

fn ports(variable: &Variables) -> Result<RangeInclusive<u16>> {
    let Some(text) = variable("TOYGRES_LOCAL_PORTS") else {
        return Ok(20_000..=29_999);
    };
    let range = text
        .split_once('-')
        .and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    range
        .filter(|range: &RangeInclusive<u16>| *range.start() >= 1024 && !range.is_empty())
        .ok_or_else(|| wrong("TOYGRES_LOCAL_PORTS", "must be like 20000-29999, not below 1024"))
}

/// The README's table of settings.
#[must_use]
pub fn settings_table() -> String {
    let mut table = String::from("| variable | default | meaning |\n|---|---|---|\n");
    for Setting {
        name,
        default,
        meaning,
    } in SETTINGS
    {
        let _ = writeln!(table, "| `{name}` | {default} | {meaning} |");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<ServerConfig> {
        let find = |name: &str| {
            let all = [("HOME", "/home/somebody")];
            let found = variables.iter().chain(&all).find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        ServerConfig::read(ConfigOverrides::default(), &find)
    }

    #[test]
    fn nothing_configured_works() {
        let config = read(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(
            config.paths.server_log,
            PathBuf::from("/home/somebody/.toygres/server.log")
        );
        assert!(config.database_url.is_none());
    }

    #[test]
    fn every_wrong_setting_is_refused_by_name() {
        for (name, value) in [
            ("TOYGRES_LISTEN", "nowhere"),
            ("TOYGRES_LISTEN", "0.0.0.0:8080"),
            ("TOYGRES_PLATFORM", "moon"),
            ("TOYGRES_MODE", "some"),
            ("TOYGRES_MODE", "api"),
            ("TOYGRES_POSTGRES_VERSION", "latest"),
            ("TOYGRES_LOCAL_PORTS", "2000"),
            ("TOYGRES_LOCAL_PORTS", "30000-20000"),
            ("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "0"),
            ("TOYGRES_CREATE_DEADLINE_SECONDS", "soon"),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert_eq!(error.code(), "bad_setting");
            assert!(error.message().contains(name), "{error}");
        }
    }

    #[test]
    fn secrets_do_not_show_when_the_configuration_is_printed() {
        let config = read(&[
            ("DATABASE_URL", "postgres://u:canary@h/d"),
            ("TOYGRES_MASTER_KEY", "canary"),
        ])
        .unwrap();
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn golden_readme_lists_every_setting() {
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
        assert!(
            readme.contains(&settings_table()),
            "put this into README.md:\n{}",
            settings_table()
        );
    }
}
