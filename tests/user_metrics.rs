//! Requests are counted by the users of the users file, whatever protocol they come by.

use std::net::SocketAddr;

use crate::admin::{listener, metrics, queued, read_by_prometheus, watched};
use crate::support::caller2::get as get2;
use crate::support::certs::{self, Fault};
use crate::support::gateway::Dir;
use crate::support::socks5::{SUCCEEDED, by_name, login};
use crate::support::stage::{Before, counted, get, opens};
use crate::support::zmtp::{Peer, command, greeting, ready};
use crate::support::*;
use crate::tuning::tune;
use crate::zmq::zmq;

/// A users file; the password of each is its name.
fn users(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name}:{}\n", bcrypt::hash(name, 4).unwrap())).collect()
}

/// A gateway with an admin listener, and these users.
#[track_caller]
pub(crate) fn used_by(names: &[&str], toml: &str) -> (Gateway, SocketAddr) {
    let (admin, listen) = listener();
    let dir = Dir::new();
    certs::private(&dir.write("users", &users(names)));
    (Gateway::start_in(dir, &format!("{toml}{listen}[access]\nusers = \"users\"\n")), admin)
}

/// The field that logs a user in.
fn credentials(name: &str) -> String {
    format!("Proxy-Authorization: {}\r\n", basic(name, name))
}

