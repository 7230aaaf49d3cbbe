//! Wait slots: one per waiter, which stores its verdict until its future picks it up.
//!
//! Life of a slot:
//!
//! 1. `enter` creates it when the locker has queued a request, with the step that queued it.
//! 2. The first poll of the `Waiting` future stores its waker.
//! 3. `decide` stores the outcome and returns the waker, which is called without the lock.
//! 4. The next poll takes the outcome and frees the slot; a drop of the future clears it at any
//!    point.
//!
//! The number of slots is bounded by `max_waiting` of the limits, plus the outcomes that were not
//! picked up yet.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::sync::Arc;
use super::{Gate, Permit, Refused};
use crate::locker::{Grant, Ticket};
use crate::time::Time;

/// Outcome of a wait: a grant or a refusal.
pub(super) type WaitResult = Result<Grant, Refused>;

/// Wait slots of all waiters. A slot belongs to its future until that has ended. So it outlives the ticket, which the
/// locker reuses as soon as it has decided it.
#[derive(Default)]
pub(super) struct WaitSlots {
    /// All slots, by index.
    slots: Slab<WaitSlot>,
    /// Slots of the undecided waiters. The key is the whole ticket, not only `Ticket::index`: within one step the
    /// locker may decide one ticket and reuse its index for the next.
    undecided: HashMap<Ticket, usize>,
}

/// One waiter's slot.
struct WaitSlot {
    /// Ticket of the waiter in the locker.
    /// A later waiter may have the same `Ticket::index` after the decision.
    ticket: Ticket,
    /// Grant time forecast on arrival.
    /// `None` if it depends on requests in flight. Never updated: the shutdown compares it with its
    /// end.
    forecast: Option<Time>,
    /// Verdict, or the waker to call for it.
    state: WaitSlotState,
}

/// State of a slot.
enum WaitSlotState {
    /// Undecided, with the waker of its future after the first poll.
    Waiting(Option<Waker>),
    /// Decided, with the time of the decision.
    /// The time becomes the permit's `granted_at`, which is earlier than the poll that picks it up.
    Decided(WaitResult, Time),
}

/// Content of a slot that was cleared.
pub(super) enum Cleared {
    /// Undecided, with its waker. Drop the waker without the lock: its drop may run arbitrary code.
    Undecided(Ticket, Option<Waker>),
    /// Decided, and not picked up.
    /// A grant must be given back to the locker, or its slots are lost.
    Decided(WaitResult),
}

/// Result of polling a slot.
enum SlotPoll {
    /// Outcome, and time of the decision. The slot is free now.
    Decided(WaitResult, Time),
    /// Still undecided, with the previous waker. Drop it without the lock: its drop may run arbitrary code.
    Waiting(Option<Waker>),
}

impl WaitSlots {
    /// Creates a slot, and returns its index.
    ///
    /// The slot has no waker until its future is polled. A verdict that comes before is found by
    /// that first poll.
    pub(super) fn enter(&mut self, ticket: Ticket, forecast: Option<Time>) -> usize {
        let index = self.slots.insert(WaitSlot { ticket, forecast, state: WaitSlotState::Waiting(None) });
        self.undecided.insert(ticket, index);
        index
    }

    /// Number of undecided waiters.
    pub(super) fn waiting(&self) -> usize {
        self.undecided.len()
    }

    /// Stores the outcome in the ticket's slot, and returns the waker to call.
    ///
    /// # Errors
    /// Returns the outcome if no future waits with that ticket any more.
    /// The caller gives a grant in it back.
    pub(super) fn decide(
        &mut self,
        ticket: Ticket,
        result: WaitResult,
        now: Time,
    ) -> Result<Option<Waker>, WaitResult> {
        let Some(index) = self.undecided.remove(&ticket) else {
            return Err(result);
        };
        let decided = WaitSlotState::Decided(result, now);
        let WaitSlotState::Waiting(waker) = std::mem::replace(&mut self.slots[index].state, decided) else {
            unreachable!("a slot is decided once")
        };
        Ok(waker)
    }

