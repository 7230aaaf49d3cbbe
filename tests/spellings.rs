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
