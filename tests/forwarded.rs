//! Balancers of requests: the address that a listed one states in a field is the caller's; what anyone else states is not.

use http::Request as Head;

use crate::admin::{json, queued, watched};
use crate::support::gateway::Dir;
use crate::support::proxy_header::{through, v2};
use crate::support::stage::{Before, connect, counted};
use crate::support::*;

/// The listener behind balancers at 127.0.0.2 and 127.0.0.3; `more` is further keys of it.
fn listen(more: &str) -> String {
    format!("[listen]\nproxy = \"127.0.0.1:0\"\nforwarded_from = [\"127.0.0.2/31\"]\n{more}\n")
}

const BALANCER: &str = "127.0.0.2";

/// One request an hour for each caller.
fn once() -> String {
    limit(1, "1h", "key = [\"caller\"]\nwhen_full = \"refuse\"")
}

fn head_with(origin: &Origin, path: &str, fields: &str) -> String {
    format!("GET {} HTTP/1.1\r\nHost: a\r\n{fields}\r\n", origin.url(path))
}

fn from(address: &str) -> String {
    format!("X-Forwarded-For: {address}\r\n")
}

/// The address in the log line of a request with these fields that comes from `peer`.
#[track_caller]
fn caller_of(gateway: &Gateway, origin: &Origin, peer: &str, fields: &str) -> String {
    let path = format!("/{}", origin.count());
    let mut caller = Caller::connect_from(peer, gateway.addr);
    assert_eq!(caller.send(head_with(origin, &path, fields)).answer().status, 200);
    let line = gateway.log_line(&format!("{path} "));
    line.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn requests_of_one_connection_are_counted_for_the_callers_that_its_balancer_states() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{}", listen(""), once()));
    let mut kept = Caller::connect_from(BALANCER, gateway.addr);
    let mut ask = |path: &str, fields: &str| kept.send(head_with(&origin, path, fields)).answer().status;
    assert_eq!([ask("/1", &from("192.0.2.7")), ask("/2", &from("192.0.2.7"))], [200, 429]);
    assert_eq!([ask("/3", &from("192.0.2.8:4711")), ask("/4", &from("192.0.2.8"))], [200, 429]);
    assert_eq!([ask("/5", &from("[2001:db8::1]:80")), ask("/6", &from("2001:db8::2"))], [200, 429]);
    assert_eq!([ask("/7", ""), ask("/8", "")], [200, 429], "its own requests are the balancer's");
    let http2 = Caller2::on(Caller::connect_from(BALANCER, gateway.addr));
    let ask = |path: &str, address: &str| {
        let head = Head::get(origin.url(path)).header("x-forwarded-for", address).body(()).unwrap();
        http2.start(head, More::None).answer().status
    };
    assert_eq!([ask("/a", "192.0.2.7"), ask("/b", "192.0.2.9"), ask("/c", "192.0.2.9")], [429, 200, 429]);
    for (path, address) in [("/2", "192.0.2.7"), ("/5", "2001:db8::1"), ("/7", BALANCER), ("/c", "192.0.2.9")] {
        let line = gateway.log_line(&format!("{path} "));
        assert!(line.contains(&format!(" {address} GET ")), "{line}");
    }
}

#[test]
fn the_last_address_that_is_no_balancer_is_the_caller_whatever_the_client_has_sent() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{}", listen(""), limit(99, "1h", "")));
    for (fields, wanted) in [
        (from("198.51.100.1, 192.0.2.7"), "192.0.2.7"),
        (from("198.51.100.1, 192.0.2.7, 127.0.0.3"), "192.0.2.7"),
        (from("198.51.100.1") + &from("192.0.2.7") + &from("127.0.0.3"), "192.0.2.7"),
        (from("not an address, 192.0.2.7"), "192.0.2.7"),
        (from("192.0.2.7") + "Forwarded: for=198.51.100.1\r\n", "192.0.2.7"),
        (from("127.0.0.3, 127.0.0.2"), "127.0.0.3"),
        (from("192.0.2.7, unknown, 127.0.0.3"), "127.0.0.3"),
        (from("192.0.2.7, _hidden"), BALANCER),
        (from(""), BALANCER),
    ] {
        assert_eq!(caller_of(&gateway, &origin, BALANCER, &fields), wanted, "{fields}");
        assert_eq!(caller_of(&gateway, &origin, "127.0.0.1", &fields), "127.0.0.1", "not listed: {fields}");
    }
    assert!(!gateway.lines().iter().any(|line| line.contains("note=")), "{:#?}", gateway.lines());
}

