//! Examples: for each bucket of a histogram the last measurement whose trace is kept, so that a slow bucket leads to a
//! trace. The SDK writes none yet, so that they are added when metrics are exported ([`crate::export`]).

use crate::metric::{Kind, Metric};
use crate::{trace, traces};
use opentelemetry::trace::SpanContext;
use opentelemetry::{KeyValue, Value};
use opentelemetry_proto::tonic::common::v1::KeyValue as ProtoKeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as ProtoValue;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, exemplar};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Traces with a span that took longer are kept, whatever their id; so are those with an error.
const SLOW_SECONDS: f64 = 2.0;

/// A series: the metric's name and its labels, sorted.
type Series = (&'static str, Vec<(String, String)>);

#[derive(Clone)]
struct Example {
    value: f64,
    trace_id: [u8; 16],
    span_id: [u8; 8],
    nanoseconds: u64,
}

/// The examples since the last export.
#[derive(Default)]
pub(crate) struct Exemplars(Mutex<HashMap<Series, Vec<Option<Example>>>>);

impl Exemplars {
    /// Takes the present trace as an example, if it is kept.
    pub(crate) fn offer(&self, metric: Metric, value: f64, attributes: &[KeyValue]) {
        let Kind::Histogram(bounds) = metric.definition().kind else {
            return;
        };
        let is_kept = |here: &SpanContext| {
            here.is_sampled() && (value >= SLOW_SECONDS || trace::is_kept(here.trace_id()))
        };
        let Some(here) = traces::here().filter(is_kept) else {
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let example = Example {
            value,
            trace_id: here.trace_id().to_bytes(),
            span_id: here.span_id().to_bytes(),
            nanoseconds: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        };
        let mut labels: Vec<_> = attributes
            .iter()
            .map(|pair| (pair.key.to_string(), text(&pair.value)))
            .collect();
        labels.sort_unstable();
        let mut examples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = examples
            .entry((metric.definition().name, labels))
            .or_insert_with(|| vec![None; bounds.len() + 1]);
        buckets[bounds.partition_point(|bound| *bound < value)] = Some(example);
    }

    /// The examples of a series, once.
    pub(crate) fn take(&self, name: &str, attributes: &[ProtoKeyValue]) -> Vec<Exemplar> {
        let Some(metric) = Metric::ALL.iter().find(|metric| metric.definition().name == name) else {
            return Vec::new();
        };
        let mut labels: Vec<_> = attributes
            .iter()
            .filter_map(|pair| match pair.value.as_ref()?.value.as_ref()? {
                ProtoValue::StringValue(value) => Some((pair.key.clone(), value.clone())),
                _ => None,
            })
            .collect();
        labels.sort_unstable();
        let mut examples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = examples.remove(&(metric.definition().name, labels));
        let told = buckets.into_iter().flatten().flatten().map(|example| Exemplar {
            filtered_attributes: Vec::new(),
            time_unix_nano: example.nanoseconds,
            span_id: example.span_id.to_vec(),
            trace_id: example.trace_id.to_vec(),
            value: Some(exemplar::Value::AsDouble(example.value)),
        });
        told.collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().into_owned()
}
