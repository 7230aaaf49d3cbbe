//! HTTP/2 from callers: with prior knowledge, over TLS, in tunnels; each stream is one request with its own permit.

use std::time::Duration;

use http::Request;
use rustix::process::Signal;

use crate::admin::{listener, queued};
use crate::support::caller2::{get, wait};
use crate::support::certs::{Authority, Fault};
use crate::support::frames::{Fate, Frame, Frames};
use crate::support::gateway::Dir;
use crate::support::stage::{Before, Stage, connect, counted};
use crate::support::*;
use crate::tuning::tune;

const FULL: &str = "when_full = \"refuse\"";

/// A gateway that opens tunnels to an origin that speaks both protocols.
#[track_caller]
fn stage(toml: &str) -> (Stage, Origin2) {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway(toml, &[origin.port()]);
    (stage, origin)
}

#[test]
fn a_caller_that_knows_beforehand_speaks_http2_in_plain() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(2, "1h", FULL));
    let caller = Caller2::plain(gateway.addr);
    for path in ["/1", "/2"] {
        let answer = caller.get(&origin.url(path));
        assert_eq!((answer.status, answer.text()), (200, path.to_owned()));
    }
    let refused = caller.get(&origin.url("/3"));
    check_ours(&refused, 429, "http_request_error");
    let seen = origin.requests();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].version, "HTTP/1.1");
    assert_eq!(seen[0].field("host"), Some(origin.authority().as_str()));
    assert_eq!(seen[0].field("via"), Some("2.0 lockgate"));
}

#[test]
fn a_listener_with_tls_speaks_what_the_caller_asks_for() {
    let (dir, authority) = (Dir::new(), Authority::new());
    let (cert, key) = authority.issue(Fault::None).write(dir.path(), "gateway");
    let origin = Origin::start();
    let listen = format!("[listen]\nproxy = \"127.0.0.1:0\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n\n");
    let gateway = Gateway::start_in(dir, &format!("{listen}{}", limit(3, "1h", FULL)));
    let caller = Caller2::tls(gateway.addr, "localhost", authority.caller_config());
    assert_eq!(caller.get(&origin.url("/2")).text(), "/2");
    let mut old = gateway.caller().into_tls("localhost", &authority);
    assert_eq!(old.send(gateway::get(&origin.url("/1"))).answer().text(), "/1");
    let offered = certs::offering(authority.caller_config(), &["http/1.1"]);
    let mut old = gateway.caller().into_tls_with("localhost", offered);
    assert_eq!(old.send(gateway::get(&origin.url("/1.1"))).answer().text(), "/1.1");
    check_ours(&caller.get(&origin.url("/4")), 429, "http_request_error");
    gateway.caller().send(gateway::get(&origin.url("/plain"))).rest();
    assert_eq!(origin.targets(), ["/2", "/1", "/1.1"], "nothing in plain where TLS is spoken");
}

#[test]
fn many_requests_on_one_connection_wait_in_line_and_stay_within_the_limit() {
    let (stage, origin) = stage(&counted(5, "300ms", "counts = \"answered\"\nshare_by = \"none\""));
    let caller = stage.opened2(&origin.name());
    let calls: Vec<_> = (0..20).map(|n| caller.start(get(&origin.url(&format!("/{n}"))), More::None)).collect();
    for (n, call) in calls.into_iter().enumerate() {
        let answer = call.answer();
        assert_eq!((answer.status, answer.text()), (200, format!("/{n}")));
    }
    one_window(5, Duration::from_millis(300), &origin.stamps());
    let order: Vec<usize> = origin.paths().iter().map(|p| p[1..].parse().unwrap()).collect();
    for (n, five) in order.chunks(5).enumerate() {
        assert!(five.iter().all(|at| at / 5 == n), "those that came first went first: {order:?}");
    }
    assert_eq!(origin.connections(), 1, "towards the origin, too, one connection carries them");
}

