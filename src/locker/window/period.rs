//! Calendar arithmetic: from when to when the minute, hour or day of a time zone lasts.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::locker::limit::Unit;
use crate::time::Time;

/// The period that a `calendar` limit is in.
///
/// If the wall clock was set of late, or a guard is kept, it is not known exactly when one ends. By the fastest clock the
/// next begins at `next`, by the slowest this one is over at `until`: slots that settle between the two count in both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CalendarPeriod {
    /// From when to when it lasts by the present reading, in nanoseconds of Unix time.
    pub(super) bounds: (i128, i128),
    /// Slots that settled before do not count any more.
    pub(super) began: Time,
    /// Slots that settle from here on count in the next period, too.
    pub(super) next: Time,
    /// From here on only that counts; `NEVER` for limits without a calendar, and while there is no knowing.
    pub(crate) until: Time,
    /// The end of the next period.
    pub(super) next_until: Time,
    /// The end by the slowest reading, in nanoseconds of Unix time.
    pub(super) end: i128,
    /// Its length at most, in nanoseconds: slots that settled longer ago settled in another.
    pub(super) longest: u64,
    /// The readings that are honoured are so far apart that there may always be one by which nothing is over: slots open
    /// when they have grown as old as a period can be.
    pub(crate) is_unsure: bool,
}

impl Default for CalendarPeriod {
    fn default() -> CalendarPeriod {
        CalendarPeriod {
            bounds: (0, 0),
            began: Time::START,
            next: Time::NEVER,
            until: Time::NEVER,
            next_until: Time::NEVER,
            end: i128::MAX,
            longest: u64::MAX,
            is_unsure: false,
        }
    }
}

/// Usual length of a unit, in nanoseconds.
pub(super) fn length(unit: Unit) -> i128 {
    match unit {
        Unit::Minute => 60_000_000_000,
        Unit::Hour => 3_600_000_000_000,
        Unit::Day => 86_400_000_000_000,
    }
}

/// The period around `unix`: start inclusive, end exclusive.
pub(super) fn period(unit: Unit, zone: &TimeZone, unix: i128) -> (i128, i128) {
    let length = length(unit);
    let (start, end) = match unit {
        Unit::Minute => minute(zone, unix, length),
        Unit::Hour | Unit::Day => local(unit, zone, unix),
    }
    // A date beyond what calendars know (year 9999): the units of Unix time itself.
    .unwrap_or_else(|| (unix - unix.rem_euclid(length), unix - unix.rem_euclid(length) + length));
    (start.min(unix), if end > unix { end } else { unix + length })
}

/// A minute by the zone's offset at the time: the minutes of a repeated hour are windows of their own.
fn minute(zone: &TimeZone, unix: i128, length: i128) -> Option<(i128, i128)> {
    let offset = zone.to_offset(Timestamp::from_nanosecond(unix).ok()?);
    let local = unix + i128::from(offset.seconds()) * 1_000_000_000;
    let start = unix - local.rem_euclid(length);
    Some((start, start + length))
}

/// An hour or day of the local clock. A boundary that the clock skips is the moment of the skip; one
/// that it repeats is the first of the two, so that the repeated time belongs to one window.
fn local(unit: Unit, zone: &TimeZone, unix: i128) -> Option<(i128, i128)> {
    let civil = zone.to_datetime(Timestamp::from_nanosecond(unix).ok()?);
    let midnight = civil.date().to_datetime(jiff::civil::Time::midnight());
    let (from, to) = match unit {
        Unit::Day => (midnight, midnight.checked_add(1.day()).ok()?),
        Unit::Hour | Unit::Minute => {
            let from = midnight.checked_add(i64::from(civil.hour()).hours()).ok()?;
            (from, from.checked_add(1.hour()).ok()?)
        }
    };
    let instant = |civil: DateTime| -> Option<i128> {
        Some(zone.to_ambiguous_timestamp(civil).compatible().ok()?.as_nanosecond())
    };
    Some((instant(from)?, instant(to)?))
}
