//! Wait slots: one per waiter, which stores its verdict until its future picks it up.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

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
    ticket: Ticket,
    /// Grant time forecast on arrival.
    forecast: Option<Time>,
    /// Verdict, or the waker to call for it.
    state: WaitSlotState,
}

/// State of a slot.
enum WaitSlotState {
    /// Undecided, with the waker of its future after the first poll.
    Waiting(Option<Waker>),
    /// Decided, with the time of the decision.
    Decided(WaitResult, Time),
}

/// Content of a slot that was cleared.
pub(super) enum Cleared {
    /// Undecided, with its waker. Drop the waker without the lock: its drop may run arbitrary code.
    Undecided(Ticket, Option<Waker>),
    /// Decided, and not picked up.
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
    pub(super) fn enter(&mut self, ticket: Ticket, forecast: Option<Time>) -> usize {
        let index = self.slots.insert(WaitSlot { ticket, forecast, state: WaitSlotState::Waiting(None) });
        self.undecided.insert(ticket, index);
        index
    }

    /// Stores the outcome in the ticket's slot, and returns the waker to call.
    ///
    /// # Errors
    /// Returns the outcome if no future waits with that ticket any more.
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
    pub(super) fn expected_after(&self, until: Option<Time>) -> Vec<Ticket> {
        let is_late = |index: usize| {
            let forecast = self.slots[index].forecast;
            until.is_none_or(|until| forecast.is_some_and(|at| at > until))
        };
        self.undecided.iter().filter(|(_, index)| is_late(**index)).map(|(ticket, _)| *ticket).collect()
    }

    /// True if no waiter is undecided.
    pub(super) fn is_empty(&self) -> bool {
        self.undecided.is_empty()
    }

    /// Frees a slot, and returns its content, which needs clean-up.
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
