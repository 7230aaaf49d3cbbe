//! Wall clock for calendar windows: its present reading, its recent readings, and the machine's
//! suspends.
//!
//! A wall clock is set: by the network, after a start in 1970 on a machine without a battery, or to
//! a mistyped date. The locker cannot know which of two readings is right. So a superseded reading
//! stays valid beside the new one for as long as a period lasts, and a period is over only if it is
//! over by each of them. A clock step then opens nothing early, in whichever direction, and closes
//! nothing for longer than about a period.
//!
//! A suspend is not a step: the wall clock runs on meanwhile, and the gateway's own time stands
//! still.

use std::time::Duration;

use crate::time::Time;

/// One sample of the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallSample {
    /// Reading at [`Time::START`], assuming the present rate and offset, in nanoseconds of Unix
    /// time.
    pub at_start: i128,
    /// Total suspend time since the machine booted, in nanoseconds.
    pub asleep: u64,
    /// True if the clock was set since boot. If not, it measures how much time passes, but not
    /// which time it is.
    pub is_set: bool,
}

/// A reading of the wall clock, with its uncertainty and the time until which it was trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallReading {
    /// Lower bound of the reading at [`Time::START`], in nanoseconds of Unix time.
    pub least: i128,
    /// Upper bound: above `least` if it is unknown how long the machine was off.
    pub most: i128,
    /// Time at which another reading superseded it; `Time::NEVER` if none has.
    pub until: Time,
}

/// Clock jitter in nanoseconds: a smaller difference between two samples is no clock step.
pub(super) const JITTER: u64 = 1_000_000;

/// Time for which a superseded reading is kept: longer than any period (a day of 25 hours, and a
/// guard of less than half a day at both of its ends).
const READING_KEPT_FOR: Duration = Duration::from_secs(50 * 3600);
/// Maximum number of superseded readings. Beyond it, the two oldest are merged into one that covers
/// both.
const MAX_READINGS: usize = 8;
/// Maximum number of suspends kept. Times before the oldest of them seem later than they were,
/// which opens slots later.
const MAX_SUSPENDS: usize = 4;

/// State of the wall clock.
#[derive(Clone, Default, Debug)]
pub(in crate::locker) struct WallClock {
    /// Latest sample; `None` before the first one.
    wall: Option<WallSample>,
    /// Superseded readings, oldest first.
    earlier: Vec<WallReading>,
    /// Suspends: when the machine woke up, and for how many nanoseconds it slept; oldest first.
    suspends: Vec<(Time, u64)>,
}

impl WallClock {
    /// The clock after a restart, with the `readings` that an earlier locker left.
    ///
    /// A reading without an end is dropped if `wall` says the same, and superseded at `now` if not,
    /// as soon as the clock is set.
    pub(super) fn restore(readings: Vec<WallReading>, wall: WallSample, now: Time) -> WallClock {
        let mut clock = WallClock { earlier: readings, ..WallClock::default() };
        clock.set(wall, now);
        clock
    }

    /// The clock at its first sample; any earlier reading is irrelevant.
    pub(super) fn begin(wall: WallSample) -> WallClock {
        WallClock { wall: Some(wall), ..WallClock::default() }
    }

    /// All readings that a later locker must know, the present one last.
    pub(super) fn readings(&self) -> Vec<WallReading> {
        let present = self.wall.filter(|wall| wall.is_set);
        let present = present.map(|WallSample { at_start, .. }| WallReading {
            least: at_start,
            most: at_start,
            until: Time::NEVER,
        });
        self.earlier.iter().copied().chain(present).collect()
    }

    /// Adds a sample. Returns true if a step, a suspend or a change of `is_set` was found.
    pub(super) fn set(&mut self, wall: WallSample, now: Time) -> bool {
        let Some(previous) = self.wall.replace(wall) else {
            self.compare(wall, now);
            return true;
        };
        let slept = wall.asleep.saturating_sub(previous.asleep);
        let has_slept = slept > JITTER;
        let expected = previous.at_start + if has_slept { i128::from(slept) } else { 0 };
        let steps = wall.at_start.abs_diff(expected) > u128::from(JITTER);
        if !has_slept && !steps && wall.is_set == previous.is_set {
            self.wall = Some(previous);
            return false;
        }
        if has_slept {
            self.note_suspend(slept, now);
        }
        if previous.is_set && (steps || !wall.is_set) {
            self.supersede(WallReading { least: expected, most: expected, until: now }, now);
        }
        self.compare(wall, now);
        true
    }

