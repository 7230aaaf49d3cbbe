//! Each change at run time leaves a line of the log with its author, and so does each attempt that is refused.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;

use crate::admin::{ask, listener, watched};
use crate::support::gateway::{Dir, PROGRAM};
use crate::support::*;
use crate::tuning::send_json;

/// The audit lines of a gateway, each from `by=` on.
fn lines(gateway: &Gateway) -> Vec<String> {
    let told = gateway.stderr();
    told.lines().filter_map(|line| Some(line.split_once(" INFO audit ")?.1.to_owned())).collect()
}

/// Waits for one more audit line than there were, and compares it.
#[track_caller]
fn next(gateway: &Gateway, seen: &mut usize, wanted: &str) {
    *seen += 1;
    eventually(&format!("audit line {seen}"), || lines(gateway).len() >= *seen);
    let told = lines(gateway);
    assert_eq!((told.len(), told[*seen - 1].as_str()), (*seen, wanted), "{told:#?}");
}

/// A gateway whose admin API has the operator `anna` with the password `secret`.
#[track_caller]
fn operated(rules: &str) -> (Gateway, SocketAddr) {
    let dir = Dir::new();
    dir.write("operators", &format!("anna:{}\n", bcrypt::hash("secret", 4).unwrap()));
    let (admin, listen) = listener();
    let listen = listen.replace("\n\n", "\nusers = \"operators\"\n\n");
    (Gateway::start_in(dir, &format!("{rules}{listen}")), admin)
}

/// Sends a change to the admin API; returns its status.
fn send(admin: SocketAddr, method: &str, path: &str, fields: &str, body: &str) -> u16 {
    let length = body.len();
    let json = "Content-Type: application/json";
    let mut caller = Caller::connect(admin);
    caller.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: {admin}\r\n{fields}{json}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ));
    caller.answer_to(method).status
}

fn login(password: &str) -> String {
    format!("Authorization: {}\r\n", basic("anna", password))
}

#[test]
fn a_change_by_the_admin_api_names_its_user_and_the_keys_with_both_values() {
    let (gateway, admin) = operated(&limit(5, "1s", ""));
    let (path, anna, mut seen) = ("/v1/limits/the-limit", login("secret"), 0);
    assert_eq!(send(admin, "PATCH", path, &anna, "{\"requests\": 50, \"max_wait\": \"5s\"}"), 200);
    let changes = "limit the-limit: max_wait default -> 5s, requests 5 -> 50";
    next(&gateway, &mut seen, &format!("by=\"anna at 127.0.0.1\" what=\"tune\" changes=\"{changes}\""));
    assert_eq!(send(admin, "POST", "/v1/config/save", &anna, ""), 200);
    next(&gateway, &mut seen, "by=\"anna at 127.0.0.1\" what=\"save\" changes=\"file proxy.toml\"");
    assert_eq!(send(admin, "PATCH", path, &anna, "{\"max_wait\": null}"), 200);
    next(
        &gateway,
        &mut seen,
        "by=\"anna at 127.0.0.1\" what=\"tune\" changes=\"limit the-limit: max_wait 5s -> default\"",
    );
    assert_eq!(send(admin, "POST", "/v1/config/reload", &anna, ""), 200);
    next(
        &gateway,
        &mut seen,
        "by=\"anna at 127.0.0.1\" what=\"reload\" changes=\"limit the-limit: max_wait default -> 5s\"",
    );
}

#[test]
fn without_users_a_change_names_the_address_alone() {
    let (gateway, admin) = watched(&limit(5, "1s", ""), "");
    assert_eq!(send_json(admin, "PATCH", "/v1/limits/the-limit", "{\"requests\": 6}").status, 200);
    next(&gateway, &mut 0, "by=\"127.0.0.1\" what=\"tune\" changes=\"limit the-limit: requests 5 -> 6\"");
}

