//! Forecast of the time at which a waiter will go, computed on its arrival.
//!
//! A waiter's rank is the number of slots that those before it in its group need, plus its own. The
//! slots of a window open in a known order: those free now, those that settled, oldest first, then
//! those not settled yet; after one turn through all N, the same again a span later.

use super::api::LimitId;
use super::counters::Counters;
use super::limit::Priority;
use super::opening::{Ahead, Forecast, slot_opens};
use super::queue::{Queue, Waiter, WaiterGroup, WindowDemand};
use super::queue_position::{QueueEntry, QueuePosition};
use crate::time::Time;

/// Most other waiters examined to find a rank; beyond, the rank is a lower bound. It bounds the
/// work of an ask, however long the queue is.
const MAX_CHECKED: usize = 64;

/// Number of slots that the waiters before one need.
struct SlotsAhead {
    /// Slots per window, in the order of the waiter's demands; its own are not included.
    ahead: Vec<u64>,
    /// True if that is all of them, and their order is final.
    exact: bool,
    /// True if each of them needs one slot.
    uniform: bool,
}

impl Queue {
    /// Forecast of the time at which a waiter goes, or would go if it joined the queue. The window
    /// with the latest opening decides, and its limit is the one named to the caller. The time is
    /// `exact` only for a waiter of a single window with a queue of one flow; else it is an
    /// estimate. Never before `now`.
    pub(super) fn forecast(&self, counters: &Counters, waiter: &Waiter, now: Time) -> Forecast {
        let group = self.group_of(&waiter.demands).map(|group| &self.groups[group]);
        let slots_ahead = self.slots_ahead(counters, group, waiter);
        let mut forecast =
            Forecast { at: now, exact: false, limit: LimitId(0), window: None, ahead: Ahead::NONE, cost: 0 };
        for (demand, ahead) in waiter.demands.iter().zip(&slots_ahead.ahead) {
            let WindowDemand { window, limit, cost } = *demand;
            let rule = &counters.limits.rules[limit.at()];
            let ahead = Ahead { slots: *ahead, uniform: slots_ahead.uniform };
            let (at, known) = slot_opens(rule, counters.table.window(window), ahead, cost, now);
            if at >= forecast.at {
                let alone = waiter.demands.len() == 1 && self.is_single_flow(counters, group, waiter);
                let exact = known && alone && slots_ahead.exact;
                forecast = Forecast { at, exact, limit, window: Some(window), ahead, cost };
            }
        }
        forecast
    }

    /// True if the group's waiters, if any, are all that wait at the window, and are of one priority and one
    /// urgency, and either of one caller or without turns.
    fn is_single_flow(&self, counters: &Counters, group: Option<&WaiterGroup>, waiter: &Waiter) -> bool {
        let queue = counters.table.queue(waiter.demands[0].window);
        let Some(group) = group else { return queue.is_none_or(|queue| queue.waiting == 0) };
        let turns = |turns: &super::fair_queue::FairQueue| !waiter.takes_turns || turns.is_only(waiter.caller);
        let one_priority = group.entries.first_key_value().map(|(position, _)| position.priority)
            == Some(waiter.position.priority)
            && group.entries.last_key_value().map(|(position, _)| position.priority) == Some(waiter.position.priority);
        let same_urgency =
            queue.is_none_or(|queue| !queue.callers.has_mixed_urgency(waiter.caller, waiter.caller_order.urgency));
        one_priority
            && same_urgency
            && queue.is_none_or(|queue| queue.waiting == group.entries.len() && turns(&queue.fair_queue))
    }

    /// Place in which a waiter may go: its own, or under `Priority::WithinCaller` the first of its
    /// caller if less urgent waiters of the caller are in the queue.
    fn best_position(&self, counters: &Counters, waiter: &Waiter) -> QueuePosition {
        let queue = waiter.demands.first().and_then(|primary| counters.table.queue(primary.window));
        let Some(queue) =
            queue.filter(|queue| queue.callers.has_less_urgent(waiter.caller, waiter.caller_order.urgency))
        else {
            return waiter.position;
        };
        let rule = &counters.limits.rules[waiter.demands[0].limit.at()];
        match rule.priority {
            Priority::Strict | Priority::None => waiter.position,
            Priority::WithinCaller => {
                let first = queue.callers.first_position(waiter.caller).map(|(position, _)| position);
                first.map_or(waiter.position, |position| position.min(waiter.position))
            }
        }
    }

