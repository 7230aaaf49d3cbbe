//! Calendar window: N per minute, hour or day of a wall clock in a time zone; each window starts on
//! its boundary.
//!
//! Slots are logged with their settle times, as in a sliding window, and a period is an interval of
//! the gateway's own time. Slots that settled before the period began are dropped, and so are slots
//! older than any period can be. Setting the wall clock moves the ends of periods, but no settle
//! time. An hour that the clock repeats is one window. A request sent within the guard of a
//! boundary counts on both of its sides.

use std::time::Duration;

use super::period::{length, period};
use super::window_rule::{Algorithm, WindowRule};
use super::{Window, later};
use crate::locker::wall_clock::WallClock;
use crate::time::Time;

/// Number of log entries per period. Slots that settle within one part share an entry with the time
/// of the last of them, so that a log stays small. If the wall clock is set, that many slots more
/// than necessary may count in the next period.
const ENTRIES_PER_PERIOD: u64 = 3;

impl WindowRule {
    /// Updates the period to the wall clock's readings at `now`. Returns true if slots of the new period open sooner
    /// than was foreseen.
    pub(crate) fn roll(&mut self, clock: &WallClock, now: Time) -> bool {
        let Algorithm::Calendar { unit, zone } = &self.algorithm else { return false };
        let around = |unix: i128| period(*unit, zone, unix);
        let bounds = around(clock.unix(now));
        // The origin's clock may be ahead or behind by as much, including the time that a request is on its way.
        let guard = i128::from(self.guard);
        let usual = length(*unit).max(bounds.1 - bounds.0) + 2 * guard;
        let period = &mut self.period;
        let foreseen = period.next_until;
        period.bounds = bounds;
        let Some((slow, fast)) = clock.range(Duration::from_nanos(nanos(usual)), now) else {
            (period.longest, period.is_unsure) = (nanos(usual), true);
            (period.next, period.until, period.next_until) = (Time::NEVER, Time::NEVER, Time::NEVER);
            return false;
        };
        let (slow, fast) = (slow - guard, fast + guard);
        let (began, end) = around(slow + i128::from(now.as_nanos()));
        let next_end = around(end).1;
        period.end = end;
        period.longest = nanos(usual.max(end - began + 2 * guard));
        // By every reading an earlier period had ended by then. Slots that were dropped once stay dropped.
        let earliest = mutant!(fast, "a period begins by the slowest clock", slow);
        period.began = period.began.max(clock.time_of(began, earliest));
        period.next = clock.time_of(end, fast);
        period.until = clock.time_of(end, slow);
        period.next_until = clock.time_of(next_end, slow);
        period.is_unsure = clock.time_of(next_end, fast) <= period.until;
        let is_sooner = period.until < foreseen && foreseen < Time::NEVER;
        self.forget_unknown(now);
        is_sooner
    }

    /// Earliest time at which slots that settled at `at` no longer count. Exact, unless the period
    /// is unsure.
    pub(crate) fn period_opens(&self, at: Time) -> Time {
        let period = &self.period;
        let over = if at < period.next || period.is_unsure { period.until } else { period.next_until };
        over.min(later(at, period.longest))
    }

    /// True if slots that settled at `at` count.
    pub(super) fn period_counts(&self, at: Time, now: Time) -> bool {
        let began = mutant!(self.period.began, "a period begins a nanosecond late", later(self.period.began, 1));
        at >= began && later(at, self.period.longest) > now
    }

    /// End of the period that comes `cycles` periods after the present one, not before `from`. While
    /// the wall clock is not set, the present one may end at any time.
    pub(crate) fn period_end(&self, cycles: u64, from: Time) -> Time {
        let Algorithm::Calendar { unit, zone } = &self.algorithm else { return Time::NEVER };
        if self.period.until == Time::NEVER {
            return later(from, cycles.saturating_mul(self.period.longest));
        }
        let mut end = self.period.end;
        // A request behind so many periods is refused long before, because of its maximum wait.
        for _ in 0..cycles.min(64) {
            end = period(*unit, zone, end).1;
        }
        later(self.period.until, nanos(end - self.period.end)).max(from)
    }

    /// Start and end of the present period and end of the next one, by the present reading, in
    /// nanoseconds of Unix time.
    pub(crate) fn period_bounds(&self) -> [i128; 3] {
        let Algorithm::Calendar { unit, zone } = &self.algorithm else { return [0; 3] };
        let (start, end) = self.period.bounds;
        [start, end, period(*unit, zone, end).1]
    }
}

/// Drops slots that do not count in the present period.
#[inline]
pub(super) fn expire(window: &mut Window, rule: &WindowRule, now: Time) {
    while window.in_log > 0 && !rule.period_counts(window.first_at(), now) {
        window.log_pop();
    }
}

/// Logs `count` slots that settle at `at`, merged with others of the same part of the period.
#[inline]
pub(super) fn settle(window: &mut Window, rule: &WindowRule, count: u32, at: Time) {
    let period = &rule.period;
    let since = if at < period.next { period.began } else { period.next };
    let part = (period.longest / ENTRIES_PER_PERIOD).max(1);
    let since = since.max(Time::from_nanos(at.as_nanos() / part * part));
    window.log_join(since, at, count);
}

/// Clamps a length in nanoseconds to `u64`.
///
/// Negative lengths become 0, longer ones than 584 years the largest number.
fn nanos(length: i128) -> u64 {
    u64::try_from(length.max(0)).unwrap_or(u64::MAX)
}