    /// Records a suspend, by which all earlier readings moved on.
    fn note_suspend(&mut self, slept: u64, now: Time) {
        for reading in &mut self.earlier {
            (reading.least, reading.most) = (reading.least + i128::from(slept), reading.most + i128::from(slept));
        }
        self.suspends.push((now, slept));
        if self.suspends.len() > MAX_SUSPENDS {
            self.suspends.remove(0);
        }
    }

    /// Adds a superseded reading, and drops those that are too old.
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

    /// Compares the first set reading with those that an earlier locker left: either the clock is
    /// the same, or it was set since and they are superseded now.
    ///
    /// Does nothing before the clock was set.
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

    /// The wall-clock time at `now`, in nanoseconds of Unix time.
    ///
    /// Without any sample it counts from 1970.
    pub(super) fn unix(&self, now: Time) -> i128 {
        self.wall.map_or(0, |wall| wall.at_start) + i128::from(now.as_nanos())
    }

    /// Returns true if a clock that reads so many nanoseconds of Unix time goes on as it is known
    /// to.
    pub(super) fn expects(&self, unix_nanos: i128, now: Time) -> bool {
        self.unix(now).abs_diff(unix_nanos) <= u128::from(JITTER)
    }

    /// Slowest and fastest reading that may be right, if superseded ones count for `honoured`.
    /// `None` if none is known.
    pub(super) fn range(&self, honoured: Duration, now: Time) -> Option<(i128, i128)> {
        let present = self.wall.filter(|wall| wall.is_set).map(|wall| (wall.at_start, wall.at_start));
        let earlier = self.earlier.iter().filter(|reading| reading.until + honoured > now);
        let earlier = earlier.map(|reading| (reading.least, reading.most));
        present.into_iter().chain(earlier).reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
    }

    /// The time at which a clock with this `reading` at [`Time::START`] shows, or showed, `unix`.
    ///
    /// Suspends in between are taken into account, as far as they are kept: the wall clock ran on
    /// meanwhile. Clamped to [`Time::START`] and the last time.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locker::tests::ms;

    const HOUR: u64 = 3_600_000_000_000;

    fn sample(at_start: i128) -> WallSample {
        WallSample { at_start, asleep: 0, is_set: true }
    }

    fn reading(at_start: i128, until: Time) -> WallReading {
        WallReading { least: at_start, most: at_start, until }
    }

    #[test]
    fn what_differs_by_no_more_than_jitter_is_no_step() {
        let jitter = i128::from(JITTER);
        for step in [-jitter, -1, 0, 1, jitter] {
            let mut clock = WallClock::begin(sample(HOUR.into()));
            assert!(!clock.set(sample(i128::from(HOUR) + step), ms(5)), "{step}");
            assert_eq!(clock.readings(), [reading(HOUR.into(), Time::NEVER)], "{step} adds up to no drift");
        }
        for step in [-jitter - 1, jitter + 1] {
            let mut clock = WallClock::begin(sample(HOUR.into()));
            let stepped = i128::from(HOUR) + step;
            assert!(clock.set(sample(stepped), ms(5)), "{step}");
            assert_eq!(clock.readings(), [reading(HOUR.into(), ms(5)), reading(stepped, Time::NEVER)], "{step}");
        }
    }

    #[test]
    fn a_suspend_moves_all_readings_and_supersedes_none() {
        let mut clock = WallClock::begin(sample(0));
        clock.set(sample(HOUR.into()), ms(1));
        let slept = 2 * HOUR;
        let awake = WallSample { asleep: slept, ..sample(i128::from(HOUR + slept)) };
        assert!(clock.set(awake, ms(2)));
        assert_eq!(clock.readings(), [reading(slept.into(), ms(1)), reading(awake.at_start, Time::NEVER)]);
        // A time that the clock would have shown during the suspend is taken for its end, earlier ones for what they were.
        let woke = i128::from(2_000_000 + HOUR + slept);
        assert_eq!(clock.time_of(woke - i128::from(HOUR), awake.at_start), ms(2));
        assert_eq!(clock.time_of(woke - i128::from(slept) - 1_000_000, awake.at_start), ms(1));
        assert_eq!(clock.time_of(woke + 1_000_000, awake.at_start), ms(3));
    }

