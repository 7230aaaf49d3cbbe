//! gRPC over HTTP/2: refusals in the form that its clients understand, and the deadline that a call states.
//!
//! A client of gRPC takes an HTTP status for a failure of the network, and tries again at once. A
//! refusal is therefore a response without content (Trailers-Only of the protocol, "gRPC over HTTP2"):
//! HTTP 200, and the status of gRPC in a field.

use std::time::Duration;

use super::problem::{self, PutField, seconds_up};
use super::refusal::{Refusal, millis_up};
use crate::wire::{RequestHead, Version};

/// True for a call of gRPC: HTTP/2, and a content type of `application/grpc`, perhaps with a codec or parameters.
pub(super) fn is_call(head: &RequestHead) -> bool {
    let is_grpc = |content_type: &[u8]| {
        let name = b"application/grpc";
        let (start, rest) = content_type.split_at_checked(name.len()).unwrap_or((&[], &[]));
        start.eq_ignore_ascii_case(name) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    };
    head.version() == Version::Http2 && head.find("content-type").is_some_and(is_grpc)
}

/// Time that a call gives to its response (`grpc-timeout`): up to eight digits, and a unit.
pub(super) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

impl Refusal {
    /// Calls `put` with the name and the value of each field of the refusal of a call.
    /// `now_unix_nanos`: wall clock, for Date.
    pub(super) fn grpc_fields(&self, now_unix_nanos: i128, put: &mut PutField<'_>) {
        put("Date", format_args!("{}", problem::date(now_unix_nanos)));
        put("Content-Type", format_args!("application/grpc"));
        put("Grpc-Status", format_args!("{}", status(self.status())));
        put("Grpc-Message", format_args!("{}", Message(&format!("{}: {}", self.proxy_detail(), self.detail()))));
        self.proxy_status(put);
        if let Some(wait) = self.retry_after() {
            put("Grpc-Retry-Pushback-Ms", format_args!("{}", millis_up(wait)));
            put("Retry-After", format_args!("{}", seconds_up(wait)));
        }
    }
}

/// Status of gRPC for one of HTTP. As "HTTP to gRPC Status Code Mapping" of the project has it, but for 429: that is
/// RESOURCE_EXHAUSTED, as the reason is known here, and for 407.
fn status(http: u16) -> u8 {
    match http {
        429 => 8,
        401 | 407 => 16,
        403 => 7,
        404 | 501 => 12,
        502..=504 => 14,
        400 | 408 | 414 | 417 | 431 => 13,
        _ => 2,
    }
}

/// Text of `grpc-message`: bytes that are not visible ASCII, and `%`, are percent-encoded.
struct Message<'m>(&'m str);

impl std::fmt::Display for Message<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'%' => out.write_str("%25"),
            b' '..=b'~' => write!(out, "{}", char::from(byte)),
            _ => write!(out, "%{byte:02X}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        for (value, wanted) in [("20S", 20_000), ("5m", 5), ("2M", 120_000), ("1H", 3_600_000), ("99999999u", 99_999)] {
            assert_eq!(timeout(value.as_bytes()).map(|t| t.as_millis()), Some(wanted), "{value}");
        }
        for wrong in ["", "S", "5", "5s", "-1S", "1.5S", "123456789S", "S5"] {
            assert_eq!(timeout(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    }

    #[test]
    fn a_refusal_is_told_in_the_statuses_of_grpc() {
        let fields = |refusal: &Refusal| {
            let mut all = Vec::new();
            refusal.grpc_fields(0, &mut |name, value| all.push((name.to_owned(), value.to_string())));
            all
        };
        let find = |refusal: &Refusal, name: &str| {
            fields(refusal).into_iter().find(|(found, _)| found == name).map(|(_, value)| value)
        };
        for (refusal, wanted) in [
            (Refusal::TooManyTries { retry_after: Duration::from_millis(2500) }, "8"),
            (Refusal::Unauthorized, "16"),
            (Refusal::Denied("no"), "7"),
            (Refusal::NoRoute, "12"),
            (Refusal::ConnectionRefused, "14"),
            (Refusal::AnswerTimeout, "14"),
            (Refusal::BadKey, "13"),
            (Refusal::Loop, "2"),
        ] {
            assert_eq!(find(&refusal, "Grpc-Status").as_deref(), Some(wanted), "{refusal:?}");
        }
        let tries = Refusal::TooManyTries { retry_after: Duration::from_millis(2500) };
        assert_eq!(find(&tries, "Grpc-Retry-Pushback-Ms").as_deref(), Some("2500"));
        assert_eq!(find(&tries, "Retry-After").as_deref(), Some("3"));
        assert_eq!(find(&Refusal::Unauthorized, "Grpc-Retry-Pushback-Ms"), None);
        let message = find(&Refusal::Denied("50 % of \u{e4}"), "Grpc-Message").unwrap_or_default();
        assert!(message.contains("50 %25 of %C3%A4"), "{message}");
    }
}
