//! Counters: the limits and their windows, with the work lists of the journal and the store.

use super::api::{Key, LimitId};
use super::limit_table::LimitTable;
use super::persistence::WriteQueue;
use super::queue::WindowDemand;
use super::sharing::Sharing;
use super::step_budget::StepBudget;
use super::window_lists::ListCursor;
use super::window_table::WindowTable;
use crate::time::Time;

/// All that is counted.
///
/// Owns the limits with their rules, the windows of their keys, and the two work lists of what has
/// changed in windows: for the journal and for the store of shared limits. Promises that a slot is
/// taken or given back in all places at once. Does not know the waiters, but for the queue that
/// each window has.
#[derive(Debug)]
pub(super) struct Counters {
    /// Limits and their rules, by `LimitId`.
    pub(super) limits: LimitTable,
    /// Windows of all limits, by limit and key, and by index.
    pub(super) table: WindowTable,
    /// Windows and limits that the journal must write.
    pub(super) write_queue: WriteQueue,
    /// Windows and groups for the next exchange with the store.
    pub(super) sharing: Sharing,
    /// Time of the next slice of the sweep, if any window is alive.
    pub(super) next_sweep: Time,
}

impl Counters {
    /// Counters of no limits. `bits`: room for windows is made in chunks of this size, as a power
    /// of two.
    pub(super) fn new(bits: u32) -> Counters {
        Counters {
            limits: LimitTable::default(),
            table: WindowTable::new(bits),
            write_queue: WriteQueue::default(),
            sharing: Sharing::new(),
            next_sweep: Time::START,
        }
    }

    /// Creates the window of a key that has none, and returns its index. The first window of a
    /// table without any starts the sweep. The caller has checked `max_keys`.
    pub(super) fn create_window(&mut self, limit: LimitId, key: Key, now: Time) -> u32 {
        if self.table.live() == 0 {
            self.next_sweep = now + self.slice_interval();
        }
        self.table.create(&mut self.limits.rules, limit, key, now)
    }

    /// Carries the windows of a waiter over to the present rules of their limits.
    #[inline]
    pub(super) fn carry_demands(&mut self, demands: &[WindowDemand]) {
        if self.table.changes.is_pending() {
            demands.iter().for_each(|demand| self.table.carry(demand.window));
        }
    }

    /// Queues the window for the journal, as more of it must be written down. See `WriteQueue`.
    pub(super) fn request_write(&mut self, index: u32) {
        self.write_queue.request_write(&self.limits, &mut self.table, index);
    }

    /// Queues a window for the journal after its pause changed: the pause is not in its slots, and
    /// must be written down too.
    pub(super) fn request_rewrite(&mut self, index: u32) {
        self.write_queue.request_rewrite(&self.limits, &mut self.table, index);
    }

    /// Queues a report of a change in a window to the store, if its limit is shared.
    pub(super) fn queue_settle_report(&mut self, index: u32, now: Time) {
        self.sharing.queue_settle_report(&self.limits, &mut self.table, index, now);
    }

    /// Returns slots granted by the store for which no request waits, if they delay other gateways.
    /// See `Sharing::return_unwanted`.
    pub(super) fn return_unwanted(&mut self, index: u32, now: Time) {
        self.sharing.return_unwanted(&self.limits, &mut self.table, index, now);
    }

    /// Returns true if a window keeps a waiter back only until something of it is written down, or
    /// granted by the store.
    pub(super) fn awaits_io(&self, demand: &WindowDemand, now: Time) -> bool {
        let rule = &self.limits.rules[demand.limit.at()];
        self.table.window(demand.window).awaits_io(rule, demand.cost, now)
    }
}

impl Counters {
    /// Carries over the next windows that nothing has touched since their limits changed.
    pub(super) fn carry_some(&mut self, budget: &mut StepBudget) {
        while !budget.is_spent()
            && let Some(limit) = self.table.changes.walked()
        {
            budget.spend(1);
            let next = self.table.lists.step(ListCursor::RuleChanges);
            match mutant!(next, "rule changes are forgotten too early", None) {
                Some(index) => self.table.carry(index),
                None => {
                    self.table.changes.end_walk(limit);
                    self.begin_walk();
                }
            }
        }
    }

    /// Begins the walk through the windows of the first limit that has changed.
    pub(super) fn begin_walk(&mut self) {
        if let Some(limit) = self.table.changes.begin_walk() {
            self.table.lists.begin(ListCursor::RuleChanges, limit);
        }
    }
}
