//! Another spelling of a request is counted as the one that it stands for.

use crate::support::*;

/// A gateway with one limit of one an hour that refuses; `rule` is further lines of it.
fn once(rule: &str) -> Gateway {
    Gateway::start(&format!("[[limit]]\nname = \"once\"\n{rule}\nrequests = 1\nper = \"1h\"\nwhen_full = \"refuse\"\n"))
}

#[test]
fn no_path_that_a_server_reads_as_the_limits_own_passes_it() {
    let origin = Origin::start();
    let gateway = once("match = { path = \"/v2/**\" }");
    assert_eq!(gateway.get(&origin.url("/v2/items")).status, 200);
    for path in [
        "/x//../v2/items",
        "/x/y/..;/../v2/items",
        "/x/;/../v2/items",
        "/x/%2f/../v2/items",
        "/x%2F..%2Fv2/items",
        "/x\\..\\v2/items",
        "//v2/..;a",
        "/v2%5C..\\items",
        "/v2/x/../../v1",
    ] {
        let answer = gateway.get(&origin.url(path));
        check_ours(&answer, 429, "http_request_error");
        assert!(answer.text().contains("once"), "{path}: {}", answer.text());
    }
    for path in ["/v1/x/../y", "/v1;/v2", "/v1%2Fv2"] {
        let answer = gateway.get(&origin.url(path));
        assert_eq!((answer.status, answer.text().as_str()), (200, path), "passed on byte for byte");
    }
}

#[test]
fn a_final_slash_and_needless_encodings_make_no_other_path() {
    let origin = Origin::start();
    let gateway = once("match = { path = \"/exact{1}\" }");
    assert_eq!(gateway.get(&origin.url("/exact{1}")).status, 200);
    for path in ["/exact{1}/", "/exact%7B1%7D", "/exact%7b1}/.", "/exact{1}//"] {
        assert_eq!(gateway.get(&origin.url(path)).status, 429, "{path}");
    }
    assert_eq!(gateway.get(&origin.url("/Exact{1}")).status, 200, "letter case counts");
}

/// Text with these characters percent-encoded, in digits of either letter case.
fn encoded(text: &str, is_encoded: impl Fn(char) -> bool, upper: usize) -> String {
    let encode =
        |(at, byte): (usize, u8)| if at % 2 == upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
    let spell = |char: char| match is_encoded(char) {
        true => char.to_string().bytes().enumerate().map(encode).collect::<String>(),
        false => char.to_string(),
    };
    text.chars().map(spell).collect()
}

#[test]
fn what_browsers_send_raw_is_the_same_key_as_what_they_encode() {
    let origin = Origin::start();
    let gateway = once("key = [\"path[1]\", \"query:q\"]");
    for name in ["caf\u{e9}", "\u{65e5}\u{672c}", "\u{1f980}", "a|b", "{a}", "\"a\"", "a^b", "a`b", "[a]", "<a>"] {
        let target = |name: &str| format!("/{name}/x?q={name}");
        let answer = gateway.get(&origin.url(&target(name)));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let arrived = target(&encoded(name, |char| !char.is_ascii(), 0).to_uppercase());
        assert_eq!(origin.requests().pop().unwrap().target.to_uppercase(), arrived.to_uppercase(), "ASCII as it came");
        let is_odd = |char: char| !char.is_ascii_alphanumeric();
        for other in [encoded(name, is_odd, 0), encoded(name, is_odd, 1), encoded(name, |_| true, 1)] {
            assert_eq!(gateway.get(&origin.url(&target(&other))).status, 429, "{name} and {other}");
            assert_eq!(gateway.get(&origin.url(&format!("/{other}/x?q={name}"))).status, 429, "{name} and {other}");
        }
    }
    let answer = Caller2::plain(gateway.addr).get(&origin.url("/caf\u{e9}/x?q=caf\u{e9}"));
    assert_eq!(answer.status, 429, "and by HTTP/2: {}", answer.raw);
}

