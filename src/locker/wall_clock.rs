//! The wall clock as calendars go by it: what it reads, what it has read of late, and when the machine slept.
//!
//! A wall clock is set: the network tells it the time, a machine without a battery begins in 1970, a date is mistyped.
//! It cannot be known which of two readings is right. So one that is given up for another is honoured beside it for as
//! long as a period lasts, and a period is over when it is over by each of them. A step then opens nothing, in whichever
//! direction, and closes nothing for longer than about a period.
//!
//! A suspend is no step: the wall clock goes on meanwhile, and the gateway's line does not.

use std::time::Duration;

use crate::time::Time;

/// One look at the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallSample {
    /// Its reading at [`Time::START`] if it always went as it goes now, in nanoseconds of Unix time.
    pub at_start: i128,
    /// For how long the machine has been suspended since it was started, in nanoseconds.
    pub asleep: u64,
    /// True if it has been told the time. If not, it says how much time passes, and nothing more.
    pub is_set: bool,
}

/// A reading of the wall clock, and for how long it was believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallReading {
    /// Its reading at [`Time::START`] at least, in nanoseconds of Unix time,
    pub least: i128,
    /// and at most: more than `least` if it is not known for how long the machine was off.
    pub most: i128,
    /// When it was given up for another; `Time::NEVER`: it has not been.
    pub until: Time,
}

/// A smaller difference between two looks, in nanoseconds, is the clocks' own unrest.
pub(super) const JITTER: u64 = 1_000_000;

/// Time for which a reading is kept that was given up: longer than any period (a day of 25 hours, and a guard of less than half
/// a day at both of its ends).
const READING_KEPT_FOR: Duration = Duration::from_secs(50 * 3600);
/// So many readings are kept apart. Of more, the two oldest are one.
const MAX_READINGS: usize = 8;
/// So many suspends are kept. What lies before them seems later than it was.
const MAX_SUSPENDS: usize = 4;

/// All that is known of the wall clock.
#[derive(Clone, Default, Debug)]
pub(in crate::locker) struct WallClock {
    /// `None` before the first look.
    wall: Option<WallSample>,
    earlier: Vec<WallReading>,
    /// When the machine was suspended, and for how many nanoseconds; oldest first.
    suspends: Vec<(Time, u64)>,
}

impl WallClock {
    /// One that goes on where another ended, which had these readings.
    pub(super) fn restore(readings: Vec<WallReading>, wall: WallSample, now: Time) -> WallClock {
        let mut clock = WallClock { earlier: readings, ..WallClock::default() };
        clock.set(wall, now);
        clock
    }

    /// One that was not looked at until now: what it read before is of no account.
    pub(super) fn begin(wall: WallSample) -> WallClock {
        WallClock { wall: Some(wall), ..WallClock::default() }
    }

    /// All readings that a locker that goes on from here must know of.
    pub(super) fn readings(&self) -> Vec<WallReading> {
        let present = self.wall.filter(|wall| wall.is_set);
        let present = present.map(|WallSample { at_start, .. }| WallReading {
            least: at_start,
            most: at_start,
            until: Time::NEVER,
        });
        self.earlier.iter().copied().chain(present).collect()
    }

    /// Takes a look into account. Returns true if anything is other than before.
    pub(super) fn set(&mut self, wall: WallSample, now: Time) -> bool {
        let Some(was) = self.wall.replace(wall) else {
            self.compare(wall, now);
            return true;
        };
        let slept = wall.asleep.saturating_sub(was.asleep);
        let has_slept = slept > JITTER;
        let expected = was.at_start + if has_slept { i128::from(slept) } else { 0 };
        let steps = wall.at_start.abs_diff(expected) > u128::from(JITTER);
        if !has_slept && !steps && wall.is_set == was.is_set {
            self.wall = Some(was);
            return false;
        }
        if has_slept {
            self.note_suspend(slept, now);
        }
        if was.is_set && (steps || !wall.is_set) {
            self.supersede(WallReading { least: expected, most: expected, until: now }, now);
        }
        self.compare(wall, now);
        true
    }

    fn note_suspend(&mut self, slept: u64, now: Time) {
        for reading in &mut self.earlier {
            (reading.least, reading.most) = (reading.least + i128::from(slept), reading.most + i128::from(slept));
        }
        self.suspends.push((now, slept));
        if self.suspends.len() > MAX_SUSPENDS {
            self.suspends.remove(0);
        }
    }

    fn supersede(&mut self, reading: WallReading, now: Time) {
        self.earlier.retain(|other| other.until + READING_KEPT_FOR > now);
        self.earlier.push(reading);
        if self.earlier.len() > MAX_READINGS {
            let WallReading { least, most, until } = self.earlier.remove(0);
            let next = &mut self.earlier[0];
            *next =
                WallReading { least: next.least.min(least), most: next.most.max(most), until: next.until.max(until) };
        }
    }

    /// Compares a first reading, or the first after the clock was set, with what an earlier locker has left: it is the
    /// same clock, or has been set since.
    fn compare(&mut self, wall: WallSample, now: Time) {
        if !wall.is_set {
            return;
        }
        let jitter = i128::from(JITTER);
        let is_same = |it: &WallReading| (it.least - jitter..=it.most + jitter).contains(&wall.at_start);
        self.earlier.retain(|reading| reading.until < Time::NEVER || !is_same(reading));
        for reading in self.earlier.iter_mut().filter(|reading| reading.until == Time::NEVER) {
            reading.until = now;
        }
    }

    /// The time that it shows, in nanoseconds of Unix time.
    pub(super) fn unix(&self, now: Time) -> i128 {
        self.wall.map_or(0, |wall| wall.at_start) + i128::from(now.as_nanos())
    }

    /// The slowest and the fastest reading that may be right, where one that was given up is honoured for so long. `None`:
    /// there is no knowing.
    pub(super) fn range(&self, honoured: Duration, now: Time) -> Option<(i128, i128)> {
        let present = self.wall.filter(|wall| wall.is_set).map(|wall| (wall.at_start, wall.at_start));
        let earlier = self.earlier.iter().filter(|reading| reading.until + honoured > now);
        let earlier = earlier.map(|reading| (reading.least, reading.most));
        present.into_iter().chain(earlier).reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
    }

    /// The moment at which a clock of such a reading shows, or showed, this.
    pub(super) fn time_of(&self, unix: i128, reading: i128) -> Time {
        let mut at = unix.saturating_sub(reading);
        for (slept_at, slept) in self.suspends.iter().rev() {
            let slept_at = i128::from(slept_at.as_nanos());
            if at < slept_at {
                at = (at + i128::from(*slept)).min(slept_at);
            }
        }
        Time::from_nanos(u64::try_from(at.max(0)).unwrap_or(u64::MAX))
    }
}
