//! More of what the script does in the cases that matter: how slots are shared out, and what went wrong once.

use std::time::Duration;

use super::scenarios::{BEGIN, SAYS, Says, Stage, millis};
use crate::gate::store::script_call::Command;
use crate::gate::store::{Error, PRESENCE};
use crate::locker::{LEASE, SharedKind};

/// The bit of an answer that says that a gateway is granted nothing.
const SHUT: u32 = 1024;
use redis::cmd;

#[test]
fn free_slots_are_shared_by_how_many_wait_and_what_nobody_fetches_is_anybodys() {
    let mut stage = Stage::new();
    let wide = Says { requests: 12, ..SAYS };
    stage.hello("a.1");
    stage.hello("b.1");
    stage.tell("b.1", Says { waiting: 20, ..wide });
    // A third of those who wait are here.
    assert_eq!(stage.take_of("a.1", 10, wide), (4, 5));
    assert_eq!(stage.take_of("a.1", 6, wide).0, 0, "it has had its part");
    assert_eq!(stage.take_of("b.1", 5, wide).0, 5);
    stage.tell("b.1", Says { waiting: 15, ..wide });
    stage.pass(11);
    assert_eq!(stage.take_of("a.1", 6, wide).0, 3);
}

#[test]
fn of_single_slots_each_waiting_gateway_gets_its_turn() {
    let mut stage = Stage::new();
    let single = Says { requests: 1, ..SAYS };
    stage.hello("a.1");
    stage.hello("b.1");
    stage.tell("b.1", Says { waiting: 5, ..single });
    let mut went = [0, 0];
    for _ in 0..20 {
        // The first always asks first.
        for (number, gateway) in ["a.1", "b.1"].into_iter().enumerate() {
            let (taken, _) = stage.take_of(gateway, 5, single);
            went[number] += taken;
            if taken > 0 {
                stage.tell(gateway, Says { settled: Some((0, 1)), waiting: 5, ..single });
            }
        }
        stage.pass(100);
        stage.now += 1;
    }
    assert_eq!(went, [10, 10]);
}

#[test]
fn of_a_gateway_that_is_cut_off_its_part_is_left_alone_until_it_has_been_back_for_a_span() {
    let mut stage = Stage::new();
    stage.shares = Some(2);
    stage.hello("a.1");
    stage.hello("b.1");
    stage.tell("b.1", SAYS);
    assert_eq!(stage.take("a.1", 9).0, 4);
    stage.tell("a.1", Says { returned: 4, ..SAYS });
    stage.pass(millis(PRESENCE) / 2 + 1);
    stage.say("a.1", Command::Sync, None).unwrap();
    stage.pass(millis(PRESENCE) / 2 + 1);
    assert_eq!(stage.take("a.1", 9).0, 2, "the other half is the other's");
    stage.tell("a.1", Says { returned: 2, ..SAYS });
    stage.hello("b.2");
    stage.pass(101);
    assert_eq!(stage.take("a.1", 9).0, 2, "nobody knows whether it has heard that it was welcome");
    stage.tell("a.1", Says { returned: 2, ..SAYS });
    stage.tell("b.2", SAYS);
    assert_eq!(stage.take("a.1", 9).0, 2, "what it sent meanwhile still counts");
    stage.tell("a.1", Says { returned: 2, ..SAYS });
    stage.pass(101);
    assert_eq!(stage.take("a.1", 9).0, 4);
    stage.tell("a.1", Says { returned: 4, ..SAYS });
    // One that says good-bye leaves nothing behind.
    stage.say("b.2", Command::Bye, None).unwrap();
    stage.pass(millis(PRESENCE));
    assert_eq!(stage.take("a.1", 9).0, 4);
}

#[test]
fn a_part_is_left_alone_for_as_much_longer_as_clocks_may_differ() {
    let mut stage = Stage::new();
    stage.shares = Some(2);
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
        stage.tell(gateway, SAYS);
    }
    // From the last word on: its presence, its part's time, a lease and a span; and a thousandth of a minute.
    let given_away = millis(PRESENCE) + 60_000 + millis(LEASE) + 100 + 60;
    for _ in 0..given_away / 500 {
        stage.pass(500);
        stage.tell("a.1", SAYS);
    }
    stage.pass(given_away % 500 - 1);
    assert_eq!(stage.take("a.1", 9).0, 2);
    stage.tell("a.1", Says { returned: 2, ..SAYS });
    stage.pass(1);
    assert_eq!(stage.take("a.1", 9).0, 4);
}

