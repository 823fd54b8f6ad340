//! Configuration: the one place that reads the environment.

mod kubernetes;
mod pruning;
mod settings;

pub use pruning::Pruning;
pub use settings::settings_table;

use axum::http::HeaderValue;
use settings::{SETTINGS, Setting};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toygres_models::quotas::QuotaLimits;
use toygres_models::server::{EffectiveSetting, SettingOrigin};
use toygres_models::{Error, ErrorKind, PostgresVersion, Result, Secret};
use toygres_platform::kubernetes::KubernetesConfig;
use toygres_telemetry::TelemetryConfig;

const DEFAULT_RATE_LIMIT: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
const DEFAULT_MAX_CONNECTIONS: usize = 4096;
const DEFAULT_MAX_STREAMS: usize = 2048;

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
#[derive(Debug, Clone)]
pub enum PlatformKind {
    /// Processes of this machine.
    Local,
    /// A Kubernetes cluster.
    Kubernetes(Box<KubernetesConfig>),
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

impl Mode {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::All => "all",
        }
    }
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
    /// SHA-256, in hexadecimal, of the token that `toygres server bootstrap-token` made.
    pub bootstrap_token_hash: PathBuf,
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
            bootstrap_token_hash: home.join("bootstrap-token.sha256"),
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
    /// Certificate and private key of the API; none: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Holds a token of the scope `admin`.
    pub bootstrap_token_file: Option<PathBuf>,
    /// Origins whose web pages may call the API.
    pub cors_origins: Vec<HeaderValue>,
    /// Requests of one client a second.
    pub rate_limit_per_second: NonZeroU32,
    /// Connections to the API at once.
    pub max_connections: usize,
    /// Streams of events and logs at once.
    pub max_streams: usize,
    /// What owners may have that have no quota of their own.
    pub default_quota: QuotaLimits,
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
    /// How long a server that is told to stop goes on serving before it does.
    pub shutdown_delay: Duration,
    /// How long the control database keeps what is over.
    pub pruning: Pruning,
    /// What it tells of itself, and to whom.
    pub telemetry: TelemetryConfig,
    /// Where programs are looked for.
    pub search_path: String,
    /// All of it as it is in effect, for people.
    pub effective: Vec<EffectiveSetting>,
}

/// Where the API's certificate is.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

#[allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn from_process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// How telemetry is configured, also for programs that only ask a server.
#[must_use]
pub fn telemetry() -> TelemetryConfig {
    TelemetryConfig::read(&from_process)
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
        let effective = effective(&overrides, variable, listen);
        let tls = tls_files(variable)?;
        let terminated = match variable("TOYGRES_TLS_TERMINATED").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(wrong("TOYGRES_TLS_TERMINATED", "must be \"true\" or \"false\"")),
        };
        if !listen.ip().is_loopback() && tls.is_none() && !terminated {
            return Err(wrong(
                "TOYGRES_LISTEN",
                "is beyond loopback, where tokens and passwords must not travel in the clear: set \
                 TOYGRES_TLS_CERTIFICATE_FILE and TOYGRES_TLS_KEY_FILE, or TOYGRES_TLS_TERMINATED=true behind a proxy \
                 that does TLS",
            ));
        }
        let platform = match overrides
            .platform
            .or_else(|| variable("TOYGRES_PLATFORM"))
            .as_deref()
        {
            None | Some("local") => PlatformKind::Local,
            Some("kubernetes") => PlatformKind::Kubernetes(Box::new(kubernetes::read(variable)?)),
            Some(_) => {
                return Err(wrong(
                    "TOYGRES_PLATFORM (--platform)",
                    "must be \"local\" or \"kubernetes\"",
                ));
            }
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
            tls,
            bootstrap_token_file: variable("TOYGRES_BOOTSTRAP_TOKEN_FILE").map(PathBuf::from),
            cors_origins: cors_origins(variable)?,
            rate_limit_per_second: number(variable, "TOYGRES_RATE_LIMIT_PER_SECOND", 1, 1_000_000)?
                .and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?))
                .unwrap_or(DEFAULT_RATE_LIMIT),
            max_connections: number(variable, "TOYGRES_MAX_CONNECTIONS", 1, 1_000_000)?
                .and_then(|number| usize::try_from(number).ok())
                .unwrap_or(DEFAULT_MAX_CONNECTIONS),
            max_streams: number(variable, "TOYGRES_MAX_STREAMS", 1, 1_000_000)?
                .and_then(|number| usize::try_from(number).ok())
                .unwrap_or(DEFAULT_MAX_STREAMS),
            default_quota: QuotaLimits {
                max_instances: number(variable, "TOYGRES_QUOTA_INSTANCES", 0, 1_000_000_000)?,
                max_storage_gb: number(variable, "TOYGRES_QUOTA_STORAGE_GB", 0, 1_000_000_000)?,
            },
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
            shutdown_delay: number(variable, "TOYGRES_SHUTDOWN_DELAY_SECONDS", 0, 3600)?
                .and_then(|number| u64::try_from(number).ok())
                .map_or(Duration::ZERO, Duration::from_secs),
            pruning: pruning::read(variable)?,
            telemetry: TelemetryConfig::read(variable),
            search_path: variable("PATH").unwrap_or_default(),
            effective,
        })
    }
}

