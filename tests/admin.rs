//! Who runs the gateway sees what it does, and gives it orders; nobody else can.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::support::gateway::Dir;
use crate::support::*;
use crate::user_metrics::used_by;

/// An address for an admin listener, and the section of the file that opens it.
pub(crate) fn listener() -> (SocketAddr, String) {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    (admin, format!("\n[admin]\nlisten = \"{admin}\"\n\n"))
}

/// A gateway with an admin listener, and its address.
#[track_caller]
pub(crate) fn watched(rules: &str, more: &str) -> (Gateway, SocketAddr) {
    let (admin, listen) = listener();
    (Gateway::start(&format!("{rules}{listen}{more}")), admin)
}

/// Waits until so many requests are in the queue of a limit.
#[track_caller]
pub(crate) fn queued(admin: SocketAddr, limit: &str, count: usize) {
    let path = format!("/v1/limits/{limit}");
    eventually(&format!("{count} in the queue of {limit}"), || json(admin, &path)["waiting"] == count);
}

#[track_caller]
pub(crate) fn ask(admin: SocketAddr, method: &str, path: &str, fields: &str) -> Answer {
    let mut caller = Caller::connect(admin);
    let host = if fields.contains("Host:") { String::new() } else { format!("Host: {admin}\r\n") };
    caller.send(format!("{method} {path} HTTP/1.1\r\n{host}{fields}Connection: close\r\n\r\n"));
    caller.answer_to(method)
}

#[track_caller]
pub(crate) fn json(admin: SocketAddr, path: &str) -> Value {
    let answer = ask(admin, "GET", path, "");
    assert_eq!(answer.status, 200, "{}", answer.raw);
    serde_json::from_str(&answer.text()).unwrap()
}

/// What `/metrics` says, by name and labels; fails unless it is well formed.
#[track_caller]
pub(crate) fn metrics(admin: SocketAddr) -> BTreeMap<String, f64> {
    let answer = ask(admin, "GET", "/metrics", "");
    assert!(answer.field("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"));
    let (mut family, mut values) = (String::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let ours = name.starts_with("lockgate_") || name.starts_with("process_");
        assert!(ours && name.starts_with(&family), "{line} is not of {family}");
        assert!(values.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} comes twice");
    }
    values
}

/// Prometheus' own parser, in Python, reads it, and prints the samples as lists of name, labels and value.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
assert len(families) > 15, families
json.dump([[sample.name, sample.labels, sample.value] for family in families for sample in family.samples], sys.stdout)
";

