//! A named host is opened: every request inside its tunnel is one exchange, counted, queued and answered like any other.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::admin::{listener, queued};
use crate::support::certs::Fault;
use crate::support::stage::{Before, Stage, connect, counted, get, opens};
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
fn every_request_in_an_opened_tunnel_takes_a_slot() {
    let (stage, origin) = stage(&counted(2, "1h", FULL));
    let mut inside = stage.opened(&origin.name());
    for path in ["/1", "/2"] {
        let answer = inside.send(get(&origin.name(), path)).answer();
        assert_eq!((answer.status, answer.text()), (200, path.to_owned()));
    }
    check_ours(&inside.send(get(&origin.name(), "/3")).answer(), 429, "http_request_error");
    check_ours(&stage.get(&origin.name(), "/4"), 429, "http_request_error");
    assert_eq!(origin.paths(), ["/1", "/2"]);
}

#[test]
fn a_tunnel_that_is_opened_takes_no_slot_itself() {
    let (stage, origin) = stage(&counted(1, "1h", FULL));
    let mut tunnels: Vec<Caller> = (0..3).map(|_| stage.opened(&origin.name())).collect();
    assert_eq!(tunnels[2].send(get(&origin.name(), "/")).answer().status, 200);
    check_ours(&tunnels[0].send(get(&origin.name(), "/")).answer(), 429, "http_request_error");
}

#[test]
fn requests_inside_wait_their_turn_and_none_too_many_arrive() {
    let (stage, origin) = stage(&counted(3, "400ms", "counts = \"answered\""));
    let mut tunnels: Vec<Caller> = (0..4).map(|_| stage.opened(&origin.name())).collect();
    for round in 0..3 {
        for tunnel in &mut tunnels {
            tunnel.send(get(&origin.name(), &format!("/{round}")));
        }
        tunnels.iter_mut().for_each(|one| assert_eq!(one.answer().status, 200));
    }
    assert_eq!(origin.count(), 12);
    one_window(3, Duration::from_millis(400), &origin.stamps());
}

#[test]
fn one_tunnel_carries_many_requests_and_also_those_sent_ahead() {
    let (stage, origin) = stage(UNLIMITED);
    let mut inside = stage.opened(&origin.name());
    for n in 0..200 {
        let path = format!("/{n}");
        assert_eq!(inside.send(get(&origin.name(), &path)).answer().text(), path);
    }
    let ahead: String = (200..220).map(|n| get(&origin.name(), &format!("/{n}"))).collect();
    inside.send(ahead);
    (200..220).for_each(|n| assert_eq!(inside.answer().text(), format!("/{n}")));
    assert_eq!(origin.count(), 220);
    assert_eq!(origin.connections(), 1, "towards the origin, too, one connection served them all");
}

#[test]
fn a_client_hello_sent_with_the_connect_is_not_lost() {
    let (stage, origin) = stage(UNLIMITED);
    let name = ServerName::try_from("localhost").unwrap();
    let mut session = ClientConnection::new(Arc::new(stage.trusting()), name).unwrap();
    let mut bytes = connect(&origin.name(), "").into_bytes();
    session.write_tls(&mut bytes).unwrap();
    let mut tcp = std::net::TcpStream::connect(stage.gateway.addr).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.write_all(&bytes).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(tcp.read(&mut byte).unwrap(), 1, "the head ends: {}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    let mut inside = Caller { stream: stream::Stream::caller(session, tcp) };
    assert_eq!(inside.send(get(&origin.name(), "/early")).answer().status, 413);
}

#[test]
fn the_name_in_the_handshake_must_be_that_of_the_connect() {
    let (stage, origin) = stage(UNLIMITED);
    let by_address = origin.addr.to_string();
    for (to, name) in [(origin.name(), "other.example"), (by_address.clone(), "localhost")] {
        let refused = stage.tunnel(&to).into_tls_with(name, stage.trusting()).try_handshake();
        assert!(refused.is_err(), "{name} inside a tunnel to {to}");
    }
    assert_eq!((origin.count(), origin.connections()), (0, 0), "nobody was bothered");
    // A host that is an address has no name to send (RFC 6066 §3).
    assert_eq!(stage.get(&by_address, "/").status, 200);
    assert!(!stage.tunnel(&origin.name()).into_tls_with("LocalHost", stage.trusting()).shown().is_empty());
}

#[test]
fn a_host_inside_that_does_not_belong_to_the_tunnel_is_misdirected() {
    let (stage, origin) = stage(UNLIMITED);
    let port = origin.port();
    for host in ["other.example".to_owned(), format!("other.example:{port}"), "localhost:1".to_owned()] {
        let mut inside = stage.opened(&origin.name());
        check_ours(&inside.send(get(&host, "/")).answer(), 421, "http_request_error|http_request_denied");
    }
    let mut inside = stage.opened(&origin.name());
    let absolute = format!("GET https://other.example:{port}/ HTTP/1.1\r\nHost: {}\r\n\r\n", origin.name());
    check_ours(&inside.send(absolute).answer(), 421, "http_request_error|http_request_denied");
    assert_eq!(origin.count(), 0);
    let same = stage.opened(&origin.name()).send(get(&format!("LocalHost:{port}"), "/same")).answer();
    assert_eq!(same.text(), "/same");
}

#[test]
fn an_absolute_target_inside_is_taken_if_it_is_the_tunnels_own() {
    let (stage, origin) = stage(UNLIMITED);
    let ask = |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.name());
        stage.opened(&origin.name()).send(head).answer()
    };
    assert_eq!(ask(&origin.url("/inside?a=b")).text(), "/inside?a=b");
    let plain = ask(&format!("http://{}/", origin.name()));
    assert!(matches!(plain.status, 400 | 421), "{}", plain.raw);
    assert!(plain.field("proxy-status").is_some(), "{}", plain.raw);
    assert_eq!(origin.paths(), ["/inside?a=b"]);
}

