//! When a waiter will go, told on its arrival.
//!
//! A waiter's rank is the number of slots that those before it in its lane need, plus its own. The
//! slots of a window open in a known order: those free now, those that settled, oldest first, then
//! those not settled yet; after one turn through all N, the same again a span later.

use super::Locker;
use super::api::{Claim, LimitId, RefusalReason, Sorry};
use super::limit::Priority;
use super::queue::{Waiter, WaiterGroup, WindowDemand};
use super::queue_position::{QueueEntry, QueuePosition};
use super::window::{Algorithm, Window, WindowRule, later};
use crate::time::Time;

/// How many others are looked at to find a rank, at most; beyond, the rank is a lower bound.
const MAX_CHECKED: usize = 64;

const MILLISECOND: u64 = 1_000_000;

/// When a waiter goes, at the earliest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecast {
    pub(super) at: Time,
    /// Whether it goes exactly then if nothing else happens.
    exact: bool,
    /// The limit it waits for longest.
    limit: LimitId,
}

impl Forecast {
    pub(super) fn to_sorry(self, reason: RefusalReason, now: Time) -> Sorry {
        let exact = self.exact && self.at > now;
        let until = if exact { self.at } else { self.at.max(later(now, MILLISECOND)) };
        Sorry { reason, limit: self.limit, until, exact }
    }
}

/// How many slots those before a waiter need.
struct SlotsAhead {
    ahead: Vec<u64>,
    /// Whether that is all of them, and in which order they go is settled.
    exact: bool,
    /// Whether each of them needs one slot.
    uniform: bool,
}

impl Locker {
    /// When a waiter goes, or would go if it joined the line.
    pub(super) fn forecast(&self, waiter: &Waiter, now: Time) -> Forecast {
        let group = self.queue.group_of(&waiter.demands).map(|group| &self.queue.groups[group]);
        let slots_ahead = self.slots_ahead(group, waiter);
        let mut forecast = Forecast { at: now, exact: false, limit: LimitId(0) };
        for (demand, ahead) in waiter.demands.iter().zip(&slots_ahead.ahead) {
            let rule = &self.limits.rules[demand.limit.at()];
            let (at, known) =
                slot_opens(rule, self.table.window(demand.window), *ahead, slots_ahead.uniform, demand.cost, now);
            if at >= forecast.at {
                let alone = waiter.demands.len() == 1 && self.is_single_flow(group, waiter);
                forecast = Forecast { at, exact: known && alone && slots_ahead.exact, limit: demand.limit };
            }
        }
        forecast
    }

    /// When asking a window again makes sense, for one that never joined its line.
    pub(super) fn sorry_at(&self, claim: &Claim, window: Option<u32>, reason: RefusalReason, now: Time) -> Sorry {
        let Claim { limit, key, cost } = *claim;
        let rule = &self.limits.rules[limit.at()];
        let reason = if rule.store_lost { RefusalReason::StoreLost } else { reason };
        let (at, known) = match window.map(|found| self.table.window(found)) {
            Some(window) => {
                let (at, known) = slot_opens(rule, window, 0, true, cost, now);
                (at, known && window.queue().is_none())
            }
            // The store has not been asked about this key.
            None if rule.store_managed => (later(now, rule.span), false),
            // One that begins shows what may have been taken under any key.
            None => slot_opens(rule, &Window::new(limit, key, rule, now), 0, true, cost, now),
        };
        Forecast { at, exact: known, limit }.to_sorry(reason, now)
    }

    /// Whether the lane's waiters are all that wait there, of one caller and one class, or take no turns.
    fn is_single_flow(&self, group: Option<&WaiterGroup>, waiter: &Waiter) -> bool {
        let Some(group) = group else { return true };
        let queue = self.table.window(waiter.demands[0].window).queue();
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
    fn best_position(&self, waiter: &Waiter) -> QueuePosition {
        let queue = waiter.demands.first().and_then(|primary| self.table.queue(primary.window));
        let Some(queue) =
            queue.filter(|queue| queue.callers.has_less_urgent(waiter.caller, waiter.caller_order.urgency))
        else {
            return waiter.position;
        };
        let rule = &self.limits.rules[waiter.demands[0].limit.at()];
        match rule.priority {
            Priority::Strict | Priority::None => waiter.position,
            Priority::WithinCaller => {
                let first = queue.callers.first_position(waiter.caller).map(|(position, _)| position);
                first.map_or(waiter.position, |position| position.min(waiter.position))
            }
        }
    }

    fn slots_ahead(&self, group: Option<&WaiterGroup>, waiter: &Waiter) -> SlotsAhead {
        let none_ahead = SlotsAhead { ahead: vec![0; waiter.demands.len()], exact: true, uniform: true };
        let Some(group) = group else { return none_ahead };
        let position = self.best_position(waiter);
        let of_priority = QueuePosition { turn: 0, arrived: Time::START, seq: 0, ..position };
        if let Some(ahead) = self.min_ahead(group, waiter, position) {
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
    fn min_ahead(&self, group: &WaiterGroup, waiter: &Waiter, position: QueuePosition) -> Option<Vec<u64>> {
        let primary = waiter.demands.first()?;
        let queue = self.table.queue(primary.window)?;
        let entries = group.entries.len();
        let is_uniform = !queue.fair_queue.may_shift() && group.totals.iter().all(|total| *total == entries as u64);
        let is_alone = waiter.takes_turns && queue.fair_queue.is_only(waiter.caller);
        if self.limits.rules[primary.limit.at()].priority != Priority::WithinCaller || is_uniform || is_alone {
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
            let demands: &[WindowDemand] = &self.queue.waiters[entry.id].demands;
            for (total, demand) in totals.iter_mut().zip(demands) {
                *total = sum(*total, u64::from(demand.cost));
            }
        }
    }
}

/// The earliest moment at which a window lets `cost` slots go after `ahead` others, and whether it is that moment.
fn slot_opens(rule: &WindowRule, window: &Window, ahead: u64, uniform: bool, cost: u32, now: Time) -> (Time, bool) {
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
            let first = window.opening_at_best(rule, position, from);
            let at = later(first, cycles.saturating_mul(rule.span));
            let spaced = window.spacing_at_best(rule, ahead, cost, from);
            (at.max(spaced), certain && uniform && rule.quantum == 1 && matches!(rule.algorithm, Algorithm::Sliding))
        }
        Algorithm::Fixed | Algorithm::Calendar { .. } => next_windows(rule, window, rank, certain && uniform, from),
    }
}

/// Where all slots of a window open at once: how many windows on the rank comes.
fn next_windows(rule: &WindowRule, window: &Window, rank: u64, certain: bool, from: Time) -> (Time, bool) {
    let requests = u64::from(rule.requests);
    let free = requests.saturating_sub(u64::from(window.in_log));
    if rank <= free {
        return (from, false);
    }
    let windows = (rank - free - 1) / requests;
    let calendar = matches!(rule.algorithm, Algorithm::Calendar { .. });
    if calendar {
        return (rule.period_end(windows).max(from), certain && windows == 0);
    }
    let end = if window.in_log == 0 { later(from, rule.span) } else { window.next_window(rule).max(from) };
    (later(end, windows.saturating_mul(rule.span)), certain)
}
