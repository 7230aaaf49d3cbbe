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
        ) + "[timeouts]\nconnect = \"100ms\"\nrequest = \"300ms\"\n"
    };
    ports.into_iter().enumerate().map(rules).collect()
}

#[test]
fn a_refusal_for_a_lost_store_names_a_second_in_the_body_as_in_the_head() {
    let origin = Origin::start();
    let gateway = Gateway::start(&shared(DeadPort::new().port(), 5, "100ms", "when_full = \"refuse\""));
    let answer = gateway.get(&origin.url("/"));
    check_ours(&answer, 503, "proxy_internal_error");
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(answer.problem()["retry_after_ms"], 1000);
    assert!(answer.text().contains("Ask again in 1000 ms at the earliest."), "{}", answer.text());
}

#[test]
fn a_store_that_is_killed_again_and_again_breaks_no_limit() {
    let store = Store::start();
    let fleet =
        Fleet::start((0..3).map(|_| shared(store.port, 20, "250ms", "counts = \"answered\"\nmax_wait = \"1s\"")));
    fleet.during(8, || {
        for round in 0..times(3, 10) {
            // A store that is always closed breaks no limit.
            fleet.each_sends(&[0, 1, 2], 10);
            rest(130 * round as u64);
            store.kill();
            rest(100 * round as u64);
            store.again();
        }
        fleet.each_sends(&[0, 1, 2], 10);
    });
    one_window(20, PER, &fleet.origin.stamps());
}

#[test]
fn a_store_that_is_killed_again_and_again_breaks_no_limit_of_those_that_go_on_with_their_parts() {
    let store = Store::start();
    let fleet = Fleet::start(sharing([store.port; 3], 21));
    fleet.during(8, || {
        fleet.each_sends(&[0, 1, 2], 10);
        for round in 0..times(2, 10) {
            store.kill();
            if round % 2 == 0 {
                fleet.each_sends(&[0, 1, 2], 14);
            } else {
                rest(300);
            }
            store.again();
            rest(2000);
        }
        fleet.each_sends(&[0, 1, 2], 10);
    });
    one_window(21, PER, &fleet.origin.stamps());
    fleet.gateways[0].complains("uses its fraction of this limit, 1/3");
}

#[test]
fn a_store_that_forgets_everything_closes_its_windows_once() {
    let store = Store::start();
    let fleet = Fleet::start((0..2).map(|_| shared(store.port, 20, "250ms", "counts = \"answered\"")));
    fleet.during(8, || {
        for order in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FLUSHALL"]] {
            fleet.each_sends(&[0, 1], 15);
            store.order::<String>(order);
        }
        fleet.each_sends(&[0, 1], 15);
    });
    one_window(20, PER, &fleet.origin.stamps());
}

