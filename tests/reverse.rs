//! Reverse mode: a base URL that points at the gateway reaches the origin that its route names.

use crate::support::certs::{Authority, Fault};
use crate::support::gateway::Dir;
use crate::support::*;

fn route(path: &str, to: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\nto = \"{to}\"\n\n")
}

fn local(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

#[test]
fn a_route_replaces_its_path_by_the_origins() {
    let origin = Origin::start();
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route("/partner/", &origin.url("/v2/"))));
    let answer = gateway.exchange(local("/partner/things/7?q=%2F&r"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "/v2/things/7?q=%2F&r"));
    assert_eq!(answer.field("via"), Some("1.1 lockgate"));
    let seen = origin.only();
    assert_eq!(seen.all("host").collect::<Vec<_>>(), [origin.authority()]);
    assert_eq!(seen.field("via"), Some("1.1 lockgate"));
}

#[test]
fn the_longest_path_decides() {
    let (short, long) = (Origin::start(), Origin::start());
    let toml = UNLIMITED.to_owned() + &route("/", &short.url("/")) + &route("/a/b/", &long.url("/"));
    let gateway = Gateway::start(&toml);
    assert_eq!(gateway.exchange(local("/a/b/c")).text(), "/c");
    assert_eq!(gateway.exchange(local("/a/bc")).text(), "/a/bc");
    assert_eq!((long.count(), short.count()), (1, 1));
}

