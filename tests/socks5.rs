//! SOCKS5 on the proxy port: what a client asks for in that way is a CONNECT, and counted like one.

use std::process::Command;
use std::time::Duration;

use crate::access::with_users;
use crate::clients::{Stage as Programs, goes_well};
use crate::support::certs::{self, Fault};
use crate::support::processes::{finish, start, top};
use crate::support::socks5::{GREETING, SUCCEEDED, by_name, greeted, login, through};
use crate::support::stage::{Before, counted, get};
use crate::support::*;

const FULL: &str = "when_full = \"refuse\"";

/// `[access]` that lets tunnels to this port carry anything.
fn port(port: u16) -> String {
    format!("[access]\nconnect_ports = [{port}]\n")
}

/// An origin that sends back what comes, after a first line of no protocol.
fn echo_origin() -> Origin {
    Origin::scripted(|request, link| {
        link.send(request.raw.clone());
        link.echo();
        Next::Close
    })
}

/// Bytes that are neither HTTP nor TLS.
const OPAQUE: &str = "SAY / ECHO/1.1\r\n\r\n";

/// The reply to a request, by its second byte; the connection ends behind it.
fn refused(gateway: &Gateway, request: &[u8]) -> u8 {
    let mut caller = greeted(gateway);
    let reply = caller.send(request).bytes(10);
    assert_eq!([reply[0], reply[2], reply[3]], [5, 0, 1], "{reply:?}");
    caller.expect_end();
    reply[1]
}

#[test]
fn a_tunnel_by_name_or_address_carries_bytes_both_ways_and_loses_none_sent_ahead() {
    let origin = echo_origin();
    let gateway = Gateway::start(&format!("{UNLIMITED}{}", port(origin.port())));
    let number = origin.port().to_be_bytes();
    let four = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &number].concat();
    let mapped = [&[5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1][..], &number].concat();
    for request in [by_name(&format!("localhost:{}", origin.port())), by_name(&origin.authority()), four, mapped] {
        let mut caller = gateway.caller();
        caller.send([GREETING, &request, OPAQUE.as_bytes()].concat());
        assert_eq!(caller.bytes(2), [5, 0]);
        assert_eq!(caller.bytes(10), SUCCEEDED);
        assert_eq!(caller.bytes(OPAQUE.len()), OPAQUE.as_bytes());
        assert_eq!(caller.send("more").bytes(4), b"more");
    }
    gateway.log_line(&format!("CONNECT localhost:{} 200", origin.port()));
}

#[test]
fn a_handshake_may_arrive_byte_by_byte() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let to = origin.authority();
    let mut caller = gateway.caller();
    for byte in [GREETING, &by_name(&to)].concat() {
        caller.send([byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(caller.bytes(12), [&[5, 0][..], &SUCCEEDED].concat());
    assert_eq!(caller.send(get(&to, "/slow")).answer().text(), "/slow");
}

#[test]
fn plain_http_inside_is_counted_request_by_request() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(2, "1h", FULL));
    let to = origin.authority();
    let mut inside = through(&gateway, &to);
    for path in ["/1", "/2"] {
        assert_eq!(inside.send(get(&to, path)).answer().text(), path);
    }
    check_ours(&inside.send(get(&to, "/3")).answer(), 429, "http_request_error");
    assert_eq!(origin.targets(), ["/1", "/2"]);
    // A second byte 5 on the same connection begins no second handshake.
    check_ours(&inside.send(GREETING).send("\r\n\r\n").answer(), 400, "http_request_error");
}

#[test]
fn tls_to_an_intercepted_host_is_opened_and_its_requests_are_counted() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway(&counted(1, "1h", FULL), &[origin.port()]);
    let opened = through(&stage.gateway, &origin.name());
    let mut inside = opened.into_tls_with("localhost", certs::offering(stage.trusting(), &["http/1.1"]));
    assert_eq!(inside.send(get(&origin.name(), "/1")).answer().status, 200);
    check_ours(&inside.send(get(&origin.name(), "/2")).answer(), 429, "http_request_error");
}

#[test]
fn an_opaque_tunnel_takes_a_slot_and_one_too_many_is_refused() {
    let origin = echo_origin();
    let gateway = Gateway::start(&format!("{}{}", limit(1, "1h", FULL), port(origin.port())));
    let mut first = through(&gateway, &origin.authority());
    assert_eq!(first.send(OPAQUE).bytes(OPAQUE.len()), OPAQUE.as_bytes());
    assert_eq!(refused(&gateway, &by_name(&origin.authority())), 1);
    assert!(gateway.log_line(" 429 ").contains("CONNECT"));
}

