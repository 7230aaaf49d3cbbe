//! Waiters and their lanes: who waits, for what, until when, and in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smallvec::SmallVec;

use super::api::{AskKind, Caller, Claim, LimitId, Ticket};
use super::caller_backlogs::CallerOrder;
use super::queue_position::{QueueEntries, QueuePosition};
use super::slab::Slab;
use crate::time::Time;

/// What a waiter must be granted in one window.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowDemand {
    pub(super) window: u32,
    pub(super) limit: LimitId,
    pub(super) cost: u32,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) claims: SmallVec<[Claim; 2]>,
    /// The windows of all claims but those of dry-run limits; the first is its home, see `choose_primary`.
    pub(super) demands: SmallVec<[WindowDemand; 2]>,
    pub(super) caller: Caller,
    pub(super) urgency: u8,
    /// How it stands among its caller's other requests; never changes while it is in line.
    pub(super) caller_order: CallerOrder,
    /// Its place in line: what goes to another waiter of its caller's that is to go before it.
    pub(super) position: QueuePosition,
    pub(super) effective_arrival: Time,
    /// How many slots the place is for.
    pub(super) slots: u32,
    /// Whether it takes turns with other callers' waiters.
    pub(super) takes_turns: bool,
    pub(super) kind: AskKind,
    /// The caller's own bound.
    pub(super) caller_deadline: Time,
    pub(super) deadline: Time,
    pub(super) group: u32,
}

/// The waiters that need the same windows.
#[derive(Debug)]
pub(super) struct WaiterGroup {
    pub(super) windows: SmallVec<[u32; 2]>,
    pub(super) entries: QueueEntries,
    /// The slots that all of them need, by window.
    pub(super) totals: SmallVec<[u64; 2]>,
    pub(super) location: Location,
    /// Whether the store is asked for slots for it.
    pub(super) asks: StoreAsk,
}

/// Where a lane waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Location {
    /// Nowhere: it is being looked at, or about to be.
    Detached,
    /// In a window's line.
    Queued(u32, QueuePosition),
    /// Held back at a window, for the sake of its claimant.
    Deferred(u32, QueuePosition),
}

/// Why a waiter is taken out of its lane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DequeueReason {
    Granted,
    Left,
}

/// Whether the store is asked for a lane, and in which turn.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::locker) enum StoreAsk {
    #[default]
    Idle,
    Scheduled(Time, u32),
    /// An answer is awaited.
    InFlight(u32),
}

/// What is to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dirty {
    Window(u32),
    Group(u32),
}

/// All waiters.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) waiters: Slab<Waiter>,
    pub(super) groups: Slab<WaiterGroup>,
    pub(super) by_windows: BTreeMap<SmallVec<[u32; 2]>, u32>,
    pub(super) deadlines: BTreeSet<(Time, u32)>,
    /// When which window's line is to be looked at.
    pub(super) wakeups: BTreeSet<(Time, u32)>,
    pub(super) dirty: VecDeque<Dirty>,
    /// Those who found room while the locker was held: their patience may be longer than their own until it is released.
    pub(super) held_waiters: Vec<Ticket>,
    pub(super) seq: u64,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            waiters: Slab::new(),
            groups: Slab::new(),
            by_windows: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            wakeups: BTreeSet::new(),
            dirty: VecDeque::new(),
            held_waiters: Vec::new(),
            seq: 0,
        }
    }

    pub(super) fn contains(&self, ticket: Ticket) -> bool {
        self.waiters.generation(ticket.index) == Some(ticket.generation)
    }

    pub(super) fn ticket(&self, waiter: u32) -> Ticket {
        Ticket { index: waiter, generation: self.waiters.generation(waiter).unwrap_or(0) }
    }

    /// Whether nothing is left of anyone who waited.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let entries = self.waiters.len() + self.groups.len() + self.by_windows.len();
        entries + self.deadlines.len() + self.wakeups.len() + self.dirty.len() == 0
    }

    /// When something in the queue is due.
    pub(super) fn due(&self) -> Time {
        let wakeup = self.wakeups.first().map_or(Time::NEVER, |(at, _)| *at);
        let deadline = self.deadlines.first().map_or(Time::NEVER, |(at, _)| *at);
        wakeup.min(deadline)
    }

    pub(super) fn group_of(&self, demands: &[WindowDemand]) -> Option<u32> {
        let windows: SmallVec<[u32; 2]> = demands.iter().map(|demand| demand.window).collect();
        self.by_windows.get(&windows).copied()
    }
}
