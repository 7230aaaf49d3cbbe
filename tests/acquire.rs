//! Permits for what is no HTTP request: the same windows, the same line, the same promise.

use std::process::Command;

use serde_json::Value;

use crate::admin::{json, queued, watched};
use crate::support::certs::{Authority, Fault};
use crate::support::*;
use crate::tuning::tune;

#[track_caller]
fn acquire(gateway: &Gateway, path: &str) -> Answer {
    gateway.exchange(format!(
        "POST /v1/limits/{path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        gateway.addr
    ))
}

#[test]
fn a_permit_is_taken_from_the_window_that_requests_are_counted_in() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(3, "1h", "when_full = \"refuse\""));
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let granted = acquire(&gateway, "the-limit/acquire?cost=2");
    assert_eq!(granted.status, 200, "{}", granted.raw);
    let told: Value = serde_json::from_str(&granted.text()).unwrap();
    // It may have waited: its slots may have to be written down first.
    assert!(told["verdict"] == "go" && told["waited_ms"].is_f64(), "{}", granted.raw);
    let refused = acquire(&gateway, "the-limit/acquire");
    check_ours(&refused, 429, "http_request_error");
    assert!(refused.retry_after_ms() > 3_500_000.0);
    assert!(refused.text().contains("\"verdict\":\"sorry\""), "{}", refused.text());
    assert_eq!(gateway.get(&origin.url("/2")).status, 429);
}

/// Asks over HTTP/2, with further fields.
#[track_caller]
fn acquire2(caller: &Caller2, url: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = http::Request::post(url);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    caller.start(request.body(()).unwrap(), More::None).answer()
}

/// Asks over HTTP/1.1 with a whole URL, as a program does that takes the gateway for its proxy, too.
#[track_caller]
fn acquire_by_url(gateway: &Gateway, url: &str) -> Answer {
    gateway.exchange(format!("POST {url} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
}

#[test]
fn a_permit_is_obtained_over_http2_and_with_a_whole_url() {
    let gateway = Gateway::start(&limit(4, "1h", "when_full = \"refuse\""));
    let caller = Caller2::plain(gateway.addr);
    let url = |host: &str| format!("http://{host}:{}/v1/limits/the-limit/acquire?wait=0", gateway.addr.port());
    for host in ["127.0.0.1", "localhost"] {
        for answer in [acquire2(&caller, &url(host), &[]), acquire_by_url(&gateway, &url(host))] {
            assert_eq!(answer.status, 200, "{}", answer.raw);
            assert!(answer.text().contains("\"verdict\":\"go\""), "{}", answer.text());
        }
    }
    for refused in [acquire2(&caller, &url("127.0.0.1"), &[]), acquire_by_url(&gateway, &url("127.0.0.1"))] {
        check_ours(&refused, 429, "http_request_error");
        assert!(refused.text().contains("\"verdict\":\"sorry\""), "{}", refused.text());
    }
}

#[test]
fn a_permit_is_obtained_from_a_listener_with_tls_in_the_version_that_it_chooses() {
    let (dir, authority) = (gateway::Dir::new(), Authority::new());
    let (cert, key) = authority.issue(Fault::None).write(dir.path(), "gateway");
    let listen = format!("[listen]\nproxy = \"127.0.0.1:0\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n\n");
    let gateway = Gateway::start_in(dir, &(listen + &limit(1, "1h", "")));
    let caller = Caller2::tls(gateway.addr, "localhost", authority.caller_config());
    let url = |scheme: &str| format!("{scheme}://localhost:{}/v1/limits/the-limit/acquire", gateway.addr.port());
    check_ours(&acquire2(&caller, &url("http"), &[]), 508, "proxy_loop_detected");
    assert_eq!(acquire2(&caller, &url("https"), &[]).status, 200);
}

#[test]
fn a_permit_of_another_server_is_asked_of_that_server() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(9, "1h", ""));
    let url = origin.url("/v1/limits/the-limit/acquire");
    assert_eq!(acquire2(&Caller2::plain(gateway.addr), &url, &[]).status, 200);
    assert_eq!(acquire_by_url(&gateway, &url).status, 200);
    assert_eq!(origin.targets(), ["/v1/limits/the-limit/acquire"; 2]);
}

#[test]
fn web_pages_of_other_sites_get_no_permit_over_http2() {
    let gateway = Gateway::start(&limit(9, "1h", ""));
    let caller = Caller2::plain(gateway.addr);
    let url = format!("http://{}/v1/limits/the-limit/acquire", gateway.addr);
    for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "http://elsewhere.example")] {
        check_ours(&acquire2(&caller, &url, &[(name, value)]), 403, "http_request_denied");
    }
    assert_eq!(acquire2(&caller, &url, &[("origin", &format!("http://{}", gateway.addr))]).status, 200);
}