#[test]
fn a_malformed_address_leaves_that_of_the_connection_with_a_note() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{}", listen(""), limit(99, "1h", "")));
    for value in ["192.0.2.7, x", "192.0.2", "192.0.2.7 192.0.2.8", "[2001:db8::1", "192.0.2.7:99999"] {
        let before = origin.count();
        assert_eq!(caller_of(&gateway, &origin, BALANCER, &from(value)), BALANCER, "{value}");
        let line = gateway.log_line(&format!("/{before} "));
        assert!(line.contains(" note=forwarded_malformed"), "{line}");
    }
    assert_eq!(caller_of(&gateway, &origin, BALANCER, "Forwarded: for=192.0.2.7\r\n"), BALANCER);
    gateway.log_line("note=forwarded_in_other_field");
}

#[test]
fn the_field_that_is_read_is_the_one_that_the_file_names() {
    let origin = Origin::start();
    let both = format!(
        "{}Forwarded: for=\"[2001:db8::1]:4711\";proto=https\r\nCF-Connecting-IP: 192.0.2.9\r\n",
        from("192.0.2.7")
    );
    for (field, wanted) in
        [("Forwarded", "2001:db8::1"), ("x-forwarded-for", "192.0.2.7"), ("CF-Connecting-IP", "192.0.2.9")]
    {
        let rules = format!("{}{}", listen(&format!("forwarded_field = \"{field}\"")), limit(99, "1h", ""));
        let gateway = Gateway::start(&rules);
        assert_eq!(caller_of(&gateway, &origin, BALANCER, &both), wanted);
        if field == "Forwarded" {
            let chain = "Forwarded: for=198.51.100.1, for=192.0.2.7\r\nForwarded: For=127.0.0.3;by=_x\r\n";
            assert_eq!(caller_of(&gateway, &origin, BALANCER, chain), "192.0.2.7");
            let broken = "Forwarded: for=\"198.51.100.1, for=192.0.2.7\r\n";
            assert_eq!(caller_of(&gateway, &origin, BALANCER, broken), "192.0.2.7", "a client cannot quote it away");
        }
    }
}

#[test]
fn callers_behind_one_balancer_take_turns_and_have_names() {
    let rules = |per: &str| format!("{}{}", listen(""), limit(1, per, "max_wait = \"12h\""));
    let (origin, (gateway, admin)) = (Origin::start(), watched(&rules("1h"), ""));
    let mut waiting = Vec::new();
    let mut line_up = |path: &str, address: &str| {
        let mut caller = Caller::connect_from(BALANCER, gateway.addr);
        caller.send(head_with(&origin, path, &from(address)));
        waiting.push(caller);
        waiting.len()
    };
    line_up("/first", "192.0.2.1");
    eventually("the only slot is taken", || origin.count() == 1);
    for n in 0..4 {
        let count = line_up(&format!("/many/{n}"), "192.0.2.7");
        queued(admin, "the-limit", count - 1);
    }
    let count = line_up("/one", "192.0.2.8");
    queued(admin, "the-limit", count - 1);
    let callers = json(admin, "/v1/limits/the-limit")["callers"].clone();
    let named = |address: &str, waiting: u32| serde_json::json!({ "caller": address, "waiting": waiting });
    assert!(callers.as_array().unwrap().contains(&named("192.0.2.7", 4)), "{callers}");
    assert!(callers.as_array().unwrap().contains(&named("192.0.2.8", 1)), "{callers}");
    assert!(gateway.reload(&rules("200ms")), "{}", gateway.stderr());
    waiting.iter_mut().for_each(|caller| assert_eq!(caller.answer().status, 200));
    assert_eq!(origin.targets()[1..], ["/many/0", "/one", "/many/1", "/many/2", "/many/3"]);
}

