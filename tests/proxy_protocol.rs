//! Balancers of connections: the address in a PROXY header is the caller's, if the balancer is listed, and for no one else.

use std::net::SocketAddr;

use crate::admin::{ask, watched};
use crate::support::certs::{Authority, Fault};
use crate::support::gateway::{Dir, get};
use crate::support::proxy_header::{SIGNATURE, through, v1, v2, v2_of};
use crate::support::stream::Stop;
use crate::support::*;

/// The balancer, and a client that no rule allows.
const BALANCER: &str = "127.0.0.2";
const STRANGER: &str = "198.51.100.1:4711";

/// The listener behind the balancer; `more` is further keys of it.
fn listen(more: &str) -> String {
    format!("[listen]\nproxy = \"127.0.0.1:0\"\nproxy_protocol_from = [\"{BALANCER}\"]\n{more}\n")
}

/// Callers that may use it: neither the balancer itself nor the stranger.
const ALLOW: &str = "[access]\nallow_from = [\"127.0.0.1\", \"192.0.2.0/24\", \"2001:db8::/32\"]\n";

/// One request an hour for each caller.
fn once() -> String {
    limit(1, "1h", "key = [\"caller\"]\nwhen_full = \"refuse\"")
}

/// The status of a request on a connection that stays open.
fn status(caller: &mut Caller, origin: &Origin, path: &str) -> u16 {
    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url(path))).answer().status
}

/// The status of a request through the balancer; 0 if the connection was closed.
fn ask_through(gateway: &Gateway, origin: &Origin, header: impl AsRef<[u8]>) -> u16 {
    let mut caller = through(gateway, BALANCER, header);
    caller.send(get(&origin.url("/"))).try_answer("GET").map_or(0, |answer| answer.status)
}

/// Number of connections that the only listener has closed for this reason.
fn refused(gateway: &Gateway, admin: SocketAddr, reason: &str) -> f64 {
    let name = format!("lockgate_listener_refused_total{{listener=\"{}\",reason=\"{reason}\"}} ", gateway.addr);
    let text = ask(admin, "GET", "/metrics", "").text();
    text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or_default()
}

#[test]
fn a_limit_by_caller_counts_the_client_of_a_balancer() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{ALLOW}{}", listen(""), once()));
    let ask = |header: Vec<u8>| ask_through(&gateway, &origin, header);
    assert_eq!(ask(v1("192.0.2.7:1000")), 200);
    assert_eq!(ask(v1("192.0.2.7:1001")), 429, "the port is of no matter");
    assert_eq!(ask(v2("192.0.2.7:1002")), 429, "both versions tell the same");
    assert_eq!(ask(v2("192.0.2.8:1000")), 200);
    assert_eq!(ask(v2("[2001:db8:0:1::7]:1")), 200);
    assert_eq!(ask(v1("[2001:db8:0:1::8]:1")), 429, "of IPv6 a /64 is one caller");
    assert_eq!(status(&mut gateway.caller(), &origin, "/direct"), 200, "others come without a header");
    assert_eq!(origin.count(), 4);
    for address in ["192.0.2.7", "192.0.2.8", "2001:db8:0:1::7", "2001:db8:0:1::8", "127.0.0.1"] {
        gateway.log_line(&format!(" {address} GET "));
    }
    assert!(!gateway.lines().iter().any(|line| line.contains(BALANCER)), "{:#?}", gateway.lines());
}

#[test]
fn a_header_may_arrive_byte_by_byte_and_with_the_request_behind_it() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{ALLOW}{}", listen(""), limit(9, "1h", "")));
    for (header, path) in [(v1("192.0.2.7:1"), "/v1"), (v2("192.0.2.7:1"), "/v2")] {
        let mut caller = Caller::connect_from(BALANCER, gateway.addr);
        for byte in &header {
            caller.send([*byte]);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(status(&mut caller, &origin, path), 200);
        let at_once = [&header[..], get(&origin.url(path)).as_bytes()].concat();
        assert_eq!(through(&gateway, BALANCER, at_once).answer().text(), path);
        assert!(gateway.log_line(path).contains(" 192.0.2.7 GET "));
    }
}

