//! Tests of host and path patterns: matches, and disguised spellings.

use super::*;

fn host(pattern: &str, host: &str) -> bool {
    HostPattern::parse(pattern).expect(pattern).matches(host, 443)
}

fn path(pattern: &str, path: &str) -> bool {
    PathPattern::parse(pattern).expect(pattern).matches(&Path::read(path).expect("few readings"))
}

#[test]
fn a_host_pattern_is_a_name_a_star_or_all_below_a_name() {
    assert!(host("API.example.", "api.example"));
    assert!(!host("api.example", "xapi.example"));
    assert!(!host("api.example", "api.example.org"));
    assert!(host("*.example", "api.example"));
    assert!(host("*.example", "a.b.example"));
    assert!(!host("*.example", "example"));
    assert!(!host("*.example", "badexample"));
    assert!(!host("*.example", ".example"));
    assert!(host("*", "anything"));
}

#[test]
fn a_port_in_a_host_pattern_must_fit() {
    assert!(host("api.example:443", "api.example"));
    assert!(!host("api.example:80", "api.example"));
    assert!(host("*:443", "a"));
    assert!(!host("*:80", "a"));
    assert!(host("*.example:443", "a.example"));
    assert!(!host("*.example:80", "a.example"));
}

#[test]
fn an_address_matches_in_its_one_spelling() {
    assert!(host("[2001:DB8::0:1]:443", "2001:db8::1"));
    assert!(host("2001:db8::1", "2001:db8::1"));
    assert!(host("::ffff:192.0.2.1", "192.0.2.1"));
    assert!(host("192.0.2.1", "192.0.2.1"));
}

#[test]
fn a_host_pattern_is_shown_as_it_can_be_written() {
    for text in
        ["*", "*:80", "api.example", "api.example:443", "*.example", "*.example:1", "[::1]", "[::1]:80", "1.2.3.4"]
    {
        assert_eq!(HostPattern::parse(text).expect(text).to_string(), text);
    }
    assert_eq!(HostPattern::parse("API.Example.").expect("valid").to_string(), "api.example");
}

#[test]
fn only_a_lone_star_names_no_host() {
    assert!(!HostPattern::parse("*").expect("valid").is_specific());
    assert!(!HostPattern::parse("*:80").expect("valid").is_specific());
    assert!(HostPattern::parse("*.example").expect("valid").is_specific());
}

