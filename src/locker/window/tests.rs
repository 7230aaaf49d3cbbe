//! Contract tests for every window kind, and the guarantees of each kind.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::*;
use crate::locker::limit::{Kind, Unit};
use crate::locker::tests::{WALL, limit, ms};
use crate::locker::wall_clock::{WallClock, WallSample};

impl Window {
    /// True if the window has no allocation of its own.
    pub(crate) fn is_bare(&self) -> bool {
        self.queue.is_none() && self.extra.is_none()
    }
}

fn kinds() -> Vec<Kind> {
    let calendar = Kind::Calendar { unit: Unit::Minute, zone: TimeZone::UTC };
    vec![Kind::Sliding, Kind::Fixed, calendar, Kind::Smooth { burst: 1 }, Kind::Smooth { burst: 4 }]
}

/// One window of four slots per minute of some kind, with its rule.
struct TestWindow {
    rule: WindowRule,
    window: Window,
    clock: WallClock,
    name: String,
}

/// A set wall clock with this reading at the start.
fn clock(at_start: i128) -> WallClock {
    WallClock::restore(Vec::new(), WallSample { at_start, ..WALL }, Time::START)
}

impl TestWindow {
    fn of(kind: Kind) -> TestWindow {
        let name = format!("{kind:?}");
        let mut rule = WindowRule::new(&limit(4, 60_000, kind));
        rule.roll(&clock(0), Time::START);
        let window = Window::new(LimitId(0), Key::WHOLE, &rule, Time::START);
        TestWindow { rule, window, clock: clock(0), name }
    }

    fn at(&mut self, now: Time) -> (&mut Window, &WindowRule) {
        if now >= self.rule.period.until {
            self.rule.roll(&self.clock, now);
        }
        self.window.expire(&self.rule, now);
        (&mut self.window, &self.rule)
    }

    fn fits(&mut self, cost: u32, now: Time) -> bool {
        let (window, rule) = self.at(now);
        window.fits(rule, cost, now)
    }

    fn opening(&mut self, cost: u32, now: Time) -> Option<Time> {
        let (window, rule) = self.at(now);
        window.opening(rule, 0, 0, cost, now)
    }

    fn send(&mut self, cost: u32, now: Time) {
        let (window, rule) = self.at(now);
        window.take(rule, cost);
        window.settle(rule, cost, now);
    }

    fn taken(&self) -> u32 {
        self.window.unsettled + self.window.in_log
    }
}

fn each(test: impl Fn(TestWindow)) {
    for kind in kinds() {
        test(TestWindow::of(kind));
    }
    test(guarded());
}

/// A calendar window with a guard of two seconds.
fn guarded() -> TestWindow {
    let mut limit = limit(4, 60_000, Kind::Calendar { unit: Unit::Minute, zone: TimeZone::UTC });
    limit.rate.as_mut().expect("it has one").guard = Duration::from_secs(2);
    let mut rule = WindowRule::new(&limit);
    rule.roll(&clock(0), Time::START);
    let window = Window::new(LimitId(0), Key::WHOLE, &rule, Time::START);
    TestWindow { rule, window, clock: clock(0), name: "guarded".to_owned() }
}

#[test]
fn a_new_window_takes_its_n_slots_at_once_and_no_more() {
    each(|mut one| {
        assert!(one.fits(4, ms(0)), "{}", one.name);
        assert!(!one.fits(5, ms(0)), "{}", one.name);
        one.send(4, ms(0));
        assert!(!one.fits(1, ms(0)), "{}", one.name);
    });
}

#[test]
fn a_slot_that_has_not_settled_stays_busy_whatever_that_takes() {
    each(|mut one| {
        let (window, rule) = one.at(ms(0));
        window.take(rule, 4);
        for day in 0..3 {
            let now = ms(day * 86_400_000);
            assert!(!one.fits(1, now), "{}", one.name);
            assert_eq!(one.opening(1, now), None, "{}", one.name);
        }
    });
}

#[test]
fn what_is_given_back_is_free_at_once() {
    each(|mut one| {
        let (window, rule) = one.at(ms(0));
        window.take(rule, 4);
        window.give_back(rule, 4);
        assert!(one.fits(4, ms(0)), "{}", one.name);
        assert!(one.window.is_idle(&one.rule, ms(0)), "{}", one.name);
    });
}

