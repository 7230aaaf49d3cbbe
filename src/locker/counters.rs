//! Counters: the limits and their windows, with what the disk and the store must be told of them.

use super::api::{Key, LimitId};
use super::limit_table::LimitTable;
use super::persistence::WriteQueue;
use super::queue::WindowDemand;
use super::sharing::Sharing;
use super::window_table::WindowTable;
use crate::time::Time;

/// All that is counted.
///
/// Owns the limits with their rules, the windows of their keys, and the two work lists of what has changed in windows: for
/// the journal and for the store of shared limits. Promises that a slot is taken or given back in all places at once. Does
/// not know the waiters, but for the line that each window has.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) limits: LimitTable,
    pub(super) table: WindowTable,
    pub(super) write_queue: WriteQueue,
    pub(super) sharing: Sharing,
    /// Time of the next slice of the sweep, if any window is alive.
    pub(super) next_sweep: Time,
}

impl Counters {
    /// Counters of no limits. `bits`: room for windows is made in chunks of this size, as a power of two.
    pub(super) fn new(bits: u32) -> Counters {
        Counters {
            limits: LimitTable::default(),
            table: WindowTable::new(bits),
            write_queue: WriteQueue::default(),
            sharing: Sharing::new(),
            next_sweep: Time::START,
        }
    }

    /// Gives a key its window.
    pub(super) fn create_window(&mut self, limit: LimitId, key: Key, now: Time) -> u32 {
        if self.table.live() == 0 {
            self.next_sweep = now + self.slice_interval();
        }
        self.table.create(&mut self.limits.rules, limit, key, now)
    }

    /// More of a window must be written down.
    pub(super) fn request_write(&mut self, index: u32) {
        self.write_queue.request_write(&self.limits, &mut self.table, index);
    }

    /// A window is held back by something else than its slots, or no longer: that must be written down.
    pub(super) fn request_rewrite(&mut self, index: u32) {
        self.write_queue.request_rewrite(&self.limits, &mut self.table, index);
    }

    /// Has the store told soon of what has happened in a window, if its limit is shared.
    pub(super) fn queue_settle_report(&mut self, index: u32, now: Time) {
        self.sharing.queue_settle_report(&self.limits, &mut self.table, index, now);
    }

    /// Slots that the store has granted and no request waits for are given back at once, if they keep others back.
    pub(super) fn return_unwanted(&mut self, index: u32, now: Time) {
        self.sharing.return_unwanted(&self.limits, &mut self.table, index, now);
    }

    /// Returns true if a window keeps a waiter back only until something of it is written down, or granted by the store.
    pub(super) fn awaits_io(&self, demand: &WindowDemand, now: Time) -> bool {
        let rule = &self.limits.rules[demand.limit.at()];
        self.table.window(demand.window).awaits_io(rule, demand.cost, now)
    }
}
