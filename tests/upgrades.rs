//! Upgrades of requests with content: all of it is sent, in its framing, before the first byte of the new protocol.

use std::time::Duration;

use crate::support::*;

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A POST with an Upgrade, framed by `framing`.
fn upgrade(origin: &Origin, framing: &str) -> String {
    let (url, to) = (origin.url("/"), origin.authority());
    format!("POST {url} HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{framing}\r\n\r\n")
}

/// An origin that reads the content before it switches, and then repeats what it hears.
fn patient() -> Origin {
    Origin::scripted(|request, link| {
        assert!(link.read_body());
        if request.field("upgrade").is_none() {
            return link.answer(200, "not asked");
        }
        link.send(SWITCH);
        link.echo();
        Next::Close
    })
}

#[test]
fn content_is_sent_before_the_switch_and_what_follows_it_after() {
    let origin = patient();
    let gateway = Gateway::start(UNLIMITED);
    let large = "x".repeat(300_000);
    for (framing, content, whole) in [
        ("Content-Length: 5".to_owned(), "hello".to_owned(), "hello"),
        ("Transfer-Encoding: chunked".to_owned(), "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n".to_owned(), "hello"),
        (format!("Content-Length: {}", large.len()), large.clone(), &large),
        ("Content-Length: 0".to_owned(), String::new(), ""),
    ] {
        let mut caller = gateway.caller();
        // The new protocol must not be spoken before the 101; bytes of it that come early are not lost all the same.
        caller.send(upgrade(&origin, &framing) + &content + "new");
        let answer = caller.answer();
        assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")), "{framing}");
        assert_eq!(caller.bytes(3), b"new");
        assert_eq!(caller.send("protocol").bytes(8), b"protocol");
        assert!(origin.requests().pop().unwrap().text() == whole, "{framing}");
    }
}

#[test]
fn an_origin_that_switches_early_gets_the_content_first() {
    let origin = Origin::scripted(|request, link| {
        link.send(SWITCH);
        assert!(request.field("connection").is_some());
        assert!(link.read_body());
        link.echo();
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    for (framing, parts) in [
        ("Content-Length: 10", ["hello", "there"]),
        ("Transfer-Encoding: chunked", ["5\r\nhello\r\n", "5\r\nthere\r\n0\r\n\r\n"]),
    ] {
        let mut caller = gateway.caller();
        assert_eq!(caller.send(upgrade(&origin, framing)).answer().status, 101, "{framing}");
        caller.send(parts[0]).expect_silence(Duration::from_millis(20));
        caller.send(format!("{}new", parts[1]));
        assert_eq!(caller.bytes(3), b"new", "{framing}");
        assert_eq!(caller.send("\0\u{1}").bytes(2), b"\0\x01");
        assert_eq!(origin.requests().pop().unwrap().text(), "hellothere");
    }
}

#[test]
fn a_permit_for_the_content_comes_before_the_switch() {
    let origin = Origin::scripted(|request, link| {
        assert_eq!(request.field("expect"), Some("100-continue"));
        link.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert!(link.read_body());
        link.send(SWITCH);
        link.echo();
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(upgrade(&origin, "Expect: 100-continue\r\nContent-Length: 5"));
    assert!(caller.head().starts_with("HTTP/1.1 100 "));
    assert_eq!(caller.send("hello").answer().status, 101);
    assert_eq!(caller.send("new").bytes(3), b"new");
}

#[test]
fn an_upgrade_with_content_that_is_declined_is_an_ordinary_exchange() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    for _ in 0..2 {
        assert_eq!(caller.send(upgrade(&origin, "Content-Length: 5") + "hello").answer().status, 200);
    }
    assert!(origin.requests().iter().all(|request| request.text() == "hello" && request.field("upgrade").is_some()));
}

#[test]
fn a_caller_that_breaks_off_its_content_after_the_switch_ends_both_sides() {
    let origin = Origin::scripted(|_, link| {
        link.send(SWITCH);
        assert!(!link.read_body(), "it is visibly not whole");
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    assert_eq!(caller.send(upgrade(&origin, "Content-Length: 10")).answer().status, 101);
    caller.send("hello");
    caller.hang_up();
    eventually("the origin was told", || origin.open() == 0);
}
