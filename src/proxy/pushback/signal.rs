//! Pushback signals: reads from a response that an origin wants fewer requests, and for how long.
//!
//! Any 4xx or 5xx that names a time is a pushback (RFC 9110 §10.2.3 binds Retry-After to no status), and a 429 also
//! without one. The most exact field counts; of several values the longest.
//!
//! | response | pause |
//! |---|---|
//! | `retry-after-ms: 250` or `x-ms-retry-after-ms: 250` | 250 ms |
//! | `Retry-After: 2` | 2.5 s |
//! | `RateLimit: "default";r=0;t=2` | 2.5 s |
//! | `X-RateLimit-Remaining: 0`, `X-RateLimit-Reset: 2` | 2.5 s |
//! | 429 alone | not named |
//! | 503 alone, or any other status alone | no pushback |
//!
//! Fields that tell of a rest (`RateLimit` and its relatives) are sent with answers of any kind: outside of a 429
//! they count only if they say that nothing remains.

use std::time::Duration;

use super::reset_time;
use crate::wire::{Name, ResponseHead};

/// Pushback of an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy) enum Signal {
    /// The origin names the time until it takes requests again.
    For(Duration),
    /// A 429 that names no time.
    Unnamed,
}

/// Reads the pushback of a response; `None` if it is none. `clock`: time since 1970 by our clock, which is read if a
/// response with an error has no Date.
pub(in crate::proxy) fn read(response: &ResponseHead, clock: impl FnOnce() -> Duration) -> Option<Signal> {
    let status = response.status();
    if !(400..600).contains(&status) {
        return None;
    }
    // Both moments are by the origin's clock, if the response has a Date: errors of that clock or ours then do not matter.
    let date = response.get(Name::Date).and_then(|date| reset_time::moment(std::str::from_utf8(date).ok()?));
    let now = date.unwrap_or_else(clock);
    let named = retry_after_ms(response)
        .or_else(|| response.all(Name::RetryAfter).filter_map(|value| reset_time::wait(value, now)).max())
        .or_else(|| reset(response, now));
    match named {
        Some(wait) => Some(Signal::For(wait)),
        None => (status == 429).then_some(Signal::Unnamed),
    }
}

/// Wait that a field in milliseconds names, as services of Azure and OpenAI send it.
fn retry_after_ms(response: &ResponseHead) -> Option<Duration> {
    let fields = response.fields().filter(|(_, name, _)| {
        name.eq_ignore_ascii_case(b"retry-after-ms") || name.eq_ignore_ascii_case(b"x-ms-retry-after-ms")
    });
    fields.filter_map(|(_, _, value)| reset_time::milliseconds(value)).max()
}

/// Longest wait until a quota that is used up is reset.
fn reset(response: &ResponseHead, now: Duration) -> Option<Duration> {
    let status = response.status();
    let fields = response.fields().filter(|(kind, _, _)| *kind == Name::Other);
    let waits = fields.filter_map(|(_, name, value)| {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        if name == "ratelimit" {
            return rate_limit(value, status, now);
        }
        if !(name.contains("ratelimit") || name.contains("rate-limit")) || !name.contains("-reset") {
            return None;
        }
        let remaining = name.replace("-reset-after", "-remaining").replace("-reset", "-remaining");
        let rest = response.find(&remaining).and_then(reset_time::seconds);
        is_used_up(rest, status).then(|| reset_time::wait(value, now)).flatten()
    });
    waits.max()
}

/// True if a quota explains the response: nothing of it remains, or the response is a 429 and does not say what remains.
fn is_used_up(rest: Option<Duration>, status: u16) -> bool {
    rest.map_or(status == 429, |rest| rest < Duration::from_secs(1))
}

