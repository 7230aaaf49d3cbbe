//! Opening of slots: the earliest time at which a window lets a request go that comes after so many others.

use super::api::{Claim, LimitId, RefusalReason, Sorry};
use super::counters::Counters;
use super::window::{Algorithm, Window, WindowRule, later};
use crate::time::Time;

/// One millisecond in nanoseconds: the least retry time of an inexact forecast.
const MILLISECOND: u64 = 1_000_000;

/// Forecast of a waiter: the earliest time at which it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecast {
    /// Forecast time, never before the `now` of its computation.
    pub(super) at: Time,
    /// True if it goes exactly then unless something else happens.
    pub(super) exact: bool,
    /// The limit it waits for longest.
    pub(super) limit: LimitId,
    /// Window of that limit; `None` if the key has none.
    pub(super) window: Option<u32>,
    /// Slots that are granted before its own in that window.
    pub(super) ahead: Ahead,
    /// Number of slots that it needs there.
    pub(super) cost: u32,
}

impl Counters {
    /// Makes a refusal of a forecast. `until` is the forecast time, but at least a millisecond
    /// after `now` if it is not exact or not ahead, so that no client retries in a tight loop.
    ///
    /// Requests that are refused for want of a slot are told different openings of the window, so
    /// that they do not come back together: each the one behind those that were told before.
    pub(super) fn refuse(&mut self, forecast: Forecast, reason: RefusalReason, now: Time) -> Sorry {
        let Forecast { at, exact, limit, window, ahead, cost } = forecast;
        let exact = exact && at > now;
        let first = if exact { at } else { at.max(later(now, MILLISECOND)) };
        let is_staggered = match reason {
            RefusalReason::Full | RefusalReason::TooLong | RefusalReason::QueueFull | RefusalReason::TimedOut => true,
            RefusalReason::TooManyKeys
            | RefusalReason::CostTooHigh
            | RefusalReason::StoreLost
            | RefusalReason::Unwritten => false,
        };
        let rule = &self.limits.rules[limit.at()];
        let Some(window) = window.filter(|_| is_staggered && rule.counts_slots()) else {
            return Sorry { reason, limit, until: first, exact };
        };
        let opens = |window: &Window, told: u64| {
            if rule.store_managed {
                // Other gateways tell openings of the same window: this one those of its own share,
                // as many per span as it was granted in the last one.
                let share = window.unsettled.saturating_add(window.in_log).max(1);
                return rule.after_turns(first, told / u64::from(share));
            }
            let ahead = Ahead { slots: ahead.slots.saturating_add(told), ..ahead };
            let turns = (told + u64::from(cost)).saturating_sub(1) / u64::from(rule.requests.max(1));
            rule.with_allowance(slot_opens(rule, window, ahead, cost, now).0, turns)
        };
        let window = self.table.window_unnoted(window);
        let (until, is_behind) = mutant!(
            window.tell_opening(rule, first, cost, now, opens),
            "all refused requests are told the same opening",
            (first, false)
        );
        Sorry { reason, limit, until, exact: exact && !is_behind }
    }

    /// The refusal of a request that never joined a window's queue, with the time at which asking again makes sense.
    pub(super) fn sorry_at(&mut self, claim: &Claim, window: Option<u32>, reason: RefusalReason, now: Time) -> Sorry {
        let Claim { limit, key, cost } = *claim;
        let rule = &self.limits.rules[limit.at()];
        let reason = if rule.store_lost { RefusalReason::StoreLost } else { reason };
        let (at, exact) = match window.map(|found| self.table.window(found)) {
            Some(window) => {
                let (at, known) = slot_opens(rule, window, Ahead::NONE, cost, now);
                (at, known && window.queue().is_none())
            }
            // The store has not been asked about this key.
            None if rule.store_managed => (later(now, rule.span), false),
            // One that begins shows what may have been taken under any key.
            None => slot_opens(rule, &Window::new(limit, key, rule, now), Ahead::NONE, cost, now),
        };
        self.refuse(Forecast { at, exact, limit, window, ahead: Ahead::NONE, cost }, reason, now)
    }
}

/// Slots that are granted before one's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// Number of slots.
    pub(super) slots: u64,
    /// True if each of their requests takes one slot.
    pub(super) uniform: bool,
}

impl Ahead {
    /// No slots.
    pub(super) const NONE: Ahead = Ahead { slots: 0, uniform: true };
}

/// Earliest time at which a window lets `cost` slots go after those `ahead`; true if it is exactly
/// that time. Never exact for a window of the store, nor if slots of requests under way are still to
/// settle.
pub(super) fn slot_opens(
    rule: &WindowRule,
    window: &Window,
    Ahead { slots: ahead, uniform }: Ahead,
    cost: u32,
    now: Time,
) -> (Time, bool) {
    if rule.store_managed {
        let opens = window.lease_opens(rule, cost, now).filter(|_| ahead == 0);
        let least = window.store_opens_after(rule, cost).max(window.paused()).max(now);
        let turns = (ahead + u64::from(cost)).saturating_sub(1) / u64::from(rule.requests.max(1));
        return (opens.unwrap_or(least).max(later(now, turns.saturating_sub(1).saturating_mul(rule.span))), false);
    }
    let certain = window.unsettled == 0 && !rule.answered && !rule.counts_flights() && !rule.period.is_unsure;
    if let Some(at) = window.opening(rule, ahead, 0, cost, now) {
        return (at, certain && (ahead == 0 || !matches!(rule.algorithm, Algorithm::Smooth)));
    }
    let from = window.paused().max(now);
    let rank = ahead.saturating_add(u64::from(cost));
    let requests = u64::from(rule.requests);
    let (cycles, position) = ((rank - 1) / requests, (rank - 1) % requests + 1);
    let uniform = uniform && cost == 1;
    match rule.algorithm {
        Algorithm::Uncounted => (from, false),
        Algorithm::Sliding | Algorithm::Smooth => {
            let first = window.opening_at_best(rule, position, from, now);
            let at = later(first, cycles.saturating_mul(rule.span));
            let spaced = window.spacing_at_best(rule, ahead, cost, from);
            (at.max(spaced), certain && uniform && rule.quantum == 1 && matches!(rule.algorithm, Algorithm::Sliding))
        }
        Algorithm::Fixed | Algorithm::Calendar { .. } => {
            let (at, exact) = next_windows(rule, window, rank, from, now);
            (at, exact && certain && uniform)
        }
    }
}

/// Opening of a rank in a window that opens all slots at once (fixed, calendar): as many periods
/// ahead as the ranks before it fill, but not before `from`. Exact for a calendar only in the present
/// period. A fixed window in which no slot has settled ends at best one span from now.
fn next_windows(rule: &WindowRule, window: &Window, rank: u64, from: Time, now: Time) -> (Time, bool) {
    let requests = u64::from(rule.requests);
    let free = requests.saturating_sub(u64::from(window.in_log));
    if rank <= free {
        return (from, false);
    }
    let windows = (rank - free - 1) / requests;
    let calendar = matches!(rule.algorithm, Algorithm::Calendar { .. });
    if calendar {
        return (rule.period_end(windows, from), windows == 0);
    }
    let end = if window.in_log == 0 { later(now, rule.span) } else { window.next_window(rule) }.max(from);
    (later(end, windows.saturating_mul(rule.span)), true)
}
