//! Scenario tests of config mismatches: the strictest parameters apply, and incompatible gateways are granted nothing.

use std::time::Duration;

use redis::cmd;

use super::scenarios::{BASE, BEGIN, ScriptFixture, SyncArgs, millis};
use crate::gate::store::script_call::Command;
use crate::gate::store::{Error, PRESENCE};
use crate::locker::{LEASE, MAX_HORIZON, SharedKind};

/// Bits of a mismatch: the parameters that differ; `BLOCKED`: the caller is granted nothing.
const SPACING: u32 = 16;
const COUNTS: u32 = 32;
const CALENDAR: u32 = 64;
const CLOCK: u32 = 128;
const UNKNOWN: u32 = 256;
const KEY: u32 = 512;
const BLOCKED: u32 = 1024;

/// Makes a sync call; returns the causes of its mismatch, 0 without one.
fn mismatch_causes(fixture: &mut ScriptFixture, gateway: &str, sync_args: SyncArgs) -> u32 {
    fixture.sync(gateway, sync_args).mismatches.first().map_or(0, |mismatch| mismatch.causes)
}

/// A sync call with calendar periods of a minute that begin `shift_millis` later than those of the clock.
fn minutes(shift_millis: i128) -> SyncArgs {
    let first = i128::from(BEGIN / 1000 / 60_000) * 60_000 + shift_millis;
    let bounds = [0, 60_000, 120_000].map(|later| (first + later) * 1_000_000);
    SyncArgs { kind: SharedKind::Calendar(bounds), span: 60_000, ..BASE }
}

#[test]
fn who_lets_calendar_periods_begin_at_other_moments_waits_as_long_as_another_counts() {
    let mut fixture = ScriptFixture::new();
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    assert_eq!(fixture.request_slots_with("a.1", 9, minutes(0)).0, 4);
    fixture.sync("a.1", SyncArgs { settled: Some((0, 4)), ..minutes(0) });
    let mut went = [0, 0];
    // Both call all the time: in the present period of the first one, and in its next.
    for _ in 0..70 {
        fixture.advance(500);
        for (number, gateway, shift) in [(1, "b.1", -30_000), (0, "a.1", 0)] {
            let (taken, _) = fixture.request_slots_with(gateway, 1, minutes(shift));
            went[number] += taken;
            if taken > 0 {
                fixture.sync(gateway, SyncArgs { settled: Some((0, taken)), ..minutes(shift) });
            }
        }
    }
    assert_eq!(went, [4, 0]);
}

#[test]
fn who_is_shut_out_by_other_calendar_periods_says_so_and_goes_on_when_they_are_counted_no_more() {
    let mut fixture = ScriptFixture::new();
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    let other = SyncArgs { calendar: Some("minute Asia/Kolkata"), ..minutes(-30_000) };
    assert_eq!(fixture.request_slots_with("a.1", 9, minutes(0)).0, 4);
    assert_eq!(mismatch_causes(&mut fixture, "b.1", other), CALENDAR | BLOCKED);
    assert_eq!(mismatch_causes(&mut fixture, "a.1", minutes(0)), CALENDAR, "the one that is counted");
    fixture.advance(millis(PRESENCE) + 1);
    fixture.hello("b.2");
    // The former periods are no longer in use, and the count of the present one is unknown.
    let left = 60_000 - BEGIN / 1000 % 60_000 + 30_000;
    assert_eq!(fixture.request_slots_with("b.2", 9, other), (0, left - millis(PRESENCE) - 1));
    fixture.advance(left);
    fixture.hello("b.3");
    let next = SyncArgs { calendar: Some("minute Asia/Kolkata"), ..minutes(30_000) };
    assert_eq!(fixture.request_slots_with("b.3", 9, next).0, 4);
}

#[test]
fn names_of_zones_that_differ_are_told_though_their_periods_do_not() {
    let mut fixture = ScriptFixture::new();
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    fixture.sync("a.1", minutes(0));
    let london = SyncArgs { calendar: Some("minute Europe/London"), ..minutes(0) };
    assert_eq!(mismatch_causes(&mut fixture, "b.1", london), CALENDAR);
    assert_eq!(fixture.request_slots_with("b.1", 9, london).0, 4);
}

#[test]
fn a_gateway_whose_clock_is_more_than_a_period_ahead_or_behind_says_so() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    for (minute, expected) in [(0, 0), (1, 0), (2, CLOCK | BLOCKED), (-1, 0), (-2, CLOCK | BLOCKED)] {
        assert_eq!(mismatch_causes(&mut fixture, "a.1", minutes(minute * 60_000)), expected, "{minute}");
    }
}

