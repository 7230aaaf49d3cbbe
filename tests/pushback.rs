//! The origin says 429: the window pauses, and a request may be sent once more.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::*;

/// Says `refusal` to the first `times` requests, then 200.
fn reluctant(times: usize, refusal: &'static str) -> Origin {
    let seen = AtomicUsize::new(0);
    Origin::scripted(move |_, link| {
        link.read_body();
        if seen.fetch_add(1, Ordering::SeqCst) < times {
            link.send(refusal);
            return Next::Keep;
        }
        let body = link.body();
        link.answer(200, &String::from_utf8_lossy(&body))
    })
}

const REFUSAL: &str = "HTTP/1.1 429 Slow Down\r\nRetry-After: 1\r\nContent-Length: 4\r\nX-Mine: yes\r\n\r\nslow";

#[test]
fn an_origins_429_pauses_the_window_as_long_as_it_asks() {
    let origin = reluctant(1, REFUSAL);
    let gateway = Gateway::start(&limit(100, "100ms", ""));
    let first = gateway.get(&origin.url("/1"));
    assert_eq!((first.status, first.text().as_str(), first.field("x-mine")), (429, "slow", Some("yes")));
    assert_eq!(first.field("retry-after"), Some("1"), "the origin's own answer goes through unchanged");
    assert_eq!(gateway.get(&origin.url("/2")).status, 200);
    let stamps = origin.stamps();
    assert!(stamps[1] - stamps[0] >= 1_000_000_000, "the second came after {} ns", stamps[1] - stamps[0]);
}

#[test]
fn a_503_with_retry_after_pauses_too_and_one_without_does_not() {
    let origin = reluctant(1, "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::start(&limit(100, "100ms", ""));
    assert_eq!(gateway.get(&origin.url("/1")).status, 503);
    assert_eq!(gateway.get(&origin.url("/2")).status, 200);
    let stamps = origin.stamps();
    assert!(stamps[1] - stamps[0] >= 1_000_000_000);
    let origin = reluctant(3, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::start(&limit(100, "100ms", "when_full = \"refuse\""));
    let statuses: Vec<u16> = (0..4).map(|_| gateway.get(&origin.url("/")).status).collect();
    assert_eq!(statuses, [503, 503, 503, 200]);
}

#[test]
fn a_paused_window_tells_those_it_refuses_when_it_opens() {
    let origin = reluctant(1, "HTTP/1.1 429 No\r\nRetry-After: 100\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::start(&limit(100, "100ms", "max_wait = \"5s\""));
    assert_eq!(gateway.get(&origin.url("/1")).status, 429);
    let answer = gateway.get(&origin.url("/2"));
    check_ours(&answer, 429, "http_request_error");
    let told = answer.retry_after_ms();
    // Whole seconds may have been rounded down, so the pause is a little longer than asked for.
    assert!((70_000.0..=101_000.0).contains(&told), "{told}");
    assert_eq!(origin.count(), 1);
}

#[test]
fn pushback_can_be_ignored() {
    let origin = reluctant(1, "HTTP/1.1 429 No\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::start(&limit(100, "100ms", "pushback = \"ignore\""));
    assert_eq!(gateway.get(&origin.url("/1")).status, 429);
    assert_eq!(gateway.get(&origin.url("/2")).status, 200);
}

#[test]
fn a_request_is_sent_again_with_its_content_after_the_pause() {
    let origin = reluctant(2, REFUSAL);
    let gateway = Gateway::start(&limit(100, "100ms", "retry = 2"));
    let url = origin.url("/");
    let answer = gateway.exchange(format!("POST {url} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let all = origin.requests();
    assert_eq!(all.iter().map(Request::text).collect::<Vec<_>>(), ["hello"; 3]);
    assert!(all[1].stamp - all[0].stamp >= 1_000_000_000 && all[2].stamp - all[1].stamp >= 1_000_000_000);
    let chunked = reluctant(1, REFUSAL);
    let url = chunked.url("/");
    let answer = gateway
        .exchange(format!("PUT {url} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
}

#[test]
fn after_the_last_try_the_caller_gets_the_origins_answer() {
    let origin = reluctant(9, REFUSAL);
    let gateway = Gateway::start(&limit(100, "100ms", "retry = 1"));
    let answer = gateway.get(&origin.url("/"));
    assert_eq!((answer.status, answer.text().as_str()), (429, "slow"));
    assert_eq!(origin.count(), 2);
}

#[test]
fn content_that_is_too_large_to_keep_is_sent_once() {
    let origin = reluctant(1, REFUSAL);
    let gateway = Gateway::start(&limit(100, "100ms", "retry = 3"));
    let content = "x".repeat((64 << 10) + 1);
    let request =
        format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{content}", origin.url("/"), content.len());
    let answer = gateway.exchange(request);
    assert_eq!((answer.status, answer.text().as_str()), (429, "slow"));
    assert_eq!(origin.only().body.len(), content.len());
}

#[test]
fn sending_again_takes_a_slot_like_any_other() {
    let per = std::time::Duration::from_millis(1500);
    let origin = reluctant(1, REFUSAL);
    let gateway = Gateway::start(&limit(1, "1500ms", "retry = 1"));
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    assert_eq!(origin.count(), 2);
    one_window(1, per, &origin.stamps());
}
