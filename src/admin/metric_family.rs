//! Writers of metric families, on top of the encoder of the OpenMetrics text format.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::proxy::histogram::HistogramValues;

/// Descriptor of a metric; its values follow it in the exposition.
pub(super) struct Metric {
    /// Without prefix, unit and `_total`.
    pub(super) name: &'static str,
    /// One line for people, without a full stop.
    pub(super) help: &'static str,
    /// Unit; the encoder appends it to the name.
    pub(super) unit: Option<Unit>,
    /// Counter, gauge, histogram or info.
    pub(super) kind: MetricType,
}

/// A counter; the encoder adds `_total` to its name.
pub(super) const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: None, kind: MetricType::Counter }
}

/// A gauge without a unit.
pub(super) const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: None, kind: MetricType::Gauge }
}

/// Writes the descriptor; the values follow.
pub(super) fn begin<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    metric: &'e Metric,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(metric.name, metric.help, metric.unit.as_ref(), metric.kind)
}

/// Writes a family of counters, of whole numbers or of `f64`. `L`: number of labels; 0 for a counter without any.
pub(super) fn counters<'v, const L: usize, V: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    values: impl Iterator<Item = ([(&'static str, &'v str); L], V)>,
) -> fmt::Result {
    let mut family = begin(encoder, metric)?;
    for (labels, value) in values {
        match L {
            0 => family.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
            _ => family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
        }
    }
    Ok(())
}

/// Writes a family of gauges, one for each set of labels.
pub(super) fn gauges<'v, const L: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    values: impl Iterator<Item = ([(&'static str, &'v str); L], u64)>,
) -> fmt::Result {
    let mut family = begin(encoder, metric)?;
    for (labels, value) in values {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// Writes a family of histograms, one for each set of labels.
pub(super) fn histograms<'v>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    values: impl Iterator<Item = ([(&'static str, &'v str); 1], HistogramValues)>,
) -> fmt::Result {
    let mut family = begin(encoder, metric)?;
    for (labels, all) in values {
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(all.sum, all.count(), &all.buckets, None)?;
    }
    Ok(())
}
