//! Who waits at one window: lanes in the order in which they may take its slots.

use std::collections::{BTreeMap, BTreeSet};

use super::caller_backlogs::CallerBacklogs;
use super::fair_queue::FairQueue;
use super::queue_position::{QueueEntries, QueueEntry, QueuePosition, first};
use crate::time::Time;

#[derive(Debug, Default)]
struct SamePrimary {
    entries: QueueEntries,
    /// How the group stands in the order of groups.
    order_key: Option<(Time, u64)>,
}

/// The lanes that wait for one window. Lanes of one home take turns by their places; between homes,
/// whose turns do not compare, the one that waits longer goes first.
#[derive(Debug, Default)]
pub(super) struct GroupQueue {
    by_primary: BTreeMap<u32, SamePrimary>,
    order: BTreeSet<(Time, u64, u32)>,
}

impl GroupQueue {
    pub(super) fn insert(&mut self, primary: u32, position: QueuePosition, entry: QueueEntry) {
        self.by_primary.entry(primary).or_default().entries.insert(position, entry);
        self.update_order(primary);
    }

    pub(super) fn remove(&mut self, primary: u32, position: QueuePosition) {
        if let Some(same) = self.by_primary.get_mut(&primary) {
            same.entries.remove(&position);
            self.update_order(primary);
        }
    }

    /// The lane whose turn it is, and how it aged.
    pub(super) fn first(&self) -> Option<(QueuePosition, QueueEntry)> {
        let (_, _, primary) = self.order.first()?;
        first(&self.by_primary.get(primary)?.entries)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

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

/// Everything about the waiters that need one window.
#[derive(Debug, Default)]
pub(super) struct WindowQueue {
    /// How many waiters need this window.
    pub(super) waiting: usize,
    /// How many slots they need.
    pub(super) slots: u64,
    /// Lanes that this window keeps back, or that come after one that it keeps back.
    pub(super) queued: GroupQueue,
    /// Lanes that would make this window's claimant later. They keep nobody else back.
    pub(super) deferred: GroupQueue,
    /// The waiters that need windows of other limits too, oldest first: the first is the claimant.
    pub(super) multi_limit: BTreeSet<(Time, u64, u32)>,
    /// What each caller has in line, if the limit looks at callers.
    pub(super) callers: CallerBacklogs,
    /// The turns of the callers whose home this is.
    pub(super) fair_queue: FairQueue,
    /// When the line is looked at next; `None`: when something happens.
    pub(super) wakeup: Option<Time>,
}
