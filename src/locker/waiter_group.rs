//! Waiter groups: adds a waiter to the queue group of its windows, and removes it again.

use std::time::Duration;

use smallvec::SmallVec;

use super::counters::Counters;
use super::limit::Priority;
use super::queue::{DequeueReason, Dirty, Location, Queue, StoreAsk, Waiter, WaiterGroup, WindowDemand};
use super::queue_position::{QueueEntries, QueueEntry, QueuePosition, first};
use super::window::window_rule::nanos;
use crate::time::Time;

impl Queue {
    /// Sets the position that a waiter has, or would have, in its group's queue.
    pub(super) fn assign_position(&self, counters: &Counters, waiter: &mut Waiter) {
        let Some(primary) = waiter.demands.first() else { return };
        let rule = &counters.limits.rules[primary.limit.at()];
        waiter.takes_turns = rule.takes_turns;
        waiter.slots = primary.cost;
        waiter.caller_order.urgency = if rule.priority == Priority::None { DEFAULT_URGENCY } else { waiter.urgency };
        let priority = if rule.priority == Priority::Strict { waiter.urgency } else { DEFAULT_URGENCY };
        let queue = counters.table.queue(primary.window);
        let turn = match queue {
            Some(queue) if rule.takes_turns => queue.fair_queue.next(waiter.caller),
            Some(_) | None => 0,
        };
        waiter.position =
            QueuePosition { priority, turn, arrived: waiter.caller_order.arrived, seq: waiter.caller_order.seq };
        waiter.effective_arrival = effective_arrival(waiter.position, rule.max_wait);
    }

    /// Adds a waiter to its group and to the queues of its windows. Its demands and deadline must
    /// be set. The group is marked for a check if the waiter is its first.
    pub(super) fn enqueue(&mut self, counters: &mut Counters, id: u32) {
        let mut waiter = self.waiters.take(id);
        waiter.caller_order.id = id;
        self.assign_position(counters, &mut waiter);
        if let Some(primary) = waiter.demands.first()
            && waiter.takes_turns
        {
            let turns = &mut counters.table.window_mut(primary.window).queue_or_new().fair_queue;
            waiter.position.turn = if waiter.kind.is_retry() {
                turns.arrive_retry(waiter.caller, primary.cost)
            } else {
                mutant!(turns.arrive(waiter.caller, primary.cost), "callers take no turns", 0)
            };
        }
        // A caller may have made up several keys of one limit: waiting at their windows gains it no reservation.
        let spans_limits = waiter.demands.iter().any(|demand| demand.limit != waiter.demands[0].limit);
        for demand in &waiter.demands {
            let queue = counters.table.window_mut(demand.window).queue_or_new();
            queue.waiting += 1;
            queue.slots += u64::from(demand.cost);
            if spans_limits {
                queue.multi_limit.insert((waiter.caller_order.arrived, waiter.caller_order.seq, id));
            }
            if counters.limits.rules[demand.limit.at()].tracks_callers() {
                queue.callers.join(waiter.caller, waiter.caller_order, demand.cost);
            }
        }
        if let Some(primary) = waiter.demands.first() {
            counters.table.window_mut(primary.window).queue_or_new().callers.add_position(
                waiter.caller,
                waiter.position,
                id,
            );
        }
        waiter.group = self.group_for(&waiter.demands);
        let group = &mut self.groups[waiter.group];
        group.entries.insert(waiter.position, QueueEntry { id, effective_arrival: waiter.effective_arrival });
        for (total, demand) in group.totals.iter_mut().zip(&waiter.demands) {
            *total += u64::from(demand.cost);
        }
        if first(&group.entries).is_some_and(|(_, entry)| entry.id == id) {
            self.dirty.push_back(Dirty::Group(waiter.group));
        }
        self.deadlines.insert((waiter.deadline, id));
        self.waiters.put_back(id, waiter);
    }

    /// The group of waiters that need these windows; created if there is none.
    fn group_for(&mut self, demands: &[WindowDemand]) -> u32 {
        if let Some(group) = self.group_of(demands) {
            return group;
        }
        let windows: SmallVec<[u32; 2]> = demands.iter().map(|demand| demand.window).collect();
        let totals = SmallVec::from_elem(0, windows.len());
        let group = WaiterGroup {
            windows: windows.clone(),
            entries: QueueEntries::new(),
            totals,
            location: Location::Detached,
            asks: StoreAsk::Idle,
        };
        let group = self.groups.insert(group);
        self.by_windows.insert(windows, group);
        group
    }