/// The samples of `/metrics` as Prometheus' own parser reads them.
#[track_caller]
pub(crate) fn read_by_prometheus(admin: SocketAddr) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let text = ask(admin, "GET", "/metrics", "").body;
    let mut python = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python"));
    let piped = std::process::Stdio::piped;
    let mut parser = python.args(["-c", PARSE]).stdin(piped()).stdout(piped()).spawn().unwrap();
    std::io::Write::write_all(&mut parser.stdin.take().unwrap(), &text).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_becomes_of_requests_is_counted_limit_by_limit() {
    let origin = Origin::scripted(|request, link| match request.target.as_str() {
        "/busy" => {
            link.send("HTTP/1.1 429 Busy\r\nRetry-After: 0.001\r\nContent-Length: 0\r\n\r\n");
            Next::Keep
        }
        _ => link.answer(200, "fine"),
    });
    let other = "[[limit]]\nname = \"other\"\nmatch = { host = \"elsewhere.example\" }\nrequests = 1\nper = \"1s\"\n";
    let rules = format!("{}{other}", limit(3, "1h", "when_full = \"refuse\""));
    let (gateway, admin) = watched(&rules, "");
    for (path, status) in [("/1", 200), ("/busy", 429), ("/2", 200), ("/3", 429)] {
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(gateway.get(&origin.url(path)).status, status, "{path}");
    }
    // Each counts when it has ended, which may be after its answer, and on another thread than the next one.
    let ended = |seen: &BTreeMap<String, f64>, code: &str| {
        seen.get(&format!("lockgate_requests_total{{code=\"{code}\"}}")) == Some(&2.0)
    };
    eventually("four requests", || ["2xx", "4xx"].iter().all(|code| ended(&metrics(admin), code)));
    let seen = metrics(admin);
    let of = |name: &str| *seen.get(name).unwrap_or_else(|| panic!("there is no {name} in {seen:#?}"));
    assert_eq!(of("lockgate_permits_total{limit=\"the-limit\"}"), 3.0);
    assert_eq!(of("lockgate_permits_total{limit=\"other\"}"), 0.0);
    assert_eq!(of("lockgate_limit_refusals_total{limit=\"the-limit\",reason=\"full\"}"), 1.0);
    assert_eq!(of("lockgate_origin_pushbacks_total{limit=\"the-limit\"}"), 1.0);
    assert_eq!(of("lockgate_requests_total{code=\"2xx\"}"), 2.0);
    assert_eq!(of("lockgate_refusals_total{by=\"limit\",reason=\"full\"}"), 1.0);
    assert_eq!(of("lockgate_slots{limit=\"the-limit\"}"), 3.0);
    assert_eq!(of("lockgate_slots_used{limit=\"the-limit\"}"), 3.0);
    // A second one kept the pause of those without credentials, until that was over and a sweep came by.
    assert!([1.0, 2.0].contains(&of("lockgate_keys{limit=\"the-limit\"}")), "{seen:#?}");
    assert_eq!(of("lockgate_wait_seconds_count{limit=\"the-limit\"}"), 3.0);
    assert_eq!(of("lockgate_wait_seconds_bucket{le=\"+Inf\",limit=\"the-limit\"}"), 3.0);
    assert_eq!(
        (of("lockgate_persistence_state{state=\"ok\"}"), of("lockgate_persistence_state{state=\"degraded\"}")),
        (1.0, 0.0)
    );
    let shown = json(admin, "/v1/limits/the-limit");
    assert_eq!(
        (&shown["fullest"]["taken"], &shown["requests"], &shown["refused"]["full"]),
        (&3.into(), &3.into(), &1.into())
    );
    let opens = shown["fullest"]["opens_in_ms"].as_f64().unwrap();
    assert!(opens > 3_500_000.0 && opens <= 3_600_000.0, "{opens}");
    assert_eq!(json(admin, "/v1/limits")["limits"].as_array().unwrap().len(), 2);
    assert_eq!(ask(admin, "GET", "/v1/limits/none", "").status, 404);
}

#[test]
fn prometheus_reads_the_metrics() {
    let (_gateway, admin) = watched(&limit(3, "1s", ""), "");
    assert!(read_by_prometheus(admin).len() > 30);
}

#[test]
fn waiters_are_seen_while_they_wait_and_counted_when_they_hang_up() {
    let origin = Origin::start();
    let (gateway, admin) = watched(&limit(1, "1h", "max_wait = \"12h\""), "");
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let waiters: Vec<Caller> = (0..3)
        .map(|_| {
            let mut caller = gateway.caller();
            caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/2")));
            caller
        })
        .collect();
    eventually("three in line", || json(admin, "/v1/limits/the-limit")["waiting"] == 3);
    drop(waiters);
    eventually("nobody in line", || metrics(admin)["lockgate_waiters{limit=\"the-limit\"}"] == 0.0);
    eventually("three that left", || metrics(admin)["lockgate_cancelled_waiters_total{limit=\"the-limit\"}"] == 3.0);
}

#[test]
fn probes_tell_whether_it_lives_and_whether_to_send_anybody() {
    let (origin, go) = Origin::on_order();
    let (mut gateway, admin) = watched(UNLIMITED, "");
    assert_eq!(json(admin, "/healthz")["status"], "ok");
    assert_eq!(json(admin, "/healthz")["state"], "ok");
    assert_eq!(json(admin, "/readyz")["status"], "ready");
    let mut caller = gateway.caller();
    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/slow")));
    eventually("it is under way", || origin.count() == 1);
    gateway.signal(rustix::process::Signal::TERM);
    eventually("it drains", || ask(admin, "GET", "/readyz", "").status == 503);
    assert_eq!(json(admin, "/healthz")["status"], "ok");
    go.send(()).unwrap();
    assert_eq!(caller.answer().status, 200);
    assert!(gateway.ended().success());
}