#[test]
fn a_waiting_stream_that_is_reset_gives_its_turn_to_the_next() {
    let (admin, listen) = listener();
    let (stage, origin) = stage(&(counted(1, "1h", "max_wait = \"12h\"") + &listen));
    let caller = stage.opened2(&origin.name());
    assert_eq!(caller.get(&origin.url("/fill")).status, 200);
    let gone: Vec<_> = (0..5).map(|n| caller.start(get(&origin.url(&format!("/gone/{n}"))), More::None)).collect();
    queued(admin, "the-limit", 5);
    let stays = caller.start(get(&origin.url("/stays")), More::None);
    queued(admin, "the-limit", 6);
    gone.into_iter().for_each(caller2::Call::cancel);
    queued(admin, "the-limit", 1);
    let line = stage.gateway.log_line("/gone/0");
    assert!(line.contains(" 499 ") && line.contains("note=hung_up_in_queue"), "{line}");
    tune(admin, "the-limit", "\"per\": \"300ms\"");
    assert_eq!(stays.answer().text(), "/stays");
    assert_eq!(origin.paths(), ["/fill", "/stays"]);
}

#[test]
fn a_connection_that_ends_takes_its_waiters_along() {
    let (admin, listen) = listener();
    let (stage, origin) = stage(&(counted(1, "1h", "max_wait = \"12h\"") + &listen));
    let caller = stage.opened2(&origin.name());
    assert_eq!(caller.get(&origin.url("/fill")).status, 200);
    let _gone: Vec<_> = (0..5).map(|_| caller.start(get(&origin.url("/gone")), More::None)).collect();
    queued(admin, "the-limit", 5);
    caller.hang_up();
    queued(admin, "the-limit", 0);
    tune(admin, "the-limit", "\"per\": \"300ms\"");
    assert_eq!(stage.opened2(&origin.name()).get(&origin.url("/stays")).status, 200);
    assert_eq!(origin.paths(), ["/fill", "/stays"]);
}

#[test]
fn a_running_stream_that_is_reset_is_reset_at_the_origin() {
    let (admin, listen) = listener();
    let few = "[[limit]]\nname = \"few\"\nmatch = { host = \"localhost\" }\nin_flight = 1\n\n";
    let (stage, origin) = stage(&(few.to_owned() + &listen));
    let caller = stage.opened2(&origin.name());
    let held = caller.start(get(&origin.url("/hold")), More::None);
    eventually("it is with the origin", || origin.count() == 1);
    let next = caller.start(get(&origin.url("/next")), More::None);
    queued(admin, "few", 1);
    assert_eq!(origin.count(), 1, "the only flight is taken");
    held.cancel();
    assert_eq!(next.answer().text(), "/next");
    eventually("the origin was told", || origin.seen()[0].broken);
    assert_eq!(origin.connections(), 1, "the connection lives on");
}

#[test]
fn refusals_are_whole_answers_on_their_stream_and_disturb_no_other() {
    let (stage, origin) = stage(&counted(1, "1h", FULL));
    let caller = stage.opened2(&origin.name());
    let held = caller.start(get(&origin.url("/hold")), More::None);
    eventually("it is with the origin", || origin.count() == 1);
    let mut refused = Vec::new();
    for _ in 0..3 {
        refused.push(caller.get(&origin.url("/no")));
    }
    let post = caller.post(&origin.url("/no"), vec![b'x'; 100_000]);
    for answer in refused.iter().chain([&post]) {
        check_ours(answer, 429, "http_request_error");
        assert!(answer.field("connection").is_none(), "{}", answer.raw);
    }
    let asked = Request::head(origin.url("/no")).body(()).unwrap();
    let empty = caller.start(asked, More::None).answer();
    assert_eq!((empty.status, empty.body.len()), (429, 0));
    origin.release(1);
    assert_eq!(held.answer().text(), "/hold");
}

#[test]
fn who_would_wait_too_long_is_told_at_once_and_prefer_is_heeded() {
    let (stage, origin) = stage(&counted(1, "1h", "max_wait = \"2h\""));
    let caller = stage.opened2(&origin.name());
    assert_eq!(caller.get(&origin.url("/fill")).status, 200);
    let hurried = Request::get(origin.url("/no")).header("prefer", "wait=120").body(()).unwrap();
    // No answer of the tests is waited for that long.
    check_ours(&caller.start(hurried, More::None).answer(), 429, "http_request_error");
}

