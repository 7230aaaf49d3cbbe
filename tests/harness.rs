//! The tests' own tools keep their word: an origin that lies would make every other test worthless.

use std::time::Duration;

use crate::support::certs::{Authority, Fault};
use crate::support::*;

#[test]
fn the_origin_stamps_and_keeps_what_arrives() {
    let before = clock::now();
    let origin = Origin::start();
    let mut caller = Caller::connect(origin.addr);
    caller.send("POST /a HTTP/1.1\r\nHost: a\r\nX-Two: 1\r\nx-two: 2\r\nContent-Length: 3\r\n\r\nabc");
    let answer = caller.answer();
    assert_eq!((answer.status, answer.text().as_str(), answer.end), (200, "/a", End::Length));
    caller.send("POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1;x=y\r\nf\r\n0\r\nT: 1\r\n\r\n");
    assert_eq!(caller.answer().status, 200);
    let all = origin.requests();
    assert_eq!(origin.targets(), ["/a", "/b"]);
    assert_eq!(all[0].all("X-TWO").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((all[0].text().as_str(), all[1].text().as_str()), ("abc", "def"));
    assert_eq!(all[1].trailers, [("T".to_owned(), "1".to_owned())]);
    assert_eq!((all[1].connection, all[1].place), (0, 1));
    assert!(before < all[0].stamp && all[0].stamp < all[1].stamp && all[1].stamp < clock::now());
    assert!(origin.kernel_stamps(), "the stamps are the kernel's");
}

#[test]
fn a_stamp_tells_when_the_bytes_came_not_when_they_were_read() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |_, link| {
        wait.lock().unwrap().recv().ok();
        link.answer(200, "")
    });
    let mut caller = Caller::connect(origin.addr);
    caller.send("GET /first HTTP/1.1\r\n\r\n");
    eventually("the first arrives", || origin.count() == 1);
    caller.send("GET /second HTTP/1.1\r\n\r\n");
    let sent = clock::now();
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!((caller.answer().status, caller.answer().status), (200, 200));
    assert!(origin.stamps()[1] <= sent, "the second lay in the kernel before the first was answered");
}

#[test]
fn a_caller_tells_a_clean_end_from_a_broken_one() {
    let whole = Origin::saying("HTTP/1.1 200 OK\r\n\r\nabc");
    assert_eq!(Caller::connect(whole.addr).send("GET / HTTP/1.1\r\n\r\n").answer().end, End::Closed);
    let short = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    assert_eq!(Caller::connect(short.addr).send("GET / HTTP/1.1\r\n\r\n").answer().end, End::Truncated);
    let no_last = Origin::saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    assert_eq!(Caller::connect(no_last.addr).send("GET / HTTP/1.1\r\n\r\n").answer().end, End::Truncated);
    let dead = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        Next::Die
    });
    let mut caller = Caller::connect(dead.addr);
    caller.send("GET / HTTP/1.1\r\n\r\n");
    assert!(caller.try_answer("GET").map_or(true, |a| a.end == End::Truncated));
}

#[test]
fn an_authority_is_believed_and_a_wrong_certificate_is_not() {
    let authority = Authority::new();
    let answers = |fault| {
        let origin = Origin::scripted_tls(authority.server_config(fault), |_, link| link.answer(200, "secret"));
        let mut caller = Caller::connect(origin.addr).into_tls("localhost", &authority);
        caller.send("GET / HTTP/1.1\r\n\r\n").try_answer("GET").map(|a| a.status)
    };
    assert_eq!(answers(Fault::None), Ok(200));
    assert!(answers(Fault::Expired).is_err());
    assert!(answers(Fault::OtherName).is_err());
}

#[test]
fn silence_is_seen_as_silence() {
    let origin = Origin::scripted(|_, link| {
        link.wait_for_close();
        Next::Close
    });
    let mut caller = Caller::connect(origin.addr);
    caller.send("GET / HTTP/1.1\r\n\r\n").expect_silence(Duration::from_millis(20));
    eventually("the request arrives", || origin.count() == 1);
}

#[test]
fn a_dead_port_refuses_and_a_black_hole_says_nothing() {
    use std::net::{SocketAddr, TcpStream};
    let (dead, hole) = (DeadPort::new(), BlackHole::new());
    let try_it = |port: u16| {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        TcpStream::connect_timeout(&addr, Duration::from_millis(200)).map(drop).map_err(|e| e.kind())
    };
    assert_eq!(try_it(dead.port()), Err(std::io::ErrorKind::ConnectionRefused));
    assert_eq!(try_it(hole.port()), Err(std::io::ErrorKind::TimedOut));
}

#[test]
fn an_origin_keeps_requests_behind_one_another_apart() {
    let origin = Origin::start();
    let mut caller = Caller::connect(origin.addr);
    caller.send("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    assert_eq!((caller.answer().text(), caller.answer().text()), ("/1".to_owned(), "/2".to_owned()));
    assert_eq!(origin.targets(), ["/1", "/2"]);
}
