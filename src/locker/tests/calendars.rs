//! Tests of calendar limits under clock steps, restarts and suspends.

use super::crashes::{go, long, recording, write};
use super::order::{drive, wait};
use super::sim_disk::SimDisk;
use super::*;

const HOUR: i128 = 3_600_000_000_000;
const DAY: i128 = 24 * HOUR;
/// Midnight at the start of 1 June 2026, in nanoseconds of Unix time.
const JUNE: i128 = 20_605 * DAY;

fn hours(hours: u64) -> Time {
    ms(hours * 3_600_000)
}

/// A set wall clock with this reading at the start.
fn set_to(at_start: i128) -> WallSample {
    WallSample { at_start, ..WALL }
}

/// A wall clock that was not set since boot.
const UNSET: WallSample = WallSample { at_start: 20, asleep: 0, is_set: false };

fn by(unit: Unit, requests: u32) -> Limit {
    let per = match unit {
        Unit::Minute => 60_000,
        Unit::Hour => 3_600_000,
        Unit::Day => 86_400_000,
    };
    let zone = jiff::tz::TimeZone::UTC;
    Limit { rate: limit(requests, per, Kind::Calendar { unit, zone }).rate, ..long(requests) }
}

fn day(requests: u32) -> Limit {
    by(Unit::Day, requests)
}

/// A locker with one limit per day, and a wall clock with this reading at the start.
fn at(requests: u32, wall: WallSample) -> Locker {
    Locker::restore(Locker::new(vec![day(requests)]).snapshot(ms(0)), Shutdown::Orderly, wall, ms(0))
}

/// Snapshot on disk of a locker that crashed before it wrote any window.
fn without_windows(locker: &Locker) -> Snapshot {
    Snapshot { limits: locker.crash_limit_snapshots(), windows: Vec::new(), readings: locker.readings() }
}

fn free(locker: &mut Locker, now: Time) -> u32 {
    let most = locker.limits()[0].rate.as_ref().map_or(0, |rate| rate.requests);
    most - locker.usage(LimitId(0), Key(0), now).taken
}

#[test]
fn what_a_crash_may_have_cost_belongs_to_its_day() {
    let wall = set_to(JUNE + HOUR);
    let mut locker = at(300, wall);
    for round in 1..5 {
        locker = Locker::restore(without_windows(&locker), Shutdown::Crash, wall, hours(24 * round));
        assert_eq!(free(&mut locker, hours(24 * round)), 200, "a block, on day {round}");
    }
    let again = &mut Locker::restore(without_windows(&locker), Shutdown::Crash, wall, hours(97));
    assert_eq!(free(again, hours(97)), 100, "twice on one day");
}

#[test]
fn a_step_of_the_clock_is_known_and_its_readings_are_left_to_the_next_process() {
    let wall = set_to(JUNE);
    let mut locker = at(3, wall);
    let shown = |wall: WallSample, now: Time| wall.at_start + i128::from(now.as_nanos());
    assert!(locker.expects_wall(shown(wall, ms(5)), ms(5)));
    let stepped = set_to(JUNE + HOUR);
    assert!(!locker.expects_wall(shown(stepped, ms(5)), ms(5)));
    locker.set_wall(stepped, ms(6));
    assert!(locker.expects_wall(shown(stepped, ms(7)), ms(7)));
    let readings: Vec<(i128, Time)> = locker.readings().iter().map(|reading| (reading.least, reading.until)).collect();
    assert_eq!(readings, [(wall.at_start, ms(6)), (stepped.at_start, Time::NEVER)]);
}

#[test]
fn what_a_change_of_the_rule_has_forgotten_belongs_to_its_day() {
    let wall = set_to(JUNE + 10 * HOUR);
    let mut locker = at(3, wall);
    locker.reload(vec![Limit { name: locker.limits()[0].name.clone(), ..long(3) }], Duration::ZERO, ms(1));
    assert_eq!(go(&mut locker, 0, ms(1)), 0, "what went before is not known");
    locker.reload(vec![Limit { name: locker.limits()[0].name.clone(), ..day(3) }], Duration::ZERO, hours(1));
    assert_eq!(go(&mut locker, 0, hours(13)), 0, "23 o'clock");
    let mut next = Locker::restore(without_windows(&locker), Shutdown::Orderly, wall, hours(14));
    assert_eq!(go(&mut next, 0, hours(14)), 3);
}