/// Longest wait that a `RateLimit` field names: `"name";r=0;t=2, …` (draft-ietf-httpapi-ratelimit-headers-10 §4), or
/// `limit=100, remaining=0, reset=2` as in draft 07.
fn rate_limit(value: &[u8], status: u16, now: Duration) -> Option<Duration> {
    let is_list = value.contains(&b';');
    let quotas = value.split(|byte| is_list && *byte == b',');
    let waits = quotas.filter_map(|quota| {
        let parameter = |names: [&[u8]; 2]| {
            let mut parts = quota.split(|byte| matches!(byte, b';' | b',')).map(<[u8]>::trim_ascii);
            parts.find_map(|part| names.iter().find_map(|name| part.strip_prefix(*name)))
        };
        let rest = parameter([b"r=", b"remaining="]).and_then(reset_time::seconds);
        let wait = parameter([b"t=", b"reset="]).and_then(|value| reset_time::wait(value, now));
        wait.filter(|_| is_used_up(rest, status))
    });
    waits.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 09 Sep 2001 01:46:40 GMT.
    const NOW: Duration = Duration::from_secs(1_000_000_000);

    fn signal(status: u16, fields: &str) -> Option<Signal> {
        let text = format!("HTTP/1.1 {status} X\r\n{}\r\n", fields.replace('|', "\r\n") + "\r\n");
        let head = ResponseHead::parse_for_test(text.as_bytes());
        read(&head, || NOW)
    }

    fn pause_ms(status: u16, fields: &str) -> Option<u128> {
        match signal(status, fields)? {
            Signal::For(wait) => Some(wait.as_millis()),
            Signal::Unnamed => None,
        }
    }

    #[test]
    fn any_refusal_or_failure_with_a_time_is_a_pushback() {
        for status in [400, 403, 418, 420, 429, 451, 500, 502, 503, 509, 529, 599] {
            assert_eq!(pause_ms(status, "Retry-After: 3"), Some(3500), "{status}");
        }
        for status in [200, 202, 301, 304] {
            assert_eq!(
                signal(status, "Retry-After: 3|retry-after-ms: 5|x-ratelimit-reset: 2|x-ratelimit-remaining: 0"),
                None
            );
        }
    }

    #[test]
    fn only_a_429_is_one_without_a_time() {
        assert_eq!(signal(429, "A: b"), Some(Signal::Unnamed));
        assert_eq!(signal(429, "Retry-After: soon"), Some(Signal::Unnamed));
        for status in [403, 500, 503, 529] {
            assert_eq!(signal(status, "Retry-After: soon"), None, "{status}");
        }
    }

    #[test]
    fn milliseconds_count_before_seconds_and_these_before_resets() {
        assert_eq!(pause_ms(429, "Retry-After: 1|retry-after-ms: 250|x-ratelimit-reset: 60"), Some(250));
        assert_eq!(pause_ms(429, "x-ms-retry-after-ms: 40|Retry-After: 1"), Some(40));
        assert_eq!(pause_ms(429, "x-ratelimit-reset: 60|Retry-After: 1"), Some(1500));
    }

    #[test]
    fn the_longest_of_several_times_counts() {
        assert_eq!(pause_ms(429, "Retry-After: 1|Retry-After: 4|Retry-After: x"), Some(4500));
        assert_eq!(pause_ms(429, "x-ratelimit-reset-requests: 1m2.5s|x-ratelimit-reset-tokens: 6ms"), Some(62_500));
    }

    #[test]
    fn resets_are_read_in_every_form_that_services_use() {
        for (fields, wanted) in [
            ("X-RateLimit-Reset: 2|X-RateLimit-Remaining: 0", 2500),
            ("x-rate-limit-reset: 1000000002", 2500),
            ("X-RateLimit-Reset: 1000000002250", 2250),
            ("X-RateLimit-Reset-After: 0.75|X-RateLimit-Remaining: 0|X-RateLimit-Reset: 1000000000", 750),
            (
                "anthropic-ratelimit-requests-reset: 2001-09-09T01:46:43Z|anthropic-ratelimit-requests-remaining: 0",
                3500,
            ),
            ("RateLimit: \"default\";r=0;t=2", 2500),
            ("RateLimit: \"a\";r=5;t=60, \"b\";r=0;t=2", 2500),
            ("RateLimit: \"a\";t=3", 3500),
            ("RateLimit: limit=100, remaining=0, reset=2", 2500),
            ("RateLimit-Limit: 100|RateLimit-Remaining: 0|RateLimit-Reset: 2", 2500),
        ] {
            assert_eq!(pause_ms(429, fields), Some(wanted), "{fields}");
        }
    }

    #[test]
    fn a_quota_of_which_something_remains_explains_no_refusal() {
        assert_eq!(signal(429, "x-ratelimit-reset: 60|x-ratelimit-remaining: 3"), Some(Signal::Unnamed));
        assert_eq!(signal(429, "RateLimit: \"a\";r=5;t=60"), Some(Signal::Unnamed));
        let two = "x-ratelimit-reset-tokens: 2s|x-ratelimit-remaining-tokens: 0|x-ratelimit-reset-requests: 9s|\
                   x-ratelimit-remaining-requests: 7";
        assert_eq!(pause_ms(429, two), Some(2000));
    }

    #[test]
    fn other_statuses_push_back_only_if_they_say_that_nothing_remains() {
        let fields = "x-ratelimit-reset: 1000000060|x-ratelimit-remaining: ";
        assert_eq!(pause_ms(403, &format!("{fields}0")), Some(60_500));
        assert_eq!(signal(404, &format!("{fields}4999")), None);
        assert_eq!(signal(404, "x-ratelimit-reset: 60"), None);
        assert_eq!(signal(500, "RateLimit: \"a\";r=5;t=60"), None);
    }

    #[test]
    fn moments_are_counted_from_the_origins_own_clock() {
        let both = "Date: Sun, 09 Sep 2001 05:00:00 GMT|Retry-After: Sun, 09 Sep 2001 05:00:03 GMT";
        assert_eq!(pause_ms(503, both), Some(3500));
        let epoch = "Date: Sun, 09 Sep 2001 05:00:00 GMT|X-RateLimit-Reset: 1000011602";
        assert_eq!(pause_ms(429, epoch), Some(2500));
    }
}
