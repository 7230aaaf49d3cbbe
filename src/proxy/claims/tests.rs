//! Tests of rule lookup: the windows that requests claim.

use std::collections::HashMap;

use super::super::path::models;
use super::super::pattern::{HostPattern, PathPattern};
use super::*;
use crate::gate::Revision;
use crate::locker::Caller;
use crate::net::dial::Reach;
use crate::proxy::rule::MAX_KEYS;
use crate::proxy::target::{Ingress, Targets};

fn rule(name: &str, hosts: &[&str], paths: &[&str], methods: &[&str], key: Vec<KeyPart>) -> Rule {
    Rule {
        name: name.into(),
        hosts: hosts.iter().map(|host| HostPattern::parse(host).expect(host)).collect(),
        paths: paths.iter().map(|path| PathPattern::parse(path).expect(path)).collect(),
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        key,
        ..Rule::for_test()
    }
}

fn rules_of(rules: Vec<Rule>) -> Rules {
    let limits: Vec<LimitId> = (0..).map(LimitId).take(rules.len()).collect();
    Rules::new(rules, &limits, Revision::default(), [7; 16], |_| Arc::default())
}

fn keyed(key: Vec<KeyPart>) -> Rules {
    rules_of(vec![rule("a", &[], &[], &[], key)])
}

