//! Queue state: waiters, their groups, deadlines and wake-ups.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smallvec::SmallVec;

use super::api::{AskKind, Caller, Claim, LimitId, Ticket};
use super::caller_backlogs::CallerOrder;
use super::forwarded_event::Event;
use super::outbox::Outbox;
use super::queue_position::{QueueEntries, QueuePosition};
use super::slab::Slab;
use super::step_budget::{self, StepBudget};
use crate::time::Time;

/// Chunks of each slab that a step frees: some 100 kB each, and some 10 µs.
const CHUNKS_PER_STEP: usize = 16;

/// Slots that a waiter needs in one window.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowDemand {
    /// Index of the window in the window table.
    pub(super) window: u32,
    /// Limit of the window.
    pub(super) limit: LimitId,
    /// Number of slots.
    pub(super) cost: u32,
}

/// A request that waits for its slots.
#[derive(Debug)]
pub(super) struct Waiter {
    /// All claims of the request, including those of dry-run limits.
    pub(super) claims: SmallVec<[Claim; 2]>,
    /// Demands in the windows of all limits that are not dry runs. The first is the primary one,
    /// see `choose_primary`.
    pub(super) demands: SmallVec<[WindowDemand; 2]>,
    /// The caller, for fair queueing.
    pub(super) caller: Caller,
    /// RFC 9218 urgency, 0 (first) to 7.
    pub(super) urgency: u8,
    /// Order among its caller's waiters; never changes while it waits.
    pub(super) caller_order: CallerOrder,
    /// Position in the queue. Passes to another waiter of the same caller if that one comes first.
    pub(super) position: QueuePosition,
    /// Arrival time by which priority classes are compared.
    pub(super) effective_arrival: Time,
    /// Number of slots for which the position was assigned.
    pub(super) slots: u32,
    /// True if it takes turns with other callers' waiters.
    pub(super) takes_turns: bool,
    /// First request, retry, or asked again after a reload.
    pub(super) kind: AskKind,
    /// Deadline set by the request itself.
    pub(super) caller_deadline: Time,
    /// Effective deadline: the caller's, or that of the limits if it is earlier.
    pub(super) deadline: Time,
    /// Index of its group.
    pub(super) group: u32,
}

/// Waiters that need the same windows.
#[derive(Debug)]
pub(super) struct WaiterGroup {
    /// Indexes of the windows, the primary one first.
    pub(super) windows: SmallVec<[u32; 2]>,
    /// Waiters by position.
    pub(super) entries: QueueEntries,
    /// Slots that all waiters need together, by window.
    pub(super) totals: SmallVec<[u64; 2]>,
    /// Queue in which the group waits.
    pub(super) location: Location,
    /// State of the request to the store for this group's slots.
    pub(super) asks: StoreAsk,
}

/// Queue in which a group waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Location {
    /// None: the group is being checked, or is about to be.
    Detached,
    /// The queue of this window, at this position.
    Queued(u32, QueuePosition),
    /// Deferred at this window, to not delay the holder of its reservation.
    Deferred(u32, QueuePosition),
}

/// Reason for removing a waiter from its group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DequeueReason {
    /// Its slots are granted.
    Granted,
    /// It timed out, hung up or is sent back.
    Left,
}

/// State of a group's request to the store.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::locker) enum StoreAsk {
    /// No request.
    #[default]
    Idle,
    /// Scheduled for this time. Void if the round (connection to the store) has changed since.
    Scheduled(Time, u32),
    /// Sent in this round; the answer is pending.
    InFlight(u32),
}

/// Something that must be checked by the next dispatch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dirty {
    /// The queue of a window.
    Window(u32),
    /// The rest of the queue of a window, where the last step ended.
    Rest(u32, QueueCursor),
    /// The first waiter of a group.
    Group(u32),
}

/// Point in the queue of a window at which the look at it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct QueueCursor {
    /// The queued group that the window was found to keep back.
    pub(super) blocked: Option<u32>,
    /// True if no further deferred group can go.
    pub(super) skips_deferred: bool,
}

/// Limits that need a review of all their waiters.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// Limits under review; empty if no review is under way.
    pub(super) limits: BTreeSet<LimitId>,
    /// The group to go on with.
    pub(super) next: u32,
    /// True if the rule of one of the limits has changed: what the store answered was for another.
    pub(super) voids_answers: bool,
}

impl Review {
    /// Adds a limit whose rule has changed.
    pub(super) fn add_changed(&mut self, limit: LimitId) {
        self.add(limit);
        self.voids_answers = true;
    }

    /// Adds a limit to the review, which starts again at the first group. Groups made later need no
    /// review: they are checked when they are made.
    pub(super) fn add(&mut self, limit: LimitId) {
        self.limits.insert(limit);
        self.next = 0;
    }

    /// Ends the review.
    pub(super) fn clear(&mut self) {
        *self = Review::default();
    }
}

/// Requeue of waiters under way, see `requeue_some`.
#[derive(Debug)]
pub(super) struct Requeue {
    /// Limits whose waiters leave and come back.
    pub(super) moved: BTreeSet<LimitId>,
    /// Limits with fewer slots than before: those that need more than there are now are refused.
    pub(super) lowered: BTreeSet<LimitId>,
    /// Index of the waiter to go on with; `None` once all have left.
    pub(super) next: Option<u32>,
    /// Waiters outside the queue, in the order of their arrival.
    pub(super) pending: BTreeMap<(Time, u64), u32>,
    /// Sequence number of the latest waiter when the requeue began: later ones have joined it, in no queue so far.
    pub(super) begun_at: u64,
}

