//! What a limit matches and what it is counted per: hosts, paths, methods, keys, costs.

use crate::support::*;

const REFUSE: &str = "when_full = \"refuse\"";

/// A gateway with one limit of one an hour that refuses; `more` is further lines of it.
fn once(rule: &str, more: &str) -> Gateway {
    Gateway::start(&format!("[[limit]]\nname = \"once\"\n{rule}\nrequests = 1\nper = \"1h\"\n{REFUSE}\n{more}\n"))
}

fn with(origin: &Origin, path: &str, field: &str) -> String {
    format!("GET {} HTTP/1.1\r\nHost: a\r\n{field}Connection: close\r\n\r\n", origin.url(path))
}

#[test]
fn a_path_cannot_slip_past_its_limit_by_another_spelling() {
    let origin = Origin::start();
    let gateway = once("match = { path = \"/v1/**\" }", "");
    assert_eq!(gateway.get(&origin.url("/v1/a")).status, 200);
    for path in [
        "/v1",
        "/v1/",
        "/v1/a?x",
        "/%76%31/a",
        "/v2/../v1/a",
        "/./v1/b",
        "/v%31/a",
        "/x/%2e%2E/v1/a",
        "/v1/a/../../v1/b",
    ] {
        assert_eq!(gateway.get(&origin.url(path)).status, 429, "{path}");
    }
    for path in ["/v10", "/v2", "/V1/a", "/x/v1/a"] {
        assert_eq!(gateway.get(&origin.url(path)).status, 200, "{path}");
    }
}

#[test]
fn a_star_in_a_path_is_one_segment() {
    let origin = Origin::start();
    let gateway = once("match = { path = [\"/v1/*/items\"] }", "");
    assert_eq!(gateway.get(&origin.url("/v1/a/items")).status, 200);
    assert_eq!(gateway.get(&origin.url("/v1/b/items")).status, 429);
    assert_eq!(gateway.get(&origin.url("/v1/a/b/items")).status, 200);
}

