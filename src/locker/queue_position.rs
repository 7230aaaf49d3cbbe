//! Positions in a queue, and the entries at them.

use std::collections::BTreeMap;

use crate::time::Time;

/// A place in the order: class, then turn, then arrival. It is that of a waiter's arrival, unless the waiter has changed places
/// with another of its caller's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct QueuePosition {
    /// RFC 9218 urgency, 0 first, where everybody's is compared; else the same for all.
    pub(super) priority: u8,
    /// Its turn among callers.
    pub(super) turn: u64,
    pub(super) arrived: Time,
    /// Unique.
    pub(super) seq: u64,
}

/// Who is at a place, and how the place ages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct QueueEntry {
    /// A lane in a window's line, a waiter in a lane.
    pub(super) id: u32,
    /// When it arrived, put off by its urgency's share of the patience. Classes compare by this: a
    /// more urgent one goes first, but nothing that has waited long enough stays behind.
    pub(super) effective_arrival: Time,
}

/// Seats in order of their places.
pub(super) type QueueEntries = BTreeMap<QueuePosition, QueueEntry>;

/// The next in order: the first of each class, and of these the one that aged most.
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