#[test]
fn each_refusal_has_the_reply_of_its_kind() {
    let dead = DeadPort::new();
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{UNLIMITED}{}", port(dead.port())));
    let name = |host: &str, port: u16| by_name(&format!("{host}:{port}"));
    assert_eq!(refused(&gateway, &name("127.0.0.1", 25)), 2, "a port that access does not allow");
    assert_eq!(refused(&gateway, &name("127.0.0.1", dead.port())), 5, "no server listens");
    assert_eq!(refused(&gateway, &name("no-such-host.invalid", dead.port())), 4, "no such name");
    assert_eq!(refused(&gateway, &name("0x7f.1", dead.port())), 2, "an address in disguise");
    assert_eq!(refused(&gateway, &name("127.0.0.1", 0)), 1, "no port");
    assert_eq!(refused(&gateway, b"\x05\x01\x00\x03\x03a\0b\0P"), 1, "no name");
    assert_eq!(refused(&gateway, &[5, 2, 0, 1, 127, 0, 0, 1, 0, 80]), 7, "BIND");
    assert_eq!(refused(&gateway, &[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]), 7, "UDP");
    assert_eq!(refused(&gateway, &[5, 1, 0, 2, 0]), 8, "an unknown type of address");
    for note in ["CONNECT 127.0.0.1:25 403", "dns", "connection_refused", "BIND"] {
        gateway.log_line(note);
    }
    let mut tls = through(&gateway, &origin.authority());
    tls.send(certs::client_hello("localhost", None));
    assert_eq!(tls.bytes(7), [21, 3, 3, 0, 2, 2, 49], "TLS to another port than connect_ports: access_denied");
}

#[test]
fn a_client_without_a_common_method_is_told_so() {
    let gateway = Gateway::start(UNLIMITED);
    for methods in [&[5, 0][..], &[5, 1, 1], &[5, 2, 1, 3]] {
        let mut caller = gateway.caller();
        assert_eq!(caller.send(methods).bytes(2), [5, 0xff]);
        caller.expect_end();
    }
    // A password that no one asks for is taken, if the client offers nothing else.
    let mut caller = gateway.caller();
    assert_eq!(caller.send([5, 1, 2]).bytes(2), [5, 2]);
    assert_eq!(caller.send(login("any", "thing")).bytes(2), [1, 0]);
}

#[test]
fn users_prove_who_they_are_before_their_request() {
    let origin = Origin::start();
    let gateway = with_users(&limit(1, "1h", &format!("key = [\"caller\"]\n{FULL}")));
    let to = origin.authority();
    let as_user = |name: &str, password: &str| {
        let mut caller = gateway.caller();
        assert_eq!(caller.send([5, 3, 0, 1, 2]).bytes(2), [5, 2], "the password is needed");
        let accepted = caller.send(login(name, password)).bytes(2);
        (caller, accepted)
    };
    for (name, password, wanted) in [("me", "secret", 200), ("you", "other", 200), ("me", "secret", 429)] {
        let (mut caller, accepted) = as_user(name, password);
        assert_eq!(accepted, [1, 0], "{name}");
        assert_eq!(caller.send(by_name(&to)).bytes(10), SUCCEEDED);
        assert_eq!(caller.send(get(&to, "/")).answer().status, wanted, "{name}");
    }
    assert!(gateway.log_line("CONNECT ").contains(" me "));
    for (name, password) in [("me", "wrong"), ("nobody", "secret"), ("", ""), ("me:x", "secret"), ("me", "secret2")] {
        let (mut caller, answer) = as_user(name, password);
        assert_eq!(answer, [1, 1], "{name}:{password}");
        caller.expect_end();
    }
    let mut without = gateway.caller();
    assert_eq!(without.send(GREETING).bytes(2), [5, 0xff]);
    without.expect_end();
    gateway.log_line(" 407 ");
    assert!(!gateway.lines().iter().any(|line| line.contains("wrong") || line.contains("secret2")));
    assert_eq!(origin.count(), 2);
}

#[test]
fn wrong_passwords_are_slowed_down_as_those_of_http_are() {
    let gateway = with_users(UNLIMITED);
    for n in 0..5 {
        let mut caller = gateway.caller();
        caller.send([&[5, 1, 2][..], &login("me", &format!("guess{n}"))].concat());
        assert_eq!(caller.bytes(4), [5, 2, 1, 1]);
    }
    let mut caller = gateway.caller();
    caller.send([&[5, 1, 2][..], &login("me", "guess5")].concat());
    assert_eq!(caller.bytes(4), [5, 2, 1, 1]);
    gateway.log_line("too_many_tries");
}