#[test]
fn methods_and_hosts_choose_what_is_counted() {
    let origin = Origin::start();
    let gateway = once("match = { host = [\"127.0.0.1\"], method = [\"POST\"] }", "");
    let post = |host: &str| {
        let uri = format!("http://{host}:{}/", origin.port());
        gateway.exchange(format!("POST {uri} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).status
    };
    assert_eq!((post("127.0.0.1"), post("127.0.0.1")), (200, 429));
    assert_eq!(post("localhost"), 200, "another host");
    assert_eq!(gateway.get(&origin.url("/")).status, 200, "another method");
}

#[test]
fn a_host_is_the_same_in_every_spelling() {
    let origin = Origin::start();
    let gateway = once("match = { host = [\"localhost\"] }", "");
    let port = origin.port();
    assert_eq!(gateway.get(&format!("http://localhost:{port}/")).status, 200);
    for host in ["LOCALHOST", "LocalHost", "localhost."] {
        let status = gateway.get(&format!("http://{host}:{port}/")).status;
        assert!(status == 429 || status == 400, "{host} slipped past with {status}");
    }
}

#[test]
fn a_limit_without_a_match_counts_everything() {
    let origin = Origin::start();
    let gateway = once("", "");
    assert_eq!(gateway.get(&origin.url("/a")).status, 200);
    assert_eq!(gateway.get(&format!("http://localhost:{}/b", origin.port())).status, 429);
}

#[test]
fn keys_have_windows_of_their_own() {
    let origin = Origin::start();
    let host = "match = { host = [\"127.0.0.1\"] }";
    for (key, path, field, other_path, other_field) in [
        ("path[1]", "/a/x", "", "/b/x", ""),
        ("query:k", "/?k=1&z=1", "", "/?k=2&z=1", ""),
        ("header:x-key", "/", "X-Key: one\r\n", "/", "X-Key: two\r\n"),
        ("header:authorization", "/", "Authorization: a\r\n", "/", ""),
    ] {
        let gateway = once(host, &format!("key = [\"{key}\"]"));
        let ask = |path, field| gateway.exchange(with(&origin, path, field)).status;
        assert_eq!((ask(path, field), ask(path, field)), (200, 429), "{key}");
        assert_eq!((ask(other_path, other_field), ask(other_path, other_field)), (200, 429), "{key}");
    }
}

#[test]
fn each_host_has_its_window_if_the_key_says_so() {
    let origin = Origin::start();
    let gateway = once("match = { host = [\"127.0.0.1\", \"localhost\"] }", "key = [\"host\"]");
    let get = |host: &str| gateway.get(&format!("http://{host}:{}/", origin.port())).status;
    assert_eq!((get("127.0.0.1"), get("localhost"), get("127.0.0.1"), get("localhost")), (200, 200, 429, 429));
}

#[test]
fn each_caller_has_its_window_if_the_key_says_so() {
    let origin = Origin::start();
    let gateway = once("match = { host = [\"127.0.0.1\"] }", "key = [\"caller\"]");
    let from = |ip: &str| {
        let mut caller = Caller::connect_from(ip, gateway.addr);
        caller.send(gateway::get(&origin.url("/"))).answer().status
    };
    assert_eq!((from("127.0.0.2"), from("127.0.0.3"), from("127.0.0.2"), from("127.0.0.3")), (200, 200, 429, 429));
}

#[test]
fn a_request_may_cost_more_than_one_slot() {
    let origin = Origin::start();
    let toml = limit(10, "1h", &format!("{REFUSE}\ncost = \"header:x-cost\""));
    let gateway = Gateway::start(&toml);
    let ask = |field: &str| gateway.exchange(with(&origin, "/", field));
    assert_eq!(ask("X-Cost: 7\r\n").status, 200);
    check_ours(&ask("X-Cost: 4\r\n"), 429, "http_request_error");
    assert_eq!(ask("X-Cost: 2\r\n").status, 200, "what costs less still goes");
    assert_eq!(ask("").status, 200, "without the field the cost is one");
    check_ours(&ask(""), 429, "http_request_error");
}

#[test]
fn a_cost_that_is_no_whole_number_from_1_to_n_is_refused() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(10, "1h", "cost = \"header:x-cost\""));
    for cost in ["0", "11", "-1", "1.5", "x", "", "+1", "0x1", "99999999999999999999", "1, 1"] {
        let answer = gateway.exchange(with(&origin, "/", &format!("X-Cost: {cost}\r\n")));
        check_ours(&answer, 400, "http_request_error");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_fixed_cost_takes_as_many_slots() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(10, "1h", &format!("{REFUSE}\ncost = 5")));
    let statuses: Vec<u16> = (0..3).map(|_| gateway.get(&origin.url("/")).status).collect();
    assert_eq!(statuses, [200, 200, 429]);
}

#[test]
fn a_dry_run_counts_and_lets_everything_go() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "dry_run = true\nwhen_full = \"refuse\""));
    for path in ["/1", "/2", "/3"] {
        assert_eq!(gateway.get(&origin.url(path)).status, 200);
    }
    assert!(!gateway.log_line("/1").contains("dry_run"));
    let held_back = gateway.log_line("/3");
    assert!(held_back.contains(" dry_run=") && held_back.contains(" 200 "), "{held_back}");
}

#[test]
fn keys_that_callers_make_up_cannot_fill_the_memory() {
    let origin = Origin::start();
    let gateway = once("match = { host = [\"127.0.0.1\"] }", "key = [\"header:x-key\"]\nmax_keys = 2");
    let ask = |key: &str| gateway.exchange(with(&origin, "/", &format!("X-Key: {key}\r\n")));
    assert_eq!((ask("one").status, ask("two").status), (200, 200));
    check_ours(&ask("three"), 503, "connection_limit_reached|http_request_error|http_request_denied");
    check_ours(&ask("one"), 429, "http_request_error");
}
