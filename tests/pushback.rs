//! The origin says 429: the window pauses, and a request may be sent once more.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::admin::{queued, watched};
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
fn the_first_pause_of_a_limit_is_logged_unless_it_delays_nothing() {
    let origin = reluctant(2, "HTTP/1.1 429 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::start(&limit(100, "100ms", ""));
    let statuses: Vec<u16> = (0..3).map(|_| gateway.get(&origin.url("/")).status).collect();
    assert_eq!(statuses, [429, 429, 200]);
    gateway.complains("an origin's response pauses a limit");
    let told = gateway.stderr();
    let line = told.lines().find(|line| line.contains("pauses a limit")).unwrap();
    assert!(line.contains("limit=\"the-limit\"") && line.contains("status=429"), "{line}");
    assert_eq!(told.matches("pauses a limit").count(), 1, "{told}");
    let origin = reluctant(1, REFUSAL);
    let dry_run = Gateway::start(&limit(100, "100ms", "dry_run = true"));
    assert_eq!([dry_run.get(&origin.url("/")).status, dry_run.get(&origin.url("/")).status], [429, 200]);
    assert!(!dry_run.stderr().contains("pauses a limit"), "a dry run delays nothing: {}", dry_run.stderr());
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

/// An origin that answers `refusal` to requests with a bad key, and to all others 200.
fn strict_with(credential: &'static str, refusal: &'static str) -> Origin {
    Origin::scripted(move |request, link| {
        if request.field("authorization") == Some(credential) {
            link.send(refusal);
            return Next::Keep;
        }
        link.answer(200, "ok")
    })
}

/// Status of a GET with these credentials.
fn get_as(gateway: &Gateway, origin: &Origin, credential: &str) -> u16 {
    let url = origin.url("/");
    gateway.exchange(format!("GET {url} HTTP/1.1\r\nHost: a\r\nAuthorization: {credential}\r\n\r\n")).status
}

const SPENT: &str = "HTTP/1.1 429 No\r\nRetry-After: 3000\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_dead_key_of_one_caller_stops_no_other() {
    let origin = strict_with("Bearer broke", SPENT);
    let gateway = Gateway::start(&limit(100, "100ms", "max_wait = \"100ms\""));
    assert_eq!(get_as(&gateway, &origin, "Bearer broke"), 429);
    for _ in 0..3 {
        assert_eq!(get_as(&gateway, &origin, "Bearer good"), 200);
        assert_eq!(get_as(&gateway, &origin, "bearer  broke"), 429, "another spelling of the same credentials");
        assert_eq!(gateway.get(&origin.url("/")).status, 200, "without any");
    }
    assert_eq!(origin.count(), 7, "the dead key was sent once");
}

#[test]
fn what_two_credentials_are_told_holds_for_all() {
    let origin = reluctant(2, SPENT);
    let gateway = Gateway::start(&limit(100, "100ms", "max_wait = \"100ms\""));
    let statuses = ["Bearer a", "Bearer b", "Bearer c"].map(|credential| get_as(&gateway, &origin, credential));
    assert_eq!((statuses, origin.count()), ([429; 3], 2));
}

#[test]
fn an_empty_pushback_key_pauses_the_window() {
    let origin = strict_with("Bearer broke", SPENT);
    let gateway = Gateway::start(&limit(100, "100ms", "max_wait = \"100ms\"\npushback_key = []"));
    assert_eq!(get_as(&gateway, &origin, "Bearer broke"), 429);
    assert_eq!(get_as(&gateway, &origin, "Bearer good"), 429);
    assert_eq!(origin.count(), 1);
}

#[test]
fn those_who_wait_when_a_pause_of_their_credential_begins_wait_for_it_too() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let origin = Origin::scripted(move |request, link| {
        if request.field("authorization") == Some("Bearer broke") {
            held.lock().unwrap().recv().ok();
            link.send(SPENT);
            return Next::Keep;
        }
        link.answer(200, "ok")
    });
    // One at a time: the others queue up behind the first. The pause is longer than any may wait, which is known at once.
    let (gateway, admin) = watched(&limit(100, "100ms", "in_flight = 1\nmax_wait = \"10m\""), "");
    let statuses = std::thread::scope(|scope| {
        let ask = |credential: &'static str| {
            let (gateway, origin) = (&gateway, &origin);
            scope.spawn(move || get_as(gateway, origin, credential))
        };
        let first = ask("Bearer broke");
        eventually("the first is with the origin", || origin.count() == 1);
        let others = ["Bearer good", "Bearer broke", "Bearer fine"].map(ask);
        queued(admin, "the-limit", 3);
        drop(release);
        [first].into_iter().chain(others).map(|asked| asked.join().expect("an answer")).collect::<Vec<_>>()
    });
    assert_eq!(statuses, [429, 200, 429, 200]);
    assert_eq!(origin.count(), 3, "the dead key was sent once");
}