#[test]
fn a_pattern_is_the_same_raw_and_encoded() {
    let origin = Origin::start();
    for pattern in ["/caf\u{e9}/**", "/caf%C3%A9/**", "/caf%c3%a9/**"] {
        let gateway = once(&format!("match = {{ path = {pattern:?} }}"));
        let paths = ["/caf\u{e9}/a", "/caf%C3%a9/b", "/x/../caf\u{e9}/c", "/caf%u00e9/d", "/caf%C3\u{e9}/e", "/cafe/f"];
        let statuses = paths.map(|path| gateway.get(&origin.url(path)).status);
        assert_eq!(statuses, [200, 429, 429, 429, 200, 200], "{pattern}");
    }
}

#[test]
fn a_target_with_control_characters_or_bytes_that_are_no_text_is_refused() {
    let origin = Origin::start();
    let gateway = once("");
    for odd in [&b"\xe9"[..], b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\x7f", b"\x01"] {
        let request = [b"GET ", origin.url("/a").as_bytes(), odd, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        check_ours(&gateway.exchange(request), 400, "http_request_error");
    }
    let host = "GET http://caf\u{e9}.example/ HTTP/1.1\r\nHost: a\r\n\r\n";
    check_ours(&gateway.exchange(host), 400, "http_request_error");
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_path_that_can_be_read_in_too_many_ways_is_refused() {
    let origin = Origin::start();
    let gateway = once("match = { path = \"/v2/**\" }");
    let mixed = "/a;b%3Bc%2Fd\\e%5Cf/../g/./".repeat(200);
    check_ours(&gateway.get(&origin.url(&format!("//{mixed}"))), 400, "http_request_error");
    assert_eq!(origin.count(), 0);
}

#[test]
fn letter_case_makes_no_other_path_where_the_origin_ignores_it() {
    let origin = Origin::start();
    let gateway = once("match = { path = \"/v2/Items/**\" }\nkey = [\"path[3]\"]\nignore_case = true");
    let status = |path: &str| gateway.get(&origin.url(path)).status;
    assert_eq!((status("/v2/items/a"), status("/V2/iTEMS/%41"), status("/v2/items/A/")), (200, 429, 429));
    assert_eq!((status("/v2/items/b"), status("/v2/items/B")), (200, 429), "another key");
}

/// The statuses of these requests, each a path and further fields.
fn statuses(gateway: &Gateway, origin: &Origin, requests: &[(&str, &str)]) -> Vec<u16> {
    let ask = |(path, fields): &(&str, &str)| {
        let request = format!("GET {} HTTP/1.1\r\nHost: a\r\n{fields}\r\n", origin.url(path));
        let answer = gateway.caller().send(request).answer();
        if answer.status != 200 {
            check_ours(&answer, answer.status, "http_request_error");
        }
        answer.status
    };
    requests.iter().map(ask).collect()
}

#[test]
fn a_path_with_two_readings_counts_under_the_key_of_each() {
    let origin = Origin::start();
    let gateway = once("key = [\"path[1]\"]");
    let requests = [
        ("/tenant/x", ""),
        ("/r1//../tenant/x", ""),
        ("/r2/%2e%2e//tenant/x", ""),
        ("/tenant;1/x", ""),
        ("/tenant%2Fy/x", ""),
        ("//tenant/y", ""),
        ("/a|b/x", ""),
        ("/a%7Cb/x", ""),
    ];
    assert_eq!(statuses(&gateway, &origin, &requests), [200, 429, 429, 429, 429, 429, 200, 429]);
    let fresh = [("/fresh//../second/x", ""), ("/fresh/x", ""), ("/second/x", ""), ("/third/x", "")];
    assert_eq!(statuses(&gateway, &origin, &fresh), [200, 429, 429, 200], "what went counts under both");
}

#[test]
fn a_parameter_with_several_values_counts_under_each() {
    let origin = Origin::start();
    let gateway = once("key = [\"query:api_key\"]");
    let requests = [
        ("/?api_key=REAL", ""),
        ("/?api_key=r1&api_key=REAL", ""),
        ("/?api_key=REAL&api_key=r2", ""),
        ("/?x=1;api_key=REAL", ""),
        ("/?api_key=r3&api.key=REAL", ""),
        ("/?api_key=r4&+api%5Bkey=RE%41L", ""),
        ("/?api_key=a+b%20c", ""),
        ("/?api_key=a%2Bb+c", ""),
    ];
    assert_eq!(statuses(&gateway, &origin, &requests), [200, 429, 429, 429, 429, 429, 200, 429]);
    let none = [("/none", ""), ("/?api.key=r5", ""), ("/?;api_key=r6", ""), ("/?API_KEY=r7", "")];
    assert_eq!(statuses(&gateway, &origin, &none), [200, 429, 429, 429], "servers may see no key in these");
    let many: String = (0..17).map(|value| format!("&api_key={value}")).collect();
    assert_eq!(statuses(&gateway, &origin, &[(&format!("/?{many}"), "")]), [400]);
}

#[test]
fn a_field_that_servers_could_read_in_two_ways_is_refused_where_a_limit_counts_by_it() {
    let origin = Origin::start();
    let gateway = once("key = [\"header:x-key\"]");
    let requests = [
        ("/", "X-Key: REAL\r\n"),
        ("/", "X-Key: REAL\r\nX-KEY: REAL\r\n"),
        ("/", "X-Key: r1\r\nX-Key: REAL\r\n"),
        ("/", "X-Key: r1\r\nX_Key: REAL\r\n"),
        ("/", "X_Key: r2\r\n"),
        ("/", "Connection: x-key\r\nX-Key: r3\r\n"),
        ("/", "Connection: close, x_key\r\nX-Key: r4\r\n"),
    ];
    assert_eq!(statuses(&gateway, &origin, &requests), [200, 429, 400, 400, 400, 400, 400]);
    let elsewhere = once("match = { host = \"elsewhere.example\" }\nkey = [\"header:x-key\"]");
    assert_eq!(statuses(&elsewhere, &origin, &requests), [200; 7], "which concerns nobody else");
}

#[test]
fn credentials_are_the_same_in_every_spelling() {
    let origin = Origin::start();
    let gateway = once("key = [\"header:authorization\"]");
    let requests = [
        ("/", "Authorization: Bearer T\r\n"),
        ("/", "Authorization: bearer T\r\n"),
        ("/", "Authorization: BEARER   T\r\n"),
        ("/", "Authorization: bEARer \t T \r\n"),
        ("/", "Authorization: Bearer t\r\n"),
        ("/", "Authorization: Basic eDp5eg==\r\n"),
        ("/", "authorization: basic  eDp5eg\r\n"),
        ("/", "Authorization: Basic eDp5eh\r\n"),
        ("/", "Authorization: Basic eDp!5eg==\r\n"),
        ("/", "Authorization: Bearer aGVhZA.Ym9keQ.c2lnbmF0dXJl\r\n"),
        ("/", "Authorization: Bearer aGVhZA.Ym9keQ.c2ln!bmF0dXJl=\r\n"),
        ("/", "Authorization: Bearer aGVhZB.Ym9keQ.c2lnbmF0dXJl\r\n"),
    ];
    assert_eq!(statuses(&gateway, &origin, &requests), [200, 429, 429, 429, 200, 200, 429, 429, 400, 200, 429, 429]);
}

#[test]
fn a_cost_that_is_stated_twice_is_refused() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(10, "1h", "when_full = \"refuse\"\ncost = \"header:x-cost\""));
    let requests = [
        ("/", "X-Cost: 1\r\nX-Cost: 9\r\n"),
        ("/", "X-Cost: 1\r\nX_Cost: 9\r\n"),
        ("/", "Connection: x-cost\r\nX-Cost: 1\r\n"),
        ("/", "X-Cost: 9\r\nX-Cost: 9\r\n"),
        ("/", "X-Cost: 2\r\n"),
        ("/", "X-Cost: 1\r\n"),
    ];
    assert_eq!(statuses(&gateway, &origin, &requests), [400, 400, 400, 200, 429, 200]);
}

#[test]
fn a_permit_is_asked_for_under_the_key_that_requests_have() {
    let origin = Origin::start();
    let gateway = once("key = [\"header:authorization\", \"query:k\", \"path[1]\"]");
    let asked = "POST /v1/limits/once/acquire?key=BEARER++T&key=a%2Bb&key=x%7Cy%C3%A9 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(gateway.exchange(asked).status, 200);
    assert_eq!(statuses(&gateway, &origin, &[("/x|y\u{e9}/z?k=a%2Bb", "Authorization: Bearer T\r\n")]), [429]);
}