#[test]
fn requests_in_flight_are_bounded_for_each_caller_behind_a_balancer() {
    let (origin, go) = Origin::on_order();
    let rules = "[[limit]]\nname = \"l\"\nmatch = { host = \"127.0.0.1\" }\nin_flight = 1\nkey = \"caller\"\nwhen_full = \"refuse\"\n";
    let gateway = Gateway::start(&format!("{}{rules}", listen("")));
    let ask = |address: &str| {
        let mut caller = Caller::connect_from(BALANCER, gateway.addr);
        caller.send(head_with(&origin, "/", &from(address)));
        caller
    };
    let mut running = ask("192.0.2.7");
    eventually("it is under way", || origin.count() == 1);
    check_ours(&ask("192.0.2.7").answer(), 429, "http_request_error");
    let mut other = ask("192.0.2.8");
    eventually("that of another is too", || origin.count() == 2);
    (0..2).for_each(|_| go.send(()).unwrap());
    assert_eq!([running.answer().status, other.answer().status], [200, 200]);
}

#[test]
fn what_a_field_states_neither_lets_a_connection_in_nor_keeps_it_out() {
    let origin = Origin::start();
    let allow = "[access]\nallow_from = [\"127.0.0.2\"]\n";
    let gateway = Gateway::start(&format!("{}{allow}{}", listen(""), limit(99, "1h", "")));
    assert_eq!(caller_of(&gateway, &origin, BALANCER, &from("198.51.100.1")), "198.51.100.1");
    let outside = head_with(&origin, "/", &from("127.0.0.2"));
    Caller::connect_from("127.0.0.3", gateway.addr).send(outside).expect_end();
    assert_eq!(origin.count(), 1);
}

#[test]
fn wrong_passwords_count_for_the_caller_and_not_for_its_balancer() {
    let (origin, dir) = (Origin::start(), Dir::new());
    certs::private(&dir.write("users", &format!("anna:{}\n", bcrypt::hash("secret", 4).unwrap())));
    let access = "[access]\nusers = \"users\"\n";
    let gateway = Gateway::start_in(dir, &format!("{}{}{access}", listen(""), limit(99, "1h", "")));
    let ask = |address: &str, password: &str| {
        let fields = format!("{}Proxy-Authorization: {}\r\n", from(address), basic("anna", password));
        Caller::connect_from(BALANCER, gateway.addr).send(head_with(&origin, "/", &fields)).answer().status
    };
    assert!((0..20).any(|n| ask("192.0.2.7", &format!("wrong {n}")) == 429), "there may be any number");
    assert_eq!(ask("192.0.2.7", "secret"), 429);
    assert_eq!(ask("192.0.2.8", "secret"), 200);
    let line = gateway.log_line(" 200 ");
    assert!(line.contains(" anna GET ") && line.contains("address=192.0.2.8"), "{line}");
}

#[test]
fn requests_in_a_tunnel_are_those_of_the_caller_that_opened_it() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(certs::Fault::None));
    let rules = format!("{}{}", listen(""), counted(1, "1h", "key = [\"caller\"]\nwhen_full = \"refuse\""));
    let stage = before.gateway(&rules, &[origin.port()]);
    let to = origin.name();
    let tunnel = |address: &str| {
        let mut caller = Caller::connect_from(BALANCER, stage.gateway.addr);
        assert_eq!(caller.send(connect(&to, &from(address))).answer_to("CONNECT").status, 200);
        caller
    };
    let http1 = certs::offering(stage.trusting(), &["http/1.1"]);
    let mut inside = tunnel("192.0.2.7").into_tls_with("localhost", http1);
    // The balancer cannot have written what is inside of TLS.
    let mut ask = |path: &str, address: &str| {
        inside.send(format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n{}\r\n", from(address))).answer().status
    };
    assert_eq!([ask("/1", "198.51.100.1"), ask("/2", "198.51.100.2")], [200, 429]);
    let http2 = Caller2::inside(tunnel("192.0.2.8"), "localhost", stage.trusting());
    let ask = |path: &str, address: &str| {
        let head = Head::get(origin.url(path)).header("x-forwarded-for", address).body(()).unwrap();
        http2.start(head, More::None).answer().status
    };
    assert_eq!([ask("/3", "198.51.100.3"), ask("/4", "198.51.100.4")], [200, 429]);
    for (path, address) in [("/2", "192.0.2.7"), ("/4", "192.0.2.8")] {
        let line = stage.gateway.log_line(&format!("{path} "));
        assert!(line.contains(&format!(" {address} GET ")), "{line}");
    }
}

