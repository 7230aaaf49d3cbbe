//! Reservations: the slots that the oldest waiter for several windows, the claimant, keeps from younger waiters.

use super::counters::Counters;
use super::opening::{Ahead, slot_opens};
use super::queue::{Queue, Waiter, WindowDemand};
use crate::time::Time;

impl Queue {
    /// Finds a window in which a waiter would delay the claimant, and the time at which the
    /// claimant starts (if known). `None` if it delays none. Only a waiter younger than the
    /// claimant, of another group, and not before it by turns can delay it. Called by `check_group`
    /// once all windows have room.
    pub(super) fn delays_reservation(
        &self,
        counters: &mut Counters,
        waiter: &Waiter,
        id: u32,
        group: u32,
        now: Time,
    ) -> Option<(u32, Option<Time>)> {
        mutant!("a younger waiter skips the claimant", return None);
        let age = (waiter.caller_order.arrived, waiter.caller_order.seq, id);
        for demand in &waiter.demands {
            let queue = counters.table.queue(demand.window)?;
            let Some(&first) = queue.multi_limit.first() else { continue };
            let holder = &self.waiters[first.2];
            if first >= age || holder.group == group || precedes(waiter, holder) {
                continue;
            }
            counters.carry_demands(&holder.demands);
            let start = counters.earliest_start(holder, &[], now);
            let start_after = counters.earliest_start(holder, &waiter.demands, now);
            let moves = match (start, start_after) {
                (Some(start), Some(after)) => after > start,
                (Some(_), None) => true,
                (None, _) => {
                    counters.reserves_slots(holder, now) && counters.takes_slots_of(holder, &waiter.demands, now)
                }
            };
            if moves {
                return Some((demand.window, start));
            }
        }
        None
    }
}

impl Counters {
    /// Time at which a waiter could start if `before` were granted and settled now; `None` if unknown.
    fn earliest_start(&self, waiter: &Waiter, before: &[WindowDemand], now: Time) -> Option<Time> {
        let mut start = now;
        for demand in &waiter.demands {
            start = start.max(self.opening_after(demand, before, now)?);
        }
        Some(start)
    }

    /// Opening of a window for `demand` after the requests of `before` took theirs and settled now;
    /// `None` if unknown.
    fn opening_after(&self, demand: &WindowDemand, before: &[WindowDemand], now: Time) -> Option<Time> {
        let ahead = before.iter().find(|other| other.window == demand.window);
        let (slots, flights) = ahead.map_or((0, 0), |other| (u64::from(other.cost), 1u32));
        let rule = &self.limits.rules[demand.limit.at()];
        let window = self.table.window(demand.window);
        window.opening(rule, slots, flights, demand.cost, now).or_else(|| {
            // Some of the slots that it needs are those of `before`, which open again.
            let needs_them = slots > 0 && slots + u64::from(demand.cost) > u64::from(rule.requests);
            let has_flight = u64::from(window.flying) + u64::from(flights) < u64::from(rule.in_flight);
            let is_known = needs_them && has_flight && window.unsettled == 0 && !rule.store_managed;
            let ahead = Ahead { slots, uniform: false };
            let opening = is_known.then(|| slot_opens(rule, window, ahead, demand.cost, now).0);
            opening.filter(|at| *at < rule.until)
        })
    }

    /// True if a claimant with an unknown start may keep slots for itself: once it has waited for
    /// longer than they take to open, the longest span of its limits.
    fn reserves_slots(&self, holder: &Waiter, now: Time) -> bool {
        let spans = holder.demands.iter().map(|demand| self.limits.rules[demand.limit.at()].span);
        u64::try_from(now.since(holder.caller_order.arrived).as_nanos()).unwrap_or(u64::MAX) >= spans.max().unwrap_or(0)
    }

    /// Returns true if `before` would take slots that are open and that the waiter needs.
    fn takes_slots_of(&self, waiter: &Waiter, before: &[WindowDemand], now: Time) -> bool {
        waiter.demands.iter().any(|demand| {
            self.opening_after(demand, &[], now) == Some(now) && self.opening_after(demand, before, now) != Some(now)
        })
    }
}

/// Returns true if a waiter comes before another by the turns of the primary window that they share.
fn precedes(one: &Waiter, other: &Waiter) -> bool {
    let primary = |waiter: &Waiter| waiter.demands.first().map(|demand| demand.window);
    let first = match one.position.priority == other.position.priority {
        true => one.position < other.position,
        false => (one.effective_arrival, one.position.seq) < (other.effective_arrival, other.position.seq),
    };
    first && primary(one) == primary(other)
}