#[test]
fn what_went_unwritten_counts_until_the_day_is_over() {
    let wall = set_to(JUNE + 10 * HOUR);
    let mut next = Locker::restore(without_windows(&at(3, wall)), Shutdown::NotPersisted, wall, hours(1));
    assert_eq!(go(&mut next, 0, hours(13)), 0);
    assert_eq!(go(&mut next, 0, hours(14)), 3);
}

#[test]
fn a_clock_that_is_far_ahead_for_a_minute_opens_nothing_and_closes_nothing_for_long() {
    // Three of three slots, or two; then the clock shows a day ten years later for a minute.
    for (before, most) in [(3, 0), (2, 1)] {
        let mut locker = at(3, set_to(JUNE + 10 * HOUR));
        let claims = [claim(0, 0, before)];
        assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
        locker.set_wall(set_to(JUNE + 3653 * DAY + HOUR), ms(1000));
        assert_eq!(go(&mut locker, 0, ms(1000)), most);
        locker.set_wall(set_to(JUNE + 10 * HOUR), ms(61_000));
        for now in [ms(61_000), hours(13)] {
            assert_eq!(go(&mut locker, 0, now), 0, "it is the same day: {now:?}");
        }
        assert_eq!(go(&mut locker, 0, hours(25)), 3);
        // Two days later periods end at midnight again.
        assert_eq!(free(&mut locker, hours(61)), 3);
        assert_eq!(go(&mut locker, 0, hours(61)), 3);
        assert_eq!((free(&mut locker, hours(61)), free(&mut locker, hours(62))), (0, 3));
    }
}

#[test]
fn a_clock_that_stays_ahead_is_believed_when_a_day_has_passed() {
    let mut locker = at(3, set_to(JUNE + 10 * HOUR));
    assert_eq!(go(&mut locker, 0, ms(0)), 3);
    locker.set_wall(set_to(JUNE + 3653 * DAY + 16 * HOUR), ms(1000));
    assert_eq!((go(&mut locker, 0, hours(23)), go(&mut locker, 0, hours(24))), (0, 3));
    // Midnight by the new clock is 8 hours after the start.
    assert_eq!((free(&mut locker, hours(31)), free(&mut locker, hours(56))), (0, 3));
    assert_eq!(go(&mut locker, 0, hours(56)), 3);
    assert_eq!((free(&mut locker, hours(79)), free(&mut locker, hours(80))), (0, 3));
}

#[test]
fn a_machine_that_begins_in_1970_counts_the_day_once() {
    let mut locker = at(3, UNSET);
    assert_eq!(go(&mut locker, 0, ms(0)), 3);
    locker.set_wall(set_to(JUNE + 10 * HOUR), ms(60_000));
    assert_eq!(go(&mut locker, 0, hours(13)), 0, "it was today");
    assert_eq!(go(&mut locker, 0, hours(14)), 3, "midnight");
    // A clock that is never set knows no days: a slot opens a day after its use.
    let mut never = at(3, UNSET);
    assert_eq!(go(&mut never, 0, hours(1)), 3);
    assert_eq!((go(&mut never, 0, hours(24)), go(&mut never, 0, hours(33))), (0, 3));
}

#[test]
fn without_a_clock_a_slot_counts_for_a_day_and_the_guard_at_both_ends() {
    let mut limit = day(3);
    limit.rate.as_mut().unwrap().guard = Duration::from_secs(3600);
    let mut locker = Locker::restore(Locker::new(vec![limit]).snapshot(ms(0)), Shutdown::Orderly, UNSET, ms(0));
    assert_eq!(go(&mut locker, 0, hours(1)), 3);
    let last = hours(27) - Duration::from_nanos(1);
    assert_eq!((go(&mut locker, 0, last), go(&mut locker, 0, hours(27))), (0, 3));
}

#[test]
fn a_slot_at_the_first_moment_that_may_be_tomorrow_counts_until_tomorrow_is_over() {
    let guard = Duration::from_secs(60);
    let mut limit = day(1);
    limit.rate.as_mut().unwrap().guard = guard;
    let snapshot = Locker::new(vec![limit]).snapshot(ms(0));
    let opens = [Duration::from_nanos(1), Duration::ZERO].map(|before| {
        let wall = set_to(JUNE + 10 * HOUR);
        let mut locker = Locker::restore(snapshot.clone(), Shutdown::Orderly, wall, ms(0));
        let at = hours(14) - guard - before;
        assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), at).is_ok());
        let refused = locker.ask(&Ask { max_wait: Some(Duration::ZERO), ..ask(&[claim(0, 0, 1)], 1) }, at);
        let Verdict::Sorry(sorry) = refused else { panic!("{refused:?}") };
        sorry.until
    });
    assert_eq!(opens, [hours(14) + guard, hours(38) + guard]);
}

