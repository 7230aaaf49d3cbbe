//! What the script does where gateways' files differ: the strictest holds, and who counts otherwise waits.

use std::time::Duration;

use redis::cmd;

use super::scenarios::{BEGIN, SAYS, Says, Stage, millis};
use crate::gate::store::script_call::Command;
use crate::gate::store::{Error, PRESENCE};
use crate::locker::{LEASE, MAX_HORIZON, SharedKind};

/// The bits of an answer: in what gateways differ, and that the caller is granted nothing.
const SPACING: u32 = 16;
const COUNTS: u32 = 32;
const CALENDAR: u32 = 64;
const CLOCK: u32 = 128;
const UNKNOWN: u32 = 256;
const KEY: u32 = 512;
const SHUT: u32 = 1024;

/// A gateway speaks, and in what others are said to differ from it.
fn causes(stage: &mut Stage, gateway: &str, says: Says) -> u32 {
    stage.tell(gateway, says).mismatches.first().map_or(0, |mismatches| mismatches.causes)
}

/// Calendar periods of a minute that begin so much later than those of the clock.
fn minutes(shift_millis: i128) -> Says {
    let first = i128::from(BEGIN / 1000 / 60_000) * 60_000 + shift_millis;
    let bounds = [0, 60_000, 120_000].map(|later| (first + later) * 1_000_000);
    Says { kind: SharedKind::Calendar(bounds), span: 60_000, ..SAYS }
}

#[test]
fn who_lets_calendar_periods_begin_at_other_moments_waits_as_long_as_another_counts() {
    let mut stage = Stage::new();
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    assert_eq!(stage.take_of("a.1", 9, minutes(0)).0, 4);
    stage.tell("a.1", Says { settled: Some((0, 4)), ..minutes(0) });
    let mut went = [0, 0];
    // Both call all the time: in the first one's period, and in its next.
    for _ in 0..70 {
        stage.pass(500);
        for (number, gateway, shift) in [(1, "b.1", -30_000), (0, "a.1", 0)] {
            let (taken, _) = stage.take_of(gateway, 1, minutes(shift));
            went[number] += taken;
            if taken > 0 {
                stage.tell(gateway, Says { settled: Some((0, taken)), ..minutes(shift) });
            }
        }
    }
    assert_eq!(went, [4, 0]);
}

#[test]
fn who_is_shut_out_by_other_calendar_periods_says_so_and_goes_on_when_they_are_counted_no_more() {
    let mut stage = Stage::new();
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    let other = Says { calendar: Some("minute Asia/Kolkata"), ..minutes(-30_000) };
    assert_eq!(stage.take_of("a.1", 9, minutes(0)).0, 4);
    assert_eq!(causes(&mut stage, "b.1", other), CALENDAR | SHUT);
    assert_eq!(causes(&mut stage, "a.1", minutes(0)), CALENDAR, "the one that is counted");
    stage.pass(millis(PRESENCE) + 1);
    stage.hello("b.2");
    // Nobody counts so any more; and what went in the present one of these periods is not known.
    let left = 60_000 - BEGIN / 1000 % 60_000 + 30_000;
    assert_eq!(stage.take_of("b.2", 9, other), (0, left - millis(PRESENCE) - 1));
    stage.pass(left);
    stage.hello("b.3");
    let next = Says { calendar: Some("minute Asia/Kolkata"), ..minutes(30_000) };
    assert_eq!(stage.take_of("b.3", 9, next).0, 4);
}

#[test]
fn names_of_zones_that_differ_are_told_though_their_periods_do_not() {
    let mut stage = Stage::new();
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    stage.tell("a.1", minutes(0));
    let london = Says { calendar: Some("minute Europe/London"), ..minutes(0) };
    assert_eq!(causes(&mut stage, "b.1", london), CALENDAR);
    assert_eq!(stage.take_of("b.1", 9, london).0, 4);
}

#[test]
fn a_gateway_whose_clock_is_more_than_a_period_ahead_or_behind_says_so() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    for (minute, expected) in [(0, 0), (1, 0), (2, CLOCK | SHUT), (-1, 0), (-2, CLOCK | SHUT)] {
        assert_eq!(causes(&mut stage, "a.1", minutes(minute * 60_000)), expected, "{minute}");
    }
}

