//! Overflow of a queue: where as many wait as may, the last of the longest backlog is dropped (longest queue drop), so that
//! no caller can fill a line for the others.

use super::Locker;
use super::api::{Ask, LimitId, RefusalReason, Sorry, Verdict};
use super::limit::Priority;
use super::queue::WindowDemand;
use super::window::WindowRule;
use super::window_queue::WindowQueue;
use crate::time::Time;

impl Locker {
    /// Whether a newcomer takes the place of another where as many wait as may: of a caller with more in line, or of a less
    /// urgent one of its own.
    pub(super) fn displaces(&self, ask: &Ask<'_>, queue: &WindowQueue, rule: &WindowRule) -> bool {
        let Some((start, caller, last)) = queue.callers.last().filter(|_| rule.takes_turns) else { return false };
        if caller == ask.caller {
            return rule.priority != Priority::None && ask.urgency < last.urgency;
        }
        queue.callers.slots(ask.caller) < start
    }

    /// Drops the last of each line that is too long for this newcomer in it; `Err` if that is the newcomer itself.
    ///
    /// # Errors
    /// The limit whose line is full of others that come before it.
    pub(super) fn make_room(&mut self, id: u32, now: Time) -> Result<(), LimitId> {
        let demands = self.queue.waiters[id].demands.clone();
        // Nobody is dropped for one that cannot stay itself.
        if let Some(full) =
            demands.iter().find(|demand| self.last_of(demand).is_some_and(|last| last.is_none_or(|last| last == id)))
        {
            return Err(full.limit);
        }
        for demand in demands {
            if let Some(Some(last)) = self.last_of(&demand)
                && last != id
            {
                self.drop_waiter(last, demand.limit, now);
            }
        }
        Ok(())
    }

    /// The waiter that is to be dropped of a line that is too long: `Some(None)` if everybody has the same right to stay.
    fn last_of(&self, demand: &WindowDemand) -> Option<Option<u32>> {
        let rule = &self.limits.rules[demand.limit.at()];
        let queue = self.table.queue(demand.window).filter(|queue| queue.waiting > rule.max_waiting)?;
        Some(queue.callers.last().filter(|_| rule.takes_turns).map(|(.., caller_order)| caller_order.id))
    }

    fn drop_waiter(&mut self, id: u32, limit: LimitId, now: Time) {
        let waiter = &self.queue.waiters[id];
        let sorry = self.forecast(waiter, now).to_sorry(self.refusal_reason(id, RefusalReason::QueueFull), now);
        let ticket = self.queue.ticket(id);
        self.remove_waiter(id);
        self.outbox.push(ticket, Verdict::Sorry(Sorry { limit, ..sorry }));
    }
}