#[test]
fn it_opens_at_its_opening_and_not_a_nanosecond_before() {
    each(|mut one| {
        let mut now = ms(1);
        for step in 0..50u32 {
            let cost = step % 3 + 1;
            let opening = one.opening(cost, now).unwrap_or_else(|| panic!("{}", one.name));
            assert_eq!(one.fits(cost, now), opening == now, "{} {step}", one.name);
            if opening > now {
                let before = opening - Duration::from_nanos(1);
                assert!(!one.fits(cost, before), "{} {step}", one.name);
                now = opening;
                assert!(one.fits(cost, now), "{} {step}", one.name);
            }
            one.send(cost, now);
            assert!(one.taken() <= 4, "{} {step}", one.name);
            now = now + Duration::from_millis(u64::from(step) * 777 % 9000);
        }
    });
}

#[test]
fn an_idle_window_cannot_be_told_from_a_new_one() {
    each(|mut one| {
        one.send(3, ms(5));
        assert!(!one.window.is_idle(&one.rule, ms(5)), "{}", one.name);
        let (window, rule) = one.at(ms(130_005));
        assert!(window.is_idle(rule, ms(130_005)), "{}", one.name);
        assert!(one.fits(4, ms(130_005)), "{}", one.name);
    });
}

#[test]
fn nothing_opens_before_a_pause_ends_and_pauses_only_lengthen() {
    each(|mut one| {
        one.window.pause(ms(500));
        one.window.pause(ms(300));
        assert!(!one.fits(1, ms(499)), "{}", one.name);
        assert_eq!(one.opening(1, ms(0)), Some(ms(500)), "{}", one.name);
        assert!(!one.window.is_idle(&one.rule, ms(499)), "{}", one.name);
        assert!(one.fits(1, ms(500)), "{}", one.name);
    });
}

#[test]
fn fewer_slots_are_waited_out() {
    for kind in kinds() {
        let mut one = TestWindow::of(kind.clone());
        one.send(3, ms(0));
        let mut fewer = WindowRule::new(&limit(2, 60_000, kind));
        let unseen = fewer.change_rule(&one.rule, ms(1), &one.clock, ms(1));
        one.window.change_rule(&one.rule, &fewer, &unseen, ms(1));
        one.rule = fewer;
        assert!(!one.fits(1, ms(59_999)), "{}", one.name);
        assert!(one.fits(1, ms(60_000)) || matches!(one.rule.algorithm, Algorithm::Smooth), "{}", one.name);
    }
}

#[test]
fn a_longer_span_closes_what_is_no_longer_known() {
    let short = WindowRule::new(&limit(4, 1000, Kind::Sliding));
    let mut long = WindowRule::new(&limit(4, 10_000, Kind::Sliding));
    let unseen = long.change_rule(&short, ms(5000), &clock(0), ms(5000));
    let mut window = Window::new(LimitId(0), Key::WHOLE, &short, ms(0));
    window.change_rule(&short, &long, &unseen, ms(5000));
    assert!(!window.fits(&long, 1, ms(5000)), "four may have settled just before 4 s");
    let fresh = Window::new(LimitId(0), Key::WHOLE, &long, ms(6000));
    assert!(!fresh.fits(&long, 1, ms(6000)), "under an unknown key too");
    for mut window in [window, fresh] {
        window.expire(&long, ms(13_999));
        assert!(!window.fits(&long, 1, ms(13_999)));
        window.expire(&long, ms(14_000));
        assert!(window.fits(&long, 4, ms(14_000)));
    }
}

#[test]
fn what_is_given_back_after_a_change_does_not_stand_for_what_was_forgotten() {
    let short = WindowRule::new(&limit(1, 1000, Kind::Sliding));
    let mut long = WindowRule::new(&limit(1, 10_000, Kind::Sliding));
    let unseen = long.change_rule(&short, ms(5000), &clock(0), ms(5000));
    let mut window = Window::new(LimitId(0), Key::WHOLE, &short, ms(0));
    window.take(&short, 1);
    window.change_rule(&short, &long, &unseen, ms(5000));
    window.give_back(&long, 1);
    assert!(!window.fits(&long, 1, ms(5000)), "another may have settled just before 4 s");
}

