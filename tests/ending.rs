//! How the gateway ends, and what it does when the machine has nothing left to give.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, test_kill_process};

use crate::admin::{json, queued, watched};
use crate::support::*;

#[test]
fn on_sigterm_running_requests_finish_and_new_ones_are_not_taken() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |_, link| {
        link.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
        wait.lock().unwrap().recv_timeout(PATIENCE).ok();
        link.send("lf");
        Next::Keep
    });
    let mut gateway = Gateway::start(UNLIMITED);
    let mut idle = gateway.caller();
    let mut caller = gateway.caller();
    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))).head();
    gateway.signal(Signal::TERM);
    idle.expect_end();
    eventually("no new connection is taken", || {
        std::net::TcpStream::connect_timeout(&gateway.addr, Duration::from_secs(5)).map_or(true, |tcp| {
            let mut late = stream::Stream::plain(tcp);
            late.more(Instant::now() + Duration::from_millis(100)).is_err_and(|stop| stop != stream::Stop::Silence)
        })
    });
    go.send(()).unwrap();
    assert_eq!(caller.bytes(4), b"half");
    caller.expect_end();
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn an_end_of_the_new_process_lets_the_waiters_of_the_old_one_go() {
    let origin = Origin::start();
    let ask = |path: &str| format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url(path));
    let (mut gateway, admin) = watched(&limit(1, "3s", ""), "");
    // An idle connection of the old process keeps neither of them.
    let mut idle = gateway.caller();
    assert_eq!(idle.send(ask("/1")).answer().status, 200);
    let mut waits = gateway.caller();
    waits.send(ask("/2"));
    queued(admin, "the-limit", 1);
    gateway.hand_over();
    let successor = gateway.serving();
    kill_process(successor, Signal::TERM).unwrap();
    assert_eq!(waits.answer().status, 200);
    assert!(gateway.ended().success());
    eventually("the end of the new process", || test_kill_process(successor).is_err());
}

#[test]
fn on_sigterm_waiters_that_cannot_go_in_time_get_a_503_and_the_others_go() {
    let origin = Origin::start();
    let mut toml = limit(1, "1s", "max_wait = \"1h\"");
    toml +=
        "[[limit]]\nname = \"long\"\nmatch = { path = \"/long\" }\nrequests = 1\nper = \"1h\"\nmax_wait = \"2h\"\n\n";
    toml += "[timeouts]\ndrain = \"10s\"\n";
    let (mut gateway, admin) = watched(&toml, "");
    assert_eq!(gateway.get(&origin.url("/long")).status, 200);
    let mut lost = gateway.caller();
    lost.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/long")));
    let mut kept = gateway.caller();
    kept.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/short")));
    queued(admin, "long", 1);
    // On a slow machine its slot may be free before it comes.
    eventually("it is in the queue, or on its way", || {
        json(admin, "/v1/limits/the-limit")["waiting"] == 2 || origin.targets().contains(&"/short".to_owned())
    });
    gateway.signal(Signal::TERM);
    let answer = lost.answer();
    check_ours(&answer, 503, "proxy_internal_response|connection_limit_reached");
    assert!(answer.field("retry-after").is_some(), "{}", answer.raw);
    assert_eq!(kept.answer().status, 200, "a second is well within the drain");
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_drain_has_an_end_and_a_second_signal_is_one() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
        link.wait_for_close();
        Next::Close
    });
    for (drain, signals) in [("300ms", 1), ("1h", 2)] {
        let toml =
            format!("{UNLIMITED}[access]\nconnect_ports = [{}]\n[timeouts]\ndrain = \"{drain}\"\n", origin.port());
        let mut gateway = Gateway::start(&toml);
        let mut caller = gateway.caller();
        caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))).head();
        let mut tunnel = gateway.caller();
        tunnel.send(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.authority())).head();
        let mut idle = gateway.caller();
        assert_eq!(idle.send(ASK).answer_to("OPTIONS").status, 200);
        gateway.signal(Signal::TERM);
        if signals == 2 {
            // Two signals that come at once are one to the kernel.
            idle.expect_end();
            gateway.signal(Signal::TERM);
        }
        gateway.ended();
    }
}

