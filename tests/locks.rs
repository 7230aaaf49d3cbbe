//! Locks over REST: the calls of restful-distributed-lock-manager's clients, and what was wrong there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::admin::ask;
use crate::support::gateway::Dir;
use crate::support::*;

/// A gateway that gives locks, and where.
#[track_caller]
fn locking() -> (Gateway, SocketAddr) {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let dir = Dir::new();
    dir.write("operators", &format!("operator:{}\n", bcrypt::hash("secret", 4).unwrap()));
    (Gateway::start_in(dir, &format!("{UNLIMITED}[locks]\nlisten = \"{addr}\"\nusers = \"operators\"\n")), addr)
}

fn post(addr: SocketAddr, resource: &str, body: &str) -> Caller {
    let mut caller = Caller::connect(addr);
    caller.send(format!(
        "POST /locks/{resource} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ));
    caller
}

fn wish(wait: f64, lifetime: f64) -> String {
    format!("{{\"title\": \"a test\", \"wait\": {wait}, \"lifetime\": {lifetime}}}")
}

/// Takes a lock, and says under which path it is.
#[track_caller]
fn take(addr: SocketAddr, resource: &str, wait: f64, lifetime: f64) -> String {
    let answer = post(addr, resource, &wish(wait, lifetime)).answer_to("POST");
    assert_eq!(answer.status, 201, "{}", answer.raw);
    let location = answer.field("location").unwrap();
    let path = location.strip_prefix(&format!("http://{addr}")).unwrap().to_owned();
    assert!(path.starts_with(&format!("/locks/{resource}/")), "{path}");
    path
}

fn status(addr: SocketAddr, method: &str, path: &str) -> u16 {
    ask(addr, method, path, "").status
}

/// As an operator.
fn order(addr: SocketAddr, method: &str, path: &str) -> Answer {
    ask(addr, method, path, &format!("Authorization: {}\r\n", basic("operator", "secret")))
}

#[test]
fn a_lock_is_taken_seen_and_given_back_as_the_old_clients_do_it() {
    let (_gateway, addr) = locking();
    let path = take(addr, "resource1", 5.0, 60.0);
    let answer = ask(addr, "GET", &path, "");
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/hal+json")));
    let lock: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!((lock["title"].as_str(), lock["wait"].as_i64()), (Some("a test"), Some(5)));
    assert_eq!((lock["lifetime"].as_i64(), lock["active"].as_bool()), (Some(60), Some(true)));
    assert_eq!(lock["_links"]["self"]["href"].as_str(), Some(path.as_str()));
    assert_eq!(lock["_links"]["resource"]["href"].as_str(), Some("/resources/resource1"));
    let moment = lock["active_since"].as_str().unwrap();
    assert!(moment.len() == 26 && moment.as_bytes()[10] == b'T' && moment.as_bytes()[19] == b'.', "{moment}");
    assert_eq!(status(addr, "DELETE", &path.replace("resource1", "resource2")), 404);
    assert_eq!(status(addr, "DELETE", &path), 204);
    assert_eq!([status(addr, "DELETE", &path), status(addr, "GET", &path)], [404, 404]);
}

#[test]
fn what_makes_no_sense_is_refused_with_words() {
    let (_gateway, addr) = locking();
    for body in
        ["", "{\"title\": \"a", "{\"wait\": 5, \"lifetime\": 10}", &wish(-1.0, 5.0), &wish(1.0, 0.0), &wish(1.0, 1e9)]
    {
        let answer = post(addr, "r", body).answer_to("POST");
        assert_eq!(answer.status, 400, "{body}: {}", answer.raw);
        assert!(answer.text().contains("detail"), "{}", answer.raw);
    }
    let answer = post(addr, "a%2fb", &wish(1.0, 1.0)).answer_to("POST");
    assert_eq!(answer.status, 400, "{}", answer.raw);
    let mut page = Caller::connect(addr);
    page.send(format!(
        "DELETE /locks/a/b HTTP/1.1\r\nHost: {addr}\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n"
    ));
    assert_eq!(page.answer_to("DELETE").status, 403);
}

#[test]
fn whoever_does_not_get_it_in_time_is_told_so_and_holders_follow_one_another_in_order() {
    let (_gateway, addr) = locking();
    let first = take(addr, "r", 0.0, 60.0);
    let since = Instant::now();
    assert_eq!(post(addr, "r", &wish(0.15, 60.0)).answer_to("POST").status, 408);
    assert!(since.elapsed() >= Duration::from_millis(150));
    assert_eq!(post(addr, "r", &wish(0.0, 60.0)).answer_to("POST").status, 408);
    // Another resource is another's.
    take(addr, "r2", 0.0, 60.0);
    let mut waiting = Vec::new();
    for number in 0..4 {
        waiting.push(post(addr, "r", &wish(20.0, 60.0)));
        eventually("it waits", || locks(addr, "r").len() == number + 2);
    }
    let mut held = first;
    for mut next in waiting {
        assert_eq!(status(addr, "DELETE", &held), 204);
        let answer = next.answer_to("POST");
        assert_eq!(answer.status, 201);
        held = answer.field("location").unwrap().strip_prefix(&format!("http://{addr}")).unwrap().to_owned();
        assert_eq!(status(addr, "GET", &held), 200);
    }
}

fn locks(addr: SocketAddr, resource: &str) -> Vec<Value> {
    let answer = order(addr, "GET", &format!("/resources/{resource}"));
    assert_eq!(answer.status, 200, "{}", answer.raw);
    let value: Value = serde_json::from_str(&answer.text()).unwrap();
    value["_embedded"]["locks"].as_array().unwrap().clone()
}

#[test]
fn a_lock_ends_by_itself_and_the_next_gets_it_then() {
    let (_gateway, addr) = locking();
    let since = Instant::now();
    let first = take(addr, "r", 0.0, 0.25);
    let second = take(addr, "r", 20.0, 60.0);
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(250), "{took:?}: the first had it for 250 ms");
    assert_eq!(
        [status(addr, "GET", &first), status(addr, "DELETE", &first), status(addr, "GET", &second)],
        [404, 404, 200]
    );
}

#[test]
fn a_waiter_that_hangs_up_is_forgotten() {
    let (_gateway, addr) = locking();
    let held = take(addr, "r", 0.0, 60.0);
    let gone = post(addr, "r", &wish(60.0, 60.0));
    eventually("it waits", || locks(addr, "r").len() == 2);
    gone.hang_up();
    eventually("it is forgotten", || locks(addr, "r").len() == 1);
    let mut next = post(addr, "r", &wish(60.0, 60.0));
    eventually("another waits", || locks(addr, "r").len() == 2);
    assert_eq!(status(addr, "DELETE", &held), 204);
    assert_eq!(next.answer_to("POST").status, 201);
    assert_eq!(locks(addr, "r").len(), 1);
}

#[test]
fn waiters_hold_no_memory_for_the_heads_and_contents_of_their_requests() {
    const WAITERS: usize = 200;
    let (gateway, addr) = locking();
    take(addr, "r", 0.0, 600.0);
    let fields: String = (0..15).map(|number| format!("X-{number}: {}\r\n", "x".repeat(4000))).collect();
    let body = wish(600.0, 600.0) + &" ".repeat(60 << 10);
    let length = body.len();
    let request = format!("POST /locks/r HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {length}\r\n{fields}\r\n{body}");
    let before = gateway.memory_kib();
    let _waiting: Vec<Caller> = (0..WAITERS)
        .map(|number| {
            let mut caller = Caller::connect(addr);
            caller.send(&request);
            eventually("it waits", || locks(addr, "r").len() == number + 2);
            caller
        })
        .collect();
    let grown = gateway.memory_kib() - before;
    // Each connection keeps its buffer, into which both were read in turn.
    assert!(grown < 128 * WAITERS as u64, "{grown} KiB for {WAITERS} waiters");
}

#[test]
fn a_head_of_64_kib_is_too_large_and_so_is_a_host_that_is_none() {
    let (_gateway, addr) = locking();
    let mut caller = Caller::connect(addr);
    let head = format!("GET /locks/r/uid HTTP/1.1\r\nHost: {addr}\r\nX: ");
    caller.send(head.clone() + &"x".repeat((64 << 10) - head.len()));
    assert_eq!(caller.answer().status, 431);
    let body = wish(0.0, 60.0);
    let mut caller = Caller::connect(addr);
    let (length, host) = (body.len(), format!("127.0.0.1:{}", "1".repeat(1000)));
    caller.send(format!(
        "POST /locks/r HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ));
    assert_eq!(caller.answer_to("POST").status, 400);
}

#[test]
fn the_holder_is_listed_before_its_waiters() {
    let (_gateway, addr) = locking();
    let held = take(addr, "r", 0.0, 600.0);
    let mut waiting = Vec::new();
    for number in 0..2 {
        waiting.push(post(addr, "r", &wish(600.0, 600.0)));
        eventually("it waits", || locks(addr, "r").len() == number + 2);
    }
    let active = || locks(addr, "r").iter().map(|lock| lock["active"] == true).collect::<Vec<_>>();
    assert_eq!(active(), [true, false, false]);
    assert_eq!(status(addr, "DELETE", &held), 204);
    assert_eq!(waiting[0].answer_to("POST").status, 201);
    assert_eq!(active(), [true, false]);
}

#[test]
fn operators_see_all_locks_and_end_them_and_nobody_else_does() {
    let (_gateway, addr) = locking();
    for (method, path) in
        [("GET", "/resources"), ("DELETE", "/resources"), ("GET", "/resources/r"), ("DELETE", "/resources/r")]
    {
        let answer = ask(addr, method, path, "");
        assert_eq!(answer.status, 401, "{method} {path}");
        assert!(answer.field("www-authenticate").unwrap().starts_with("Basic "));
    }
    let held = [take(addr, "r", 0.0, 60.0), take(addr, "s", 0.0, 60.0)];
    let mut waiting = post(addr, "r", &wish(60.0, 60.0));
    eventually("it waits", || locks(addr, "r").len() == 2);
    assert_eq!(locks(addr, "r")[1]["active"].as_bool(), Some(false));
    let all: Value = serde_json::from_str(&order(addr, "GET", "/resources").text()).unwrap();
    let names: Vec<_> =
        all["_embedded"]["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["r", "s"]);
    assert_eq!(order(addr, "DELETE", "/resources/nobody").status, 404);
    assert_eq!(order(addr, "DELETE", "/resources").status, 204);
    assert_eq!(waiting.answer_to("POST").status, 409);
    assert!(held.iter().all(|path| status(addr, "GET", path) == 404));
    // Nothing is left of them.
    take(addr, "r", 0.0, 60.0);
    assert_eq!(order(addr, "DELETE", "/resources/r").status, 204);
    let all: Value = serde_json::from_str(&order(addr, "GET", "/resources").text()).unwrap();
    assert_eq!(all["_embedded"]["resources"].as_array().unwrap().len(), 0);
}

#[test]
fn locks_outlive_a_kill_a_stop_and_a_process_that_takes_over() {
    let (mut gateway, addr) = locking();
    let kept = take(addr, "kept", 0.0, 600.0);
    let returned = take(addr, "returned", 0.0, 600.0);
    assert_eq!(status(addr, "DELETE", &returned), 204);
    let short = take(addr, "short", 0.0, 0.05);
    std::thread::sleep(Duration::from_millis(60));
    for signal in [Signal::KILL, Signal::TERM] {
        gateway.signal(signal);
        gateway.ended();
        gateway = gateway.again();
        assert_eq!(
            [status(addr, "GET", &kept), status(addr, "GET", &returned), status(addr, "GET", &short)],
            [200, 404, 404]
        );
        assert_eq!(post(addr, "kept", &wish(0.0, 1.0)).answer_to("POST").status, 408);
    }
    let mut waiting = post(addr, "kept", &wish(60.0, 60.0));
    eventually("it waits", || locks(addr, "kept").len() == 2);
    gateway.hand_over();
    let answer = waiting.answer_to("POST");
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{}", answer.raw);
    eventually("the new process gives locks", || status(addr, "GET", &kept) == 200);
    assert_eq!(post(addr, "kept", &wish(0.0, 1.0)).answer_to("POST").status, 408);
    assert_eq!(status(addr, "DELETE", &kept), 204);
    take(addr, "kept", 0.0, 60.0);
}

#[test]
fn two_clients_that_never_release_hand_a_lock_over_again_and_again() {
    let (_gateway, addr) = locking();
    let since = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..20).for_each(|_| drop(take(addr, "r", 10.0, 0.02))));
        }
    });
    // One after the other: each but the last had it for its whole time.
    assert!(since.elapsed() >= Duration::from_millis(39 * 20), "{:?}: two held it at one time", since.elapsed());
}