    /// Removes a waiter from its group and from its windows' queues, and marks the groups and
    /// windows that it blocked for another check. The waiter itself stays in the slab for the
    /// caller to remove.
    pub(super) fn dequeue(&mut self, counters: &mut Counters, id: u32, reason: DequeueReason, now: Time) {
        let is_first = first(&self.groups[self.waiters[id].group].entries).is_some_and(|(_, entry)| entry.id == id);
        if reason == DequeueReason::Left {
            self.leave_place_to_last(&mut counters.table, id);
        }
        let waiter = self.waiters.take(id);
        // A granted waiter is removed by the dispatch of its own group, which checks the next one itself.
        if is_first && reason == DequeueReason::Left {
            if let Location::Queued(window, _) | Location::Deferred(window, _) =
                self.detach(&mut counters.table, waiter.group)
            {
                self.dirty.push_back(Dirty::Window(window));
            }
            self.dirty.push_back(Dirty::Group(waiter.group));
        }
        let group = &mut self.groups[waiter.group];
        group.entries.remove(&waiter.position);
        for (total, demand) in group.totals.iter_mut().zip(&waiter.demands) {
            *total -= u64::from(demand.cost);
        }
        if group.entries.is_empty() {
            let windows = std::mem::take(&mut group.windows);
            counters.sharing.cancel_ask(waiter.group, group.asks);
            self.by_windows.remove(&windows);
            self.groups.remove(waiter.group);
        }
        self.deadlines.remove(&(waiter.deadline, id));
        if let Some(primary) = waiter.demands.first()
            && let Some(queue) = counters.table.window_mut(primary.window).queue_mut()
        {
            queue.callers.remove_position(waiter.caller, waiter.position, id);
            match reason {
                DequeueReason::Granted if waiter.takes_turns => {
                    queue.fair_queue.grant(waiter.caller, waiter.position.turn, primary.cost, waiter.slots);
                }
                DequeueReason::Left if waiter.takes_turns => {
                    queue.fair_queue.leave(waiter.caller, waiter.position.turn, waiter.slots)
                }
                DequeueReason::Granted | DequeueReason::Left => {}
            }
        }
        for demand in &waiter.demands {
            self.leave_window(counters, demand, &waiter, now);
            // A granted waiter has not taken its slots yet.
            if reason == DequeueReason::Left {
                counters.return_unwanted(demand.window, now);
            }
        }
        self.waiters.put_back(id, waiter);
    }

    /// Removes a waiter from the queue of one window. Drops the queue after its last waiter; the
    /// store then gets a report.
    fn leave_window(&mut self, counters: &mut Counters, demand: &WindowDemand, waiter: &Waiter, now: Time) {
        let window = demand.window;
        let (caller, caller_order) = (waiter.caller, waiter.caller_order);
        let found = counters.table.window_mut(window);
        let Some(queue) = found.queue_mut() else { return };
        queue.callers.leave(caller, caller_order);
        let key = (caller_order.arrived, caller_order.seq, caller_order.id);
        let held_reservation = queue.multi_limit.first() == Some(&key);
        queue.multi_limit.remove(&key);
        queue.waiting -= 1;
        queue.slots = queue.slots.saturating_sub(u64::from(demand.cost));
        if queue.waiting == 0 {
            if let Some(at) = queue.wakeup {
                self.wakeups.remove(&(at, window));
            }
            found.drop_queue();
            // The store divides slots by the number of waiters at each gateway.
            if counters.limits.rules[demand.limit.at()].store_managed {
                counters.queue_settle_report(window, now);
            }
        } else if held_reservation && !queue.deferred.is_empty() {
            self.dirty.push_back(Dirty::Window(window));
        }
    }
}

/// Arrival time by which priority classes are compared. Each step of urgency away from the default
/// moves it by an eighth of the maximum wait, so that no class starves another.
fn effective_arrival(position: QueuePosition, max_wait: Duration) -> Time {
    let step = nanos(max_wait.min(MAX_WAIT)) / 8;
    let priority = u64::from(position.priority) * step;
    Time::from_nanos(
        (position.arrived.as_nanos().saturating_add(BEFORE_START + priority))
            .saturating_sub(u64::from(DEFAULT_URGENCY) * step),
    )
}

/// Urgency of requests without a Priority field (RFC 9218 section 4.1).
const DEFAULT_URGENCY: u8 = 3;

/// Offset that keeps the effective arrival of an urgent request soon after the start positive: more
/// than [`DEFAULT_URGENCY`] eighths of the longest wait.
const BEFORE_START: u64 = 1 << 60;

/// Bound of the arithmetic; far longer than any configured wait.
const MAX_WAIT: Duration = Duration::from_secs(366 * 86_400);