#[test]
fn whoever_asks_waits_in_the_same_line_and_leaves_it_by_hanging_up() {
    let origin = Origin::start();
    let rules = limit(1, "1h", "max_wait = \"12h\"\nshare_by = \"none\"\ncounts = \"answered\"");
    let (gateway, admin) = watched(&rules, "");
    let permits = || json(admin, "/v1/limits/the-limit")["permits"].clone();
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let ask =
        format!("POST /v1/limits/the-limit/acquire HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", gateway.addr);
    let (mut leaves, mut stays) = (gateway.caller(), gateway.caller());
    leaves.send(&ask);
    queued(admin, "the-limit", 1);
    stays.send(&ask);
    queued(admin, "the-limit", 2);
    leaves.hang_up();
    queued(admin, "the-limit", 1);
    tune(admin, "the-limit", "\"per\": \"300ms\"");
    let granted = stays.answer();
    let told: Value = serde_json::from_str(&granted.text()).unwrap();
    assert_eq!(told["verdict"], "go", "{}", granted.raw);
    assert_eq!(permits(), 2, "it went in the place of the one that left");
    // The connection is kept.
    let granted = stays.send(&ask).answer();
    assert_eq!((granted.status, permits()), (200, 3.into()));
}

#[test]
fn a_patience_of_its_own_is_heard_to_the_millisecond() {
    let gateway = Gateway::start(&limit(1, "1h", "max_wait = \"2h\""));
    assert_eq!(acquire(&gateway, "the-limit/acquire?wait=0").status, 200);
    let refused = acquire(&gateway, "the-limit/acquire?wait=0.25");
    assert_eq!(refused.status, 429);
    assert!(refused.text().contains("no slot within the time"), "{}", refused.raw);
    assert_eq!(acquire(&gateway, "the-limit/acquire?wait=soon").status, 400);
}

#[test]
fn keys_are_given_in_the_order_of_the_file_and_are_those_of_requests() {
    let origin = Origin::start();
    let rules = limit(1, "1h", "when_full = \"refuse\"\nkey = [\"header:x-tenant\", \"caller\", \"path[1]\"]");
    let gateway = Gateway::start(&rules);
    let request = format!("GET {} HTTP/1.1\r\nHost: a\r\nX-Tenant: blue sky\r\n\r\n", origin.url("/v1"));
    assert_eq!(gateway.caller().send(&request).answer().status, 200);
    assert_eq!(acquire(&gateway, "the-limit/acquire?key=blue+sky&key=v1").status, 429, "it is the same window");
    assert_eq!(acquire(&gateway, "the-limit/acquire?key=blue%20sky&key=v2").status, 200);
    for wrong in ["the-limit/acquire", "the-limit/acquire?key=a", "the-limit/acquire?key=a&key=b&key=c"] {
        let refused = acquire(&gateway, wrong);
        assert_eq!(refused.status, 400, "{wrong}");
        assert!(refused.text().contains("one `key` parameter for each part"), "{}", refused.raw);
    }
}

#[test]
fn what_makes_no_sense_is_told() {
    let gateway = Gateway::start(&limit(3, "1h", ""));
    for (path, status) in [
        ("none/acquire", 404),
        ("the-limit/acquire?cost=0", 400),
        ("the-limit/acquire?cost=4", 400),
        ("the-limit/acquire?cost=x", 400),
        ("the-limit", 404),
    ] {
        assert_eq!(acquire(&gateway, path).status, status, "{path}");
    }
    for method in ["GET", "DELETE"] {
        let head =
            format!("{method} /v1/limits/the-limit/acquire HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let other = gateway.exchange(head);
        check_ours(&other, 405, "http_request_error");
        assert_eq!(other.field("allow"), Some("POST"));
        assert!(other.text().contains("POST"), "{}", other.text());
    }
}

#[test]
fn a_route_for_that_path_goes_first() {
    let origin = Origin::start();
    let route = format!("[[route]]\npath = \"/v1/\"\nto = \"{}\"\n", origin.url("/"));
    let gateway = Gateway::start(&format!("{}{route}", limit(3, "1h", "")));
    assert_eq!(acquire(&gateway, "the-limit/acquire").status, 200);
    let url = format!("http://{}/v1/limits/the-limit/acquire", gateway.addr);
    assert_eq!(acquire2(&Caller2::plain(gateway.addr), &url, &[]).status, 200);
    assert_eq!(origin.targets(), ["/limits/the-limit/acquire"; 2]);
}

#[test]
fn whoever_may_not_use_the_gateway_gets_no_permit() {
    let dir = gateway::Dir::new();
    dir.write("users", &format!("anna:{}\n", bcrypt::hash("secret", 4).unwrap()));
    let gateway = Gateway::start_in(dir, &format!("{}[access]\nusers = \"users\"\n", limit(3, "1h", "")));
    assert_eq!(acquire(&gateway, "the-limit/acquire").status, 407);
    let url = format!("http://{}/v1/limits/the-limit/acquire", gateway.addr);
    assert_eq!(acquire2(&Caller2::plain(gateway.addr), &url, &[]).status, 407);
    let ask = format!(
        "POST /v1/limits/the-limit/acquire HTTP/1.1\r\nHost: a\r\nProxy-Authorization: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        basic("anna", "secret")
    );
    assert_eq!(gateway.exchange(ask).status, 200);
}

#[test]
fn the_example_of_the_documentation_works() {
    let gateway = Gateway::start(&limit(4, "2s", ""));
    let output = Command::new("python3")
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/docs/acquire.py"), &gateway.addr.to_string(), "the-limit", "5"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let waits: Vec<f64> = told.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    assert_eq!(waits.len(), 5);
    assert!(waits.iter().sum::<f64>() > 0.0, "five of four in two seconds take two seconds: {waits:?}");
}
