//! Who waits, goes in turn, the moment a slot opens; who hangs up is forgotten; who cannot go in time is told at once.

use std::time::Duration;

use crate::admin::{json, metrics, queued, watched};
use crate::support::*;
use crate::tuning::tune;

/// A limit whose slots are all taken and do not open before [`Closed::open`]: until then a queue forms in an order that no
/// slow machine changes.
pub(crate) struct Closed {
    pub(crate) gateway: Gateway,
    pub(crate) admin: std::net::SocketAddr,
    origin: Origin,
    queued: usize,
}

impl Closed {
    fn new(requests: u32, more: &str) -> Closed {
        let origin = Origin::start();
        let (gateway, admin) = watched(&limit(requests, "1h", &format!("max_wait = \"12h\"\n{more}")), "");
        fill(&gateway, &origin, requests as usize);
        Closed { gateway, admin, origin, queued: 0 }
    }

    /// Sends a GET, and returns once it is in the queue.
    fn line_up(&mut self, ip: &str, path: &str, fields: &str) -> Caller {
        let mut caller = Caller::connect_from(ip, self.gateway.addr);
        caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n{fields}\r\n", self.origin.url(path)));
        self.queued += 1;
        queued(self.admin, "the-limit", self.queued);
        caller
    }

    /// Returns once so many have left the queue.
    fn left(&mut self, count: usize) {
        self.queued -= count;
        queued(self.admin, "the-limit", self.queued);
    }

    /// One that callers of `ip` with a time-out of a second have left until it shows.
    pub(crate) fn left_again_and_again(ip: &str) -> Closed {
        let mut closed = Closed::new(1, "");
        // A busy machine makes some of the waits longer.
        for _ in 0..30 {
            let waiters = [closed.line_up(ip, "/1", ""), closed.line_up(ip, "/2", "")];
            std::thread::sleep(Duration::from_secs(1));
            waiters.into_iter().for_each(Caller::hang_up);
            closed.left(2);
            if !json(closed.admin, "/v1/limits/the-limit")["hang_ups"].is_null() {
                return closed;
            }
        }
        panic!("their time-out does not show: {}", json(closed.admin, "/v1/limits/the-limit"));
    }

    /// From here on a slot opens `per` after its last use.
    fn open(&self, per: &str) {
        tune(self.admin, "the-limit", &format!("\"per\": \"{per}\""));
    }
}

/// Takes every slot of a limit of `requests`.
fn fill(gateway: &Gateway, origin: &Origin, requests: usize) {
    let threads: Vec<_> = (0..requests)
        .map(|_| {
            let (to, request) = (gateway.addr, gateway::get(&origin.url("/fill")));
            thread(move || assert_eq!(Caller::connect(to).send(request).answer().status, 200))
        })
        .collect();
    threads.into_iter().for_each(|one| one.join().unwrap());
}

/// The targets that arrived after the slots were filled.
fn went(origin: &Origin) -> Vec<String> {
    origin.targets().into_iter().filter(|t| t != "/fill").collect()
}

#[test]
fn waiters_go_in_the_order_they_came() {
    let mut closed = Closed::new(2, "");
    let names: Vec<String> = (0..8).map(|n| format!("/{n}")).collect();
    let mut callers: Vec<Caller> = names.iter().map(|name| closed.line_up("127.0.0.1", name, "")).collect();
    closed.open("700ms");
    for caller in &mut callers {
        assert_eq!(caller.answer().status, 200);
    }
    // Two go at one opening, each over a connection of its own: which of the two arrives first is the network's affair.
    let went = went(&closed.origin);
    for (pair, wanted) in went.chunks(2).zip(names.chunks(2)) {
        let mut pair = pair.to_vec();
        pair.sort_unstable();
        assert_eq!(pair, wanted, "{went:?}");
    }
}

#[test]
fn a_waiter_that_hangs_up_gives_its_turn_to_the_next() {
    let mut closed = Closed::new(1, "");
    let (closing, resetting) = (closed.line_up("127.0.0.1", "/closed", ""), closed.line_up("127.0.0.1", "/reset", ""));
    let mut staying = closed.line_up("127.0.0.1", "/stays", "");
    closing.hang_up();
    resetting.reset();
    closed.left(2);
    closed.open("300ms");
    assert_eq!(staying.answer().status, 200);
    assert_eq!(went(&closed.origin), ["/stays"], "the dead did not go");
}

#[test]
fn a_waiter_that_hangs_up_is_told_apart_in_the_log_and_the_metrics() {
    let mut closed = Closed::new(1, "");
    let waiter = closed.line_up("127.0.0.1", "/gone", "");
    std::thread::sleep(Duration::from_millis(50));
    waiter.hang_up();
    closed.left(1);
    let line = closed.gateway.log_line("/gone");
    assert!(line.contains(" 499 ") && line.contains("note=hung_up_in_queue"), "{line}");
    let waited = line.split("waited=").nth(1).and_then(|rest| rest.split("ms").next()).unwrap();
    assert!(waited.parse::<f64>().unwrap() >= 50.0, "{line}");
    let told = metrics(closed.admin);
    assert_eq!(told["lockgate_cancelled_waiters_total{limit=\"the-limit\"}"], 1.0);
    assert_eq!(told["lockgate_cancelled_wait_seconds_count{limit=\"the-limit\"}"], 1.0);
    assert!(told["lockgate_cancelled_wait_seconds_sum{limit=\"the-limit\"}"] >= 0.05);
}

