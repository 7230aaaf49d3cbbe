//! Mapping of times across processes and reboots.
//!
//! Within one boot of the machine CLOCK_BOOTTIME is continuous. Across a reboot only the wall clock tells how much time
//! has passed. It is not trusted if it was never set, was set back, or says that the machine was off for longer than
//! the longest window lasts: then no time counts as passed.
//!
//! Conversions to gateway time round to the strict side: a time never becomes earlier, so a slot
//! never opens early. The price is a delay by the time that a read of the clocks took, usually
//! microseconds.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::gate::clock::{BootMoment, Clock, was_set};
use crate::locker::WallReading;
use crate::time::Time;

/// Moment that a later process can locate on its own clock.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct BootStamp {
    /// Id of the machine's boot; empty if the kernel provides none.
    boot: String,
    /// Nanoseconds since the boot (CLOCK_BOOTTIME).
    since_boot: u64,
    /// Wall clock in nanoseconds of Unix time.
    wall: i128,
}

impl BootStamp {
    /// The present moment.
    ///
    /// Written with each batch.
    pub(super) fn now(clock: &Clock) -> BootStamp {
        let BootMoment { since_boot, wall, .. } = clock.boot_moment();
        BootStamp { boot: boot_id(), since_boot, wall }
    }

    /// True if this is a moment of the machine's present boot.
    pub(super) fn is_of_this_boot(&self) -> bool {
        !self.boot.is_empty() && self.boot == boot_id()
    }

    /// Nanoseconds since the boot.
    pub(super) fn since_boot(&self) -> i128 {
        i128::from(self.since_boot)
    }

    /// Nanoseconds since the boot at which the wall clock reads `unix`.
    ///
    /// Assumes that the wall clock was not set since the boot. May be negative, for a time before
    /// it.
    pub(super) fn boot_time_of(&self, unix: i128) -> i128 {
        unix.saturating_sub(self.wall).saturating_add(self.since_boot())
    }

    /// Reading of the wall clock; `None` if the clock had not been set.
    ///
    /// Converted to gateway time by `mapping`, and valid without end.
    pub(super) fn reading(&self, mapping: TimeMapping) -> Option<WallReading> {
        let at_boot = self.wall.saturating_sub(self.since_boot());
        was_set(self.wall).then(|| mapping.read(at_boot, at_boot, Time::NEVER))
    }
}

/// Random id that the kernel makes at each boot; empty if it cannot be read.
///
/// An empty id never equals another one, so a restart then counts as a reboot.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Conversion between gateway time and nanoseconds since the machine's boot, also in a later process.
#[derive(Clone, Copy, Debug)]
pub(in crate::gate) struct TimeMapping {
    /// Time since boot minus gateway time, in nanoseconds.
    offset: i128,
    /// Nanoseconds that may have passed in addition, if the time for which the machine was off is unknown.
    off: i128,
}

/// Longest downtime that a wall clock is trusted with, in nanoseconds: the period of the longest window (366 days).
const MAX_DOWNTIME: i128 = 366 * 86_400 * 1_000_000_000;

impl TimeMapping {
    /// Mapping for times that this process writes; never earlier than the true time.
    pub(in crate::gate) fn here(clock: &Clock) -> TimeMapping {
        let BootMoment { since_boot, before, .. } = clock.boot_moment();
        TimeMapping { offset: i128::from(since_boot) - i128::from(before.as_nanos()), off: 0 }
    }

    /// Mapping for times written by another process of the same boot; never earlier than written.
    pub(in crate::gate) fn of_another(clock: &Clock) -> TimeMapping {
        let BootMoment { since_boot, after, .. } = clock.boot_moment();
        TimeMapping { offset: i128::from(since_boot) - i128::from(after.as_nanos()), off: 0 }
    }

