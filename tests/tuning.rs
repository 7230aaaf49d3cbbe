//! Operators change limits while requests wait, and the file when they say so.

use std::net::SocketAddr;

use serde_json::Value;

use crate::admin::{ask, json, watched};
use crate::support::*;

#[test]
fn a_limit_keeps_its_numbers_when_the_file_is_read_again_by_order() {
    let origin = Origin::start();
    let (gateway, admin) = watched(&limit(2, "1h", "when_full = \"refuse\""), "");
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let file = gateway.dir.path().join("proxy.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("requests = 2", "requests = 7")).unwrap();
    let told = ask(admin, "POST", "/v1/config/reload", "Content-Length: 0\r\n");
    assert_eq!(told.status, 200, "{}", told.raw);
    assert!(told.text().contains("is changed; its counts are kept"), "{}", told.raw);
    let shown = json(admin, "/v1/limits/the-limit");
    assert_eq!((&shown["requests"], &shown["permits"], &shown["fullest"]["taken"]), (&7.into(), &1.into(), &1.into()));
    std::fs::write(&file, text.replace("requests = 2", "requests = \"many\"")).unwrap();
    let told = ask(admin, "POST", "/v1/config/reload", "Content-Length: 0\r\n");
    assert_eq!(told.status, 422);
    assert!(told.text().contains("`requests` cannot be"), "{}", told.raw);
    assert_eq!(json(admin, "/v1/limits/the-limit")["requests"], 7);
}

#[test]
fn a_section_that_no_reload_changes_is_told_with_the_command_that_puts_it_in_force() {
    let origin = Origin::start();
    let (gateway, admin) = watched(&limit(2, "1h", "when_full = \"refuse\""), "");
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let (file, other) = (gateway.dir.path().join("proxy.toml"), free_port());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&format!("\"{admin}\""), &format!("\"127.0.0.1:{other}\""))).unwrap();
    let command = format!("kill -USR2 {}", gateway.pid());
    let line = format!("[admin] stays as it was: {command} ");
    // As long as it is not in force, at each reload.
    for count in 1..=2 {
        let told = ask(admin, "POST", "/v1/config/reload", "Content-Length: 0\r\n");
        assert!(told.status == 200 && told.text().contains(&line), "{}", told.raw);
        assert_eq!(gateway.stderr().matches(&format!("WARN {line}")).count(), count, "{}", gateway.stderr());
    }
    // A change of a limit has nothing to do with it.
    let told = send_json(admin, "PATCH", "/v1/limits/the-limit", "{\"max_waiting\": 7}");
    assert!(told.status == 200 && !told.text().contains("stays as it was"), "{}", told.raw);
    assert!(std::process::Command::new("sh").args(["-c", &command]).status().unwrap().success());
    let moved = SocketAddr::from(([127, 0, 0, 1], other));
    eventually("it is in force", || std::net::TcpStream::connect(moved).is_ok());
    let told = ask(moved, "POST", "/v1/config/reload", "Content-Length: 0\r\n");
    assert!(told.status == 200 && !told.text().contains("stays as it was"), "{}", told.raw);
    assert_eq!(json(moved, "/v1/limits/the-limit")["fullest"]["taken"], 1);
}

#[track_caller]
pub(crate) fn send_json(admin: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    let mut caller = Caller::connect(admin);
    let length = body.len();
    caller.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ));
    caller.answer_to(method)
}

/// Changes keys of a limit of the gateway that runs.
#[track_caller]
pub(crate) fn tune(admin: SocketAddr, limit: &str, keys: &str) {
    let tuned = send_json(admin, "PATCH", &format!("/v1/limits/{limit}"), &format!("{{{keys}}}"));
    assert_eq!(tuned.status, 200, "{}{}", tuned.raw, tuned.text());
}