#[test]
fn a_reload_by_signal_names_limits_with_values_and_other_sections_without() {
    const SECRET: &str = "hush-hush-7291";
    let gateway = Gateway::start(&limit(1, "1h", ""));
    let mut seen = 0;
    let toml = limit(2, "1h", "") + &limit(7, "1m", "").replace("the-limit", "next") + "[timeouts]\nanswer = \"61s\"\n";
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"\n";
    assert!(gateway.reload(&format!("{toml}{admin}[[parent]]\nproxy = \"http://127.0.0.1:1\"\n")));
    let changes = "limit the-limit: requests 1 -> 2; limit next: added, match.host [127.0.0.1], per 1m, requests 7; \
                   [[parent]]; [timeouts]; [admin] after a restart";
    next(&gateway, &mut seen, &format!("by=\"signal SIGHUP\" what=\"reload\" changes=\"{changes}\""));
    assert!(!gateway.reload(&format!("{toml}[trace]\notlp = \"{SECRET}\"\n")));
    next(&gateway, &mut seen, "by=\"signal SIGHUP\" what=\"reload\" refused=\"invalid at proxy.toml:21:8\"");
    assert!(gateway.stderr().contains(SECRET), "the test has lost its point: the mistake was not shown");
    assert!(gateway.reload(UNLIMITED));
    let changes = "limit elsewhere: added, match.host [elsewhere.example], per 1s, requests 1; limit the-limit: removed; \
                   limit next: removed; [[parent]]; [timeouts]";
    next(&gateway, &mut seen, &format!("by=\"signal SIGHUP\" what=\"reload\" changes=\"{changes}\""));
    assert!(gateway.reload(UNLIMITED));
    next(&gateway, &mut seen, "by=\"signal SIGHUP\" what=\"reload\" changes=\"none\"");
}

#[test]
fn a_reload_of_a_watched_file_names_the_file() {
    let watched = |requests| format!("{}[config]\nwatch = true\n", limit(requests, "1h", ""));
    let gateway = Gateway::start(&watched(1));
    let listen = "[listen]\nproxy = \"127.0.0.1:0\"\n\n";
    gateway.dir.write("proxy.toml", &format!("{listen}{}", watched(2)));
    let mut seen = 0;
    let changes = "changes=\"limit the-limit: requests 1 -> 2\"";
    next(&gateway, &mut seen, &format!("by=\"file proxy.toml\" what=\"reload\" {changes}"));
    gateway.dir.write("proxy.toml", &format!("{listen}{}", watched(0)));
    next(&gateway, &mut seen, "by=\"file proxy.toml\" what=\"reload\" refused=\"invalid at proxy.toml:7:12\"");
}

#[test]
fn a_refused_change_is_an_attempt_with_its_reason_and_without_what_was_sent() {
    const SECRET: &str = "hush-hush-7291";
    let (gateway, admin) = operated(&limit(5, "1s", ""));
    let (path, anna, mut seen) = (format!("/v1/limits/the-limit?token={SECRET}"), login("secret"), 0);
    let more = format!("{{\"requests\": 6, \"x\": \"{SECRET}\"}}");
    assert_eq!(send(admin, "PATCH", &path, &login(SECRET), &more), 401);
    next(&gateway, &mut seen, "by=\"127.0.0.1\" what=\"tune\" refused=\"401 Unauthorized\"");
    assert_eq!(send(admin, "POST", "/v1/config/reload", "", ""), 401);
    next(&gateway, &mut seen, "by=\"127.0.0.1\" what=\"reload\" refused=\"401 Unauthorized\"");
    assert_eq!(send(admin, "POST", "/v1/config/save", &format!("{anna}Origin: http://evil.example\r\n"), ""), 403);
    next(&gateway, &mut seen, "by=\"127.0.0.1\" what=\"save\" refused=\"403 Forbidden\"");
    let by = "by=\"anna at 127.0.0.1\"";
    assert_eq!(send(admin, "PATCH", &path, &anna, "{\"requests\": 0}"), 422);
    next(&gateway, &mut seen, &format!("{by} what=\"tune\" refused=\"422 `requests` cannot be 0\""));
    assert_eq!(send(admin, "PATCH", &path, &anna, &format!("\"{SECRET}\"")), 422);
    next(&gateway, &mut seen, &format!("{by} what=\"tune\" refused=\"422 Unprocessable Entity\""));
    assert_eq!(send(admin, "PATCH", &format!("/v1/limits/{SECRET}"), &anna, "{\"requests\": 6}"), 404);
    next(&gateway, &mut seen, &format!("{by} what=\"tune\" refused=\"404 Not Found\""));
    // Nothing is to be changed by these.
    assert_eq!(ask(admin, "GET", "/v1/limits", "").status, 401);
    assert_eq!(send(admin, "POST", &format!("/{SECRET}"), &anna, ""), 404);
    assert_eq!(send(admin, "PATCH", &path, &anna, "{\"requests\": 7}"), 200);
    next(&gateway, &mut seen, &format!("{by} what=\"tune\" changes=\"limit the-limit: requests 5 -> 7\""));
    assert!(!lines(&gateway).join("\n").contains(SECRET), "{:#?}", lines(&gateway));
}

