//! Callers' connections: from where, how many at one time, and for how long before their first request.

use std::net::SocketAddr;
use std::time::Duration;

use crate::admin::watched;
use crate::support::certs::{Authority, Fault};
use crate::support::frames::{DATA, END_STREAM, Fate, Frame, Frames, HEADERS, WINDOW_UPDATE, request};
use crate::support::gateway::Dir;
use crate::support::stream::Stop;
use crate::support::*;

/// A request to the gateway itself, which no origin answers and no limit counts.
const ASK: &str = "OPTIONS http://lockgate.invalid/ HTTP/1.1\r\nHost: lockgate.invalid\r\nMax-Forwards: 0\r\n\r\n";

fn is_served(caller: &mut Caller) -> bool {
    caller.send(ASK).try_answer("OPTIONS").is_ok_and(|answer| answer.status == 200)
}

/// The value of a metric, by its name and labels; none is 0.
fn metric(admin: SocketAddr, name: &str) -> f64 {
    let text = crate::admin::ask(admin, "GET", "/metrics", "").text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_default()
}

/// How many connections the gateway's only listener has closed at once.
fn refused(gateway: &Gateway, admin: SocketAddr, reason: &str) -> f64 {
    metric(admin, &format!("lockgate_listener_refused_total{{listener=\"{}\",reason=\"{reason}\"}}", gateway.addr))
}

/// A gateway that speaks TLS to its callers.
fn with_tls(authority: &Authority, more: &str) -> Gateway {
    let dir = Dir::new();
    let (cert, key) = authority.issue(Fault::None).write(dir.path(), "gateway");
    let listen = format!("[listen]\nproxy = \"127.0.0.1:0\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n\n");
    Gateway::start_in(dir, &format!("{UNLIMITED}{listen}{more}"))
}

#[test]
fn a_caller_from_elsewhere_is_closed_before_it_has_said_anything() {
    let allow = "\n[access]\nallow_from = [\"127.0.0.1\"]\n";
    let (gateway, admin) = watched(UNLIMITED, allow);
    for _ in 0..2 {
        Caller::connect_from("127.0.0.4", gateway.addr).expect_end();
    }
    assert!(is_served(&mut gateway.caller()));
    eventually("both are counted", || refused(&gateway, admin, "not_allowed") == 2.0);
    assert_eq!(gateway.stderr().matches("not in [access] allow_from").count(), 1, "{}", gateway.stderr());
}

#[test]
fn a_caller_from_elsewhere_gets_no_tls_and_no_lock_either() {
    let locks = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let more = format!("[access]\nallow_from = [\"127.0.0.1\"]\n[locks]\nlisten = \"{locks}\"\n");
    let gateway = with_tls(&Authority::new(), &more);
    Caller::connect_from("127.0.0.4", gateway.addr).expect_end();
    Caller::connect_from("127.0.0.4", locks).expect_end();
}

#[test]
fn one_address_has_no_more_connections_than_its_bound() {
    let (gateway, admin) = watched("[listen]\nproxy = \"127.0.0.1:0\"\nmax_connections_per_address = 3\n", "");
    let mut held: Vec<Caller> = (0..3).map(|_| Caller::connect_from("127.0.0.2", gateway.addr)).collect();
    assert!(held.iter_mut().all(is_served));
    for _ in 0..2 {
        Caller::connect_from("127.0.0.2", gateway.addr).expect_end();
    }
    assert!(is_served(&mut Caller::connect_from("127.0.0.3", gateway.addr)), "another has its own");
    assert!(held.iter_mut().all(is_served), "those that are there stay");
    eventually("both are counted", || refused(&gateway, admin, "too_many") == 2.0);
    assert_eq!(gateway.stderr().matches("max_connections_per_address").count(), 1, "{}", gateway.stderr());
    held.pop();
    eventually("there is room again", || is_served(&mut Caller::connect_from("127.0.0.2", gateway.addr)));
}