#[test]
fn callers_that_hang_up_again_and_again_after_the_same_time_are_named_with_what_to_do() {
    let closed = Closed::left_again_and_again("127.0.0.7");
    closed.gateway.complains("callers of the-limit, all of 127.0.0.7, hang up after");
    let told = closed.gateway.stderr();
    assert!(told.contains("while max_wait is 12h: give them a longer time-out, or set max_wait = "), "{told}");
    assert_eq!(told.matches("hang up after").count(), 1, "once a minute: {told}");
    let shown = &json(closed.admin, "/v1/limits/the-limit")["hang_ups"];
    assert_eq!(shown["caller"], "127.0.0.7");
    assert!(shown["after_ms"].as_f64().unwrap() >= 1000.0, "{shown}");
    assert!(shown["advice"].as_str().unwrap().contains("hang up after"), "{shown}");
}

#[test]
fn a_waiter_behind_a_pipelined_request_is_still_seen_to_hang_up() {
    let mut closed = Closed::new(1, "");
    let two = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", closed.origin.url("/second"));
    let gone = closed.line_up("127.0.0.1", "/first", &format!("\r\n{}", two.strip_suffix("\r\n").unwrap()));
    let mut staying = closed.line_up("127.0.0.1", "/stays", "");
    gone.reset();
    closed.left(1);
    closed.open("300ms");
    assert_eq!(staying.answer().status, 200);
    assert_eq!(went(&closed.origin), ["/stays"]);
}

#[test]
fn half_of_a_thousand_waiters_hang_up_and_the_others_lose_nothing() {
    const SLOTS: usize = 250;
    let closed = Closed::new(250, "max_waiting = 2000");
    let mut callers: Vec<(usize, Caller)> = (0..1000)
        .map(|n| {
            let mut caller = closed.gateway.caller();
            caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", closed.origin.url(&format!("/{n}"))));
            (n, caller)
        })
        .collect();
    queued(closed.admin, "the-limit", 1000);
    let (dead, mut alive): (Vec<_>, Vec<_>) = callers.drain(..).partition(|(n, _)| n % 2 == 0);
    for (n, caller) in dead {
        if n % 4 == 0 { caller.hang_up() } else { caller.reset() }
    }
    queued(closed.admin, "the-limit", 500);
    closed.open("2s");
    for (n, caller) in &mut alive {
        let answer = caller.answer();
        assert_eq!((answer.status, answer.text()), (200, format!("/{n}")));
    }
    let went = went(&closed.origin);
    let odd = went.iter().filter(|t| t[1..].parse::<usize>().unwrap() % 2 == 1).count();
    assert_eq!((odd, went.len()), (500, 500), "all of the living went, and none of the dead");
    one_window(SLOTS, Duration::from_secs(2), &closed.origin.stamps());
}

#[test]
fn callers_take_turns() {
    let mut closed = Closed::new(1, "share_by = \"caller\"");
    let mut callers = Vec::new();
    for n in 0..5 {
        callers.push(closed.line_up("127.0.0.2", &format!("/many/{n}"), ""));
    }
    for n in 0..2 {
        callers.push(closed.line_up("127.0.0.3", &format!("/few/{n}"), ""));
    }
    closed.open("300ms");
    callers.iter_mut().for_each(|c| assert_eq!(c.answer().status, 200));
    let went = went(&closed.origin);
    let few: Vec<usize> = (0..7).filter(|at| went[*at].starts_with("/few")).collect();
    assert!(few[0] <= 1 && few[1] <= 3, "the one with two requests goes every other time: {went:?}");
    let many: Vec<&String> = went.iter().filter(|t| t.starts_with("/many")).collect();
    assert!(many.is_sorted(), "and each caller's own go in order: {went:?}");
}

#[test]
fn without_turns_first_come_is_first_served() {
    let mut closed = Closed::new(1, "share_by = \"none\"");
    let mut callers: Vec<Caller> = (0..4).map(|n| closed.line_up("127.0.0.2", &format!("/{n}"), "")).collect();
    callers.push(closed.line_up("127.0.0.3", "/4", ""));
    closed.open("300ms");
    callers.iter_mut().for_each(|c| assert_eq!(c.answer().status, 200));
    assert_eq!(went(&closed.origin), ["/0", "/1", "/2", "/3", "/4"]);
}

