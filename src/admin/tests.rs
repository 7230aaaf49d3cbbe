//! Who is let in, and what numbers look like; the rest is tested through real sockets.

use axum::http::HeaderMap;

use crate::lobby::{is_cross_site, may_be_rebound};

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

#[test]
fn only_a_host_that_nobody_can_point_elsewhere_is_ours() {
    for ours in ["127.0.0.1:8081", "127.0.0.1", "[::1]:8081", "[::1]", "localhost:1", "LOCALHOST", "10.0.0.7:80"] {
        assert!(!may_be_rebound(&headers(&[("host", ours)])), "{ours}");
    }
    for other in ["evil.example", "127.0.0.1.evil.example:8081", "localhost.evil.example", "[::1", ""] {
        assert!(may_be_rebound(&headers(&[("host", other)])), "{other}");
    }
    assert!(may_be_rebound(&headers(&[])));
}

#[test]
fn an_order_that_another_sites_page_sends_is_known_by_what_browsers_add() {
    let here = ("host", "127.0.0.1:8081");
    for ours in [
        vec![here],
        vec![here, ("origin", "http://127.0.0.1:8081")],
        vec![here, ("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8081")],
        vec![here, ("sec-fetch-site", "none")],
    ] {
        assert!(!is_cross_site(&headers(&ours)), "{ours:?}");
    }
    for other in [
        vec![here, ("origin", "http://evil.example")],
        vec![here, ("origin", "http://127.0.0.1:9999")],
        vec![here, ("origin", "null")],
        vec![here, ("sec-fetch-site", "cross-site")],
        vec![here, ("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:8081")],
        vec![("origin", "http://127.0.0.1:8081")],
    ] {
        assert!(is_cross_site(&headers(&other)), "{other:?}");
    }
}
