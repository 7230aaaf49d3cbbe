//! Overflow of a queue: a full queue drops the last waiter of the longest backlog (longest queue
//! drop), so that no caller can fill a queue for the others.

use super::api::{Ask, LimitId, RefusalReason, Sorry, Verdict};
use super::counters::Counters;
use super::limit::Priority;
use super::queue::{Queue, WindowDemand};
use super::window::WindowRule;
use super::window_queue::WindowQueue;
use crate::time::Time;

impl Queue {
    /// Drops the last of each queue that is too long for this newcomer in it; `Err` if that is the newcomer itself.
    ///
    /// # Errors
    /// The limit with a queue full of others that come before it.
    pub(super) fn make_room(&mut self, counters: &mut Counters, id: u32, now: Time) -> Result<(), LimitId> {
        let demands = self.waiters[id].demands.clone();
        // A newcomer that cannot stay itself drops no other.
        if let Some(full) = demands
            .iter()
            .find(|demand| last_of(counters, demand).is_some_and(|last| last.is_none_or(|last| last == id)))
        {
            return Err(full.limit);
        }
        for demand in demands {
            if let Some(Some(last)) = last_of(counters, &demand)
                && last != id
            {
                self.drop_waiter(counters, last, demand.limit, now);
            }
        }
        Ok(())
    }

    /// Refuses a waiter as `QueueFull` at this limit, with the forecast that it had.
    pub(super) fn drop_waiter(&mut self, counters: &mut Counters, id: u32, limit: LimitId, now: Time) {
        let waiter = &self.waiters[id];
        counters.carry_demands(&waiter.demands);
        let forecast = self.forecast(counters, waiter, now);
        let sorry = counters.refuse(forecast, self.refusal_reason(counters, id, RefusalReason::QueueFull), now);
        let ticket = self.ticket(id);
        self.remove_waiter(counters, id, now);
        self.outbox.push(ticket, Verdict::Sorry(Sorry { limit, ..sorry }));
    }
}

/// Returns true if a newcomer takes the place of a waiter in a full queue: of a caller with more in the
/// queue, or of a less urgent one of its own. False for a queue without turns.
pub(super) fn displaces(ask: &Ask<'_>, queue: &WindowQueue, rule: &WindowRule) -> bool {
    let Some((start, caller, last)) = queue.callers.last().filter(|_| rule.takes_turns) else { return false };
    if caller == ask.caller {
        return rule.priority != Priority::None && ask.urgency < last.urgency;
    }
    queue.callers.slots(ask.caller) < start
}

/// The waiter that must be dropped of a queue that is too long: `Some(None)` if all have the same right to stay.
fn last_of(counters: &Counters, demand: &WindowDemand) -> Option<Option<u32>> {
    let rule = &counters.limits.rules[demand.limit.at()];
    let queue = counters.table.queue(demand.window).filter(|queue| queue.waiting > rule.max_waiting)?;
    Some(queue.callers.last().filter(|_| rule.takes_turns).map(|(.., caller_order)| caller_order.id))
}
