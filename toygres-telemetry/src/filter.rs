//! Which lines and spans go where.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use toygres_models::{Error, ErrorKind, Result};
use tracing::callsite::Identifier;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, FilterFn, LevelFilter, ParseError, Targets};
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
    // What reads them takes a space before one for a part of it, and may panic on that.
    let directives = &directives.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    // Those that name spans and fields keep track of every step into and out of a span, which has its price.
    // Not by directives of one's own: one that names a span holds for everything within it.
    let recorded = FilterFn::new(|metadata| !is_never_recorded(metadata.target()))
        .with_max_level_hint(LevelFilter::TRACE);
    if !directives.contains('[') {
        let targets: Targets = directives
            .parse()
            .map_err(|cause: ParseError| unreadable(cause.into()))?;
        return Ok(Box::new(targets.and(recorded)));
    }
    let filter = EnvFilter::try_new(directives).map_err(|cause| unreadable(cause.into()))?;
    Ok(Box::new(filter.and(recorded)))
}

fn is_never_recorded(target: &str) -> bool {
    NEVER_RECORDED.iter().any(|never| {
        let below = target.strip_prefix(never);
        below.is_some_and(|below| below.is_empty() || below.starts_with("::"))
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tracing::{Event, Subscriber};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt};

    /// Counts what is written of each target.
    #[derive(Default, Clone)]
    struct Written(Arc<[AtomicUsize; 2]>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let secret = usize::from(is_never_recorded(event.metadata().target()));
            self.0[secret].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines of two are written by these directives, if they are some: none may be that holds secrets.
    fn written(directives: &str) -> Option<usize> {
        let filter = match by_directives(directives) {
            Ok(filter) => filter,
            Err(error) => {
                assert_eq!((error.kind(), error.code()), (ErrorKind::Config, "log_filter"));
                return None;
            }
        };
        let written = Written::default();
        let subscriber = Registry::default().with(written.clone().with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", user_name = "somebody");
            let _within = span.enter();
            tracing::info!("a line");
            tracing::warn!(target: "kube_client::client", "a secret");
            tracing::error!(target: "kube_client::client::more", "a secret");
            tracing::info!(target: "duroxide::providers::postgres", "a payload");
        });
        assert_eq!(written.0[1].load(Ordering::Relaxed), 0, "{directives}");
        Some(written.0[0].load(Ordering::Relaxed))
    }

    #[test]
    fn secrets_are_not_recorded_whatever_the_filter_says() {
        for (directives, lines) in [
            ("info", 1),
            ("error", 0),
            (
                "trace,kube_client::client=trace,kube_client::client::more=trace",
                1,
            ),
            ("off,[request]=trace", 1),
            ("off, [request]=trace", 1),
            ("error, toygres_telemetry=info", 1),
            (" é[request]=trace", 0),
            ("error,kube_client::client[request{user_name=somebody}]=trace", 0),
        ] {
            assert_eq!(written(directives), Some(lines), "{directives}");
        }
        assert_eq!(written("a=b=c"), None);
    }

    #[test]
    fn fuzz_directives() {
        bolero::check!().for_each(|bytes: &[u8]| {
            written(&String::from_utf8_lossy(bytes));
        });
    }

    proptest! {
        #[test]
        fn whatever_the_filter_says_secrets_are_not_recorded(
            any in ".*",
            near in "((kube_client::client|duroxide|x)?(\\[(request)?(\\{user_name(=[a-z]{0,3})?\\})?\\])?\
                (=(trace|off|[0-9a-z]))?,?){0,3}",
        ) {
            for text in [any, near] {
                written(&text);
            }
        }
    }
}