    /// Mapping for times of a file that was last written at `then`; never earlier than written.
    ///
    /// Three cases:
    ///
    /// - The same boot: CLOCK_BOOTTIME tells the time that has passed, exactly.
    /// - Another boot, with a plausible wall clock: that clock tells it.
    /// - Another boot without one: no time counts as passed since the last write, and up to 366
    ///   days are possible.
    pub(super) fn since(then: &BootStamp, clock: &Clock) -> TimeMapping {
        let BootMoment { since_boot, wall, after, .. } = clock.boot_moment();
        let same_boot = mutant!(then.is_of_this_boot(), "another boot is taken for this one", true);
        // Present time since boot of the process that wrote, and the unknown part of it.
        let (now, off) = match wall.saturating_sub(then.wall) {
            _ if same_boot => (i128::from(since_boot), 0),
            passed if was_set(then.wall) && (0..=MAX_DOWNTIME).contains(&passed) => (then.since_boot() + passed, 0),
            _ => mutant!(
                (then.since_boot(), MAX_DOWNTIME),
                "an unknown time off counts as passed",
                (then.since_boot() + MAX_DOWNTIME, 0)
            ),
        };
        TimeMapping { offset: now - i128::from(after.as_nanos()), off }
    }

    /// Converts a reading of the wall clock from the zero of gateway time to the machine's boot.
    pub(in crate::gate) fn wall_to_boot(self, at_start: i128) -> i128 {
        at_start.saturating_sub(self.offset)
    }

    /// Converts a reading of the wall clock from the machine's boot to the zero of gateway time.
    ///
    /// The unknown downtime widens the upper bound.
    pub(in crate::gate) fn read(self, least: i128, most: i128, until: Time) -> WallReading {
        let (least, most) = (least.saturating_add(self.offset), most.saturating_add(self.offset + self.off));
        WallReading { least, most, until }
    }

    /// Converts nanoseconds since the boot of the file to those of the present boot, which `here` is
    /// the mapping of. Never earlier.
    pub(super) fn rebased(self, at: i128, here: TimeMapping) -> i128 {
        at - self.offset + here.offset
    }

    /// Converts gateway time to nanoseconds since the boot.
    ///
    /// Negative for a time before the boot.
    pub(in crate::gate) fn to_boot(self, at: Time) -> i128 {
        i128::from(at.as_nanos()) + self.offset
    }

