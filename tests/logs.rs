//! One line per request, that nobody can forge and that tells no secrets.

use crate::support::certs::{Authority, Fault, client_hello};
use crate::support::gateway::{Dir, get};
use crate::support::stage::Before;
use crate::support::*;

#[test]
fn a_line_tells_what_became_of_a_request() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "when_full = \"refuse\""));
    gateway.get(&origin.url("/good"));
    let line = gateway.log_line("/good");
    for part in ["127.0.0.1", "GET", "200", "the-limit"] {
        assert!(line.contains(part), "{part} is missing: {line}");
    }
    gateway.get(&origin.url("/refused"));
    let line = gateway.log_line("/refused");
    assert!(line.contains("429") && line.contains("limit"), "{line}");
}

#[test]
fn a_limit_that_refuses_many_requests_is_named_once() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "when_full = \"refuse\""));
    for _ in 0..10 {
        gateway.get(&origin.url("/"));
    }
    assert!(!gateway.stderr().contains("refuses"), "nine of ten: {}", gateway.stderr());
    for _ in 0..10 {
        gateway.get(&origin.url("/"));
    }
    gateway.complains("a limit refuses many requests");
    let told = gateway.stderr();
    let line = told.lines().find(|line| line.contains("refuses many")).unwrap();
    assert!(line.contains("the-limit") && line.contains("full 10"), "{line}");
    assert_eq!(told.matches("refuses many").count(), 1, "{told}");
}

#[test]
fn json_lines_are_json() {
    let origin = Origin::start();
    let gateway = Gateway::start(&(limit(9, "1s", "") + "[log]\naccess = \"json\"\n"));
    for path in ["/plain", "/q\"uote\\back", "/tail?x"] {
        gateway.get(&origin.url(path));
    }
    gateway.exchange(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.authority()));
    gateway.log_line("CONNECT");
    let lines: Vec<String> = gateway.lines().into_iter().filter(|l| l.starts_with('{')).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    for line in &lines {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value.is_object());
        assert!(value["status"].is_u64() && value["method"].is_string(), "{line}");
    }
}

#[test]
fn the_log_can_be_off() {
    let origin = Origin::start();
    let mut gateway = Gateway::start(&format!("{UNLIMITED}[log]\naccess = \"off\"\n"));
    gateway.get(&origin.url("/unseen"));
    gateway.signal(rustix::process::Signal::TERM);
    gateway.ended();
    assert!(!gateway.lines().iter().any(|l| l.contains("/unseen")), "{:?}", gateway.lines());
}

#[test]
fn everything_is_written_before_the_gateway_ends() {
    let origin = Origin::start();
    let mut gateway = Gateway::start(UNLIMITED);
    for n in 0..50 {
        gateway.get(&origin.url(&format!("/line-{n}-")));
    }
    gateway.signal(rustix::process::Signal::TERM);
    gateway.ended();
    for n in 0..50 {
        gateway.log_line(&format!("/line-{n}-"));
    }
}

#[test]
fn a_note_with_spaces_is_in_quotes() {
    let (origin, _never) = Origin::on_order();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(get(&origin.url("/left")));
    eventually("the origin has it", || origin.count() == 1);
    drop(caller);
    let line = gateway.log_line("/left");
    assert!(line.ends_with(" note=\"the caller hung up\""), "{line}");
}

#[test]
fn the_note_of_a_refusal_tells_its_cause() {
    let gateway = Gateway::start(&(limit(1, "1h", "") + "[access]\nunlisted_hosts = \"deny\"\n"));
    check_ours(&gateway.get("http://elsewhere.example/"), 403, "http_request_denied");
    let line = gateway.log_line("elsewhere.example");
    let noted = "note=\"denied: no limit names the host, and [access] unlisted_hosts is \\\"deny\\\"\"";
    assert!(line.contains(" refused_by=access ") && line.ends_with(noted), "{line}");
}

#[test]
fn tls_to_a_listener_without_it_is_told_as_such() {
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.caller().send(client_hello("localhost", None)).answer();
    check_ours(&answer, 400, "http_request_error");
    for word in ["TLS", "http://", "HTTPS_PROXY", "[listen] tls"] {
        assert!(answer.text().contains(word), "{word}: {}", answer.text());
    }
    let line = gateway.log_line(" 400 ");
    assert!(line.contains("note=tls_to_plain_listener"), "{line}");
}

