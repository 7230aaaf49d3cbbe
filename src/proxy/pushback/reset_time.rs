//! Reset times: values of response fields that say when an origin takes requests again.
//!
//! | value | wait |
//! |---|---|
//! | `2` | 2.5 s: whole seconds are often rounded down |
//! | `0.25` | 0.25 s |
//! | `1798761600`, `1798761600000` | until that moment, in seconds or milliseconds since 1970 |
//! | `1m2.5s`, `6ms` | 62.5 s, 6 ms |
//! | `2026-11-28T12:00:00Z` (RFC 3339), an HTTP date | until that moment |

use std::time::{Duration, SystemTime};

/// Time added to a wait in whole seconds. Origins often round down, so an obedient caller would come too early.
const ROUNDING: Duration = Duration::from_millis(500);
/// Numbers from this one on are moments: as seconds they would be 31 years. What Envoy takes for a moment, too.
pub(in crate::proxy) const FIRST_MOMENT: u64 = 1_000_000_000;
/// Numbers from this one on are moments in milliseconds: as seconds they would be in the year 5138.
const FIRST_MOMENT_MS: u64 = 100_000_000_000;

/// Units of durations in the form of Go, the longest spelling first where one begins like another.
const UNITS: [(&[u8], u64); 9] = [
    (b"ms", 1_000_000),
    (b"us", 1_000),
    ("\u{b5}s".as_bytes(), 1_000),
    ("\u{3bc}s".as_bytes(), 1_000),
    (b"ns", 1),
    (b"d", 86_400_000_000_000),
    (b"h", 3_600_000_000_000),
    (b"m", 60_000_000_000),
    (b"s", 1_000_000_000),
];

/// Parses a value in any of the forms above. `now`: time since 1970 by the origin's clock. A moment that is past is a
/// wait of half a second, as its seconds may be rounded down.
pub(in crate::proxy) fn wait(value: &[u8], now: Duration) -> Option<Duration> {
    if let Some(number) = seconds(value) {
        return Some(match number.as_secs() {
            0..FIRST_MOMENT if value.contains(&b'.') => number,
            0..FIRST_MOMENT => number.saturating_add(ROUNDING),
            FIRST_MOMENT..FIRST_MOMENT_MS => until(number, now),
            milliseconds => Duration::from_millis(milliseconds).saturating_sub(now),
        });
    }
    let text = std::str::from_utf8(value).ok()?;
    let moment = moment(text).map(|moment| until(moment, now));
    moment.or_else(|| duration(value))
}

/// Parses a number of milliseconds, perhaps with a fraction.
pub(in crate::proxy) fn milliseconds(value: &[u8]) -> Option<Duration> {
    // A thousandth of as many seconds; the nanoseconds that the division cuts off are below any timer.
    seconds(value).map(|thousandfold| thousandfold / 1000)
}

/// Wait until a moment that is named in seconds.
fn until(moment: Duration, now: Duration) -> Duration {
    let wait = moment.saturating_sub(now);
    if moment.subsec_nanos() == 0 { wait.saturating_add(ROUNDING) } else { wait }
}

