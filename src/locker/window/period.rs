//! Calendar arithmetic: start and end of the minute, hour or day around a moment in a time zone.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::locker::limit::Unit;
use crate::time::Time;

/// Period of a `calendar` limit.
///
/// Its end is not known exactly if the wall clock was set recently or a guard is kept. By the
/// fastest clock the next period begins at `next`; by the slowest this one ends at `until`. Slots
/// that settle between the two count in both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CalendarPeriod {
    /// Start and end by the present reading, in nanoseconds of Unix time.
    pub(super) bounds: (i128, i128),
    /// Start: slots that settled before do not count any more.
    pub(super) began: Time,
    /// Earliest start of the next period: slots that settle from here on count in the next one,
    /// too.
    pub(super) next: Time,
    /// Latest end: from here on only these count. `NEVER` for limits without a calendar, and while
    /// the end is unknown.
    pub(crate) until: Time,
    /// Latest end of the next period.
    pub(super) next_until: Time,
    /// End by the slowest reading, in nanoseconds of Unix time.
    pub(super) end: i128,
    /// Maximum length in nanoseconds: slots that settled longer ago settled in an earlier period.
    pub(super) longest: u64,
    /// True if the accepted clock readings are so far apart that by one of them no period may ever
    /// be over. Slots then open when they are as old as a period can be.
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
///
/// Exact for minutes; an hour or a day of the local clock can be longer or shorter when the clock
/// is changed (a day has 23 to 25 hours in most zones).
pub(super) fn length(unit: Unit) -> i128 {
    match unit {
        Unit::Minute => 60_000_000_000,
        Unit::Hour => 3_600_000_000_000,
        Unit::Day => 86_400_000_000_000,
    }
}

/// Period around `unix` (nanoseconds of Unix time): start inclusive, end exclusive.
///
/// The result always contains `unix`. `Day`, zone `Europe/Berlin`, on 29 March 2026: 23 hours, from
/// midnight to midnight of the local clock.
pub(super) fn period(unit: Unit, zone: &TimeZone, unix: i128) -> (i128, i128) {
    let length = length(unit);
    let (start, end) = match unit {
        Unit::Minute => minute(zone, unix, length),
        Unit::Hour | Unit::Day => local(unit, zone, unix),
    }
    // A date beyond the calendar's range (year 9999): falls back to units of Unix time itself.
    .unwrap_or_else(|| (unix - unix.rem_euclid(length), unix - unix.rem_euclid(length) + length));
    (start.min(unix), if end > unix { end } else { unix + length })
}

/// The minute by the zone's offset at the time: minutes of a repeated hour are separate windows.
fn minute(zone: &TimeZone, unix: i128, length: i128) -> Option<(i128, i128)> {
    let offset = zone.to_offset(Timestamp::from_nanosecond(unix).ok()?);
    let local = unix + i128::from(offset.seconds()) * 1_000_000_000;
    let start = unix - local.rem_euclid(length);
    Some((start, start + length))
}

/// The hour or day of the local clock. A boundary that the clock skips lies at the moment of the
/// skip. A boundary that it repeats is the first of the two, so that the repeated time belongs to
/// one window.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_begin_with_those_of_a_zone_whose_offset_has_seconds() {
        let zone = TimeZone::fixed(jiff::tz::Offset::from_seconds(20 * 60 + 28).unwrap());
        let second = 1_000_000_000;
        assert_eq!(period(Unit::Minute, &zone, 0), (-28 * second, 32 * second));
        assert_eq!(period(Unit::Minute, &zone, 32 * second - 1), (-28 * second, 32 * second));
        assert_eq!(period(Unit::Minute, &zone, 32 * second), (32 * second, 92 * second));
    }

    #[test]
    fn beyond_the_years_that_a_calendar_has_periods_are_units_of_unix_time() {
        for unit in [Unit::Minute, Unit::Hour, Unit::Day] {
            let length = length(unit);
            let start = 10_000_000 * 86_400_000_000_000;
            for unix in [start, start + 1, start + length - 1] {
                assert_eq!(period(unit, &TimeZone::UTC, unix), (start, start + length), "{unit:?}");
            }
        }
    }
}
