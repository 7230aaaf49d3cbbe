//! What becomes of a shared limit when the store, a line to it or a gateway fails: the limit holds, and all go on as soon
//! as that is safe.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::admin::json;
use crate::shared::{Fleet, rest, shared, shared_at};
use crate::support::store::{Line, Store};
use crate::support::*;

const PER: Duration = Duration::from_millis(250);

/// Three gateways, which the store's loss leaves with their parts.
fn sharing(ports: [u16; 3], requests: u32) -> Vec<String> {
    let rules = |(number, port): (usize, u16)| {
        let store = format!("if_store_is_lost = \"share\"\ngateways = 3\nname = \"gw-{number}\"");
        shared_at(
            &format!("redis://127.0.0.1:{port}"),
            &store,
            requests,
            "250ms",
            "counts = \"answered\"\nmax_wait = \"2s\"",
        ) + "[timeouts]\nconnect = \"100ms\"\nanswer = \"200ms\"\n"
    };
    ports.into_iter().enumerate().map(rules).collect()
}

#[test]
fn a_store_that_is_killed_again_and_again_breaks_no_limit() {
    let store = Store::start();
    let fleet =
        Fleet::start((0..3).map(|_| shared(store.port, 20, "250ms", "counts = \"answered\"\nmax_wait = \"1s\"")));
    let answered = fleet.during(8, || {
        for round in 0..times(3, 10) {
            rest(2300 + 130 * round as u64);
            store.kill();
            rest(100 * round as u64);
            store.again();
        }
        rest(2500);
    });
    one_window(20, PER, &fleet.origin.stamps());
    assert!(answered.iter().sum::<usize>() > 100, "{answered:?}: a store that is always closed breaks no limit");
}

#[test]
fn a_store_that_is_killed_again_and_again_breaks_no_limit_of_those_that_go_on_with_their_parts() {
    let store = Store::start();
    let fleet = Fleet::start(sharing([store.port; 3], 21));
    let answered = fleet.during(8, || {
        rest(3000);
        for round in 0..times(2, 10) {
            store.kill();
            rest(if round % 2 == 0 { 3500 } else { 300 });
            store.again();
            rest(2000);
        }
    });
    one_window(21, PER, &fleet.origin.stamps());
    assert!(fleet.gateways[0].stderr().contains("goes on with one of 3 parts"));
    assert!(answered.iter().all(|part| *part > 30), "{answered:?}");
}

#[test]
fn a_store_that_forgets_everything_closes_its_windows_once() {
    let store = Store::start();
    let fleet = Fleet::start((0..2).map(|_| shared(store.port, 20, "250ms", "counts = \"answered\"")));
    let answered = fleet.during(8, || {
        for order in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FLUSHALL"]] {
            rest(2500);
            store.order::<String>(order);
        }
        rest(2500);
    });
    one_window(20, PER, &fleet.origin.stamps());
    assert!(answered.iter().all(|part| *part > 60), "{answered:?}");
}

#[test]
fn a_store_that_stands_still_is_noticed_within_half_a_second_and_seen() {
    let store = Store::start();
    let admin = free_port();
    let rules = shared(store.port, 1000, "1s", "when_full = \"refuse\"")
        + &format!("[admin]\nlisten = \"127.0.0.1:{admin}\"\n");
    let (gateway, origin) = (Gateway::start(&rules), Origin::start());
    let admin = ([127, 0, 0, 1], admin).into();
    let health = || json(admin, "/healthz");
    let word = |health: &Value| health["store"].as_str().unwrap().to_owned();
    eventually("it is asked", || gateway.get(&origin.url("/")).status == 200);
    assert_eq!(word(&health()), "asked");
    store.signal(Signal::STOP);
    let since = Instant::now();
    eventually("it is seen", || word(&health()) == "lost");
    // Half a second, and what a busy machine adds.
    assert!(since.elapsed() < Duration::from_millis(900), "{:?}", since.elapsed());
    let answer = gateway.get(&origin.url("/"));
    assert_eq!((answer.status, answer.field("retry-after").is_some()), (503, true), "{}", answer.raw);
    assert!(answer.text().contains("store that cannot be reached"), "{}", answer.text());
    assert_eq!(health()["status"], "degraded");
    store.signal(Signal::CONT);
    eventually("it goes on", || gateway.get(&origin.url("/")).status == 200);
    assert_eq!((word(&health()), health()["status"].as_str()), ("asked".to_owned(), Some("ok")));
    assert!(gateway.stderr().contains("the store does not answer"), "{}", gateway.stderr());
}