    /// Sums the slots of the waiters before this one in its group. Exact if no waiter of an earlier
    /// priority class is in the group and at most `MAX_CHECKED` have its place or a later one: these
    /// are subtracted from the totals. Else at most `MAX_CHECKED` waiters are added up, a lower
    /// bound.
    fn slots_ahead(&self, counters: &Counters, group: Option<&WaiterGroup>, waiter: &Waiter) -> SlotsAhead {
        let none_ahead = SlotsAhead { ahead: vec![0; waiter.demands.len()], exact: true, uniform: true };
        let Some(group) = group else { return none_ahead };
        let position = self.best_position(counters, waiter);
        let of_priority = QueuePosition { turn: 0, arrived: Time::START, seq: 0, ..position };
        if let Some(ahead) = self.min_ahead(counters, group, waiter, position) {
            return SlotsAhead { ahead, exact: false, uniform: false };
        }
        let one_priority = group.entries.range(..of_priority).next().is_none();
        let behind: Vec<&QueueEntry> =
            group.entries.range(position..).map(|(_, entry)| entry).take(MAX_CHECKED + 1).collect();
        if one_priority && behind.len() <= MAX_CHECKED {
            let mut ahead = group.totals.to_vec();
            self.add_costs(&mut ahead, behind.iter().copied(), |total, cost| total - cost);
            let before = group.entries.len() - behind.len();
            let uniform = ahead.iter().all(|total| *total == before as u64);
            return SlotsAhead { ahead, exact: true, uniform };
        }
        let mut slots_ahead = none_ahead;
        let before = group.entries.range(of_priority..position).map(|(_, entry)| entry).take(MAX_CHECKED);
        self.add_costs(&mut slots_ahead.ahead, before, |total, cost| total + cost);
        slots_ahead.exact = false;
        slots_ahead
    }

    /// Least number of slots used before a place, where callers may put forward requests of other
    /// costs than those with the places before it; `None` if no caller may. Counts one slot per
    /// request for a waiter without turns; with turns, the turns of each caller before the place.
    fn min_ahead(
        &self,
        counters: &Counters,
        group: &WaiterGroup,
        waiter: &Waiter,
        position: QueuePosition,
    ) -> Option<Vec<u64>> {
        let primary = waiter.demands.first()?;
        let queue = counters.table.queue(primary.window)?;
        let entries = group.entries.len();
        let is_uniform = !queue.fair_queue.may_shift() && group.totals.iter().all(|total| *total == entries as u64);
        let is_alone = waiter.takes_turns && queue.fair_queue.is_only(waiter.caller);
        if counters.limits.rules[primary.limit.at()].priority != Priority::WithinCaller || is_uniform || is_alone {
            return None;
        }
        if !waiter.takes_turns {
            let of_priority = QueuePosition { turn: 0, arrived: Time::START, seq: 0, ..position };
            let before = group.entries.range(of_priority..position).take(MAX_CHECKED).count();
            return Some(vec![before as u64; waiter.demands.len()]);
        }
        let mut ahead = vec![0; waiter.demands.len()];
        // Others may be kept back elsewhere.
        let flows = queue.fair_queue.flows().take(if queue.waiting == entries { MAX_CHECKED } else { 0 });
        for (caller, due) in flows {
            // A caller goes as long as its turn is an earlier one.
            let slots = queue.callers.slots(caller).min(position.turn.saturating_sub(due));
            for (number, total) in ahead.iter_mut().enumerate() {
                *total += if number == 0 { slots } else { slots.min(1) };
            }
        }
        Some(ahead)
    }

    /// Folds the costs of entries into the totals, demand by demand; `sum` adds or subtracts.
    fn add_costs<'a>(
        &self,
        totals: &mut [u64],
        entries: impl Iterator<Item = &'a QueueEntry>,
        sum: fn(u64, u64) -> u64,
    ) {
        for entry in entries {
            let demands: &[WindowDemand] = &self.waiters[entry.id].demands;
            for (total, demand) in totals.iter_mut().zip(demands) {
                *total = sum(*total, u64::from(demand.cost));
            }
        }
    }
}
