//! Web pages of other sites: a browser beside the gateway is no way to its slots and its origins.

use http::Request;

use crate::support::gateway::Dir;
use crate::support::*;

/// A request for a path of the gateway's own, with these fields beside its length.
fn post(path: &str, fields: &[&str]) -> String {
    let lines: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("POST {path} HTTP/1.1\r\n{lines}Content-Length: 0\r\nConnection: close\r\n\r\n")
}

/// Fields that browsers add to a request of another site's page.
const FOREIGN: [&[&str]; 5] = [
    &["Host: localhost:8080", "Sec-Fetch-Site: cross-site"],
    &["Host: localhost:8080", "Sec-Fetch-Site: same-site", "Origin: http://localhost:3000"],
    &["Host: localhost:8080", "Origin: https://evil.example"],
    &["Host: localhost:8080", "Origin: null"],
    &["Host: 127.0.0.1:8080", "Origin: http://localhost:8080"],
];

/// Fields of all other requests of browsers, and of programs.
const OWN: [&[&str]; 5] = [
    &["Host: localhost:8080"],
    &["Host: 127.0.0.1"],
    &["Host: [::1]:8080", "Sec-Fetch-Site: none"],
    &["Host: app.localhost:8080", "Sec-Fetch-Site: same-origin", "Origin: http://app.localhost:8080"],
    &["Host: LOCALHOST:8080", "Origin: http://localhost:8080"],
];

const REBOUND: &[&str] =
    &["Host: evil.example:8080", "Sec-Fetch-Site: same-origin", "Origin: http://evil.example:8080"];

const ACQUIRE: &str = "/v1/limits/the-limit/acquire";

fn route(more: &str, origin: &Origin) -> String {
    format!("[[route]]\npath = \"/p/\"\n{more}to = \"{}\"\n\n", origin.url("/"))
}

#[test]
fn no_web_page_takes_slots() {
    let gateway = Gateway::start(&limit(5, "1h", "when_full = \"refuse\""));
    for fields in FOREIGN {
        check_ours(&gateway.exchange(post(ACQUIRE, fields)), 403, "http_request_denied");
    }
    check_ours(&gateway.exchange(post(ACQUIRE, REBOUND)), 421, "http_request_error");
    for fields in OWN {
        assert_eq!(gateway.exchange(post(ACQUIRE, fields)).status, 200, "{fields:?}");
    }
    assert_eq!(gateway.exchange(post(ACQUIRE, OWN[0])).status, 429, "the five were there");
}

#[test]
fn a_route_takes_no_requests_of_web_pages() {
    let origin = Origin::start();
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route("", &origin)));
    for fields in FOREIGN {
        check_ours(&gateway.exchange(post("/p/x", fields)), 403, "http_request_denied");
    }
    let preflight =
        "OPTIONS /p/x HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nConnection: close\r\n\r\n";
    check_ours(&gateway.exchange(preflight), 403, "http_request_denied");
    assert_eq!(origin.count(), 0);
    for fields in OWN {
        assert_eq!(gateway.exchange(post("/p/x", fields)).status, 200, "{fields:?}");
    }
}

#[test]
fn a_name_that_was_made_to_lead_to_loopback_reaches_no_route() {
    let origin = Origin::start();
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route("", &origin)));
    check_ours(&gateway.exchange(post("/p/x", REBOUND)), 421, "http_request_error");
    check_ours(&gateway.exchange(post("/p/x", &["Host: evil.example"])), 421, "http_request_error");
    assert_eq!(origin.count(), 0);
    let old = gateway.exchange("GET /p/x HTTP/1.0\r\n\r\n");
    assert_eq!(old.status, 200, "browsers always send a Host: {}", old.raw);
}

#[test]
fn a_front_end_may_be_allowed_to_call_from_another_site() {
    let origin = Origin::start();
    let toml = UNLIMITED.to_owned() + &route("cross_site = \"allow\"\n", &origin);
    let gateway = Gateway::start(&toml);
    for fields in FOREIGN.into_iter().chain([REBOUND]) {
        assert_eq!(gateway.exchange(post("/p/x", fields)).status, 200, "{fields:?}");
    }
}