#[test]
fn a_route_may_go_by_host() {
    let (one, two) = (Origin::start(), Origin::start());
    let toml = format!(
        "{UNLIMITED}[[route]]\nhost = \"one.example\"\nto = \"{}\"\n\n[[route]]\nhost = \"two.example\"\nto = \"{}\"\n",
        one.url("/"),
        two.url("/")
    );
    let gateway = Gateway::start(&toml);
    for (host, hits) in [("ONE.example", (1, 0)), ("two.example:80", (1, 1))] {
        let answer = gateway.exchange(format!("GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "/x"), "{host}");
        assert_eq!((one.count(), two.count()), hits);
    }
}

#[test]
fn what_no_route_matches_is_told_how_to_use_a_proxy() {
    let origin = Origin::start();
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route("/partner/", &origin.url("/"))));
    for target in ["/", "/other", "/partne", "/Partner/x"] {
        let answer = gateway.exchange(local(target));
        assert!(matches!(answer.status, 400 | 404), "{}", answer.raw);
        check_ours(&answer, answer.status, "http_request_error|http_request_denied|destination_not_found");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_head_with_as_many_fields_as_may_be_passes_a_second_gateway_both_ways() {
    let fields = |count: usize| (0..count).map(|n| format!("X-Field-{n}: {n}\r\n")).collect::<String>();
    let says = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\nok", fields(256));
    let origin = Origin::saying_and_keeping(says);
    let second = Gateway::start(&(UNLIMITED.to_owned() + &route("/", &origin.url("/"))));
    let first = Gateway::start(&(UNLIMITED.to_owned() + &route("/", &format!("http://{}/", second.addr))));
    let ask = |count| first.exchange(local("/most").replace("\r\n\r\n", &format!("\r\n{}\r\n", fields(count))));
    let answer = ask(128);
    assert_eq!((answer.status, answer.field("x-field-255")), (200, Some("255")), "{}", answer.raw);
    assert_eq!(origin.only().field("x-field-127"), Some("127"));
    let refused = ask(129);
    check_ours(&refused, 431, "http_request_error");
    assert!(refused.text().contains("128 fields"), "{}", refused.text());
}

#[test]
fn limits_count_what_comes_by_routes() {
    let origin = Origin::start();
    let toml = limit(2, "1h", "when_full = \"refuse\"") + &route("/partner/", &origin.url("/"));
    let gateway = Gateway::start(&toml);
    assert_eq!(gateway.exchange(local("/partner/1")).status, 200);
    assert_eq!(gateway.get(&origin.url("/2")).status, 200, "one limit, whichever way a request comes");
    check_ours(&gateway.exchange(local("/partner/3")), 429, "http_request_error");
    assert_eq!(origin.count(), 2);
}

fn tls_gateway(authority: &Authority, port: u16, host: &str) -> Gateway {
    let dir = Dir::new();
    let ca = authority.write(dir.path());
    let to = format!("https://{host}:{port}/");
    let toml = format!("{UNLIMITED}{}[tls]\ntrust = [\"{}\"]\n", route("/s/", &to), ca.display());
    Gateway::start_in(dir, &toml)
}

#[test]
fn an_https_origin_is_reached_and_its_certificate_checked() {
    let authority = Authority::new();
    let origin = Origin::scripted_tls(authority.server_config(Fault::None), |request, link| {
        link.read_body();
        link.answer(200, &request.target)
    });
    for host in ["localhost", "127.0.0.1"] {
        let gateway = tls_gateway(&authority, origin.port(), host);
        assert_eq!(gateway.exchange(local("/s/x")).text(), "/x", "{host}");
        let seen = origin.requests().pop().unwrap();
        assert_eq!(seen.field("host"), Some(format!("{host}:{}", origin.port()).as_str()));
    }
}

#[test]
fn an_origin_that_cannot_prove_its_name_gets_no_request() {
    let authority = Authority::new();
    for fault in [Fault::Expired, Fault::OtherName] {
        let origin = Origin::scripted_tls(authority.server_config(fault), |_, link| link.answer(200, "no"));
        let gateway = tls_gateway(&authority, origin.port(), "localhost");
        check_ours(&gateway.exchange(local("/s/x")), 502, "tls_certificate_error");
        assert_eq!(origin.count(), 0, "{fault:?}");
    }
    let stranger = Origin::scripted_tls(Authority::new().server_config(Fault::None), |_, link| link.answer(200, "no"));
    let gateway = tls_gateway(&authority, stranger.port(), "localhost");
    check_ours(&gateway.exchange(local("/s/x")), 502, "tls_certificate_error");
    assert_eq!(stranger.count(), 0, "an authority that nobody trusts");
}

#[test]
fn an_origin_that_speaks_no_tls_is_not_spoken_to_in_plain() {
    let authority = Authority::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = thread(move || {
        use std::io::{Read, Write};
        let (mut tcp, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 10_000];
        let count = tcp.read(&mut bytes).unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
        bytes.truncate(count);
        bytes
    });
    let gateway = tls_gateway(&authority, port, "localhost");
    check_ours(&gateway.exchange(local("/s/x")), 502, "tls_protocol_error|tls_alert_received|connection_terminated");
    let heard = String::from_utf8_lossy(&heard.join().unwrap()).into_owned();
    assert!(!heard.contains("GET"), "{heard:?}");
}

#[test]
fn a_connection_with_tls_is_kept_and_used_again() {
    let authority = Authority::new();
    let origin = Origin::scripted_tls(authority.server_config(Fault::None), |_, link| link.answer(200, ""));
    let gateway = tls_gateway(&authority, origin.port(), "localhost");
    let mut caller = gateway.caller();
    for _ in 0..5 {
        assert_eq!(caller.send("GET /s/x HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().status, 200);
    }
    assert_eq!((origin.count(), origin.connections()), (5, 1));
}

/// An origin that answers each request with the fields that `fields` makes of its own address.
fn pointing(fields: impl Fn(&str) -> String + Send + Sync + 'static) -> Origin {
    Origin::scripted(move |request, link| {
        link.read_body();
        let own = request.field("host").unwrap();
        link.send(format!("HTTP/1.1 301 Moved\r\n{}Content-Length: 0\r\n\r\n", fields(own)));
        Next::Keep
    })
}

#[test]
fn a_redirect_to_the_routes_origin_leads_back_to_the_route() {
    let origin = pointing(|own| {
        format!(
            "Location: http://{own}/v2/items/?a=b\r\nContent-Location: /v2/items\r\nRefresh: 5; url=http://{own}/v2/\r\n\
             Alt-Svc: h3=\":443\"\r\nSet-Cookie: a=b; Path=/v2\r\n"
        )
    });
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route("/partner/", &origin.url("/v2/"))));
    let by_http1 = gateway.exchange(local("/partner/items"));
    let by_http2 = Caller2::plain(gateway.addr).get(&format!("http://{}/partner/items", gateway.addr));
    for answer in [by_http1, by_http2] {
        assert_eq!(answer.status, 301, "{}", answer.raw);
        assert_eq!(answer.field("location"), Some("/partner/items/?a=b"));
        assert_eq!(answer.field("content-location"), Some("/partner/items"));
        assert_eq!(answer.field("refresh"), Some("5; url=/partner/"));
        assert_eq!(answer.field("alt-svc"), None, "no other way to the origin is told");
        assert_eq!(answer.field("set-cookie"), Some("a=b; Path=/v2"), "cookies are the origin's");
    }
}

#[test]
fn redirects_elsewhere_and_those_of_a_forward_proxy_pass_as_they_are() {
    let origin = pointing(|own| {
        format!(
            "Location: http://{own}/login\r\nContent-Location: http://other.example/v2/x\r\nAlt-Svc: h3=\":443\"\r\n"
        )
    });
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route("/partner/", &origin.url("/v2/"))));
    let outside = origin.url("/login");
    let routed = gateway.exchange(local("/partner/items"));
    let forward = gateway.get(&origin.url("/v2/items"));
    for answer in [&routed, &forward] {
        assert_eq!(answer.field("location"), Some(outside.as_str()), "{}", answer.raw);
        assert_eq!(answer.field("content-location"), Some("http://other.example/v2/x"));
    }
    assert_eq!((routed.field("alt-svc"), forward.field("alt-svc")), (None, Some("h3=\":443\"")));
}
