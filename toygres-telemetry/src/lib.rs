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

/// Never recorded, whatever the configured filter says: duroxide-pg opens INFO spans whose fields hold whole payloads
/// (design: "engine", fact 4), and the client of Kubernetes warns of an answer that it can't read with all of its
/// text, which may be a secret.
const NEVER_RECORDED: [&str; 2] = ["duroxide::providers::postgres=off", "kube_client::client=off"];

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
    let filter = || filter(&config.filter);
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

fn filter(directives: &str) -> Result<EnvFilter> {
    let mut filter = EnvFilter::try_new(directives).map_err(|cause| {
        Error::new(
            ErrorKind::Config,
            "log_filter",
            format!("the log filter {directives:?} can't be read"),
        )
        .hint("set RUST_LOG to something like \"info,toygres_server=debug\"")
        .source(cause)
    })?;
    for never in NEVER_RECORDED {
        let never = never.parse().map_err(|_| Error::internal("log directive"))?;
        filter = filter.add_directive(never);
    }
    Ok(filter)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_may_tell_secrets_is_not_recorded() {
        let written = Written::default();
        let writer = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_filter(filter("trace,kube_client=trace").unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(target: "duroxide::providers::postgres", "a payload");
            tracing::warn!(target: "kube_client::client", "a secret");
            tracing::debug!(target: "kube_client::config", "harmless");
        });
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(written.contains("harmless"), "{written}");
        assert!(
            !written.contains("a payload") && !written.contains("a secret"),
            "{written}"
        );
    }
}