#[test]
fn all_requests_of_a_connection_are_its_clients_in_either_version_of_http() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{ALLOW}{}", listen(""), once()));
    let mut kept = through(&gateway, BALANCER, v1("192.0.2.7:1"));
    let statuses = [status(&mut kept, &origin, "/1"), status(&mut kept, &origin, "/2")];
    assert_eq!(statuses, [200, 429]);
    let http2 = Caller2::on(through(&gateway, BALANCER, v2("192.0.2.8:1")));
    assert_eq!([http2.get(&origin.url("/3")).status, http2.get(&origin.url("/4")).status], [200, 429]);
    assert!(gateway.log_line("/4").contains(" 192.0.2.8 GET "));
}

#[test]
fn the_header_comes_before_tls() {
    let (origin, dir, authority) = (Origin::start(), Dir::new(), Authority::new());
    let (cert, key) = authority.issue(Fault::None).write(dir.path(), "gateway");
    let tls = listen(&format!("tls = {{ cert = {cert:?}, key = {key:?} }}\n"));
    let gateway = Gateway::start_in(dir, &format!("{tls}{ALLOW}{}", once()));
    let mut secure = through(&gateway, BALANCER, v2("192.0.2.7:1")).into_tls("localhost", &authority);
    assert_eq!([status(&mut secure, &origin, "/1"), status(&mut secure, &origin, "/2")], [200, 429]);
    let http2 = through(&gateway, BALANCER, v1("192.0.2.8:1"));
    let http2 = Caller2::inside(http2, "localhost", authority.caller_config());
    assert_eq!([http2.get(&origin.url("/3")).status, http2.get(&origin.url("/4")).status], [200, 429]);
    // A balancer that begins TLS at once sends no header; an address that is not listed may not send one.
    assert!(Caller::connect_from(BALANCER, gateway.addr).into_tls("localhost", &authority).try_handshake().is_err());
    let mut unlisted = gateway.caller();
    check_ours(&unlisted.send(v2("192.0.2.9:1")).answer(), 400, "http_request_error");
}

#[test]
fn a_connection_of_the_balancers_own_has_its_address() {
    let origin = Origin::start();
    let allow = "[access]\nallow_from = [\"127.0.0.2\", \"192.0.2.0/24\"]\n";
    let gateway = Gateway::start(&format!("{}{allow}{}", listen(""), limit(9, "1h", "")));
    let four = v2("192.0.2.7:1")[16..].to_vec();
    for (header, path) in [
        (v2_of(0x20, 0x00, b""), "/local"),
        (v2_of(0x20, 0x11, &four), "/local-with-addresses"),
        (v2_of(0x21, 0x00, &four), "/unspec"),
        (v2_of(0x21, 0x31, &[b'/'; 216]), "/unix"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "/unknown"),
        (b"PROXY UNKNOWN 192.0.2.7 127.0.0.1 1 443\r\n".to_vec(), "/unknown-with-addresses"),
    ] {
        assert_eq!(status(&mut through(&gateway, BALANCER, header), &origin, path), 200, "{path}");
        let line = gateway.log_line(&format!("{path} "));
        assert!(line.contains(" 127.0.0.2 GET "), "{line}");
    }
}