#[test]
fn while_the_store_is_lost_local_limits_go_on_and_waiters_of_shared_ones_wait() {
    let store = Store::start();
    let local = "[[limit]]\nname = \"local\"\nmatch = { path = \"/local\" }\nrequests = 1000\nper = \"1s\"\n\n";
    let rules = shared(store.port, 1000, "1s", "max_wait = \"700ms\"")
        .replace("{ host = [\"127.0.0.1\"] }", "{ path = \"/shared\" }");
    let (gateway, origin) = (Gateway::start(&format!("{local}{rules}")), Origin::start());
    eventually("it is open", || gateway.get(&origin.url("/shared")).status == 200);
    store.kill();
    eventually("it is noticed", || gateway.stderr().contains("nobody passes a shared limit"));
    let since = Instant::now();
    let answer = gateway.get(&origin.url("/shared"));
    assert_eq!(answer.status, 503, "{}", answer.raw);
    assert!(since.elapsed() >= Duration::from_millis(700), "it has waited");
    for _ in 0..20 {
        assert_eq!(gateway.get(&origin.url("/local")).status, 200);
    }
    store.again();
    let answer = gateway.get(&origin.url("/shared"));
    assert!([200, 429, 503].contains(&answer.status), "{}", answer.raw);
    eventually("it is open again", || gateway.get(&origin.url("/shared")).status == 200);
}

#[test]
fn where_the_file_says_so_gateways_go_on_as_if_they_were_alone() {
    let store = Store::start();
    let rules = shared_at(
        &format!("redis://127.0.0.1:{}", store.port),
        "if_store_is_lost = \"allow\"",
        10,
        "250ms",
        "counts = \"answered\"",
    );
    let fleet = Fleet::start([rules.clone(), rules]);
    fleet.during(8, || {
        rest(2000);
        store.kill();
        fleet.said(0, "as if it were alone");
        fleet.said(1, "as if it were alone");
        let before = fleet.origin.count();
        rest(1000);
        let went = fleet.origin.count() - before;
        // Each has its 10 per 250 ms: 80, where together they had 40.
        assert!((50..=90).contains(&went), "{went}");
        store.again();
        eventually("it is asked again", || {
            fleet.gateways.iter().all(|gateway| gateway.stderr().matches("limits is asked").count() == 2)
        });
        rest(1000);
        let from = fleet.origin.count();
        rest(1000);
        let stamps = fleet.origin.stamps();
        one_window(10, PER, &stamps[from.min(stamps.len())..]);
    });
}

#[test]
fn a_gateway_that_is_cut_off_waits_and_the_others_have_the_whole_limit() {
    let store = Store::start();
    let line = Line::to(store.addr());
    let rules = |port| shared(port, 20, "250ms", "counts = \"answered\"\nmax_wait = \"1s\"");
    let fleet = Fleet::start([rules(store.port), rules(line.port)]);
    fleet.during(8, || {
        rest(1500);
        line.cut();
        rest(2000);
        let before = fleet.origin.count();
        rest(1000);
        let went = fleet.origin.count() - before;
        // Half of the limit would be 40.
        assert!(went > 48, "only {went} of 80 went at the gateway that is left");
        line.mend();
        rest(1500);
    });
    one_window(20, PER, &fleet.origin.stamps());
    assert!(fleet.gateways[1].stderr().matches("limits is asked").count() == 2);
}

#[test]
fn a_gateway_whose_line_swallows_everything_sends_nothing_late() {
    let store = Store::start();
    let line = Line::to(store.addr());
    let rules = |port| shared(port, 20, "250ms", "counts = \"answered\"");
    let fleet = Fleet::start([rules(store.port), rules(line.port)]);
    fleet.during(8, || {
        for round in 0..times(3, 10) {
            rest(900);
            line.hold();
            rest(150 * round as u64);
            line.mend();
        }
        rest(1200);
    });
    one_window(20, PER, &fleet.origin.stamps());
}

