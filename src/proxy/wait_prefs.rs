//! Wait preferences of a request: the longest wait that it states, and its `Priority`.
//!
//! | field | longest wait |
//! |---|---|
//! | `Lockgate-Max-Wait: 2.5` | 2.5 s |
//! | `Prefer: wait=2.5` | 2.5 s, unless its limits have `obey_prefer = false` |
//! | `grpc-timeout: 2500m`, of a call of gRPC | 2.5 s |
//! | a field in `deadline` of one of its limits | seconds, or a duration such as `2.5s`; of a field whose name ends with `-ms`, milliseconds |
//!
//! The shortest applies. Each can only shorten the limit's own `max_wait`: a response that comes after
//! the caller has given up would waste its slot.

use std::time::Duration;

use super::grpc;
use super::pushback::reset_time::{duration, milliseconds, seconds};
use super::rule::Rule;
use crate::gate::Patience;
use crate::wire::{Name, RequestHead};

/// Field of our own, in seconds.
const OWN_FIELD: &str = "lockgate-max-wait";

/// Reads a request's preferences for its wait in the queue. Invalid values are ignored: both fields are only
/// preferences.
pub(super) fn of(head: &RequestHead) -> Patience {
    let plain = Patience::default();
    let max_wait = shorter(head.find(OWN_FIELD).and_then(seconds), prefer_wait(head));
    Patience { urgency: urgency(head).unwrap_or(plain.urgency), max_wait, ..plain }
}

/// The same for a request that counts under these rules.
pub(super) fn under<'r>(head: &RequestHead, rules: impl Iterator<Item = &'r Rule>) -> Patience {
    let plain = Patience::default();
    let mut max_wait = head.find(OWN_FIELD).and_then(seconds);
    if grpc::is_call(head) {
        max_wait = shorter(max_wait, head.find("grpc-timeout").and_then(grpc::timeout));
    }
    for rule in rules {
        if rule.obey_prefer {
            max_wait = shorter(max_wait, prefer_wait(head));
        }
        for name in &rule.deadline {
            max_wait = shorter(max_wait, head.find(name).and_then(|value| stated(name, value)));
        }
    }
    Patience { urgency: urgency(head).unwrap_or(plain.urgency), max_wait, ..plain }
}

/// The shorter of two waits; `None` bounds nothing.
fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// Time that the value of a field states.
fn stated(name: &str, value: &[u8]) -> Option<Duration> {
    let number = if name.ends_with("-ms") { milliseconds(value) } else { seconds(value) };
    number.or_else(|| duration(value))
}

/// `Prefer: wait=N` (RFC 7240 §4.3), in seconds; a fraction is accepted too. The first of several applies (§2).
fn prefer_wait(head: &RequestHead) -> Option<Duration> {
    let (_, value) =
        head.all(Name::Prefer).flat_map(members).map(pair).find(|(name, _)| name.eq_ignore_ascii_case(b"wait"))?;
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    seconds(unquoted.unwrap_or(value))
}

/// `u` of Priority (RFC 9218 §4.1), 0 to 7. The last of several applies (RFC 9651 §3.2).
fn urgency(head: &RequestHead) -> Option<u8> {
    let (_, value) = head.all(Name::Priority).flat_map(members).map(pair).filter(|(name, _)| *name == b"u").last()?;
    match value {
        [digit @ b'0'..=b'7'] => Some(digit - b'0'),
        _ => None,
    }
}

/// Members of a list, separated by commas outside of quotes.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(value, b',')
}

/// `name=value` without the parameters that may follow.
fn pair(member: &[u8]) -> (&[u8], &[u8]) {
    let item = split(member, b';').next().unwrap_or(member);
    match item.iter().position(|byte| *byte == b'=') {
        Some(at) => (item[..at].trim_ascii(), item[at + 1..].trim_ascii()),
        None => (item.trim_ascii(), b""),
    }
}