/// Parses a date of HTTP (RFC 9110 §5.6.7) or a timestamp (RFC 3339), as time since 1970.
pub(super) fn moment(text: &str) -> Option<Duration> {
    if let Ok(date) = httpdate::parse_http_date(text) {
        return Some(date.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    }
    let timestamp = text.parse::<jiff::Timestamp>().ok()?;
    Some(Duration::from_nanos(u64::try_from(timestamp.as_nanosecond().max(0)).unwrap_or(u64::MAX)))
}

/// Parses a number of seconds, perhaps with a fraction: `30`, `0.25`, `1.`, `.5`. Numbers too large become the longest
/// duration.
pub(in crate::proxy) fn seconds(value: &[u8]) -> Option<Duration> {
    let point = value.iter().position(|byte| *byte == b'.').unwrap_or(value.len());
    let (whole, fraction) = (&value[..point], value.get(point + 1..).unwrap_or_default());
    let is_number = !(whole.is_empty() && fraction.is_empty());
    if !is_number || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    // Nine digits of a fraction are nanoseconds; further digits are cut off.
    let nanos = fraction.iter().chain(std::iter::repeat(&b'0')).take(9).fold(0, add);
    Some(Duration::from_secs(whole.iter().fold(0, add)).saturating_add(Duration::from_nanos(nanos)))
}

/// Parses a duration as Go writes it: numbers with units, added up.
pub(in crate::proxy) fn duration(value: &[u8]) -> Option<Duration> {
    let (mut rest, mut sum) = (value, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
        let number = seconds(&rest[..digits])?;
        let (unit, nanos) = UNITS.iter().find(|(unit, _)| rest[digits..].starts_with(unit))?;
        let scaled = number.as_nanos().saturating_mul(u128::from(*nanos)) / 1_000_000_000;
        sum = sum.saturating_add(Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX)));
        rest = &rest[digits + unit.len()..];
    }
    (!value.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 09 Sep 2001 01:46:40 GMT.
    const NOW: Duration = Duration::from_secs(1_000_000_000);

    fn wait_ms(value: &str) -> Option<u128> {
        wait(value.as_bytes(), NOW).map(|wait| wait.as_millis())
    }

    #[test]
    fn whole_seconds_are_taken_for_rounded_down_and_fractions_for_exact() {
        for (value, wanted) in [("2", 2500), ("0", 500), ("0.25", 250), ("1.5", 1500), ("7.", 7000), (".5", 500)] {
            assert_eq!(wait_ms(value), Some(wanted), "{value}");
        }
    }

    #[test]
    fn large_numbers_are_moments_in_seconds_or_milliseconds() {
        for (value, wanted) in [
            ("999999999", 999_999_999_500),
            ("1000000000", 500),
            ("1000000002", 2500),
            ("1000000002.25", 2250),
            ("1000000002250", 2250),
            ("999999999999", 0),
        ] {
            assert_eq!(wait_ms(value), Some(wanted), "{value}");
        }
    }

    #[test]
    fn dates_and_timestamps_are_moments() {
        for (value, wanted) in [
            ("Sun, 09 Sep 2001 01:46:50 GMT", 10_500),
            ("Sunday, 09-Sep-01 01:46:41 GMT", 1500),
            ("Sun, 09 Sep 2001 01:46:00 GMT", 500),
            ("2001-09-09T01:46:50Z", 10_500),
            ("2001-09-09T03:46:50.25+02:00", 10_250),
        ] {
            assert_eq!(wait_ms(value), Some(wanted), "{value}");
        }
    }

    #[test]
    fn durations_of_go_are_exact() {
        for (value, wanted) in
            [("1m2.5s", 62_500), ("6ms", 6), ("2s", 2000), ("1h0m0s", 3_600_000), ("1d", 86_400_000), ("1500us", 1)]
        {
            assert_eq!(wait_ms(value), Some(wanted), "{value}");
        }
    }

    #[test]
    fn anything_else_is_no_time() {
        for nonsense in [
            "", "soon", "-1", "1e9", "NaN", "inf", "+5", "1,5", ".", "0x10", "1.2.3", "5 s", "1y", "s", "1.2.3s", "5s6",
        ] {
            assert_eq!(wait_ms(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn numbers_beyond_all_bounds_are_the_longest() {
        for huge in ["99999999999999999999999", "99999999999999999999999h", "99999999999999999999999ms"] {
            assert!(wait_ms(huge).is_some_and(|ms| ms > 1_000_000_000), "{huge}");
        }
        assert_eq!(milliseconds(b"99999999999999999999999"), Some(Duration::from_secs(u64::MAX) / 1000));
        assert_eq!(milliseconds(b"250.5"), Some(Duration::from_micros(250_500)));
    }

    #[test]
    fn seconds_are_read_to_the_nanosecond() {
        assert_eq!(seconds(b"1.0000000019"), Some(Duration::new(1, 1)));
        assert_eq!(seconds(b"18446744073709551616"), Some(Duration::from_secs(u64::MAX)));
    }
}
