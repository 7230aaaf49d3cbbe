//! Metrics of the process, and of requests by the host of their origin.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::admin::{ask, metrics, watched};
use crate::support::*;

#[test]
fn figures_of_the_process_have_the_names_of_all_processes() {
    let (gateway, admin) = watched(UNLIMITED, "");
    let pid = gateway.pid().as_raw_nonzero().get();
    let seen = metrics(admin);
    let of = |name: &str| value(&seen, name);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    let kilobytes = |key: &str| line(key).strip_suffix(" kB").unwrap().parse::<f64>().unwrap() * 1024.0;
    assert_eq!(of("process_threads"), line("Threads:").parse::<f64>().unwrap());
    // Memory changes between two looks, but not its magnitude.
    for (name, key) in [("process_resident_memory_bytes", "VmRSS:"), ("process_virtual_memory_bytes", "VmSize:")] {
        assert!((0.2..5.0).contains(&(of(name) / kilobytes(key))), "{name} {} {status}", of(name));
    }
    assert!((5.0..200.0).contains(&of("process_open_fds")) && of("process_max_fds") >= of("process_open_fds"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - of("process_start_time_seconds");
    assert!((-1.0..600.0).contains(&age), "started {age} s ago");
    // Work costs processor time, in steps of a hundredth of a second.
    let before = of("process_cpu_seconds_total");
    eventually("processor time is counted", || metrics(admin)["process_cpu_seconds_total"] > before);
}

/// Value of a metric; fails if there is none.
#[track_caller]
fn value(seen: &BTreeMap<String, f64>, name: &str) -> f64 {
    *seen.get(name).unwrap_or_else(|| panic!("there is no {name} in {seen:#?}"))
}

#[test]
fn requests_are_counted_by_the_hosts_of_the_file_and_all_others_together() {
    let slow = Origin::scripted(|request, link| {
        std::thread::sleep(Duration::from_millis(60));
        link.answer(if request.target == "/gone" { 404 } else { 200 }, "here")
    });
    let unnamed = Origin::start();
    let named = slow.url("").trim_start_matches("http://").to_owned();
    let rules = format!(
        "[[limit]]\nname = \"one\"\nmatch = {{ host = \"{named}\" }}\nrequests = 2\nper = \"1h\"\nwhen_full = \"refuse\"\n"
    );
    let (gateway, admin) = watched(&rules, "");
    for (path, status) in [("/", 200), ("/gone", 404), ("/", 429)] {
        assert_eq!(gateway.get(&slow.url(path)).status, status, "{path}");
    }
    assert_eq!(gateway.get(&unnamed.url("/")).status, 200);
    // Whatever names callers make up.
    for last in 2..9 {
        let url = unnamed.url("/").replace("127.0.0.1", &format!("127.0.0.{last}"));
        assert_eq!(gateway.get(&url).status, 502, "{url}");
    }
    let count = |host: &str, code: &str| {
        metrics(admin).get(&format!("lockgate_host_requests_total{{host=\"{host}\",code=\"{code}\"}}")).copied()
    };
    eventually("all have ended", || count("other", "5xx") == Some(7.0) && count(&named, "4xx") == Some(2.0));
    assert_eq!((count(&named, "2xx"), count("other", "2xx")), (Some(1.0), Some(1.0)));
    let seen = metrics(admin);
    let hosts: BTreeSet<&str> =
        seen.keys().filter_map(|series| series.split_once("host=\"")?.1.split('"').next()).collect();
    assert_eq!(hosts, BTreeSet::from([&*named, "other"]));
    let of =
        |what: &str, host: &str| value(&seen, &format!("lockgate_request_duration_seconds_{what}{{host=\"{host}\"}}"));
    assert_eq!((of("count", &named), of("count", "other")), (3.0, 8.0));
    assert!(of("sum", &named) >= 0.12, "two of the three took 60 ms each: {}", of("sum", &named));
    let within = |bound: &str| {
        value(&seen, &format!("lockgate_request_duration_seconds_bucket{{le=\"{bound}\",host=\"{named}\"}}"))
    };
    assert!(within("0.05") <= 1.0 && within("+Inf") == 3.0, "{} {}", within("0.05"), within("+Inf"));
}

#[test]
fn a_tunnel_counts_for_its_host_and_has_no_duration() {
    let origin = Origin::start();
    let named = origin.url("").trim_start_matches("http://").to_owned();
    let port = named.rsplit_once(':').unwrap().1.to_owned();
    let rules = limit(5, "1h", "").replace("127.0.0.1", &named);
    let (gateway, admin) = watched(&rules, &format!("[access]\nconnect_ports = [{port}]\n"));
    let mut caller = gateway.caller();
    caller.send(format!("CONNECT {named} HTTP/1.1\r\nHost: {named}\r\n\r\n"));
    assert!(caller.head().starts_with("HTTP/1.1 200"));
    drop(caller);
    let tunnels = format!("lockgate_host_requests_total{{host=\"{named}\",code=\"2xx\"}}");
    eventually("the tunnel has ended", || metrics(admin).get(&tunnels) == Some(&1.0));
    let durations = format!("lockgate_request_duration_seconds_count{{host=\"{named}\"}}");
    assert_eq!(value(&metrics(admin), &durations), 0.0);
}

/// Names of metrics that `/metrics` of a gateway has, without `_total` and other endings of samples.
fn known_metrics() -> BTreeSet<String> {
    let (_gateway, admin) = watched(&limit(3, "1s", "in_flight = 2"), "");
    let text = ask(admin, "GET", "/metrics", "").text();
    text.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())).collect()
}

