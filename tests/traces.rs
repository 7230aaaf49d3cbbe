//! Traces: a collector is told of requests and their waits, and the origin of our span.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::admin::{queued, watched};
use crate::support::certs::{Authority, Fault};
use crate::support::gateway::Dir;
use crate::support::*;
use crate::tuning::tune;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector, and the spans that it has received.
fn collector() -> (Origin, Arc<Mutex<Vec<Value>>>) {
    let spans: Arc<Mutex<Vec<Value>>> = Arc::default();
    let received = Arc::clone(&spans);
    (Origin::scripted(move |request, link| collect(&received, request, link)), spans)
}

fn collect(received: &Mutex<Vec<Value>>, request: &Request, link: &mut Link<'_>) -> Next {
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v1/traces"));
    assert!(link.read_body());
    let body: Value = serde_json::from_slice(&link.body()).unwrap();
    let scope = &body["resourceSpans"][0]["scopeSpans"][0];
    assert_eq!(body["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"], "lockgate");
    received.lock().unwrap().extend(scope["spans"].as_array().unwrap().iter().cloned());
    link.answer(200, "{}")
}

#[track_caller]
fn eventually_told(spans: &Mutex<Vec<Value>>, count: usize) -> Vec<Value> {
    eventually("the collector is told", || spans.lock().unwrap().len() >= count);
    spans.lock().unwrap().clone()
}

fn traced(gateway: &Gateway, origin: &Origin, flags: &str) -> Answer {
    gateway.exchange(head_of_trace(origin, flags))
}

fn head_of_trace(origin: &Origin, flags: &str) -> String {
    let (url, host) = (origin.url("/path?secret=1"), origin.authority());
    format!(
        "GET {url} HTTP/1.1\r\nHost: {host}\r\ntraceparent: 00-{TRACE}-{PARENT}-{flags}\r\ntracestate: v=1\r\nConnection: close\r\n\r\n"
    )
}

fn attribute<'s>(span: &'s Value, key: &str) -> &'s Value {
    let found = span["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == key);
    &found.unwrap_or_else(|| panic!("no {key} in {span}"))["value"]
}

#[test]
fn a_traced_request_and_its_wait_are_told_and_the_origin_knows_our_span() {
    let ((collector, spans), origin) = (collector(), Origin::start());
    let trace = format!("[trace]\notlp = \"{}\"\none_in = 1000000\n", collector.url(""));
    let (gateway, admin) = watched(&limit(1, "1h", "max_wait = \"12h\""), &trace);
    // The first of a million is traced, though nobody asked for it.
    let (url, host) = (origin.url("/first"), origin.authority());
    let foreign = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\ntracestate: v=1\r\nConnection: close\r\n\r\n");
    assert_eq!(gateway.exchange(foreign).status, 200);
    let mut waits = gateway.caller();
    waits.send(head_of_trace(&origin, "01"));
    queued(admin, "the-limit", 1);
    tune(admin, "the-limit", "\"per\": \"1s\"");
    assert_eq!(waits.answer().status, 200);
    assert_eq!(traced(&gateway, &origin, "00").status, 200);
    let told = eventually_told(&spans, 3);
    let ours: Vec<&Value> = told.iter().filter(|span| span["traceId"] == TRACE).collect();
    let [request, wait] = ours[..] else { panic!("{told:#?}") };
    assert_eq!(
        (&request["parentSpanId"], &request["name"], &request["kind"]),
        (&PARENT.into(), &"GET".into(), &2.into())
    );
    assert_eq!(attribute(request, "url.path")["stringValue"], "/path");
    assert_eq!(attribute(request, "http.response.status_code")["intValue"], "200");
    assert_eq!(attribute(request, "lockgate.limits")["arrayValue"]["values"][0]["stringValue"], "the-limit");
    assert_eq!((&wait["parentSpanId"], &wait["name"]), (&request["spanId"], &"wait for a permit".into()));
    let nanos = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    let first = told.iter().find(|span| attribute(span, "url.path")["stringValue"] == "/first").unwrap();
    let freed = nanos(wait, "endTimeUnixNano") - nanos(first, "startTimeUnixNano");
    // What they are told in may be two documents, and the clock of the machine slewed between them.
    assert!(freed >= 990_000_000, "{freed}: the slot of the first opens a second after it");
    assert!(nanos(request, "startTimeUnixNano") <= nanos(wait, "startTimeUnixNano"));
    assert!(nanos(wait, "endTimeUnixNano") <= nanos(request, "endTimeUnixNano"));
    assert!(!told.iter().any(|span| span.to_string().contains("secret")));

    let fields: Vec<String> =
        origin.requests().iter().map(|request| request.field("traceparent").unwrap_or_default().to_owned()).collect();
    assert!(fields[0].starts_with("00-") && fields[0].ends_with("-01") && !fields[0].contains(TRACE), "{fields:?}");
    assert_eq!(fields[1], format!("00-{TRACE}-{}-01", request["spanId"].as_str().unwrap()));
    assert_eq!(fields[2], format!("00-{TRACE}-{PARENT}-00"), "who is not traced passes it on as it is");
    let vendors: Vec<bool> = origin.requests().iter().map(|request| request.field("tracestate").is_some()).collect();
    assert_eq!(vendors, [false, true, true], "what vendors keep of another trace is nothing in ours");
}

