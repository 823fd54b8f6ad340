//! Logs: one tracing registry that writes to the console and, as JSON lines, to `server.log`.

mod json;

use std::path::PathBuf;
use toygres_models::{Error, ErrorKind, Result};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Days of log files that are kept.
const LOG_FILES_KEPT: usize = 14;

/// duroxide-pg opens INFO spans whose fields hold whole payloads (design: "engine", fact 4): never recorded,
/// whatever the configured filter says.
const NEVER_RECORDED: &str = "duroxide::providers::postgres=off";

/// How log lines look on the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleFormat {
    /// For people.
    Pretty,
    /// For programs: the same lines as in the file.
    Json,
}

/// Where logs go and which.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// The JSON file, `server.log`: a link to the day's file beside it. None: no file.
    pub file: Option<PathBuf>,
    /// The console (standard error). None: nothing there.
    pub console: Option<ConsoleFormat>,
    /// Directives as in `RUST_LOG`, such as `info,toygres_server=debug`.
    pub filter: String,
}

/// Keeps the file writer going; when it is dropped, what is buffered is written.
#[must_use = "dropping it ends the log file"]
pub struct LogGuard {
    _file: Option<WorkerGuard>,
}

/// Installs the process's subscriber. Must come before the engine starts, which would install its own.
///
/// # Errors
/// `Config` if the filter can't be read, the file can't be opened, or a subscriber is already there.
pub fn init(config: &LogConfig) -> Result<LogGuard> {
    let filter = || -> Result<EnvFilter> {
        let filter = EnvFilter::try_new(&config.filter).map_err(|cause| {
            Error::new(
                ErrorKind::Config,
                "log_filter",
                format!("the log filter {:?} can't be read", config.filter),
            )
            .hint("set RUST_LOG to something like \"info,toygres_server=debug\"")
            .source(cause)
        })?;
        Ok(filter.add_directive(
            NEVER_RECORDED
                .parse()
                .map_err(|_| Error::internal("log directive"))?,
        ))
    };

    let (file_layer, guard) = match &config.file {
        None => (None, None),
        Some(path) => {
            let (writer, guard) = tracing_appender::non_blocking(open(path)?);
            let layer = tracing_subscriber::fmt::layer()
                .fmt_fields(tracing_subscriber::fmt::format::JsonFields::new())
                .event_format(json::Flat)
                .with_writer(writer)
                .with_filter(filter()?);
            (Some(layer), Some(guard))
        }
    };
    let console_layer = match config.console {
        None => None,
        Some(ConsoleFormat::Pretty) => Some(
            tracing_subscriber::fmt::layer()
                .with_target(false)
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .with_writer(std::io::stderr)
                .with_filter(filter()?)
                .boxed(),
        ),
        Some(ConsoleFormat::Json) => Some(
            tracing_subscriber::fmt::layer()
                .fmt_fields(tracing_subscriber::fmt::format::JsonFields::new())
                .event_format(json::Flat)
                .with_writer(std::io::stderr)
                .with_filter(filter()?)
                .boxed(),
        ),
    };
    tracing_subscriber::registry()
        .with(file_layer)
        .with(console_layer)
        .try_init()
        .map_err(|cause| {
            Error::new(
                ErrorKind::Config,
                "log_subscriber",
                "logging is already set up in this process",
            )
            .source(cause)
        })?;
    Ok(LogGuard { _file: guard })
}

fn open(path: &std::path::Path) -> Result<RollingFileAppender> {
    let failed = |why: String| {
        Error::new(
            ErrorKind::Config,
            "log_file",
            format!("the log file {} can't be opened", path.display()),
        )
        .context(why)
    };
    let (Some(directory), Some(name), Some(stem)) = (path.parent(), path.file_name(), path.file_stem())
    else {
        return Err(failed("it has no name".to_owned()));
    };
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix(stem.to_string_lossy())
        .filename_suffix(path.extension().unwrap_or_default().to_string_lossy())
        .max_log_files(LOG_FILES_KEPT)
        .latest_symlink(name.to_string_lossy())
        .build(directory)
        .map_err(|cause| failed(cause.to_string()))
}
