//! Durations as the file writes them, a number and a unit: `250ms`, `0.8s`, `1m`, `1d`.
//!
//! Numbers are exact: they are computed in integers of nanoseconds, never in floats, so that `0.8s`
//! is 800 000 000 ns. A day has 24 hours, a minute 60 seconds; months and years have no unit,
//! because their lengths differ.

use std::time::Duration;

/// Factor between the table of units, in milliseconds, and [`Duration`].
const NANOS_PER_MS: u64 = 1_000_000;

/// Units with their length in milliseconds, longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a decimal number and a unit; `None` if it is anything else, or finer than a nanosecond.
///
/// Accepts blanks between number and unit, and up to 15 decimals. Refuses signs, exponents, a point
/// without digits on both sides, and more than 2^64 - 1 nanoseconds (584 years).
///
/// ```text
/// "1.5h"  -> 5 400 s
/// "10 s"  -> 10 s
/// "1m30s" -> None
/// ```
pub(super) fn parse(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    let unit_nanos = u128::from(unit_ms * NANOS_PER_MS);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || fraction.len() > 15 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = fraction.parse::<u128>().ok()?.checked_mul(unit_nanos)?;
    if part % scale != 0 {
        return None;
    }
    let nanos = whole.parse::<u128>().ok()?.checked_mul(unit_nanos)?.checked_add(part / scale)?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// Reads several numbers with units as their sum, such as `1h30m`. [`parse`] refuses these: the
/// message about them shows the sum in one unit.
///
/// `None` if any of its parts is no duration, or if the sum overflows.
pub(super) fn parse_sum(text: &str) -> Option<Duration> {
    let is_digit = |c: char| c == '.' || c.is_ascii_digit();
    let (mut sum, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let unit_at = rest.find(|c| !is_digit(c))?;
        let end = rest[unit_at..].find(is_digit).map_or(rest.len(), |length| unit_at + length);
        sum = sum.checked_add(parse(rest[..end].trim_end())?)?;
        rest = &rest[end..];
    }
    Some(sum)
}

/// Formats a duration in the longest unit that divides it. [`parse`] reads the same duration again.
///
/// `90 s` become `90s`, `120 s` become `2m`, and 1.5 ms become `1.5ms`.
pub(super) fn format(duration: Duration) -> String {
    in_largest_unit(duration, "")
}

/// Formats a duration for sentences: with a space before the unit, and a single unit without its
/// number ("second").
///
/// For sentences such as "at most 5 in any second" or "wait up to 30 s".
pub(super) fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        0 => in_largest_unit(duration, " "),
        1 if duration.subsec_nanos() == 0 => "second".to_owned(),
        60 if duration.subsec_nanos() == 0 => "minute".to_owned(),
        3_600 if duration.subsec_nanos() == 0 => "hour".to_owned(),
        86_400 if duration.subsec_nanos() == 0 => "day".to_owned(),
        _ => in_largest_unit(duration, " "),
    }
}

/// Formats number, `space` and unit. Zero is `0ms`; what is no multiple of a millisecond has up to
/// six decimals.
fn in_largest_unit(duration: Duration, space: &str) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return format!("0{space}ms");
    }
    for (unit, unit_ms) in UNITS {
        let unit_nanos = u128::from(unit_ms * NANOS_PER_MS);
        if nanos.is_multiple_of(unit_nanos) {
            return format!("{}{space}{unit}", nanos / unit_nanos);
        }
    }
    let per_ms = u128::from(NANOS_PER_MS);
    let fraction = format!("{:06}", nanos % per_ms);
    format!("{}.{}{space}ms", nanos / per_ms, fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_and_decimals_are_read_exactly() {
        let cases = [
            ("250ms", 250_000_000),
            ("0.8s", 800_000_000),
            ("1.001s", 1_001_000_000),
            ("1m", 60_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("366d", 31_622_400_000_000_000),
            ("0ms", 0),
            ("0.000001ms", 1),
            ("10 s", 10_000_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_number_with_a_unit_is_refused() {
        let cases = [
            "",
            "5",
            "s",
            ".5s",
            "5.s",
            "1.2.3s",
            "-1s",
            "+1s",
            "1S",
            "1min",
            "1us",
            "1m30s",
            "1e3s",
            "1s ",
            "0.0000001ms",
            "999999999999999999999d",
            "340282366920938463463374607431768211456s",
            "1.0000000000000000s",
        ];
        for text in cases {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_sum_is_known_for_what_it_is() {
        assert_eq!(parse_sum("1h30m"), parse("90m"));
        assert_eq!(parse_sum("1m 30s"), parse("90s"));
        assert_eq!(parse_sum("1.5s20ms"), parse("1520ms"));
        for text in ["1h30", "h30m", "1h-30m", "1h 30 x", "99999999999h99999999999h"] {
            assert_eq!(parse_sum(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_as_the_same_again() {
        for text in ["0ms", "1ms", "1.5ms", "0.000001ms", "1s", "1001ms", "90s", "1m", "25h", "366d"] {
            let duration = parse(text).unwrap();
            assert_eq!(format(duration), text);
        }
        assert_eq!(in_words(Duration::from_millis(800)), "800 ms");
        assert_eq!(in_words(Duration::from_secs(60)), "minute");
        assert_eq!(in_words(Duration::from_secs(90)), "90 s");
    }
}