#[test]
fn a_connect_on_a_stream_is_a_tunnel() {
    let origin = Origin::scripted(|request, link| {
        link.send(request.raw.clone());
        link.echo();
        Next::Close
    });
    let toml = limit(1, "1h", FULL) + &format!("[access]\nconnect_ports = [{}]\n", origin.port());
    let gateway = Gateway::start(&toml);
    let caller = Caller2::plain(gateway.addr);
    let ask = || Request::connect(origin.authority()).body(()).unwrap();
    let mut call = caller.start(ask(), More::Follows);
    let (answer, mut body) = call.try_head().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.raw);
    assert!(answer.field("content-length").is_none(), "{}", answer.raw);
    let hello = "SAY /inside ECHO/1.1\r\nHost: x\r\n\r\n";
    call.push(hello);
    let mut sent = hello.as_bytes().to_vec();
    for part in 0..20_u8 {
        call.push(vec![part; 10_000]);
        sent.extend(vec![part; 10_000]);
    }
    let mut back = Vec::new();
    while back.len() < sent.len() {
        let part = wait("bytes back", body.data()).expect("more comes").unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        back.extend_from_slice(&part);
    }
    assert!(back == sent, "nothing added, nothing taken");
    check_ours(&caller.start(ask(), More::None).answer(), 429, "http_request_error");
    call.send.send_data(bytes::Bytes::new(), true).unwrap();
    let rest = wait("the origin's end", async {
        let mut count = 0;
        while let Some(part) = body.data().await {
            count += part.unwrap().len();
        }
        count
    });
    assert_eq!(rest, 0, "an end in one direction reaches the origin, and its own comes back");
    assert_eq!(origin.only().field("via"), None);
}

#[test]
fn a_connect_on_a_stream_is_opened_if_its_host_is_named() {
    let (stage, origin) = stage(&counted(2, "1h", FULL));
    let outer = Caller2::plain(stage.gateway.addr);
    let ask = Request::connect(origin.name()).body(()).unwrap();
    let mut call = outer.start(ask, More::Follows);
    let (answer, body) = call.try_head().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.raw);
    let stream = caller2::tunnel_of(call, body);
    let inside = Caller2::secure(stream, "localhost", stage.trusting());
    for path in ["/1", "/2"] {
        assert_eq!(inside.get(&origin.url(path)).text(), path);
    }
    check_ours(&inside.get(&origin.url("/3")), 429, "http_request_error");
    assert_eq!(origin.paths(), ["/1", "/2"]);
}

#[test]
fn an_extended_connect_is_refused_cleanly() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    let mut frames = frames::Frames::caller(&mut caller.stream);
    let mut fields = frames::request("CONNECT", "127.0.0.1", "/chat");
    fields.insert(1, (":protocol", "websocket"));
    frames.send(&frames::Frame::headers(1, 0, &fields));
    let fate = frames.fate(1);
    assert!(matches!(fate, frames::Fate::Answered(400..=501) | frames::Fate::Reset(1..)), "{fate:?}");
    frames.send(&frames::Frame::get(3, &origin.authority(), "/after"));
    assert!(matches!(frames.fate(3), frames::Fate::Answered(_)), "the connection lives on");
    assert_eq!(origin.targets(), ["/after"]);
}