    #[test]
    fn a_step_beside_a_suspend_supersedes_the_reading_that_the_suspend_alone_would_have_led_to() {
        let mut clock = WallClock::begin(sample(0));
        let awake = WallSample { asleep: HOUR, ..sample(3 * i128::from(HOUR)) };
        assert!(clock.set(awake, ms(1)));
        assert_eq!(clock.readings(), [reading(HOUR.into(), ms(1)), reading(awake.at_start, Time::NEVER)]);
        let short = WallSample { asleep: HOUR + JITTER, ..awake };
        assert!(!clock.set(short, ms(2)), "too short for a suspend");
    }

    #[test]
    fn a_clock_that_is_not_set_shows_no_time_and_one_that_no_longer_is_shows_its_last() {
        let unset = WallSample { is_set: false, ..sample(0) };
        let mut clock = WallClock::begin(unset);
        assert!(clock.readings().is_empty());
        assert!(clock.set(sample(0), ms(1)), "it is set, to what it showed");
        assert_eq!(clock.readings(), [reading(0, Time::NEVER)]);
        assert!(clock.set(unset, ms(2)));
        assert_eq!(clock.readings(), [reading(0, ms(2))]);
    }

    #[test]
    fn few_suspends_and_readings_are_kept_and_the_eldest_readings_are_merged() {
        let mut clock = WallClock::begin(sample(0));
        for number in 1..=5_u64 {
            clock.set(WallSample { asleep: number * HOUR, ..sample(i128::from(number * HOUR)) }, ms(number));
            assert_eq!(clock.suspends.len(), number.min(4) as usize);
        }
        assert_eq!(clock.suspends[0], (ms(2), HOUR));
        let mut clock = WallClock::begin(sample(0));
        let hours = |count: i128| count * i128::from(HOUR);
        for number in 1..=8 {
            clock.set(sample(hours(number.into())), ms(number));
        }
        assert_eq!(clock.earlier, Vec::from_iter((0..8).map(|n| reading(hours(n), ms(n as u64 + 1)))));
        clock.set(sample(hours(-1)), ms(9));
        assert_eq!(clock.earlier.len(), 8);
        assert_eq!(clock.earlier[0], WallReading { least: 0, most: hours(1), until: ms(2) });
    }

    #[test]
    fn a_superseded_reading_counts_for_as_long_as_it_is_honoured_and_is_dropped_when_none_honours_it() {
        let mut clock = WallClock::begin(sample(0));
        clock.set(sample(HOUR.into()), ms(10));
        let both = Some((0, i128::from(HOUR)));
        let present = Some((i128::from(HOUR), i128::from(HOUR)));
        assert_eq!(clock.range(Duration::from_millis(5), ms(14)), both);
        assert_eq!(clock.range(Duration::from_millis(5), ms(15)), present);
        let dropped_at = ms(10) + READING_KEPT_FOR;
        for (now, kept) in [(dropped_at - Duration::from_nanos(1), 2), (dropped_at, 1)] {
            let mut clock = clock.clone();
            clock.set(sample(0), now);
            assert_eq!(clock.earlier.len(), kept);
        }
    }

    #[test]
    fn the_reading_of_an_earlier_process_goes_on_or_is_superseded_when_the_clock_is_set() {
        let jitter = i128::from(JITTER);
        let past = reading(0, ms(1));
        for (shown, goes_on) in [(-jitter, true), (jitter, true), (-jitter - 1, false), (jitter + 1, false)] {
            let left = vec![past, reading(0, Time::NEVER)];
            let clock = WallClock::restore(left.clone(), WallSample { is_set: false, ..sample(shown) }, ms(3));
            assert_eq!(clock.earlier, left, "nobody knows yet");
            let clock = WallClock::restore(left, sample(shown), ms(3));
            let expected = if goes_on { vec![past] } else { vec![past, reading(0, ms(3))] };
            assert_eq!(clock.earlier, expected, "{shown}");
        }
    }

    #[test]
    fn time_goes_on_as_the_clock_is_known_to() {
        let clock = WallClock::begin(sample(HOUR.into()));
        let shown = i128::from(HOUR) + 5_000_000;
        assert_eq!(clock.unix(ms(5)), shown);
        for (off, is_expected) in [(0, true), (JITTER, true), (JITTER + 1, false)] {
            assert_eq!(clock.expects(shown + i128::from(off), ms(5)), is_expected, "{off}");
            assert_eq!(clock.expects(shown - i128::from(off), ms(5)), is_expected, "{off}");
        }
    }
}