#[test]
fn a_browser_cannot_be_made_to_do_what_its_user_does_not_want() {
    let (_gateway, admin) = watched(UNLIMITED, "");
    let rebound = ask(admin, "GET", "/v1/limits", "Host: evil.example\r\n");
    assert_eq!(rebound.status, 421);
    for fields in ["Origin: http://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        assert_eq!(ask(admin, "POST", "/v1/config/reload", &format!("{fields}Content-Length: 0\r\n")).status, 403);
    }
    assert_eq!(ask(admin, "GET", "/v1/config/reload", "").status, 405);
}

#[test]
fn where_there_are_users_nobody_else_sees_or_orders_anything() {
    let dir = Dir::new();
    dir.write("operators", &format!("anna:{}\n", bcrypt::hash("secret", 4).unwrap()));
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let toml = format!("{UNLIMITED}\n[admin]\nlisten = \"{admin}\"\nusers = \"operators\"\n");
    let _gateway = Gateway::start_in(dir, &toml);
    for (method, path) in [("GET", "/metrics"), ("GET", "/v1/limits"), ("POST", "/v1/config/reload")] {
        let answer = ask(admin, method, path, "Content-Length: 0\r\n");
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.field("www-authenticate").unwrap().starts_with("Basic "));
    }
    assert_eq!(ask(admin, "GET", "/healthz", "").status, 200);
    let wrong = ask(admin, "GET", "/metrics", &format!("Authorization: {}\r\n", basic("anna", "wrong")));
    assert_eq!(wrong.status, 401);
    let right = format!("Authorization: {}\r\n", basic("anna", "secret"));
    assert_eq!(ask(admin, "GET", "/metrics", &right).status, 200);
    // Whoever knows the password may come under any name of this machine.
    assert_eq!(ask(admin, "GET", "/metrics", &format!("{right}Host: gateway.internal\r\n")).status, 200);
}

#[test]
fn operators_find_the_new_process_at_the_same_address() {
    let (gateway, admin) = watched(UNLIMITED, "");
    let mut kept = gateway.caller();
    let origin = Origin::start();
    kept.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))).answer();
    gateway.hand_over();
    for _ in 0..10 {
        assert_eq!(json(admin, "/readyz")["status"], "ready", "the old process receives nobody any more");
    }
}

