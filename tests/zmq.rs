//! Asks over ZeroMQ: the same windows, the same line, the same promise, for real peers of libzmq and for raw ones.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::admin::{json, metrics, queued, watched};
use crate::support::processes::{finish, python, start};
use crate::support::zmtp::{Peer, command, greeting, message, ready};
use crate::support::*;
use crate::tuning::tune;

/// An address for the listener, and the section that opens it for `the-limit`.
pub(crate) fn zmq(more: &str) -> (SocketAddr, String) {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    (addr, format!("[zmq]\nlisten = \"tcp://{addr}\"\nlimit = \"the-limit\"\n{more}\n"))
}

/// A gateway with the listener, and an admin listener.
#[track_caller]
fn asked(rules: &str, more: &str) -> (Gateway, SocketAddr, SocketAddr) {
    let (addr, section) = zmq(more);
    let (gateway, admin) = watched(rules, &section);
    (gateway, addr, admin)
}

/// A peer of libzmq.
fn libzmq(mode: &str, addr: SocketAddr, arguments: &[&str]) -> Command {
    let mut program = python("zmq_peer.py");
    program.arg(mode).arg(format!("tcp://{addr}")).args(arguments);
    program
}

/// Lines that it prints.
#[track_caller]
fn told(program: Command) -> Vec<String> {
    finish(start(program)).lines().map(str::to_owned).collect()
}

/// The answer to one ask of a peer of its own, without its delimiter.
#[track_caller]
fn ask(addr: SocketAddr, text: &str) -> String {
    let mut peer = Peer::null(addr, "REQ");
    peer.ask(&[b"", text.as_bytes()]);
    let answer = peer.answer();
    assert_eq!((answer.len(), answer[0].as_str()), (2, ""));
    answer[1].clone()
}

#[track_caller]
fn ask_json(addr: SocketAddr, text: &str) -> Value {
    serde_json::from_str(&ask(addr, text)).expect("an ask in JSON is answered in JSON")
}

#[test]
fn any_message_asks_for_a_slot_of_the_window_that_requests_are_counted_in() {
    let origin = Origin::start();
    let (gateway, addr, _) = asked(&limit(4, "1h", ""), "");
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    assert_eq!(told(libzmq("req", addr, &["", "please", "\u{1}", "go"])), ["go", "go", "go", "sorry"]);
    assert_eq!(told(libzmq("correlated", addr, &["a", "b"])), ["sorry", "sorry"], "an id goes before the delimiter");
    gateway.log_line(" ZMQ the-limit 429 limits=the-limit waited=0.000ms");
    assert!(gateway.log_line(" ZMQ the-limit 200 ").contains("127.0.0.1 "));
}

#[test]
fn a_dealer_is_answered_with_its_own_envelope() {
    let (_gateway, addr, _) = asked(&limit(9, "1h", ""), "");
    let mut answers = told(libzmq("dealer", addr, &[]));
    answers.sort();
    assert_eq!(answers, ["go", "id-7||go", "|go"]);
}