#[test]
fn a_hundred_thousand_slots_need_a_thousand_entries_and_never_open_early() {
    let rule = WindowRule::new(&limit(100_000, 1000, Kind::Sliding));
    let mut window = Window::new(LimitId(0), Key::WHOLE, &rule, ms(0));
    let mut exact: VecDeque<(Time, u32)> = VecDeque::new();
    let (mut now, mut went, mut random) = (ms(0), 0u64, 1u64);
    while now < ms(5000) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        now = now + Duration::from_nanos(random >> 46);
        let cost = (random >> 20) as u32 % 100 + 1;
        window.expire(&rule, now);
        while exact.front().is_some_and(|(at, _)| *at + Duration::from_secs(1) <= now) {
            exact.pop_front();
        }
        if window.fits(&rule, cost, now) {
            let busy: u32 = exact.iter().map(|(_, cost)| cost).sum();
            assert!(busy + cost <= 100_000, "it let {} through", busy + cost);
            window.take(&rule, cost);
            window.settle(&rule, cost, now);
            exact.push_back((now, cost));
            went += u64::from(cost);
        }
        assert!(window.log_entries().count() <= 1025);
    }
    assert!(went >= 495_000, "{went} of 500 000");
}

#[test]
fn a_window_is_two_cache_lines() {
    assert_eq!(std::mem::size_of::<Window>(), 128);
}

/// A `calendar` window of two slots in Berlin; `start` is the local time in 2026 at the start.
fn berlin(unit: Unit, start: &str) -> TestWindow {
    let zone = TimeZone::get("Europe/Berlin").expect("the zone is known");
    let wall = start.parse::<jiff::Timestamp>().expect("a timestamp").as_nanosecond();
    let mut rule = WindowRule::new(&limit(2, 1, Kind::Calendar { unit, zone }));
    rule.roll(&clock(wall), Time::START);
    let window = Window::new(LimitId(0), Key::WHOLE, &rule, Time::START);
    TestWindow { rule, window, clock: clock(wall), name: start.to_owned() }
}

fn minutes(minutes: u64) -> Time {
    ms(minutes * 60_000)
}

#[test]
fn a_calendar_day_ends_at_local_midnight_on_days_of_23_and_25_hours() {
    // Clocks went forward on 29 March 2026 and back on 25 October.
    for (start, hours) in [("2026-03-28T23:00:00Z", 23), ("2026-10-24T22:00:00Z", 25), ("2026-06-01T22:00:00Z", 24)] {
        let mut one = berlin(Unit::Day, start);
        one.send(2, ms(1));
        assert_eq!(one.opening(1, ms(2)), Some(minutes(hours * 60)), "{start}");
        assert!(one.fits(2, minutes(hours * 60)), "{start}");
    }
}

#[test]
fn a_repeated_hour_is_one_window_and_its_minutes_are_many() {
    // 02:00 to 03:00 comes twice in Berlin, from 00:00 UTC to 02:00 UTC.
    let mut hour = berlin(Unit::Hour, "2026-10-25T00:10:00Z");
    hour.send(1, ms(0));
    assert!(hour.fits(1, minutes(60)) && !hour.fits(2, minutes(60)), "still the same hour");
    hour.send(1, minutes(60));
    assert_eq!(hour.opening(1, minutes(60)), Some(minutes(110)));
    let mut minute = berlin(Unit::Minute, "2026-10-25T00:10:30Z");
    minute.send(2, ms(0));
    assert_eq!(minute.opening(1, ms(0)), Some(ms(30_000)));
    minute.send(2, minutes(60));
    assert_eq!(minute.opening(1, minutes(60)), Some(minutes(60) + Duration::from_secs(30)));
}

#[test]
fn a_skipped_hour_ends_the_one_before_it() {
    let mut one = berlin(Unit::Hour, "2026-03-29T00:30:00Z");
    one.send(2, ms(0));
    assert_eq!(one.opening(1, ms(0)), Some(minutes(30)), "01:59 is followed by 03:00");
    one.send(2, minutes(30));
    assert_eq!(one.opening(1, minutes(30)), Some(minutes(90)));
}

impl TestWindow {
    /// Sets the wall clock ahead by a number of minutes, or back if it is negative.
    fn set(&mut self, minutes: i128, now: Time) {
        let at_start = self.clock.unix(Time::START) + minutes * 60_000_000_000;
        self.clock.set(WallSample { at_start, ..WALL }, now);
        self.rule.roll(&self.clock, now);
    }
}

