//! kill -9 at any moment, and a start right after: never more than N in any span of T at the origin.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::*;

/// A gateway that is killed and started again on one port, while callers ask as fast as they can.
struct Harness {
    origin: Origin,
    toml: String,
    port: u16,
}

impl Harness {
    fn new(rules: &str) -> Harness {
        let port = free_port();
        let toml = format!("[listen]\nproxy = \"127.0.0.1:{port}\"\n\n{rules}");
        Harness { origin: Origin::start(), toml, port }
    }

    /// Kills it so many times; `alive`: how long it lives each time. Ends when `enough` have arrived, however long a busy
    /// machine takes for it. Returns how many requests were answered.
    fn run(&self, kills: usize, enough: usize, mut alive: impl FnMut() -> Duration) -> usize {
        let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (over, answered) = (&over, &answered);
                scope.spawn(move || self.ask(n, over, answered));
            }
            let mut gateway = Some(Gateway::start(&self.toml));
            for _ in 0..kills {
                std::thread::sleep(alive());
                gateway = gateway.take().map(|mut gateway| {
                    gateway.signal(Signal::KILL);
                    gateway.ended();
                    gateway.again()
                });
            }
            let came = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                eventually(&format!("{enough} arrive"), || self.origin.count() >= enough);
            }));
            // Also if they do not come, or the callers would go on for ever.
            over.store(true, Ordering::SeqCst);
            came.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        answered.load(Ordering::SeqCst)
    }

    /// One caller: as soon as it is answered, refused or cut off it asks again.
    fn ask(&self, n: usize, over: &AtomicBool, answered: &AtomicUsize) {
        let request =
            format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.origin.url(&format!("/{n}")), self.origin.authority());
        while !over.load(Ordering::SeqCst) {
            let Ok(tcp) = std::net::TcpStream::connect(("127.0.0.1", self.port)) else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let mut stream = stream::Stream::plain(tcp);
            while !over.load(Ordering::SeqCst) && stream.send(request.as_bytes()).is_ok() {
                let end = Instant::now() + PATIENCE;
                match Answer::read(&mut stream, "GET", end) {
                    Ok(answer) if answer.status == 200 => drop(answered.fetch_add(1, Ordering::SeqCst)),
                    // Refused for now: that would be a busy loop.
                    Ok(_) => std::thread::sleep(Duration::from_millis(1)),
                    Err(_) => break,
                }
            }
        }
    }
}

/// Numbers that look random, the same in each run.
fn dice(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |most| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % most
    }
}

#[test]
fn a_short_limit_holds_at_the_origin_through_kills_at_any_moment() {
    let harness = Harness::new(&limit(20, "300ms", "max_wait = \"1s\""));
    let mut roll = dice(1);
    let answered = harness.run(times(12, 100), 20, || Duration::from_millis(150 + roll(700)));
    one_window(20, Duration::from_millis(300), &harness.origin.stamps());
    assert!(answered > 0, "a gateway that is always closed keeps every limit");
}

#[test]
fn a_long_limit_forgets_nothing_through_kills_at_any_moment() {
    // 400 in any minute: less than that may go in the few seconds that this takes, and a crash costs ten at most.
    let harness = Harness::new(&limit(400, "1m", "max_wait = \"10ms\""));
    let mut roll = dice(2);
    let kills = times(12, 100);
    // Eight callers may each have had one under way when it was killed; beyond that nothing may be lost.
    harness.run(kills, 400_usize.saturating_sub(kills * (10 + 8)), || Duration::from_millis(20 + roll(150)));
    one_window(400, Duration::from_secs(60), &harness.origin.stamps());
}

#[test]
fn after_a_clean_restart_windows_go_on_where_they_were_and_nobody_waits_longer() {
    let origin = Origin::start();
    let rules = format!(
        "{}[[limit]]\nname = \"daily\"\nmatch = {{ path = \"/day\" }}\nrequests = 2\nper = \"1d\"\nwhen_full = \"refuse\"\n",
        limit(4, "1m", "when_full = \"refuse\"")
    );
    let mut gateway = Gateway::start(&rules);
    for path in ["/day", "/2", "/3"] {
        assert_eq!(gateway.get(&origin.url(path)).status, 200);
    }
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().code(), Some(0));
    let gateway = gateway.again();
    assert_eq!(gateway.get(&origin.url("/day")).status, 200, "one of four and one of two are left");
    let refused = gateway.get(&origin.url("/5"));
    assert_eq!(refused.status, 429);
    assert!(refused.retry_after_ms() <= 60_000.0, "{}", refused.retry_after_ms());
    assert!(gateway.stderr().lines().all(|line| !line.contains("WARN")), "{}", gateway.stderr());
    let daily = gateway.get(&origin.url("/day"));
    check_ours(&daily, 429, "http_request_error");
}

#[test]
fn a_second_gateway_on_one_state_does_not_start_and_says_why() {
    let mut gateway = Gateway::start(UNLIMITED);
    let second = std::process::Command::new(gateway::PROGRAM)
        .args(["run", "-c", "proxy.toml"])
        .current_dir(gateway.dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{told}");
    let pid = gateway.pid().as_raw_nonzero();
    assert!(told.contains("is in use by another gateway") && told.contains(&format!("(process {pid})")), "{told}");
    assert!(second.stdout.is_empty(), "it has announced nothing");
    gateway.signal(Signal::TERM);
    gateway.ended();
}

#[test]
fn a_state_that_cannot_be_read_is_named_with_the_choice() {
    let dir = gateway::Dir::new();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    dir.write("state/journal.redb", "something else");
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:0\"\n{UNLIMITED}"));
    let run = |dir: &gateway::Dir| {
        let mut command = std::process::Command::new(gateway::PROGRAM);
        command.args(["run", "-c", "proxy.toml"]).current_dir(dir.path()).output().unwrap()
    };
    let output = run(&dir);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("state/journal.redb") && told.contains("after_crash = \"forget\""), "{told}");
    let gateway = Gateway::start_in(dir, &format!("{UNLIMITED}[state]\nafter_crash = \"forget\"\n"));
    assert!(gateway.dir.path().join("state/journal.redb.unread").exists(), "{}", gateway.stderr());
}