fn find_as(rules: &Rules, line: &str, fields: &str, caller: u64) -> Result<Claims, Refusal> {
    let head = RequestHead::parse_for_test(format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
    let target = Targets::new(Vec::new()).find(&head, &Ingress::default()).expect("a target");
    let admitted = Admitted {
        caller: Caller(caller),
        user: None,
        block: IpAddr::from([127, 0, 0, 1]).into(),
        reach: Reach::Public,
    };
    rules.find(&target, &head, &admitted, IpAddr::from([127, 0, 0, 1]))
}

fn find(rules: &Rules, line: &str, fields: &str) -> Claims {
    find_as(rules, line, fields, 1).expect("a valid cost")
}

fn limits(rules: &Rules, line: &str) -> Vec<u32> {
    find(rules, line, "").claims.iter().map(|claim| claim.limit.0).collect()
}

fn key(rules: &Rules, line: &str, fields: &str) -> Key {
    find(rules, line, fields).claims[0].key
}

#[test]
fn every_limit_that_matches_is_claimed() {
    let rules = rules_of(vec![
        rule("host", &["api.example", "*.api.example"], &[], &[], vec![]),
        rule("path", &[], &["/v2/**"], &[], vec![]),
        rule("method", &[], &[], &["GET", "POST"], vec![]),
        rule("all", &[], &[], &[], vec![]),
    ]);
    assert_eq!(limits(&rules, "GET http://api.example/v2/x?y"), [0, 1, 2, 3]);
    assert_eq!(limits(&rules, "PUT http://x.api.example/v1/x"), [0, 3]);
    assert_eq!(limits(&rules, "get http://b.example/v3?/v2/"), [3]);
    assert_eq!(limits(&rules, "DELETE http://b.example/%76%32"), [1, 3]);
    assert_eq!(limits(&rules, "CONNECT api.example:443"), [0, 3]);
}

#[test]
fn a_rule_with_a_path_counts_no_tunnels() {
    let rules = rules_of(vec![rule("a", &[], &["/**"], &[], vec![]), rule("b", &[], &[], &["CONNECT"], vec![])]);
    assert_eq!(limits(&rules, "CONNECT api.example:443"), [1]);
}

#[test]
fn the_broadest_limit_comes_first_then_the_order_of_the_file() {
    let rules = rules_of(vec![
        rule("two", &[], &[], &[], vec![KeyPart::Host, KeyPart::Caller]),
        rule("one", &[], &[], &[], vec![KeyPart::Caller]),
        rule("whole", &[], &[], &[], vec![]),
        rule("one again", &[], &[], &[], vec![KeyPart::Host]),
    ]);
    assert_eq!(limits(&rules, "GET http://a/"), [2, 1, 3, 0]);
    assert_eq!(&*rules.rule(LimitId(3)).name, "one again");
}

#[test]
fn without_key_parts_there_is_one_window() {
    assert_eq!(key(&keyed(vec![]), "GET http://a/", ""), Key::WHOLE);
}

#[test]
fn each_key_part_tells_its_requests_apart() {
    let same_and_other = [
        (KeyPart::Host, "GET http://A.example:80/x", "GET http://a.example:81/y", "GET http://b.example/"),
        (KeyPart::Path(1), "GET http://a/v1/x", "GET http://a/%761/y?z", "GET http://a/v2/x"),
        (
            KeyPart::Query("api_key".into()),
            "GET http://a/?b&api_key=x%41",
            "GET http://a/c?api%5fkey=%78A&api_key=2",
            "GET http://a/?api_key=x",
        ),
        (KeyPart::Method, "GET http://a/", "GET http://b/", "get http://a/"),
    ];
    for (part, one, same, other) in same_and_other {
        let rules = keyed(vec![part.clone()]);
        assert_eq!(key(&rules, one, ""), key(&rules, same, ""), "{part:?}");
        assert_ne!(key(&rules, one, ""), key(&rules, other, ""), "{part:?}");
        assert_ne!(key(&rules, one, ""), Key::WHOLE);
    }
}

#[test]
fn requests_that_a_server_takes_for_one_share_a_window() {
    let below = rules_of(vec![rule("v2", &[], &["/v2/**"], &[], vec![])]);
    let by_segment = [1, 2].map(|index| keyed(vec![KeyPart::Path(index)]));
    let mut windows: HashMap<_, Vec<Key>> = HashMap::new();
    for path in models::paths(&["/", "..", ";a", "%2F", "\\", "a", "/v2", "/v%32"], 4) {
        let line = format!("GET http://a{path}");
        let keys =
            [0, 1].map(|at| find(&by_segment[at], &line, "").claims.iter().map(|claim| claim.key).collect::<Vec<_>>());
        for (server, model) in models::ALL {
            let Some(mut resource) = model(&path) else { continue };
            if resource.first().is_some_and(|first| first == b"v2") {
                assert_eq!(limits(&below, &line), [0], "{server} serves {path} below /v2");
            }
            resource.truncate(resource.len() - usize::from(resource.last().is_some_and(Vec::is_empty)));
            for (at, keys) in keys.iter().enumerate() {
                let shared = windows.entry((server, resource.clone(), at)).or_insert_with(|| keys.clone());
                shared.retain(|key| keys.contains(key));
                assert!(!shared.is_empty(), "{server}: {path} shares no window with what else is {resource:?}");
            }
        }
    }
}

#[test]
fn a_request_counts_in_few_windows_and_in_each_once() {
    let rules = keyed(vec![KeyPart::Path(1), KeyPart::Query("k".into())]);
    let count = |line: &str| find(&rules, line, "").claims.len();
    assert_eq!(count("GET http://a/x;1/y?k=1&k=2&k=1"), 4);
    assert_eq!(count("GET http://a//x/./..//y?k=1"), 3);
    let many: String = (0..MAX_KEYS).map(|value| format!("&k={value}")).collect();
    assert_eq!(count(&format!("GET http://a/?{many}")), MAX_KEYS);
    for line in [format!("GET http://a/?k=x{many}"), format!("GET http://a/x;1?{many}")] {
        let refusal = find_as(&rules, &line, "", 1).expect_err("too many");
        assert!(matches!(refusal, Refusal::Ambiguous { .. }), "{refusal:?}");
    }
    let trial = Rule { dry_run: true, ..rule("a", &[], &[], &[], vec![KeyPart::Query("k".into())]) };
    let trial = rules_of(vec![trial]);
    assert_eq!(find(&trial, &format!("GET http://a/?k=x{many}"), "").claims.len(), 0, "a dry run lets all go");
    let found = find(&rules, "GET http://a/x;1?k=1", "");
    assert_eq!((found.claims.len(), found.limits().count(), rules.metrics(&found).count()), (2, 1, 1));
}

#[test]
fn a_header_key_does_not_mind_the_case_of_the_name() {
    let rules = keyed(vec![KeyPart::Header("authorization".into())]);
    let with = |fields: &str| key(&rules, "GET http://a/", fields);
    assert_eq!(with("Authorization: x\r\n"), with("AUTHORIZATION:  x \r\n"));
    assert_ne!(with("Authorization: x\r\n"), with("Authorization: y\r\n"));
    assert_eq!(with(""), with(""));
    assert_ne!(with(""), with("Authorization: x\r\n"));
}

#[test]
fn callers_are_told_apart() {
    let rules = keyed(vec![KeyPart::Caller]);
    let of = |caller| find_as(&rules, "GET http://a/", "", caller).expect("valid").claims[0].key;
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn parts_do_not_run_into_each_other() {
    let rules = keyed(vec![KeyPart::Header("a".into()), KeyPart::Header("b".into())]);
    let with = |fields| key(&rules, "GET http://x/", fields);
    assert_ne!(with("A: ab\r\nB: c\r\n"), with("A: a\r\nB: bc\r\n"));
    assert_ne!(with("A: a\r\n"), with("B: a\r\n"));
    assert_ne!(with("A:\r\nB: a\r\n"), with("B: a\r\n"));
}

#[test]
fn keys_outlive_the_rules() {
    let line = "GET http://a.example/";
    assert_eq!(key(&keyed(vec![KeyPart::Host]), line, ""), key(&keyed(vec![KeyPart::Host]), line, ""));
}

#[test]
fn what_a_tunnel_does_not_have_is_one_value() {
    let rules = keyed(vec![KeyPart::Path(1), KeyPart::Query("a".into())]);
    assert_eq!(key(&rules, "CONNECT a:443", ""), key(&rules, "CONNECT b:443", ""));
    assert_ne!(key(&rules, "CONNECT a:443", ""), key(&rules, "GET http://a/x?a=", ""));
}

#[test]
fn a_stated_cost_is_a_whole_number_up_to_n() {
    let priced = Rule { cost: Cost::Header("X-Cost".into()), ..rule("dear", &[], &[], &[], vec![]) };
    let rules = rules_of(vec![priced]);
    let cost = |fields: &str| find_as(&rules, "GET http://a/", fields, 1).map(|found| found.claims[0].cost);
    assert_eq!(cost(""), Ok(1));
    assert_eq!(cost("x-cost: 5\r\n"), Ok(5));
    assert_eq!(cost("x-cost: 02\r\n"), Ok(2));
    for wrong in ["0", "6", "-1", "+1", "1.0", "1e0", "", "one", "99999999999999999999", "1 2", "0x1"] {
        assert_eq!(
            cost(&format!("X-Cost: {wrong}\r\n")),
            Err(Refusal::BadCost { limit: "dear".into(), most: 5 }),
            "{wrong}"
        );
    }
    let fixed = rules_of(vec![Rule { cost: Cost::Fixed(3), ..rule("a", &[], &[], &[], vec![]) }]);
    assert_eq!(find(&fixed, "GET http://a/", "").claims[0].cost, 3);
}

#[test]
fn the_largest_retry_of_the_matching_limits_counts() {
    let retry = |host: &'static str, retry| Rule { retry, ..rule(host, &[host], &[], &[], vec![]) };
    let rules = rules_of(vec![retry("a", 1), retry("*", 2), retry("b", 9)]);
    assert_eq!(find(&rules, "GET http://a/", "").retry, 2);
}
