//! N per minute, hour or day of a wall clock in a time zone; a window starts on its boundary.
//!
//! The limit's period moves forward only: when the wall clock steps back, nothing opens that has
//! been used. A repeated hour is one window. The log's only entry bears the period's start.

use super::Window;
use super::period::period;
use super::rule::{Form, Rule};
use crate::time::Time;

/// From when to when the present window of a `calendar` limit lasts, in nanoseconds of Unix time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period {
    start: i128,
    end: i128,
    /// The end on the gateway's own line; `NEVER` for limits without a calendar.
    pub(crate) until: Time,
}

impl Period {
    /// From when to when it lasts, in nanoseconds of Unix time.
    pub(crate) fn bounds(&self) -> (i128, i128) {
        (self.start, self.end)
    }

    /// One that was noted before, where the wall clock read `wall` at `Time::START`.
    pub(crate) fn kept((start, end): (i128, i128), wall: i128) -> Period {
        Period { start, end, until: on_our_line(end, wall) }
    }
}

impl Default for Period {
    fn default() -> Period {
        Period { start: i128::MIN, end: i128::MIN, until: Time::NEVER }
    }
}

impl Rule {
    /// Brings the period up to `now`, where the wall clock read `wall` at `Time::START`.
    pub(crate) fn roll(&mut self, wall: i128, now: Time) {
        let Form::Calendar { unit, zone } = &self.form else { return };
        let unix = wall + i128::from(now.as_nanos());
        if unix >= self.period.end {
            let (start, end) = period(*unit, zone, unix);
            self.period.start = start;
            self.period.end = end;
            self.unknown.clear();
        }
        self.period.until = on_our_line(self.period.end, wall);
    }

    /// When the period began, on the gateway's own line; `START` if before it.
    pub(crate) fn period_began(&self, wall: i128) -> Time {
        on_our_line(self.period.start, wall)
    }

    /// The end of the period `cycles` after the present one.
    pub(crate) fn period_end(&self, cycles: u64) -> Time {
        let Form::Calendar { unit, zone } = &self.form else { return Time::NEVER };
        let mut end = self.period.end;
        // A queue that fills more periods than this is refused for its patience long before.
        for _ in 0..cycles.min(64) {
            end = period(*unit, zone, end).1;
        }
        let more = u64::try_from(end - self.period.end).unwrap_or(u64::MAX);
        Time::from_nanos(self.period.until.as_nanos().saturating_add(more))
    }

    /// The period as windows note it: order is kept, whatever the sign.
    pub(super) fn period_mark(&self) -> Time {
        let nanos = i64::try_from(self.period.start).unwrap_or(i64::MIN);
        Time::from_nanos(nanos.cast_unsigned() ^ (1 << 63))
    }
}

#[inline]
pub(super) fn expire(window: &mut Window, rule: &Rule) {
    if window.in_log > 0 && window.first_at() < rule.period_mark() {
        window.log_clear();
    }
}

#[inline]
pub(super) fn settle(window: &mut Window, rule: &Rule, count: u32) {
    window.log_push(rule.period_mark(), count);
}

fn on_our_line(unix: i128, wall: i128) -> Time {
    let nanos = (unix.saturating_sub(wall)).clamp(0, i128::from(u64::MAX));
    Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
