//! Tests of targets: raw heads in, origins and paths out.

use super::*;
use crate::proxy::pattern::HostPattern;

fn head(line: &str, fields: &str) -> RequestHead {
    RequestHead::parse_for_test(format!("{line} HTTP/1.1\r\n{fields}\r\n").as_bytes())
}

/// Formats the found target as one line.
fn found(targets: &Targets, line: &str, fields: &str) -> Result<String, Refusal> {
    let head = head(line, fields);
    let target = targets.find(&head, &Ingress::default())?;
    let mut host = Vec::new();
    target.write_host(&mut host);
    let host = String::from_utf8(host).expect("ASCII");
    Ok(format!("{:?} {:?} {host} {}", target.form, target.origin.scheme, target.path(&head)))
}

fn plain(line: &str) -> Result<String, Refusal> {
    found(&Targets::new(Vec::new()), line, "Host: other.example\r\n")
}

fn route(host: Option<&str>, path: Option<&str>, name: &str, to_path: &str) -> Route {
    Route {
        host: host.map(|host| HostPattern::parse(host).expect("valid")),
        path: path.map(str::to_owned),
        to: Origin { scheme: Scheme::Https, host: name.into(), port: 443 },
        plain: PlainVersion::Http1,
        to_path: to_path.to_owned(),
        cross_site: CrossSite::Refuse,
    }
}

fn is_bad(result: &Result<String, Refusal>) -> bool {
    matches!(result, Err(Refusal::BadTarget(_)))
}

#[test]
fn an_absolute_target_overrides_host() {
    assert_eq!(plain("GET http://API.example/a?b=c").as_deref(), Ok("Absolute Http api.example /a?b=c"));
    assert_eq!(plain("GET http://api.example:80/").as_deref(), Ok("Absolute Http api.example /"));
    assert_eq!(plain("GET http://api.example:8080").as_deref(), Ok("Absolute Http api.example:8080 /"));
    assert_eq!(plain("GET HTTPS://api.example/x").as_deref(), Ok("Absolute Https api.example /x"));
    assert_eq!(plain("GET https://api.example:80/x").as_deref(), Ok("Absolute Https api.example:80 /x"));
    assert_eq!(plain("GET http://api.example?q").as_deref(), Ok("Absolute Http api.example /?q"));
    assert_eq!(plain("GET http://[::1]:81/").as_deref(), Ok("Absolute Http [::1]:81 /"));
    assert_eq!(plain("GET http://api.example./?u=http://x/#").map_err(|_| ()), Err(()));
    assert_eq!(plain("GET http://a/%7Eb/../c//d;e").as_deref(), Ok("Absolute Http a /%7Eb/../c//d;e"));
}

#[test]
fn options_without_a_path_is_for_the_whole_origin() {
    assert_eq!(plain("OPTIONS http://api.example").as_deref(), Ok("Absolute Http api.example *"));
    assert_eq!(plain("OPTIONS http://api.example/").as_deref(), Ok("Absolute Http api.example /"));
    assert_eq!(plain("OPTIONS http://api.example?a").as_deref(), Ok("Absolute Http api.example /?a"));
    assert!(is_bad(&plain("GET *")));
    assert_eq!(plain("OPTIONS *"), Err(Refusal::NoRoute));
    let all = Targets::new(vec![route(Some("my.example"), None, "origin.example", "/v2/")]);
    assert_eq!(found(&all, "OPTIONS *", "Host: my.example\r\n").as_deref(), Ok("Route Https origin.example *"));
}

#[test]
fn a_tunnel_has_a_host_a_port_and_no_path() {
    assert_eq!(plain("CONNECT api.example:443").as_deref(), Ok("Authority Http api.example:443 "));
    assert_eq!(plain("CONNECT [2001:DB8::1]:80").as_deref(), Ok("Authority Http [2001:db8::1]:80 "));
    for line in [
        "CONNECT api.example",
        "CONNECT api.example:",
        "CONNECT api.example:0",
        "CONNECT api.example:70000",
        "CONNECT :443",
        "CONNECT user@api.example:443",
        "CONNECT http://api.example:443",
        "CONNECT /",
        "CONNECT *",
        "CONNECT a:443?b",
        "CONNECT a:443/",
        "CONNECT 2001:db8::1:443",
        "CONNECT a:443:443",
    ] {
        assert!(is_bad(&plain(line)), "{line}");
    }
}

#[test]
fn a_target_that_makes_no_sense_is_refused() {
    for line in [
        "GET http://",
        "GET http:///path",
        "GET http://?q",
        "GET http://:80/",
        "GET http://user:pw@api.example/",
        "GET http://@api.example/",
        "GET http://a/#f",
        "GET http://a:0/",
        "GET http://a:65536/",
        "GET http://a:http/",
        "GET http://[::1/",
        "GET http://[fe80]/",
        "GET http://%61.example/",
        "GET http://a\\@b/",
        "GET http://a\\.b/",
        "GET http:/a/",
        "GET ftp://a/",
        "GET ws://a/",
        "GET wss://a/",
        "GET gopher://a/",
        "GET a.example:80",
        "GET a.example/path",
        "GET ://a/",
        "GET http://a..b/",
        "GET ?q",
        "GET http:a",
    ] {
        assert!(is_bad(&plain(line)), "{line}: {:?}", plain(line));
    }
}

#[test]
fn an_address_in_disguise_is_denied() {
    for line in [
        "GET http://0x7f.1/",
        "GET http://127.1/",
        "GET http://0/",
        "GET http://2130706433/",
        "CONNECT 017700000001:443",
        "CONNECT [fe80::1%25eth0]:443",
    ] {
        assert!(matches!(plain(line), Err(Refusal::Denied(_))), "{line}");
    }
    assert_eq!(plain("GET http://[::ffff:127.0.0.1]/").as_deref(), Ok("Absolute Http 127.0.0.1 /"));
}