#[test]
fn permits_for_other_programs_are_those_of_the_stated_caller() {
    let gateway = Gateway::start(&format!("{}{}", listen(""), once()));
    let ask = |address: &str| {
        let call = "POST /v1/limits/the-limit/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n";
        let mut caller = Caller::connect_from(BALANCER, gateway.addr);
        caller.send(format!("{call}{}\r\n", from(address))).answer_to("POST").status
    };
    assert_eq!([ask("192.0.2.7"), ask("192.0.2.7"), ask("192.0.2.8")], [200, 429, 200]);
}

#[test]
fn a_field_may_come_through_a_balancer_of_connections() {
    let origin = Origin::start();
    let more = "proxy_protocol_from = [\"127.0.0.5\"]\n";
    let rules = |allow: &str| format!("{}[access]\nallow_from = [{allow}]\n{}", listen(more), once());
    let gateway = Gateway::start(&rules("\"127.0.0.2\", \"192.0.2.0/24\""));
    let ask = |client: &str, path: &str| {
        let mut caller = through(&gateway, "127.0.0.5", v2(client));
        caller.send(head_with(&origin, path, &from("203.0.113.9"))).answer().status
    };
    assert_eq!(ask("127.0.0.2:1", "/balancer"), 200);
    assert!(gateway.log_line("/balancer ").contains(" 203.0.113.9 GET "));
    assert_eq!(ask("192.0.2.7:1", "/client"), 200);
    assert!(gateway.log_line("/client ").contains(" 192.0.2.7 GET "), "it is no balancer");
}

#[test]
fn the_fields_reach_the_origin_as_they_came() {
    let origin = Origin::start();
    let route = format!("[[route]]\npath = \"/r/\"\nto = \"{}\"\n\n", origin.url("/"));
    let gateway = Gateway::start(&format!("{}{route}{UNLIMITED}", listen("")));
    let fields =
        format!("{}Forwarded: for=192.0.2.8;by=_x\r\nX-Real-IP: 192.0.2.7\r\n", from("198.51.100.1, 192.0.2.7"));
    for peer in [BALANCER, "127.0.0.1"] {
        let request = format!("GET /r/x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        assert_eq!(Caller::connect_from(peer, gateway.addr).send(request).answer().status, 200);
        let seen = origin.requests().pop().unwrap();
        assert_eq!(seen.all("x-forwarded-for").collect::<Vec<_>>(), ["198.51.100.1, 192.0.2.7"]);
        assert_eq!(seen.all("forwarded").collect::<Vec<_>>(), ["for=192.0.2.8;by=_x"]);
        assert_eq!(seen.field("x-real-ip"), Some("192.0.2.7"));
    }
}

#[test]
fn bytes_that_are_no_request_are_those_of_the_connection() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{}{}", listen(""), limit(9, "1h", "")));
    let mut kept = Caller::connect_from(BALANCER, gateway.addr);
    assert_eq!(kept.send(head_with(&origin, "/", &from("192.0.2.7"))).answer().status, 200);
    check_ours(&kept.send("no request\r\n\r\n").answer(), 400, "http_request_error");
    let line = gateway.log_line(" 400 ");
    assert!(line.contains(" 127.0.0.2 "), "the caller of the request before it is not blamed: {line}");
}
