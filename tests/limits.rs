//! The promise: in no span of T, wherever it starts, does the origin see more than N.
//! Judged at the origin, by the kernel's stamps, with N and T exactly as configured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::certs::{Authority, Fault};
use crate::support::gateway::Dir;
use crate::support::*;

/// Keeps `connections` callers asking over and over until `enough` answers with 200 have come back, however long a busy
/// machine takes for it; says how many came. All other answers must be 429.
fn flood(to: SocketAddr, url: &str, connections: usize, enough: usize) -> usize {
    let end = Instant::now() + PATIENCE;
    let good = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let request = format!("GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let good = Arc::clone(&good);
            thread(move || {
                let mut caller = Caller::connect(to);
                while good.load(Ordering::SeqCst) < enough {
                    assert!(Instant::now() < end, "{} of {enough} in {PATIENCE:?}", good.load(Ordering::SeqCst));
                    let answer = caller.send(&request).answer();
                    match answer.status {
                        200 => _ = good.fetch_add(1, Ordering::SeqCst),
                        429 => check_ours(&answer, 429, "http_request_error"),
                        _ => panic!("{}{}", answer.raw, answer.text()),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|one| one.join().unwrap());
    good.load(Ordering::SeqCst)
}

/// Floods with many more connections than slots, and holds the promise against what the origin saw.
#[track_caller]
fn hold_the_promise(requests: u32, per: Duration, more: &str) {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(requests, &format!("{}ms", per.as_millis()), more));
    let slots = usize::try_from(requests).unwrap();
    let good = flood(gateway.addr, &origin.url("/"), (slots * 3).clamp(8, 60), slots * 6);
    assert!(origin.kernel_stamps());
    assert_eq!(good, origin.count(), "every request that arrived was answered, and once");
    one_window(slots, per, &origin.stamps());
}

#[test]
fn five_in_800_ms_as_sent() {
    hold_the_promise(5, Duration::from_millis(800), "");
}

#[test]
fn five_in_800_ms_as_answered() {
    hold_the_promise(5, Duration::from_millis(800), "counts = \"answered\"");
}

#[test]
fn one_in_100_ms_as_sent() {
    hold_the_promise(1, Duration::from_millis(100), "");
}

#[test]
fn one_in_100_ms_as_answered() {
    hold_the_promise(1, Duration::from_millis(100), "counts = \"answered\"");
}

#[test]
fn fifty_in_250_ms_as_sent() {
    hold_the_promise(50, Duration::from_millis(250), "");
}

#[test]
fn fifty_in_250_ms_as_answered() {
    hold_the_promise(50, Duration::from_millis(250), "counts = \"answered\"");
}

#[test]
fn two_hundred_in_a_second_as_sent_with_a_guard() {
    hold_the_promise(200, Duration::from_secs(1), "guard = \"20ms\"");
}

#[test]
fn three_in_50_ms_with_refusals_instead_of_waiting() {
    hold_the_promise(3, Duration::from_millis(50), "when_full = \"refuse\"");
}

#[test]
fn smooth_requests_keep_the_limit_and_their_distance() {
    let origin = Origin::start();
    let per = Duration::from_millis(1000);
    let gateway = Gateway::start(&limit(10, "1000ms", "window = \"smooth\"\nburst = 2"));
    flood(gateway.addr, &origin.url("/"), 20, 25);
    let stamps = origin.stamps();
    one_window(10, per, &stamps);
    // Never more than the burst and the one whose time has come within one distance.
    one_window(3, Duration::from_millis(99), &stamps);
}

#[test]
fn fixed_windows_hold_n_each() {
    let origin = Origin::start();
    let per = Duration::from_millis(400);
    let gateway = Gateway::start(&limit(10, "400ms", "window = \"fixed\""));
    flood(gateway.addr, &origin.url("/"), 30, 50);
    let stamps = origin.stamps();
    one_window(20, per, &stamps);
    let took = Duration::from_nanos(stamps[stamps.len() - 1] - stamps[0]);
    let windows = took.as_millis() / per.as_millis() + 2;
    assert!(stamps.len() as u128 <= 10 * windows, "{} in {took:?}: more than ten in a window", stamps.len());
}

#[test]
fn calendar_windows_hold_n_until_the_boundary() {
    let origin = Origin::start();
    let gateway =
        Gateway::start(&limit(3, "1h", "window = \"calendar\"\nzone = \"Europe/Berlin\"\nwhen_full = \"refuse\""));
    // An hour may end between two of them, once; it then lets three more through.
    let answers: Vec<Answer> = (0..8).map(|_| gateway.get(&origin.url("/"))).collect();
    let good = answers.iter().filter(|a| a.status == 200).count();
    assert!((3..=6).contains(&good), "{good}");
    let last = answers.iter().rfind(|answer| answer.status != 200).unwrap();
    check_ours(last, 429, "http_request_error");
    assert!(last.retry_after_ms() <= 3_600_000.0, "{}", last.text());
}

#[test]
fn a_flood_after_a_pause_still_finds_the_old_slots_taken() {
    let per = Duration::from_millis(500);
    for counts in ["sent", "answered"] {
        let origin = Origin::start();
        let gateway = Gateway::start(&limit(8, "500ms", &format!("counts = \"{counts}\"")));
        for _ in 0..3 {
            flood(gateway.addr, &origin.url("/"), 16, 8);
            std::thread::sleep(per * 9 / 10);
        }
        flood(gateway.addr, &origin.url("/"), 32, 16);
        one_window(8, per, &origin.stamps());
    }
}

#[test]
fn answered_holds_at_the_origins_own_door_whatever_the_network_does() {
    let origin = Origin::start();
    // Every other request of a connection is held up, so that early and late ones would arrive together.
    let relay = Relay::start(origin.addr, |connection, part| {
        Duration::from_millis(if (connection + part).is_multiple_of(2) { 150 } else { 0 })
    });
    let per = Duration::from_millis(300);
    let gateway = Gateway::start(&limit(6, "300ms", "counts = \"answered\""));
    flood(gateway.addr, &format!("http://{}/", relay.addr), 24, 36);
    one_window(6, per, &origin.stamps());
}

#[test]
fn a_slow_handshake_does_not_bunch_up_what_is_counted_as_sent() {
    let authority = Authority::new();
    // The first four connections take long, the later ones are quick.
    let slow = |number| std::thread::sleep(Duration::from_millis(if number < 4 { 300 } else { 0 }));
    let origin = Origin::late_tls(authority.server_config(Fault::None), slow, |_, link| link.answer(200, ""));
    let dir = Dir::new();
    let ca = authority.write(dir.path());
    let mut toml = limit(4, "400ms", "").replace("127.0.0.1", "localhost");
    toml += &format!("[[route]]\npath = \"/\"\nto = \"https://localhost:{}/\"\n\n", origin.port());
    toml += &format!("[tls]\ntrust = [\"{}\"]\n", ca.display());
    let gateway = Gateway::start_in(dir, &toml);
    flood(gateway.addr, "/", 12, 16);
    assert!(origin.kernel_stamps());
    // Had the slots run from the permits, a quarter of T would hold eight.
    one_window(4, Duration::from_millis(400), &origin.stamps());
}

#[test]
fn slow_answers_do_not_bunch_up_what_is_counted_as_answered() {
    let origin = Origin::scripted(|request, link| {
        // Some answers come late, some at once: what settles is not in the order of what was sent.
        std::thread::sleep(Duration::from_millis(u64::try_from(request.connection % 5).unwrap() * 20));
        link.answer(200, "")
    });
    let per = Duration::from_millis(300);
    let gateway = Gateway::start(&limit(6, "300ms", "counts = \"answered\""));
    flood(gateway.addr, &origin.url("/"), 24, 36);
    one_window(6, per, &origin.stamps());
}

#[test]
fn failures_and_hang_ups_never_let_more_through() {
    let origin = Origin::scripted(|request, link| match request.place % 4 {
        0 => Next::Die,
        1 => Next::Close,
        2 => {
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal");
            Next::Die
        }
        _ => link.answer(500, "no"),
    });
    let per = Duration::from_millis(300);
    let gateway = Gateway::start(&limit(6, "300ms", ""));
    let end = Instant::now() + PATIENCE;
    let request = format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", origin.url("/"));
    std::thread::scope(|scope| {
        for n in 0..20 {
            let (to, request, origin) = (gateway.addr, &request, &origin);
            scope.spawn(move || {
                while origin.count() < 36 {
                    assert!(Instant::now() < end, "{} arrived in {PATIENCE:?}", origin.count());
                    let mut caller = Caller::connect(to);
                    caller.send(request);
                    if n % 3 == 0 {
                        caller.stream.more(Instant::now() + Duration::from_millis(40)).ok();
                        caller.reset();
                    } else {
                        caller.try_answer("POST").ok();
                    }
                }
            });
        }
    });
    one_window(6, per, &origin.stamps());
}

#[test]
fn two_limits_hold_together() {
    let origin = Origin::start();
    let mut toml = limit(4, "200ms", "");
    toml += &limit(10, "1s", "").replace("the-limit", "the-other");
    let gateway = Gateway::start(&toml);
    flood(gateway.addr, &origin.url("/"), 30, 34);
    one_window(4, Duration::from_millis(200), &origin.stamps());
    one_window(10, Duration::from_secs(1), &origin.stamps());
}

#[test]
fn a_limit_that_refuses_takes_no_slot_of_another() {
    let origin = Origin::start();
    let mut toml = limit(4, "1h", "when_full = \"refuse\"");
    toml += "[[limit]]\nname = \"tight\"\nmatch = { host = [\"127.0.0.1\"], path = \"/tight\" }\nrequests = 1\n\
             per = \"1h\"\nwhen_full = \"refuse\"\n";
    let gateway = Gateway::start(&toml);
    assert_eq!(gateway.get(&origin.url("/tight")).status, 200);
    for _ in 0..10 {
        let answer = gateway.get(&origin.url("/tight"));
        check_ours(&answer, 429, "http_request_error");
        assert_eq!(answer.problem()["violated-policies"], serde_json::json!(["tight"]));
    }
    for n in 0..3 {
        assert_eq!(gateway.get(&origin.url("/wide")).status, 200, "{n}");
    }
    let answer = gateway.get(&origin.url("/wide"));
    check_ours(&answer, 429, "http_request_error");
    assert_eq!(answer.problem()["violated-policies"], serde_json::json!(["the-limit"]));
}

#[test]
fn an_origin_that_was_never_reached_gives_its_slot_back() {
    let dead = DeadPort::new();
    let gateway = Gateway::start(&limit(1, "1h", "when_full = \"refuse\""));
    for _ in 0..3 {
        let answer = gateway.get(&format!("http://127.0.0.1:{}/", dead.port()));
        check_ours(&answer, 502, "connection_refused");
    }
}

#[test]
fn the_promise_holds_over_every_kind_of_connection_at_once() {
    let origin = Origin::start();
    let per = Duration::from_millis(400);
    let toml = limit(10, "400ms", "")
        + &format!(
            "[access]\nconnect_ports = [{}]\n\n[[route]]\npath = \"/r/\"\nto = \"{}\"\n",
            origin.port(),
            origin.url("/")
        );
    let gateway = Gateway::start(&toml);
    let end = Instant::now() + PATIENCE;
    let authority = origin.authority();
    let requests = [
        format!("GET http://{authority}/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        "GET /r/x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        format!("GET http://{authority}/ HTTP/1.0\r\n\r\n"),
        format!("CONNECT {authority} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("CONNECT {authority} HTTP/1.1\r\nHost: b\r\n\r\n"),
    ];
    let inside = [format!("GET /plain HTTP/1.1\r\nHost: {authority}\r\n\r\n"), "SAY /t ECHO/1.1\r\n\r\n".to_owned()];
    std::thread::scope(|scope| {
        for n in 0..25 {
            let (to, request, origin) = (gateway.addr, &requests[n % 5], &origin);
            let tunnel = (n % 5).checked_sub(3).map(|kind| &inside[kind]);
            scope.spawn(move || {
                while origin.count() < 50 {
                    assert!(Instant::now() < end, "{} arrived in {PATIENCE:?}", origin.count());
                    let mut caller = Caller::connect(to);
                    let answer = caller.send(request).answer_to(if tunnel.is_some() { "CONNECT" } else { "GET" });
                    assert_eq!(answer.status, 200, "{}", answer.raw);
                    if let Some(inside) = tunnel {
                        assert_eq!(caller.send(inside).answer().status, 200);
                    }
                }
            });
        }
    });
    // An opaque tunnel's request is sent by its caller, later than the permit: only what the gateway itself sends is judged exactly.
    let own: Vec<u64> = origin.requests().iter().filter(|r| r.target != "/t").map(|r| r.stamp).collect();
    one_window(10, per, &own);
}

#[test]
fn one_limit_holds_over_all_listeners() {
    let origin = Origin::start();
    let per = Duration::from_millis(300);
    let toml = format!("[listen]\nproxy = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\n\n{}", limit(5, "300ms", ""));
    let gateway = Gateway::start(&toml);
    let second = gateway.log_line("listening on 127.0.0.2:");
    let second: SocketAddr = second.split_once("listening on ").unwrap().1.trim().parse().unwrap();
    let url = origin.url("/");
    let (first, others) = (gateway.addr, url.clone());
    let half = thread(move || flood(first, &others, 8, 12));
    let good = flood(second, &url, 8, 12) + half.join().unwrap();
    one_window(5, per, &origin.stamps());
    assert_eq!(good, origin.count());
}