#[test]
fn host_is_required_once_and_must_make_sense() {
    let targets = Targets::new(vec![route(None, None, "origin.example", "")]);
    for line in ["GET http://a/", "GET /", "CONNECT a:443"] {
        assert!(is_bad(&found(&targets, line, "")), "{line}");
        assert!(matches!(found(&targets, line, "Host: a\r\nHost: a\r\n"), Err(Refusal::Malformed(_))), "{line}");
        for host in ["u@a", "a:0", "a b", "a/b", "a,b", "http://a", "[::1", "\u{e4}"] {
            assert!(is_bad(&found(&targets, line, &format!("Host: {host}\r\n"))), "{line} {host}");
        }
        assert!(found(&targets, line, "Host:\r\n").is_ok(), "{line}");
    }
    let old = RequestHead::parse_for_test(b"GET http://a/ HTTP/1.0\r\n\r\n");
    assert!(targets.find(&old, &Ingress::default()).is_ok());
    let old = RequestHead::parse_for_test(b"GET http://a/ HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n");
    assert!(targets.find(&old, &Ingress::default()).is_err());
}

#[test]
fn a_route_replaces_its_path_as_nginx_does() {
    let routes = |to_path| Targets::new(vec![route(None, Some("/partner/"), "o", to_path)]);
    let via = |to_path, path| found(&routes(to_path), &format!("GET {path}"), "Host: gw\r\n");
    assert_eq!(via("/v2/", "/partner/a/b?c=/").as_deref(), Ok("Route Https o /v2/a/b?c=/"));
    assert_eq!(via("/v2/", "/partner/").as_deref(), Ok("Route Https o /v2/"));
    assert_eq!(via("/v2/", "/partner").as_deref(), Ok("Route Https o /v2/"));
    assert_eq!(via("/v2/", "/partner?a").as_deref(), Ok("Route Https o /v2/?a"));
    assert_eq!(via("/v2", "/partner/a").as_deref(), Ok("Route Https o /v2/a"));
    assert_eq!(via("/v2", "/partner").as_deref(), Ok("Route Https o /v2"));
    assert_eq!(via("/", "/partner/a").as_deref(), Ok("Route Https o /a"));
    assert_eq!(via("", "/partner/a?b").as_deref(), Ok("Route Https o /a?b"));
    assert_eq!(via("", "/partner").as_deref(), Ok("Route Https o /"));
    assert_eq!(via("/v2/", "/partnership"), Err(Refusal::NoRoute));
    assert_eq!(via("/v2/", "/"), Err(Refusal::NoRoute));
    assert_eq!(via("/v2/", "/Partner/"), Err(Refusal::NoRoute));
}

#[test]
fn the_longest_path_wins_then_the_one_with_a_host() {
    let targets = Targets::new(vec![
        route(None, None, "rest", "/"),
        route(None, Some("/a/"), "a", "/"),
        route(Some("*.internal"), Some("/a"), "inside", "/"),
        route(None, Some("/a/b/"), "ab", "/"),
    ]);
    let host_of = |path: &str, host: &str| {
        found(&targets, &format!("GET {path}"), &format!("Host: {host}\r\n")).expect("a route")
    };
    assert_eq!(host_of("/a/b/c", "gw"), "Route Https ab /c");
    assert_eq!(host_of("/a/c", "gw"), "Route Https a /c");
    assert_eq!(host_of("/a/c", "X.INTERNAL.:8080"), "Route Https inside /c");
    assert_eq!(host_of("/z", "x.internal"), "Route Https rest /z");
}

#[test]
fn dots_do_not_lead_out_of_a_route() {
    let targets = Targets::new(vec![route(None, Some("/partner/"), "o", "/v2/"), route(None, None, "o", "/v3/")]);
    for path in [
        "/partner/../admin",
        "/partner/..",
        "/partner/%2e%2E/admin",
        "/partner/.%2e",
        "/partner/a/../../admin",
        "/partner/..%2fadmin",
        "/partner/..%5Cadmin",
        "/partner/..\\admin",
        "/partner//../admin",
        "/partner/..;x/admin",
        "/partner/..%3bx/admin",
        "/partner/./../admin",
        "/../x",
        "/partner/a%2Fb/../../x",
        "/partner/a%5cb/../../x",
        "/partner/a\\b/../../x",
        "/partner/a;%2F../../x",
        "/partner/%u002e./x",
        "/%2e%2e",
    ] {
        assert!(is_bad(&found(&targets, &format!("GET {path}"), "Host: gw\r\n")), "{path}");
    }
    for path in ["/partner/a/../b", "/partner/...", "/partner/a..b", "/partner/x?../../y", "/partner/%252e%252e/x"] {
        assert!(found(&targets, &format!("GET {path}"), "Host: gw\r\n").is_ok(), "{path}");
    }
}

#[test]
fn a_request_that_passed_us_too_often_runs_in_circles() {
    let via = |value: &str| too_many_hops(&head("GET /", &format!("Via: {value}\r\n")));
    assert!(!via("1.1 lockgate, 1.1 lockgate, 1.1 lockgate"));
    assert!(via("1.1 lockgate, 1.1 lockgate (a), HTTP/2.0 LockGate,2.0 \t lockgate"));
    assert!(!via("1.1 a, 1.1 b, 1.1 c, 1.1 d, lockgate, 1.1 lockgates"));
    assert!(too_many_hops(&head("GET /", &"Via: 1.1 lockgate\r\n".repeat(4))));
}