#[test]
fn refusals_are_told_too_and_a_collector_that_is_gone_disturbs_nobody() {
    let ((collector, spans), origin) = (collector(), Origin::start());
    let rules = limit(1, "1h", "when_full = \"refuse\"");
    let gateway = Gateway::start(&format!("{rules}[trace]\notlp = \"{}\"\n", collector.url("")));
    assert_eq!([gateway.get(&origin.url("/")).status, gateway.get(&origin.url("/")).status], [200, 429]);
    let is_refused =
        |span: &&Value| span["kind"] == 2 && attribute(span, "http.response.status_code")["intValue"] == "429";
    eventually("it is told", || spans.lock().unwrap().iter().any(|span| is_refused(&span)));
    let told = spans.lock().unwrap().clone();
    let refused = &told.iter().find(is_refused).unwrap();
    assert_eq!(attribute(refused, "lockgate.refused_by")["stringValue"], "limit");
    assert_eq!(attribute(refused, "error.type")["stringValue"], "full");

    let dead = DeadPort::new();
    let gone = Gateway::start(&format!("{UNLIMITED}[trace]\notlp = \"http://127.0.0.1:{}\"\n", dead.port()));
    assert_eq!(gone.get(&origin.url("/")).status, 200);
    eventually("it is said", || gone.stderr().contains("cannot export traces; they are dropped"));
}

#[test]
fn a_collector_is_reached_at_an_ipv6_address_and_at_the_address_of_its_name_that_answers() {
    use std::io::{Read, Write};
    let collector = std::net::TcpListener::bind("[::1]:0").unwrap();
    let port = collector.local_addr().unwrap().port();
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{UNLIMITED}[trace]\notlp = \"http://[::1]:{port}\"\none_in = 1\n"));
    assert_eq!(traced(&gateway, &origin, "01").status, 200);
    let (mut stream, _) = collector.accept().unwrap();
    let mut told = [0; 200];
    let length = stream.read(&mut told).unwrap();
    let told = String::from_utf8_lossy(&told[..length]).into_owned();
    assert!(told.contains(&format!("host: [::1]:{port}\r\n")), "{told}");
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    // The name may have an IPv6 address first, at which nothing listens.
    let (collector, spans) = self::collector();
    let rules = format!("{UNLIMITED}[trace]\notlp = \"http://localhost:{}\"\none_in = 1\n", collector.port());
    let gateway = Gateway::start(&rules);
    assert_eq!(traced(&gateway, &origin, "01").status, 200);
    eventually_told(&spans, 1);
}

#[test]
fn a_collector_with_tls_receives_spans_if_it_can_prove_its_name() {
    let (authority, dir) = (Authority::new(), Dir::new());
    let trust = format!("[tls]\ntrust = [\"{}\"]\n", authority.write(dir.path()).display());
    let spans: Arc<Mutex<Vec<Value>>> = Arc::default();
    let received = Arc::clone(&spans);
    let script = move |request: &Request, link: &mut Link<'_>| collect(&received, request, link);
    let collector = Origin::scripted_tls(authority.server_config(Fault::None), script);
    let origin = Origin::start();
    let rules = format!("{UNLIMITED}[trace]\notlp = \"https://localhost:{}\"\none_in = 1\n", collector.port());
    let trusting = Gateway::start(&format!("{rules}{trust}"));
    assert_eq!(traced(&trusting, &origin, "01").status, 200);
    assert_eq!(eventually_told(&spans, 1)[0]["traceId"], TRACE);
    let doubting = Gateway::start(&rules);
    assert_eq!(traced(&doubting, &origin, "01").status, 200);
    eventually("the loss is logged", || doubting.stderr().contains("cannot export traces; they are dropped"));
    assert!(doubting.stderr().contains("certificate"), "{}", doubting.stderr());
    assert_eq!(spans.lock().unwrap().len(), 1);
}
