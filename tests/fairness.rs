//! One caller keeps no other out: turns, urgencies and places in a full line.

use std::net::SocketAddr;

use crate::admin::{metrics, watched};
use crate::support::*;

/// A gateway whose only slot is taken, and what watches its line.
struct Stage {
    gateway: Gateway,
    admin: SocketAddr,
    origin: Origin,
    waiting: usize,
}

impl Stage {
    fn new(rules: &str) -> Stage {
        let (origin, (gateway, admin)) = (Origin::start(), watched(rules, ""));
        assert_eq!(gateway.get(&origin.url("/fill")).status, 200);
        Stage { gateway, admin, origin, waiting: 0 }
    }

    fn waiters(&self) -> f64 {
        metrics(self.admin)["lockgate_waiters{limit=\"the-limit\"}"]
    }

    /// A request from this address; it is in line when this returns.
    fn line_up(&mut self, ip: &str, path: &str, fields: &str) -> Caller {
        let caller = self.send(ip, path, fields);
        self.waiting += 1;
        eventually("it is in line", || self.waiters() == self.waiting as f64);
        caller
    }

    fn send(&self, ip: &str, path: &str, fields: &str) -> Caller {
        let mut caller = Caller::connect_from(ip, self.gateway.addr);
        caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n{fields}\r\n", self.origin.url(path)));
        caller
    }

    fn went(&self) -> Vec<String> {
        self.origin.targets().split_off(1)
    }
}

#[test]
fn a_caller_that_fills_the_line_does_not_keep_others_out() {
    let mut stage = Stage::new(&limit(1, "1h", "max_waiting = 5\nmax_wait = \"12h\""));
    let mut flood: Vec<Caller> = (0..5).map(|n| stage.line_up("127.0.0.2", &format!("/{n}"), "")).collect();
    check_ours(&stage.send("127.0.0.2", "/5", "").answer(), 429, "http_request_error");
    let mut other = stage.send("127.0.0.3", "/other", "");
    let answer = flood[4].answer();
    check_ours(&answer, 429, "http_request_error");
    assert!(answer.field("proxy-status").unwrap().contains("queue_full: the-limit"), "{}", answer.raw);
    assert_eq!(answer.problem()["violated-policies"], serde_json::json!(["the-limit"]));
    assert!(answer.retry_after_ms() > 3_600_000.0, "{}", answer.raw);
    assert_eq!(stage.waiters(), 5.0);
    let refused = "lockgate_limit_refusals_total{limit=\"the-limit\",reason=\"queue_full\"}";
    assert_eq!(metrics(stage.admin).get(refused), Some(&2.0), "{:?}", metrics(stage.admin));
    let line = stage.gateway.log_line("/4");
    assert!(line.contains("429") && line.contains("queue_full"), "{line}");
    assert!(stage.gateway.reload(&limit(1, "1h", "dry_run = true")), "all may go");
    assert_eq!(other.answer().status, 200);
    flood[..4].iter_mut().for_each(|caller| assert_eq!(caller.answer().status, 200));
    assert_eq!(stage.went().len(), 5);
}

#[test]
fn a_caller_that_calls_all_it_asks_urgent_is_served_in_turn() {
    let rules = |priority: &str| limit(1, "200ms", &format!("max_wait = \"1m\"\n{priority}"));
    let went = |priority: &str| {
        // The window is closed until all are in line.
        let mut stage = Stage::new(&limit(1, "1h", &format!("max_wait = \"12h\"\n{priority}")));
        let mut callers = Vec::new();
        for n in 0..3 {
            callers.push(stage.line_up("127.0.0.2", &format!("/urgent/{n}"), "Priority: u=0\r\n"));
        }
        for n in 0..2 {
            callers.push(stage.line_up("127.0.0.3", &format!("/usual/{n}"), ""));
        }
        assert!(stage.gateway.reload(&rules(priority)), "{}", stage.gateway.stderr());
        callers.iter_mut().for_each(|caller| assert_eq!(caller.answer().status, 200));
        stage.went()
    };
    assert_eq!(went(""), ["/urgent/0", "/usual/0", "/urgent/1", "/usual/1", "/urgent/2"]);
    let strict = went("priority = \"strict\"");
    assert_eq!(strict, ["/urgent/0", "/urgent/1", "/urgent/2", "/usual/0", "/usual/1"]);
}

#[test]
fn teams_that_share_a_limit_take_turns_though_each_has_one_of_its_own_too() {
    let rules = |per: &str| {
        let shared = limit(1, per, "max_wait = \"12h\"");
        format!(
            "{shared}[[limit]]\nname = \"each\"\nrequests = 20\nper = \"1s\"\nkey = \"caller\"\nmax_wait = \"12h\"\n"
        )
    };
    let mut stage = Stage::new(&rules("1h"));
    let mut callers = Vec::new();
    for n in 0..4 {
        callers.push(stage.line_up("127.0.0.2", &format!("/many/{n}"), ""));
    }
    callers.push(stage.line_up("127.0.0.3", "/one", ""));
    assert!(stage.gateway.reload(&rules("200ms")), "{}", stage.gateway.stderr());
    callers.iter_mut().for_each(|caller| assert_eq!(caller.answer().status, 200));
    assert_eq!(stage.went(), ["/many/0", "/one", "/many/1", "/many/2", "/many/3"]);
}