/// All waiters of a locker.
///
/// Owns the waiters, the groups of those that need the same windows, their deadlines, the work that
/// has come up (windows and groups to look at, now or at a time), and the verdicts that were
/// reached. Promises that after `dispatch` no waiter is left that may go, unless it is held or has
/// work left (`is_unfinished`), and that each waiter has exactly one verdict or leaves. What is counted is not its own: its methods
/// take the `Counters`.
#[derive(Debug)]
pub(super) struct Queue {
    /// Waiters by index.
    pub(super) waiters: Slab<Waiter>,
    /// Groups by index.
    pub(super) groups: Slab<WaiterGroup>,
    /// Index of the group for each combination of windows.
    pub(super) by_windows: BTreeMap<SmallVec<[u32; 2]>, u32>,
    /// Deadlines and the waiters they belong to, soonest first.
    pub(super) deadlines: BTreeSet<(Time, u32)>,
    /// Times at which the queue of a window must be checked, soonest first.
    pub(super) wakeups: BTreeSet<(Time, u32)>,
    /// Time of the last look for wake-ups that are due. One up to it that is still in the list waits for the
    /// next step.
    pub(super) woken_at: Time,
    /// Checks that the next dispatch must make.
    pub(super) dirty: VecDeque<Dirty>,
    /// Waiters that found room while the locker was held. Their deadline may be extended until it
    /// is released.
    pub(super) held_waiters: Vec<Ticket>,
    /// Sequence number of the latest waiter.
    pub(super) seq: u64,
    /// True if no waiter goes, see `Locker::hold`.
    pub(super) is_held: bool,
    /// Review of whole limits under way, see `review_some`.
    pub(super) review: Review,
    /// Requeue of waiters under way, see `requeue_some`.
    pub(super) requeue: Option<Requeue>,
    /// Work that the present step may still do.
    pub(super) budget: StepBudget,
    /// Verdicts not yet fetched.
    pub(super) outbox: Outbox,
}

impl Queue {
    /// An empty queue.
    pub(super) fn new() -> Queue {
        Queue {
            waiters: Slab::new(),
            groups: Slab::new(),
            by_windows: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            wakeups: BTreeSet::new(),
            woken_at: Time::START,
            dirty: VecDeque::new(),
            held_waiters: Vec::new(),
            seq: 0,
            is_held: false,
            review: Review::default(),
            requeue: None,
            budget: StepBudget::new(step_budget::UNITS),
            outbox: Outbox::default(),
        }
    }

    /// True if the ticket's waiter still waits.
    pub(super) fn contains(&self, ticket: Ticket) -> bool {
        let generation = self.waiters.generation(ticket.index);
        mutant!(
            generation == Some(ticket.generation),
            "a ticket names the waiter that has its place now",
            generation.is_some()
        )
    }

    /// True if the last step ended before all was done that had come up.
    pub(super) fn is_unfinished(&self) -> bool {
        let has_work = self.has_news() || !self.held_waiters.is_empty();
        self.requeue.is_some() || has_work && !self.is_held
    }

    /// True if a look at a window or a group has come up and is not made yet: a waiter may go there.
    pub(super) fn has_news(&self) -> bool {
        let is_due = |(at, _): &(Time, u32)| *at <= self.woken_at;
        !self.dirty.is_empty() || self.wakeups.first().is_some_and(is_due)
    }

    /// Frees some of the memory of waiters that were many.
    pub(super) fn free_some(&mut self) {
        self.waiters.free_some(CHUNKS_PER_STEP);
        self.groups.free_some(CHUNKS_PER_STEP);
    }

    /// True if memory of waiters that were many is left to be freed.
    pub(super) fn has_vacated(&self) -> bool {
        self.waiters.has_vacated() || self.groups.has_vacated()
    }

    /// Ticket of a waiter.
    pub(super) fn ticket(&self, waiter: u32) -> Ticket {
        Ticket { index: waiter, generation: self.waiters.generation(waiter).unwrap_or(0) }
    }

    /// True if no trace of any waiter is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let entries = self.waiters.len() + self.groups.len() + self.by_windows.len();
        entries + self.deadlines.len() + self.wakeups.len() + self.dirty.len() == 0
    }

    /// Every waiter, as it would ask anew; in the order of arrival.
    pub(super) fn asks(&self) -> Vec<Event> {
        let mut waiters = self.waiters.indices();
        waiters.sort_by_key(|id| self.waiters[*id].caller_order.arrival());
        let ask = |id: u32| {
            let waiter = &self.waiters[id];
            Event::Ask {
                ticket: self.ticket(id),
                claims: waiter.claims.clone(),
                caller: waiter.caller,
                urgency: waiter.urgency,
                arrived: waiter.caller_order.arrived,
                bound: waiter.caller_deadline,
                kind: waiter.kind.as_reask(),
            }
        };
        waiters.into_iter().map(ask).collect()
    }

    /// Time at which the next wake-up or deadline is due; `NEVER` if there is none. Wake-ups wait for the end of a hold.
    pub(super) fn due(&self) -> Time {
        let wakeup = self.wakeups.first().filter(|_| !self.is_held).map_or(Time::NEVER, |(at, _)| *at);
        let deadline = self.deadlines.first().map_or(Time::NEVER, |(at, _)| *at);
        wakeup.min(deadline)
    }

    /// Index of the group of waiters with these demands.
    pub(super) fn group_of(&self, demands: &[WindowDemand]) -> Option<u32> {
        let windows: SmallVec<[u32; 2]> = demands.iter().map(|demand| demand.window).collect();
        self.by_windows.get(&windows).copied()
    }
}
