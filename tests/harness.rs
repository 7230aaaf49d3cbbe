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

#[test]
fn the_origin_of_both_versions_records_what_came_and_answers_as_it_says() {
    let authority = certs::Authority::new();
    let origin = Origin2::start(authority.both_config(certs::Fault::None));
    let caller = Caller2::tls(origin.addr, "localhost", authority.caller_config());
    assert_eq!(caller.get(&origin.url("/a?b")).text(), "/a?b");
    assert_eq!(caller.post(&origin.url("/p"), vec![b'x'; 300_000]).body.len(), 300_000);
    assert_eq!(caller.get(&origin.url("/trailers")).trailers, [("x-checksum".to_owned(), "7".to_owned())]);
    assert_eq!(caller.get(&origin.url("/interim")).interim[0].status, 103);
    assert!(caller.start(caller2::get(&origin.url("/reset")), More::None).try_answer().is_err());
    let mut old = Caller::connect(origin.addr).into_tls("localhost", &authority);
    for path in ["/old", "/interim", "/trailers"] {
        assert_eq!(old.send(stage::get(&origin.name(), path)).answer().status, 200, "{path}");
    }
    let seen = origin.seen();
    assert_eq!((seen.len(), origin.connections()), (8, 2));
    assert_eq!((seen[1].body.len(), seen[1].whole, seen[1].connection), (300_000, true, 0));
    assert_eq!((seen[5].version, seen[5].authority.as_str()), (1, origin.name().as_str()));
    assert!(seen.windows(2).all(|pair| pair[0].stamp <= pair[1].stamp));
}

#[test]
fn frames_by_hand_are_understood_by_a_library() {
    let authority = certs::Authority::new();
    let origin = Origin2::start(authority.both_config(certs::Fault::None));
    let config = certs::offering(authority.caller_config(), &["h2"]);
    let mut caller = Caller::connect(origin.addr).into_tls_with("localhost", config);
    let mut frames = frames::Frames::caller(&mut caller.stream);
    let long = "v".repeat(300);
    let mut fields = frames::request("GET", "localhost", "/by-hand");
    fields[1].1 = "https";
    fields.push(("x-long", &long));
    frames.send(&frames::Frame::headers(1, frames::END_STREAM, &fields));
    assert_eq!(frames.fate(1), frames::Fate::Answered(200));
    fields.push(("X-Upper", "a"));
    frames.send(&frames::Frame::headers(3, frames::END_STREAM, &fields));
    assert!(frames.fate(3).is_refusal());
    assert_eq!(origin.only().all("x-long"), [long]);
}