#[test]
fn a_step_of_the_wall_clock_opens_nothing_before_the_hour_is_over_by_every_reading() {
    // From 10:11 into the hour before; the old clock shows eleven after 50 minutes, the new one after 80. An hour after they
    // were sent, the requests belong to another hour in any case.
    let mut back = berlin(Unit::Hour, "2026-06-01T10:10:00Z");
    back.send(2, minutes(1));
    back.set(-30, minutes(2));
    assert!(!back.fits(1, minutes(2)));
    assert_eq!(back.opening(1, minutes(2)), Some(minutes(61)));
    assert!(!back.fits(1, minutes(25)), "ten o'clock once more");
    assert_eq!(back.opening(1, minutes(25)), Some(minutes(61)));
    assert!(back.fits(2, minutes(61)));
    // From 10:36 to 11:06.
    let mut ahead = berlin(Unit::Hour, "2026-06-01T10:10:00Z");
    ahead.send(2, minutes(1));
    ahead.set(30, minutes(26));
    assert_eq!(ahead.opening(1, minutes(26)), Some(minutes(50)), "eleven by the old clock");
    assert!(ahead.fits(2, minutes(50)));
    // An hour later the new clock alone counts.
    ahead.send(2, minutes(50));
    assert_eq!(ahead.opening(1, minutes(51)), Some(minutes(110)));
    assert!(ahead.fits(2, minutes(110)));
    ahead.send(2, minutes(110));
    assert_eq!(ahead.opening(1, minutes(111)), Some(minutes(140)));
}

#[test]
fn an_hour_that_ends_while_the_machine_is_suspended_is_over() {
    let mut one = berlin(Unit::Hour, "2026-06-01T10:10:00Z");
    one.send(1, minutes(1));
    // From 10:30 to 15:30.
    let asleep = 5 * 3_600_000_000_000;
    let at_start = one.clock.unix(Time::START) + i128::from(asleep);
    one.clock.set(WallSample { at_start, asleep, is_set: true }, minutes(20));
    one.rule.roll(&one.clock, minutes(20));
    assert!(one.fits(2, minutes(20)));
    one.send(2, minutes(20));
    assert_eq!(one.opening(1, minutes(20)), Some(minutes(50)));
}

#[test]
fn however_much_was_not_used_it_is_summed_up() {
    let mut one = TestWindow::of(Kind::Sliding);
    let (window, rule) = one.at(ms(0));
    for _ in 0..2 {
        window.report_unused(rule, u32::MAX, u32::MAX);
    }
    let (delta, _) = window.take_delta(rule, 1, ms(0));
    assert_eq!((delta.returned, delta.landed), (u32::MAX, u32::MAX));
}

#[test]
fn what_is_sent_within_the_guard_of_a_boundary_counts_on_both_of_its_sides() {
    let mut one = guarded();
    one.send(1, ms(30_000));
    one.send(1, ms(57_999));
    one.send(1, ms(58_000));
    assert!(one.fits(1, ms(59_000)), "what is left of the minute may still go");
    one.send(1, ms(61_000));
    assert_eq!(one.opening(1, ms(61_500)), Some(ms(62_000)));
    assert_eq!(one.taken(), 4, "until two seconds after the full minute");
    assert!(one.fits(2, ms(62_000)) && !one.fits(3, ms(62_000)));
    one.send(2, ms(62_000));
    assert_eq!(one.opening(1, ms(62_000)), Some(ms(122_000)));
    assert!(one.fits(4, ms(122_000)));
}

#[test]
fn what_settles_before_a_boundary_is_not_joined_with_what_settles_behind_it() {
    let mut one = guarded();
    one.send(1, ms(57_999));
    one.send(1, ms(59_000));
    assert!(one.fits(3, ms(62_000)) && !one.fits(4, ms(62_000)));
}

#[test]
fn a_calendar_window_keeps_few_times_however_often_it_is_used() {
    let mut one = TestWindow::of(Kind::Calendar { unit: Unit::Minute, zone: TimeZone::UTC });
    one.rule.requests = 1000;
    (0..600).for_each(|at| one.send(1, ms(at * 100)));
    let times: Vec<u64> = one.window.log_entries().map(|entry| entry.at.as_nanos() / 1_000_000).collect();
    assert_eq!(times, [19_900, 39_900, 59_900]);
}

#[test]
fn when_spacing_opens_is_not_known_while_a_slot_under_way_may_move_it() {
    for (burst, opens) in [(1, None), (2, Some(ms(0)))] {
        let mut one = TestWindow::of(Kind::Smooth { burst });
        let (window, rule) = one.at(ms(0));
        window.take(rule, 1);
        assert_eq!(one.opening(1, ms(0)), opens, "a burst of {burst}");
    }
}