#[test]
fn a_route_with_a_host_of_its_own_is_a_site_like_any_other() {
    let origin = Origin::start();
    let fields = ["Host: app.example", "Sec-Fetch-Site: same-site", "Origin: https://www.app.example"];
    for (host, status) in [("app.example", 200), ("*.example", 200), ("*", 403)] {
        let host = format!("host = \"{host}\"\n");
        // Beyond loopback, so that any name may be the gateway's.
        let listen = "[listen]\nproxy = \"0.0.0.0:0\"\n[access]\nallow_from = [\"127.0.0.0/8\"]\n";
        let gateway = Gateway::start(&format!("{UNLIMITED}{}{listen}", route(&host, &origin)));
        assert_eq!(gateway.exchange(post("/p/x", &fields)).status, status, "{host}");
    }
    for host in ["localhost", "127.0.0.1", "*.localhost"] {
        let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route(&format!("host = \"{host}\"\n"), &origin)));
        let fields = format!("Host: {}", host.replace('*', "app"));
        assert_eq!(gateway.exchange(post("/p/x", &[&fields])).status, 200);
        let answer = gateway.exchange(post("/p/x", &[&fields, "Sec-Fetch-Site: cross-site"]));
        assert_eq!(answer.status, 403, "{host}: every page knows that name");
    }
}

#[test]
fn a_password_that_no_page_can_send_is_protection_enough() {
    let origin = Origin::start();
    let dir = Dir::new();
    dir.write("users", &format!("anna:{}\n", bcrypt::hash("secret", 4).unwrap()));
    let toml = format!("{}{}[access]\nusers = \"users\"\n", limit(30, "1h", ""), route("", &origin));
    let gateway = Gateway::start_in(dir, &toml);
    let credentials = format!("Proxy-Authorization: {}", basic("anna", "secret"));
    for fields in FOREIGN.into_iter().chain([REBOUND]) {
        assert_eq!(gateway.exchange(post("/p/x", fields)).status, 407);
        let known: Vec<&str> = fields.iter().copied().chain([credentials.as_str()]).collect();
        assert_eq!(gateway.exchange(post("/p/x", &known)).status, 200, "{fields:?}");
    }
    let known = ["Host: gateway.example", credentials.as_str()];
    assert_eq!(gateway.exchange(post(ACQUIRE, &known)).status, 200);
}

#[test]
fn beyond_loopback_a_gateway_may_have_any_name() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!(
        "{UNLIMITED}{}[listen]\nproxy = \"0.0.0.0:0\"\n[access]\nallow_from = [\"127.0.0.0/8\"]\n",
        route("", &origin)
    ));
    assert_eq!(gateway.exchange(post("/p/x", &["Host: gateway.example"])).status, 200);
    check_ours(&gateway.exchange(post("/p/x", FOREIGN[0])), 403, "http_request_denied");
}

#[test]
fn a_browser_that_has_the_gateway_as_its_proxy_is_not_held_up() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let fields = ["Host: a", "Sec-Fetch-Site: cross-site", "Origin: https://evil.example"];
    assert_eq!(gateway.exchange(post(&origin.url("/x"), &fields)).status, 200);
}

#[test]
fn the_same_holds_for_http_2() {
    let (routed, forward) = (Origin::start(), Origin::start());
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route("", &routed)));
    let caller = Caller2::plain(gateway.addr);
    let ask = |site: &str| {
        let request = Request::get(format!("http://{}/p/x", gateway.addr)).header("sec-fetch-site", site);
        caller.start(request.body(()).unwrap(), More::None).answer()
    };
    check_ours(&ask("cross-site"), 403, "http_request_denied");
    assert_eq!(ask("same-origin").status, 200);
    // Another host than the gateway's is no route's, but an origin's.
    let answer = caller.get(&format!("http://vm.invalid:{}/p/x", forward.port()));
    check_ours(&answer, 502, "dns_error");
    assert_eq!(routed.count(), 1);
}