#[test]
fn a_host_pattern_that_makes_no_sense_says_why() {
    for (text, why) in [
        ("", "empty"),
        ("https://api.example", "without scheme"),
        ("api.example/v2", "without scheme"),
        ("api.*", "star stands alone"),
        ("*api.example", "star stands alone"),
        ("*.*", "star stands alone"),
        ("*.*:80", "star stands alone"),
        ("a.*.example", "star stands alone"),
        ("*:0", "65535"),
        ("api.example:99999", "65535"),
        ("ä.example", "xn--"),
        ("127.1", "four decimal"),
    ] {
        let error = HostPattern::parse(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn two_stars_match_the_path_itself_and_all_below() {
    assert!(path("/v2/**", "/v2"));
    assert!(path("/v2/**", "/v2/"));
    assert!(path("/v2/**", "/v2/a/b"));
    assert!(!path("/v2/**", "/v20"));
    assert!(!path("/v2/**", "/V2/a"));
    assert!(path("/**", "/"));
    assert!(path("/**", "/a/b"));
    assert!(path("/a/**/z", "/a/z"));
    assert!(path("/a/**/z", "/a/b/c/z"));
    assert!(!path("/a/**/z", "/a/b/c"));
    assert!(path("/**/items/**", "/a/items"));
    assert!(path("/v*/**", "/v1/x/y"));
}

#[test]
fn one_star_stays_in_its_segment() {
    assert!(path("/v1/*/items", "/v1/7/items"));
    assert!(path("/v1/*", "/v1/"));
    assert!(path("/v1/*", "/v1"), "which servers serve as /v1/");
    assert!(!path("/v1/*", "/"));
    assert!(!path("/v1/*/items", "/v1/7/8/items"));
    assert!(path("/v*", "/v17"));
    assert!(path("/a*b*c", "/axxbyyc"));
    assert!(!path("/a*b*c", "/axxbyy"));
    assert!(!path("/v*", "/v1/x"));
}

#[test]
fn an_exact_path_is_just_that() {
    assert!(path("/exact", "/exact"));
    assert!(path("/exact", "/exact/"));
    assert!(path("/exact/", "/exact"));
    assert!(!path("/exact", "/exac"));
    assert!(path("/", "/"));
}

#[test]
fn another_spelling_of_a_path_does_not_slip_past() {
    for disguise in [
        "/%76%32/items",
        "/v2/./items",
        "/x/../v2/items",
        "/x/%2e%2E/v2/items",
        "/.%2e/v2/items",
        "/../v2/items",
        "/v2/x/../items",
        "//v2/items",
        "/v2//items",
        "/v2;a=b/items;c",
        "/v2%2Fitems",
        "/v2%2fitems",
        "/v2%5citems",
        "/v2\\items",
        "/x/..%2fv2/items",
        "/x/..;a/v2/items",
        "/v2%3bx/items",
        "/x//../v2/items",
        "/x/y/..;/../v2/items",
        "/x/;/../v2/items",
        "/x/%2f/../v2/items",
        "//v2/items;a",
        "/%2e%2e//v2/items/",
        "/v%u0032/items",
    ] {
        assert!(path("/v2/items", disguise), "{disguise}");
        assert!(path("/v2/**", disguise), "{disguise}");
    }
}

#[test]
fn what_leaves_a_path_in_every_reading_is_not_counted_there() {
    for outside in ["/x/v2/../v1", "/V2", "/v1/v2", "/v%252", "/v2%", "/v2%zz", "/v2.", "/v2|x"] {
        assert!(!path("/v2/**", outside), "{outside}");
    }
    // Express, Rails and Django do not resolve dots: a handler below /v2 gets the first, one below /v1 the second.
    assert!(path("/v2/**", "/v2/../v1") && path("/v1/**", "/v2/../v1"));
}

#[test]
fn a_pattern_may_ignore_letter_case() {
    let folded = |pattern: &str, path: &str| {
        let path = Path::read(path).expect("few readings").ignoring_case();
        PathPattern::parse(pattern).expect(pattern).ignoring_case().matches(&path)
    };
    assert!(folded("/v2/**", "/V2/Items"));
    assert!(folded("/API/*/Items", "/api/X/iTEMS"));
    assert!(folded("/Exact*", "/eXACTly%2Fso"));
    assert!(folded("/caf%C3%A9", "/CAF%c3%a9"));
    assert!(!folded("/v2/**", "/v3"));
}

#[test]
fn a_star_that_is_encoded_is_no_star() {
    assert!(path("/a%2Ab", "/a*b") && path("/a%2Ab", "/a%2ab") && path("/a*b", "/a*b"));
    assert!(!path("/a%2Ab", "/axb"));
}

#[test]
fn a_strict_reading_counts_beside_the_loose_one() {
    assert!(path("/files/*", "/files/a%2Fb"));
    assert!(path("/files/*/b", "/files/a%2Fb"));
    assert!(path("/a%2fb", "/a%2Fb"));
    assert!(path("/caf%c3%a9", "/caf%C3%A9"));
}

#[test]
fn a_tunnel_has_no_path_and_a_lone_star_is_the_whole_origin() {
    assert!(!path("/**", ""));
    assert!(path("/**", "*"));
    assert!(path("/", "*"));
    assert!(!path("/a", "*"));
}

#[test]
fn a_hostile_path_costs_no_more_than_its_length_times_the_patterns() {
    assert!(!path("/**/a/**/a/**/a/**/a/**/b", &"/a".repeat(10_000)));
    assert!(!path("/*a*a*a*a*a*b", &format!("/{}", "a".repeat(20_000))));
}

#[test]
fn a_path_pattern_that_makes_no_sense_says_why() {
    for (text, why) in [
        ("", "begin with"),
        ("v2/**", "begin with"),
        ("/a?b", "query"),
        ("/a#b", "query"),
        ("/a**", "whole segments"),
        ("/a b", "percent-encoded"),
        ("/a\u{9b}", "percent-encoded"),
    ] {
        let error = PathPattern::parse(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn what_a_pattern_matches_is_what_an_authority_must_cover() {
    let subtree = |text: &str| HostPattern::parse(text).unwrap().subtree().to_string();
    assert_eq!(subtree("API.example.:8443"), "api.example");
    assert_eq!(subtree("*.example"), "example");
    assert_eq!(subtree("192.0.2.1"), "192.0.2.1");
    assert_eq!(subtree("[::FFFF:192.0.2.1]:443"), "192.0.2.1");
    assert_eq!(subtree("*:443"), "every host");
}