#[test]
fn a_gateway_of_which_nothing_is_understood_shuts_out_those_that_understand_nothing() {
    let mut fixture = ScriptFixture::new();
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    fixture.sync("b.1", BASE);
    let key = format!("{{g}}:window:limit 0:{:032x}", 0);
    for foreign in ["4:100000:1000000000000:sliding", "", "what/none:of:us"] {
        cmd("HSET").arg(&key).arg("r:b.1").arg(foreign).exec(&mut fixture.connection).unwrap();
        let reply = fixture.sync("a.1", SyncArgs { wanted: 1, waiting: 1, ..BASE });
        assert!(reply.grants[0].groups.is_empty());
        assert_eq!(reply.mismatches[0].causes, UNKNOWN | BLOCKED, "{foreign}");
    }
    // Fields that a later version appends are ignored.
    let later = "4:100000:1000000000000:sliding:0:0:0::and more";
    cmd("HSET").arg(&key).arg("r:b.1").arg(later).exec(&mut fixture.connection).unwrap();
    assert_eq!(fixture.request_slots("a.1", 1).0, 1);
}

#[test]
fn gateways_of_another_version_have_the_store_to_themselves_until_they_are_gone() {
    let mut fixture = ScriptFixture::new();
    fixture.hello("a.1");
    fixture.request_slots("a.1", 4);
    cmd("HSET").arg("{g}:meta").arg("v").arg("another").exec(&mut fixture.connection).unwrap();
    assert!(matches!(fixture.call("a.1", Command::Sync, Some(BASE)), Err(Error::OtherVersion)));
    assert!(matches!(fixture.call("b.1", Command::Hello, None), Err(Error::OtherVersion)));
    fixture.advance(millis(PRESENCE) + 1);
    assert!(matches!(fixture.call("b.1", Command::Sync, Some(BASE)), Err(Error::Lapsed)));
    fixture.hello("b.1");
    assert_eq!(fixture.request_slots("b.1", 1).0, 0, "what the others counted is not known");
}

#[test]
fn gateways_of_the_first_version_and_of_this_one_do_not_count_side_by_side() {
    let mut fixture = ScriptFixture::new();
    let until = BEGIN + 1_000_000;
    // State left by version 1: its own key for the group, and a present gateway.
    cmd("HSET").arg("{g}:house").arg("id").arg("store").arg("v").arg("1").exec(&mut fixture.connection).unwrap();
    cmd("ZADD").arg("{g}:present").arg(until).arg("old.1").exec(&mut fixture.connection).unwrap();
    assert!(matches!(fixture.call("a.1", Command::Hello, None), Err(Error::OtherVersion)));
    cmd("DEL").arg("{g}:present").exec(&mut fixture.connection).unwrap();
    fixture.hello("a.1");
    // A gateway of version 1 checks this key when it comes back.
    let version: String = cmd("HGET").arg("{g}:house").arg("v").query(&mut fixture.connection).unwrap();
    assert_ne!(version, "1");
    fixture.hello("b.1");
}

#[test]
fn who_tells_windows_apart_otherwise_waits_until_nobody_does_as_before_and_what_was_counted_is_not_known() {
    let mut fixture = ScriptFixture::new();
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    let other = SyncArgs { key: 1, keyed_by: "caller", ..BASE };
    assert_eq!(fixture.request_slots("a.1", 9).0, 4);
    for _ in 0..3 {
        assert_eq!(mismatch_causes(&mut fixture, "b.1", other), KEY | BLOCKED);
        assert_eq!(fixture.request_slots_with("b.1", 9, other).0, 0);
        assert_eq!(mismatch_causes(&mut fixture, "a.1", BASE), 0);
        fixture.advance(400);
        for gateway in ["a.1", "b.1"] {
            fixture.call(gateway, Command::Sync, None).unwrap();
        }
    }
    // The first gateway reloads, and has the other `key` too.
    let closed = millis(MAX_HORIZON + LEASE) + 100;
    assert_eq!(fixture.request_slots_with("a.1", 9, other), (0, closed));
    fixture.advance(closed);
    assert_eq!(fixture.request_slots_with("b.1", 9, other).0, 4);
    // Of two gateways with the same `key`, the one that first had it may go.
    fixture.advance(millis(PRESENCE) / 2 + 1);
    fixture.sync("b.1", other);
    fixture.advance(millis(PRESENCE) / 2 + 1);
    fixture.sync("b.1", SyncArgs { returned: 4, ..other });
    fixture.hello("c.1");
    assert_eq!(mismatch_causes(&mut fixture, "c.1", BASE), KEY | BLOCKED);
    assert_eq!(fixture.request_slots_with("b.1", 9, other).0, 4);
}