#[test]
fn an_ask_in_json_says_more_and_is_told_more() {
    let rules = limit(3, "1h", "")
        + "[[limit]]\nname = \"keyed\"\nmatch = { host = \"a.example\" }\nrequests = 1\n\
        per = \"1h\"\nkey = [\"header:x-tenant\", \"caller\"]\n\n";
    let (_gateway, addr, _) = asked(&rules, "");
    let go = ask_json(addr, "{\"cost\": 2}");
    assert!(go["verdict"] == "go" && go["limit"] == "the-limit" && go["retry_after_ms"] == 0, "{go}");
    let sorry = ask_json(addr, "{\"cost\": 2, \"wait\": \"10ms\"}");
    let after = sorry["retry_after_ms"].as_u64().unwrap();
    assert!(sorry["verdict"] == "sorry" && (3_000_000..=3_600_000).contains(&after), "{sorry}");
    assert!(sorry["waited_ms"].is_number() && sorry["reason"].is_string(), "{sorry}");
    let keyed = |key: &str| ask_json(addr, &format!("{{\"limit\": \"keyed\", \"key\": {key}}}"))["verdict"].clone();
    assert_eq!([keyed("\"x\""), keyed("[\"x\"]"), keyed("\"y\"")], ["go", "sorry", "go"]);
    for (wrong, why) in [
        ("{\"limit\": \"none\"}", "limit"),
        ("{\"limit\": \"keyed\"}", "key"),
        ("{\"key\": \"x\"}", "key"),
        ("{\"cost\": 0}", "from 1 to 3"),
        ("{\"cost\": 4}", "from 1 to 3"),
        ("{\"wait\": \"soon\"}", "seconds"),
        ("{\"costs\": 1}", "`costs` is unknown"),
        ("{\"cost\"", "an ask is {"),
    ] {
        let answer = ask_json(addr, wrong);
        assert!(answer["error"].as_str().is_some_and(|text| text.contains(why)), "{wrong}: {answer}");
    }
    assert_eq!(ask(addr, "and this"), "go", "none of them has taken a slot");
}

#[test]
fn asks_wait_in_the_line_of_requests_and_peers_take_turns() {
    let origin = Origin::start();
    let rules = limit(1, "1h", "max_wait = \"12h\"\ncounts = \"answered\"");
    let (gateway, addr, admin) = asked(&rules, "wait = \"10h\"");
    assert_eq!(gateway.get(&origin.url("/0")).status, 200);
    let mut greedy = Peer::null(addr, "DEALER");
    for number in 0..4 {
        greedy.ask(&[b"", b"?"]);
        queued(admin, "the-limit", number + 1);
    }
    let mut modest = Peer::null(addr, "REQ");
    modest.ask(&[b"", b"modest"]);
    queued(admin, "the-limit", 5);
    let mut request = gateway.caller();
    request.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/1")));
    queued(admin, "the-limit", 6);
    let detail = json(admin, "/v1/limits/the-limit").to_string();
    assert!(detail.contains("127.0.0.1:"), "the dashboard names peers by their addresses: {detail}");
    tune(admin, "the-limit", "\"per\": \"50ms\"");
    assert_eq!(modest.answer(), ["", "go"]);
    assert_eq!(request.answer().status, 200);
    for _ in 0..4 {
        assert_eq!(greedy.answer(), ["", "go"]);
    }
    let asks = || gateway.lines().into_iter().filter(|line| line.contains(" ZMQ ")).collect::<Vec<_>>();
    eventually("all are logged, in the order of their decisions", || asks().len() == 5);
    let of_modest = asks().iter().position(|line| line.contains(" bytes_in=6 "));
    assert_eq!(of_modest, Some(1), "the second turn is its own: {:#?}", asks());
}

#[test]
fn a_peer_that_vanishes_while_it_waits_leaves_the_line() {
    let rules = limit(1, "1h", "max_wait = \"12h\"\nshare_by = \"none\"");
    let (gateway, addr, admin) = asked(&rules, "wait = \"10h\"");
    assert_eq!(ask(addr, ""), "go");
    let mut leaves = Peer::null(addr, "REQ");
    leaves.ask(&[b"", b"?"]);
    queued(admin, "the-limit", 1);
    let mut stays = Peer::null(addr, "REQ");
    stays.ask(&[b"", b"?"]);
    queued(admin, "the-limit", 2);
    drop(leaves);
    queued(admin, "the-limit", 1);
    tune(admin, "the-limit", "\"per\": \"300ms\"");
    assert_eq!(stays.answer(), ["", "go"]);
    assert_eq!(json(admin, "/v1/limits/the-limit")["permits"], 2, "it went in the place of the one that left");
    assert!(gateway.log_line(" ZMQ the-limit 499 ").contains("note=hung_up_in_queue"));
}