    /// Tickets of the undecided waiters with a forecast after `until`; `None`: of all.
    ///
    /// Scans all undecided waiters, in no order. A waiter without a forecast is not late: it may be
    /// granted at any time. Used at the start of a shutdown, and by a reload with `None`.
    pub(super) fn expected_after(&self, until: Option<Time>) -> Vec<Ticket> {
        let is_late = |index: usize| {
            let forecast = self.slots[index].forecast;
            until.is_none_or(|until| forecast.is_some_and(|at| at > until))
        };
        self.undecided.iter().filter(|(_, index)| is_late(**index)).map(|(ticket, _)| *ticket).collect()
    }

    /// True if no waiter is undecided.
    ///
    /// Slots with an outcome that was not picked up do not count.
    pub(super) fn is_empty(&self) -> bool {
        self.undecided.is_empty()
    }

    /// Frees a slot, and returns its content, which needs clean-up.
    ///
    /// Called by the drop of a `Waiting`, so a slot is cleared at most once.
    pub(super) fn clear(&mut self, index: usize) -> Cleared {
        let WaitSlot { ticket, state, .. } = self.slots.remove(index);
        match state {
            WaitSlotState::Waiting(waker) => {
                self.undecided.remove(&ticket);
                Cleared::Undecided(ticket, waker)
            }
            WaitSlotState::Decided(result, _) => Cleared::Decided(result),
        }
    }

    /// Takes the outcome out of a slot and frees it; or registers the waker if it is undecided.
    ///
    /// A waker that wakes the same task as the stored one is not cloned again. Needs no step of the
    /// locker: the decision was stored by the step that made it.
    fn poll_slot(&mut self, index: usize, waker: &Waker) -> SlotPoll {
        if let WaitSlotState::Waiting(known) = &mut self.slots[index].state {
            let is_known = known.as_ref().is_some_and(|known| known.will_wake(waker));
            return SlotPoll::Waiting(if is_known { None } else { known.replace(waker.clone()) });
        }
        match self.slots.remove(index).state {
            WaitSlotState::Decided(result, at) => SlotPoll::Decided(result, at),
            WaitSlotState::Waiting(_) => unreachable!("it was decided a line above"),
        }
    }
}

/// Future of a queued request, which resolves to its verdict.
///
/// # Cancel safety
/// Dropping it leaves the queue at once; a permit that was granted but not picked up is given back.
#[must_use = "dropping it leaves the queue"]
pub struct Waiting {
    /// Index of its wait slot; `None` after the verdict was picked up.
    slot: Option<(Arc<Gate>, usize)>,
    /// Grant time forecast on arrival.
    forecast: Option<Time>,
}

impl Waiting {
    /// Future of the request in wait slot `index`.
    ///
    /// `index` must be that of a slot just entered: the future owns it from now on.
    pub(super) fn at(gate: Arc<Gate>, index: usize, forecast: Option<Time>) -> Waiting {
        Waiting { slot: Some((gate, index)), forecast }
    }

    /// Grant time forecast on arrival. The grant is never earlier unless other waiters leave. `None`: depends on when
    /// requests in flight are sent or answered.
    pub fn forecast(&self) -> Option<Time> {
        self.forecast
    }
}

impl Future for Waiting {
    type Output = Result<Permit, Refused>;

    /// # Panics
    /// If it is polled after it has returned `Poll::Ready`, or after a panic under the gate's lock.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (gate, index) = self.slot.as_ref().expect("a future is not polled after it has ended");
        let polled = gate.lock().wait_slots.poll_slot(*index, context.waker());
        match polled {
            SlotPoll::Waiting(_before) => Poll::Pending,
            SlotPoll::Decided(result, at) => {
                let (gate, _) = self.slot.take().expect("it was there a line above");
                Poll::Ready(result.map(|grant| Permit::granted(gate, grant, at)))
            }
        }
    }
}

impl Drop for Waiting {
    /// Leaves the queue, or gives back a grant that was not picked up, in one step of the locker;
    /// other waiters may be granted in it. The waker is dropped after the lock is released.
    fn drop(&mut self) {
        let Some((gate, index)) = self.slot.take() else {
            return;
        };
        let now = gate.clock.now();
        let waker = gate.step_in_drop(now, |state| match state.wait_slots.clear(index) {
            Cleared::Undecided(ticket, waker) => {
                state.locker.leave(ticket, now);
                waker
            }
            Cleared::Decided(Ok(grant)) => {
                state.locker.give_back(grant, now);
                None
            }
            Cleared::Decided(Err(_refused)) => None,
        });
        drop(waker);
    }
}
