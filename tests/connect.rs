//! CONNECT opens a tunnel: bytes both ways, nothing lost, nothing added, and counted. Plain HTTP in it: `plain_tunnels`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::certs::{Authority, Fault};
use crate::support::clock::now;
use crate::support::*;

/// `[access]` that lets tunnels go to these ports.
fn ports(origins: &[&Origin]) -> String {
    let ports: Vec<String> = origins.iter().map(|o| o.port().to_string()).collect();
    format!("[access]\nconnect_ports = [{}]\n\n", ports.join(", "))
}

fn connect(origin: &Origin) -> String {
    let to = origin.authority();
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")
}

/// Bytes of another protocol, of which the tests' origin reads the first line.
const OPAQUE: &str = "SAY / ECHO/1.1\r\n\r\n";

/// An origin that sends back what comes, after one line that wakes it.
fn echo() -> Origin {
    Origin::scripted(|request, link| {
        link.send(request.raw.clone());
        link.echo();
        Next::Close
    })
}

#[test]
fn a_tunnel_carries_bytes_both_ways() {
    let origin = echo();
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &ports(&[&origin])));
    let mut caller = gateway.caller();
    let answer = caller.send(connect(&origin)).answer_to("CONNECT");
    assert_eq!(answer.status, 200);
    for name in ["content-length", "transfer-encoding", "connection", "content-type"] {
        assert_eq!(answer.field(name), None, "{name} in the 2xx of a CONNECT: {}", answer.raw);
    }
    let hello = "SAY /inside ECHO/1.1\r\nHost: x\r\nProxy-Connection: yes\r\n\r\n";
    assert_eq!(caller.send(hello).bytes(hello.len()), hello.as_bytes(), "nothing added, nothing taken");
    let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut reader = Vec::new();
    for part in all.chunks(10_000) {
        reader.extend(caller.send(part).bytes(part.len()));
    }
    assert_eq!(reader, all);
}

#[test]
fn bytes_sent_right_after_a_connect_are_not_lost() {
    let origin = echo();
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &ports(&[&origin])));
    let mut caller = gateway.caller();
    let early = "SAY /early ECHO/1.1\r\n\r\nand more";
    caller.send(connect(&origin) + early);
    assert_eq!(caller.answer_to("CONNECT").status, 200);
    assert_eq!(caller.bytes(early.len()), early.as_bytes());
}

#[test]
fn an_end_in_one_direction_leaves_the_other_open() {
    let origin = Origin::scripted(|_, link| {
        link.send("before ");
        assert!(link.wait_for_close(), "the caller's end reached the origin");
        link.send("after");
        Next::Close
    });
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &ports(&[&origin])));
    let mut caller = gateway.caller();
    assert_eq!(caller.send(connect(&origin)).answer_to("CONNECT").status, 200);
    caller.send(OPAQUE);
    assert_eq!(caller.bytes(7), b"before ");
    caller.finish();
    assert_eq!(caller.rest().0, b"after");
}

#[test]
fn the_origins_end_leaves_the_callers_direction_open() {
    let (tell, told) = std::sync::mpsc::channel();
    let origin = Origin::scripted(move |_, link| {
        link.send("bye");
        link.stream.finish();
        let end = std::time::Instant::now() + PATIENCE;
        tell.send(link.stream.take_rest(end).0).ok();
        Next::Close
    });
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &ports(&[&origin])));
    let mut caller = gateway.caller();
    assert_eq!(caller.send(connect(&origin)).answer_to("CONNECT").status, 200);
    caller.send(OPAQUE);
    assert_eq!(caller.rest().0, b"bye");
    caller.send("still here");
    caller.finish();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), b"still here");
}

#[test]
fn tls_inside_a_tunnel_is_the_callers_own_affair() {
    let authority = Authority::new();
    let origin =
        Origin::scripted_tls(authority.server_config(Fault::None), |request, link| link.answer(200, &request.target));
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &ports(&[&origin])));
    let mut caller = gateway.caller();
    assert_eq!(caller.send(connect(&origin)).answer_to("CONNECT").status, 200);
    let mut inside = caller.into_tls("127.0.0.1", &authority);
    inside.send("GET /secret HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(inside.answer().text(), "/secret");
    let seen = origin.only();
    assert_eq!(seen.field("via"), None, "nobody opened the tunnel");
}

#[test]
fn a_tunnel_takes_a_slot() {
    let origin = echo();
    let toml = limit(1, "1h", "when_full = \"refuse\"") + &ports(&[&origin]);
    let gateway = Gateway::start(&toml);
    let mut first = gateway.caller();
    assert_eq!(first.send(connect(&origin)).answer_to("CONNECT").status, 200);
    let second = gateway.exchange(connect(&origin));
    check_ours(&second, 429, "http_request_error");
    first.send(OPAQUE);
    assert_eq!(first.bytes(18).len(), 18, "the first tunnel is not disturbed");
}