#[test]
fn what_happens_is_told_each_second_and_kept_for_a_while() {
    let origin = Origin::start();
    let (gateway, admin) = watched(&limit(5, "1s", ""), "");
    let mut listener = Caller::connect(admin);
    listener.send(format!("GET /v1/events HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
    let head = listener.head();
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    let mut told = String::new();
    while !told.contains("\"permits\":1") {
        told.push_str(&String::from_utf8_lossy(&listener.bytes(1)));
    }
    assert!(told.contains("event: limits\ndata: {"), "{told}");
    eventually("a second in which one went", || {
        let past = json(admin, "/v1/history");
        let permits = past["limits"]["the-limit"]["permits"].as_array().cloned().unwrap_or_default();
        permits.iter().filter_map(Value::as_u64).sum::<u64>() == 1
    });
    // Another process tells what happens from here on.
    gateway.hand_over();
    listener.rest();
}

#[test]
fn callers_do_not_reach_the_operators_door_by_way_of_the_gateway() {
    let origin = Origin::start();
    // A route to this machine names it, so that its addresses may be dialled.
    let route = format!("[[route]]\npath = \"/r/\"\nto = \"{}\"\n", origin.url("/"));
    let (gateway, admin) = watched(&format!("{}{route}", limit(1, "1h", "when_full = \"refuse\"")), "");
    for _ in 0..2 {
        let answer = gateway.exchange(format!(
            "PATCH http://{admin}/v1/limits/the-limit HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\n\
             Content-Length: 14\r\nConnection: close\r\n\r\n{{\"requests\":9}}"
        ));
        assert!([508, 429].contains(&answer.status), "{}", answer.raw);
        assert_eq!(json(admin, "/v1/limits/the-limit")["requests"], 1);
        // Nor when the file no longer names it.
        let text = std::fs::read_to_string(gateway.dir.path().join("proxy.toml")).unwrap();
        let without = text.split("\n[admin]").next().unwrap();
        assert!(gateway.reload(without));
    }
}

#[test]
fn a_visitor_that_says_nothing_does_not_stay_and_many_do_not_keep_others_out_for_long() {
    let (gateway, admin) = watched(UNLIMITED, "");
    let open = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = open(gateway.pid().as_raw_nonzero().get());
    let silent: Vec<Caller> = (0..200)
        .map(|_| {
            let mut caller = Caller::connect(admin);
            caller.send("GET /metrics HTTP/1.1\r\n");
            caller
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(open(gateway.pid().as_raw_nonzero().get()) <= before + 70, "the others wait at the door");
    drop(silent);
    assert_eq!(json(admin, "/healthz")["status"], "ok");
}

#[test]
fn top_shows_the_limits_and_says_why_it_cannot() {
    let origin = Origin::start();
    let rules = "[[limit]]\nname = \"partner\"\nmatch = { host = \"127.0.0.1\" }\nrequests = 4\nper = \"1h\"\nwhen_full = \"refuse\"\n";
    let (gateway, _admin) = watched(rules, "");
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let top = |words: &[&str]| {
        let mut command = Command::new(crate::support::gateway::PROGRAM);
        command.arg("top").args(words).current_dir(gateway.dir.path()).env_remove("LOCKGATE_ADMIN_CREDENTIALS");
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (shown, table, _) = top(&["-c", "proxy.toml"]);
    assert!(shown);
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(rows[0], ["LIMIT", "RULE", "SENT/s", "FULLEST WINDOW", "WAITING", "REFUSED/s", "KEYS"]);
    assert_eq!(rows[1], ["partner", "4 per 1h", "0.0", "██░░░░░░░░ 1 of 4", "0", "0.0", "1"]);
    let nobody = free_port();
    let (shown, _, why) = top(&["--once", "--address", &format!("127.0.0.1:{nobody}")]);
    assert!(!shown && why.contains("no answer from 127.0.0.1:"), "{why}");
    let (shown, _, why) = top(&["--once", "--address", &gateway.addr.to_string()]);
    assert!(!shown && why.contains("is not the admin listener of a gateway"), "{why}");
}

#[test]
fn the_dashboard_for_grafana_asks_for_what_there_is_and_for_nothing_else() {
    let (_gateway, admin) = used_by(&["me"], &limit(3, "1s", "in_flight = 2"));
    let seen = metrics(admin);
    let known: std::collections::BTreeSet<&str> = seen.keys().map(|name| name.split('{').next().unwrap()).collect();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/grafana.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut asked = std::collections::BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let words = target["expr"].as_str().unwrap().split(|char: char| !(char.is_alphanumeric() || char == '_'));
            asked.extend(
                words.filter(|word| word.starts_with("lockgate_") || word.starts_with("process_")).map(str::to_owned),
            );
        }
    }
    // One has no value before the first refusal.
    let missing: Vec<&String> =
        asked.iter().filter(|name| !known.contains(name.as_str()) && *name != "lockgate_refusals_total").collect();
    assert!(missing.is_empty() && asked.len() > 15, "{missing:?} of {}", asked.len());
}

#[test]
fn the_description_of_the_api_is_true() {
    let (gateway, admin) = watched(&limit(3, "1s", "in_flight = 2"), "");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/schemathesis");
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let output = Command::new(program)
        .args(["run", &format!("http://{admin}/v1/openapi.json"), "--max-examples", "20", "--checks", checks])
        // A stream has no end that could be looked at.
        .args(["--exclude-path", "/v1/events", "--no-color"])
        .current_dir(gateway.dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("10 selected / 11 total"), "{told}");
}

#[test]
fn what_of_the_file_does_less_than_it_seems_to_is_seen_until_it_is_mended() {
    let unseen = limit(5, "1s", "").replace("127.0.0.1\"] }", "api.example\"], path = \"/v2/**\" }");
    let (gateway, admin) = watched(&unseen, "");
    let warnings = json(admin, "/v1/warnings")["warnings"].clone();
    let [one] = &warnings.as_array().unwrap()[..] else { panic!("{warnings}") };
    assert_eq!((&one["file"], &one["line"], &one["column"]), (&"proxy.toml".into(), &6.into(), &19.into()));
    assert!(one["message"].as_str().unwrap().starts_with("this limit counts no https requests to api.example"));
    assert!(one["advice"].as_str().unwrap().contains("intercept"), "{one}");
    let mended = format!("{}\n[admin]\nlisten = \"{admin}\"\n", limit(5, "1s", ""));
    assert!(gateway.reload(&mended));
    assert_eq!(json(admin, "/v1/warnings")["warnings"], serde_json::json!([]));
}