#[test]
fn a_listed_address_without_a_header_is_closed_and_named_once_in_the_log() {
    let origin = Origin::start();
    let (gateway, admin) = watched(&format!("{}{ALLOW}{}", listen(""), limit(9, "1h", "")), "");
    let request = get(&origin.url("/"));
    let headless = [
        request.clone().into_bytes(),
        format!("PROXY TCP4 192.0.2.7 127.0.0.1 1\r\n{request}").into_bytes(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 94]].concat(),
        v2_of(0x22, 0x11, &[0; 12]),
        [SIGNATURE, b"\x21\x11\xff\xff"].concat(),
    ];
    for (count, bytes) in (1..).zip(&headless) {
        through(&gateway, BALANCER, bytes).expect_end();
        eventually("it is counted", || refused(&gateway, admin, "no_proxy_header") == f64::from(count));
    }
    let mut cut = through(&gateway, BALANCER, &v2("192.0.2.7:1")[..20]);
    cut.finish();
    cut.expect_end();
    assert_eq!(origin.count(), 0);
    let told = gateway.stderr();
    let warnings: Vec<_> = told.lines().filter(|line| line.contains("proxy_protocol_from")).collect();
    assert_eq!(warnings.len(), 1, "{told}");
    assert!(warnings[0].contains("WARN") && warnings[0].contains(BALANCER), "{}", warnings[0]);
    assert!(warnings[0].contains("the first bytes are no PROXY header"), "{}", warnings[0]);
    // A health check by TCP alone is no mistake.
    Caller::connect_from(BALANCER, gateway.addr).hang_up();
    assert_eq!(ask_through(&gateway, &origin, v1("192.0.2.7:1")), 200);
    assert_eq!(refused(&gateway, admin, "no_proxy_header"), 6.0);
}

#[test]
fn a_header_has_the_time_of_a_head() {
    let rules = format!("{}{ALLOW}{UNLIMITED}[timeouts]\nhead = \"300ms\"\n", listen(""));
    let gateway = Gateway::start(&rules);
    for begin in [&b""[..], SIGNATURE, b"PROXY TCP4 192.0.2.7"] {
        through(&gateway, BALANCER, begin).expect_end();
    }
    gateway.complains("it did not arrive within [timeouts] head");
}

#[test]
fn a_client_of_a_balancer_on_this_machine_is_no_page_on_it() {
    let origin = Origin::start();
    let route = format!("[[route]]\npath = \"/r/\"\nto = \"{}\"\n\n", origin.url("/"));
    let gateway = Gateway::start(&format!("{}{ALLOW}{route}{UNLIMITED}", listen("")));
    let request = "GET /r/x HTTP/1.1\r\nHost: app.example\r\n\r\n";
    assert_eq!(through(&gateway, BALANCER, v1("192.0.2.7:1")).send(request).answer().status, 200);
    check_ours(&gateway.caller().send(request).answer(), 421, "http_request_error");
}

#[test]
fn an_address_that_is_not_listed_cannot_claim_another() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{ALLOW}{}", listen(""), once()));
    for header in [v1("192.0.2.7:1"), v2("192.0.2.7:1"), v2_of(0x20, 0, b""), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut caller = through(&gateway, "127.0.0.1", header);
        let answer = caller.send(get(&origin.url("/"))).answer();
        check_ours(&answer, 400, "http_request_error");
        assert!(answer.text().contains("proxy_protocol_from does not list your address"), "{}", answer.text());
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(ask_through(&gateway, &origin, v1("192.0.2.7:1")), 200, "its window was not touched");
    assert!(gateway.log_line(" 400 ").contains(" 127.0.0.1 "), "{:?}", gateway.lines());
}

#[test]
fn the_address_in_the_header_must_be_allowed_and_the_balancers_need_not() {
    let origin = Origin::start();
    let (gateway, admin) = watched(&format!("{}{ALLOW}{}", listen(""), limit(9, "1h", "")), "");
    for header in [v1(STRANGER), v2(STRANGER), v2_of(0x20, 0, b"")] {
        through(&gateway, BALANCER, header).expect_end();
    }
    eventually("they are counted", || refused(&gateway, admin, "not_allowed") == 3.0);
    let told = gateway.stderr();
    assert!(told.contains("peer=198.51.100.1:4711") && told.contains("allow_from"), "{told}");
    assert_eq!(ask_through(&gateway, &origin, v2("192.0.2.7:1")), 200);
}

