//! Idle timeout of an origin: the time for which it keeps an idle connection, as announced in `Keep-Alive`.
//!
//! A request that crosses with the origin's close is lost. It is sent again only if its method is
//! idempotent (RFC 9110 §9.2.2), so a POST would be answered 502. A connection is therefore not used
//! near the end of the announced time.
//!
//! Example: after a response with `Keep-Alive: timeout=5, max=100` the connection is used again for 4
//! seconds. The field is that of RFC 2068 §19.7.1.1, as nginx, Apache and Node.js send it.

use std::time::Duration;

use crate::time::Time;
use crate::wire::{Name, ResponseHead, members};

/// Longest time before the announced end in which a connection is left alone: the way of the response
/// and of the next request together, on any link. Of short timeouts it is the second half.
const MARGIN: Duration = Duration::from_secs(1);

/// Time until which a connection can be used again after this response; `now`: receipt of its head.
///
/// The origin counts from its last byte, which it sent after the head. [`Time::NEVER`] if it announces
/// nothing, and `now` if it takes no further request (`max=0`).
pub(super) fn usable_until(head: &ResponseHead, now: impl FnOnce() -> Time) -> Time {
    let mut shortest = None;
    for member in head.all(Name::KeepAlive).flat_map(members) {
        let timeout = match parameter(member) {
            Some((name, number)) if name.eq_ignore_ascii_case("timeout") => Duration::from_secs(number),
            Some((name, 0)) if name.eq_ignore_ascii_case("max") => Duration::ZERO,
            Some(_) | None => continue,
        };
        shortest = Some(shortest.map_or(timeout, |other: Duration| other.min(timeout)));
    }
    shortest.map_or(Time::NEVER, |timeout| now() + (timeout - MARGIN.min(timeout / 2)))
}

/// Name and value of a parameter such as `timeout=5`; `None` if its value is no whole number.
fn parameter(member: &[u8]) -> Option<(&str, u64)> {
    let (name, value) = std::str::from_utf8(member).ok()?.split_once('=')?;
    Some((name.trim(), value.trim().trim_matches('"').parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::HeadLimits;

    const NOW: Time = Time::from_nanos(1 << 60);

    /// Milliseconds for which the connection can be used; `None`: no end is known.
    fn usable_ms(fields: &str) -> Option<u128> {
        let mut head = ResponseHead::default();
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        head.read(text.as_bytes(), HeadLimits::default()).expect("a valid head").expect("a whole head");
        let until = usable_until(&head, || NOW);
        (until < Time::NEVER).then(|| until.since(NOW).as_millis())
    }

    #[test]
    fn a_connection_is_left_alone_near_the_end_that_is_announced() {
        for (fields, expected) in [
            ("Keep-Alive: timeout=5, max=100\r\n", Some(4000)),
            ("keep-alive: TIMEOUT = 60\r\n", Some(59_000)),
            ("Keep-Alive: timeout=\"5\"\r\n", Some(4000)),
            ("Keep-Alive: max=3,timeout=2\r\n", Some(1000)),
            ("Keep-Alive: timeout=1\r\n", Some(500)),
            ("Keep-Alive: timeout=0\r\n", Some(0)),
            ("Keep-Alive: timeout=9, max=0\r\n", Some(0)),
            ("Keep-Alive: timeout=9\r\nKeep-Alive: timeout=3\r\n", Some(2000)),
            ("Keep-Alive: max=7\r\n", None),
            ("Keep-Alive: timeout=-1\r\n", None),
            ("Keep-Alive: timeout=soon, 300\r\n", None),
            ("Keep-Alive: timeout=18446744073709551616\r\n", None),
            ("Connection: keep-alive\r\n", None),
        ] {
            assert_eq!(usable_ms(fields), expected, "{fields:?}");
        }
        assert!(usable_ms("Keep-Alive: timeout=18446744073709551615\r\n").is_none(), "longer than any time line");
    }
}