/// What is in effect, and who said so.
fn effective(overrides: &ConfigOverrides, variable: &Variables, listen: SocketAddr) -> Vec<EffectiveSetting> {
    let flag = |name: &str| match name {
        "TOYGRES_LISTEN" => overrides.port.map(|_| listen.to_string()),
        "TOYGRES_PLATFORM" => overrides.platform.clone(),
        "TOYGRES_MODE" => overrides.mode.clone(),
        _ => None,
    };
    let show = |setting: &Setting| {
        let (value, origin) = match (flag(setting.name), variable(setting.name)) {
            (Some(value), _) => (Some(value), SettingOrigin::Flag),
            (None, Some(_)) if setting.secret => (Some("[redacted]".to_owned()), SettingOrigin::Environment),
            (None, Some(value)) => (Some(value), SettingOrigin::Environment),
            (None, None) => {
                let default = setting.default.trim_matches('`');
                (
                    (default != "none").then(|| default.to_owned()),
                    SettingOrigin::Default,
                )
            }
        };
        EffectiveSetting {
            name: setting.name.to_owned(),
            value,
            origin,
            meaning: setting.meaning.replace('`', ""),
        }
    };
    SETTINGS.iter().map(show).collect()
}

fn tls_files(variable: &Variables) -> Result<Option<TlsFiles>> {
    match (
        variable("TOYGRES_TLS_CERTIFICATE_FILE"),
        variable("TOYGRES_TLS_KEY_FILE"),
    ) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate: certificate.into(),
            key: key.into(),
        })),
        (Some(_), None) => Err(wrong(
            "TOYGRES_TLS_CERTIFICATE_FILE",
            "needs TOYGRES_TLS_KEY_FILE beside it",
        )),
        (None, Some(_)) => Err(wrong(
            "TOYGRES_TLS_KEY_FILE",
            "needs TOYGRES_TLS_CERTIFICATE_FILE beside it",
        )),
    }
}

fn cors_origins(variable: &Variables) -> Result<Vec<HeaderValue>> {
    let text = variable("TOYGRES_CORS_ORIGINS").unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|origin| !origin.is_empty())
        .map(|origin| {
            let host = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            host.filter(|host| !host.is_empty() && !host.contains(['/', '*']))
                .and_then(|_| HeaderValue::from_str(origin).ok())
                .ok_or_else(|| {
                    wrong(
                        "TOYGRES_CORS_ORIGINS",
                        "must be origins such as https://console.example.com",
                    )
                })
        })
        .collect()
}

