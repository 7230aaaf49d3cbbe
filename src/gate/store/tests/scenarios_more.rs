//! More scenario tests of the script: fair shares, fractions, and regressions.

use std::time::Duration;

use redis::cmd;

use super::scenarios::{BASE, BEGIN, ScriptFixture, SyncArgs, millis};
use crate::gate::store::script_call::Command;
use crate::gate::store::{Error, PRESENCE};
use crate::locker::{LEASE, SharedKind};

/// Bit of a mismatch because of which a gateway is granted nothing.
const BLOCKED: u32 = 1024;

#[test]
fn free_slots_are_shared_by_how_many_wait_and_what_nobody_fetches_is_anybodys() {
    let mut fixture = ScriptFixture::new();
    let wide = SyncArgs { requests: 12, ..BASE };
    fixture.hello("a.1");
    fixture.hello("b.1");
    fixture.sync("b.1", SyncArgs { waiting: 20, ..wide });
    // A third of the waiting requests are at this gateway.
    assert_eq!(fixture.request_slots_with("a.1", 10, wide), (4, 5));
    assert_eq!(fixture.request_slots_with("a.1", 6, wide).0, 0, "it has had its part");
    assert_eq!(fixture.request_slots_with("b.1", 5, wide).0, 5);
    fixture.sync("b.1", SyncArgs { waiting: 15, ..wide });
    fixture.advance(11);
    assert_eq!(fixture.request_slots_with("a.1", 6, wide).0, 3);
}

#[test]
fn of_single_slots_each_waiting_gateway_gets_its_turn() {
    let mut fixture = ScriptFixture::new();
    let single = SyncArgs { requests: 1, ..BASE };
    fixture.hello("a.1");
    fixture.hello("b.1");
    fixture.sync("b.1", SyncArgs { waiting: 5, ..single });
    let mut went = [0, 0];
    for _ in 0..20 {
        // In each round, the same gateway asks first.
        for (number, gateway) in ["a.1", "b.1"].into_iter().enumerate() {
            let (taken, _) = fixture.request_slots_with(gateway, 5, single);
            went[number] += taken;
            if taken > 0 {
                fixture.sync(gateway, SyncArgs { settled: Some((0, 1)), waiting: 5, ..single });
            }
        }
        fixture.advance(100);
        fixture.now += 1;
    }
    assert_eq!(went, [10, 10]);
}

#[test]
fn of_a_gateway_that_is_cut_off_its_part_is_left_alone_until_it_has_been_back_for_a_span() {
    let mut fixture = ScriptFixture::new();
    fixture.shares = Some(2);
    fixture.hello("a.1");
    fixture.hello("b.1");
    fixture.sync("b.1", BASE);
    assert_eq!(fixture.request_slots("a.1", 9).0, 4);
    fixture.sync("a.1", SyncArgs { returned: 4, ..BASE });
    fixture.advance(millis(PRESENCE) / 2 + 1);
    fixture.call("a.1", Command::Sync, None).unwrap();
    fixture.advance(millis(PRESENCE) / 2 + 1);
    assert_eq!(fixture.request_slots("a.1", 9).0, 2, "the other half is the other's");
    fixture.sync("a.1", SyncArgs { returned: 2, ..BASE });
    fixture.hello("b.2");
    fixture.advance(101);
    assert_eq!(fixture.request_slots("a.1", 9).0, 2, "nobody knows whether it has heard that it was welcome");
    fixture.sync("a.1", SyncArgs { returned: 2, ..BASE });
    fixture.sync("b.2", BASE);
    assert_eq!(fixture.request_slots("a.1", 9).0, 2, "what it sent meanwhile still counts");
    fixture.sync("a.1", SyncArgs { returned: 2, ..BASE });
    fixture.advance(101);
    assert_eq!(fixture.request_slots("a.1", 9).0, 4);
    fixture.sync("a.1", SyncArgs { returned: 4, ..BASE });
    // A gateway that signs off leaves its fraction at once.
    fixture.call("b.2", Command::Bye, None).unwrap();
    fixture.advance(millis(PRESENCE));
    assert_eq!(fixture.request_slots("a.1", 9).0, 4);
}

#[test]
fn a_part_is_left_alone_for_as_much_longer_as_clocks_may_differ() {
    let mut fixture = ScriptFixture::new();
    fixture.shares = Some(2);
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
        fixture.sync(gateway, BASE);
    }
    // Time from the last call: presence, use of the fraction, a lease and a span; and the drift, a thousandth of a minute.
    let given_away = millis(PRESENCE) + 60_000 + millis(LEASE) + 100 + 60;
    for _ in 0..given_away / 500 {
        fixture.advance(500);
        fixture.sync("a.1", BASE);
    }
    fixture.advance(given_away % 500 - 1);
    assert_eq!(fixture.request_slots("a.1", 9).0, 2);
    fixture.sync("a.1", SyncArgs { returned: 2, ..BASE });
    fixture.advance(1);
    assert_eq!(fixture.request_slots("a.1", 9).0, 4);
}

