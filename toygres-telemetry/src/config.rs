//! How telemetry is configured: by OpenTelemetry's own variables, and by `DUROXIDE_*`.
//!
//! Telemetry is no reason not to run: a value that can't be read is named in a warning, and the default is used.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use toygres_models::Secret;

/// Where a collector on the same machine listens.
const DEFAULT_ENDPOINT: &str = "http://localhost:4317";
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Records that wait to be sent, of each signal: bounds the memory while no collector answers.
const DEFAULT_QUEUE: usize = 8192;

/// How log lines look on the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleFormat {
    /// For people.
    Pretty,
    /// For people, a line each without colours and with all fields.
    Compact,
    /// For programs: the same lines as in the file.
    Json,
}

/// Which metrics are kept, and how many series there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// `DUROXIDE_METRICS_ORCHESTRATION`.
    pub orchestration: bool,
    /// `DUROXIDE_METRICS_ACTIVITY`.
    pub activity: bool,
    /// `DUROXIDE_METRICS_PROVIDER`.
    pub provider: bool,
    /// `DUROXIDE_METRICS_WORKER`.
    pub worker: bool,
    /// From `DUROXIDE_METRICS_SAMPLE_RATE`: of the successes of an activity every n-th is recorded, n times over, so
    /// that rates stay true. Failures are all recorded.
    pub sample_every: u32,
    /// `DUROXIDE_METRICS_INCLUDE_ERROR_MESSAGES`.
    pub include_error_messages: bool,
    /// `DUROXIDE_METRICS_MAX_LABEL_VALUES`: different values of a label of a metric; what comes later is `other`.
    pub max_label_values: usize,
    /// The same of codes and messages of errors.
    pub max_error_types: usize,
    /// The same of the names of activities.
    pub max_activity_names: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            orchestration: true,
            activity: true,
            provider: true,
            worker: true,
            sample_every: 1,
            include_error_messages: false,
            max_label_values: 1000,
            max_error_types: 100,
            max_activity_names: 500,
        }
    }
}

impl MetricsConfig {
    /// How many different values this label may have.
    pub(crate) fn most_values(&self, label: &str) -> usize {
        let most = match label {
            "error_code" | "error_message" => self.max_error_types,
            "activity_name" => self.max_activity_names,
            _ => self.max_label_values,
        };
        most.min(self.max_label_values)
    }
}

/// The collector that a signal goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Its URL, `http://` or `https://`.
    pub endpoint: String,
    /// Sent with each request: tokens, often.
    pub headers: BTreeMap<String, Secret>,
    /// An answer that takes longer is none.
    pub timeout: Duration,
    /// Whether what is sent is compressed, by gzip.
    pub compressed: bool,
}

/// Files for TLS, PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Who may have signed the collector's certificate; none: the public authorities.
    pub authority: Option<PathBuf>,
    /// toygres's own certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Where signals are exported to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpConfig {
    /// Of logs.
    pub logs: Destination,
    /// Of traces.
    pub traces: Destination,
    /// Of metrics.
    pub metrics: Destination,
    /// For all of them.
    pub tls: TlsConfig,
    /// Between two exports of metrics.
    pub metric_interval: Duration,
    /// Log records that wait at most.
    pub log_queue: usize,
    /// Spans that wait at most.
    pub span_queue: usize,
}

/// Everything about telemetry.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// The JSON file, `server.log`: a link to the day's file beside it. None: no file.
    pub file: Option<PathBuf>,
    /// The console (standard error). None: nothing there.
    pub console: Option<ConsoleFormat>,
    /// Which lines, as in `RUST_LOG`: `info,toygres_server=debug`.
    pub filter: String,
    /// `service.name`.
    pub service_name: String,
    /// `service.version`.
    pub service_version: String,
    /// `service.instance.id`: one a process.
    pub service_instance_id: String,
    /// Further attributes of the resource.
    pub attributes: Vec<(String, String)>,
    /// `OTEL_SDK_DISABLED`: no traces, not even their ids.
    pub traces_off: bool,
    /// None: nothing is exported.
    pub otlp: Option<OtlpConfig>,
    /// Which metrics.
    pub metrics: MetricsConfig,
    /// What could not be read, and what holds instead.
    pub warnings: Vec<String>,
}

