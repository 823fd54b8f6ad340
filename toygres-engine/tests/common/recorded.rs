//! What the metrics say of a stretch of the test.

use std::collections::BTreeMap;
use std::time::Duration;
use toygres_telemetry::metric::{Kind, Metric};
use toygres_telemetry::testing::{Labels, Shown, metrics};
use toygres_testing::wait_for;

/// How much each series of a metric has risen, by its labels' values in the order of the table.
pub(crate) type Rises = BTreeMap<String, f64>;

/// All metrics as they were.
pub(crate) struct Recorded(BTreeMap<&'static str, BTreeMap<String, Shown>>);

fn now(metric: Metric) -> BTreeMap<String, Shown> {
    let values = |labels: &Labels| {
        let values = metric
            .definition()
            .labels
            .iter()
            .map(|label| labels[*label].as_str());
        values.collect::<Vec<_>>().join(" ")
    };
    let series = metrics().series(metric).into_iter();
    series.map(|(labels, shown)| (values(&labels), shown)).collect()
}

impl Recorded {
    /// From now on.
    pub(crate) fn from_now() -> Self {
        let all = Metric::ALL
            .iter()
            .map(|metric| (metric.definition().name, now(*metric)));
        Self(all.collect())
    }

    /// How much the series of a counter have risen, or how many measurements those of a histogram got. Those that
    /// stayed are left out.
    pub(crate) fn rises(&self, metric: Metric) -> Rises {
        let mut rises = Rises::new();
        for (labels, shown) in now(metric) {
            let before = self.0[metric.definition().name].get(&labels);
            let rise = match (shown, before) {
                (Shown::Number(now), Some(Shown::Number(before))) => now - before,
                (Shown::Number(now), _) => now,
                (Shown::Histogram(now, ..), Some(Shown::Histogram(before, ..))) => (now - before) as f64,
                (Shown::Histogram(now, ..), _) => now as f64,
            };
            if rise != 0.0 {
                rises.insert(labels, rise);
            }
        }
        rises
    }

    /// The measurements that a series of a histogram got: their sum, and how many in each bucket that got any, by its
    /// upper bound.
    pub(crate) fn measured(&self, metric: Metric, labels: &str) -> (f64, Vec<(f64, u64)>) {
        let Kind::Histogram(bounds) = metric.definition().kind else {
            panic!("{metric:?} is no histogram");
        };
        let Some(Shown::Histogram(_, sum, buckets)) = now(metric).remove(labels) else {
            panic!("{metric:?} has no series {labels}: {:?}", now(metric).keys());
        };
        let (before_sum, before) = match self.0[metric.definition().name].get(labels) {
            Some(Shown::Histogram(_, sum, buckets)) => (*sum, buckets.clone()),
            _ => (0.0, vec![0; buckets.len()]),
        };
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let counts = buckets.iter().zip(&before).map(|(now, before)| now - before);
        let filled = bounds.zip(counts).filter(|(_, count)| *count > 0);
        (sum - before_sum, filled.collect())
    }

    /// Checks all rises of a metric, once nothing is going on any more.
    #[track_caller]
    pub(crate) fn assert(&self, metric: Metric, expected: &[(&str, f64)]) {
        assert_eq!(self.rises(metric), to_rises(expected), "{metric:?}");
    }

    /// Waits until a metric has risen so, and no other way.
    pub(crate) async fn wait(&self, metric: Metric, expected: &[(&str, f64)]) {
        let what = format!("{metric:?} to rise by {expected:?}");
        wait_for(&what, Duration::from_secs(30), || async {
            (self.rises(metric) == to_rises(expected)).then_some(())
        })
        .await;
    }
}

fn to_rises(expected: &[(&str, f64)]) -> Rises {
    let expected = expected.iter();
    expected
        .map(|(labels, rise)| ((*labels).to_owned(), *rise))
        .collect()
}

/// What a gauge shows.
pub(crate) fn gauge(metric: Metric) -> Rises {
    let shown = now(metric).into_iter();
    shown
        .map(|(labels, shown)| match shown {
            Shown::Number(value) => (labels, value),
            Shown::Histogram(..) => panic!("{metric:?} is no gauge"),
        })
        .collect()
}
