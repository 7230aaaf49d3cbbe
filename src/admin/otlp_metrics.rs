//! OTLP encoding of metric families: an `ExportMetricsServiceRequest` in JSON (OTLP 1.3, JSON Protobuf encoding).
//!
//! Names, units and kinds follow "Prometheus and OpenMetrics Compatibility" of the OpenTelemetry specification, so that a
//! collector which passes them on to Prometheus makes the names of `/metrics` of them: a counter is a monotonic sum, its
//! name without `_total`; a unit ends the name and is stated besides; an info is a sum that may fall.
//!
//! ```text
//! {"resourceMetrics": [{"resource": {…}, "scopeMetrics": [{"scope": {…}, "metrics": [
//!   {"name": "lockgate_permits", "sum": {"isMonotonic": true, "aggregationTemporality": 2, "dataPoints": [
//!     {"attributes": […], "startTimeUnixNano": "17…", "timeUnixNano": "17…", "asInt": "5"}]}}
//! ]}]}]}
//! ```

use serde_json::{Value, json};

use super::metric_family::{Family, FamilyKind, FamilyUnit, Labels, SeriesTimes, SeriesValue};
use crate::proxy::histogram::HistogramValues;
use crate::proxy::trace::otlp_json;

/// `AGGREGATION_TEMPORALITY_CUMULATIVE` of opentelemetry/proto/metrics/v1/metrics.proto.
const CUMULATIVE: u8 = 2;

/// Encodes families. `instance`: identity of this process.
pub(super) fn encode(families: &[Family], instance: &str, times: SeriesTimes) -> String {
    // A metric without a value is no metric here.
    let metrics: Vec<Value> =
        families.iter().filter(|family| !family.series.is_empty()).map(|family| metric(family, times)).collect();
    json!({ "resourceMetrics": [{
        "resource": otlp_json::resource(instance),
        "scopeMetrics": [{ "scope": otlp_json::scope(), "metrics": metrics }],
    }] })
    .to_string()
}

/// One metric with its data points.
fn metric(family: &Family, times: SeriesTimes) -> Value {
    let described = family.metric;
    let (suffix, unit) = match (described.unit, described.kind) {
        (Some(FamilyUnit::Seconds), _) => ("_seconds", "s"),
        (Some(FamilyUnit::Bytes), _) => ("_bytes", "By"),
        (None, FamilyKind::Info) => ("_info", ""),
        (None, FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::Histogram) => ("", ""),
    };
    let points: Vec<Value> = family.series.iter().map(|(labels, value)| point(labels, value, times)).collect();
    let mut metric =
        json!({ "name": format!("{}{suffix}", described.name), "description": described.help, "unit": unit });
    let sum = |is_monotonic: bool| json!({ "dataPoints": points, "aggregationTemporality": CUMULATIVE, "isMonotonic": is_monotonic });
    let (kind, data) = match described.kind {
        FamilyKind::Counter => ("sum", sum(true)),
        FamilyKind::Info => ("sum", sum(false)),
        FamilyKind::Gauge => ("gauge", json!({ "dataPoints": points })),
        FamilyKind::Histogram => ("histogram", json!({ "dataPoints": points, "aggregationTemporality": CUMULATIVE })),
    };
    metric[kind] = data;
    metric
}

/// One data point. 64-bit numbers are strings in JSON Protobuf.
fn point(labels: &Labels, value: &SeriesValue, times: SeriesTimes) -> Value {
    let attributes: Vec<Value> = labels.iter().map(|(name, value)| otlp_json::string(name, value)).collect();
    let mut point = json!({
        "attributes": attributes,
        "startTimeUnixNano": times.start.to_string(),
        "timeUnixNano": times.now.to_string(),
    });
    match value {
        SeriesValue::Whole(value) => point["asInt"] = value.to_string().into(),
        SeriesValue::Fraction(value) => point["asDouble"] = (*value).into(),
        SeriesValue::Histogram(values) => put_histogram(&mut point, values),
    }
    point
}

/// Puts the values of a histogram into its point: buckets are those between two bounds, the last one has none.
fn put_histogram(point: &mut Value, values: &HistogramValues) {
    point["count"] = values.count().to_string().into();
    point["sum"] = values.sum.into();
    let bounds = values.buckets.iter().map(|(most, _)| *most).filter(|most| most.is_finite());
    point["explicitBounds"] = bounds.collect::<Vec<_>>().into();
    point["bucketCounts"] = values.buckets.iter().map(|(_, count)| count.to_string()).collect::<Vec<_>>().into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::metric_family::{Families, Metric, counter, durations, gauge};

    #[test]
    fn each_kind_of_family_has_the_form_of_the_specification() {
        let mut families = Families::default();
        families.add(counter("a_permits", "Permits"), [([("limit", "x")], 5_u64)].into_iter());
        families.add_one(gauge("a_cpu", "Time").in_unit(FamilyUnit::Seconds), 0.5);
        let buckets = vec![(0.1, 2), (f64::INFINITY, 1)];
        families.add_one(durations("a_wait", "Wait"), HistogramValues { sum: 7.5, buckets });
        let build = Metric { name: "a_build", help: "Build", unit: None, kind: FamilyKind::Info };
        families.add(build, [([("version", "1")], 1_u64)].into_iter());
        families.add::<0>(gauge("a_none", "None"), std::iter::empty::<([(&'static str, &str); 0], u64)>());
        let text = encode(&families.into_vec(), "id", SeriesTimes { start: 10, now: 20 });
        let document: Value = serde_json::from_str(&text).unwrap();
        let metrics = document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
        let names: Vec<&str> = metrics.iter().map(|metric| metric["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a_permits", "a_cpu_seconds", "a_wait_seconds", "a_build_info"]);
        assert_eq!(
            metrics[0]["sum"],
            json!({ "isMonotonic": true, "aggregationTemporality": 2, "dataPoints": [{
                "attributes": [{ "key": "limit", "value": { "stringValue": "x" } }],
                "startTimeUnixNano": "10", "timeUnixNano": "20", "asInt": "5",
            }] })
        );
        assert_eq!(
            (&metrics[1]["gauge"]["dataPoints"][0]["asDouble"], &metrics[1]["unit"]),
            (&json!(0.5), &json!("s"))
        );
        let wait = &metrics[2]["histogram"]["dataPoints"][0];
        assert_eq!((&wait["count"], &wait["sum"]), (&json!("3"), &json!(7.5)));
        assert_eq!((&wait["explicitBounds"], &wait["bucketCounts"]), (&json!([0.1]), &json!(["2", "1"])));
        assert_eq!(metrics[3]["sum"]["isMonotonic"], false);
        let attributes = document["resourceMetrics"][0]["resource"]["attributes"].as_array().unwrap();
        let keys: Vec<&str> = attributes.iter().map(|attribute| attribute["key"].as_str().unwrap()).collect();
        assert_eq!(keys, ["service.name", "service.instance.id", "service.version"]);
    }
}