    /// Converts nanoseconds since the boot to gateway time; never before [`Time::START`].
    pub(in crate::gate) fn at_boot(self, at: i128) -> Time {
        let offset =
            mutant!(self.offset, "a time on the disk is read as a second earlier", self.offset + 1_000_000_000);
        Time::from_nanos(u64::try_from(at.saturating_sub(offset).max(0)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Manual clock, an hour after its zero point.
    fn clock() -> (Clock, &'static crate::gate::clock::Hand) {
        let (clock, hand) = Clock::manual();
        hand.pass(Duration::from_secs(3600));
        (clock, hand)
    }

    #[test]
    pub(in crate::gate::journal) fn within_a_boot_a_time_is_found_again_where_it_was() {
        let (clock, hand) = clock();
        let (mapping, then) = (TimeMapping::here(&clock), BootStamp::now(&clock));
        let at = clock.now() - Duration::from_secs(10);
        let written = mapping.to_boot(at);
        hand.pass(Duration::from_secs(7));
        hand.set_wall_ahead(Duration::from_secs(1_000_000));
        let found = TimeMapping::since(&then, &clock).at_boot(written);
        assert!(found >= at && found.since(at) <= Duration::from_micros(1), "{found:?} {at:?}");
    }

    #[test]
    pub(in crate::gate::journal) fn over_a_boot_the_wall_clock_tells_how_much_time_has_passed() {
        let (clock, hand) = clock();
        let mut then = BootStamp::now(&clock);
        then.boot = "another".to_owned();
        then.since_boot += 10 * 86_400 * SECOND;
        // The machine was up for a long time, and wrote this a second before its end.
        let written = i128::from(then.since_boot) - i128::from(SECOND);
        hand.pass(Duration::from_secs(60));
        let found = TimeMapping::since(&then, &clock).at_boot(written);
        let age = clock.now().since(found);
        assert!(age <= Duration::from_secs(61) && age >= Duration::from_millis(60_999), "{age:?}");
    }

    #[test]
    pub(in crate::gate::journal) fn a_wall_clock_that_was_set_back_opens_nothing_early() {
        let (clock, _hand) = clock();
        let mut then = BootStamp::now(&clock);
        then.boot = "another".to_owned();
        then.wall += 86_400 * i128::from(SECOND);
        let written = i128::from(then.since_boot) - 5 * i128::from(SECOND);
        let age = clock.now().since(TimeMapping::since(&then, &clock).at_boot(written));
        assert!(age <= Duration::from_secs(5), "{age:?}: no time has passed");
    }

    #[test]
    fn an_age_that_no_machine_can_tell_opens_nothing_early() {
        let (clock, hand) = clock();
        hand.pass(Duration::from_secs(1000 * 86_400));
        let day = 86_400 * i128::from(SECOND);
        let age = |wall: i128| {
            let then = BootStamp { boot: "another".to_owned(), wall, ..BootStamp::now(&clock) };
            let written = then.since_boot() - 5 * i128::from(SECOND);
            let mapping = TimeMapping::since(&then, &clock);
            let WallReading { least, most, .. } =
                then.reading(mapping).unwrap_or(WallReading { least: 0, most: 0, until: Time::NEVER });
            (clock.now().since(mapping.at_boot(written)), most - least)
        };
        let now = clock.wall_unix_nanos();
        // A machine without a clock battery had been up for twenty seconds when it wrote this, in 1970.
        assert_eq!(age(20 * i128::from(SECOND)), (Duration::from_secs(5), 0), "its clock was not set");
        for (wall, why) in [(now - 400 * day, "the clock is ahead"), (now + day, "it was, or is behind")] {
            assert_eq!(age(wall), (Duration::from_secs(5), MAX_DOWNTIME), "{why}");
        }
        let passed = Duration::from_secs(100 * 86_400 + 5);
        assert_eq!(age(now - 100 * day), (passed, 0), "it was off for a hundred days");
    }

    #[test]
    fn a_time_that_is_moved_to_the_present_boot_is_read_as_before() {
        let (since, here) = (TimeMapping { offset: 500, off: 0 }, TimeMapping { offset: -30, off: 0 });
        for (written, moved) in [(501, -29), (1000, 470)] {
            assert_eq!(since.rebased(written, here), moved);
            assert_eq!(here.at_boot(moved), since.at_boot(written));
        }
    }

    #[test]
    fn what_lies_before_the_line_begins_lies_at_its_beginning() {
        let (clock, _hand) = clock();
        assert_eq!(TimeMapping::here(&clock).at_boot(i128::MIN / 2), Time::START);
    }

    #[test]
    fn a_time_that_no_clock_can_show_is_cut_to_the_line() {
        let (clock, _hand) = clock();
        for offset in [-5, 0, 5] {
            let mapping = TimeMapping { offset, off: 1 };
            assert_eq!(mapping.at_boot(i128::MIN), Time::START);
            assert_eq!(mapping.at_boot(i128::MAX), Time::from_nanos(u64::MAX));
            let WallReading { least, most, .. } = mapping.read(i128::MIN, i128::MAX, Time::NEVER);
            assert!(least < i128::MIN + 6 && most > i128::MAX - 6, "{least} {most}");
        }
        for wall in [i128::MIN, i128::MAX] {
            let then = BootStamp { boot: "another".to_owned(), since_boot: u64::MAX, wall };
            assert_eq!(TimeMapping::since(&then, &clock).off, MAX_DOWNTIME, "the clock is not believed");
            assert_eq!(then.boot_time_of(wall), i128::from(u64::MAX));
        }
    }
}
