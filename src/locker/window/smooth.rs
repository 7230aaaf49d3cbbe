//! Smooth window: GCRA (generic cell rate algorithm) spacing of T/N with a burst, and never more
//! than N in any span of T.
//!
//! Spacing alone would let nearly 2N through in one T (a burst, and then the refill), so the
//! sliding rule applies besides. `tat` is the theoretical arrival time of ITU-T I.371: the moment
//! up to which the spacing is used up.
//!
//! Example with N = 10, T = 1 s, burst = 3: after a pause three requests go at once, and each
//! further one 100 ms after the one before, as long as no second holds more than ten.

use super::Window;
use super::window_rule::{WindowRule, later};
use crate::time::Time;

/// True if the spacing lets `cost` slots go now, assuming that all unsettled slots settle now.
#[inline]
pub(super) fn is_spaced(window: &Window, rule: &WindowRule, cost: u32, now: Time) -> bool {
    let used = window.tat().max(now).as_nanos() - now.as_nanos();
    let ahead = u64::from(window.unsettled) + u64::from(cost);
    used.saturating_add(ahead.saturating_mul(rule.interval)) <= saved(rule, cost)
}

/// Moves the TAT on for `count` slots that settle now.
#[inline]
pub(super) fn settle(window: &mut Window, rule: &WindowRule, count: u32, now: Time) {
    let from = mutant!(window.tat().max(now), "spacing restarts with each request", now);
    window.extra_mut().tat = later(from, u64::from(count).saturating_mul(rule.interval));
}

/// Time at which the spacing lets `cost` slots go after `ahead` others; `None` if that depends on
/// unsettled slots.
///
/// The sliding rule has an opening of its own; the later of the two applies.
pub(super) fn opening(window: &Window, rule: &WindowRule, ahead: u64, cost: u32, now: Time) -> Option<Time> {
    let due = bound(window, rule, ahead, cost, now);
    let settled_ahead = u64::from(window.unsettled) + u64::from(cost);
    let unknown = settled_ahead.saturating_mul(rule.interval) > saved(rule, cost);
    if unknown && due > now { None } else { Some(due) }
}

/// Earliest time at which the spacing can let `cost` slots go after `ahead` others.
pub(super) fn bound(window: &Window, rule: &WindowRule, ahead: u64, cost: u32, now: Time) -> Time {
    let slots = u64::from(window.unsettled).saturating_add(ahead).saturating_add(u64::from(cost));
    let needed = slots.saturating_mul(rule.interval);
    let from = window.tat().max(now);
    let due = from.as_nanos().saturating_add(needed).saturating_sub(saved(rule, cost));
    Time::from_nanos(due).max(now)
}

/// Spacing that a request may use in advance, in nanoseconds: the burst, or the request's own cost
/// if that is more.
fn saved(rule: &WindowRule, cost: u32) -> u64 {
    let burst = mutant!(rule.burst, "a burst has one request more", rule.burst + 1);
    u64::from(burst.max(cost)).saturating_mul(rule.interval)
}
