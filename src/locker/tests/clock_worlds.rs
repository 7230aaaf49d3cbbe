//! Random worlds with a faulty wall clock: it is set, unset or wrong, the machine is suspended or loses its power, and
//! gateways restart. No minute of the true calendar may get more than N.

use std::collections::HashMap;

use proptest::prelude::*;

use super::crashes::go;
use super::generators::{SeededRng, cases};
use super::*;

const MINUTE: u64 = 60_000_000_000;
/// True time at the start: a full minute in the year 2026, in nanoseconds of Unix time.
const START: i128 = 29_672_640 * MINUTE as i128;
const DAY: u64 = 1440 * MINUTE;

struct ClockWorld {
    rng: SeededRng,
    seed: u64,
    locker: Locker,
    now: Time,
    requests: u32,
    guard: u64,
    /// Nanoseconds that the gateway's own time does not show: the machine was suspended or off.
    missing: u64,
    /// Nanoseconds of suspend since boot.
    asleep: u64,
    /// Error of the wall clock in nanoseconds; `None` if it is not set.
    off: Option<i128>,
    /// Time since which the clock is wrong.
    off_since: Time,
    /// True times at which requests were sent, and their number.
    sent: Vec<(i128, u32)>,
    /// Time of the last request or crash, by the gateway's own time.
    last: Time,
}

fn minutely(requests: u32, guard: u64) -> Limit {
    let kind = Kind::Calendar { unit: Unit::Minute, zone: jiff::tz::TimeZone::UTC };
    let mut limit = limit(requests, 60_000, kind);
    limit.rate.as_mut().expect("it has one").guard = Duration::from_nanos(guard);
    limit
}

impl ClockWorld {
    fn new(seed: u64) -> ClockWorld {
        let mut rng = SeededRng::new(seed);
        let requests = rng.range(1, 8) as u32;
        let guard = if rng.one_in(2) { rng.range(0, 5_000_000_000) } else { 0 };
        let mut locker = Locker::new(vec![minutely(requests, guard)]);
        locker.set_wall(WALL, Time::START);
        let mut world = ClockWorld {
            rng,
            seed,
            locker,
            now: Time::START,
            requests,
            guard,
            missing: 0,
            asleep: 0,
            off: Some(0),
            off_since: Time::START,
            sent: Vec::new(),
            last: Time::START,
        };
        world.locker =
            Locker::restore(world.locker.snapshot(Time::START), Shutdown::Orderly, world.wall(), Time::START);
        world
    }

    /// The true time, in nanoseconds of Unix time.
    fn true_time(&self) -> i128 {
        START + i128::from(self.now.as_nanos()) + i128::from(self.missing)
    }

    fn wall(&self) -> WallSample {
        let at_start = match self.off {
            Some(off) => START + i128::from(self.missing) + off,
            None => 7 - i128::from(self.now.as_nanos()),
        };
        WallSample { at_start, asleep: self.asleep, is_set: self.off.is_some() }
    }

    /// Changes the error of the wall clock, unseen by the locker.
    fn skew(&mut self, off: Option<i128>) {
        if self.off == Some(0) {
            self.off_since = self.now;
        }
        self.off = off;
    }

    fn set(&mut self, off: Option<i128>) {
        self.skew(off);
        self.locker.set_wall(self.wall(), self.now);
    }

    fn random_skew(&mut self) -> Option<i128> {
        let most = [5_000_000, 1_000_000_000, 40_000_000_000, 2 * DAY, 3653 * DAY][self.rng.range(0, 5) as usize];
        let off = i128::from(self.rng.range(0, most));
        match self.rng.range(0, 5) {
            0 => None,
            1 | 2 => Some(off),
            _ => Some(-off),
        }
    }

    fn advance_time(&mut self) {
        let span = match self.rng.range(0, 4) {
            0 => self.rng.range(0, 1_000_000),
            1 => self.rng.range(0, 1_000_000_000),
            _ => self.rng.range(0, 25_000_000_000),
        };
        self.now = self.now + Duration::from_nanos(span);
        // A clock that is wrong for as long as a period is trusted, so this world corrects it before.
        if self.off != Some(0) && self.now.since(self.off_since) > Duration::from_secs(50) {
            self.now = self.now.min(self.off_since + Duration::from_secs(50));
            self.set(Some(0));
        }
        if self.rng.one_in(2) {
            self.locker.handle_timeout(self.now);
        }
    }

    fn suspend(&mut self) {
        let slept = self.rng.range(0, 100_000_000_000);
        (self.missing, self.asleep) = (self.missing + slept, self.asleep + slept);
        self.locker.set_wall(self.wall(), self.now);
    }