fn number(variable: &Variables, name: &str, least: i64, most: i64) -> Result<Option<i64>> {
    let Some(text) = variable(name) else {
        return Ok(None);
    };
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .map(Some)
        .ok_or_else(|| wrong(name, &format!("must be a whole number from {least} to {most}")))
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
            ("TOYGRES_TLS_KEY_FILE", "/certificate"),
            ("TOYGRES_TLS_CERTIFICATE_FILE", "/key"),
            ("TOYGRES_TLS_TERMINATED", "perhaps"),
            ("TOYGRES_CORS_ORIGINS", "*"),
            ("TOYGRES_CORS_ORIGINS", "https://a.example/path"),
            ("TOYGRES_RATE_LIMIT_PER_SECOND", "0"),
            ("TOYGRES_MAX_STREAMS", "-1"),
            ("TOYGRES_QUOTA_INSTANCES", "many"),
            ("TOYGRES_PLATFORM", "moon"),
            ("TOYGRES_MODE", "some"),
            ("TOYGRES_MODE", "api"),
            ("TOYGRES_POSTGRES_VERSION", "latest"),
            ("TOYGRES_LOCAL_PORTS", "2000"),
            ("TOYGRES_LOCAL_PORTS", "30000-20000"),
            ("TOYGRES_HEALTH_CHECK_INTERVAL_SECONDS", "0"),
            ("TOYGRES_CREATE_DEADLINE_SECONDS", "soon"),
            ("TOYGRES_SHUTDOWN_DELAY_SECONDS", "-1"),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert_eq!(error.code(), "bad_setting");
            assert!(error.message().contains(name), "{error}");
        }
    }

    #[test]
    fn beyond_loopback_it_takes_tls_here_or_in_front() {
        let beyond = ("TOYGRES_LISTEN", "0.0.0.0:8080");
        assert!(read(&[beyond, ("TOYGRES_TLS_TERMINATED", "true")]).is_ok());
        let files = [
            ("TOYGRES_TLS_CERTIFICATE_FILE", "/c"),
            ("TOYGRES_TLS_KEY_FILE", "/k"),
        ];
        assert!(read(&[beyond, files[0], files[1]]).is_ok());
        assert!(read(&[beyond]).is_err());
    }

    #[test]
    fn each_value_is_shown_with_who_said_it() {
        let config = read(&[
            ("TOYGRES_MODE", "all"),
            ("DATABASE_URL", "postgres://u:canary@h/d"),
        ])
        .unwrap();
        let of = |name: &str| {
            let setting = config.effective.iter().find(|s| s.name == name).unwrap();
            (setting.value.as_deref(), setting.origin)
        };
        assert_eq!(of("TOYGRES_MODE"), (Some("all"), SettingOrigin::Environment));
        assert_eq!(
            of("DATABASE_URL"),
            (Some("[redacted]"), SettingOrigin::Environment)
        );
        assert_eq!(
            of("TOYGRES_LISTEN"),
            (Some("127.0.0.1:8080"), SettingOrigin::Default)
        );
        assert_eq!(of("TOYGRES_CORS_ORIGINS"), (None, SettingOrigin::Default));
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

    /// As the value of the setting that is at this place of the list.
    fn is_taken_or_named(at: usize, value: &str) {
        let name = settings::SETTINGS[at].name;
        for platform in ["local", "kubernetes"] {
            let others = [
                ("TOYGRES_PLATFORM", platform),
                ("TOYGRES_HOME", "/nowhere"),
                ("DATABASE_URL", "postgres://127.0.0.1/x"),
            ];
            let others: Vec<_> = others.into_iter().filter(|(other, _)| *other != name).collect();
            if let Err(error) = read(&[others, vec![(name, value)]].concat()) {
                assert_eq!(error.kind(), ErrorKind::Config);
                let said = format!("{error} {}", error.detail());
                assert!(
                    said.contains(name) || said.contains("/nowhere"),
                    "{name} {value}: {said}"
                );
            }
        }
    }

    #[test]
    fn fuzz_setting() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Some((at, value)) = bytes.split_first() {
                let at = usize::from(*at) % settings::SETTINGS.len();
                is_taken_or_named(at, &String::from_utf8_lossy(value));
            }
        });
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_setting_is_it_is_taken_or_named(
            at in 0..settings::SETTINGS.len(),
            value in proptest::prop_oneof![
                ".*", "-?[0-9]{1,25}", "[a-z0-9.,:/=-]{1,40}", "(https?://)?[a-z.:0-9]{1,20}(,[a-z*]{0,9}){0,3}",
            ],
        ) {
            is_taken_or_named(at, &value);
        }
    }
}