#[test]
fn a_handshake_that_stops_midway_has_the_time_of_a_head() {
    let gateway = Gateway::start(&format!("{UNLIMITED}[timeouts]\nhead = \"1s\"\n"));
    let mut silent = greeted(&gateway);
    assert_eq!(silent.bytes(10)[1], 1);
    silent.expect_end();
    gateway.log_line(" 408 ");
    // One that leaves instead is no request.
    let before = gateway.lines().len();
    greeted(&gateway).hang_up();
    assert_eq!(gateway.get("http://lockgate.invalid/").status, 502);
    gateway.log_line("lockgate.invalid");
    assert_eq!(gateway.lines().len(), before + 1);
}

#[test]
fn a_client_waits_for_its_slot_and_may_leave_the_queue() {
    let origin = echo_origin();
    let gateway = Gateway::start(&format!("{}{}", limit(1, "300ms", ""), port(origin.port())));
    let mut tunnels: Vec<Caller> = (0..3).map(|_| greeted(&gateway)).collect();
    for tunnel in &mut tunnels {
        tunnel.send([&by_name(&origin.authority())[..], OPAQUE.as_bytes()].concat());
    }
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.bytes(10), SUCCEEDED);
        assert_eq!(tunnel.bytes(OPAQUE.len()), OPAQUE.as_bytes());
    }
    one_window(1, Duration::from_millis(300), &origin.stamps());
    let mut first = greeted(&gateway);
    first.send(by_name(&origin.authority()));
    let mut waits = greeted(&gateway);
    waits.send(by_name(&origin.authority()));
    waits.hang_up();
    assert_eq!(first.bytes(10), SUCCEEDED);
    gateway.log_line("hung_up_in_queue");
}

#[test]
fn a_client_that_passes_connections_on_is_served_by_the_host_in_their_first_bytes() {
    let origin = Origin::start();
    let gateway = Gateway::start(&counted(2, "1h", FULL));
    let four = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &origin.port().to_be_bytes()].concat();
    let passed_on = |bytes: &str| {
        let mut caller = gateway.caller();
        caller.send([&[5, 2, 0x80, 0][..], &four, bytes.as_bytes()].concat());
        assert_eq!(caller.bytes(12), [&[5, 0][..], &SUCCEEDED].concat(), "its program has connected already");
        caller
    };
    let named = format!("localhost:{}", origin.port());
    assert_eq!(passed_on(&get(&named, "/named")).answer().text(), "/named");
    gateway.log_line(&format!("GET http://{named}/named 200 limits=the-limit"));
    assert_eq!(passed_on(&get(&origin.authority(), "/address")).answer().text(), "/address");
    check_ours(&passed_on(&get(&named, "/more")).answer(), 429, "http_request_error");
    let other = format!("no-such-host.invalid:{}", origin.port());
    check_ours(&passed_on(&get(&other, "/")).answer(), 502, "dns_error");
    // Names need no proof: the client has been told them.
    let mut named_client = gateway.caller();
    named_client.send([&[5, 2, 0x80, 0][..], &by_name(&named)].concat());
    assert_eq!(named_client.bytes(12), [&[5, 0][..], &SUCCEEDED].concat());
    assert_eq!(origin.count(), 2);
}

#[test]
fn curl_and_python_call_by_socks5() {
    let stage = Programs::new(UNLIMITED);
    let proxy = format!("socks5h://{}", stage.gateway.addr);
    let [plain, secure] = stage.urls("both");
    for base in [&plain, &secure] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--proxy", &proxy, "--cacert"]);
        curl.arg(&stage.ca).arg(format!("{base}/a?b"));
        assert_eq!(finish(start(curl)), "/a?b");
    }
    goes_well(stage.python_by(&proxy, "requests", "both", 5));
    assert!(stage.plain.requests().iter().all(|seen| seen.field("via") == Some("1.1 lockgate")));
    stage.gateway.log_line(&format!("CONNECT localhost:{} 200", stage.secure.port()));
}

#[test]
fn curl_calls_by_socks5_with_a_password() {
    let origin = Origin::start();
    let gateway = with_users(UNLIMITED);
    for (password, wanted) in [("secret", Some("/curl")), ("wrong", None)] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "60", "--proxy"]);
        curl.arg(format!("socks5h://me:{password}@{}", gateway.addr)).arg(origin.url("/curl"));
        let output = start(curl).wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.success().then_some(&*text), wanted, "{password}");
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn java_calls_by_socks5() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(9, "1h", ""));
    let mut java = Command::new("java");
    java.args(["-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
    // Empty: this machine is no exception.
    java.args(["-DsocksProxyHost=127.0.0.1", "-DsocksNonProxyHosts=", "-Dhttp.nonProxyHosts="]);
    java.arg(format!("-DsocksProxyPort={}", gateway.addr.port()));
    java.arg(top().join("tests/clients/Url.java")).arg(origin.url("/java"));
    assert_eq!(finish(start(java)).trim(), "/java");
    assert_eq!(origin.only().field("via"), Some("1.1 lockgate"));
}
