//! Those who wait: a place for each, where its verdict is laid down until it is picked up.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::{Gate, Permit, Refused};
use crate::locker::{Grant, Ticket};
use crate::time::Time;

/// What became of a waiter, before it is told.
pub(super) type WaitResult = Result<Grant, Refused>;

/// The places of all waiters. A place is its future's own until the future has ended, so it outlives the ticket, which
/// the locker uses again as soon as it has named it.
#[derive(Default)]
pub(super) struct WaitSlots {
    places: Slab<Place>,
    /// The places of those who are not decided. Not by `Ticket::index` alone: within one step the locker may decide one
    /// ticket and give its number to the next.
    undecided: HashMap<Ticket, usize>,
}

struct Place {
    ticket: Ticket,
    /// When its turn was expected when it came.
    forecast: Option<Time>,
    state: WaitSlotState,
}

enum WaitSlotState {
    /// With the waker, once it was polled.
    Waiting(Option<Waker>),
    /// Since when it is decided.
    Decided(WaitResult, Time),
}

/// What a place held when it was cleared.
pub(super) enum Cleared {
    /// With its waker, to be dropped without the lock: dropping it may run anything.
    Undecided(Ticket, Option<Waker>),
    Decided(WaitResult),
}

/// What a future sees at its place.
enum SlotPoll {
    Decided(WaitResult, Time),
    /// With the waker that was there before, to be dropped without the lock: dropping it may run anything.
    Waiting(Option<Waker>),
}

impl WaitSlots {
    pub(super) fn enter(&mut self, ticket: Ticket, forecast: Option<Time>) -> usize {
        let index = self.places.insert(Place { ticket, forecast, state: WaitSlotState::Waiting(None) });
        self.undecided.insert(ticket, index);
        index
    }

    /// Lays the verdict down at the ticket's place, and returns whom to wake.
    ///
    /// # Errors
    /// Nobody waits with that ticket any more: the verdict comes back.
    pub(super) fn decide(&mut self, ticket: Ticket, fate: WaitResult, now: Time) -> Result<Option<Waker>, WaitResult> {
        let Some(index) = self.undecided.remove(&ticket) else {
            return Err(fate);
        };
        let decided = WaitSlotState::Decided(fate, now);
        let WaitSlotState::Waiting(waker) = std::mem::replace(&mut self.places[index].state, decided) else {
            unreachable!("a place is decided once")
        };
        Ok(waker)
    }

    /// The tickets of those whose turn was expected after `until`; `None`: of all.
    pub(super) fn expected_after(&self, until: Option<Time>) -> Vec<Ticket> {
        let is_late = |index: usize| {
            let forecast = self.places[index].forecast;
            until.is_none_or(|until| forecast.is_some_and(|at| at > until))
        };
        self.undecided.iter().filter(|(_, index)| is_late(**index)).map(|(ticket, _)| *ticket).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.undecided.is_empty()
    }

    /// Makes a place vacant, and says what is still to be done about it.
    pub(super) fn clear(&mut self, index: usize) -> Cleared {
        let Place { ticket, state, .. } = self.places.remove(index);
        match state {
            WaitSlotState::Waiting(waker) => {
                self.undecided.remove(&ticket);
                Cleared::Undecided(ticket, waker)
            }
            WaitSlotState::Decided(fate, _) => Cleared::Decided(fate),
        }
    }

    fn look(&mut self, index: usize, waker: &Waker) -> SlotPoll {
        if let WaitSlotState::Waiting(known) = &mut self.places[index].state {
            let is_known = known.as_ref().is_some_and(|known| known.will_wake(waker));
            return SlotPoll::Waiting(if is_known { None } else { known.replace(waker.clone()) });
        }
        match self.places.remove(index).state {
            WaitSlotState::Decided(fate, at) => SlotPoll::Decided(fate, at),
            WaitSlotState::Waiting(_) => unreachable!("it was decided a line above"),
        }
    }
}

/// A place in line: a future that ends with the verdict.
///
/// # Cancel safety
/// Dropping it leaves the queue at once; a permit that was granted but not yet picked up is given back.
#[must_use = "dropping it leaves the queue"]
pub struct Waiting {
    /// `None` once the verdict was picked up.
    place: Option<(Arc<Gate>, usize)>,
    forecast: Option<Time>,
}

impl Waiting {
    pub(super) fn at(gate: Arc<Gate>, index: usize, forecast: Option<Time>) -> Waiting {
        Waiting { place: Some((gate, index)), forecast }
    }

    /// When its turn was expected when it came: it is never earlier unless others leave. `None`: that depends on when
    /// requests under way are sent or answered.
    pub fn forecast(&self) -> Option<Time> {
        self.forecast
    }
}

impl Future for Waiting {
    type Output = Result<Permit, Refused>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (gate, index) = self.place.as_ref().expect("a future is not polled after it has ended");
        let look = gate.lock().line.look(*index, context.waker());
        match look {
            SlotPoll::Waiting(_before) => Poll::Pending,
            SlotPoll::Decided(fate, at) => {
                let (gate, _) = self.place.take().expect("it was there a line above");
                Poll::Ready(fate.map(|grant| Permit::granted(gate, grant, at)))
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some((gate, index)) = self.place.take() else {
            return;
        };
        let now = gate.clock.now();
        let waker = gate.step_in_drop(now, |state| match state.line.clear(index) {
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