#[test]
fn a_gateway_that_is_cut_off_alone_goes_on_with_its_part_which_the_others_leave_to_it() {
    let store = Store::start();
    let line = Line::to(store.addr());
    let fleet = Fleet::start(sharing([store.port, store.port, line.port], 21));
    let answered = fleet.during(8, || {
        rest(4000);
        line.cut();
        fleet.said(2, "goes on with one of 3 parts");
        let before: Vec<usize> = paths(&fleet);
        rest(2000);
        let went: Vec<usize> = paths(&fleet).iter().zip(before).map(|(now, before)| now - before).collect();
        // In 8 spans: 7 each for the one that is cut off, and 14 for the two others together.
        assert!((20..=63).contains(&went[2]), "{went:?}");
        assert!((60..=126).contains(&(went[0] + went[1])), "{went:?}");
        line.mend();
        rest(2500);
    });
    one_window(21, PER, &fleet.origin.stamps());
    assert!(answered.iter().all(|part| *part > 30), "{answered:?}");
}

/// How many came to the origin by each gateway.
fn paths(fleet: &Fleet) -> Vec<usize> {
    let targets = fleet.origin.targets();
    (0..fleet.gateways.len())
        .map(|number| targets.iter().filter(|path| **path == format!("/{number}")).count())
        .collect()
}

#[test]
fn a_slow_store_costs_time_and_no_limit() {
    let store = Store::start();
    let line = Line::to(store.addr());
    line.slow(Duration::from_millis(25));
    let rules = |port| shared(port, 20, "250ms", "counts = \"answered\"");
    let fleet = Fleet::start([rules(store.port), rules(line.port)]);
    let answered = fleet.during(10, || rest(4000));
    one_window(20, PER, &fleet.origin.stamps());
    assert!(answered.iter().all(|part| *part >= 25), "{answered:?}");
}

#[test]
fn gateways_that_are_killed_with_slots_in_hand_cost_the_others_little() {
    let store = Store::start();
    let rules = shared(store.port, 20, "250ms", "counts = \"answered\"");
    let mut fleet = Fleet::start((0..3).map(|_| rules.clone()));
    for _ in 0..times(2, 6) {
        fleet.during(8, || {
            rest(700);
            fleet.gateways[2].signal(Signal::KILL);
            rest(2300);
            let before = fleet.origin.count();
            rest(1000);
            let went = fleet.origin.count() - before;
            assert!(went > 48, "only {went} of 80 went at those that are left");
        });
        let mut dead = fleet.gateways.pop().unwrap();
        dead.ended();
        fleet.gateways.push(dead.again());
    }
    one_window(20, PER, &fleet.origin.stamps());
}

#[test]
fn a_gateway_that_stood_still_sends_nothing_that_it_was_granted_before() {
    let store = Store::start();
    let fleet = Fleet::start((0..2).map(|_| shared(store.port, 20, "250ms", "counts = \"answered\"")));
    fleet.during(12, || {
        for round in 0..times(3, 12) {
            rest(500);
            fleet.gateways[1].signal(Signal::STOP);
            rest(350 + 250 * (round as u64 % 6));
            fleet.gateways[1].signal(Signal::CONT);
        }
        rest(1500);
    });
    one_window(20, PER, &fleet.origin.stamps());
}

#[test]
fn a_store_that_is_full_is_lost_until_it_has_room() {
    let store = Store::start();
    let (gateway, origin) =
        (Gateway::start(&shared(store.port, 1000, "1s", "when_full = \"refuse\"")), Origin::start());
    eventually("it is open", || gateway.get(&origin.url("/")).status == 200);
    store.order::<String>(&["CONFIG", "SET", "maxmemory", "1"]);
    eventually("it is lost", || gateway.get(&origin.url("/")).status == 503);
    assert!(gateway.stderr().contains("OOM"), "{}", gateway.stderr());
    store.order::<String>(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("it is open again", || gateway.get(&origin.url("/")).status == 200);
}