#[test]
fn an_ask_waits_as_long_as_the_listener_or_it_says_and_a_reload_changes_both() {
    let rules = |per: &str| limit(1, per, "") + &limit(5, "1h", "").replace("the-limit", "other");
    let (addr, section) = zmq("wait = \"300ms\"");
    let gateway = Gateway::start(&format!("{}{section}", rules("1h")));
    assert_eq!(ask(addr, ""), "go");
    assert_eq!(ask(addr, ""), "sorry");
    let sorry = ask_json(addr, "{\"wait\": 0}");
    assert!(sorry["waited_ms"] == 0.0 && sorry["reason"] == "too_long", "{sorry}");
    let mut waits = Peer::null(addr, "REQ");
    waits.ask(&[b"", b"{\"wait\": 50000}"]);
    let section = section.replace("the-limit", "other").replace("300ms", "0s");
    assert!(gateway.reload(&format!("{}{section}", rules("2h"))));
    assert!(gateway.stderr().contains("[zmq] is changed"), "{}", gateway.stderr());
    assert_eq!(ask(addr, ""), "go", "it asks for the other limit now");
    assert_eq!(ask_json(addr, "{}")["limit"], "other");
    let elsewhere = section.replace(&addr.to_string(), &format!("127.0.0.1:{}", free_port()));
    assert!(gateway.reload(&format!("{}{elsewhere}", rules("1h"))));
    gateway.complains("[zmq] listen stays as it was");
    assert_eq!(ask(addr, ""), "go");
}

#[test]
fn asks_that_were_sent_before_the_gateway_is_up_are_answered_when_it_comes() {
    let (addr, section) = zmq("");
    let early: Vec<_> = (0..3).map(|_| start(libzmq("req", addr, &["a", "b"]))).collect();
    std::thread::sleep(Duration::from_millis(300));
    let _gateway = Gateway::start(&format!("{}{section}", limit(9, "1h", "")));
    for peer in early {
        assert_eq!(finish(peer), "go\ngo\n");
    }
}

#[test]
fn users_of_the_users_file_log_in_by_plain_and_are_callers_by_name() {
    let dir = gateway::Dir::new();
    dir.write("users", &format!("anna:{}\n", bcrypt::hash("secret", 4).unwrap()));
    let (addr, section) = zmq("");
    let toml = format!("{}{section}[access]\nusers = \"users\"\n", limit(9, "1h", ""));
    let gateway = Gateway::start_in(dir, &toml);
    assert_eq!(told(libzmq("plain", addr, &["anna", "secret"])), ["go"]);
    assert!(gateway.log_line(" anna ZMQ the-limit 200 ").contains("address=127.0.0.1"));
    assert_eq!(told(libzmq("plain", addr, &["anna", "wrong"])), ["rejected"]);
    let mut null = Peer::connect(addr);
    null.send(&[greeting(3, "NULL"), ready("REQ")].concat());
    null.expect_end();
    gateway.complains("requires PLAIN");
    gateway.complains("wrong or missing credentials");
    let mut held = Peer::connect(addr);
    held.send(&[greeting(3, "PLAIN"), command("HELLO", b"\x04anna\x06secret")].concat());
    held.send(&command("INITIATE", &ready("REQ")[8..]));
    held.ask(&[b"", b"{}"]);
    let mut seen = String::new();
    // Its greeting of 64 bytes is no frame, and is read as what comes before the first command.
    eventually("it is answered", || {
        seen = gateway.lines().join("\n");
        seen.matches(" anna ZMQ the-limit 200 ").count() == 2
    });
    gateway.dir.write("users", &format!("bert:{}\n", bcrypt::hash("secret", 4).unwrap()));
    assert!(gateway.reload(&toml));
    held.ask(&[b"", b"{}"]);
    gateway.log_line(" ZMQ the-limit 407 ");
}