#[test]
fn in_a_store_that_is_new_the_parts_of_gateways_that_it_has_not_seen_are_left_alone() {
    let mut fixture = ScriptFixture::new();
    (fixture.shares, fixture.trusts_empty) = (Some(2), false);
    fixture.hello("a.1");
    fixture.sync("a.1", BASE);
    fixture.advance(900);
    assert_eq!(fixture.request_slots("a.1", 9).0, 2);
    assert!(fixture.call("b.1", Command::Hello, None).is_ok());
    assert!(matches!(fixture.call("c.1", Command::Hello, None), Err(Error::TooMany)));
}

#[test]
fn a_call_that_comes_late_from_before_a_gateway_took_another_name_changes_nothing() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    fixture.hello("a.2");
    assert_eq!(fixture.request_slots("a.2", 9).0, 4);
    let late = SyncArgs { held: Some(0), ..BASE };
    assert!(matches!(fixture.call("a.1", Command::Sync, Some(late)), Err(Error::Lapsed)));
    fixture.hello("b.1");
    assert_eq!(fixture.request_slots("b.1", 9).0, 0);
}

#[test]
fn a_gateway_whose_clock_is_ahead_or_behind_opens_no_calendar_window() {
    let mut fixture = ScriptFixture::new();
    let minute = |number: i128| (i128::from(BEGIN / 1000 / 60_000) + number) * 60_000_000_000;
    let of = |first: i128| SharedKind::Calendar([minute(first), minute(first + 1), minute(first + 2)]);
    let sync_args = |first: i128| SyncArgs { kind: of(first), span: 60_000, ..BASE };
    for gateway in ["right.1", "ahead.1", "behind.1"] {
        fixture.hello(gateway);
    }
    assert_eq!(fixture.request_slots_with("right.1", 3, sync_args(0)).0, 3);
    fixture.sync("right.1", SyncArgs { settled: Some((0, 3)), ..sync_args(0) });
    assert_eq!(fixture.request_slots_with("ahead.1", 3, sync_args(1)).0, 0);
    assert_eq!(fixture.request_slots_with("behind.1", 3, sync_args(-3)).0, 0);
    fixture.sync("ahead.1", sync_args(1));
    fixture.sync("behind.1", sync_args(-3));
    assert_eq!(fixture.request_slots_with("right.1", 3, sync_args(0)).0, 1);
}

#[test]
fn a_dead_gateways_slots_of_a_fixed_window_settle_when_that_is_certain() {
    let mut fixture = ScriptFixture::new();
    let fixed = SyncArgs { kind: SharedKind::Fixed, span: 1500, linger: 1000, ..BASE };
    fixture.hello("a.1");
    fixture.hello("dead.1");
    fixture.request_slots_with("a.1", 3, fixed);
    fixture.sync("a.1", SyncArgs { settled: Some((0, 3)), ..fixed });
    assert_eq!(fixture.request_slots_with("dead.1", 9, fixed).0, 1);
    for _ in 0..3 {
        fixture.advance(350);
        fixture.call("a.1", Command::Sync, None).unwrap();
    }
    assert_eq!(fixture.request_slots_with("a.1", 9, fixed).0, 0, "the window is open, and full");
}

#[test]
fn who_knows_another_kind_of_window_waits_until_nobody_counts_in_the_old_way() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("old.1");
    fixture.hello("new.1");
    assert_eq!(fixture.request_slots("old.1", 2).0, 2);
    let fixed = SyncArgs { kind: SharedKind::Fixed, ..BASE };
    for _ in 0..3 {
        let reply = fixture.sync("new.1", SyncArgs { wanted: 1, waiting: 1, ..fixed });
        assert!(reply.grants[0].groups.is_empty() && reply.mismatches[0].causes == 8 | BLOCKED);
    }
    assert_eq!(fixture.request_slots("old.1", 9).0, 2, "it goes on");
    fixture.sync("old.1", SyncArgs { kind: SharedKind::Fixed, returned: 4, ..BASE });
    assert_eq!(fixture.request_slots_with("new.1", 1, fixed), (0, 100));
}

#[test]
fn a_long_pause_outlives_a_quiet_store() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    fixture.sync("a.1", SyncArgs { pause: 3_600_000, ..BASE });
    let left: u64 = cmd("PTTL").arg(format!("{{g}}:window:limit 0:{:032x}", 0)).query(&mut fixture.connection).unwrap();
    assert!(left > 3_600_000, "{left}");
}