#[test]
fn what_a_gateway_said_under_an_earlier_name_is_no_other_gateways_word() {
    let mut fixture = ScriptFixture::new();
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    fixture.sync("a.1", BASE);
    // A reload changes its file, and it has another session since.
    fixture.hello("a.2");
    let changed = SyncArgs { requests: 8, kind: SharedKind::Fixed, keyed_by: "caller", ..BASE };
    assert_eq!(mismatch_causes(&mut fixture, "a.2", SyncArgs { held: Some(0), ..changed }), 0);
}

#[test]
fn the_strictest_spacing_holds() {
    let smooth = SyncArgs { kind: SharedKind::Smooth, requests: 10, ..BASE };
    for (gateway, other) in
        [("a.1", SyncArgs { burst: 1, ..smooth }), ("b.1", SyncArgs { requests: 5, burst: 3, ..smooth })]
    {
        let mut fixture = ScriptFixture::new();
        fixture.hello("c.1");
        fixture.hello(gateway);
        assert_eq!(mismatch_causes(&mut fixture, gateway, other) & SPACING, 0);
        let own = SyncArgs { burst: 3, ..smooth };
        assert_eq!(mismatch_causes(&mut fixture, "c.1", own) & SPACING, SPACING);
        let interval = if gateway == "a.1" { 10 } else { 20 };
        let free = if gateway == "a.1" { 1 } else { 3 };
        assert_eq!(fixture.request_slots_with("c.1", 9, own).0, free, "{gateway}");
        fixture.sync("c.1", SyncArgs { settled: Some((0, free)), ..own });
        assert_eq!(fixture.request_slots_with("c.1", 9, own), (0, interval), "{gateway}");
    }
}

#[test]
fn what_a_dead_gateway_held_counts_as_late_as_it_said_itself() {
    let mut fixture = ScriptFixture::new();
    let long = SyncArgs { span: 10_000, ..BASE };
    fixture.hello("a.1");
    assert_eq!(fixture.request_slots_with("a.1", 4, SyncArgs { linger: 1000, ..long }).0, 4);
    fixture.advance(2000);
    fixture.hello("b.1");
    assert_eq!(fixture.request_slots_with("b.1", 1, long), (0, 10_000 - 2000 + millis(PRESENCE) + 1000));
}

#[test]
fn where_another_counts_what_is_answered_what_was_sent_counts_a_linger_later() {
    let mut fixture = ScriptFixture::new();
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    fixture.sync("b.1", SyncArgs { linger: 1000, ..BASE });
    assert_eq!(mismatch_causes(&mut fixture, "a.1", BASE), COUNTS);
    assert_eq!(fixture.request_slots("a.1", 9).0, 4);
    fixture.settle_now("a.1", 4);
    assert_eq!(fixture.request_slots("a.1", 1), (0, 1100));
    assert_eq!(fixture.request_slots_with("b.1", 1, SyncArgs { linger: 1000, ..BASE }), (0, 1100));
}

#[test]
fn the_largest_part_and_the_longest_time_hold_that_gateways_say() {
    let late = millis(LEASE) + 100 + 60_000 + 60;
    for (own, withheld) in [(None, 2), (Some(4), 2), (Some(2), 2)] {
        let mut fixture = ScriptFixture::new();
        fixture.shares = Some(2);
        fixture.hello("b.1");
        fixture.sync("b.1", BASE);
        fixture.shares = own;
        fixture.hello("a.1");
        let differs = fixture.sync("a.1", BASE).settings_mismatch;
        assert_eq!(differs, own != Some(2), "{own:?}");
        assert_eq!(fixture.request_slots("a.1", 9).0, 4, "both are there");
        fixture.sync("a.1", SyncArgs { returned: 4, ..BASE });
        for _ in 0..3 {
            fixture.advance(millis(PRESENCE) / 2);
            fixture.sync("a.1", BASE);
        }
        assert_eq!(fixture.request_slots("a.1", 9).0, 4 - withheld, "{own:?}");
        fixture.sync("a.1", SyncArgs { returned: 4 - withheld, ..BASE });
        for _ in 0..late / 500 {
            fixture.advance(500);
            fixture.sync("a.1", BASE);
        }
        assert_eq!(fixture.request_slots("a.1", 9).0, 4, "{own:?}: its time is over");
    }
}

#[test]
fn the_longest_span_is_told_where_gateways_differ() {
    let mut fixture = ScriptFixture::new();
    for gateway in ["a.1", "b.1"] {
        fixture.hello(gateway);
    }
    fixture.sync("b.1", SyncArgs { span: 5000, ..BASE });
    assert_eq!(fixture.sync("a.1", BASE).mismatches[0].span, Duration::from_secs(5));
}