#[test]
fn peers_that_ping_are_answered_and_stay() {
    let (_gateway, addr, _) = asked(&limit(9, "1h", ""), "");
    assert_eq!(told(libzmq("heartbeat", addr, &[])), ["go", "kept"]);
    let mut peer = Peer::null(addr, "REQ");
    peer.send(&command("PING", b"\0\x01abc"));
    assert_eq!(peer.frame(), (4, b"\x04PONGabc".to_vec()));
    peer.expect_end();
}

#[test]
fn on_sigterm_peers_that_wait_are_told_sorry() {
    let rules = limit(1, "1h", "max_wait = \"12h\"") + "[timeouts]\ndrain = \"1s\"\n";
    let (mut gateway, addr, admin) = asked(&rules, "wait = \"10h\"");
    assert_eq!(ask(addr, ""), "go");
    let mut waits = Peer::null(addr, "DEALER");
    waits.ask(&[b"", b"?"]);
    waits.ask(&[b"", b"{}"]);
    queued(admin, "the-limit", 2);
    gateway.signal(Signal::TERM);
    let mut answers = [waits.answer(), waits.answer()];
    answers.sort();
    assert_eq!(answers[0], ["", "sorry"]);
    assert!(answers[1][1].contains("\"reason\":\"closing\""), "{answers:?}");
    waits.expect_end();
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_take_over_keeps_peers_and_their_turns() {
    let rules = limit(2, "1h", "max_wait = \"12h\"");
    let (gateway, addr, admin) = asked(&rules, "wait = \"10h\"");
    let mut old = Peer::null(addr, "REQ");
    old.ask(&[b"", b"?"]);
    assert_eq!(old.answer(), ["", "go"]);
    let mut waits = Peer::null(addr, "REQ");
    waits.ask(&[b"", b"{\"cost\": 2}"]);
    queued(admin, "the-limit", 1);
    gateway.hand_over();
    eventually("its admin listener answers", || std::net::TcpStream::connect(admin).is_ok());
    queued(admin, "the-limit", 1);
    let mut new = Peer::null(addr, "REQ");
    new.ask(&[b"", b"?"]);
    queued(admin, "the-limit", 2);
    old.ask(&[b"", b"{\"wait\": 0}"]);
    assert!(old.answer()[1].contains("sorry"), "it is served to its end, by the counts of the new process");
    tune(admin, "the-limit", "\"per\": \"100ms\"");
    assert!(waits.answer()[1].contains("go"));
    assert_eq!(new.answer(), ["", "go"]);
    drop((old, waits, new));
    gateway.complains("all connections are closed");
}

#[test]
fn the_metrics_show_peers_and_asks() {
    let (_gateway, addr, admin) = asked(&limit(1, "1h", ""), "");
    let mut held = Peer::null(addr, "REQ");
    held.ask(&[b"", b"?"]);
    held.answer();
    assert_eq!(ask(addr, ""), "sorry");
    let metric = |name: &str| metrics(admin).get(name).copied();
    eventually("one peer is left", || {
        metric(&format!("lockgate_listener_connections{{listener=\"{addr}\"}}")) == Some(1.0)
    });
    assert_eq!(metric("lockgate_permits_total{limit=\"the-limit\"}"), Some(1.0), "{:?}", metrics(admin));
}

#[test]
fn hostile_bytes_end_their_connection_alone() {
    let (gateway, addr, _) = asked(&limit(1_000_000, "1h", ""), "");
    let mut before = Peer::null(addr, "REQ");
    let memory = gateway.memory_kib();
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"\x01\0".to_vec(),
        greeting(1, "")[..11].to_vec(),
        greeting(3, "KERBEROS"),
        [greeting(3, "NULL"), message(&[b"", b"?"])].concat(),
        [greeting(3, "NULL"), b"\x06\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec()].concat(),
        [greeting(3, "NULL"), ready("SUB")].concat(),
    ] {
        let mut peer = Peer::connect(addr);
        peer.pour(&bytes);
        peer.expect_end();
    }
    gateway.complains("no ZMTP at all");
    for bytes in [
        b"\x02\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\x01\0".repeat(1_000_000),
        b"\x08\0".to_vec(),
        b"\x04\x02\x09A".to_vec(),
        b"\x04\0".to_vec(),
    ] {
        let mut peer = Peer::null(addr, "DEALER");
        peer.pour(&bytes);
        peer.expect_end();
    }
    // A message that is too large, but not endless, is answered.
    let mut large = Peer::null(addr, "REQ");
    large.send(&[b"\x01\0\x02\0\0\0\0\0\x08\0\0".as_slice(), &vec![b'x'; 8 << 16]].concat());
    assert!(large.answer()[1].contains("at most 16384 bytes"));
    large.ask(&[b"", b"?"]);
    assert_eq!(large.answer(), ["", "go"]);
    before.ask(&[b"", b"?"]);
    assert_eq!(before.answer(), ["", "go"], "others are served");
    assert!(gateway.memory_kib() < memory + 16 * 1024, "from {memory} to {} KiB", gateway.memory_kib());
    let turned_away = gateway.stderr().matches("turned away; further ones").count();
    assert_eq!(turned_away, 4, "one warning for each kind: {}", gateway.stderr());
}

#[test]
fn a_half_handshake_ends_after_the_time_of_a_head() {
    let (gateway, addr, _) = asked(&(limit(9, "1h", "") + "[timeouts]\nhead = \"500ms\"\n"), "");
    for half in [&greeting(3, "NULL")[..30], &greeting(3, "NULL"), b""] {
        let mut peer = Peer::connect(addr);
        peer.send(half);
        peer.expect_end();
    }
    gateway.complains("was not complete within [timeouts] head");
}

#[test]
fn asks_that_wait_are_bounded_for_each_peer_and_those_unread_hold_up_nobody() {
    let rules = limit(2000, "1h", "max_wait = \"12h\"\nmax_waiting = 5000") + "[log]\naccess = \"off\"\n";
    let (_gateway, addr, admin) = asked(&rules, "wait = \"10h\"");
    assert_eq!(ask_json(addr, "{\"cost\": 2000}")["verdict"], "go");
    let mut peer = Peer::null(addr, "DEALER");
    peer.send(&message(&[b"", b"?"]).repeat(1003));
    for _ in 0..3 {
        assert_eq!(peer.answer(), ["", "sorry"]);
    }
    queued(admin, "the-limit", 1000);
    drop(peer);
    queued(admin, "the-limit", 0);
    // All answers to what came at one time are sent, though they find no room at one time.
    let mut busy = Peer::null(addr, "DEALER");
    busy.send(&message(&[b"", b"{\"x\": 1}"]).repeat(2000));
    for _ in 0..2000 {
        assert!(busy.answer()[1].contains("`x` is unknown"));
    }
    // 10 MB of answers that are never read.
    let mut deaf = Peer::null(addr, "DEALER");
    let errors = message(&[b"", b"{\"x\": 1}"]).repeat(4000);
    let pour = thread(move || {
        for _ in 0..10 {
            deaf.pour(&errors);
        }
    });
    for _ in 0..20 {
        assert!(ask_json(addr, "{\"wait\": 0}")["verdict"] == "sorry");
    }
    drop(pour);
}

#[test]
fn thousands_of_peers_are_served_at_one_time() {
    let (_gateway, addr, _) = asked(&limit(1_000_000, "1h", ""), "");
    let mut peers: Vec<Peer> = (0..2000).map(|_| Peer::null(addr, "REQ")).collect();
    for peer in &mut peers {
        peer.ask(&[b"", b"?"]);
    }
    for peer in &mut peers {
        assert_eq!(peer.answer(), ["", "go"]);
    }
    assert_eq!(told(libzmq("many", addr, &["100"])), ["100"]);
}