#[test]
fn in_a_store_that_is_new_the_parts_of_gateways_that_it_has_not_seen_are_left_alone() {
    let mut stage = Stage::new();
    (stage.shares, stage.trusts_empty) = (Some(2), false);
    stage.hello("a.1");
    stage.tell("a.1", SAYS);
    stage.pass(900);
    assert_eq!(stage.take("a.1", 9).0, 2);
    assert!(stage.say("b.1", Command::Hello, None).is_ok());
    assert!(matches!(stage.say("c.1", Command::Hello, None), Err(Error::TooMany)));
}

#[test]
fn a_call_that_comes_late_from_before_a_gateway_took_another_name_changes_nothing() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    stage.hello("a.2");
    assert_eq!(stage.take("a.2", 9).0, 4);
    let late = Says { held: Some(0), ..SAYS };
    assert!(matches!(stage.say("a.1", Command::Sync, Some(late)), Err(Error::Lapsed)));
    stage.hello("b.1");
    assert_eq!(stage.take("b.1", 9).0, 0);
}

#[test]
fn a_gateway_whose_clock_is_ahead_or_behind_opens_no_calendar_window() {
    let mut stage = Stage::new();
    let minute = |number: i128| (i128::from(BEGIN / 1000 / 60_000) + number) * 60_000_000_000;
    let of = |first: i128| SharedKind::Calendar([minute(first), minute(first + 1), minute(first + 2)]);
    let says = |first: i128| Says { kind: of(first), span: 60_000, ..SAYS };
    for gateway in ["right.1", "ahead.1", "behind.1"] {
        stage.hello(gateway);
    }
    assert_eq!(stage.take_of("right.1", 3, says(0)).0, 3);
    stage.tell("right.1", Says { settled: Some((0, 3)), ..says(0) });
    assert_eq!(stage.take_of("ahead.1", 3, says(1)).0, 0);
    assert_eq!(stage.take_of("behind.1", 3, says(-3)).0, 0);
    stage.tell("ahead.1", says(1));
    stage.tell("behind.1", says(-3));
    assert_eq!(stage.take_of("right.1", 3, says(0)).0, 1);
}

#[test]
fn a_dead_gateways_slots_of_a_fixed_window_settle_when_that_is_certain() {
    let mut stage = Stage::new();
    let fixed = Says { kind: SharedKind::Fixed, span: 1500, linger: 1000, ..SAYS };
    stage.hello("a.1");
    stage.hello("dead.1");
    stage.take_of("a.1", 3, fixed);
    stage.tell("a.1", Says { settled: Some((0, 3)), ..fixed });
    assert_eq!(stage.take_of("dead.1", 9, fixed).0, 1);
    for _ in 0..3 {
        stage.pass(350);
        stage.say("a.1", Command::Sync, None).unwrap();
    }
    assert_eq!(stage.take_of("a.1", 9, fixed).0, 0, "the window is open, and full");
}

#[test]
fn who_knows_another_kind_of_window_waits_until_nobody_counts_in_the_old_way() {
    let mut stage = Stage::new();
    stage.hello("old.1");
    stage.hello("new.1");
    assert_eq!(stage.take("old.1", 2).0, 2);
    let fixed = Says { kind: SharedKind::Fixed, ..SAYS };
    for _ in 0..3 {
        let answer = stage.tell("new.1", Says { takes: 1, waiting: 1, ..fixed });
        assert!(answer.grants[0].groups.is_empty() && answer.mismatches[0].causes == 8 | SHUT);
    }
    assert_eq!(stage.take("old.1", 9).0, 2, "it goes on");
    stage.tell("old.1", Says { kind: SharedKind::Fixed, returned: 4, ..SAYS });
    assert_eq!(stage.take_of("new.1", 1, fixed), (0, 100));
}

#[test]
fn a_long_pause_outlives_a_quiet_store() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    stage.tell("a.1", Says { pause: 3_600_000, ..SAYS });
    let left: u64 = cmd("PTTL").arg(format!("{{g}}:window:limit 0:{:032x}", 0)).query(&mut stage.connection).unwrap();
    assert!(left > 3_600_000, "{left}");
}