#[test]
fn what_a_gateway_tells_later_than_another_opens_when_it_was_sent() {
    let mut fixture = ScriptFixture::new();
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
        assert_eq!(fixture.request_slots(gateway, 2).0, 2);
    }
    fixture.advance(60);
    fixture.sync("a.1", SyncArgs { settled: Some((20, 2)), ..BASE });
    fixture.sync("b.1", SyncArgs { settled: Some((50, 1)), ..BASE });
    fixture.sync("b.1", SyncArgs { settled: Some((30, 1)), ..BASE });
    assert_eq!(fixture.request_slots("a.1", 1), (0, 50), "the first was sent at 10 ms");
    fixture.advance(50);
    assert_eq!(fixture.request_slots("a.1", 4), (1, 20), "the second at 30 ms");
    fixture.advance(20);
    assert_eq!(fixture.request_slots("a.1", 4), (1, 10), "the others at 40 ms");
}

#[test]
fn what_is_told_later_than_very_many_others_opens_with_the_first_of_those() {
    let mut fixture = ScriptFixture::new();
    let many = SyncArgs { requests: 400, span: 10_000, ..BASE };
    for (gateway, slots) in [("a.1", 300), ("b.1", 5)] {
        fixture.hello(gateway);
        assert_eq!(fixture.request_slots_with(gateway, slots, many).0, slots);
    }
    for _ in 0..200 {
        fixture.advance(1);
        fixture.sync("a.1", SyncArgs { settled: Some((0, 1)), ..many });
    }
    fixture.sync("b.1", SyncArgs { settled: Some((190, 5)), ..many });
    let key = format!("{{g}}:log:limit 0:{:032x}", 0);
    let log: Vec<String> = cmd("LRANGE").arg(key).arg(0).arg(-1).query(&mut fixture.connection).unwrap();
    let counts: Vec<&str> = log.iter().map(|entry| entry.split_once(':').unwrap().1).collect();
    assert_eq!((counts.len(), counts.iter().position(|count| *count == "6")), (200, Some(200 - 128)));
}

#[test]
fn a_slot_that_opens_in_less_than_a_moment_is_not_open_now() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    assert_eq!(fixture.request_slots("a.1", 4).0, 4);
    fixture.settle_now("a.1", 4);
    fixture.advance(100);
    // The settle may have been at the end of its microsecond.
    let reply = fixture.sync("a.1", SyncArgs { wanted: 2, waiting: 2, ..BASE });
    assert_eq!(reply.grants[0].groups, [(Duration::from_micros(1), 2)]);
    fixture.now += 1;
    let reply = fixture.sync("a.1", SyncArgs { wanted: 2, waiting: 2, ..BASE });
    assert_eq!(reply.grants[0].groups, [(Duration::ZERO, 2)]);
}

#[test]
fn smooth_slots_keep_their_distance_from_when_those_before_were_sent() {
    let mut fixture = ScriptFixture::new();
    let smooth = SyncArgs { kind: SharedKind::Smooth, ..BASE };
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    assert_eq!(fixture.request_slots_with("a.1", 9, smooth).0, 1);
    fixture.advance(60);
    assert_eq!(fixture.request_slots_with("b.1", 1, smooth).0, 0, "the first may still be sent");
    // The settle was ten milliseconds ago.
    fixture.sync("a.1", SyncArgs { settled: Some((10, 1)), ..smooth });
    assert_eq!(fixture.request_slots_with("b.1", 1, smooth), (0, 15));
    fixture.advance(15);
    fixture.now += 1;
    assert_eq!(fixture.request_slots_with("b.1", 1, smooth).0, 1);
}

#[test]
fn a_smooth_slot_that_is_given_back_gives_its_distance_back() {
    let mut fixture = ScriptFixture::new();
    let smooth = SyncArgs { kind: SharedKind::Smooth, ..BASE };
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    assert_eq!(fixture.request_slots_with("a.1", 1, smooth).0, 1);
    fixture.sync("a.1", SyncArgs { returned: 1, ..smooth });
    assert_eq!(fixture.request_slots_with("b.1", 1, smooth).0, 1);
}

#[test]
fn of_smooth_slots_as_many_may_be_under_way_as_were_saved_up() {
    let mut fixture = ScriptFixture::new();
    let smooth = SyncArgs { kind: SharedKind::Smooth, requests: 10, burst: 3, ..BASE };
    fixture.hello("a.1");
    assert_eq!(fixture.request_slots_with("a.1", 9, smooth).0, 3);
    fixture.sync("a.1", SyncArgs { settled: Some((0, 1)), ..smooth });
    assert_eq!(fixture.request_slots_with("a.1", 9, smooth).0, 0);
    fixture.advance(5);
    fixture.now += 1;
    assert_eq!(
        fixture.request_slots_with("a.1", 9, smooth).0,
        1,
        "it was sent ten milliseconds before that one can go"
    );
}
