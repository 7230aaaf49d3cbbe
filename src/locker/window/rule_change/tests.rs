//! Tests of what a new rule takes over from the one before it.

use jiff::tz::TimeZone;

use super::*;
use crate::locker::api::{Key, LimitId};
use crate::locker::limit::{Kind, Limit, Unit};
use crate::locker::tests::{WALL, limit, ms};
use crate::locker::wall_clock::WallSample;

const SECOND: Duration = Duration::from_secs(1);

/// A wall clock that showed `at` milliseconds of Unix time at the start.
fn clock(at: i128) -> WallClock {
    WallClock::begin(WallSample { at_start: at * 1_000_000, ..WALL })
}

fn rule(kind: Kind) -> WindowRule {
    rolled(&limit(10, 1000, kind), ms(0))
}

fn rolled(limit: &Limit, now: Time) -> WindowRule {
    let mut rule = WindowRule::new(limit);
    rule.roll(&clock(0), now);
    rule
}

/// The sliding rule that takes over from `old` at `now`; all that was granted has settled by 100 ms.
fn after(old: &WindowRule, now: Time) -> (WindowRule, Vec<UnknownSlots>) {
    let mut new = rule(Kind::Sliding);
    let unseen = new.change_rule(old, ms(100), &clock(0), now);
    (new, unseen)
}

#[test]
fn answers_of_all_earlier_rules_linger_until_the_last_of_their_requests_has_settled() {
    let lingers = |answered, earlier: Option<(Time, Duration)>, now| {
        let old = WindowRule { answered, linger: 5 * SECOND, lingers: earlier, ..rule(Kind::Sliding) };
        after(&old, now).0.lingers
    };
    let (short, long) = (Some((ms(50), 3 * SECOND)), Some((ms(500), 8 * SECOND)));
    assert_eq!(lingers(false, None, ms(10)), None);
    assert_eq!(lingers(true, None, ms(10)), Some((ms(100), 5 * SECOND)));
    assert_eq!(lingers(false, short, ms(10)), short);
    assert_eq!(lingers(true, short, ms(10)), Some((ms(100), 5 * SECOND)));
    assert_eq!(lingers(true, long, ms(10)), long);
    // The earlier one's requests have settled.
    assert_eq!(lingers(false, short, ms(50)), None);
    assert_eq!(lingers(true, short, ms(50)), Some((ms(100), 5 * SECOND)));
}

#[test]
fn versions_of_a_rule_go_round() {
    let next = |version| after(&WindowRule { version, ..rule(Kind::Sliding) }, ms(10)).0.version;
    assert_eq!([0, 1, 5, RULE_VERSIONS - 1].map(next), [1, 2, 6, 0]);
}

#[test]
fn what_a_rule_has_dropped_is_unknown_unless_the_limit_did_not_exist_then() {
    let unseen = |since, now| after(&WindowRule { since, ..rule(Kind::Sliding) }, now).1;
    // A slot that settled at 400 ms was dropped at 1400 ms.
    assert_eq!(unseen(ms(399), ms(1400)), [UnknownSlots::all(ms(400))]);
    assert_eq!(unseen(ms(400), ms(1400)), []);
    assert_eq!(unseen(ms(0), ms(500)), [], "nothing was dropped yet");
    // A fixed window may have dropped slots a moment ago.
    let old = WindowRule { since: ms(399), ..rule(Kind::Fixed) };
    assert_eq!(after(&old, ms(400)).1, [UnknownSlots::all(ms(400))]);
}

#[test]
fn slots_that_were_not_counted_here_count_once_the_limit_is_neither_shared_nor_a_dry_run() {
    let away = UnknownSlots { at: ms(5), slots: 3 };
    let old = WindowRule { suspended: vec![away], shared: true, ..rule(Kind::Sliding) };
    for (shared, dry_run) in [(true, false), (false, true), (true, true), (false, false)] {
        let mut new = rolled(&Limit { shared, dry_run, ..limit(10, 1000, Kind::Sliding) }, ms(0));
        let unseen = new.change_rule(&old, ms(100), &clock(0), ms(10));
        let counts = !shared && !dry_run;
        assert_eq!(unseen.contains(&away), counts, "shared {shared}, dry run {dry_run}");
        assert_eq!(new.suspended.contains(&away), !counts, "shared {shared}, dry run {dry_run}");
    }
}

