//! Reading in a test what was recorded in its process.

use crate::config::MetricsConfig;
use crate::exemplar::Exemplars;
use crate::metric::Metric;
use crate::recorder::{self, Recorder};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, number_data_point};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The labels of a series.
pub type Labels = BTreeMap<String, String>;

/// What a series shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// A counter or a gauge.
    Number(f64),
    /// A histogram: how many measurements, their sum, and how many in each bucket, the last without a bound.
    Histogram(u64, f64, Vec<u64>),
}

/// All that the process has recorded.
pub struct Metrics {
    provider: SdkMeterProvider,
    last: Last,
}

/// The last export, as it would go over the wire.
#[derive(Clone, Default)]
struct Last(Arc<Mutex<ExportMetricsServiceRequest>>);

impl PushMetricExporter for Last {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = metrics.into();
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

/// Records from now on what the process does: one recorder for all of its tests.
///
/// # Panics
/// When telemetry is set up already.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| {
        let last = Last::default();
        let reader = PeriodicReader::builder(last.clone())
            .with_interval(Duration::from_secs(3600))
            .build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let recorder = Recorder::new(
            &provider,
            MetricsConfig::default(),
            Arc::new(Exemplars::default()),
        );
        assert!(recorder::install(recorder), "this process has a recorder already");
        Metrics { provider, last }
    })
}

impl Metrics {
    /// Everything that a metric shows now.
    ///
    /// # Panics
    /// When it can't be read.
    #[must_use]
    pub fn series(&self, metric: Metric) -> Vec<(Labels, Shown)> {
        self.provider.force_flush().expect("metrics can be read");
        let last = self.last.0.lock().unwrap_or_else(PoisonError::into_inner);
        let scopes = last.resource_metrics.iter().flat_map(|r| &r.scope_metrics);
        let mut found = Vec::new();
        for data in scopes
            .flat_map(|scope| &scope.metrics)
            .filter(|shown| shown.name == metric.definition().name)
            .flat_map(|shown| &shown.data)
        {
            match data {
                Data::Sum(sum) => found.extend(sum.data_points.iter().map(number)),
                Data::Gauge(gauge) => found.extend(gauge.data_points.iter().map(number)),
                Data::Histogram(histogram) => found.extend(histogram.data_points.iter().map(|point| {
                    let sum = point.sum.unwrap_or_default();
                    let shown = Shown::Histogram(point.count, sum, point.bucket_counts.clone());
                    (labels(&point.attributes), shown)
                })),
                Data::ExponentialHistogram(_) | Data::Summary(_) => {
                    panic!("{metric:?} is of no kind of ours")
                }
            }
        }
        found
    }

    /// The sum of a counter or gauge over the series that have all of these labels.
    #[must_use]
    pub fn value(&self, metric: Metric, labels: &[(&str, &str)]) -> f64 {
        let matching = self
            .series(metric)
            .into_iter()
            .filter(|series| has(&series.0, labels));
        matching
            .map(|(_, shown)| match shown {
                Shown::Number(value) => value,
                Shown::Histogram(..) => panic!("{metric:?} is a histogram"),
            })
            .sum()
    }

    /// Count, sum and buckets of a histogram over the series that have all of these labels.
    #[must_use]
    pub fn histogram(&self, metric: Metric, labels: &[(&str, &str)]) -> (u64, f64, Vec<u64>) {
        let mut all = (0, 0.0, Vec::new());
        for (of, shown) in self.series(metric) {
            match shown {
                Shown::Histogram(count, sum, buckets) if has(&of, labels) => {
                    all.0 += count;
                    all.1 += sum;
                    all.2.resize(buckets.len(), 0);
                    for (all, bucket) in all.2.iter_mut().zip(buckets) {
                        *all += bucket;
                    }
                }
                Shown::Histogram(..) => {}
                Shown::Number(_) => panic!("{metric:?} is no histogram"),
            }
        }
        all
    }
}

fn has(of: &Labels, labels: &[(&str, &str)]) -> bool {
    labels
        .iter()
        .all(|(label, value)| of.get(*label).is_some_and(|found| found == value))
}

fn number(point: &NumberDataPoint) -> (Labels, Shown) {
    let value = match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        // Far below 2^53.
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => 0.0,
    };
    (labels(&point.attributes), Shown::Number(value))
}

fn labels(attributes: &[KeyValue]) -> Labels {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(&attribute.value)))
        .collect()
}