#[test]
fn what_a_limit_does_not_see_of_tunnels_is_said_once_per_host() {
    const AS_A_WHOLE: &str = "a limit counts tunnels to this host, not the requests in them";
    const NOTHING: &str = "a limit names this host but does not count its tunnels";
    let origin = echo();
    let told = |toml: &str, expected: Option<&str>| {
        let gateway = Gateway::start(&(toml.to_owned() + &ports(&[&origin])));
        for _ in 0..3 {
            assert_eq!(gateway.exchange(connect(&origin)).status, 200);
        }
        let lines = || [AS_A_WHOLE, NOTHING].map(|text| gateway.stderr().matches(text).count());
        // What it said before the next answer is read sooner or later; nothing is said of nothing.
        if expected.is_some() {
            super::support::eventually("the warning", || lines() != [0, 0]);
        }
        assert_eq!(lines(), [AS_A_WHOLE, NOTHING].map(|text| usize::from(expected == Some(text))), "{toml}");
        gateway.stderr()
    };
    told(&limit(100, "1s", ""), Some(AS_A_WHOLE));
    told("[[limit]]\nmatch = { host = \"other.example\" }\nrequests = 1\nper = \"1s\"\n", None);
    let unseen = limit(100, "1s", "").replace(" }", ", path = \"/v2/**\" }");
    let stderr = told(&unseen, Some(NOTHING));
    assert!(stderr.contains("host=\"127.0.0.1\" limit=the-limit"), "{stderr}");
    // Another limit that counts the tunnel makes that one no better.
    told(&(unseen.clone() + "[[limit]]\nrequests = 9\nper = \"1s\"\n"), Some(NOTHING));
    told(&limit(100, "1s", "").replace(" }", ", method = \"GET\" }"), Some(NOTHING));
    told("[[limit]]\nmatch = { path = \"/v2/**\" }\nrequests = 9\nper = \"1s\"\n", None);
}

#[test]
fn tunnels_beyond_the_limit_wait_their_turn() {
    let origin = echo();
    let gateway = Gateway::start(&(limit(2, "500ms", "counts = \"answered\"") + &ports(&[&origin])));
    let opened: Vec<u64> = (0..6)
        .map(|_| {
            let gateway_addr = gateway.addr;
            let request = connect(&origin);
            thread(move || {
                let mut caller = Caller::connect(gateway_addr);
                let answer = caller.send(request).answer_to("CONNECT");
                assert_eq!(answer.status, 200);
                answer.stamp
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|one| one.join().unwrap())
        .collect();
    let span = opened.iter().max().unwrap() - opened.iter().min().unwrap();
    assert!(span > 900_000_000, "six tunnels at two per 500 ms take a second, not {span} ns");
}

#[test]
fn a_tunnel_in_which_nothing_happens_ends() {
    let origin = echo();
    let toml = UNLIMITED.to_owned() + &ports(&[&origin]) + "[timeouts]\ntunnel_idle = \"300ms\"\n";
    let gateway = Gateway::start(&toml);
    let mut caller = gateway.caller();
    assert_eq!(caller.send(connect(&origin)).answer_to("CONNECT").status, 200);
    caller.expect_end();
}

#[test]
fn a_broken_tunnel_ends_on_the_other_side_too() {
    let origin = Origin::scripted(|_, _| Next::Die);
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &ports(&[&origin])));
    let mut caller = gateway.caller();
    assert_eq!(caller.send(connect(&origin)).answer_to("CONNECT").status, 200);
    caller.send(OPAQUE).expect_end();
    let origin = echo();
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &ports(&[&origin])));
    let mut caller = gateway.caller();
    assert_eq!(caller.send(connect(&origin)).answer_to("CONNECT").status, 200);
    caller.send(OPAQUE).bytes(18);
    caller.reset();
    eventually("the origin's side is closed", || origin.open() == 0);
}

#[test]
fn a_connect_must_name_a_host_and_a_port_and_nothing_else() {
    let gateway = Gateway::start(UNLIMITED);
    for target in
        ["127.0.0.1", "127.0.0.1:", ":443", "http://127.0.0.1:443/", "/", "a:443/x", "a:99999", "u@a:443", "a:0"]
    {
        let answer = gateway.exchange(format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        check_ours(&answer, 400, "http_request_error");
    }
}

#[test]
fn a_tunnel_is_opened_only_when_the_origin_is_there() {
    let dead = DeadPort::new();
    let port = dead.port();
    let toml = format!("{UNLIMITED}[access]\nconnect_ports = [{port}]\n");
    let gateway = Gateway::start(&toml);
    let answer = gateway.exchange(format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: a\r\n\r\n"));
    check_ours(&answer, 502, "connection_refused");
}

#[test]
fn an_http_1_0_caller_gets_its_tunnel_too() {
    let origin = echo();
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &ports(&[&origin])));
    let mut caller = gateway.caller();
    caller.send(format!("CONNECT {} HTTP/1.0\r\n\r\n", origin.authority()));
    assert_eq!(caller.answer_to("CONNECT").status, 200);
    caller.send(OPAQUE);
    assert_eq!(caller.bytes(18).len(), 18);
    caller.expect_silence(Duration::from_millis(20));
}

