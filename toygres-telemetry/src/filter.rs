//! Which lines and spans go where.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use toygres_models::{Error, ErrorKind, Result};
use tracing::callsite::Identifier;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::{EnvFilter, Registry};

/// Never recorded, whatever the configured filter says: duroxide-pg opens INFO spans whose fields hold whole payloads
/// (design: "engine", fact 4), and the client of Kubernetes warns of an answer that it can't read with all of its
/// text, which may be a secret.
const NEVER_RECORDED: [&str; 2] = ["duroxide::providers::postgres", "kube_client::client"];

/// What the exporters themselves are made of. Exported, each line of theirs would make another.
const PLUMBING: [&str; 8] = [
    "h2",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "tonic",
    "tower",
];

/// The exporters say of each batch that it failed. Of each place in their code one line in so long is enough.
const CALM: Duration = Duration::from_secs(60);

/// What `RUST_LOG` says is written.
pub(crate) type Directives = Box<dyn Filter<Registry> + Send + Sync>;

/// The filter that these directives are.
pub(crate) fn by_directives(directives: &str) -> Result<Directives> {
    let unreadable = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(
            ErrorKind::Config,
            "log_filter",
            format!("the log filter {directives:?} can't be read"),
        )
        .hint("set RUST_LOG to something like \"info,toygres_server=debug\"")
        .source(cause)
    };
    // Those that name spans and fields keep track of every step into and out of a span, which has its price.
    if !directives.contains('[') {
        let mut targets: Targets = directives
            .parse()
            .map_err(|cause: ParseError| unreadable(cause.into()))?;
        for never in NEVER_RECORDED {
            targets = targets.with_target(never, LevelFilter::OFF);
        }
        return Ok(Box::new(targets));
    }
    let mut filter = EnvFilter::try_new(directives).map_err(|cause| unreadable(cause.into()))?;
    for never in NEVER_RECORDED {
        let never = format!("{never}=off").parse();
        filter = filter.add_directive(never.map_err(|_| Error::internal("log directive"))?);
    }
    Ok(Box::new(filter))
}

/// Whether this is said by what the exporters are made of.
pub(crate) fn is_plumbing(target: &str) -> bool {
    // Targets of OpenTelemetry are package names, with hyphens.
    let krate = target.split("::").next().unwrap_or_default().replace('-', "_");
    PLUMBING.contains(&krate.as_str())
}

/// What the exporters say, seldom. Each place that is written to has one of its own.
#[derive(Default)]
pub(crate) struct Calm(Mutex<HashMap<Identifier, Instant>>);

impl Calm {
    /// Whether this may be said now: of what the exporters say warnings only, each once in a while.
    pub(crate) fn allows(&self, metadata: &Metadata<'_>) -> bool {
        if !is_plumbing(metadata.target()) {
            return true;
        }
        if *metadata.level() > Level::WARN {
            return false;
        }
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said.get(&metadata.callsite()) {
            Some(at) if at.elapsed() < CALM => false,
            _ => {
                said.insert(metadata.callsite(), Instant::now());
                true
            }
        }
    }
}