#[test]
fn a_limit_is_tuned_while_requests_wait_and_saved_with_nothing_else_changed() {
    let origin = Origin::start();
    let rules = "# what we pay for\n[[limit]]\nname     = \"paid\"   # do not rename\nmatch    = { host = \"127.0.0.1\" }\n\
                 requests = 1        # per contract\nper      = \"1h\"\nmax_wait = \"12h\"\n";
    let (gateway, admin) = watched(rules, "");
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let mut waits = gateway.caller();
    waits.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/2")));
    eventually("one in line", || json(admin, "/v1/limits/paid")["waiting"] == 1);
    let file = gateway.dir.path().join("proxy.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let tuned = send_json(admin, "PATCH", "/v1/limits/paid", "{\"requests\": 2, \"dry_run\": false}");
    assert_eq!(tuned.status, 200, "{}", tuned.raw);
    assert_eq!(serde_json::from_str::<Value>(&tuned.text()).unwrap()["requests"], 2);
    assert_eq!(waits.answer().status, 200, "it has a slot now");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before, "nothing is written unless it is asked for");
    let saved = send_json(admin, "POST", "/v1/config/save", "");
    assert_eq!(saved.status, 200, "{}", saved.raw);
    let wanted = before.replace("requests = 1 ", "requests = 2 ").replace("\"12h\"\n", "\"12h\"\ndry_run = false\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), wanted);
    gateway.complains("tuned limit=\"paid\" edits=");
    gateway.complains("requests = 2");
}

#[test]
fn what_cannot_be_is_not_tuned_and_told_as_for_the_file() {
    let (gateway, admin) = watched(&limit(5, "1s", ""), "");
    for (body, status, why) in [
        ("{\"requests\": 0}", 422, "`requests` cannot be 0"),
        ("{\"per\": \"soon\"}", 422, "`per` cannot be \\\"soon\\\""),
        ("{\"request\": 5}", 422, "unknown key `request`"),
        ("{\"name\": \"other\"}", 422, "`name` cannot be tuned"),
        ("{\"\\\"name\\\"\": \"other\"}", 422, "cannot be tuned"),
        ("{\"match.path\": \"/none\"}", 422, "`match.path` cannot be tuned"),
        ("{\"max_keys = 9\\n[access]\\nunlisted_hosts\": \"deny\"}", 422, "cannot be tuned"),
        ("{\"requests\": 1.5}", 422, "`requests` must be a whole number"),
        ("{\"requests\": {}}", 422, "`requests` cannot be tuned"),
        ("[1]", 422, "invalid type"),
        ("{", 400, "EOF"),
    ] {
        let answer = send_json(admin, "PATCH", "/v1/limits/the-limit", body);
        assert_eq!(answer.status, status, "{body}: {}", answer.raw);
        assert!(answer.text().contains(why), "{body}: {}", answer.raw);
        assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    }
    assert_eq!(send_json(admin, "PATCH", "/v1/limits/none", "{\"requests\": 1}").status, 404);
    assert_eq!(json(admin, "/v1/limits/the-limit")["requests"], 5);
    // What is tuned holds until the file is read again.
    assert_eq!(send_json(admin, "PATCH", "/v1/limits/the-limit", "{\"requests\": 6, \"guard\": \"1ms\"}").status, 200);
    let file = gateway.dir.path().join("proxy.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n# somebody else was here\n")).unwrap();
    assert_eq!(send_json(admin, "POST", "/v1/config/save", "").status, 409);
    assert_eq!(send_json(admin, "POST", "/v1/config/reload", "").status, 200);
    let shown = json(admin, "/v1/limits/the-limit");
    assert_eq!((&shown["requests"], &shown["guard_ms"]), (&5.into(), &0.0.into()));
    assert_eq!(
        send_json(admin, "PATCH", "/v1/limits/the-limit", "{\"requests\": null}").status,
        422,
        "N has no default"
    );
}

#[test]
fn an_order_while_it_drains_is_refused_at_once() {
    let (origin, go) = Origin::on_order();
    let (mut gateway, admin) = watched(UNLIMITED, "");
    let mut caller = gateway.caller();
    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/slow")));
    eventually("it is under way", || origin.count() == 1);
    gateway.signal(rustix::process::Signal::TERM);
    eventually("it drains", || ask(admin, "GET", "/readyz", "").status == 503);
    assert_eq!(send_json(admin, "POST", "/v1/config/reload", "").status, 503);
    go.send(()).unwrap();
    assert_eq!(caller.answer().status, 200);
    assert!(gateway.ended().success());
}

#[test]
fn what_is_tuned_after_a_save_is_not_undone_by_the_file_that_was_saved() {
    let (gateway, admin) = watched(&limit(5, "1s", ""), "[config]\nwatch = true\n");
    assert_eq!(send_json(admin, "PATCH", "/v1/limits/the-limit", "{\"requests\": 6}").status, 200);
    assert_eq!(send_json(admin, "POST", "/v1/config/save", "").status, 200);
    assert_eq!(send_json(admin, "PATCH", "/v1/limits/the-limit", "{\"requests\": 7}").status, 200);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(json(admin, "/v1/limits/the-limit")["requests"], 7);
    // Somebody else's change is heard of.
    let file = gateway.dir.path().join("proxy.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("requests = 6", "requests = 8")).unwrap();
    eventually("the change", || json(admin, "/v1/limits/the-limit")["requests"] == 8);
}