#[test]
fn a_tunnel_whose_connection_fails_gives_its_slot_back() {
    let (dead, door) = (DeadPort::new(), Door::open());
    let more = format!("[access]\nconnect_ports = [{}, {}]\n\n", dead.port(), door.port);
    let gateway = Gateway::start(&(limit(1, "1h", "max_wait = \"0s\"") + &more));
    for _ in 0..3 {
        let refused = gateway.exchange(format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\nHost: a\r\n\r\n", dead.port()));
        check_ours(&refused, 502, "connection_refused");
    }
    let mut caller = gateway.caller();
    assert_eq!(caller.send(door.connect()).answer_to("CONNECT").status, 200);
    assert_eq!(gateway.exchange(door.connect()).status, 429, "the only slot is taken now, and by this one");
}

/// The moment of a connection: after one at which there was none, and before one at which it was accepted. However late a
/// busy machine accepts it, it was made between the two.
#[derive(Clone, Copy)]
struct Made {
    after: u64,
    before: u64,
}

/// A port that accepts and holds whatever comes, and looks each millisecond at the latest.
struct Door {
    port: u16,
    made: Arc<Mutex<Vec<Made>>>,
    stop: Arc<AtomicBool>,
}

impl Door {
    fn open() -> Door {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let door = Door { port: listener.local_addr().unwrap().port(), made: Arc::default(), stop: Arc::default() };
        let (made, stop) = (Arc::clone(&door.made), Arc::clone(&door.stop));
        thread(move || {
            let mut held = Vec::new();
            let mut after = now();
            while !stop.load(Ordering::SeqCst) {
                let asked = now();
                match listener.accept() {
                    Ok((stream, _)) => {
                        made.lock().unwrap().push(Made { after, before: now() });
                        held.push(stream);
                    }
                    Err(_) => {
                        after = asked;
                        std::thread::sleep(Duration::from_micros(500));
                    }
                }
            }
        });
        door
    }

    fn made(&self) -> Vec<Made> {
        self.made.lock().unwrap().clone()
    }

    fn connect(&self) -> String {
        format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\nHost: a\r\n\r\n", self.port)
    }

    /// One limit on it, and `[access]` that lets tunnels go there.
    fn limit(&self, requests: u32, per: &str, more: &str) -> String {
        limit(requests, per, more) + &format!("[access]\nconnect_ports = [{}]\n\n", self.port)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

#[test]
fn no_span_sees_more_connections_made_than_a_limit_lets_tunnels_through() {
    const PER: u64 = 800_000_000;
    let door = Door::open();
    // The guard covers what passes between a connection's being made here and there.
    let gateway = Gateway::start(&door.limit(5, "800ms", "guard = \"20ms\""));
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (addr, request) = (gateway.addr, door.connect());
            thread(move || {
                let mut caller = Caller::connect(addr);
                assert_eq!(caller.send(request).answer_to("CONNECT").status, 200);
                caller
            })
        })
        .collect();
    let _open: Vec<Caller> = callers.into_iter().map(|one| one.join().unwrap()).collect();
    eventually("all are accepted", || door.made().len() == 20);
    for six in door.made().windows(6) {
        let at_most = six[5].before - six[0].after;
        assert!(at_most >= PER, "six connections within {:?}", Duration::from_nanos(at_most));
    }
}

#[test]
fn a_tunnel_that_waits_has_no_connection_yet_and_one_whose_caller_left_never_has() {
    let door = Door::open();
    let toml = format!(
        "{}[admin]\nlisten = \"127.0.0.1:{}\"\n",
        door.limit(1, "1ms", "in_flight = 1\nmax_wait = \"1h\""),
        free_port()
    );
    let gateway = Gateway::start(&toml);
    let waiting = || {
        let line = toml.lines().find_map(|line| line.strip_prefix("listen = \"")).unwrap();
        let mut admin = Caller::connect(line.trim_end_matches('"').parse().unwrap());
        admin.send("GET /v1/limits/the-limit HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").answer().text()
    };
    let mut first = gateway.caller();
    assert_eq!(first.send(door.connect()).answer_to("CONNECT").status, 200);
    let mut leaving = gateway.caller();
    leaving.send(door.connect());
    eventually("it waits", || waiting().contains("\"waiting\":1"));
    let mut staying = gateway.caller();
    staying.send(door.connect());
    eventually("both wait", || waiting().contains("\"waiting\":2"));
    leaving.hang_up();
    eventually("one has left", || waiting().contains("\"waiting\":1"));
    assert_eq!(door.made().len(), 1, "nothing is made for those that wait");
    first.reset();
    assert_eq!(staying.answer_to("CONNECT").status, 200);
    eventually("its connection is accepted", || door.made().len() >= 2);
    assert_eq!(door.made().len(), 2);
}
