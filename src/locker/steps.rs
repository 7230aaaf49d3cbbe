//! Steps of the locker: what happens by itself as time goes on, in pieces of a bounded length.

use std::cmp::Reverse;

use super::Locker;
use super::api::LimitId;
use crate::time::Time;

/// The due time of work that was left by the last step.
const UNFINISHED: Time = Time::START;

impl Locker {
    /// Time at which `handle_timeout` must be called next, if nothing else happens. One that is not
    /// after the present means that work is left from the last call.
    pub fn poll_timeout(&self) -> Option<Time> {
        let sweeps = if self.counters.table.live() > 0 { self.counters.next_sweep } else { Time::NEVER };
        let late = self.late_settles.peek().map_or(Time::NEVER, |Reverse(late)| late.at);
        // An exchange that is due already is the gate's to see to.
        let sync = Some(self.counters.sharing.due()).filter(|due| *due > self.last).unwrap_or(Time::NEVER);
        // A slice at a time, as fast as there is nothing else to do.
        let unfinished = if self.is_unfinished() { self.last } else { Time::NEVER };
        let next = sweeps.min(late).min(self.queue.due()).min(sync).min(unfinished);
        (next < Time::NEVER).then_some(next)
    }

    /// Does what is due at `now`, or as much of it as one step may.
    pub fn handle_timeout(&mut self, now: Time) {
        let now = self.advance(now);
        if self.due == UNFINISHED {
            self.process_due(now);
        }
        if now >= self.counters.next_sweep {
            self.counters.sweep(now);
        }
        if self.queue.has_review(&self.counters) {
            self.review_limits(&[], now);
        }
        self.counters.carry_some(&mut self.queue.budget);
        self.queue.free_some();
    }

    /// True if the last step ended before its work did.
    fn is_unfinished(&self) -> bool {
        let is_behind = self.queue.is_unfinished() || self.queue.has_review(&self.counters);
        is_behind || self.counters.table.changes.is_pending() || self.queue.has_vacated()
    }

    /// Begins a step: moves on to `now` and does what was due before it.
    #[inline]
    pub(super) fn advance(&mut self, now: Time) -> Time {
        let now = mutant!(now.max(self.last), "time goes back", now);
        let before = std::mem::replace(&mut self.last, now);
        self.queue.budget.refill();
        // Many calls of one moment may be made under one lock: they do not go on with what is left each time.
        if now >= self.due && (self.due > UNFINISHED || now > before) {
            self.process_due(now);
        }
        now
    }

    /// Does all that is due: periods, late settles, wakeups, and deadlines, in this order.
    fn process_due(&mut self, now: Time) {
        if now >= self.next_roll {
            for id in self.counters.limits.roll(&self.wall, now) {
                self.queue.review.add(id);
            }
            self.next_roll = self.counters.limits.next_roll();
        }
        self.settle_due(now);
        self.queue.fire_wakeups(&mut self.counters.table, now);
        self.serve_waiters(now);
    }

    /// Grants waiters that may go, and refuses those past their deadline.
    pub(super) fn serve_waiters(&mut self, now: Time) {
        self.queue.requeue_some(&mut self.counters, now);
        self.queue.dispatch(&mut self.counters, now);
        self.queue.end_extensions(&mut self.counters, now);
        self.queue.expire_deadlines(&mut self.counters, now);
        self.dispatch(now);
    }

    /// Does all work that has come up, and notes when something is due next.
    pub(super) fn dispatch(&mut self, now: Time) {
        self.queue.dispatch(&mut self.counters, now);
        self.update_due();
    }

    /// Goes on with the review of waiters, of these limits too.
    pub(super) fn review_limits(&mut self, limits: &[LimitId], now: Time) {
        for id in limits {
            self.queue.review.add(*id);
        }
        self.queue.review_some(&mut self.counters, now);
        self.update_due();
    }

    /// Notes when something is due next.
    pub(super) fn update_due(&mut self) {
        let late = self.late_settles.peek().map_or(Time::NEVER, |Reverse(late)| late.at);
        let unfinished = if self.queue.is_unfinished() { UNFINISHED } else { Time::NEVER };
        self.due = self.next_roll.min(late).min(self.queue.due()).min(unfinished);
    }
}