#[test]
fn a_stranger_cannot_fill_the_log_nor_keep_an_operator_out_of_it() {
    let (gateway, admin) = operated(&limit(5, "1s", ""));
    let anna = login("secret");
    // Known from here on, so that the wrong passwords of its address do not keep it out.
    assert_eq!(send(admin, "PATCH", "/v1/limits/the-limit", &anna, "{\"requests\": 6}"), 200);
    for attempt in 0..40 {
        let status = send(admin, "PATCH", "/v1/limits/the-limit", &login(&format!("wrong{attempt}")), "{}");
        assert!([401, 429].contains(&status), "{status}");
    }
    assert_eq!(send(admin, "PATCH", "/v1/limits/the-limit", &anna, "{\"requests\": 0}"), 422);
    eventually("the operator's attempt", || lines(&gateway).iter().any(|line| line.contains("`requests` cannot be 0")));
    let refused = lines(&gateway).iter().filter(|line| line.starts_with("by=\"127.0.0.1\" what=\"tune\"")).count();
    // Twice as many if a minute ends meanwhile.
    assert!((10..=20).contains(&refused), "{refused}: {:#?}", lines(&gateway));
}

#[test]
fn a_removal_of_locks_names_the_operator_and_the_resource() {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let dir = Dir::new();
    dir.write("operators", &format!("anna:{}\n", bcrypt::hash("secret", 4).unwrap()));
    let toml = format!("{UNLIMITED}[locks]\nlisten = \"{addr}\"\nusers = \"operators\"\n");
    let gateway = Gateway::start_in(dir, &toml);
    let mut seen = 0;
    let take = |resource: &str| {
        let body = "{\"title\": \"a test\", \"wait\": 0, \"lifetime\": 60}";
        assert_eq!(send(addr, "POST", &format!("/locks/{resource}"), "", body), 201);
    };
    ["r", "s", "t"].into_iter().for_each(take);
    assert_eq!(send(addr, "DELETE", "/resources/r", "", ""), 401);
    next(&gateway, &mut seen, "by=\"127.0.0.1\" what=\"removal of locks\" refused=\"401 Unauthorized\"");
    let page = format!("{}Origin: http://evil.example\r\n", login("secret"));
    assert_eq!(send(addr, "DELETE", "/resources", &page, ""), 403);
    next(&gateway, &mut seen, "by=\"127.0.0.1\" what=\"removal of locks\" refused=\"403 Forbidden\"");
    // Listing is no change.
    assert_eq!(send(addr, "GET", "/resources", "", ""), 401);
    assert_eq!(send(addr, "DELETE", "/resources/r", &login("secret"), ""), 204);
    let by = "by=\"anna at 127.0.0.1\" what=\"removal of locks\"";
    next(&gateway, &mut seen, &format!("{by} changes=\"resource r: 1 held or waited for\""));
    assert_eq!(send(addr, "DELETE", "/resources/r", &login("secret"), ""), 404);
    assert_eq!(send(addr, "DELETE", "/resources", &login("secret"), ""), 204);
    next(&gateway, &mut seen, &format!("{by} changes=\"all resources: 2 held or waited for\""));
}

