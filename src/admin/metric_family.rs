//! Metric families: names, units and values of one moment, for any format.
//!
//! [`metric_sources`](super::metric_sources) fills them, and two writers encode them: `openmetrics` as the text that
//! `/metrics` answers, `otlp_metrics` as the document that a collector receives.

use crate::proxy::histogram::HistogramValues;

/// Kind of a family, as both formats have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FamilyKind {
    /// Sum that only grows while the process runs.
    Counter,
    /// Value of the moment.
    Gauge,
    /// Durations by bucket.
    Histogram,
    /// Labels alone; its value is 1.
    Info,
}

/// Base unit of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FamilyUnit {
    Seconds,
    Bytes,
}

/// Descriptor of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    /// Without unit and `_total`.
    pub(super) name: &'static str,
    /// One line for people, without a full stop.
    pub(super) help: &'static str,
    /// Unit, which ends the name.
    pub(super) unit: Option<FamilyUnit>,
    pub(super) kind: FamilyKind,
}

/// Value of one series.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum SeriesValue {
    Whole(u64),
    Fraction(f64),
    Histogram(HistogramValues),
}

/// Span of time that the values are of, in Unix time.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeriesTimes {
    /// Nanoseconds at which all counters were zero: the start of the process.
    pub(super) start: i128,
    /// Nanoseconds at which the values were read.
    pub(super) now: i128,
}

/// Labels of a series, in the order of the exposition.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Series of one name: a value for each set of labels.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) metric: Metric,
    pub(super) series: Vec<(Labels, SeriesValue)>,
}

/// Families in the order of the exposition.
#[derive(Default, Debug)]
pub(super) struct Families(Vec<Family>);

impl From<u64> for SeriesValue {
    fn from(value: u64) -> SeriesValue {
        SeriesValue::Whole(value)
    }
}

impl From<f64> for SeriesValue {
    fn from(value: f64) -> SeriesValue {
        SeriesValue::Fraction(value)
    }
}

impl From<HistogramValues> for SeriesValue {
    fn from(values: HistogramValues) -> SeriesValue {
        SeriesValue::Histogram(values)
    }
}

/// A counter without a unit; OpenMetrics adds `_total` to its name.
pub(super) const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: None, kind: FamilyKind::Counter }
}

/// A gauge without a unit.
pub(super) const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: None, kind: FamilyKind::Gauge }
}

/// A histogram of durations.
pub(super) const fn durations(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: Some(FamilyUnit::Seconds), kind: FamilyKind::Histogram }
}

impl Metric {
    /// The same in another unit.
    pub(super) const fn in_unit(self, unit: FamilyUnit) -> Metric {
        Metric { unit: Some(unit), ..self }
    }
}

impl Families {
    /// Adds a family with one series for each set of labels.
    pub(super) fn add<'v, const L: usize>(
        &mut self,
        metric: Metric,
        series: impl Iterator<Item = ([(&'static str, &'v str); L], impl Into<SeriesValue>)>,
    ) {
        let owned = |labels: [(&'static str, &'v str); L]| labels.map(|(name, value)| (name, value.to_owned())).into();
        let series = series.map(|(labels, value)| (owned(labels), value.into())).collect();
        self.0.push(Family { metric, series });
    }

    /// Adds a family of one series without labels.
    pub(super) fn add_one(&mut self, metric: Metric, value: impl Into<SeriesValue>) {
        self.add(metric, std::iter::once(([], value)));
    }

    /// All families, in the order in which they were added.
    pub(super) fn into_vec(self) -> Vec<Family> {
        self.0
    }
}
