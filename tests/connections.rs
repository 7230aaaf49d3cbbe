//! Callers' connections: from where, how many at one time, and for how long before their first request.

use std::time::Duration;

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

/// A gateway that speaks TLS to its callers.
fn with_tls(authority: &Authority, more: &str) -> Gateway {
    let dir = Dir::new();
    let (cert, key) = authority.issue(Fault::None).write(dir.path(), "gateway");
    let listen = format!("[listen]\nproxy = \"127.0.0.1:0\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n\n");
    Gateway::start_in(dir, &format!("{UNLIMITED}{listen}{more}"))
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
    // What comes before the answer is what a connection is given that nobody knows.
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
