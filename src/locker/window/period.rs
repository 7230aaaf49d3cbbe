//! Calendar arithmetic: from when to when the minute, hour or day of a time zone lasts.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::locker::limit::Unit;

/// The period around `unix`: start inclusive, end exclusive.
pub(super) fn period(unit: Unit, zone: &TimeZone, unix: i128) -> (i128, i128) {
    let length = match unit {
        Unit::Minute => 60_000_000_000,
        Unit::Hour => 3_600_000_000_000,
        Unit::Day => 86_400_000_000_000,
    };
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