#[test]
fn on_sigterm_streams_finish_new_ones_are_not_taken_and_the_connection_ends() {
    let (mut stage, origin) = stage(UNLIMITED);
    let caller = stage.opened2(&origin.name());
    let held = caller.start(get(&origin.url("/hold")), More::None);
    let idle = stage.opened2(&origin.name());
    eventually("it is with the origin", || origin.count() == 1);
    stage.gateway.signal(Signal::TERM);
    assert_eq!(idle.ended().map_err(|e| e.to_string()), Ok(()), "GOAWAY, and an end in order");
    let mut late = Ok(());
    eventually("no stream is taken any more", || {
        late = caller.try_start(get(&origin.url("/late")), More::None).and_then(|c| c.try_answer()).map(|_| ());
        late.is_err()
    });
    origin.release(1);
    assert_eq!(held.answer().text(), "/hold");
    // The caller may still have had something to say when the gateway closed.
    caller.ended().ok();
    assert_eq!(stage.gateway.ended().code(), Some(0));
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody_and_costs_little() {
    let (stage, origin) = stage(UNLIMITED);
    let caller = stage.opened2(&origin.name());
    assert_eq!(caller.get(&origin.url("/warm")).status, 200);
    let before = stage.gateway.memory_kib();
    let mut slow = caller.start(get(&origin.url("/stream/50000000")), More::None);
    let (head, body) = slow.try_head().unwrap();
    assert_eq!(head.status, 200);
    std::thread::sleep(Duration::from_millis(300));
    for n in 0..50 {
        let path = format!("/other/{n}");
        assert_eq!(caller.get(&origin.url(&path)).text(), path, "other streams go on");
    }
    let grown = stage.gateway.memory_kib().saturating_sub(before);
    assert!(grown < 8 << 10, "the gateway grew by {grown} KiB for one slow reader");
    drop(body);
    assert_eq!(caller.get(&origin.url("/stream/3000000")).body.len(), 3_000_000);
}

#[test]
fn http2_begins_only_where_a_connection_begins() {
    let gateway = Gateway::start(UNLIMITED);
    let origin = Origin::start();
    let mut caller = gateway.caller();
    let first = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"));
    assert_eq!(caller.send(first).answer().status, 200);
    caller.send(frames::PREFACE);
    let (rest, _) = caller.rest();
    assert!(rest.starts_with(b"HTTP/1.1 4") || rest.starts_with(b"HTTP/1.1 5"), "{:?}", String::from_utf8_lossy(&rest));
}

#[test]
fn a_connection_that_does_not_begin_with_settings_is_ended() {
    let (gateway, origin) = (Gateway::start(UNLIMITED), Origin::start());
    let get = Frame::get(1, &origin.authority(), "/");
    for first in
        [Frame::new(frames::PING, 0, 0, *b"12345678"), get.clone(), Frame::new(frames::SETTINGS, frames::ACK, 0, [])]
    {
        let mut caller = gateway.caller();
        caller.send([frames::PREFACE, &first.bytes(), &get.bytes()].concat());
        assert_eq!(Frames::begun(&mut caller.stream).fate(1), Fate::Goaway(1), "{first:?}");
    }
    assert_eq!(origin.count(), 0);
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    frames.send(&get);
    assert_eq!(frames.fate(1), Fate::Answered(200));
}

#[test]
fn an_expectation_that_nobody_knows_is_refused_in_either_version() {
    let (gateway, origin) = (Gateway::start(UNLIMITED), Origin::start());
    let request = |value: &str| Request::get(origin.url("/")).header("expect", value).body(()).unwrap();
    let caller = Caller2::plain(gateway.addr);
    check_ours(&caller.start(request("200-maybe"), More::None).answer(), 417, "http_request_error");
    assert_eq!(caller.start(request("100-continue"), More::None).answer().status, 200);
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_opened_tunnel_whose_caller_knows_no_alpn_speaks_http1() {
    let (stage, origin) = stage(UNLIMITED);
    let mut inside = stage.tunnel(&origin.name()).into_tls_with("localhost", stage.trusting());
    assert_eq!(inside.send(stage::get(&origin.name(), "/old")).answer().text(), "/old");
    let other = stage.gateway.exchange(connect("localhost:1", ""));
    check_ours(&other, 403, "http_request_denied");
}

#[test]
fn a_connection_is_not_idle_while_a_tunnel_that_is_opened_on_it_has_a_request() {
    let before = Before::new();
    let origin = Origin::scripted_tls(before.authority.server_config(Fault::None), |_, link| {
        std::thread::sleep(Duration::from_millis(7000));
        link.answer(200, "late")
    });
    // Long enough for what a slow machine does between the opening of the tunnel and the request in it.
    let stage = before.gateway(&format!("{UNLIMITED}[timeouts]\nidle = \"3s\"\n\n"), &[origin.port()]);
    let outer = Caller2::plain(stage.gateway.addr);
    let name = format!("localhost:{}", origin.port());
    let mut call = outer.start(Request::connect(name.clone()).body(()).unwrap(), More::Follows);
    let (answer, body) = call.try_head().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.raw);
    let inside = Caller2::secure(caller2::tunnel_of(call, body), "localhost", stage.trusting());
    let answer = inside.start(get(&format!("https://{name}/")), More::None).try_answer();
    assert_eq!(answer.map(|answer| answer.status).ok(), Some(200));
}