#[test]
fn any_refusal_that_names_a_time_pauses_the_window() {
    for status in ["403 Banned", "418 Teapot", "420 Calm", "509 Full", "529 Overloaded"] {
        let refusal = format!("HTTP/1.1 {status}\r\nRetry-After: 3000\r\nContent-Length: 0\r\n\r\n");
        let origin = reluctant(1, Box::leak(refusal.into_boxed_str()));
        let gateway = Gateway::start(&limit(50, "1s", "max_wait = \"100ms\""));
        assert_eq!(gateway.get(&origin.url("/1")).status.to_string(), status[..3]);
        assert_eq!(gateway.get(&origin.url("/2")).status, 429, "{status}");
        assert_eq!(origin.count(), 1);
    }
}

#[test]
fn only_listed_statuses_push_back() {
    let origin = reluctant(2, "HTTP/1.1 403 Banned\r\nRetry-After: 3000\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::start(&limit(50, "1s", "max_wait = \"100ms\"\npushback_on = [429, 503]"));
    let statuses: Vec<u16> = (0..3).map(|_| gateway.get(&origin.url("/")).status).collect();
    assert_eq!(statuses, [403, 403, 200]);
}

/// The pause in milliseconds that a request is told of after a 429 with these fields.
fn pause_after(fields: &str, limits: &str) -> f64 {
    let refusal = format!("HTTP/1.1 429 No\r\n{fields}Content-Length: 0\r\n\r\n");
    let origin = reluctant(1, Box::leak(refusal.into_boxed_str()));
    let gateway = Gateway::start(limits);
    assert_eq!(gateway.get(&origin.url("/1")).status, 429);
    let answer = gateway.get(&origin.url("/2"));
    assert_eq!((answer.status, origin.count()), (429, 1));
    answer.retry_after_ms()
}

#[test]
fn a_time_is_read_from_whatever_field_names_it() {
    let minutes = |epoch: u64| format!("{}", epoch + 600);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    for (fields, wanted) in [
        ("retry-after-ms: 600000\r\n".to_owned(), 600_000.0),
        (format!("x-ratelimit-remaining: 0\r\nx-ratelimit-reset: {}\r\n", minutes(now)), 600_500.0),
        (format!("Retry-After: {}\r\n", minutes(now)), 600_500.0),
        ("RateLimit: \"default\";r=0;t=600\r\n".to_owned(), 600_500.0),
        ("x-ratelimit-reset-requests: 10m2.5s\r\n".to_owned(), 602_500.0),
    ] {
        let told = pause_after(&fields, &limit(100, "1m", "max_wait = \"100ms\""));
        // The time that the two requests took has passed of it.
        assert!((wanted - 60_000.0..=wanted).contains(&told), "{fields}: {told}");
    }
}

#[test]
fn a_429_without_a_time_pauses_the_shortest_limit_and_no_daily_one() {
    let daily = "[[limit]]\nname = \"daily\"\nrequests = 10000\nper = \"1d\"\nmax_wait = \"100ms\"\n\n";
    let told = pause_after("", &(limit(10, "20m", "max_wait = \"100ms\"\nmax_backoff = \"1h\"") + daily));
    assert!((1_140_000.0..=1_200_000.0).contains(&told), "{told}");
    let told = pause_after("", &limit(10, "20m", "max_wait = \"100ms\""));
    assert!(told <= 60_000.0, "no longer than max_backoff: {told}");
}
