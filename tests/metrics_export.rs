//! Export of metrics to a collector: the values of `/metrics`, pushed, whatever the collector does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::Value;

use crate::admin::{metrics, watched};
use crate::support::*;

/// Documents that a collector has received.
type Documents = Arc<Mutex<Vec<Value>>>;

/// A collector that takes metrics unless `fails`, and refuses anything else.
fn collector(fails: &Arc<AtomicBool>) -> (Origin, Documents) {
    let (documents, fails) = (Documents::default(), Arc::clone(fails));
    let received = Arc::clone(&documents);
    let origin = Origin::scripted(move |request, link| {
        assert!(link.read_body());
        if fails.load(Ordering::SeqCst) {
            return link.answer(503, "");
        }
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v1/metrics"));
        assert_eq!(request.field("content-type"), Some("application/json"));
        received.lock().unwrap().push(serde_json::from_slice(&link.body()).unwrap());
        link.answer(200, "{}")
    });
    (origin, documents)
}

/// A collector that takes everything at once.
fn working() -> (Origin, Documents) {
    collector(&Arc::default())
}

/// Section that exports metrics alone, at this interval.
fn exporting(collector: &Origin, interval: &str) -> String {
    let url = collector.url("");
    format!("[trace]\notlp = \"{url}\"\ntraces = false\nmetrics = true\nmetrics_interval = \"{interval}\"\n")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

/// Name of a series with its labels, as in the text of OpenMetrics.
fn series(name: &str, labels: &[String]) -> String {
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// Metrics of a document.
fn metrics_of(document: &Value) -> &Vec<Value> {
    document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap()
}

/// Data points of a metric.
fn points(metric: &Value) -> &Vec<Value> {
    let kinds = ["sum", "gauge", "histogram"];
    kinds.iter().find_map(|kind| metric[kind]["dataPoints"].as_array()).unwrap_or_else(|| panic!("{metric}"))
}

/// Values of a document, by the names that a scrape would have for them.
fn as_scraped(document: &Value) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    for metric in metrics_of(document) {
        let name = metric["name"].as_str().unwrap();
        for point in points(metric) {
            let label = |a: &Value| format!("{}={}", a["key"].as_str().unwrap(), a["value"]["stringValue"]);
            let labels: Vec<String> = point["attributes"].as_array().unwrap().iter().map(label).collect();
            if let Some(counts) = point["bucketCounts"].as_array() {
                let bounds = point["explicitBounds"].as_array().unwrap();
                assert_eq!(counts.len(), bounds.len() + 1);
                let bounds = bounds.iter().map(|bound| format!("{:?}", number(bound))).chain(["+Inf".to_owned()]);
                let mut below = 0.0;
                for (bound, count) in bounds.zip(counts) {
                    below += number(count);
                    let labels = [vec![format!("le=\"{bound}\"")], labels.clone()].concat();
                    values.insert(series(&format!("{name}_bucket"), &labels), below);
                }
                values.insert(series(&format!("{name}_sum"), &labels), number(&point["sum"]));
                values.insert(series(&format!("{name}_count"), &labels), number(&point["count"]));
                continue;
            }
            let name = if metric["sum"]["isMonotonic"] == true { format!("{name}_total") } else { name.to_owned() };
            let value = if point["asInt"].is_null() { &point["asDouble"] } else { &point["asInt"] };
            values.insert(series(&name, &labels), number(value));
        }
    }
    values
}

/// One value of the last document; `None` without a document or a series.
fn last(documents: &Documents, name: &str) -> Option<f64> {
    as_scraped(documents.lock().unwrap().last()?).get(name).copied()
}

/// Attribute of the resource of a document.
fn attribute(document: &Value, key: &str) -> String {
    let attributes = document["resourceMetrics"][0]["resource"]["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key).unwrap_or_else(|| panic!("{attributes:?}"));
    found["value"]["stringValue"].as_str().unwrap().to_owned()
}

/// Time at which the counters of a document began; fails unless all data points have the same.
#[track_caller]
fn start(document: &Value) -> u64 {
    let all = metrics_of(document).iter().flat_map(points).map(|point| point["startTimeUnixNano"].as_str().unwrap());
    let all: BTreeSet<&str> = all.collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all.first().unwrap().parse().unwrap()
}

const PERMITS: &str = "lockgate_permits_total{limit=\"the-limit\"}";

#[test]
fn a_collector_receives_what_a_scrape_shows() {
    let ((collector, documents), origin) = (working(), Origin::start());
    let rules = limit(2, "1h", "when_full = \"refuse\"\nin_flight = 5");
    let (gateway, admin) = watched(&rules, &exporting(&collector, "1s"));
    let statuses: Vec<u16> = (0..3).map(|_| gateway.get(&origin.url("/")).status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    // What changes between two looks at an idle gateway.
    let is_still = |name: &String| name.starts_with("lockgate_") && !name.starts_with("lockgate_gate_longest_step");
    let compare = || {
        let scraped = metrics(admin);
        let Some(document) = documents.lock().unwrap().last().cloned() else { return false };
        let told = as_scraped(&document);
        let is_told = |name: &String, value: &f64| told.get(name).is_some_and(|told| !is_still(name) || told == value);
        let is_same = scraped.iter().all(|(name, value)| is_told(name, value)) && scraped.len() == told.len();
        is_same && told[PERMITS] == 2.0
    };
    eventually("the collector is told the same", compare);
    let document = documents.lock().unwrap().last().cloned().unwrap();
    let told = as_scraped(&document);
    for (name, value) in [
        ("lockgate_limit_refusals_total{limit=\"the-limit\",reason=\"full\"}", 1.0),
        ("lockgate_wait_seconds_count{limit=\"the-limit\"}", 2.0),
        ("lockgate_wait_seconds_bucket{le=\"+Inf\",limit=\"the-limit\"}", 2.0),
        ("lockgate_slots_used{limit=\"the-limit\"}", 2.0),
        (concat!("lockgate_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name}");
    }
    assert!(told["process_resident_memory_bytes"] > 1e6);
    let of = |name: &str| metrics_of(&document).iter().find(|metric| metric["name"] == name).unwrap().clone();
    let permits = of("lockgate_permits");
    assert_eq!(
        (&permits["sum"]["aggregationTemporality"], &permits["description"]),
        (&2.into(), &"Permits granted by a limit".into())
    );
    assert_eq!(
        (&of("lockgate_wait_seconds")["unit"], &of("process_resident_memory_bytes")["unit"]),
        (&"s".into(), &"By".into())
    );
    assert_eq!(attribute(&document, "service.name"), "lockgate");
    assert_eq!(attribute(&document, "service.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(attribute(&document, "service.instance.id").len(), 36);
    let point = &points(&permits)[0];
    assert!(number(&point["timeUnixNano"]) > start(&document) as f64);
}

#[test]
fn an_orderly_stop_exports_once_more_and_the_next_process_counts_from_a_new_start() {
    let ((collector, documents), origin) = (working(), Origin::start());
    let toml = format!("{}{}", limit(9, "1h", ""), exporting(&collector, "1h"));
    let mut gateway = Gateway::start(&toml);
    for _ in 0..3 {
        assert_eq!(gateway.get(&origin.url("/")).status, 200);
    }
    assert!(documents.lock().unwrap().is_empty(), "an hour has not passed");
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().success());
    assert_eq!(last(&documents, PERMITS), Some(3.0));
    let mut gateway = gateway.again();
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().success());
    assert_eq!(last(&documents, PERMITS), Some(0.0));
    let documents = documents.lock().unwrap();
    let [first, second] = &documents[..] else { panic!("{} documents", documents.len()) };
    let stopped: u64 = points(&metrics_of(first)[0])[0]["timeUnixNano"].as_str().unwrap().parse().unwrap();
    assert!(start(first) < stopped && start(second) >= stopped, "{} {stopped} {}", start(first), start(second));
    assert_ne!(attribute(first, "service.instance.id"), attribute(second, "service.instance.id"));
}

#[test]
fn a_collector_that_fails_is_named_once_and_told_all_when_it_works_again() {
    let (fails, origin) = (Arc::new(AtomicBool::new(true)), Origin::start());
    let (collector, documents) = collector(&fails);
    let gateway = Gateway::start(&format!("{}{}", limit(9, "1h", ""), exporting(&collector, "1s")));
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    eventually("some exports fail", || collector.count() >= 3);
    let complaints = || gateway.stderr().matches("cannot export metrics").count();
    assert_eq!(complaints(), 1, "{}", gateway.stderr());
    assert!(gateway.stderr().contains("it answers 503"), "{}", gateway.stderr());
    fails.store(false, Ordering::SeqCst);
    eventually("the sums are told", || last(&documents, PERMITS) == Some(1.0));
    fails.store(true, Ordering::SeqCst);
    eventually("the next failure is logged", || complaints() == 2);
}

#[test]
fn a_collector_that_says_nothing_delays_neither_requests_nor_the_end() {
    let (silent, origin) = (BlackHole::new(), Origin::start());
    let url = format!("http://127.0.0.1:{}", silent.port());
    let trace = format!("[trace]\notlp = \"{url}\"\ntraces = false\nmetrics = true\nmetrics_interval = \"1s\"\n");
    let mut gateway = Gateway::start(&format!("{}{trace}", limit(9, "1h", "")));
    gateway.complains("cannot export metrics");
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().success());
}

#[test]
fn a_reload_starts_and_ends_the_export_and_a_process_that_takes_over_has_its_own() {
    let ((collector, documents), origin) = (working(), Origin::start());
    let (rules, export) = (limit(9, "1h", ""), exporting(&collector, "1s"));
    let gateway = Gateway::start(&rules);
    assert!(gateway.reload(&format!("{rules}{export}")));
    gateway.complains("[trace] is changed");
    eventually("the collector is told", || last(&documents, PERMITS) == Some(0.0));
    // Traces are off: the context passes as without the section.
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (target, host) = (origin.url("/"), origin.authority());
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\ntraceparent: {context}\r\nConnection: close\r\n\r\n");
    assert_eq!(gateway.exchange(request).status, 200);
    assert_eq!(origin.requests()[0].field("traceparent"), Some(context));
    let first = attribute(documents.lock().unwrap().last().unwrap(), "service.instance.id");
    gateway.hand_over();
    let is_other = |document: &Value| attribute(document, "service.instance.id") != first;
    eventually("the new process tells", || documents.lock().unwrap().iter().any(is_other));
}
