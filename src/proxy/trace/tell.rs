//! Tells a collector of spans, some at a time (OTLP 1.3, JSON Protobuf encoding).

use std::net::ToSocketAddrs;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::{Settings, Span};
use crate::gate::clock::Clock;
use crate::net::dial;
use crate::proxy::tally::Count;
use crate::time::Time;

/// How many spans are told at one time, and how long the first of them waits at most.
const MOST: usize = 512;
const PAUSE: Duration = Duration::from_secs(1);
/// How long an address of the collector has for its answer.
const WITHIN: Duration = Duration::from_secs(2);
/// How many addresses of its name are tried.
const MOST_ADDRESSES: usize = 4;
/// How much of its answer is read.
const MOST_ANSWER: usize = 4096;

/// The kinds of spans (opentelemetry/proto/trace/v1).
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;

/// Until nobody traces any more.
pub(super) fn run(to: &Settings, spans: &Receiver<Span>, clock: Clock, lost: &Count) {
    let mut is_well = true;
    while let Ok(first) = spans.recv() {
        let mut gathered = vec![first];
        let end = clock.instant(clock.now() + PAUSE);
        while gathered.len() < MOST {
            let left = end.saturating_duration_since(now(clock));
            match spans.recv_timeout(left) {
                Ok(span) => gathered.push(span),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        match post(to, &document(&gathered, clock), clock) {
            Ok(()) => is_well = true,
            Err(why) => {
                (0..gathered.len()).for_each(|_| lost.add_one());
                // Once, until it is well again.
                if std::mem::replace(&mut is_well, false) {
                    tracing::warn!(collector = %format_args!("{}:{}", to.host, to.port), "traces are lost: {why}");
                }
            }
        }
    }
}

fn now(clock: Clock) -> Instant {
    clock.instant(clock.now())
}

/// Sends spans to the first address of the collector that takes a connection.
fn post(to: &Settings, document: &str, clock: Clock) -> Result<(), String> {
    let addresses = (to.host.as_str(), to.port).to_socket_addrs().map_err(|error| error.to_string())?;
    // An IPv6 address stands in brackets in Host (RFC 3986 §3.2.2).
    let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.clone() };
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: {host}:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{document}",
        to.path,
        to.port,
        document.len()
    );
    let mut answer = Err("the name has no address".to_owned());
    for address in addresses.take(MOST_ADDRESSES) {
        let end = clock.instant(clock.now() + WITHIN);
        let left = || end.saturating_duration_since(now(clock));
        answer = dial::fetch(address, request.as_bytes(), MOST_ANSWER, left).map_err(|error| error.to_string());
        if answer.is_ok() {
            break;
        }
    }
    let answer = answer?;
    let status = answer.get(9..12).map(|status| String::from_utf8_lossy(status).into_owned());
    match status {
        Some(status) if status.starts_with('2') => Ok(()),
        Some(status) => Err(format!("the collector answers {status}")),
        None => Err("the collector does not answer".to_owned()),
    }
}

fn document(spans: &[Span], clock: Clock) -> String {
    // A moment of the gateway's line, as Unix time.
    let (wall, line) = (clock.wall_unix_nanos(), clock.now());
    let unix = |at: Time| (wall - i128::try_from(line.since(at).as_nanos()).unwrap_or(0)).to_string();
    let told: Vec<Value> = spans.iter().flat_map(|span| of_one(span, &unix)).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": [text("service.name", "lockgate"), text("service.version", env!("CARGO_PKG_VERSION"))] },
        "scopeSpans": [{ "scope": { "name": "lockgate" }, "spans": told }],
    }] })
    .to_string()
}

/// The request, and its wait if it had one.
fn of_one(span: &Span, unix: &impl Fn(Time) -> String) -> Vec<Value> {
    let trace = format!("{:032x}", span.context.trace);
    let own = format!("{:016x}", span.context.span);
    let mut attributes = vec![
        text("http.request.method", &span.method),
        text("url.path", &span.path),
        text("client.address", &span.peer.to_canonical().to_string()),
        json!({ "key": "http.response.status_code", "value": { "intValue": span.status.to_string() } }),
    ];
    let names: Vec<Value> = span.limits.iter().map(|name| json!({ "stringValue": **name })).collect();
    attributes.push(json!({ "key": "lockgate.limits", "value": { "arrayValue": { "values": names } } }));
    if let Some((who, why)) = span.refused {
        attributes.extend([text("lockgate.refused_by", who), text("error.type", why)]);
    }
    let mut told = json!({
        "traceId": trace,
        "spanId": own,
        "name": span.method,
        "kind": SERVER,
        "startTimeUnixNano": unix(span.started),
        "endTimeUnixNano": unix(span.ended),
        "attributes": attributes,
        // A server's span is an error if the status is 5xx (semantic conventions for HTTP).
        "status": if span.status >= 500 { json!({ "code": 2 }) } else { json!({}) },
    });
    if let Some(parent) = span.context.parent {
        told["parentSpanId"] = format!("{parent:016x}").into();
    }
    let waited = span.waited.map(|(since, waited)| {
        json!({
            "traceId": trace,
            "spanId": another_id(),
            "parentSpanId": own,
            "name": "wait for a permit",
            "kind": INTERNAL,
            "startTimeUnixNano": unix(since),
            "endTimeUnixNano": unix(since + waited),
        })
    });
    std::iter::once(told).chain(waited).collect()
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn another_id() -> String {
    let mut random = [0; 8];
    // Without random numbers nothing would be traced.
    SystemRandom::new().fill(&mut random).ok();
    format!("{:016x}", u64::from_be_bytes(random).max(1))
}