#[test]
fn a_store_that_stands_still_is_noticed_and_seen() {
    let store = Store::start();
    let admin = free_port();
    let rules = shared(store.port, 1000, "1s", "when_full = \"refuse\"")
        + &format!("[admin]\nlisten = \"127.0.0.1:{admin}\"\n");
    let (gateway, origin) = (Gateway::start(&rules), Origin::start());
    let admin = ([127, 0, 0, 1], admin).into();
    let health = || json(admin, "/healthz");
    let word = |health: &Value| health["store"].as_str().unwrap().to_owned();
    eventually("it is asked", || gateway.get(&origin.url("/")).status == 200);
    eventually("it is seen to be up", || word(&health()) == "up");
    store.signal(Signal::STOP);
    eventually("it is seen", || word(&health()) == "down");
    let answer = gateway.get(&origin.url("/"));
    assert_eq!((answer.status, answer.field("retry-after").is_some()), (503, true), "{}", answer.raw);
    assert!(answer.text().contains("store that cannot be reached"), "{}", answer.text());
    assert_eq!(health()["status"], "degraded");
    store.signal(Signal::CONT);
    eventually("it goes on", || gateway.get(&origin.url("/")).status == 200);
    eventually("all is well", || health()["store"] == "up" && health()["status"] == "ok");
    gateway.complains(&format!("the store does not answer (at 127.0.0.1:{})", store.port));
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
    eventually("it is noticed", || gateway.stderr().contains("no request passes a shared limit"));
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
    fleet.during(12, || {
        fleet.each_sends(&[0, 1], 10);
        fleet.have_under_way(&[0, 1], 10);
        store.kill();
        fleet.said(0, "as if it were the only one");
        fleet.said(1, "as if it were the only one");
        // Each has its 10, where they had as many together.
        fleet.have_under_way(&[0, 1], 20);
        store.again();
        eventually("it is asked again", || {
            fleet
                .gateways
                .iter()
                .all(|gateway| gateway.stderr().matches("connected to the store of shared limits").count() == 2)
        });
        fleet.each_sends(&[0, 1], 20);
        let alone = || {
            let said = |gateway: &Gateway| gateway.stderr().matches("as if it were the only one").count();
            fleet.gateways.iter().map(said).sum::<usize>()
        };
        let (from, before) = (fleet.origin.count(), alone());
        fleet.each_sends(&[0, 1], 20);
        let stamps = fleet.origin.stamps();
        // A store that is too slow on a busy machine is lost once more.
        if alone() == before {
            one_window(10, PER, &stamps[from.min(stamps.len())..]);
        }
    });
}

#[test]
fn a_gateway_that_is_cut_off_waits_and_the_others_have_the_whole_limit() {
    let store = Store::start();
    let line = Line::to(store.addr());
    let rules = |port| shared(port, 20, "250ms", "counts = \"answered\"\nmax_wait = \"1s\"");
    let fleet = Fleet::start([rules(store.port), rules(line.port)]);
    fleet.during(24, || {
        fleet.each_sends(&[0, 1], 10);
        line.cut();
        fleet.have_under_way(&[0], 20);
        line.mend();
        fleet.each_sends(&[0, 1], 10);
    });
    one_window(20, PER, &fleet.origin.stamps());
    eventually("it was asked again", || {
        fleet.gateways[1].stderr().matches("connected to the store of shared limits").count() >= 2
    });
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
    fleet.during(8, || {
        fleet.each_sends(&[0, 1, 2], 10);
        rest(2000);
        line.cut();
        fleet.said(2, "uses its fraction of this limit, 1/3");
        let before = fleet.by_gateway();
        fleet.each_sends(&[2], 28);
        // 7 for the one that is cut off, and 14 for the two others together.
        one_window(7, PER, &fleet.stamps_by(&[2])[before[2]..]);
        one_window(14, PER, &fleet.stamps_by(&[0, 1])[before[0] + before[1]..]);
        line.mend();
        fleet.each_sends(&[0, 1, 2], 10);
    });
    one_window(21, PER, &fleet.origin.stamps());
}

#[test]
fn a_slow_store_costs_time_and_no_limit() {
    let store = Store::start();
    let line = Line::to(store.addr());
    line.slow(Duration::from_millis(25));
    let rules = |port| shared(port, 20, "250ms", "counts = \"answered\"");
    let fleet = Fleet::start([rules(store.port), rules(line.port)]);
    fleet.during(10, || fleet.each_sends(&[0, 1], 60));
    one_window(20, PER, &fleet.origin.stamps());
}

#[test]
fn gateways_that_are_killed_with_slots_in_hand_cost_the_others_little() {
    let store = Store::start();
    let rules = shared(store.port, 20, "250ms", "counts = \"answered\"");
    let mut fleet = Fleet::start((0..3).map(|_| rules.clone()));
    for _ in 0..times(2, 6) {
        fleet.during(20, || {
            fleet.each_sends(&[0, 1, 2], 10);
            fleet.gateways[2].signal(Signal::KILL);
            fleet.have_under_way(&[0, 1], 20);
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
    gateway.complains("OOM");
    store.order::<String>(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("it is open again", || gateway.get(&origin.url("/")).status == 200);
}
