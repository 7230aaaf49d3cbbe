//! Fuzz targets of the fields that speak of time: Retry-After of origins, RateLimit and Retry-After of our own.

use std::time::Duration;

use crate::locker::RefusalReason;
use crate::proxy::pushback::reset_time::{FIRST_MOMENT, seconds, wait};
use crate::proxy::pushback::signal::{self, Signal};
use crate::proxy::refusal::Refusal;
use crate::wire::{HeadLimits, Name, ResponseHead};

/// Pushback fields of an origin: only refusals and failures push back, and a 429 always does; no wait is shorter than
/// what Retry-After asks for, a further Retry-After never makes it shorter, and a later time never makes it longer. The
/// first byte selects the status.
pub fn retry_after(input: &[u8]) {
    let [choice, fields @ ..] = input else { return };
    let status = [429_u16, 503, 200, 500][usize::from(choice % 4)];
    let mut head = ResponseHead::default();
    let text = [format!("HTTP/1.1 {status} X\r\n").as_bytes(), fields, b"\r\n\r\n"].concat();
    let Ok(Some(_)) = head.read(&text, HeadLimits::default()) else { return };
    let now = Duration::from_secs(u64::from(*choice) * 1_000_000_007);
    let found = signal::read(&head, || now);
    assert!(found.is_none() || (400..600).contains(&status));
    assert!(status != 429 || found.is_some());
    assert!(found != Some(Signal::Unnamed) || status == 429);
    let values: Vec<&[u8]> = head.all(Name::RetryAfter).collect();
    let has_ms = head.fields().any(|(_, name, _)| name.to_ascii_lowercase().ends_with(b"retry-after-ms"));
    for value in values.iter().filter(|_| !has_ms && status != 200) {
        if let Some(asked) = seconds(value).filter(|asked| asked.as_secs() < FIRST_MOMENT) {
            assert!(named(found) >= Some(asked), "{} gives {found:?}", value.escape_ascii());
        }
    }
    let more = [&text[..text.len() - 2], b"Retry-After: 7\r\n\r\n"].concat();
    let mut longer = ResponseHead::default();
    if let Ok(Some(_)) = longer.read(&more, HeadLimits::default()) {
        let with_more = named(signal::read(&longer, || now));
        // Retry-After counts before fields that tell of a quota.
        if values.iter().any(|value| wait(value, now).is_some()) {
            assert!(with_more >= named(found), "{with_more:?} {found:?}");
        }
        // A gateway whose clock is ahead waits no longer than one whose clock is right.
        assert!(named(signal::read(&longer, || now + Duration::from_secs(1))) <= with_more);
    }
    values.iter().for_each(|value| check_number(value));
}

/// Wait that a pushback names.
fn named(found: Option<Signal>) -> Option<Duration> {
    if let Some(Signal::For(wait)) = found { Some(wait) } else { None }
}

/// Numbers grow with each digit, and a fraction adds less than a second.
fn check_number(value: &[u8]) {
    let Some(asked) = seconds(value) else { return };
    if !value.contains(&b'.') {
        let Some(tenfold) = seconds(&[value, b"0"].concat()) else { panic!("a digit more makes it no number") };
        assert!(tenfold >= asked);
        let Some(fraction) = seconds(&[value, b".999"].concat()) else { panic!("a fraction makes it no number") };
        assert!(fraction >= asked && fraction - asked < Duration::from_secs(1));
    }
}

/// Fields of a refusal by a limit: each is one line of visible ASCII, the limit's name can be read back, the seconds
/// never end before the wait, and a longer wait never gives fewer. Bytes 0 to 15 are the wait, T and N, the rest the
/// limit's name.
pub fn rate_limit_fields(input: &[u8]) {
    let Some((numbers, name)) = input.split_at_checked(16) else { return };
    let number = |at: usize| numbers[at..at + 4].iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let name = String::from_utf8_lossy(name).into_owned();
    let wait = Duration::from_millis(u64::from(number(0))) + Duration::from_nanos(u64::from(number(4)));
    let per = Duration::from_millis(u64::from(number(8)));
    let fields = fields_of(&name, wait, per, number(12));
    for (field, value) in &fields {
        assert!(!field.is_empty() && value.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{field}: {value:?}");
    }
    let value = |wanted: &str| fields.iter().find(|(field, _)| field == wanted).map(|(_, value)| value.as_str());
    let Some(seconds) = value("Retry-After").and_then(|value| value.parse::<u64>().ok()) else {
        panic!("there is no Retry-After");
    };
    assert!(seconds >= 1 && Duration::from_secs(seconds) >= wait);
    assert!(Duration::from_secs(seconds - 1) < wait.max(Duration::from_nanos(1)), "{seconds} s for {wait:?}");
    let (Some(policy), Some(limit)) = (value("RateLimit-Policy"), value("RateLimit")) else {
        panic!("there are no RateLimit fields");
    };
    let expected: String = name.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
    for field in [policy, limit] {
        assert_eq!(quoted(field).as_deref(), Some(&*expected), "{field}");
    }
    assert!(limit.contains(&format!(";r=0;t={seconds};")));
    let longer = fields_of(&name, wait + Duration::from_nanos(1), per, number(12));
    let later =
        longer.iter().find(|(field, _)| field == "Retry-After").and_then(|(_, value)| value.parse::<u64>().ok());
    assert!(later >= Some(seconds));
}

/// Fields of a refusal.
fn fields_of(name: &str, retry_after: Duration, per: Duration, requests: u32) -> Vec<(String, String)> {
    let why = RefusalReason::Full;
    let refusal = Refusal::Limited { limit: name.into(), why, retry_after, exact: true, requests, per };
    let mut fields = Vec::new();
    refusal.fields(7, 0, &mut |name, value| fields.push((name.to_owned(), value.to_string())));
    fields
}

/// String at the start of a structured field (RFC 9651 §4.2.5).
fn quoted(field: &str) -> Option<String> {
    let mut chars = field.strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none_or(|next| next == ';').then_some(text),
            '\\' => text.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => text.push(c),
        }
    }
}