fn calendar(unit: Unit, zone: TimeZone) -> Limit {
    limit(10, 1000, Kind::Calendar { unit, zone })
}

/// Changes from one calendar to another, 10 minutes and 30 seconds after midnight. Returns the old rule, the new one, and
/// the slots that are unknown.
fn forgotten(old: &Limit, new: &Limit) -> (WindowRule, WindowRule, Vec<UnknownSlots>) {
    let now = ms(630_000);
    let old = WindowRule { since: Time::START, ..rolled(old, now) };
    let mut new = rolled(new, now);
    let unseen = new.change_rule(&old, now, &clock(0), now);
    (old, new, unseen)
}

#[test]
fn a_longer_period_has_forgotten_what_was_before_the_shorter_one() {
    let minute = calendar(Unit::Minute, TimeZone::UTC);
    let hour = calendar(Unit::Hour, TimeZone::UTC);
    let (old, _, unseen) = forgotten(&minute, &hour);
    assert_eq!(unseen, [UnknownSlots::all(old.period.began - Duration::from_nanos(1))]);
    assert_eq!(old.period.began, ms(600_000));
    assert_eq!(forgotten(&hour, &minute).2, [], "a shorter one needs no more than is known");
}

#[test]
fn the_same_periods_with_a_longer_guard_have_forgotten_nothing() {
    let minute = calendar(Unit::Minute, TimeZone::UTC);
    let mut guarded = minute.clone();
    if let Some(rate) = &mut guarded.rate {
        rate.guard = 2 * SECOND;
    }
    let (old, new, unseen) = forgotten(&minute, &guarded);
    assert_eq!((unseen, new.period.began), (Vec::new(), old.period.began));
}

/// A window in which so many slots settled at 10 ms.
fn used(rule: &WindowRule, slots: u32) -> Window {
    let mut window = Window::new(LimitId(0), Key::WHOLE, rule, ms(0));
    if slots > 0 {
        window.take(rule, slots);
        window.settle(rule, slots, ms(10));
    }
    window
}

fn entries(window: &Window) -> Vec<(Time, u32)> {
    window.log_entries().map(|entry| (entry.at, entry.count)).collect()
}

#[test]
fn a_window_of_another_kind_counts_from_the_change_what_was_counted() {
    let old = rule(Kind::Fixed);
    let mut window = used(&old, 3);
    window.change_rule(&old, &rule(Kind::Sliding), &[], ms(50));
    assert_eq!((entries(&window), window.unsettled), (vec![(ms(50), 3)], 0));
}

#[test]
fn slots_of_a_fixed_window_may_settle_until_its_answers_have_lingered() {
    let old = WindowRule { answered: true, linger: SECOND, ..rule(Kind::Fixed) };
    let mut window = used(&old, 3);
    window.change_rule(&old, &rule(Kind::Sliding), &[], ms(50));
    assert_eq!(entries(&window), [(ms(1050), 3)]);
    let mut window = used(&old, 0);
    window.change_rule(&old, &rule(Kind::Smooth { burst: 1 }), &[], ms(50));
    assert_eq!(window.tat(), ms(50), "there is nothing that could linger");
}

#[test]
fn spacing_begins_behind_the_last_slot_that_was_used() {
    let (sliding, smooth) = (rule(Kind::Sliding), rule(Kind::Smooth { burst: 1 }));
    assert_eq!(smooth.interval, 100_000_000);
    for (slots, tat) in [(1, 150), (0, 50)] {
        let mut window = used(&sliding, slots);
        window.change_rule(&sliding, &smooth, &[], ms(50));
        assert_eq!(window.tat(), ms(tat), "{slots} used");
    }
    let mut window = used(&smooth, 1);
    let before = window.tat();
    window.change_rule(&smooth, &smooth, &[], ms(50));
    assert_eq!(window.tat(), before, "it was spaced already");
}

#[test]
fn a_limit_without_a_rate_counts_no_slot() {
    let old = rule(Kind::Sliding);
    let mut window = used(&old, 3);
    let uncounted = rolled(&Limit { rate: None, in_flight: Some(2), ..limit(1, 1000, Kind::Sliding) }, ms(0));
    window.change_rule(&old, &uncounted, &[], ms(50));
    assert_eq!((entries(&window), window.in_log), (vec![], 0));
    window.change_rule(&uncounted, &old, &[], ms(60));
    assert_eq!(entries(&window), []);
}