#[test]
fn connections_are_bounded_for_each_client_of_a_balancer() {
    let origin = Origin::start();
    let rules = format!("{}{ALLOW}{}", listen("max_connections_per_address = 2"), limit(99, "1h", ""));
    let (gateway, admin) = watched(&rules, "");
    let mut held: Vec<Caller> = (0..2).map(|_| through(&gateway, BALANCER, v1("192.0.2.7:1"))).collect();
    assert!(held.iter_mut().all(|caller| status(caller, &origin, "/") == 200));
    assert_eq!(ask_through(&gateway, &origin, v2("192.0.2.7:2")), 0);
    eventually("it is counted", || refused(&gateway, admin, "too_many") == 1.0);
    let mut others: Vec<Caller> = (1..5).map(|n| through(&gateway, BALANCER, v2(&format!("192.0.2.{n}:1")))).collect();
    assert!(others.iter_mut().all(|caller| status(caller, &origin, "/") == 200), "the balancer itself has no bound");
    held.pop();
    eventually("there is room again", || ask_through(&gateway, &origin, v1("192.0.2.7:3")) == 200);
}

#[test]
fn connections_that_wait_for_a_header_count_in_all_and_end_with_the_gateway() {
    let origin = Origin::start();
    let rules = format!("{}{ALLOW}{}[timeouts]\nhead = \"1h\"\n", listen("max_connections = 2"), limit(9, "1h", ""));
    let mut gateway = Gateway::start(&rules);
    let mut silent: Vec<Caller> = (0..2).map(|_| through(&gateway, BALANCER, "")).collect();
    gateway.caller().send(get(&origin.url("/"))).expect_silence(std::time::Duration::from_millis(100));
    silent.pop();
    assert_eq!(status(&mut gateway.caller(), &origin, "/"), 200);
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(silent[0].rest(), (Vec::new(), Stop::Closed));
    assert!(gateway.ended().success());
}

#[test]
fn requests_in_a_tunnel_through_a_balancer_are_its_clients() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{ALLOW}{}", listen(""), once()));
    let mut inside = through(&gateway, BALANCER, v2("192.0.2.7:1"));
    let to = origin.authority();
    assert_eq!(inside.send(stage::connect(&to, "")).answer_to("CONNECT").status, 200);
    assert_eq!(inside.send(stage::get(&to, "/1")).answer().status, 200);
    assert_eq!(inside.send(stage::get(&to, "/2")).answer().status, 429);
    assert_eq!(ask_through(&gateway, &origin, v1("192.0.2.7:1")), 429);
    assert!(gateway.log_line("/2").contains(" 192.0.2.7 GET "));
}

#[test]
fn a_reload_lists_other_balancers_and_open_connections_stay() {
    let origin = Origin::start();
    let rules = |from: &str| listen("").replace(BALANCER, from) + ALLOW + &limit(9, "1h", "");
    let gateway = Gateway::start(&rules(BALANCER));
    let mut open = through(&gateway, BALANCER, v1("192.0.2.7:1"));
    assert_eq!(status(&mut open, &origin, "/"), 200);
    assert!(gateway.reload(&rules("127.0.0.3")), "{}", gateway.stderr());
    gateway.complains("[listen] is changed");
    assert_eq!(status(&mut open, &origin, "/"), 200);
    assert_eq!(ask_through(&gateway, &origin, v1("192.0.2.7:1")), 0, "it is no balancer now, and not allowed");
    let mut next = through(&gateway, "127.0.0.3", v1("192.0.2.8:1"));
    assert_eq!(status(&mut next, &origin, "/"), 200);
}

#[test]
fn connections_through_a_balancer_outlive_a_hand_over() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{ALLOW}{}", listen(""), once()));
    let mut open = through(&gateway, BALANCER, v1("192.0.2.7:1"));
    assert_eq!(status(&mut open, &origin, "/1"), 200);
    let mut half = through(&gateway, BALANCER, &v2("192.0.2.8:1")[..14]);
    gateway.hand_over();
    assert_eq!(status(&mut open, &origin, "/2"), 429, "its client is still known");
    assert_eq!(status(half.send(&v2("192.0.2.8:1")[14..]), &origin, "/3"), 200);
    assert_eq!(ask_through(&gateway, &origin, v2("192.0.2.8:1")), 429);
    assert_eq!(ask_through(&gateway, &origin, v2("192.0.2.9:1")), 200);
}
