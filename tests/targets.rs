//! Request targets: a URL arrives in the same bytes, and counts as the same, whatever version of HTTP carries it.

use crate::support::certs::BOTH;
use crate::support::frames::{END_STREAM, Fate, Frame, Frames, request};
use crate::support::stage::Before;
use crate::support::*;

/// Targets as programs send them, and as each origin receives them.
const TARGETS: &[(&str, &str)] = &[
    ("/caf\u{e9}?q=\u{20ac}&r=\u{1f600}", "/caf%C3%A9?q=%E2%82%AC&r=%F0%9F%98%80"),
    ("/caf%C3%A9", "/caf%C3%A9"),
    ("/a?symbols=[\"A\",\"B\"]", "/a?symbols=[\"A\",\"B\"]"),
    ("/a?q=<b>", "/a?q=<b>"),
    ("/{a|b}^`\\[x]'", "/{a|b}^`\\[x]'"),
    ("/a?q=`x`", "/a?q=`x`"),
    ("//a//b/../c;d=e", "//a//b/../c;d=e"),
    ("/%zz%2f%", "/%zz%2f%"),
    ("/a?", "/a?"),
    ("/?a?b=http://x/y", "/?a?b=http://x/y"),
];

#[test]
fn a_target_reaches_origins_of_all_versions_in_the_same_bytes() {
    let before = Before::new();
    let origins = [BOTH, &[], &["http/1.1"]].map(|offer| Origin2::start(before.authority.offering(offer)));
    let ports = origins.each_ref().map(Origin2::port);
    let stage = before.gateway(UNLIMITED, &ports);
    let (plain, open) = (Origin::start(), Gateway::start(UNLIMITED));
    for (sent, wanted) in TARGETS {
        assert_eq!(open.get(&plain.url(sent)).text(), *wanted, "without TLS");
        for origin in &origins {
            let answer = stage.get(&origin.name(), sent);
            assert_eq!((answer.status, answer.text().as_str()), (200, *wanted), "{}", answer.raw);
        }
    }
    let wanted: Vec<_> = TARGETS.iter().map(|(_, wanted)| (*wanted).to_owned()).collect();
    origins.iter().for_each(|origin| assert_eq!(origin.paths(), wanted));
}

#[test]
fn callers_of_both_versions_are_counted_as_one_for_a_target_of_any_spelling() {
    let origin = Origin::start();
    let toml = "[[limit]]\nname = \"the-limit\"\nmatch = { host = \"127.0.0.1\", path = \"/caf%C3%A9/**\" }\nrequests = 3\n\
        per = \"1h\"\nkey = [\"path[2]\", \"query:q\"]\nwhen_full = \"refuse\"\n";
    let gateway = Gateway::start(toml);
    let to = format!("127.0.0.1:{}", origin.port());
    let raw = "/caf\u{e9}/\u{fc}?q=\u{20ac}";
    assert_eq!(gateway.get(&format!("http://{to}{raw}")).status, 200);
    assert_eq!(gateway.get(&format!("http://{to}/caf%c3%a9/%C3%BC?q=%E2%82%AC")).status, 200);
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    frames.send(&Frame::headers(1, END_STREAM, &request("GET", &to, raw)));
    assert_eq!(frames.fate(1), Fate::Answered(200));
    frames.send(&Frame::headers(3, END_STREAM, &request("GET", &to, raw)));
    assert!(matches!(frames.fate(3), Fate::Answered(_)));
    assert_eq!(gateway.get(&format!("http://{to}{raw}")).status, 429);
    assert_eq!(origin.targets()[0], "/caf%C3%A9/%C3%BC?q=%E2%82%AC");
    assert_eq!(origin.targets()[2], origin.targets()[0]);
    assert_eq!(origin.count(), 3, "of the five, three fit");
}

#[test]
fn bytes_that_are_no_text_are_refused_in_both_versions() {
    let (origin, gateway) = (Origin::start(), Gateway::start(UNLIMITED));
    let head =
        [b"GET ", origin.url("/caf").as_bytes(), b"\xe9 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat();
    assert_eq!(gateway.exchange(head).status, 400);
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    let mut bad = Frame::headers(1, END_STREAM, &request("GET", &origin.authority(), "/cafX"));
    let at = bad.payload.iter().rposition(|byte| *byte == b'X').unwrap();
    bad.payload[at] = 0xe9;
    frames.send(&bad);
    assert!(frames.fate(1).is_refusal());
    assert_eq!(origin.count(), 0);
}

#[test]
fn options_for_a_whole_server_reaches_a_route_by_both_versions() {
    for scheme in ["http", "h2c"] {
        let origin = Origin2::plain(Manners::default());
        let route = format!("[[route]]\npath = \"/\"\nto = \"{scheme}://127.0.0.1:{}/v2/\"\n", origin.port());
        let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route));
        let answer = gateway.exchange("OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(answer.status, 200, "{}", answer.raw);
        let mut caller = gateway.caller();
        let mut frames = Frames::caller(&mut caller.stream);
        frames.send(&Frame::headers(1, END_STREAM, &request("OPTIONS", "localhost", "*")));
        assert_eq!(frames.fate(1), Fate::Answered(200));
        assert_eq!(origin.paths(), ["*", "*"], "{scheme}");
        let version = if scheme == "h2c" { 2 } else { 1 };
        assert!(origin.seen().iter().all(|one| one.version == version));
    }
}
