//! The end of a grant: its slots settle or are given back, and its flight lands.

use std::cmp::Reverse;

use super::Locker;
use super::api::{Grant, SettlePoint};
use crate::time::Time;

/// Slots that settle by themselves: of a failed attempt, which the origin may still count for a while.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LateSettle {
    /// When they settle.
    pub(super) at: Time,
    /// Where, as long as the window there has this generation.
    pub(super) window: u32,
    pub(super) generation: u32,
    /// How many.
    pub(super) cost: u32,
}

impl Locker {
    /// Says how far a granted request has come. Each slot settles once; what is said again is ignored.
    pub fn settle(&mut self, grant: &mut Grant, point: SettlePoint, now: Time) {
        let now = self.advance(now);
        let mut dirty = false;
        for held in &mut grant.held {
            if held.settled || (point == SettlePoint::Sent && held.answered) {
                continue;
            }
            held.settled = true;
            let rule = &self.counters.limits.rules[held.limit.at()];
            if point == SettlePoint::Failed {
                let at = now + rule.linger;
                self.settle_at(at, held.window, held.generation, held.cost);
                continue;
            }
            let Some(window) = self.counters.table.current(held.window, held.generation) else { continue };
            window.settle(rule, held.cost, now);
            let shared = rule.shared;
            if window.queue().is_some() {
                self.queue.mark_dirty(&self.counters.table, held.window);
                dirty = true;
            }
            if shared {
                self.counters.queue_settle_report(held.window, now);
            }
        }
        if dirty {
            self.dispatch(now);
        }
    }

    /// Nothing of the request left: every slot not yet settled opens at once, in_flight ends.
    pub fn give_back(&mut self, mut grant: Grant, now: Time) {
        let now = self.advance(now);
        for held in &mut grant.held {
            let Some(window) = self.counters.table.current(held.window, held.generation) else { continue };
            if !held.settled {
                window.give_back(&self.counters.limits.rules[held.limit.at()], held.cost);
            }
            held.settled = true;
        }
        self.land(&grant, now);
    }

    /// The response's last byte is gone: in_flight ends. What is not settled settles as failed.
    pub fn finish(&mut self, mut grant: Grant, now: Time) {
        self.settle(&mut grant, SettlePoint::Failed, now);
        self.land(&grant, self.last);
    }

    fn land(&mut self, grant: &Grant, now: Time) {
        let mut dirty = false;
        for held in &grant.held {
            let Some(window) = self.counters.table.current(held.window, held.generation) else { continue };
            if held.flying {
                window.land(&self.counters.limits.rules[held.limit.at()]);
            }
            if window.queue().is_some() {
                self.queue.mark_dirty(&self.counters.table, held.window);
                dirty = true;
            }
            self.counters.queue_settle_report(held.window, now);
        }
        if dirty {
            self.dispatch(now);
        }
    }

    /// Taken slots of a window settle at a moment that lies ahead.
    pub(super) fn settle_at(&mut self, at: Time, window: u32, generation: u32, cost: u32) {
        self.late_settles.push(Reverse(LateSettle { at, window, generation, cost }));
        self.due = self.due.min(at);
    }

    /// Settles the slots whose moment has come.
    pub(super) fn settle_due(&mut self, now: Time) {
        while let Some(&Reverse(LateSettle { at, window, generation, cost })) = self.late_settles.peek()
            && at <= now
        {
            self.late_settles.pop();
            // A window keeps its place until all its slots have settled; a mistake there must not free another's.
            let Some(settles) = self.counters.table.current(window, generation) else { continue };
            settles.settle(&self.counters.limits.rules[settles.limit.at()], cost, at);
            self.counters.queue_settle_report(window, now);
            self.queue.mark_dirty(&self.counters.table, window);
        }
    }
}