#[test]
fn an_upgrade_and_both_kinds_of_stop_name_their_signals() {
    let (origin, _never) = Origin::on_order();
    let mut gateway = Gateway::start(UNLIMITED);
    let mut seen = 0;
    // The kept connection stays with the old process.
    let mut caller = gateway.caller();
    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/")));
    eventually("it is under way", || origin.count() == 1);
    gateway.dir.write("proxy.toml", "[[limit]]\n");
    gateway.signal(Signal::USR2);
    let refused = "refused=\"invalid at proxy.toml:1:1\"";
    next_two(
        &gateway,
        &mut seen,
        &["reload", "upgrade"].map(|what| format!("by=\"signal SIGUSR2\" what=\"{what}\" {refused}")),
    );
    let listen = "[listen]\nproxy = \"127.0.0.1:0\"\n\n";
    gateway.dir.write("proxy.toml", &format!("{listen}{UNLIMITED}"));
    gateway.hand_over();
    let process = format!("changes=\"process {}\"", gateway.serving().as_raw_nonzero());
    let of_upgrade = [("reload", "changes=\"none\""), ("upgrade", process.as_str())];
    next_two(
        &gateway,
        &mut seen,
        &of_upgrade.map(|(what, more)| format!("by=\"signal SIGUSR2\" what=\"{what}\" {more}")),
    );
    gateway.signal(Signal::TERM);
    next(&gateway, &mut seen, "by=\"signal SIGTERM\" what=\"stop\"");
    gateway.signal(Signal::INT);
    next(&gateway, &mut seen, "by=\"signal SIGINT\" what=\"stop at once\"");
    gateway.ended();
}

/// The same for two lines that come together.
#[track_caller]
fn next_two(gateway: &Gateway, seen: &mut usize, wanted: &[String; 2]) {
    *seen += 2;
    eventually(&format!("audit line {seen}"), || lines(gateway).len() >= *seen);
    assert_eq!(&lines(gateway)[*seen - 2..], wanted);
}

#[test]
fn the_lines_can_be_asked_for_alone() {
    let dir = Dir::new();
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:0\"\n\n{}", limit(1, "1h", "")));
    let mut command = Command::new("env");
    command.args(["RUST_LOG=warn,audit=info", PROGRAM, "run", "-c", "proxy.toml"]);
    let gateway = Gateway::start_by(&mut command, Arc::new(dir));
    gateway.signal(Signal::HUP);
    next(&gateway, &mut 0, "by=\"signal SIGHUP\" what=\"reload\" changes=\"none\"");
    let told = gateway.stderr();
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_change_of_the_level_hides_no_line_of_its_own() {
    let gateway = Gateway::start(UNLIMITED);
    let mut seen = 0;
    for toml in ["[log]\nlevel = \"warn\"\n", ""] {
        gateway.dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:0\"\n\n{UNLIMITED}{toml}"));
        gateway.signal(Signal::HUP);
        next(&gateway, &mut seen, "by=\"signal SIGHUP\" what=\"reload\" changes=\"[log]\"");
    }
}

#[test]
fn the_example_lines_of_the_documentation_are_true() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md")).unwrap();
    let examples: Vec<&str> = page.lines().filter_map(|line| Some(line.split_once(" INFO audit ")?.1)).collect();
    let rules = limit(5, "1s", "").replace("the-limit", "partner-api");
    let (gateway, admin) = operated(&rules);
    let keys = "{\"requests\": 50, \"per\": \"10s\"}";
    assert_eq!(send(admin, "PATCH", "/v1/limits/partner-api", &login("secret"), keys), 200);
    assert_eq!(send(admin, "PATCH", "/v1/limits/partner-api", &login("wrong"), keys), 401);
    let text = std::fs::read_to_string(gateway.dir.path().join("proxy.toml")).unwrap();
    let text = text.replace("requests = 5", "requests = 50").replace("1s", "10s");
    assert!(gateway.reload(&format!("{text}[timeouts]\nanswer = \"61s\"\n")), "{}", gateway.stderr());
    assert_eq!(lines(&gateway), examples);
    assert_eq!(json_of(admin)["requests"], 50);
}

fn json_of(admin: SocketAddr) -> serde_json::Value {
    let answer = ask(admin, "GET", "/v1/limits/partner-api", &login("secret"));
    serde_json::from_str(&answer.text()).unwrap()
}
