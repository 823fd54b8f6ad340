//! Where numbers are kept until they are exported: one OpenTelemetry instrument a metric of the table.
//!
//! Only this crate can record, so that a number always comes with the event it belongs to ([`crate::events`]).
//! duroxide records through another facade, which has no recorder here: its own series never leave the process.

#![allow(clippy::disallowed_types, reason = "the one place that records")]

use crate::config::MetricsConfig;
use crate::exemplar::Exemplars;
use crate::metric::{Family, Kind, Metric};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// What a label says when it has had as many values as it may have.
const OTHER: &str = "other";
/// The longest value of a label, in characters. Longer ones are cut.
const LONGEST_LABEL: usize = 100;

static RECORDER: OnceLock<Recorder> = OnceLock::new();

enum Instrument {
    Counter(Counter<f64>),
    Histogram(Histogram<f64>),
    /// Read when it is exported.
    Observed,
    /// Its family is switched off.
    Off,
}

/// What gauges show, replaced as a whole by whoever looks: what is not told any more is not exported any more.
type Observations = Arc<RwLock<HashMap<Metric, Vec<(Vec<KeyValue>, f64)>>>>;

pub(crate) struct Recorder {
    instruments: Vec<Instrument>,
    observations: Observations,
    exemplars: Arc<Exemplars>,
    seen: RwLock<HashMap<(Metric, usize), HashSet<String>>>,
    config: MetricsConfig,
}

impl Recorder {
    pub(crate) fn new(
        provider: &impl MeterProvider,
        config: MetricsConfig,
        exemplars: Arc<Exemplars>,
    ) -> Self {
        let meter = provider.meter("toygres");
        let observations = Observations::default();
        let instruments = Metric::ALL
            .iter()
            .map(|metric| instrument(&meter, *metric, &config, &observations))
            .collect();
        Self {
            instruments,
            observations,
            exemplars,
            seen: RwLock::default(),
            config,
        }
    }

    fn attributes(&self, metric: Metric, values: &[&str]) -> Vec<KeyValue> {
        let labels = metric.definition().labels;
        debug_assert_eq!(labels.len(), values.len(), "{metric:?}");
        let pairs = labels.iter().zip(values).enumerate();
        pairs
            .map(|(place, (label, value))| KeyValue::new(*label, self.capped(metric, place, label, value)))
            .collect()
    }

    /// The value, or `other` when this label has had too many different ones.
    fn capped(&self, metric: Metric, place: usize, label: &str, value: &str) -> String {
        let end = value.char_indices().nth(LONGEST_LABEL).map(|(end, _)| end);
        let value = &value[..end.unwrap_or(value.len())];
        let key = (metric, place);
        let is_known = |seen: &HashMap<_, HashSet<String>>| seen.get(&key).is_some_and(|s| s.contains(value));
        if is_known(&self.seen.read().unwrap_or_else(PoisonError::into_inner)) {
            return value.to_owned();
        }
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let values = seen.entry(key).or_default();
        if values.contains(value) || values.len() < self.config.most_values(label) {
            values.insert(value.to_owned());
            return value.to_owned();
        }
        OTHER.to_owned()
    }
}