#[test]
fn the_more_urgent_go_first() {
    let mut closed = Closed::new(1, "");
    let mut callers = [("/late", "Priority: u=6\r\n"), ("/usual", ""), ("/soon", "Priority: u=0, i\r\n")]
        .map(|(path, fields)| closed.line_up("127.0.0.1", path, fields));
    closed.open("300ms");
    callers.iter_mut().for_each(|c| assert_eq!(c.answer().status, 200));
    assert_eq!(went(&closed.origin), ["/soon", "/usual", "/late"]);
    assert_eq!(closed.origin.requests()[1].field("priority"), Some("u=0, i"), "the origin may heed it too");
}

#[test]
fn who_would_wait_too_long_is_refused_on_arrival() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "max_wait = \"60s\""));
    fill(&gateway, &origin, 1);
    // No answer of the tests is waited for that long.
    let answer = gateway.get(&origin.url("/"));
    check_ours(&answer, 429, "http_request_error");
    let told = answer.retry_after_ms();
    assert!((3_500_000.0..=3_600_000.0).contains(&told), "{told}");
    assert_eq!(answer.problem()["violated-policies"], serde_json::json!(["the-limit"]));
    assert_eq!(went(&origin).len(), 0);
}

#[test]
fn a_refused_caller_that_comes_back_when_told_goes() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "600ms", "when_full = \"refuse\""));
    for _ in 0..3 {
        let mut answer = gateway.get(&origin.url("/"));
        // On a slow machine the slot may be free again before the next one comes.
        while answer.status == 200 {
            answer = gateway.get(&origin.url("/"));
        }
        check_ours(&answer, 429, "http_request_error");
        std::thread::sleep(Duration::from_secs_f64(answer.retry_after_ms() / 1000.0));
        assert_eq!(gateway.get(&origin.url("/")).status, 200);
    }
}

#[test]
fn prefer_wait_shortens_the_patience_and_never_lengthens_it() {
    let closed = Closed::new(1, "");
    let ask = |gateway: &Gateway, prefer: &str| {
        gateway.exchange(format!(
            "GET {} HTTP/1.1\r\nHost: a\r\nPrefer: {prefer}\r\nConnection: close\r\n\r\n",
            closed.origin.url("/p")
        ))
    };
    check_ours(&ask(&closed.gateway, "wait=0"), 429, "http_request_error");
    check_ours(&ask(&closed.gateway, "respond-async, WAIT=0"), 429, "http_request_error");
    closed.open("3s");
    assert_eq!(ask(&closed.gateway, "wait=20").status, 200);
    let short = Gateway::start(&limit(1, "1h", "max_wait = \"10s\""));
    fill(&short, &closed.origin, 1);
    check_ours(&ask(&short, "wait=9000"), 429, "http_request_error");
}

#[test]
fn a_full_queue_refuses_the_next() {
    let mut closed = Closed::new(1, "max_waiting = 2");
    let mut first = closed.line_up("127.0.0.1", "/1", "");
    let second = closed.line_up("127.0.0.1", "/2", "");
    check_ours(&closed.gateway.get(&closed.origin.url("/3")), 429, "http_request_error");
    second.hang_up();
    closed.left(1);
    let mut fourth = closed.line_up("127.0.0.1", "/4", "");
    closed.open("300ms");
    assert_eq!((first.answer().status, fourth.answer().status), (200, 200));
    assert_eq!(went(&closed.origin), ["/1", "/4"]);
}

#[test]
fn in_flight_counts_until_the_end_of_the_response() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |_, link| {
        link.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
        wait.lock().unwrap().recv_timeout(PATIENCE).ok();
        link.send("0\r\n\r\n");
        Next::Keep
    });
    let toml = "[[limit]]\nname = \"few\"\nmatch = { host = [\"127.0.0.1\"] }\nin_flight = 2\n";
    let (gateway, admin) = watched(toml, "");
    let mut callers: Vec<Caller> = Vec::new();
    for n in 0..4 {
        let mut caller = gateway.caller();
        caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url(&format!("/{n}"))));
        callers.push(caller);
        match n {
            0 | 1 => eventually("it is on its way", || origin.count() == n + 1),
            _ => queued(admin, "few", n - 1),
        }
    }
    callers[2].expect_silence(Duration::from_millis(150));
    assert_eq!(origin.count(), 2, "the heads of two responses came, but not their ends");
    go.send(()).unwrap();
    eventually("the third goes when one has ended", || origin.count() == 3);
    queued(admin, "few", 1);
    assert_eq!(origin.count(), 3);
    (0..3).for_each(|_| go.send(()).unwrap());
    callers.iter_mut().for_each(|c| assert_eq!(c.answer().text(), "x"));
}

#[test]
fn in_flight_ends_when_the_caller_hangs_up() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
        link.wait_for_close();
        Next::Close
    });
    let toml = "[[limit]]\nname = \"few\"\nmatch = { host = [\"127.0.0.1\"] }\nin_flight = 1\n";
    let gateway = Gateway::start(toml);
    for n in 0..3 {
        let mut caller = gateway.caller();
        caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/")));
        assert!(caller.head().starts_with("HTTP/1.1 200 "), "{n}");
        caller.reset();
    }
    assert_eq!(origin.count(), 3);
}