#[test]
fn a_tunnel_inside_a_tunnel_is_refused() {
    let (stage, origin) = stage(UNLIMITED);
    let mut inside = stage.opened(&origin.name());
    let answer = inside.send(connect(&origin.name(), "")).answer_to("CONNECT");
    assert!((400..500).contains(&answer.status), "{}", answer.raw);
    assert!(answer.field("proxy-status").is_some(), "{}", answer.raw);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn plain_http_in_a_tunnel_to_a_named_host_is_counted_too() {
    let before = Before::new();
    let origin = Origin::start();
    let stage = before.gateway(&counted(1, "1h", FULL), &[origin.port()]);
    let to = format!("localhost:{}", origin.port());
    let mut plain = stage.tunnel(&to);
    assert_eq!(plain.send(get(&to, "/plain")).answer().text(), "/plain");
    check_ours(&plain.send(get(&to, "/second")).answer(), 429, "http_request_error");
    let foreign = stage.tunnel(&to).send(get("other.example", "/")).answer();
    check_ours(&foreign, 421, "http_request_error|http_request_denied");
    assert_eq!(origin.only().field("via"), Some("1.1 lockgate"));
}

#[test]
fn who_begins_neither_tls_nor_http_in_an_opened_tunnel_is_not_served() {
    let (stage, origin) = stage("[timeouts]\nhead = \"2s\"\nidle = \"3s\"\nbody_idle = \"3s\"\n\n");
    let [mut noise, mut silent, mut half] = [(); 3].map(|()| stage.tunnel(&origin.name()));
    noise.send([0, 1, 2, 3, 13, 10, 13, 10]);
    half.send([0x16, 3, 1, 2, 0]);
    assert_ne!(noise.rest().1, stream::Stop::Silence, "the connection ends");
    silent.expect_end();
    half.expect_end();
    assert_eq!((origin.count(), origin.connections()), (0, 0));
}

#[test]
fn the_credentials_of_the_connect_count_inside() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let line = |name: &str| format!("{name}:{}\n", bcrypt::hash(name, 4).unwrap());
    let users = before.dir.write("users", &(line("me") + &line("you")));
    certs::private(&users);
    let access = opens(&["localhost"], &[origin.port()], &before.trust);
    let toml = |per: &str| {
        let limit = counted(1, per, "key = [\"caller\"]\nmax_wait = \"12h\"");
        format!("{limit}{access}users = {:?}\n", users.display().to_string())
    };
    let (admin, listen) = listener();
    let stage = before.gateway_with(&(toml("1h") + &listen));
    let refused = stage.gateway.exchange(connect(&origin.name(), ""));
    check_ours(&refused, 407, "http_request_denied");
    assert!(refused.field("proxy-authenticate").is_some(), "{}", refused.raw);
    let inside = |name: &str| {
        let credentials = format!("Proxy-Authorization: {}\r\n", basic(name, name));
        stage.tunnel_with(&origin.name(), &credentials).into_tls_with("localhost", stage.trusting())
    };
    let (mut first, mut second, mut other) = (inside("me"), inside("me"), inside("you"));
    assert_eq!(first.send(get(&origin.name(), "/me")).answer().status, 200);
    second.send(get(&origin.name(), "/me"));
    queued(admin, "the-limit", 1);
    assert_eq!(other.send(get(&origin.name(), "/you")).answer().status, 200);
    assert!(stage.gateway.reload(&toml("300ms")), "{}", stage.gateway.stderr());
    assert_eq!(second.answer().status, 200);
    assert_eq!(origin.paths(), ["/me", "/you", "/me"], "each has a window of its own");
    assert!(origin.seen().iter().all(|seen| seen.all("proxy-authorization").is_empty()));
}