fn instrument(
    meter: &Meter,
    metric: Metric,
    config: &MetricsConfig,
    observations: &Observations,
) -> Instrument {
    let definition = metric.definition();
    let is_on = match definition.family {
        Family::Orchestration => config.orchestration,
        Family::Activity => config.activity,
        Family::Provider => config.provider,
        Family::Worker => config.worker,
        Family::Toygres => true,
    };
    if !is_on {
        return Instrument::Off;
    }
    let unit = definition.unit().unwrap_or_default();
    match definition.kind {
        Kind::Counter if metric == Metric::ProcessCpu => {
            meter
                .f64_observable_counter(definition.name)
                .with_description(definition.help)
                .with_unit(unit)
                .with_callback(|observer| {
                    if let Some(seconds) = crate::process::cpu_seconds() {
                        observer.observe(seconds, &[]);
                    }
                })
                .build();
            Instrument::Observed
        }
        Kind::Counter => Instrument::Counter(
            meter
                .f64_counter(definition.name)
                .with_description(definition.help)
                .with_unit(unit)
                .build(),
        ),
        Kind::Histogram(bounds) => Instrument::Histogram(
            meter
                .f64_histogram(definition.name)
                .with_description(definition.help)
                .with_unit(unit)
                .with_boundaries(bounds.to_vec())
                .build(),
        ),
        Kind::Gauge => {
            let observations = Arc::clone(observations);
            meter
                .f64_observable_gauge(definition.name)
                .with_description(definition.help)
                .with_unit(unit)
                .with_callback(move |observer| match metric {
                    Metric::ProcessMemory => {
                        if let Some(bytes) = crate::process::resident_bytes() {
                            observer.observe(bytes, &[]);
                        }
                    }
                    Metric::ProcessOpenFiles => {
                        if let Some(files) = crate::process::open_files() {
                            observer.observe(files, &[]);
                        }
                    }
                    _ => {
                        let observations = observations.read().unwrap_or_else(PoisonError::into_inner);
                        for (attributes, value) in observations.get(&metric).into_iter().flatten() {
                            observer.observe(*value, attributes);
                        }
                    }
                })
                .build();
            Instrument::Observed
        }
    }
}

/// Makes this the process's recorder. The first one stays.
pub(crate) fn install(recorder: Recorder) -> bool {
    RECORDER.set(recorder).is_ok()
}

/// How metrics are configured; the defaults before telemetry is set up.
pub(crate) fn config() -> &'static MetricsConfig {
    static DEFAULT: OnceLock<MetricsConfig> = OnceLock::new();
    match RECORDER.get() {
        Some(recorder) => &recorder.config,
        None => DEFAULT.get_or_init(MetricsConfig::default),
    }
}

/// Adds to a counter. The values of its labels stand in the order of the table.
pub(crate) fn add(metric: Metric, value: f64, labels: &[&str]) {
    add_with(metric, value, labels, None);
}

/// As [`add`], with one more label.
pub(crate) fn add_with(metric: Metric, value: f64, labels: &[&str], more: Option<(&'static str, &str)>) {
    let Some(recorder) = RECORDER.get() else { return };
    match &recorder.instruments[metric as usize] {
        Instrument::Counter(counter) => {
            let mut attributes = recorder.attributes(metric, labels);
            if let Some((label, text)) = more {
                attributes.push(KeyValue::new(
                    label,
                    recorder.capped(metric, labels.len(), label, text),
                ));
            }
            counter.add(value, &attributes);
        }
        Instrument::Off => {}
        Instrument::Histogram(_) | Instrument::Observed => debug_assert!(false, "{metric:?} is no counter"),
    }
}

/// Adds a measurement to a histogram, with the present trace as its example.
pub(crate) fn record(metric: Metric, value: f64, labels: &[&str]) {
    let Some(recorder) = RECORDER.get() else { return };
    match &recorder.instruments[metric as usize] {
        Instrument::Histogram(histogram) => {
            let attributes = recorder.attributes(metric, labels);
            histogram.record(value, &attributes);
            recorder.exemplars.offer(metric, value, &attributes);
        }
        Instrument::Off => {}
        Instrument::Counter(_) | Instrument::Observed => debug_assert!(false, "{metric:?} is no histogram"),
    }
}

/// Says all that a gauge shows from now on: what is left out is not exported any more.
pub(crate) fn observe<'a>(metric: Metric, points: impl IntoIterator<Item = (Vec<&'a str>, f64)>) {
    let Some(recorder) = RECORDER.get() else { return };
    let points = points
        .into_iter()
        .map(|(labels, value)| (recorder.attributes(metric, &labels), value))
        .collect();
    let mut observations = recorder
        .observations
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    observations.insert(metric, points);
}
