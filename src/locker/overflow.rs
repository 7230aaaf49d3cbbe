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
    pub(super) fn displaces(&self, ask: &Ask<'_>, waits: &WindowQueue, rule: &WindowRule) -> bool {
        let Some((start, caller, last)) = waits.callers.last().filter(|_| rule.turns) else { return false };
        if caller == ask.caller {
            return rule.priority != Priority::None && ask.urgency < last.urgency;
        }
        waits.callers.slots(ask.caller) < start
    }

    /// Drops the last of each line that is too long for this newcomer in it; `Err` if that is the newcomer itself.
    ///
    /// # Errors
    /// The limit whose line is full of others that come before it.
    pub(super) fn make_room(&mut self, id: u32, now: Time) -> Result<(), LimitId> {
        let wants = self.queue.waiters[id].wants.clone();
        // Nobody is dropped for one that cannot stay itself.
        if let Some(full) =
            wants.iter().find(|want| self.last_of(want).is_some_and(|last| last.is_none_or(|last| last == id)))
        {
            return Err(full.limit);
        }
        for want in wants {
            if let Some(Some(last)) = self.last_of(&want)
                && last != id
            {
                self.drop_waiter(last, want.limit, now);
            }
        }
        Ok(())
    }

    /// The waiter that is to be dropped of a line that is too long: `Some(None)` if everybody has the same right to stay.
    fn last_of(&self, want: &WindowDemand) -> Option<Option<u32>> {
        let rule = &self.rules[want.limit.at()];
        let waits = self.table.waits(want.window).filter(|waits| waits.waiting > rule.max_waiting)?;
        Some(waits.callers.last().filter(|_| rule.turns).map(|(.., own)| own.id))
    }

    fn drop_waiter(&mut self, id: u32, limit: LimitId, now: Time) {
        let waiter = &self.queue.waiters[id];
        let sorry = self.forecast(waiter, now).sorry(self.why(id, RefusalReason::QueueFull), now);
        let ticket = self.queue.ticket(id);
        self.part(id);
        self.outbox.push_back((ticket, Verdict::Sorry(Sorry { limit, ..sorry })));
    }
}
