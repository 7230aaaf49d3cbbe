//! `/metrics`: counters and gauges in the OpenMetrics 1.0 text format, for Prometheus.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::metric_family::{Family, FamilyKind, FamilyUnit, SeriesValue};
use super::state::AdminState;
use crate::gate::StepReader;
use crate::http_admin::problem;

/// Media type of the exposition (OpenMetrics 1.0, "Overall Structure").
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Handles `GET /metrics`.
pub(super) async fn show(State(state): State<Arc<AdminState>>) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition(state.metric_sources.families(StepReader::Scrape))));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([("content-type", CONTENT_TYPE)], text).into_response(),
        // Writing to a String cannot fail.
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Families of one moment, for the encoder of the text format.
#[derive(Debug)]
struct Exposition(Vec<Family>);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| encode_family(&mut encoder, family))
    }
}

/// Writes a family: its descriptor and its series. The encoder adds the unit to the name.
fn encode_family(encoder: &mut DescriptorEncoder<'_>, family: &Family) -> fmt::Result {
    let metric = &family.metric;
    let unit = metric.unit.map(|unit| match unit {
        FamilyUnit::Seconds => Unit::Seconds,
        FamilyUnit::Bytes => Unit::Bytes,
    });
    let kind = match metric.kind {
        FamilyKind::Counter => MetricType::Counter,
        FamilyKind::Gauge => MetricType::Gauge,
        FamilyKind::Histogram => MetricType::Histogram,
        FamilyKind::Info => MetricType::Info,
    };
    let mut descriptor = encoder.encode_descriptor(metric.name, metric.help, unit.as_ref(), kind)?;
    for (labels, value) in &family.series {
        match metric.kind {
            FamilyKind::Info => descriptor.encode_info(labels)?,
            FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::Histogram if labels.is_empty() => {
                encode_value(&mut descriptor, metric.kind, value)?;
            }
            FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::Histogram => {
                encode_value(&mut descriptor.encode_family(labels)?, metric.kind, value)?;
            }
        }
    }
    Ok(())
}

/// Writes the value of a series.
fn encode_value(encoder: &mut MetricEncoder<'_>, kind: FamilyKind, value: &SeriesValue) -> fmt::Result {
    match (value, kind) {
        (SeriesValue::Histogram(all), _) => {
            encoder.encode_histogram::<NoLabelSet>(all.sum, all.count(), &all.buckets, None)
        }
        (SeriesValue::Whole(value), FamilyKind::Counter) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        (SeriesValue::Fraction(value), FamilyKind::Counter) => {
            encoder.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        (SeriesValue::Whole(value), _) => encoder.encode_gauge(value),
        (SeriesValue::Fraction(value), _) => encoder.encode_gauge(value),
    }
}
