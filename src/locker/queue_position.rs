//! Queue positions: the order of waiters in a group, and of groups in a window's queue.

use std::collections::BTreeMap;

use crate::time::Time;

/// Position in a queue: by priority class, then turn, then arrival. It is assigned to a waiter on
/// its arrival, but may be exchanged with another waiter of the same caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct QueuePosition {
    /// Priority class: RFC 9218 urgency, 0 first, if the limit compares all callers' requests; else
    /// the same for all.
    pub(super) priority: u8,
    /// Turn of the caller, see [`super::fair_queue`].
    pub(super) turn: u64,
    /// Time of arrival.
    pub(super) arrived: Time,
    /// Sequence number; unique.
    pub(super) seq: u64,
}

/// Entry at a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct QueueEntry {
    /// Index of the group in a window's queue, or of the waiter in a group.
    pub(super) id: u32,
    /// Arrival, moved by the priority class's share of the maximum wait. The first of each class
    /// compare by this: a more urgent one goes first, but nothing that has waited long enough stays
    /// behind.
    pub(super) effective_arrival: Time,
}

/// Entries ordered by position.
pub(super) type QueueEntries = BTreeMap<QueuePosition, QueueEntry>;

/// The next entry: among the first of each priority class, the one with the earliest effective
/// arrival.
pub(super) fn first(entries: &QueueEntries) -> Option<(QueuePosition, QueueEntry)> {
    let mut best: Option<(QueuePosition, QueueEntry)> = None;
    let mut rest = entries.range(..);
    while let Some((&position, &entry)) = rest.next() {
        if best.is_none_or(|(_, known)| entry.effective_arrival < known.effective_arrival) {
            best = Some((position, entry));
        }
        let Some(priority) = position.priority.checked_add(1) else { break };
        rest = entries.range(QueuePosition { priority, turn: 0, arrived: Time::START, seq: 0 }..);
    }
    best
}
