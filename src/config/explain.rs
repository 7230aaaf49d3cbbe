//! Explanation of a limit: one sentence that its author can compare with the intention.
//!
//! The sentence is made from the checked limit and not from the text of the file, so it shows also
//! the defaults that the author did not write. Each part follows the one before in a fixed order:
//! name, requests, number and window, key, cost, store, and the fate of requests beyond the limit.

use super::duration;
use super::limit_schema::LimitSection;
use super::toml_value::Spanned;
use super::value_parsers::TextPattern;
use crate::locker::{Counts, Kind, Priority, Rate, Unit, WhenFull};
use crate::proxy::claims::Cost;
use crate::proxy::key::KeyPart;

/// Explains a limit: `api: GET requests to api.example.com: at most 5 in any 800 ms, for each
/// caller; requests beyond that wait up to 30 s`. `rate`: the checked rate, if it has one.
///
/// Three more examples:
///
/// ```text
/// all: all requests: at most 10 at one time; requests beyond that wait up to 30 s
/// day: requests to a.net: at most 100 in each day of the calendar, by the clock of UTC; requests
/// beyond that are refused
/// try: requests to b.example: at most 5 in any second; dry run: requests beyond that go all the
/// same, and are logged
/// ```
pub(super) fn explain(name: &str, limit: &LimitSection, rate: Option<&Rate>) -> String {
    let mut how_many = Vec::new();
    if let Some(rate) = rate {
        how_many.push(format!("at most {}", rate_in_words(rate)));
    }
    if let Some(in_flight) = limit.in_flight.get() {
        how_many.push(format!("at most {} at one time", in_flight.value));
    }
    let mut sentence = format!("{name}: {}: {}", subject(limit), how_many.join(", "));
    if !limit.key.is_empty() {
        let parts: Vec<_> = limit.key.iter().map(|at| key_part_in_words(&at.value)).collect();
        sentence.push_str(&format!(", for each {}", parts.join(" and each ")));
        if limit.matching.paths.is_empty() {
            sentence.push_str(any_case(limit));
        }
    }
    match limit.cost.get().map(|at| &at.value) {
        None | Some(Cost::Fixed(1)) => {}
        Some(Cost::Fixed(cost)) => sentence.push_str(&format!(", each counting as {cost}")),
        Some(Cost::Header(name)) => sentence.push_str(&format!(", each counting as its header {name} says")),
    }
    if limit.is_shared() && !limit.is_dry_run() {
        sentence.push_str(", counted together by all gateways of the store");
    }
    let rest = match (limit.is_dry_run(), limit.when_full) {
        (true, _) => "; dry run: requests beyond that go all the same, and are logged".to_owned(),
        (false, WhenFull::Refuse) => "; requests beyond that are refused".to_owned(),
        (false, WhenFull::Wait) if limit.max_wait.is_zero() => "; requests beyond that are refused".to_owned(),
        (false, WhenFull::Wait) => {
            let first =
                if limit.priority == Priority::Strict { ", the most urgent first, from whichever caller" } else { "" };
            format!("; requests beyond that wait up to {}{first}", with_number(limit.max_wait))
        }
    };
    sentence + &rest
}

/// The requests that a limit counts, by method, host and path.
///
/// `all requests` without any condition; else, for instance, `GET or HEAD requests to a.example for
/// /v1/*`.
fn subject(limit: &LimitSection) -> String {
    let matching = &limit.matching;
    let mut words = match matching.methods.is_empty() {
        true if matching.hosts.is_empty() && matching.paths.is_empty() => "all requests".to_owned(),
        true => "requests".to_owned(),
        false => format!("{} requests", one_of(matching.methods.iter().map(|at| at.value.as_str()))),
    };
    if !matching.hosts.is_empty() {
        words.push_str(&format!(" to {}", pattern_texts(&matching.hosts)));
    }
    if !matching.paths.is_empty() {
        words.push_str(&format!(" for {}", pattern_texts(&matching.paths)));
        words.push_str(any_case(limit));
    }
    words
}

/// Addition for limits that ignore letter case.
///
/// Empty if letter case matters.
fn any_case(limit: &LimitSection) -> &'static str {
    if limit.ignores_case() { " in any letter case" } else { "" }
}

/// The number of requests and their window.
///
/// Follows "at most". A guard is named only if there is one.
fn rate_in_words(rate: &Rate) -> String {
    let requests = rate.requests;
    let mut words = match &rate.kind {
        Kind::Sliding => format!("{requests} in any {}", duration::in_words(rate.per)),
        Kind::Fixed => {
            format!("{requests} in a window of {}, which opens with its first request", with_number(rate.per))
        }
        Kind::Calendar { unit, zone } => {
            let unit = match unit {
                Unit::Minute => "minute",
                Unit::Hour => "hour",
                Unit::Day => "day",
            };
            format!("{requests} in each {unit} of the calendar, by the clock of {}", zone.iana_name().unwrap_or("UTC"))
        }
        Kind::Smooth { burst: 1 } => {
            format!("{requests} in any {}, evenly spaced", duration::in_words(rate.per))
        }
        Kind::Smooth { burst } => {
            format!("{requests} in any {}, evenly spaced after the first {burst}", duration::in_words(rate.per))
        }
    };
    if matches!(rate.kind, Kind::Calendar { .. }) && !rate.guard.is_zero() {
        words.push_str(&format!(
            ", where what is sent within {} of its ends counts on both sides",
            with_number(rate.guard)
        ));
    } else if !rate.guard.is_zero() {
        words.push_str(&format!(" and a guard of {}", with_number(rate.guard)));
    }
    match rate.counts {
        Counts::Sent => words,
        Counts::Answered => words + ", counted from the response",
    }
}

/// A part of the key, as it follows "each".
fn key_part_in_words(part: &KeyPart) -> String {
    match part {
        KeyPart::Host => "host".to_owned(),
        KeyPart::Caller => "caller".to_owned(),
        KeyPart::Method => "method".to_owned(),
        KeyPart::Path(segment) => format!("path segment {segment}"),
        KeyPart::Header(name) => format!("value of the header {name}"),
        KeyPart::Query(name) => format!("value of {name} in the query"),
    }
}

/// Formats a duration with its number also where that is 1: "1 minute".
fn with_number(duration: std::time::Duration) -> String {
    let words = duration::in_words(duration);
    if words.starts_with(|c: char| c.is_ascii_digit()) { words } else { format!("1 {words}") }
}

/// Patterns as written, with "or" between them.
fn pattern_texts<P>(patterns: &[Spanned<TextPattern<P>>]) -> String {
    one_of(patterns.iter().map(|at| at.value.text.as_str()))
}

/// Joins words by " or ".
fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.collect::<Vec<_>>().join(" or ")
}