/// A request of a user for an absolute URI.
fn request(name: &str, method: &str, url: &str, body: &str) -> String {
    let (fields, length) = (credentials(name), body.len());
    format!("{method} {url} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// A metric of a user; `labels`: further ones, such as `,code="2xx"`.
fn of(admin: SocketAddr, metric: &str, name: &str, labels: &str) -> Option<f64> {
    metrics(admin).get(&format!("lockgate_user_{metric}{{user=\"{name}\"{labels}}}")).copied()
}

/// Requests of a user that have ended with a status of this class.
fn requests(admin: SocketAddr, name: &str, class: &str) -> Option<f64> {
    of(admin, "requests_total", name, &format!(",code=\"{class}\""))
}

#[test]
fn a_request_counts_for_its_user_whatever_protocol_it_came_by() {
    let before = Before::new();
    let secure = Origin2::start(before.authority.both_config(Fault::None));
    let (plain, echo) = (Origin::start(), Origin::scripted(|_, link| link.answer(200, "")));
    certs::private(&before.dir.write("users", &users(&["me", "you"])));
    let (zmq, asks) = zmq("");
    let (admin, listen) = listener();
    let access = opens(&["localhost"], &[secure.port(), echo.port()], &before.trust);
    let toml = format!("{}{asks}{listen}{access}users = \"users\"\n", counted(1000, "1h", ""));
    let stage = before.gateway_with(&toml);
    let gateway = &stage.gateway;
    let mut wanted = 0.0;
    let mut ended = |more: f64, protocol: &str| {
        wanted += more;
        eventually(&format!("{wanted} requests after {protocol}"), || requests(admin, "me", "2xx") == Some(wanted));
    };
    assert_eq!(gateway.exchange(request("me", "GET", &plain.url("/"), "")).status, 200);
    ended(1.0, "HTTP/1.1");
    let mut of_http2 = get2(&plain.url("/"));
    of_http2.headers_mut().insert("proxy-authorization", basic("me", "me").parse().unwrap());
    assert_eq!(Caller2::plain(gateway.addr).start(of_http2, More::None).answer().status, 200);
    ended(1.0, "HTTP/2");
    let mut opened = stage.tunnel_with(&secure.name(), &credentials("me")).into_tls_with("localhost", stage.trusting());
    assert_eq!(opened.send(get(&secure.name(), "/")).answer().status, 200);
    ended(2.0, "an opened tunnel and a request in it");
    let mut tunnel = stage.tunnel_with(&plain.authority(), &credentials("me"));
    assert_eq!(tunnel.send(get(&plain.authority(), "/")).answer().status, 200);
    ended(2.0, "a tunnel and plain HTTP in it");
    let mut opaque = stage.tunnel_with(&echo.authority(), &credentials("me"));
    assert_eq!(opaque.send("SAY / ECHO/1.1\r\n\r\n").answer().status, 200);
    drop(opaque);
    ended(1.0, "an opaque tunnel");
    let mut socks = gateway.caller();
    assert_eq!(socks.send([5, 1, 2]).bytes(2), [5, 2]);
    assert_eq!(socks.send(login("me", "me")).bytes(2), [1, 0]);
    assert_eq!(socks.send(by_name(&plain.authority())).bytes(10), SUCCEEDED);
    assert_eq!(socks.send(get(&plain.authority(), "/")).answer().status, 200);
    ended(2.0, "SOCKS5 and plain HTTP in it");
    let acquire = format!("http://{}/v1/limits/the-limit/acquire", gateway.addr);
    let acquire =
        request("me", "POST", acquire.trim_start_matches("http://").trim_start_matches(&gateway.addr.to_string()), "");
    assert_eq!(gateway.exchange(acquire).status, 200);
    ended(1.0, "a permit");
    let mut peer = peer(zmq, "me");
    peer.ask(&[b"", b"{}"]);
    ended(1.0, "ZeroMQ");
    assert_eq!(requests(admin, "you", "2xx"), Some(0.0), "nothing was another's");
}

/// A ZeroMQ peer that has logged in.
fn peer(addr: SocketAddr, name: &str) -> Peer {
    let length = u8::try_from(name.len()).unwrap();
    let hello = [&[length], name.as_bytes(), &[length], name.as_bytes()].concat();
    let mut peer = Peer::connect(addr);
    peer.send(&[greeting(3, "PLAIN"), command("HELLO", &hello)].concat());
    peer.send(&command("INITIATE", &ready("REQ")[8..]));
    peer
}

#[test]
fn waits_refusals_and_bytes_are_counted_by_user() {
    let origin = Origin::scripted(|_, link| link.answer(200, "fifteen letters"));
    let rules = limit(1, "1h", "max_wait = \"12h\"\nmax_waiting = 1");
    let (gateway, admin) = used_by(&["me", "you"], &rules);
    assert_eq!(gateway.exchange(request("me", "POST", &origin.url("/"), "hello")).status, 200);
    eventually("it has ended", || requests(admin, "me", "2xx") == Some(1.0));
    assert_eq!(of(admin, "received_bytes_total", "me", ""), Some(5.0));
    assert_eq!(of(admin, "sent_bytes_total", "me", ""), Some(15.0));
    let mut waits = gateway.caller();
    waits.send(request("me", "GET", &origin.url("/"), ""));
    queued(admin, "the-limit", 1);
    assert_eq!(gateway.exchange(request("you", "GET", &origin.url("/"), "")).status, 429, "the queue is full");
    std::thread::sleep(std::time::Duration::from_millis(120));
    tune(admin, "the-limit", "\"per\": \"1ms\"");
    assert_eq!(waits.answer().status, 200);
    let waited = of(admin, "wait_seconds_total", "me", "").unwrap();
    assert!((0.12..60.0).contains(&waited), "{waited}");
    eventually("the refusal has ended", || requests(admin, "you", "4xx") == Some(1.0));
    let refused = |name: &str, by: &str| of(admin, "refusals_total", name, &format!(",by=\"{by}\""));
    assert_eq!(
        (refused("you", "limit"), refused("you", "access"), refused("me", "limit")),
        (Some(1.0), Some(0.0), Some(0.0))
    );
    assert_eq!(of(admin, "wait_seconds_total", "you", ""), Some(0.0));
}

#[test]
fn a_host_that_a_user_may_not_call_is_refused_to_that_user() {
    let rules = limit(1, "1s", "");
    let (admin, listen) = listener();
    let dir = Dir::new();
    certs::private(&dir.write("users", &users(&["me"])));
    let toml = format!("{rules}{listen}[access]\nusers = \"users\"\nunlisted_hosts = \"deny\"\n");
    let gateway = Gateway::start_in(dir, &toml);
    assert_eq!(gateway.exchange(request("me", "GET", "http://elsewhere.example/", "")).status, 403);
    assert_eq!(gateway.exchange(request("nobody", "GET", "http://elsewhere.example/", "")).status, 407);
    eventually("it has ended", || requests(admin, "me", "4xx") == Some(1.0));
    assert_eq!(of(admin, "refusals_total", "me", ",by=\"access\""), Some(1.0));
    assert!(gateway.log_line(" 403 ").contains(" me GET "), "{:?}", gateway.lines());
    let known = metrics(admin).into_keys().filter(|series| series.contains("nobody")).count();
    assert_eq!(known, 0, "a name that was not proved is no label");
}

#[test]
fn a_user_keeps_its_counts_over_reloads_and_leaves_with_its_line() {
    let origin = Origin::start();
    let (zmq, asks) = zmq("");
    let toml = |more: &str| format!("{}{asks}{more}", limit(1000, "1h", ""));
    let (gateway, admin) = used_by(&["me", "you"], &toml(""));
    let access = format!("[admin]\nlisten = \"{admin}\"\n[access]\nusers = \"users\"\n");
    let mut kept = peer(zmq, "me");
    kept.ask(&[b"", b"{}"]);
    for name in ["me", "you"] {
        assert_eq!(gateway.exchange(request(name, "GET", &origin.url("/"), "")).status, 200);
    }
    eventually("three", || [requests(admin, "me", "2xx"), requests(admin, "you", "2xx")] == [Some(2.0), Some(1.0)]);
    // Other settings of the same section, and another hash of the same password.
    gateway.dir.write("users", &users(&["new", "me"]));
    assert!(gateway.reload(&toml(&format!("{access}connect_ports = [444]\n"))), "{}", gateway.stderr());
    assert_eq!([requests(admin, "me", "2xx"), requests(admin, "you", "2xx")], [Some(2.0), None]);
    assert_eq!(requests(admin, "new", "2xx"), Some(0.0));
    kept.ask(&[b"", b"{}"]);
    assert_eq!(gateway.exchange(request("me", "GET", &origin.url("/"), "")).status, 200);
    eventually("both count on", || requests(admin, "me", "2xx") == Some(4.0));
    // A file that is refused changes no line.
    gateway.dir.write("users", &users(&["you"]));
    assert!(!gateway.reload("[[limit]]\n"));
    assert_eq!((requests(admin, "me", "2xx"), requests(admin, "you", "2xx")), (Some(4.0), None));
    assert!(gateway.reload(&toml(&access)));
    assert_eq!((requests(admin, "me", "2xx"), requests(admin, "you", "2xx")), (None, Some(0.0)));
}

#[test]
fn prometheus_reads_names_with_quotes_and_backslashes() {
    let odd = "o\"d\\d n\u{e4}me";
    let (_gateway, admin) = used_by(&[odd], UNLIMITED);
    let samples = read_by_prometheus(admin);
    let named = |family: &str| {
        let of_family = samples.iter().filter(|(name, labels, _)| name == family && labels["user"] == odd);
        of_family.count()
    };
    let families =
        ["requests_total", "refusals_total", "wait_seconds_total", "received_bytes_total", "sent_bytes_total"];
    let counts = families.map(|family| named(&format!("lockgate_user_{family}")));
    assert_eq!(counts, [5, 6, 1, 1, 1], "{samples:?}");
}

#[test]
fn without_a_users_file_no_user_is_in_the_metrics() {
    let origin = Origin::start();
    let (gateway, admin) = watched(UNLIMITED, "");
    assert_eq!(gateway.exchange(request("me", "GET", &origin.url("/"), "")).status, 200);
    eventually("it has ended", || metrics(admin)["lockgate_requests_total{code=\"2xx\"}"] == 1.0);
    assert!(!metrics(admin).keys().any(|series| series.contains("user=")));
}