#[test]
fn a_loss_of_power_between_does_not_open_a_day_again() {
    let right = |since: u64| set_to(JUNE + 10 * HOUR - i128::from(hours(since).as_nanos()));
    let mut locker = at(3, right(0));
    assert_eq!(go(&mut locker, 0, ms(0)), 3);
    let mut left = locker.snapshot(ms(1));
    // The machine was off for two hours without measuring it: its own time continues where it stopped.
    left.readings[0].most += 366 * DAY;
    let mut off = Locker::restore(left, Shutdown::Orderly, UNSET, ms(2));
    assert_eq!(go(&mut off, 0, ms(2)), 0);
    let mut again = Locker::restore(off.snapshot(ms(3)), Shutdown::Orderly, UNSET, ms(3));
    for locker in [&mut off, &mut again] {
        // Noon.
        locker.set_wall(set_to(JUNE + 12 * HOUR), ms(60_000));
        assert_eq!(go(locker, 0, hours(11)), 0);
        assert_eq!(go(locker, 0, hours(12)), 3, "midnight is not later for it");
    }
}

#[test]
fn a_clock_that_was_set_while_no_gateway_ran_opens_nothing() {
    for (shift, opens) in [(-2, 16), (2, 14), (3653 * 24, 24), (-3 * 24, 24)] {
        let mut locker = at(3, set_to(JUNE + 10 * HOUR));
        assert_eq!(go(&mut locker, 0, ms(0)), 3);
        let snapshot = locker.snapshot(hours(1));
        let mut next = Locker::restore(snapshot, Shutdown::Orderly, set_to(JUNE + (10 + shift) * HOUR), hours(1));
        let gone = [opens - 1, opens].map(|hour| go(&mut next, 0, hours(hour)));
        assert_eq!(gone, [0, 3], "set by {shift} h");
    }
}

#[test]
fn a_day_goes_on_after_a_restart_and_one_that_is_over_is_over() {
    let wall = set_to(JUNE + HOUR);
    let (mut locker, mut disk) = recording(vec![day(30)]);
    locker.set_wall(wall, ms(0));
    assert_eq!(go(&mut locker, 0, ms(0)), 10);
    write(&mut locker, &mut disk, ms(0));
    for (now, left) in [(22, 10), (23, 20), (24, 20)] {
        let readings = locker.readings();
        let SimDisk { limits, records, .. } = &disk;
        let snapshot = Snapshot { limits: limits.clone(), windows: records.values().cloned().collect(), readings };
        let mut next = Locker::restore(snapshot, Shutdown::Crash, wall, hours(now));
        // A block that was written ahead counts as used when the restart finds the crash, which may be on the next day.
        assert_eq!(free(&mut next, hours(now)), left, "after {now} h");
    }
}

#[test]
fn a_night_that_the_machine_sleeps_through_ends_the_day() {
    let mut locker = at(3, set_to(JUNE + 20 * HOUR));
    assert_eq!(go(&mut locker, 0, ms(0)), 3);
    // The machine sleeps from nine in the evening to eight in the morning.
    let slept = |at_start: i128, asleep: u64| WallSample { at_start, asleep: asleep * 3_600_000_000_000, is_set: true };
    locker.set_wall(slept(JUNE + 31 * HOUR, 11), hours(1));
    assert_eq!(go(&mut locker, 0, hours(1)), 3);
    assert_eq!((go(&mut locker, 0, hours(16)), go(&mut locker, 0, hours(17))), (0, 3));
    // The machine sleeps from one at night to one at night; then the clock is set to one at noon.
    locker.set_wall(slept(JUNE + 55 * HOUR, 35), hours(18));
    assert_eq!(go(&mut locker, 0, hours(18)), 3);
    locker.set_wall(slept(JUNE + 67 * HOUR, 35), hours(18));
    assert_eq!(go(&mut locker, 0, hours(29)), 0, "midnight by the new clock is not by the old");
    assert_eq!((go(&mut locker, 0, hours(40)), go(&mut locker, 0, hours(41))), (0, 3));
}