#[test]
fn what_a_gateway_tells_later_than_another_opens_when_it_was_sent() {
    let mut stage = Stage::new();
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
        assert_eq!(stage.take(gateway, 2).0, 2);
    }
    stage.pass(60);
    stage.tell("a.1", Says { settled: Some((20, 2)), ..SAYS });
    stage.tell("b.1", Says { settled: Some((50, 1)), ..SAYS });
    stage.tell("b.1", Says { settled: Some((30, 1)), ..SAYS });
    assert_eq!(stage.take("a.1", 1), (0, 50), "the first was sent at 10 ms");
    stage.pass(50);
    assert_eq!(stage.take("a.1", 4), (1, 20), "the second at 30 ms");
    stage.pass(20);
    assert_eq!(stage.take("a.1", 4), (1, 10), "the others at 40 ms");
}

#[test]
fn what_is_told_later_than_very_many_others_opens_with_the_first_of_those() {
    let mut stage = Stage::new();
    let many = Says { requests: 400, span: 10_000, ..SAYS };
    for (gateway, slots) in [("a.1", 300), ("b.1", 5)] {
        stage.hello(gateway);
        assert_eq!(stage.take_of(gateway, slots, many).0, slots);
    }
    for _ in 0..200 {
        stage.pass(1);
        stage.tell("a.1", Says { settled: Some((0, 1)), ..many });
    }
    stage.tell("b.1", Says { settled: Some((190, 5)), ..many });
    let key = format!("{{g}}:log:limit 0:{:032x}", 0);
    let log: Vec<String> = cmd("LRANGE").arg(key).arg(0).arg(-1).query(&mut stage.connection).unwrap();
    let counts: Vec<&str> = log.iter().map(|entry| entry.split_once(':').unwrap().1).collect();
    assert_eq!((counts.len(), counts.iter().position(|count| *count == "6")), (200, Some(200 - 128)));
}

#[test]
fn a_slot_that_opens_in_less_than_a_moment_is_not_open_now() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    assert_eq!(stage.take("a.1", 4).0, 4);
    stage.sent("a.1", 4);
    stage.pass(100);
    // It was sent at the microsecond's end.
    let answer = stage.tell("a.1", Says { takes: 2, waiting: 2, ..SAYS });
    assert_eq!(answer.grants[0].groups, [(Duration::from_micros(1), 2)]);
    stage.now += 1;
    let answer = stage.tell("a.1", Says { takes: 2, waiting: 2, ..SAYS });
    assert_eq!(answer.grants[0].groups, [(Duration::ZERO, 2)]);
}

#[test]
fn smooth_slots_keep_their_distance_from_when_those_before_were_sent() {
    let mut stage = Stage::new();
    let smooth = Says { kind: SharedKind::Smooth, ..SAYS };
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    assert_eq!(stage.take_of("a.1", 9, smooth).0, 1);
    stage.pass(60);
    assert_eq!(stage.take_of("b.1", 1, smooth).0, 0, "the first may still be sent");
    // It was sent ten milliseconds ago.
    stage.tell("a.1", Says { settled: Some((10, 1)), ..smooth });
    assert_eq!(stage.take_of("b.1", 1, smooth), (0, 15));
    stage.pass(15);
    stage.now += 1;
    assert_eq!(stage.take_of("b.1", 1, smooth).0, 1);
}

#[test]
fn a_smooth_slot_that_is_given_back_gives_its_distance_back() {
    let mut stage = Stage::new();
    let smooth = Says { kind: SharedKind::Smooth, ..SAYS };
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    assert_eq!(stage.take_of("a.1", 1, smooth).0, 1);
    stage.tell("a.1", Says { returned: 1, ..smooth });
    assert_eq!(stage.take_of("b.1", 1, smooth).0, 1);
}

#[test]
fn of_smooth_slots_as_many_may_be_under_way_as_were_saved_up() {
    let mut stage = Stage::new();
    let smooth = Says { kind: SharedKind::Smooth, requests: 10, burst: 3, ..SAYS };
    stage.hello("a.1");
    assert_eq!(stage.take_of("a.1", 9, smooth).0, 3);
    stage.tell("a.1", Says { settled: Some((0, 1)), ..smooth });
    assert_eq!(stage.take_of("a.1", 9, smooth).0, 0);
    stage.pass(5);
    stage.now += 1;
    assert_eq!(stage.take_of("a.1", 9, smooth).0, 1, "it was sent ten milliseconds before that one can go");
}
