//! Retry rules: pushbacks of origins (429, or 503 with Retry-After), and requests that may be sent again.
//!
//! Two questions with different answers: a pushback pauses windows and allows another sending of
//! any method, because the origin did not act on the request; after a lost connection only
//! idempotent methods may be sent again.
//!
//! | response | pause |
//! |---|---|
//! | 429, `Retry-After: 2` | 2.5 s |
//! | 429, `Retry-After: 0.25` | 0.25 s |
//! | 429 alone | T of the limit |
//! | 503, `Retry-After: 2` | 2.5 s |
//! | 503 alone, or any other status | none |

use std::time::{Duration, SystemTime};

use crate::wire::{Name, ResponseHead};

/// Longest pause: an absurd Retry-After must not close a window for a year.
const MAX_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Time added to a pause in whole seconds. Origins often round down, so an obedient caller would come too early.
const ROUNDING: Duration = Duration::from_millis(500);

/// True if sending a request twice has the effect of sending it once (RFC 9110 §9.2.2).
pub(super) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// True if a response with this status can be a pushback: cheap, and false for nearly all.
pub(super) fn may_push_back(status: u16) -> bool {
    matches!(status, 429 | 503)
}

/// Pause that a response asks for; `None`: it is no pushback. `span`: T of the limit, the pause for a 429 without
/// Retry-After. A 503 without it is no pushback: the origin has a problem that a pause may not cure.
pub(super) fn pushback(response: &ResponseHead, span: Duration, now_unix_nanos: i128) -> Option<Duration> {
    let asked = response
        .all(Name::RetryAfter)
        .filter_map(|value| retry_after(value, response.get(Name::Date), now_unix_nanos))
        .max();
    match (response.status(), asked) {
        (429, asked) => Some(asked.unwrap_or(span).min(MAX_PAUSE)),
        (503, Some(asked)) => Some(asked.min(MAX_PAUSE)),
        _ => None,
    }
}

/// True if the response shows that the request was not acted on, so that it may be sent again with any method.
pub(super) fn allows_resend(response: &ResponseHead) -> bool {
    // Span and clock decide only on the length of a pushback.
    pushback(response, Duration::ZERO, 0).is_some()
}

/// Parses Retry-After (RFC 9110 §10.2.3): seconds, to which some origins add a fraction, or a date.
fn retry_after(value: &[u8], date: Option<&[u8]>, now_unix_nanos: i128) -> Option<Duration> {
    if let Some(wait) = seconds(value) {
        let is_whole = !value.contains(&b'.');
        return Some(if is_whole { wait.saturating_add(ROUNDING) } else { wait });
    }
    let until = date_of(value)?;
    // Both dates are by the origin's clock, if the response has a Date: errors of that clock or ours then do not matter.
    let now = match date.and_then(date_of) {
        Some(now) => now,
        None => {
            let nanos = u64::try_from(now_unix_nanos.max(0)).unwrap_or(u64::MAX);
            SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
        }
    };
    Some(until.duration_since(now).unwrap_or_default().saturating_add(ROUNDING))
}

/// Parses a date of HTTP (RFC 9110 §5.6.7).
fn date_of(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()
}

/// Parses a number of seconds, perhaps with a fraction: `30`, `0.25`, `1.`, `.5`. Numbers too large become the longest
/// duration.
pub(super) fn seconds(value: &[u8]) -> Option<Duration> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_millis(800);
    /// Sun, 09 Sep 2001 01:46:40 GMT.
    const NOW: i128 = 1_000_000_000_000_000_000;

    fn response(status: u16, fields: &str) -> ResponseHead {
        let mut head = ResponseHead::default();
        head.read(format!("HTTP/1.1 {status} X\r\n{fields}\r\n").as_bytes()).expect("well-formed").expect("whole");
        head
    }

    fn pause_ms(status: u16, fields: &str) -> Option<u128> {
        pushback(&response(status, fields), SPAN, NOW).map(|pause| pause.as_millis())
    }

    #[test]
    fn whole_seconds_are_taken_for_rounded_down_and_fractions_for_exact() {
        assert_eq!(pause_ms(429, "Retry-After: 2\r\n"), Some(2500));
        assert_eq!(pause_ms(429, "Retry-After: 0\r\n"), Some(500));
        assert_eq!(pause_ms(429, "Retry-After: 0.25\r\n"), Some(250));
        assert_eq!(pause_ms(503, "retry-after: 1.5\r\n"), Some(1500));
    }

    #[test]
    fn a_date_is_counted_from_the_origins_own_clock() {
        assert_eq!(pause_ms(429, "Retry-After: Sun, 09 Sep 2001 01:46:50 GMT\r\n"), Some(10_500));
        let both = "Date: Sun, 09 Sep 2001 05:00:00 GMT\r\nRetry-After: Sun, 09 Sep 2001 05:00:03 GMT\r\n";
        assert_eq!(pause_ms(503, both), Some(3500));
        assert_eq!(pause_ms(503, "Retry-After: Sun, 09 Sep 2001 01:46:00 GMT\r\n"), Some(500), "it is past");
        assert_eq!(pause_ms(429, "Retry-After: Sunday, 09-Sep-01 01:46:41 GMT\r\n"), Some(1500));
    }

    #[test]
    fn no_pause_is_longer_than_an_hour() {
        let hour = Some(3_600_000);
        for value in ["3600", "99999999999999999999999", "86400.5", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(pause_ms(429, &format!("Retry-After: {value}\r\n")), hour, "{value}");
        }
        let day = Duration::from_secs(86_400);
        assert_eq!(pushback(&response(429, ""), day, NOW), Some(MAX_PAUSE));
    }

    #[test]
    fn a_429_without_a_time_stands_for_the_limits_own() {
        assert_eq!(pause_ms(429, ""), Some(800));
        for nonsense in ["soon", "-1", "1e9", "NaN", "inf", "+5", "1,5", ".", "", "0x10", "1.2.3", "5 s"] {
            assert_eq!(pause_ms(429, &format!("Retry-After: {nonsense}\r\n")), Some(800), "{nonsense}");
            assert_eq!(pause_ms(503, &format!("Retry-After: {nonsense}\r\n")), None, "{nonsense}");
        }
    }

    #[test]
    fn the_longest_of_several_times_counts() {
        assert_eq!(pause_ms(429, "Retry-After: 1\r\nRetry-After: 4\r\nRetry-After: x\r\n"), Some(4500));
    }

    #[test]
    fn other_answers_say_nothing_about_the_limit() {
        for status in [200, 301, 403, 420, 500, 502, 504] {
            assert_eq!(pause_ms(status, "Retry-After: 5\r\n"), None, "{status}");
            assert!(!may_push_back(status) && !allows_resend(&response(status, "Retry-After: 5\r\n")));
        }
    }

    #[test]
    fn only_what_the_origin_did_not_act_on_is_sent_again() {
        assert!(allows_resend(&response(429, "")));
        assert!(allows_resend(&response(503, "Retry-After: 1\r\n")));
        assert!(!allows_resend(&response(503, "")));
        assert!(is_idempotent("PUT") && !is_idempotent("POST") && !is_idempotent("get"));
    }

    #[test]
    fn seconds_are_read_to_the_nanosecond() {
        assert_eq!(seconds(b"1.0000000019"), Some(Duration::new(1, 1)));
        assert_eq!(seconds(b".5"), Some(Duration::from_millis(500)));
        assert_eq!(seconds(b"7."), Some(Duration::from_secs(7)));
        assert_eq!(seconds(b"18446744073709551616"), Some(Duration::from_secs(u64::MAX)));
    }
}