#[test]
fn a_gateway_of_which_nothing_is_understood_shuts_out_those_that_understand_nothing() {
    let mut stage = Stage::new();
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    stage.tell("b.1", SAYS);
    let key = format!("{{g}}:window:limit 0:{:032x}", 0);
    for foreign in ["4:100000:1000000000000:sliding", "", "what/none:of:us"] {
        cmd("HSET").arg(&key).arg("r:b.1").arg(foreign).exec(&mut stage.connection).unwrap();
        let answer = stage.tell("a.1", Says { takes: 1, waiting: 1, ..SAYS });
        assert!(answer.grants[0].groups.is_empty());
        assert_eq!(answer.mismatches[0].causes, UNKNOWN | SHUT, "{foreign}");
    }
    // What a later version says besides is left alone.
    let later = "4:100000:1000000000000:sliding:0:0:0::and more";
    cmd("HSET").arg(&key).arg("r:b.1").arg(later).exec(&mut stage.connection).unwrap();
    assert_eq!(stage.take("a.1", 1).0, 1);
}

#[test]
fn gateways_of_another_version_have_the_store_to_themselves_until_they_are_gone() {
    let mut stage = Stage::new();
    stage.hello("a.1");
    stage.take("a.1", 4);
    cmd("HSET").arg("{g}:meta").arg("v").arg("another").exec(&mut stage.connection).unwrap();
    assert!(matches!(stage.say("a.1", Command::Sync, Some(SAYS)), Err(Error::OtherVersion)));
    assert!(matches!(stage.say("b.1", Command::Hello, None), Err(Error::OtherVersion)));
    stage.pass(millis(PRESENCE) + 1);
    assert!(matches!(stage.say("b.1", Command::Sync, Some(SAYS)), Err(Error::Lapsed)));
    stage.hello("b.1");
    assert_eq!(stage.take("b.1", 1).0, 0, "what the others counted is not known");
}

#[test]
fn gateways_of_the_first_version_and_of_this_one_do_not_count_side_by_side() {
    let mut stage = Stage::new();
    let until = BEGIN + 1_000_000;
    // As the first version leaves them: its own key for the group, and a gateway that is there.
    cmd("HSET").arg("{g}:house").arg("id").arg("store").arg("v").arg("1").exec(&mut stage.connection).unwrap();
    cmd("ZADD").arg("{g}:present").arg(until).arg("old.1").exec(&mut stage.connection).unwrap();
    assert!(matches!(stage.say("a.1", Command::Hello, None), Err(Error::OtherVersion)));
    cmd("DEL").arg("{g}:present").exec(&mut stage.connection).unwrap();
    stage.hello("a.1");
    // It looks there when it comes back.
    let version: String = cmd("HGET").arg("{g}:house").arg("v").query(&mut stage.connection).unwrap();
    assert_ne!(version, "1");
    stage.hello("b.1");
}

#[test]
fn who_tells_windows_apart_otherwise_waits_until_nobody_does_as_before_and_what_was_counted_is_not_known() {
    let mut stage = Stage::new();
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    let other = Says { key: 1, keyed: "caller", ..SAYS };
    assert_eq!(stage.take("a.1", 9).0, 4);
    for _ in 0..3 {
        assert_eq!(causes(&mut stage, "b.1", other), KEY | SHUT);
        assert_eq!(stage.take_of("b.1", 9, other).0, 0);
        assert_eq!(causes(&mut stage, "a.1", SAYS), 0);
        stage.pass(400);
        for gateway in ["a.1", "b.1"] {
            stage.say(gateway, Command::Sync, None).unwrap();
        }
    }
    // The first has read its file again.
    let closed = millis(MAX_HORIZON + LEASE) + 100;
    assert_eq!(stage.take_of("a.1", 9, other), (0, closed));
    stage.pass(closed);
    assert_eq!(stage.take_of("b.1", 9, other).0, 4);
    // Of two that say the same the other may go.
    stage.pass(millis(PRESENCE) / 2 + 1);
    stage.tell("b.1", other);
    stage.pass(millis(PRESENCE) / 2 + 1);
    stage.tell("b.1", Says { returned: 4, ..other });
    stage.hello("c.1");
    assert_eq!(causes(&mut stage, "c.1", SAYS), KEY | SHUT);
    assert_eq!(stage.take_of("b.1", 9, other).0, 4);
}

