//! Remote requests: those of the process before this one, with windows that are here now. Their
//! events, and their end if that process dies.

use super::Locker;
use super::api::{Grant, Key, LimitId};
use super::forwarded_event::{Event, GrantedSlots};
use super::remote_holdings::Holding;
use crate::time::Time;

impl Locker {
    /// Returns true if an event names only limits that are known here; any other cannot come from
    /// the process before this one.
    pub fn knows_limits_of(&self, event: &Event) -> bool {
        event.is_valid(self.counters.limits.rules.len())
    }

    /// Applies an event of a slot that the other process holds, and dispatches. `Ask` and `Leave`
    /// are ignored: the gate handles them. An event for more slots than the process holds is
    /// ignored.
    pub fn handle_remote(&mut self, event: &Event, now: Time) {
        let now = self.advance(now);
        match *event {
            Event::Settle { limit, key, cost, at } => self.settle_remote(limit, key, cost, at, now),
            Event::GiveBack { limit, key, cost } => {
                let Some(index) = self.take_remote_window(limit, key, cost, 0) else { return };
                self.counters.table.window_mut(index).give_back(&self.counters.limits.rules[limit.at()], cost);
                self.counters.queue_settle_report(index, now);
                self.queue.mark_dirty(&self.counters.table, index);
            }
            Event::Land { limit, key } => {
                let Some(index) = self.take_remote_window(limit, key, 0, 1) else { return };
                self.counters.table.window_mut(index).land(&self.counters.limits.rules[limit.at()]);
                self.counters.queue_settle_report(index, now);
                self.queue.mark_dirty(&self.counters.table, index);
            }
            Event::Pause { limit, key, until } => return self.pause(limit, key, until, now),
            Event::Ask { .. } | Event::Leave(_) => {}
        }
        self.dispatch(now);
    }

    /// Passes a grant to the other process, which reports its end from here on as events. Returns
    /// the slots as plain values, to be sent with the verdict.
    pub fn delegate(&mut self, grant: Grant) -> Vec<GrantedSlots> {
        self.remote_holdings.delegate(&grant, &mut self.counters.table)
    }

    /// Ends all holdings of the other process, which is gone: flights land now, open slots settle
    /// after `linger`, because its requests under way may still reach the origin for a while.
    pub fn remote_lost(&mut self, now: Time) {
        let now = self.advance(now);
        for ((limit, key), Holding { open, flying }) in self.remote_holdings.take_all() {
            let Some(index) = self.counters.table.find(limit, key) else { continue };
            for _ in 0..mutant!(flying, "flights of a dead process never end", 0) {
                self.counters.table.window_mut(index).land(&self.counters.limits.rules[limit.at()]);
            }
            self.counters.queue_settle_report(index, now);
            if open > 0 {
                let linger = self.counters.limits.rules[limit.at()].linger;
                let at = now + mutant!(linger, "requests of a dead process do not linger", Default::default());
                self.settle_at(at, index, self.counters.table.peek(index).generation, open);
            }
            self.queue.mark_dirty(&self.counters.table, index);
        }
        self.dispatch(now);
    }

    /// Settles slots of the other process at `at`, now or later.
    fn settle_remote(&mut self, limit: LimitId, key: Key, cost: u32, at: Time, now: Time) {
        let Some(index) = self.take_remote_window(limit, key, cost, 0) else { return };
        if at > now {
            return self.settle_at(at, index, self.counters.table.peek(index).generation, cost);
        }
        self.counters.table.window_mut(index).settle(&self.counters.limits.rules[limit.at()], cost, at);
        self.counters.queue_settle_report(index, now);
        self.queue.mark_dirty(&self.counters.table, index);
    }

    /// Takes `open` slots and `flying` flights from what the other process holds in a window, and
    /// returns the window's index; `None` if it does not hold that much.
    fn take_remote_window(&mut self, limit: LimitId, key: Key, open: u32, flying: u32) -> Option<u32> {
        self.remote_holdings
            .take(limit, key, Holding { open, flying })
            .then(|| self.counters.table.find(limit, key))
            .flatten()
    }
}
