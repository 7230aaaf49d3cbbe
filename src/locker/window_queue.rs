//! Wait queue of one window: waiter groups in the order in which they may take its slots.

use std::collections::{BTreeMap, BTreeSet};

use super::caller_backlogs::CallerBacklogs;
use super::fair_queue::FairQueue;
use super::queue_position::{QueueEntries, QueueEntry, QueuePosition, first};
use crate::time::Time;

/// Groups with the same primary window: their positions compare.
#[derive(Debug, Default)]
struct SamePrimary {
    /// Groups by their position.
    entries: QueueEntries,
    /// Key of this entry in `GroupQueue::order`: effective arrival and sequence number of its first
    /// group.
    order_key: Option<(Time, u64)>,
}

/// Waiter groups that wait for one window. Groups with the same primary window are ordered by their
/// positions. Positions of different primary windows do not compare; between these, the group that
/// has waited longer goes first.
#[derive(Debug, Default)]
pub(super) struct GroupQueue {
    /// Groups by the index of their primary window.
    by_primary: BTreeMap<u32, SamePrimary>,
    /// Primary windows, ordered by the effective arrival of their first group.
    order: BTreeSet<(Time, u64, u32)>,
}

impl GroupQueue {
    /// Adds a group with its first waiter's position.
    ///
    /// `primary`: index of the group's primary window.
    pub(super) fn insert(&mut self, primary: u32, position: QueuePosition, entry: QueueEntry) {
        self.by_primary.entry(primary).or_default().entries.insert(position, entry);
        self.update_order(primary);
    }

    /// Removes the group at a position.
    pub(super) fn remove(&mut self, primary: u32, position: QueuePosition) {
        if let Some(same) = self.by_primary.get_mut(&primary) {
            same.entries.remove(&position);
            self.update_order(primary);
        }
    }

    /// Position and entry of the group that is next.
    pub(super) fn first(&self) -> Option<(QueuePosition, QueueEntry)> {
        let (_, _, primary) = self.order.first()?;
        first(&self.by_primary.get(primary)?.entries)
    }

    /// True if no group waits here.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Updates the order after the groups of one primary window have changed.
    ///
    /// Keeps `order` and `SamePrimary::order_key` equal; an entry without groups is removed.
    fn update_order(&mut self, primary: u32) {
        let Some(same) = self.by_primary.get_mut(&primary) else { return };
        let order_key = first(&same.entries).map(|(position, entry)| (entry.effective_arrival, position.seq));
        if order_key == same.order_key {
            return;
        }
        if let Some((effective_arrival, seq)) = std::mem::replace(&mut same.order_key, order_key) {
            self.order.remove(&(effective_arrival, seq, primary));
        }
        match order_key {
            Some((effective_arrival, seq)) => {
                self.order.insert((effective_arrival, seq, primary));
            }
            None => {
                self.by_primary.remove(&primary);
            }
        }
    }
}

/// All waiters that need one window.
///
/// Exists only while the window has waiters: an idle window costs no queue.
#[derive(Debug, Default)]
pub(super) struct WindowQueue {
    /// Number of waiters that need this window.
    pub(super) waiting: usize,
    /// Number of slots that they need.
    pub(super) slots: u64,
    /// Groups that this window blocks, or that come after a blocked one.
    pub(super) queued: GroupQueue,
    /// Groups that would delay the holder of this window's reservation. They block no other group.
    pub(super) deferred: GroupQueue,
    /// Waiters that also need windows of other limits, oldest first: arrival, sequence number,
    /// index. The first one holds the reservation: younger waiters must not delay it.
    pub(super) multi_limit: BTreeSet<(Time, u64, u32)>,
    /// Backlog of each caller, if the limit distinguishes callers.
    pub(super) callers: CallerBacklogs,
    /// Turns of the callers of waiters that have this as their primary window.
    pub(super) fair_queue: FairQueue,
    /// Time of the next check of the queue; `None` if only an event can change anything.
    pub(super) wakeup: Option<Time>,
}