#[test]
fn a_waiter_that_hangs_up_inside_a_tunnel_gives_its_turn_to_the_next() {
    let (admin, listen) = listener();
    let (stage, origin) = stage(&(counted(1, "1h", "max_wait = \"12h\"") + &listen));
    assert_eq!(stage.get(&origin.name(), "/fill").status, 200);
    let line_up = |path: &str, place: usize| {
        let mut inside = stage.opened(&origin.name());
        inside.send(get(&origin.name(), path));
        queued(admin, "the-limit", place);
        inside
    };
    let (mut closing, resetting, mut staying) = (line_up("/closed", 1), line_up("/reset", 2), line_up("/stays", 3));
    closing.finish();
    closing.hang_up();
    resetting.reset();
    queued(admin, "the-limit", 1);
    tune(admin, "the-limit", "\"per\": \"300ms\"");
    assert_eq!(staying.answer().status, 200);
    assert_eq!(origin.paths(), ["/fill", "/stays"], "the dead did not go");
}

#[test]
fn an_upgrade_inside_is_a_websocket_both_ways() {
    let (stage, origin) = stage(&counted(1, "1h", FULL));
    let mut inside = stage.opened(&origin.name());
    let upgrade = head(&[
        "GET /socket HTTP/1.1",
        &format!("Host: {}", origin.name()),
        "Connection: keep-alive, Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]);
    let answer = inside.send(upgrade).answer();
    assert_eq!(answer.status, 101, "{}", answer.raw);
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    for part in [&b"\x81\x05hello"[..], &[0, 255].repeat(50_000)] {
        let mut back = Vec::new();
        for some in part.chunks(10_000) {
            back.extend(inside.send(some).bytes(some.len()));
        }
        assert_eq!(back, part);
    }
    assert_eq!(origin.only().version, 1, "a protocol can be changed only in HTTP/1.1");
    inside.finish();
    assert_eq!(inside.rest().0, b"");
    check_ours(&stage.get(&origin.name(), "/"), 429, "http_request_error");
}

#[test]
fn early_hints_of_http2_do_not_reach_a_caller_of_http1_and_trailers_do() {
    let (stage, origin) = stage(UNLIMITED);
    let mut inside = stage.opened(&origin.name());
    let answer = inside.send(stage::get(&origin.name(), "/interim")).answer();
    // Python's http.client takes the first head that is not 100 for the final one.
    assert_eq!(answer.interim.len(), 0, "{}", answer.raw);
    assert_eq!((answer.status, answer.text()), (200, "after".to_owned()));
    assert_eq!(inside.send(stage::get(&origin.name(), "/next")).answer().text(), "/next");
    let ask = format!("GET /trailers HTTP/1.1\r\nHost: {}\r\nTE: trailers\r\nConnection: TE\r\n\r\n", origin.name());
    let answer = stage.opened(&origin.name()).send(ask).answer();
    assert_eq!((answer.text(), answer.trailers.len()), ("body".to_owned(), 1), "{}", answer.raw);
    assert_eq!(answer.trailers[0].1, "7");
}

#[test]
fn large_content_passes_both_ways_and_a_slow_reader_costs_no_memory() {
    const SIZE: usize = 24 << 20;
    let (stage, origin) = stage(UNLIMITED);
    let mut inside = stage.opened(&origin.name());
    assert_eq!(inside.send(get(&origin.name(), "/warm")).answer().status, 200);
    let before = stage.gateway.memory_kib();
    inside.send(get(&origin.name(), &format!("/stream/{SIZE}")));
    let head = inside.head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    // It reads nothing meanwhile; what the origin could push by then would lie in the gateway.
    std::thread::sleep(Duration::from_millis(500));
    let grown = stage.gateway.memory_kib().saturating_sub(before);
    assert!(grown < 6 << 10, "the gateway grew by {grown} KiB for one slow reader");
    inside.hang_up();
    let answer = stage.get(&origin.name(), &format!("/stream/{SIZE}"));
    assert_eq!((answer.body.len(), answer.status), (SIZE, 200));
    assert_ne!(answer.end, End::Truncated);
    let mut inside = stage.opened(&origin.name());
    let post = format!("POST /back HTTP/1.1\r\nHost: {}\r\nContent-Length: {SIZE}\r\n\r\n", origin.name());
    inside.send(post);
    inside.send(vec![b'x'; SIZE]);
    assert!(inside.answer().body == vec![b'x'; SIZE]);
}

#[test]
fn an_early_answer_inside_is_passed_on() {
    let (stage, origin) = stage(UNLIMITED);
    let mut inside = stage.opened(&origin.name());
    inside.send(format!("POST /early HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000\r\n\r\nbegin", origin.name()));
    let answer = inside.answer();
    assert_eq!((answer.status, answer.text()), (413, "too much".to_owned()));
}

#[test]
fn an_opened_tunnel_ends_when_nothing_happens_in_it() {
    let (stage, origin) = stage("[timeouts]\nidle = \"2s\"\nbody_idle = \"2s\"\n\n");
    let mut inside = stage.opened(&origin.name());
    assert_eq!(inside.send(get(&origin.name(), "/")).answer().status, 200);
    inside.expect_end();
}

#[test]
fn on_sigterm_requests_in_opened_tunnels_finish_and_waiters_are_told() {
    let (admin, listen) = listener();
    let (mut stage, origin) = stage(&(counted(2, "1h", "max_wait = \"2h\"") + &listen));
    let mut idle = stage.opened(&origin.name());
    assert_eq!(idle.send(get(&origin.name(), "/idle")).answer().status, 200);
    let mut running = stage.opened(&origin.name());
    running.send(get(&origin.name(), "/hold"));
    eventually("one is with the origin", || origin.count() == 2);
    let mut waiting = stage.opened(&origin.name());
    waiting.send(get(&origin.name(), "/waits"));
    queued(admin, "the-limit", 1);
    stage.gateway.signal(Signal::TERM);
    check_ours(&waiting.answer(), 503, "proxy_internal_response|connection_limit_reached");
    idle.expect_end();
    origin.release(1);
    assert_eq!(running.answer().text(), "/hold");
    running.expect_end();
    assert_eq!(stage.gateway.ended().code(), Some(0));
}

#[test]
fn each_request_inside_is_one_line_of_the_log_with_its_whole_target() {
    let (stage, origin) = stage(&counted(5, "1s", ""));
    let mut inside = stage.opened(&origin.name());
    for path in ["/one?key=secret", "/two"] {
        assert_eq!(inside.send(get(&origin.name(), path)).answer().status, 200);
    }
    let line = stage.gateway.log_line(&origin.url("/two"));
    assert!(line.contains("the-limit") && line.contains("200"), "{line}");
    let line = stage.gateway.log_line(&origin.url("/one"));
    assert!(!line.contains("secret"), "{line}");
    assert!(!stage.gateway.stderr().contains("counts its tunnels"), "{}", stage.gateway.stderr());
}

#[test]
fn how_long_a_request_waited_is_said_inside_too() {
    let (admin, listen) = listener();
    let limit = counted(1, "1h", "max_wait = \"12h\"").replace("] }", "], path = \"/counted\" }");
    let (stage, origin) = stage(&(limit + &listen));
    let mut inside = stage.opened(&origin.name());
    // A request that is counted may have waited until its slot was written down.
    let first = inside.send(get(&origin.name(), "/free")).answer();
    assert!(first.field("server-timing").is_none(), "{}", first.raw);
    assert_eq!(inside.send(get(&origin.name(), "/counted")).answer().status, 200);
    inside.send(get(&origin.name(), "/counted"));
    queued(admin, "the-limit", 1);
    tune(admin, "the-limit", "\"per\": \"100ms\"");
    let second = inside.answer();
    assert!(second.field("server-timing").is_some_and(|v| v.starts_with("lockgate;dur=")), "{}", second.raw);
    assert!(origin.seen().iter().all(|seen| seen.all("via").last().is_some_and(|via| via.ends_with(" lockgate"))));
}