#[test]
fn sigint_drains_as_sigterm_does() {
    let mut gateway = Gateway::start(UNLIMITED);
    gateway.signal(Signal::INT);
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_closed_stdout_does_not_stop_the_gateway() {
    static SERVED: AtomicUsize = AtomicUsize::new(0);
    let origin = Origin::scripted(|_, link| {
        SERVED.fetch_add(1, Ordering::SeqCst);
        link.answer(200, "")
    });
    let mut gateway = Gateway::start(UNLIMITED);
    gateway.close_stdout();
    for _ in 0..20 {
        assert_eq!(gateway.get(&origin.url("/")).status, 200);
    }
    assert_eq!(SERVED.load(Ordering::SeqCst), 20);
}

#[test]
fn a_gateway_out_of_descriptors_goes_on_when_there_are_some_again() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    assert_eq!(gateway.get(&origin.url("/before")).status, 200);
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid().as_raw_nonzero())).unwrap().count();
    let few = Rlimit { current: Some(u64::try_from(open).unwrap() + 6), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(gateway.pid()), Resource::Nofile, few).unwrap();
    let crowd: Vec<Caller> = (0..40).map(|_| gateway.caller()).collect();
    // Whoever was let in holds what there is; the others wait in the kernel.
    std::thread::sleep(Duration::from_millis(100));
    drop(crowd);
    let mut last = 0;
    eventually("it serves again", || {
        last = gateway.get(&origin.url("/after")).status;
        last == 200
    });
    let complaints = gateway.stderr().lines().filter(|l| l.contains("descriptor") || l.contains("accept")).count();
    assert!(complaints <= 8, "once per episode, not once per try: {}", gateway.stderr());
}

#[test]
fn descriptors_of_idle_connections_serve_the_next_request() {
    let (first, second) = (Origin::start(), Origin::start());
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    // Kept to the first origin, idle.
    let get = |origin: &Origin| format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url("/"), origin.authority());
    assert_eq!(caller.send(get(&first)).answer().status, 200);
    leave_no_descriptor(&gateway);
    let answer = caller.send(get(&second)).answer();
    assert_eq!(answer.status, 200, "{}", answer.raw);
}

/// From here on the gateway can open nothing before it has closed something.
fn leave_no_descriptor(gateway: &Gateway) {
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid().as_raw_nonzero())).unwrap();
    let open: Vec<u64> = open.map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    let first_free = (0..).find(|fd| !open.contains(fd));
    let none_left = Rlimit { current: first_free, maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(gateway.pid()), Resource::Nofile, none_left).unwrap();
}

/// What the gateway answers itself, without a connection to anywhere.
const ASK: &str = "OPTIONS http://a.invalid/ HTTP/1.1\r\nHost: a.invalid\r\nMax-Forwards: 0\r\n\r\n";

#[test]
fn descriptors_of_idle_connections_of_another_thread_serve_the_next_request() {
    let (first, second) = (Origin::start(), Origin::start());
    let gateway = Gateway::start(UNLIMITED);
    // Where there are two cores, each has a thread of its own.
    let (mut caller, mut other) = (gateway.caller(), gateway.caller());
    assert_eq!(caller.send(ASK).answer().status, 200);
    let get = |origin: &Origin| format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url("/"), origin.authority());
    assert_eq!(other.send(get(&first)).answer().status, 200);
    // The connection to the origin is idle before the next request of the same caller is read.
    assert_eq!(other.send(ASK).answer().status, 200);
    leave_no_descriptor(&gateway);
    let answer = caller.send(get(&second)).answer();
    assert_eq!(answer.status, 200, "{}", answer.raw);
}

#[test]
fn descriptors_of_idle_connections_let_the_next_caller_in() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    let get = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url("/"), origin.authority());
    assert_eq!(caller.send(get).answer().status, 200);
    // The connection to the origin is idle before the next request of the same caller is read.
    assert_eq!(caller.send(ASK).answer().status, 200);
    leave_no_descriptor(&gateway);
    assert_eq!(gateway.caller().send(ASK).answer().status, 200);
}
