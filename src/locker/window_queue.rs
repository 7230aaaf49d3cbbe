//! Who waits at one window: lanes in the order in which they may take its slots.

use std::collections::{BTreeMap, BTreeSet};

use super::caller_backlogs::CallerBacklogs;
use super::fair_queue::FairQueue;
use crate::time::Time;

/// A place in the order: class, then turn, then arrival. It is that of a waiter's arrival, unless the waiter has changed places
/// with another of its caller's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct QueuePosition {
    /// RFC 9218 urgency, 0 first, where everybody's is compared; else the same for all.
    pub(super) class: u8,
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
    pub(super) who: u32,
    /// When it arrived, put off by its urgency's share of the patience. Classes compare by this: a
    /// more urgent one goes first, but nothing that has waited long enough stays behind.
    pub(super) aged: Time,
}

/// Seats in order of their places.
pub(super) type QueueEntries = BTreeMap<QueuePosition, QueueEntry>;

/// The next in order: the first of each class, and of these the one that aged most.
pub(super) fn first(seats: &QueueEntries) -> Option<(QueuePosition, QueueEntry)> {
    let mut best: Option<(QueuePosition, QueueEntry)> = None;
    let mut rest = seats.range(..);
    while let Some((&place, &seat)) = rest.next() {
        if best.is_none_or(|(_, known)| seat.aged < known.aged) {
            best = Some((place, seat));
        }
        let Some(class) = place.class.checked_add(1) else { break };
        rest = seats.range(QueuePosition { class, turn: 0, arrived: Time::START, seq: 0 }..);
    }
    best
}

#[derive(Debug, Default)]
struct PrimaryOrder {
    seats: QueueEntries,
    /// How the group stands in the order of groups.
    rank: Option<(Time, u64)>,
}

/// The lanes that wait for one window. Lanes of one home take turns by their places; between homes,
/// whose turns do not compare, the one that waits longer goes first.
#[derive(Debug, Default)]
pub(super) struct GroupQueue {
    groups: BTreeMap<u32, PrimaryOrder>,
    order: BTreeSet<(Time, u64, u32)>,
}

impl GroupQueue {
    pub(super) fn insert(&mut self, home: u32, place: QueuePosition, seat: QueueEntry) {
        self.groups.entry(home).or_default().seats.insert(place, seat);
        self.rank(home);
    }

    pub(super) fn remove(&mut self, home: u32, place: QueuePosition) {
        if let Some(group) = self.groups.get_mut(&home) {
            group.seats.remove(&place);
            self.rank(home);
        }
    }

    /// The lane whose turn it is, and how it aged.
    pub(super) fn first(&self) -> Option<(QueuePosition, QueueEntry)> {
        let (_, _, home) = self.order.first()?;
        first(&self.groups.get(home)?.seats)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn rank(&mut self, home: u32) {
        let Some(group) = self.groups.get_mut(&home) else { return };
        let rank = first(&group.seats).map(|(place, seat)| (seat.aged, place.seq));
        if rank == group.rank {
            return;
        }
        if let Some((aged, seq)) = std::mem::replace(&mut group.rank, rank) {
            self.order.remove(&(aged, seq, home));
        }
        match rank {
            Some((aged, seq)) => {
                self.order.insert((aged, seq, home));
            }
            None => {
                self.groups.remove(&home);
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
    pub(super) line: GroupQueue,
    /// Lanes that would make this window's claimant later. They keep nobody else back.
    pub(super) held: GroupQueue,
    /// The waiters that need windows of other limits too, oldest first: the first is the claimant.
    pub(super) claimants: BTreeSet<(Time, u64, u32)>,
    /// What each caller has in line, if the limit looks at callers.
    pub(super) callers: CallerBacklogs,
    /// The turns of the callers whose home this is.
    pub(super) turns: FairQueue,
    /// When the line is looked at next; `None`: when something happens.
    pub(super) armed: Option<Time>,
}