#[test]
fn callers_do_not_reach_the_lock_service_by_way_of_the_gateway() {
    let gateway = Gateway::start(&format!("{UNLIMITED}[locks]\nlisten = \"127.0.0.1:0\"\n"));
    eventually("locks are given", || gateway.stderr().contains("lock service listening address="));
    let told = gateway.stderr();
    let addr = told.split("lock service listening address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let body = wish(0.0, 3600.0);
    let take = format!(
        "POST http://{addr}/locks/r HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    check_ours(&gateway.exchange(&take), 508, "proxy_loop_detected");
    // Nor when the file no longer names it, or names another address: the service stays where it is until a restart.
    for locks in ["", "[locks]\nlisten = \"127.0.0.1:1\"\n"] {
        assert!(gateway.reload(&format!("{UNLIMITED}{locks}")));
        check_ours(&gateway.exchange(&take), 508, "proxy_loop_detected");
    }
}

#[test]
fn a_web_page_with_a_name_of_its_own_for_loopback_gets_no_lock() {
    let (_gateway, addr) = locking();
    let body = wish(0.0, 60.0);
    let take = |host: &str| {
        let mut page = Caller::connect(addr);
        let length = body.len();
        page.send(format!(
            "POST /locks/r HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ));
        page.answer_to("POST").status
    };
    assert_eq!(take("evil.example:7777"), 421);
    assert_eq!(take("localhost:7777"), 201, "it was free");
}