/// Metrics that a text names and the gateway does not have, and the number of names in it.
fn unknown_metrics<'t>(text: &'t str, known: &BTreeSet<String>) -> (Vec<&'t str>, usize) {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let named: BTreeSet<&str> =
        words.filter(|word| word.starts_with("lockgate_") || word.starts_with("process_")).collect();
    // Metrics of a store are there if there is one.
    let of_store = ["lockgate_store_", "lockgate_late_permits", "lockgate_limit_config_mismatches"];
    let missing = named.iter().copied().filter(|name| !of_store.iter().any(|start| name.starts_with(start)));
    let family =
        |name: &str| name.trim_end_matches("_total").trim_end_matches("_bucket").trim_end_matches("_info").to_owned();
    (missing.filter(|name| !known.contains(&family(name))).collect(), named.len())
}

fn document(name: &str) -> String {
    std::fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_metrics_that_the_documentation_names_exist() {
    let known = known_metrics();
    for (page, least) in [("operating.md", 30), ("alerts.md", 10)] {
        let text = document(page);
        let (missing, named) = unknown_metrics(&text, &known);
        assert!(missing.is_empty() && named >= least, "{page}: {missing:?} of {named}");
    }
}

/// Reads YAML with the parser of others, and prints it as JSON.
const YAML_TO_JSON: &str = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";

/// The alerting rules of docs/alerts.yml.
fn alerting_rules() -> Vec<Value> {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut python = Command::new(format!("{root}/.venv/bin/python"));
    let output = python.args(["-c", YAML_TO_JSON, &format!("{root}/docs/alerts.yml")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file: Value = serde_json::from_slice(&output.stdout).unwrap();
    let groups = file["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn the_alerts_ask_for_metrics_that_exist() {
    let known = known_metrics();
    for rule in alerting_rules() {
        let expression = rule["expr"].as_str().unwrap();
        let (missing, named) = unknown_metrics(expression, &known);
        assert!(missing.is_empty() && (named > 0 || expression.contains("up{")), "{missing:?} of {rule}");
    }
}

#[test]
fn each_alert_has_a_runbook_and_each_runbook_an_alert() {
    let rules = alerting_rules();
    let page = document("alerts.md");
    let sections: Vec<(&str, &str)> =
        page.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    let alerts: BTreeSet<&str> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(alerts, sections.iter().map(|(title, _)| *title).collect());
    assert_eq!((alerts.len(), sections.len()), (rules.len(), rules.len()), "each once");
    for (title, text) in sections {
        for part in ["**Means**: ", "**Look at**: ", "**Do**: "] {
            assert!(text.contains(part), "{title} has no {part}");
        }
    }
    for rule in &rules {
        let anchor = format!("docs/alerts.md#{}", rule["alert"].as_str().unwrap().to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], anchor.as_str());
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        assert!(rule["annotations"]["summary"].as_str().unwrap().len() > 30, "{rule}");
    }
}