/// Splits at a separator outside of quotes.
fn split(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |byte| {
        let was_escaped = std::mem::take(&mut escaped);
        match byte {
            b'\\' if quoted && !was_escaped => escaped = true,
            b'"' if !was_escaped => quoted = !quoted,
            _ => {}
        }
        *byte == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Patience {
        of(&RequestHead::parse_for_test(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()))
    }

    fn wait_ms(value: &str) -> Option<u128> {
        read(&format!("Prefer: {value}\r\n")).max_wait.map(|wait| wait.as_millis())
    }

    fn urgency_of(value: &str) -> u8 {
        read(&format!("Priority: {value}\r\n")).urgency
    }

    #[test]
    fn a_request_that_says_nothing_is_as_patient_as_any() {
        let plain = read("");
        assert_eq!((plain.urgency, plain.max_wait, plain.arrived), (3, None, None));
    }

    #[test]
    fn prefer_wait_bounds_the_wait() {
        assert_eq!(wait_ms("wait=5"), Some(5000));
        assert_eq!(wait_ms("wait=0"), Some(0));
        assert_eq!(wait_ms("respond-async, Wait = \"2.5\" ; strict, wait=9"), Some(2500));
        assert_eq!(wait_ms("a=\"x, wait=1\", wait=7"), Some(7000));
        assert_eq!(wait_ms("a=\"\\\", wait=1\", wait=8"), Some(8000));
        assert_eq!(read("Prefer: handling=strict\r\nPrefer: wait=1\r\n").max_wait, Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_wait_that_makes_no_sense_is_ignored() {
        for value in
            ["wait", "wait=", "wait=-1", "wait=soon", "waits=1", "wait=\"1", "wait=1s", "x; wait=1", "", ",,;=,"]
        {
            assert_eq!(wait_ms(value), None, "{value}");
        }
        assert_eq!(wait_ms("wait=99999999999999999999"), Some(Duration::from_secs(u64::MAX).as_millis()));
    }

    #[test]
    fn the_shortest_of_all_stated_times_bounds_the_wait() {
        let mut rule =
            Rule { deadline: vec!["x-read-timeout".to_owned(), "x-timeout-ms".to_owned()], ..Rule::for_test() };
        let wait = |fields: &str, rule: &Rule| {
            let head = RequestHead::parse_for_test(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes());
            under(&head, std::iter::once(rule)).max_wait.map(|wait| wait.as_millis())
        };
        for (fields, wanted) in [
            ("X-Read-Timeout: 600\r\n", Some(600_000)),
            ("X-Read-Timeout: 2.5s\r\n", Some(2500)),
            ("X-Timeout-Ms: 2500\r\n", Some(2500)),
            ("X-Read-Timeout: 600\r\nX-Timeout-Ms: 70\r\nPrefer: wait=1\r\n", Some(70)),
            ("X-Read-Timeout: 600\r\nPrefer: wait=1\r\n", Some(1000)),
            ("Lockgate-Max-Wait: 0.5\r\nPrefer: wait=1\r\n", Some(500)),
            ("X-Read-Timeout: none\r\ngrpc-timeout: 1S\r\n", None),
        ] {
            assert_eq!(wait(fields, &rule), wanted, "{fields}");
        }
        rule.obey_prefer = false;
        assert_eq!(wait("Prefer: wait=1\r\n", &rule), None);
        assert_eq!(wait("Lockgate-Max-Wait: 0.5\r\nPrefer: wait=0\r\n", &rule), Some(500));
    }

    #[test]
    fn priority_is_an_urgency_from_0_to_7() {
        assert_eq!(urgency_of("u=0, i"), 0);
        assert_eq!(urgency_of("i, u=7;x=1"), 7);
        assert_eq!(urgency_of("u=1, u=5"), 5);
        assert_eq!(urgency_of("a=\"1, u=0\""), 3);
        for value in ["u", "u=8", "u=-1", "u=10", "u=1.0", "U=1", "u=\"1\"", "x; u=1", ""] {
            assert_eq!(urgency_of(value), 3, "{value}");
        }
    }
}
