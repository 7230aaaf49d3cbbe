//! OTLP encoding of spans: an `ExportTraceServiceRequest` in JSON (OTLP 1.3, JSON Protobuf encoding).
//!
//! Shape of one batch, shortened:
//!
//! ```text
//! {"resourceSpans": [{"resource": {"attributes": […]}, "scopeSpans": [{"scope": {…}, "spans": [
//!   {"traceId": "4bf9…", "spanId": "00f0…", "name": "GET", "kind": 2, "attributes": […]},
//!   {"parentSpanId": "00f0…", "name": "wait for a permit", "kind": 1}
//! ]}]}]}
//! ```
//!
//! Attributes follow the semantic conventions for HTTP servers: `http.request.method`, `url.path`,
//! `client.address`, `http.response.status_code`, `error.type`; two of our own are
//! `lockgate.limits` and `lockgate.refused_by`. Neither queries nor credentials are exported.

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::Span;
use super::otlp_json::{resource, scope, string};
use crate::gate::clock::Clock;
use crate::time::Time;

/// Kinds of spans (`SpanKind` of opentelemetry/proto/trace/v1/trace.proto).
///
/// `SPAN_KIND_INTERNAL`: the wait, inside the gateway.
const INTERNAL: u8 = 1;
/// `SPAN_KIND_SERVER`: the request, as received from its caller.
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR` of the same file.
const ERROR: u8 = 2;

/// Encodes spans of this process, whose identity is `instance`, each with a child span for its wait if it had one.
///
/// Times are counted back from the wall clock at the moment of encoding, so all spans of a batch
/// agree even if that clock was set in between.
pub(super) fn encode(spans: &[Span], instance: &str, clock: Clock) -> String {
    let (wall, now) = (clock.wall_unix_nanos(), clock.now());
    // Unix time in nanoseconds. 64-bit numbers are strings in JSON Protobuf.
    let unix_nanos = |at: Time| (wall - i128::try_from(now.since(at).as_nanos()).unwrap_or(0)).to_string();
    let spans: Vec<Value> = spans.iter().flat_map(|span| encode_one(span, &unix_nanos)).collect();
    json!({ "resourceSpans": [{
        "resource": resource(instance),
        "scopeSpans": [{ "scope": scope(), "spans": spans }],
    }] })
    .to_string()
}

/// Encodes the span of a request, and that of its wait if it had one.
fn encode_one(span: &Span, unix_nanos: &impl Fn(Time) -> String) -> Vec<Value> {
    let trace_id = format!("{:032x}", span.context.trace);
    let span_id = format!("{:016x}", span.context.span);
    let mut attributes = vec![
        string("http.request.method", &span.method),
        string("url.path", &span.path),
        string("client.address", &span.peer.to_canonical().to_string()),
        json!({ "key": "http.response.status_code", "value": { "intValue": span.status.to_string() } }),
    ];
    let names: Vec<Value> = span.limits.iter().map(|name| json!({ "stringValue": **name })).collect();
    attributes.push(json!({ "key": "lockgate.limits", "value": { "arrayValue": { "values": names } } }));
    if let Some((refused_by, reason)) = span.refused {
        attributes.extend([string("lockgate.refused_by", refused_by), string("error.type", reason)]);
    }
    let mut request = json!({
        "traceId": trace_id,
        "spanId": span_id,
        "name": span.method,
        "kind": SERVER,
        "startTimeUnixNano": unix_nanos(span.started),
        "endTimeUnixNano": unix_nanos(span.ended),
        "attributes": attributes,
        // A server span has an error status for 5xx (OpenTelemetry semantic conventions for HTTP spans, "Status").
        "status": if span.status >= 500 { json!({ "code": ERROR }) } else { json!({}) },
    });
    if let Some(parent) = span.context.parent {
        request["parentSpanId"] = format!("{parent:016x}").into();
    }
    let wait = span.waited.map(|(since, waited)| {
        json!({
            "traceId": trace_id,
            "spanId": random_span_id(),
            "parentSpanId": span_id,
            "name": "wait for a permit",
            "kind": INTERNAL,
            "startTimeUnixNano": unix_nanos(since),
            "endTimeUnixNano": unix_nanos(since + waited),
        })
    });
    std::iter::once(request).chain(wait).collect()
}

/// 16 hexadecimal digits that are not all zero.
fn random_span_id() -> String {
    let mut random = [0; 8];
    // Without random numbers no request is traced.
    SystemRandom::new().fill(&mut random).ok();
    format!("{:016x}", u64::from_be_bytes(random).max(1))
}