#[test]
fn a_clock_that_is_set_by_moments_all_the_time_costs_moments() {
    let mut locker = at(3, set_to(JUNE + 23 * HOUR));
    assert_eq!(go(&mut locker, 0, ms(0)), 3);
    for step in 0..3600 {
        let shift = if step % 3 == 0 { 5_000_000 } else { 0 };
        locker.set_wall(set_to(JUNE + 23 * HOUR + shift), ms(step * 1000));
    }
    assert_eq!(go(&mut locker, 0, hours(1) - Duration::from_millis(6)), 0);
    assert_eq!(go(&mut locker, 0, hours(1)), 3);
    assert_eq!(free(&mut locker, hours(24)), 0);
    assert_eq!(free(&mut locker, hours(25)), 3);
}

#[test]
fn by_a_clock_that_was_never_set_a_slot_counts_for_a_unit_and_the_guard_on_both_sides() {
    let mut rule = by(Unit::Minute, 1);
    if let Some(rate) = &mut rule.rate {
        rate.guard = Duration::from_secs(1);
    }
    rule.when_full = WhenFull::Refuse;
    let new = Locker::new(vec![rule]).snapshot(ms(0));
    let mut locker = Locker::restore(new, Shutdown::Orderly, UNSET, ms(0));
    assert_eq!(go(&mut locker, 0, ms(1000)), 1);
    assert_eq!(go(&mut locker, 0, ms(62_999)), 0);
    assert_eq!(go(&mut locker, 0, ms(63_000)), 1);
}

/// A locker with one limit of one per minute and patient waiters, and a wall clock with this reading at the start.
fn one_a_minute(shared: bool, wall: WallSample) -> Locker {
    let rule = Limit { shared, max_wait: Duration::from_secs(600), ..by(Unit::Minute, 1) };
    Locker::restore(Locker::new(vec![rule]).snapshot(ms(0)), Shutdown::Orderly, wall, ms(0))
}

/// Times in ms that three waiters are told, one after the other.
fn told(locker: &mut Locker) -> [Option<Time>; 3] {
    [1, 2, 3].map(|at| {
        let verdict = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(at));
        let Verdict::Wait(_, until) = verdict else { panic!("{verdict:?}") };
        until
    })
}

#[test]
fn waiters_are_told_the_end_of_the_present_period_and_of_those_that_others_fill() {
    let mut locker = one_a_minute(false, set_to(JUNE));
    assert_eq!(go(&mut locker, 0, ms(0)), 1);
    assert_eq!(told(&mut locker), [60_000, 120_000, 180_000].map(|at| Some(ms(at))));
}

#[test]
fn a_slot_that_opens_sooner_when_an_old_reading_counts_no_more_wakes_its_waiter_then() {
    let mut locker = one_a_minute(false, set_to(JUNE));
    locker.set_wall(set_to(JUNE + 20_000_000_000), ms(10_000));
    locker.handle_timeout(ms(60_000));
    assert_eq!(go(&mut locker, 0, ms(110_000)), 1, "in the third minute by the clock, in the second by that of before");
    wait(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(115_000));
    let mut went = Vec::new();
    drive(&mut locker, ms(300_000), |_, _, at| went.push(at));
    assert_eq!(went, [ms(160_000)]);
}

/// Its periods may end at any time.
#[test]
fn by_a_clock_that_was_never_set_waiters_behind_others_are_told_the_length_of_the_periods_that_those_fill() {
    let mut locker = one_a_minute(false, UNSET);
    assert_eq!(go(&mut locker, 0, ms(0)), 1);
    assert_eq!(told(&mut locker), [60_000, 60_002, 120_003].map(|at| Some(ms(at))));
}

#[test]
fn the_store_is_told_the_bounds_of_this_period_and_of_the_next() {
    let mut locker = one_a_minute(true, set_to(JUNE + HOUR));
    locker.open_sharing(ms(0));
    let verdict = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(0));
    assert!(matches!(verdict, Verdict::Wait(..)), "{verdict:?}");
    let minutes = [0, 60_000_000_000, 120_000_000_000].map(|minute| JUNE + HOUR + minute);
    assert_eq!(locker.take_sync(SyncTrigger::Due, ms(0)).windows[0].params.kind, SharedKind::Calendar(minutes));
}
