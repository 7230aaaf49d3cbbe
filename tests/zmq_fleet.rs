//! A fleet of Python processes that ask over ZeroMQ: no more than the limit, and nobody stuck, whoever is killed.
//!
//! `benches/zmq/promise` judges the same for twenty seconds by the processes' own stamps, which a test on a busy machine
//! must not.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::processes::{finish, python, start, top};
use crate::support::store::Store;
use crate::support::*;
use crate::zmq::zmq;

const PER: Duration = Duration::from_millis(800);
const N: usize = 5;

/// Processes that ask at this endpoint for so many seconds.
fn fleet(addr: std::net::SocketAddr, count: usize, seconds: &str, more: &[&str]) -> Vec<Child> {
    let one = || {
        let mut program = python("zmq_fleet.py");
        program.arg(format!("tcp://{addr}")).args([seconds, "0.02"]).args(more);
        start(program)
    };
    (0..count).map(|_| one()).collect()
}

/// Waits for the end of all; returns the number of their `go`. Each must end well: one that is stuck does not.
#[track_caller]
fn goes(fleet: Vec<Child>) -> usize {
    let told: Vec<String> = fleet.into_iter().map(finish).collect();
    assert!(told.iter().all(|text| text.ends_with("well\n")), "{told:#?}");
    told.iter().map(|text| text.matches("go ").count()).sum()
}

/// Most slots of a window in a time, wherever that begins.
fn most(elapsed: Duration) -> usize {
    N * (usize::try_from(elapsed.as_nanos() / PER.as_nanos()).expect("a short time") + 1)
}

#[test]
fn a_fleet_gets_no_more_than_the_limit_with_either_window() {
    for (window, wait) in [("window = \"fixed\"", "wait = \"0s\""), ("", "wait = \"20s\"")] {
        let (addr, section) = zmq(wait);
        let since = Instant::now();
        let _gateway = Gateway::start(&format!("{}{section}", limit(5, "800ms", window)));
        let goes = goes(fleet(addr, 8, "3", &[]));
        let most = most(since.elapsed());
        assert!((N..=most).contains(&goes), "{window}: {goes} of {most}");
    }
}

#[test]
fn nobody_is_stuck_after_half_of_a_fleet_and_then_the_gateway_are_killed() {
    let (addr, section) = zmq("wait = \"300ms\"");
    let since = Instant::now();
    let gateway = Gateway::start(&format!("{}{section}", limit(5, "800ms", "")));
    let mut stay = fleet(addr, 8, "8", &["relaxed"]);
    let asked = || gateway.lines().iter().filter(|line| line.contains(" ZMQ ")).count();
    eventually("all ask", || asked() >= 30);
    for mut child in stay.drain(..4) {
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
    }
    let before = asked();
    eventually("the others go on", || asked() >= before + 10);
    gateway.signal(rustix::process::Signal::KILL);
    std::thread::sleep(Duration::from_millis(200));
    let _again = gateway.again();
    let goes = goes(stay);
    assert!(goes <= most(since.elapsed()), "{goes}");
}

#[test]
fn the_peers_of_two_gateways_with_one_store_get_one_limit_together() {
    let store = Store::start();
    let rules = limit(5, "800ms", "shared = true") + &format!("[store]\nurl = \"redis://127.0.0.1:{}\"\n", store.port);
    let since = Instant::now();
    let sections = [zmq("wait = \"20s\""), zmq("wait = \"20s\"")];
    let _gateways: Vec<_> = sections.iter().map(|(_, section)| Gateway::start(&format!("{rules}{section}"))).collect();
    let both = sections.iter().flat_map(|(addr, _)| fleet(*addr, 4, "3", &[])).collect();
    let goes = goes(both);
    let most = most(since.elapsed());
    assert!((N..=most).contains(&goes), "{goes} of {most}");
}

#[test]
fn the_client_of_the_documentation_goes() {
    let page = std::fs::read_to_string(top().join("docs/zeromq.md")).expect("the page is there");
    let client =
        page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a client in Python");
    assert!(client.lines().filter(|line| !line.is_empty()).count() <= 10, "{client}");
    let (addr, section) = zmq("");
    let _gateway = Gateway::start(&format!("{}{section}", limit(1, "1h", "")));
    let mut program = Command::new(python("zmq_fleet.py").get_program());
    program.arg("-c").arg(client.replace("127.0.0.1:7777", &addr.to_string()));
    assert_eq!(finish(start(program)), "go\n");
}