#[test]
fn what_a_gateway_said_under_an_earlier_name_is_no_other_gateways_word() {
    let mut stage = Stage::new();
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    stage.tell("a.1", SAYS);
    // Its file was read again, and it has another name since.
    stage.hello("a.2");
    let changed = Says { requests: 8, kind: SharedKind::Fixed, keyed: "caller", ..SAYS };
    assert_eq!(causes(&mut stage, "a.2", Says { held: Some(0), ..changed }), 0);
}

#[test]
fn the_strictest_spacing_holds() {
    let smooth = Says { kind: SharedKind::Smooth, requests: 10, ..SAYS };
    for (gateway, other) in [("a.1", Says { burst: 1, ..smooth }), ("b.1", Says { requests: 5, burst: 3, ..smooth })] {
        let mut stage = Stage::new();
        stage.hello("c.1");
        stage.hello(gateway);
        assert_eq!(causes(&mut stage, gateway, other) & SPACING, 0);
        let own = Says { burst: 3, ..smooth };
        assert_eq!(causes(&mut stage, "c.1", own) & SPACING, SPACING);
        let interval = if gateway == "a.1" { 10 } else { 20 };
        let free = if gateway == "a.1" { 1 } else { 3 };
        assert_eq!(stage.take_of("c.1", 9, own).0, free, "{gateway}");
        stage.tell("c.1", Says { settled: Some((0, free)), ..own });
        assert_eq!(stage.take_of("c.1", 9, own), (0, interval), "{gateway}");
    }
}

#[test]
fn what_a_dead_gateway_held_counts_as_late_as_it_said_itself() {
    let mut stage = Stage::new();
    let long = Says { span: 10_000, ..SAYS };
    stage.hello("a.1");
    assert_eq!(stage.take_of("a.1", 4, Says { linger: 1000, ..long }).0, 4);
    stage.pass(2000);
    stage.hello("b.1");
    assert_eq!(stage.take_of("b.1", 1, long), (0, 10_000 - 2000 + millis(PRESENCE) + 1000));
}

#[test]
fn where_another_counts_what_is_answered_what_was_sent_counts_a_linger_later() {
    let mut stage = Stage::new();
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    stage.tell("b.1", Says { linger: 1000, ..SAYS });
    assert_eq!(causes(&mut stage, "a.1", SAYS), COUNTS);
    assert_eq!(stage.take("a.1", 9).0, 4);
    stage.sent("a.1", 4);
    assert_eq!(stage.take("a.1", 1), (0, 1100));
    assert_eq!(stage.take_of("b.1", 1, Says { linger: 1000, ..SAYS }), (0, 1100));
}

#[test]
fn the_largest_part_and_the_longest_time_hold_that_gateways_say() {
    let late = millis(LEASE) + 100 + 60_000 + 60;
    for (own, withheld) in [(None, 2), (Some(4), 2), (Some(2), 2)] {
        let mut stage = Stage::new();
        stage.shares = Some(2);
        stage.hello("b.1");
        stage.tell("b.1", SAYS);
        stage.shares = own;
        stage.hello("a.1");
        let differs = stage.tell("a.1", SAYS).settings_mismatch;
        assert_eq!(differs, own != Some(2), "{own:?}");
        assert_eq!(stage.take("a.1", 9).0, 4, "both are there");
        stage.tell("a.1", Says { returned: 4, ..SAYS });
        for _ in 0..3 {
            stage.pass(millis(PRESENCE) / 2);
            stage.tell("a.1", SAYS);
        }
        assert_eq!(stage.take("a.1", 9).0, 4 - withheld, "{own:?}");
        stage.tell("a.1", Says { returned: 4 - withheld, ..SAYS });
        for _ in 0..late / 500 {
            stage.pass(500);
            stage.tell("a.1", SAYS);
        }
        assert_eq!(stage.take("a.1", 9).0, 4, "{own:?}: its time is over");
    }
}

#[test]
fn the_longest_span_is_told_where_gateways_differ() {
    let mut stage = Stage::new();
    for gateway in ["a.1", "b.1"] {
        stage.hello(gateway);
    }
    stage.tell("b.1", Says { span: 5000, ..SAYS });
    assert_eq!(stage.tell("a.1", SAYS).mismatches[0].span, Duration::from_secs(5));
}
