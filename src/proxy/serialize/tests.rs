//! Tests of the heads that leave in HTTP/1.1.

use std::time::Duration;

use super::super::header_rules::{connection_names_end_to_end, wants_upgrade};
use super::super::target::{Ingress, Targets};
use super::*;
use crate::wire::ConnectionOptions;

fn out(head: &str) -> String {
    let head = RequestHead::parse_for_test(head.as_bytes());
    let target = Targets::new(Vec::new()).find(&head, &Ingress::default()).unwrap();
    let length = crate::wire::framing::of_request(&head).unwrap();
    let options = ConnectionOptions::of(head.all(Name::Connection));
    let upgrade = wants_upgrade(&head, options, |protocol| protocol == b"websocket");
    let outgoing = Outgoing { length, options, upgrade, via: true, trace: None };
    let mut out = Vec::new();
    write_request(&head, &target, outgoing, &mut out);
    String::from_utf8(out).unwrap()
}

fn back(head: &str, returned: Returned<'_>) -> String {
    let parsed = ResponseHead::parse_for_test(head.as_bytes());
    let mut out = Vec::new();
    write_response(&parsed, returned, &mut out);
    String::from_utf8(out).unwrap()
}

const KEPT: Returned<'_> = Returned {
    length: Length::Empty,
    keep: true,
    version: Version::Http11,
    waited: Duration::ZERO,
    received_unix_nanos: None,
    locations: None,
    pinned: false,
};

#[test]
fn what_is_meant_for_this_hop_stays_here_and_the_rest_keeps_its_order_and_letters() {
    let head = "GET http://a.example:81/b?c HTTP/1.1\r\nX-First: 1\r\nHost: other\r\nConnection: close, X-Hop\r\nX-Hop: 2\r\n\
        Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\nUpgrade: x\r\n\
        Authorization: Bearer y\r\nx-LAST:  3 \r\n\r\n";
    assert_eq!(
        out(head),
        "GET /b?c HTTP/1.1\r\nHost: a.example:81\r\nX-First: 1\r\nAuthorization: Bearer y\r\nx-LAST: 3\r\nVia: 1.1 lockgate\r\n\r\n"
    );
}

#[test]
fn a_request_says_once_how_long_it_is() {
    let head = "POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(out(head).matches("Content-Length: 5\r\n").count(), 1);
    assert!(out("POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").contains("Content-Length: 0\r\n"));
    let chunked = out("POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n");
    assert_eq!(chunked.matches("Transfer-Encoding: chunked\r\n").count(), 1);
    assert!(chunked.contains("TE: trailers\r\nConnection: TE\r\n"));
}

#[test]
fn a_web_socket_may_be_asked_for_and_h2c_may_not() {
    let head =
        |protocol| format!("GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    assert!(out(&head("websocket")).contains("Upgrade: websocket\r\nConnection: upgrade\r\n"));
    assert!(!out(&head("h2c")).contains("pgrade"));
    assert!(!out(&head("websocket, h2c")).contains("pgrade"));
}

#[test]
fn an_upgrade_passes_whatever_else_its_connection_names() {
    let named = "Connection: keep-alive, Upgrade, X-Hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\n\r\n";
    let asked = out(&format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{named}"));
    assert!(asked.contains("Upgrade: websocket\r\nConnection: upgrade\r\n") && !asked.contains("X-Hop"), "{asked}");
    let granted = back(&format!("HTTP/1.1 101 Switching\r\n{named}"), KEPT);
    assert!(granted.contains("Upgrade: websocket\r\n") && !granted.contains("X-Hop"), "{granted}");
}

#[test]
fn max_forwards_counts_down_for_traces_only() {
    let head = |method| format!("{method} http://a/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n");
    assert!(out(&head("TRACE")).contains("Max-Forwards: 2\r\n"));
    assert!(out(&head("GET")).contains("Max-Forwards: 3\r\n"));
}

#[test]
fn a_connection_that_names_an_end_to_end_field_is_found_out() {
    let stolen = |named: &str| {
        let head = format!("GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close, {named}\r\n\r\n");
        connection_names_end_to_end(&RequestHead::parse_for_test(head.as_bytes())).is_some()
    };
    for field in ["AUTHORIZATION", "X-Forwarded-For", "Sec-Fetch-Site", "traceparent", "Content-Length"] {
        assert!(stolen(field), "{field}");
    }
    for field in ["x-mine", "Upgrade", "HTTP2-Settings", "TE", "Trailer", "origins", "X-Forwarde", "x-secret"] {
        assert!(!stolen(field), "{field}");
    }
}

#[test]
fn a_response_says_what_becomes_of_its_connection() {
    let head = "HTTP/1.1 200 Fine\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nContent-Length: 3\r\nKeep-Alive: x\r\nB: c\r\n\r\n";
    let exact = Returned { length: Length::Exact(3), ..KEPT };
    assert_eq!(back(head, exact), "HTTP/1.1 200 Fine\r\nB: c\r\nContent-Length: 3\r\nVia: 1.1 lockgate\r\n\r\n");
    assert!(back(head, Returned { keep: false, ..exact }).contains("Connection: close\r\n"));
    assert!(back(head, Returned { version: Version::Http10, ..exact }).contains("Connection: keep-alive\r\n"));
}

#[test]
fn a_response_says_when_it_was_made_or_received() {
    let head = "HTTP/1.1 204 None\r\n\r\n";
    let received = back(head, Returned { received_unix_nanos: Some(784_111_777_000_000_000), ..KEPT });
    assert!(received.contains("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), "{received}");
}

#[test]
fn a_connection_that_is_upgraded_or_closed_says_both() {
    let head =
        "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n";
    assert!(back(head, Returned { keep: false, ..KEPT }).contains("Connection: upgrade, close\r\n"));
    assert!(back(head, KEPT).contains("Connection: upgrade\r\n"));
}

#[test]
fn a_length_that_is_said_twice_goes_on_once() {
    let head = "GET http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(out(head).matches("Content-Length: 0\r\n").count(), 1);
    let head = "HTTP/1.1 304 Same\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(back(head, KEPT).matches("Content-Length: 3\r\n").count(), 1);
}

#[test]
fn an_expectation_of_http_1_0_is_none() {
    let head = |version| {
        format!("POST http://a/ HTTP/{version}\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    };
    assert!(!out(&head("1.0")).contains("Expect"));
    assert!(out(&head("1.1")).contains("Expect: 100-continue\r\n"));
}

#[test]
fn a_wait_is_told_and_a_length_without_a_body_is_kept() {
    let head = "HTTP/1.1 304 Same\r\nContent-Length: 3\r\n\r\n";
    let waited = back(head, Returned { waited: Duration::from_micros(12_345), ..KEPT });
    assert!(waited.contains("Server-Timing: lockgate;dur=12.3\r\n") && waited.contains("Content-Length: 3\r\n"));
    assert!(!back("HTTP/1.1 204 None\r\nContent-Length: 3\r\n\r\n", KEPT).contains("Content-Length"));
}
