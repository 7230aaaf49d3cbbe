//! When a waiter will go, told on its arrival.
//!
//! A waiter's rank is the number of slots that those before it in its lane need, plus its own. The
//! slots of a window open in a known order: those free now, those that settled, oldest first, then
//! those not settled yet; after one turn through all N, the same again a span later.

use super::api::LimitId;
use super::counters::Counters;
use super::limit::Priority;
use super::opening::{Ahead, Forecast, slot_opens};
use super::queue::{Queue, Waiter, WaiterGroup, WindowDemand};
use super::queue_position::{QueueEntry, QueuePosition};
use crate::time::Time;

/// How many others are looked at to find a rank, at most; beyond, the rank is a lower bound.
const MAX_CHECKED: usize = 64;

/// How many slots those before a waiter need.
struct SlotsAhead {
    ahead: Vec<u64>,
    /// Whether that is all of them, and in which order they go is settled.
    exact: bool,
    /// Whether each of them needs one slot.
    uniform: bool,
}

impl Queue {
    /// When a waiter goes, or would go if it joined the line.
    pub(super) fn forecast(&self, counters: &Counters, waiter: &Waiter, now: Time) -> Forecast {
        let group = self.group_of(&waiter.demands).map(|group| &self.groups[group]);
        let slots_ahead = self.slots_ahead(counters, group, waiter);
        let mut forecast = Forecast { at: now, exact: false, limit: LimitId(0) };
        for (demand, ahead) in waiter.demands.iter().zip(&slots_ahead.ahead) {
            let rule = &counters.limits.rules[demand.limit.at()];
            let (at, known) = slot_opens(
                rule,
                counters.table.window(demand.window),
                Ahead { slots: *ahead, uniform: slots_ahead.uniform },
                demand.cost,
                now,
            );
            if at >= forecast.at {
                let alone = waiter.demands.len() == 1 && self.is_single_flow(counters, group, waiter);
                forecast = Forecast { at, exact: known && alone && slots_ahead.exact, limit: demand.limit };
            }
        }
        forecast
    }

    /// Whether the lane's waiters are all that wait there, of one caller and one class, or take no turns.
    fn is_single_flow(&self, counters: &Counters, group: Option<&WaiterGroup>, waiter: &Waiter) -> bool {
        let Some(group) = group else { return true };
        let queue = counters.table.window(waiter.demands[0].window).queue();
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

    /// The place in which a waiter may go: its own, or the first of its caller's if less urgent ones of that wait.
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

    /// How many slots are used before a place in any case, where callers may put forward requests of other costs than those
    /// whose places are before it; `None` if none may.
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