#[test]
fn when_there_are_as_many_connections_as_may_be_others_wait_for_one_to_end() {
    let listen = |most: usize| format!("[listen]\nproxy = \"127.0.0.1:0\"\nmax_connections = {most}\n");
    let (gateway, admin) = watched(&listen(4), "");
    let mut held: Vec<Caller> = (0..4).map(|_| gateway.caller()).collect();
    assert!(held.iter_mut().all(is_served));
    let mut waiting: Vec<Caller> = (0..3).map(|_| gateway.caller()).collect();
    for caller in &mut waiting {
        caller.send(ASK);
    }
    eventually("the maximum is reached", || metric(admin, "lockgate_connections_max_reached_total") == 1.0);
    assert_eq!(metric(admin, "lockgate_connections_max"), 4.0);
    waiting[0].expect_silence(Duration::from_millis(100));
    drop(held.pop());
    assert_eq!(waiting[0].answer_to("OPTIONS").status, 200);
    waiting[1].expect_silence(Duration::from_millis(100));
    assert_eq!(gateway.stderr().matches("max_connections").count(), 1, "{}", gateway.stderr());
    let text = std::fs::read_to_string(gateway.dir.path().join("proxy.toml")).unwrap();
    assert!(gateway.reload(&text.replace("max_connections = 4", "max_connections = 9")));
    for mut caller in waiting.drain(1..) {
        assert_eq!(caller.answer_to("OPTIONS").status, 200, "there is room for all");
    }
}

/// A gateway whose callers have little time for the first head, and any for the next.
const HURRY: &str = "[timeouts]\nhead = \"2s\"\nidle = \"1h\"\n";

#[test]
fn a_connection_without_a_first_request_has_the_time_of_a_head() {
    let gateway = Gateway::start(&format!("{UNLIMITED}{HURRY}"));
    gateway.caller().expect_end();
    let mut half = gateway.caller();
    half.send("GET /x HTTP/1.1\r\n");
    check_ours(&half.answer(), 408, "http_request_error");
    let mut second = gateway.caller();
    assert!(is_served(&mut second));
    second.expect_silence(Duration::from_secs(3));
    assert!(is_served(&mut second), "between requests it may be idle");
}

#[test]
fn an_http_2_connection_without_a_first_request_has_the_time_of_a_head() {
    let gateway = Gateway::start(&format!("{UNLIMITED}{HURRY}"));
    let mut silent = gateway.caller();
    let mut frames = Frames::caller(&mut silent.stream);
    let stop = loop {
        if let Err(stop) = frames.next() {
            break stop;
        }
    };
    assert_ne!(stop, Stop::Silence, "it stays open");
    let mut asks = gateway.caller();
    let mut frames = Frames::caller(&mut asks.stream);
    let mut fields = request("OPTIONS", "lockgate.invalid", "/");
    fields.push(("max-forwards", "0"));
    frames.send(&Frame::headers(1, END_STREAM, &fields));
    assert_eq!(frames.fate(1), Fate::Answered(200));
    assert_eq!(frames.fate_within(3, Duration::from_secs(3)), Fate::Silence, "it stays");
}

#[test]
fn tls_that_does_not_begin_has_the_time_of_a_head() {
    let authority = Authority::new();
    let gateway = with_tls(&authority, HURRY);
    gateway.caller().expect_end();
    let mut half = gateway.caller();
    half.send(b"\x16\x03\x01");
    half.expect_end();
    let mut silent = gateway.caller().into_tls("localhost", &authority);
    silent.shown();
    silent.expect_end();
}

#[test]
fn an_http_2_connection_has_little_room_for_content_before_a_request_is_admitted() {
    let origin = Origin::start();
    let dir = Dir::new();
    dir.write("users", &format!("anna:{}\n", bcrypt::hash("secret", 4).unwrap()));
    let gateway = Gateway::start_in(dir, &format!("{UNLIMITED}[access]\nusers = \"users\"\n"));
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    let mut fields = request("POST", "unknown.invalid", "/");
    frames.send(&Frame::headers(1, 0, &fields));
    // All room before the answer is that of a caller without credentials.
    let mut given = 0;
    loop {
        let frame = frames.next().unwrap();
        match frame.kind {
            WINDOW_UPDATE if frame.stream == 0 => given += frame.code(),
            HEADERS => break assert_eq!(frame.status(), 407),
            _ => {}
        }
    }
    assert_eq!(given, 0, "beside the 65535 bytes of every connection (RFC 9113 §6.9.2)");
    let credentials = basic("anna", "secret");
    let authority = origin.authority();
    fields = request("POST", &authority, "/upload");
    fields.push(("proxy-authorization", &credentials));
    frames.send(&Frame::headers(3, 0, &fields));
    let more = frames.next_of(WINDOW_UPDATE).unwrap();
    assert!(more.stream == 0 && more.code() > 1 << 20, "{more:?}");
    frames.send(&Frame::new(DATA, END_STREAM, 3, "whole"));
    frames.next_of(HEADERS).unwrap();
    assert_eq!(origin.only().text(), "whole");
}