#[test]
fn a_caller_that_does_not_trust_the_authority_is_one_warning_that_says_what_to_do() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway(UNLIMITED, &[origin.port()]);
    let stranger = Authority::named("another").caller_config();
    for _ in 0..2 {
        let mut inside = stage.tunnel(&origin.name()).into_tls_with("localhost", stranger.clone());
        assert!(inside.try_handshake().is_err());
        // With what was to be written still: the alert.
        inside.finish();
    }
    let noted = "note=\"the caller does not trust the gateway's authority: its TLS ended with UnknownCA\"";
    let lines = || stage.gateway.lines().iter().filter(|line| line.contains(noted)).count();
    eventually("both are in the access log", || lines() == 2);
    stage.tunnel(&origin.name()).into_tls_with("localhost", stranger).try_handshake().unwrap_err();
    stage.gateway.log_line("note=\"the caller broke its TLS handshake off");
    let told = stage.gateway.stderr();
    let warnings: Vec<&str> = told.lines().filter(|line| line.contains(" WARN ")).collect();
    let [warning] = warnings[..] else { panic!("{told}") };
    for word in ["localhost", "127.0.0.1", "UnknownCA", "`lockgate exec`", &stage.ca().display().to_string()] {
        assert!(warning.contains(word), "{word}: {warning}");
    }
}

#[test]
fn secrets_never_appear() {
    const SECRET: &str = "hush-hush-7291";
    let origin = Origin::start();
    let dir = Dir::new();
    let users = dir.write("users", &format!("me:{}\n", bcrypt::hash(SECRET, 4).unwrap()));
    std::fs::set_permissions(&users, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut toml =
        limit(2, "1h", "when_full = \"refuse\"\nkey = [\"query:api_key\", \"header:authorization\", \"header:x-key\"]");
    toml += &format!("[access]\nusers = \"{}\"\n\n[log]\nlevel = \"trace\"\n", users.display());
    let mut gateway = Gateway::start_in(dir, &toml);
    let encoded = basic("me", SECRET);
    let ask = |credentials: &str, url: &str| {
        gateway.exchange(format!(
            "GET {url} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: {credentials}\r\nAuthorization: Bearer {SECRET}\r\n\
             Cookie: {SECRET}\r\nX-Key: {SECRET}\r\nConnection: close\r\n\r\n"
        ))
    };
    let url = origin.url(&format!("/path?api_key={SECRET}&other={SECRET}&{SECRET}"));
    assert_eq!(ask(&encoded, &url).status, 200);
    assert_eq!(ask(&basic("me", &format!("{SECRET}-wrong")), &url).status, 407);
    assert_eq!(ask(&encoded, &url).status, 200);
    assert_eq!(ask(&encoded, &url).status, 429);
    let dead = DeadPort::new();
    assert_eq!(ask(&encoded, &format!("http://127.0.0.1:{}/dead?k={SECRET}", dead.port())).status, 502);
    assert_eq!(ask(&encoded, &format!("http://me:{SECRET}@127.0.0.1:{}/", origin.port())).status, 400);
    gateway.log_line("/path");
    gateway.signal(rustix::process::Signal::TERM);
    gateway.ended();
    let all = format!("{}\n{}", gateway.lines().join("\n"), gateway.stderr());
    assert!(!all.contains(SECRET), "{all}");
    assert!(!all.contains(encoded.trim_start_matches("Basic ")), "{all}");
}

#[test]
fn a_request_cannot_forge_a_line() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let forged = basic("a\r\nforged 200\x1b[31m", "x");
    gateway.exchange(format!(
        "GET {} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: {forged}\r\nUser-Agent: \x09\u{9b}31m\r\nConnection: close\r\n\r\n",
        origin.url("/%0d%0aforged/%1b[31m")
    ));
    gateway.exchange("GET http://a\x1b[31m/ HTTP/1.1\r\nHost: a\r\nX: \x1b\r\n\r\n");
    gateway.exchange("G\x1bT http://a/ HTTP/1.1\r\nHost: a\r\n\r\n");
    gateway.get(&origin.url("/last"));
    gateway.log_line("/last");
    let all = format!("{}\n{}", gateway.lines().join("\n"), gateway.stderr());
    assert!(!all.lines().any(|line| line.starts_with("forged")), "{all}");
    assert!(!all.chars().any(|c| c.is_control() && c != '\n'), "{all:?}");
}