    /// The gateway restarts within the same boot; the clock may have been set meanwhile.
    fn restart(&mut self) {
        let snapshot = self.locker.snapshot(self.now);
        let end = if self.rng.one_in(4) { Shutdown::NotPersisted } else { Shutdown::Orderly };
        if self.rng.one_in(3) && self.off == Some(0) {
            let off = self.random_skew();
            self.skew(off);
        }
        self.restart_from(snapshot, end);
    }

    /// The machine loses its power, and boots with a clock that is right, unset, or behind its earlier reading.
    fn lose_power(&mut self) {
        let mut snapshot = self.locker.snapshot(self.now);
        let off_for = self.rng.range(0, 100_000_000_000);
        self.asleep = 0;
        let was_set = self.off.is_some();
        match self.rng.range(0, 3) {
            0 if self.off == Some(0) => self.now = self.now + Duration::from_nanos(off_for),
            kind => {
                self.missing += off_for;
                let behind = -i128::from(off_for) - i128::from(self.rng.range(1_000_000_000, DAY));
                self.skew((kind == 1 && was_set).then_some(behind));
                // The length of the outage is unknown.
                for reading in &mut snapshot.readings {
                    reading.most += 366 * i128::from(DAY);
                }
            }
        }
        self.restart_from(snapshot, Shutdown::Orderly);
    }

    fn restart_from(&mut self, snapshot: Snapshot, end: Shutdown) {
        let windows = if end == Shutdown::NotPersisted { Vec::new() } else { snapshot.windows };
        if end == Shutdown::NotPersisted {
            self.last = self.now;
        }
        self.locker = Locker::restore(Snapshot { windows, ..snapshot }, end, self.wall(), self.now);
    }

    fn send(&mut self) {
        let most = self.rng.range(1, u64::from(self.requests) + 1) as u32;
        let claims = [claim(0, 0, most)];
        let all = self.rng.one_in(2);
        let gone = if all {
            go(&mut self.locker, 0, self.now)
        } else {
            let ask = Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 1) };
            u32::from(send(&mut self.locker, &ask, self.now).is_ok()) * most
        };
        if gone > 0 {
            self.sent.push((self.true_time(), gone));
            self.last = self.now;
        }
    }

    /// Asserts that a window is never closed for longer than a period, by any clock.
    fn check_openings(&mut self) {
        let usage = self.locker.usage(LimitId(0), Key(0), self.now);
        let period = Duration::from_nanos(MINUTE + 2 * self.guard);
        if self.now.since(self.last) > period {
            assert_eq!(usage.taken, 0, "seed {}: nothing was sent for {:?}", self.seed, self.now.since(self.last));
        }
        assert!(usage.opens.is_some_and(|at| at.since(self.now) <= period), "seed {}: {usage:?}", self.seed);
    }

    /// Asserts that no minute of a clock that is right, or off by the guard at most, has more than N requests.
    fn check_minutes(&mut self) {
        for off in [0, 1, -1, self.rng.range(0, 1000) as i128 - 500] {
            let off = if off.abs() == 1 { off * self.guard as i128 } else { off * self.guard as i128 / 500 };
            let mut minutes: HashMap<i128, u32> = HashMap::new();
            for (at, count) in &self.sent {
                *minutes.entry((at + off).div_euclid(MINUTE.into())).or_default() += count;
            }
            let most = minutes.values().max().copied().unwrap_or(0);
            assert!(most <= self.requests, "seed {}: {most} of {} in a minute", self.seed, self.requests);
        }
    }

    fn run(mut self) -> u32 {
        for _ in 0..200 {
            self.advance_time();
            match self.rng.range(0, 12) {
                0 if self.off == Some(0) => {
                    let off = self.random_skew();
                    self.set(off);
                }
                0 => self.set(Some(0)),
                1 => self.suspend(),
                2 if self.rng.one_in(2) => self.restart(),
                3 if self.rng.one_in(2) => self.lose_power(),
                _ => self.send(),
            }
            self.check_openings();
        }
        self.check_minutes();
        self.sent.iter().map(|(_, count)| count).sum()
    }
}

/// A random world of this seed.
pub(super) fn odd_clocks(seed: u64) {
    ClockWorld::new(seed).run();
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn whatever_the_wall_clock_does_no_minute_gets_more_than_it_may(seed: u64) {
        odd_clocks(seed);
    }
}

#[test]
fn worlds_with_odd_clocks_let_many_go() {
    let sent: u32 = (0..50).map(|seed| ClockWorld::new(seed).run()).sum();
    assert!(sent > 2000, "{sent}: worlds in which nothing happens prove nothing");
}
