//! The end of a grant: its slots settle or are given back, and its flight lands.

use std::cmp::Reverse;

use super::Locker;
use super::api::{Grant, SettlePoint};
use crate::time::Time;

/// Most slots that settle by themselves in one step. A bound of its own, not the budget's: one that settles late settles
/// behind what has settled meanwhile, and holds its slots a little longer.
const MAX_PER_STEP: u32 = 512;

/// Slots that settle by themselves: of a failed attempt, which the origin may still count for a while.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LateSettle {
    /// Time at which they settle.
    pub(super) at: Time,
    /// Index of their window, valid while the window there has `generation`.
    pub(super) window: u32,
    /// Generation of the window at the grant; another one means that the window is gone.
    pub(super) generation: u32,
    /// Number of slots.
    pub(super) cost: u32,
}

impl Locker {
    /// Settles the slots of a granted request that reached `point`. Each slot settles once; a later
    /// call skips it. `Sent` settles only slots of limits that count from the sending, not those
    /// that count from the answer. `Failed` settles the rest after the `linger` time of the limit,
    /// because the origin may still count them.
    pub fn settle(&mut self, grant: &mut Grant, point: SettlePoint, now: Time) {
        let now = self.advance(now);
        let mut dirty = false;
        for held in &mut grant.held {
            let waits_for_answer = mutant!(held.answered, "an answered slot settles at the sending", false);
            if held.settled || (point == SettlePoint::Sent && waits_for_answer) {
                continue;
            }
            held.settled = true;
            let rule = &self.counters.limits.rules[held.limit.at()];
            if point == SettlePoint::Failed {
                let at = now + mutant!(rule.linger, "a failed attempt does not linger", Default::default());
                self.settle_at(at, held.window, held.generation, held.cost);
                continue;
            }
            let Some(window) = self.counters.table.current(held.window, held.generation) else { continue };
            window.settle(rule, held.cost, now);
            mutant!("a flight ends with the head", {
                window.land(rule);
                held.flying = false;
            });
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

    /// Gives a grant back of which nothing was sent: every slot not yet settled opens at once, and
    /// `in_flight` ends. Waiters are dispatched.
    pub fn give_back(&mut self, grant: Grant, now: Time) {
        let now = self.advance(now);
        for held in &grant.held {
            let Some(window) = self.counters.table.current(held.window, held.generation) else { continue };
            if mutant!(!held.settled, "slots go back after bytes have left", true) {
                window.give_back(&self.counters.limits.rules[held.limit.at()], held.cost);
            }
        }
        self.land(&grant, now);
    }

    /// Ends a grant after the last byte of the response: `in_flight` ends. Slots not yet settled
    /// settle as failed.
    pub fn finish(&mut self, mut grant: Grant, now: Time) {
        self.settle(&mut grant, SettlePoint::Failed, now);
        self.land(&grant, self.last);
    }

    /// Lands the flights of a grant, and dispatches if a queue waits at one of its windows.
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

    /// Schedules taken slots of a window to settle at a time ahead. The locker's timeout moves to
    /// that time if it is earlier.
    pub(super) fn settle_at(&mut self, at: Time, window: u32, generation: u32, cost: u32) {
        self.late_settles.push(Reverse(LateSettle { at, window, generation, cost }));
        self.due = self.due.min(at);
    }

    /// Settles the slots that are due, with their own time, not `now`; at most [`MAX_PER_STEP`], and
    /// the others in the next step, a little later than their windows need. Called once time has
    /// passed `due`; the caller dispatches.
    pub(super) fn settle_due(&mut self, now: Time) {
        for _ in 0..MAX_PER_STEP {
            let due = self.late_settles.peek().copied().filter(|Reverse(late)| late.at <= now);
            let Some(Reverse(LateSettle { at, window, generation, cost })) = due else { return };
            self.queue.budget.spend(1);
            self.late_settles.pop();
            // A window keeps its place until all its slots have settled; a mistake there must not free another's.
            let Some(settles) = self.counters.table.current(window, generation) else { continue };
            let rule = &self.counters.limits.rules[settles.limit.at()];
            settles.settle(rule, cost, mutant!(at, "a late settle counts from the failure", at - rule.linger));
            self.counters.queue_settle_report(window, now);
            self.queue.mark_dirty(&self.counters.table, window);
        }
    }
}
