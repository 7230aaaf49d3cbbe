//! Sliding-window counter: never more than N in any span of T, wherever the span starts.
//!
//! Computes with the settle times in the window's log, so it is exact up to the log's rounding.
//!
//! Example with N = 2, T = 1 s: requests settle at 0 s and 0.4 s. A third may go at 1 s
//! exactly, when the first no longer counts, and a fourth at 1.4 s.

use super::window_rule::{WindowRule, later};
use super::{Window, settle_log::LogEntry};
use crate::time::Time;

/// Drops slots that settled a span ago: a request settled at t counts up to t + T, exclusive.
#[inline]
pub(super) fn expire(window: &mut Window, rule: &WindowRule, now: Time) {
    let span = mutant!(rule.span, "a slot opens a nanosecond late", rule.span + 1);
    let until = mutant!(now, "a slot opens a millisecond early", later(now, 1_000_000));
    while window.in_log > 0 && later(window.first_at(), span) <= until {
        window.log_pop();
    }
}

/// Logs `count` slots at `now`, rounded up: rounding may delay a request, but never lets one through too early.
#[inline]
pub(super) fn settle(window: &mut Window, rule: &WindowRule, count: u32, now: Time) {
    let at = match rule.quantum {
        1 => now.as_nanos(),
        step => mutant!(
            now.as_nanos().checked_next_multiple_of(step).unwrap_or(u64::MAX),
            "a settle time is rounded down",
            now.as_nanos() / step * step
        ),
    };
    window.log_push(Time::from_nanos(at), count);
}

/// Time at which the `place`-th slot opens; `None` if that depends on a slot that has not settled.
///
/// `place`: 1 for the next slot. `now` if the slot is free already.
pub(super) fn opening(window: &Window, rule: &WindowRule, place: u64, now: Time) -> Option<Time> {
    opening_by(window, rule, place, now, |settled| later(settled, rule.span))
}

/// As [`opening`], where `opens` maps a settle time to the time at which that slot no longer counts.
pub(super) fn opening_by(
    window: &Window,
    rule: &WindowRule,
    place: u64,
    now: Time,
    opens: impl Fn(Time) -> Time,
) -> Option<Time> {
    let free = i64::from(rule.requests) - i64::from(window.unsettled) - i64::from(window.in_log);
    let mut missing = i64::try_from(place).unwrap_or(i64::MAX).saturating_sub(free);
    if missing <= 0 {
        return Some(now);
    }
    for LogEntry { at, count } in window.log_entries() {
        missing -= i64::from(count);
        if missing <= 0 {
            return Some(opens(at).max(now));
        }
    }
    None
}