struct Reader<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    /// The value as `parse` reads it, else the default and a warning. The value itself is not told: it may be a secret.
    fn read<T>(&mut self, name: &str, what: &str, default: T, parse: impl Fn(&str) -> Option<T>) -> T {
        let Some(text) = (self.variable)(name) else {
            return default;
        };
        if let Some(value) = parse(text.trim()) {
            return value;
        }
        let warning = format!("{name} is not {what}: its default holds");
        // A variable of all signals is read for each of them.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
        default
    }

    fn flag(&mut self, name: &str, default: bool) -> bool {
        self.read(name, "\"true\" or \"false\"", default, boolean)
    }

    fn number(&mut self, name: &str, default: usize) -> usize {
        self.read(name, "a whole number from 1", default, |text| {
            text.parse().ok().filter(|number| *number > 0)
        })
    }

    /// The value of a signal's own variable, else of the common one.
    fn of_signal<T: Clone>(
        &mut self,
        signal: &str,
        name: &str,
        what: &str,
        default: T,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let common = self.read(&format!("OTEL_EXPORTER_OTLP_{name}"), what, default, &parse);
        self.read(
            &format!("OTEL_EXPORTER_OTLP_{signal}_{name}"),
            what,
            common,
            &parse,
        )
    }

    fn destination(&mut self, signal: &str) -> Destination {
        let gzip = |text: &str| match text {
            "gzip" => Some(true),
            "none" => Some(false),
            _ => None,
        };
        let is_url = |text: &str| {
            let rest = text
                .strip_prefix("http://")
                .or_else(|| text.strip_prefix("https://"));
            rest.filter(|rest| !rest.is_empty()).map(|_| text.to_owned())
        };
        let what = "a URL such as http://localhost:4317";
        let grpc = |text: &str| (text == "grpc").then_some(());
        self.of_signal(signal, "PROTOCOL", "\"grpc\", the one that is spoken", (), grpc);
        Destination {
            endpoint: self.of_signal(signal, "ENDPOINT", what, DEFAULT_ENDPOINT.to_owned(), is_url),
            headers: self.of_signal(
                signal,
                "HEADERS",
                "like name=value,name=value",
                BTreeMap::new(),
                headers,
            ),
            timeout: self.of_signal(
                signal,
                "TIMEOUT",
                "a number of milliseconds",
                DEFAULT_TIMEOUT,
                milliseconds,
            ),
            compressed: self.of_signal(signal, "COMPRESSION", "\"gzip\" or \"none\"", false, gzip),
        }
    }

    fn otlp(&mut self) -> OtlpConfig {
        let file = |text: &str| (!text.is_empty()).then(|| Some(PathBuf::from(text)));
        let mut path = |name: &str| self.read(name, "a path", None, file);
        let tls = TlsConfig {
            authority: path("OTEL_EXPORTER_OTLP_CERTIFICATE"),
            certificate: path("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
            key: path("OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        };
        OtlpConfig {
            logs: self.destination("LOGS"),
            traces: self.destination("TRACES"),
            metrics: self.destination("METRICS"),
            tls,
            metric_interval: self.read(
                "OTEL_METRIC_EXPORT_INTERVAL",
                "a number of milliseconds",
                DEFAULT_INTERVAL,
                milliseconds,
            ),
            log_queue: self.number("OTEL_BLRP_MAX_QUEUE_SIZE", DEFAULT_QUEUE),
            span_queue: self.number("OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_QUEUE),
        }
    }

    fn metrics(&mut self) -> MetricsConfig {
        let defaults = MetricsConfig::default();
        let rate = |text: &str| {
            let rate: f64 = text.parse().ok()?;
            // Every n-th, so that each stands for a whole number of others.
            (0.0001..=1.0)
                .contains(&rate)
                .then(|| (1.0 / rate).round() as u32)
        };
        MetricsConfig {
            orchestration: self.flag("DUROXIDE_METRICS_ORCHESTRATION", true),
            activity: self.flag("DUROXIDE_METRICS_ACTIVITY", true),
            provider: self.flag("DUROXIDE_METRICS_PROVIDER", true),
            worker: self.flag("DUROXIDE_METRICS_WORKER", true),
            sample_every: self.read(
                "DUROXIDE_METRICS_SAMPLE_RATE",
                "a rate from 0.0001 to 1.0",
                1,
                rate,
            ),
            include_error_messages: self.flag("DUROXIDE_METRICS_INCLUDE_ERROR_MESSAGES", false),
            max_label_values: self.number("DUROXIDE_METRICS_MAX_LABEL_VALUES", defaults.max_label_values),
            ..defaults
        }
    }
}

impl TelemetryConfig {
    /// What the environment says, read by `variable`. Never fails: see [`warnings`](Self::warnings).
    #[must_use]
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut reader = Reader {
            variable,
            warnings: Vec::new(),
        };
        let named = |signal: &str| variable(&format!("OTEL_EXPORTER_OTLP_{signal}ENDPOINT")).is_some();
        let is_named = ["", "LOGS_", "TRACES_", "METRICS_"].into_iter().any(named);
        let is_off = reader.flag("OTEL_SDK_DISABLED", false);
        let is_on = reader.flag("DUROXIDE_OBSERVABILITY_ENABLED", is_named) && !is_off;
        let level = |text: &str| {
            let known = ["trace", "debug", "info", "warn", "error", "off"];
            known.contains(&text).then(|| text.to_owned())
        };
        let what = "a level such as info or debug";
        let level = reader.read("DUROXIDE_LOG_LEVEL", what, String::new(), level);
        let base = variable("RUST_LOG").unwrap_or_else(|| "info".to_owned());
        let filter = match level.is_empty() {
            true => base,
            // Said of duroxide; RUST_LOG may still say more of a part of it.
            false => format!("duroxide={level},{base}"),
        };
        let format = |text: &str| match text {
            "json" => Some(Some(ConsoleFormat::Json)),
            "pretty" => Some(Some(ConsoleFormat::Pretty)),
            "compact" => Some(Some(ConsoleFormat::Compact)),
            _ => None,
        };
        let what = "\"json\", \"pretty\" or \"compact\"";
        let console = reader.read("DUROXIDE_LOG_FORMAT", what, None, format);
        let pairs = |text: &str| pairs(text);
        let what = "like key=value,key=value";
        let attributes = reader.read("OTEL_RESOURCE_ATTRIBUTES", what, Vec::new(), pairs);
        let of_resource = |key: &str| {
            let found = attributes.iter().find(|(name, _)| name == key);
            found.map(|(_, value)| value.clone())
        };
        let named = |name: &str, key: &str, default: &str| {
            let own = variable(name).or_else(|| of_resource(key));
            own.unwrap_or_else(|| default.to_owned())
        };
        Self {
            file: None,
            console,
            filter,
            service_name: named("OTEL_SERVICE_NAME", "service.name", "toygres"),
            service_version: named(
                "OTEL_SERVICE_VERSION",
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ),
            service_instance_id: named("", "service.instance.id", &uuid::Uuid::new_v4().to_string()),
            traces_off: is_off,
            otlp: is_on.then(|| reader.otlp()),
            metrics: reader.metrics(),
            attributes,
            warnings: reader.warnings,
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=86_400_000).contains(number));
    number.map(Duration::from_millis)
}

fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let (key, value) = (key.trim(), value.trim());
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn headers(text: &str) -> Option<BTreeMap<String, Secret>> {
    let pairs = pairs(text)?;
    let secret = |(key, value): (String, String)| (key.to_ascii_lowercase(), Secret::new(value));
    Some(pairs.into_iter().map(secret).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use toygres_models::ErrorKind;

    fn read(variables: &[(&str, &str)]) -> TelemetryConfig {
        TelemetryConfig::read(&|name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn fuzz_environment() {
        bolero::check!().for_each(|bytes: &[u8]| {
            is_taken_or_warned_of(&String::from_utf8_lossy(bytes));
        });
    }

    /// As the value of every variable: any of them may be a token in the wrong place, which nobody is told.
    fn is_taken_or_warned_of(text: &str) {
        for value in [text.to_owned(), format!("{text}canary\u{7f}")] {
            let config = TelemetryConfig::read(&|_| Some(value.clone()));
            assert!(
                config
                    .warnings
                    .iter()
                    .all(|warning| !warning.contains("canary\u{7f}"))
            );
            assert!(config.metrics.sample_every >= 1 && config.metrics.max_label_values >= 1);
        }
        let on = |name: &str| match name {
            "DUROXIDE_OBSERVABILITY_ENABLED" => Some("true".to_owned()),
            name if name.ends_with("HEADERS") => Some(format!("authorization={text}canary\u{7f}")),
            _ => None,
        };
        let otlp = TelemetryConfig::read(&on).otlp.unwrap();
        // No header can hold that character.
        if let Err(error) = crate::otlp::metadata(&otlp.logs) {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Config, "bad_telemetry"));
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_variable_is_it_is_taken_or_warned_of(
            any in ".*", near in "(true|-?[0-9]{1,22}|[0-9.e-]{1,6}|https?://.{0,9}|([a-z ]{0,3}=?[a-z ]{0,3},?){0,4})",
        ) {
            for text in [any, near] {
                is_taken_or_warned_of(&text);
            }
        }
    }

    #[test]
    fn without_a_word_nothing_is_exported() {
        let config = read(&[]);
        assert_eq!(config.otlp, None);
        assert_eq!(config.metrics, MetricsConfig::default());
        assert_eq!(
            (config.filter.as_str(), config.service_name.as_str()),
            ("info", "toygres")
        );
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn naming_a_collector_or_asking_for_it_switches_export_on() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let named = read(&[endpoint]).otlp.unwrap();
        assert_eq!(named.metrics.endpoint, "http://collector:4317");
        let asked = read(&[("DUROXIDE_OBSERVABILITY_ENABLED", "true")]).otlp.unwrap();
        assert_eq!(asked.logs.endpoint, DEFAULT_ENDPOINT);
        assert_eq!(asked.metric_interval, Duration::from_secs(10));
        for off in [
            ("DUROXIDE_OBSERVABILITY_ENABLED", "false"),
            ("OTEL_SDK_DISABLED", "true"),
        ] {
            assert_eq!(read(&[endpoint, off]).otlp, None);
        }
    }

    #[test]
    fn a_signals_own_variable_wins_over_the_common_one() {
        let otlp = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer canary"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ])
        .otlp
        .unwrap();
        assert_eq!(otlp.logs.endpoint, "http://all:4317");
        assert_eq!(otlp.traces.endpoint, "https://traces:4317");
        assert!(otlp.logs.compressed && !otlp.metrics.compressed);
        assert_eq!(otlp.metrics.timeout, Duration::from_millis(2500));
        assert_eq!(otlp.metric_interval, Duration::from_millis(500));
        assert_eq!(otlp.logs.headers["authorization"].reveal(), "Bearer canary");
        assert!(!format!("{otlp:?}").contains("canary"));
    }

    #[test]
    fn what_cant_be_read_is_named_once_and_its_default_holds() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "canary"),
            ("DUROXIDE_OBSERVABILITY_ENABLED", "perhaps"),
            ("DUROXIDE_LOG_FORMAT", "xml"),
            ("DUROXIDE_LOG_LEVEL", "loud"),
            ("DUROXIDE_METRICS_WORKER", "some"),
            ("DUROXIDE_METRICS_SAMPLE_RATE", "0"),
            ("DUROXIDE_METRICS_MAX_LABEL_VALUES", "many"),
        ] {
            let on = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://here:4317");
            let mut expected = read(&[on]);
            let mut found = read(&[on, (name, value)]);
            let warnings = std::mem::take(&mut found.warnings);
            expected.warnings.clear();
            expected.service_instance_id = found.service_instance_id.clone();
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{name}");
            assert!(
                warnings.iter().all(|w| w.contains(name) && !w.contains("canary")),
                "{warnings:?}"
            );
            assert_eq!(warnings.len(), 1, "{warnings:?}");
        }
    }

    #[test]
    fn the_environment_says_who_toygres_is() {
        let config = read(&[
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=a,deployment.environment.name=prod",
            ),
            ("OTEL_SERVICE_VERSION", "9"),
        ]);
        assert_eq!(config.service_name, "a");
        assert_eq!(config.service_version, "9");
        assert_eq!(read(&[("OTEL_SERVICE_NAME", "b")]).service_name, "b");
    }

    #[test]
    fn a_tenth_of_the_successes_is_every_tenth() {
        let metrics = read(&[("DUROXIDE_METRICS_SAMPLE_RATE", "0.1")]).metrics;
        assert_eq!(metrics.sample_every, 10);
    }
}
