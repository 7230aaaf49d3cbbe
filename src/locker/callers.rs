//! Backlogs of callers at one window: which of a caller's waiters is its next.

use std::collections::{BTreeMap, BTreeSet};

use super::ask::Caller;
use super::line::Place;
use crate::time::Time;

/// A waiter among its caller's own: by urgency, then by arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Own {
    /// RFC 9218 urgency, 0 first; the same for all where the limit does not look at it.
    pub(super) urgency: u8,
    pub(super) arrived: Time,
    /// Unique.
    pub(super) seq: u64,
    pub(super) id: u32,
}

impl Own {
    /// The order of arrival.
    pub(super) fn in_time(self) -> (Time, u64) {
        (self.arrived, self.seq)
    }
}

#[derive(Debug, Default)]
struct Backlog {
    /// How many slots its waiters need.
    slots: u64,
    /// And each of them.
    waiters: BTreeMap<Own, u32>,
    /// The places of those whose home this is.
    places: BTreeSet<(Place, u32)>,
}

/// What each caller has in line at one window.
#[derive(Debug, Default)]
pub(super) struct Callers {
    backlogs: BTreeMap<Caller, Backlog>,
}

impl Callers {
    /// A waiter that needs so many slots joins the line.
    pub(super) fn join(&mut self, caller: Caller, own: Own, cost: u32) {
        self.change(caller, |backlog| {
            backlog.waiters.insert(own, cost);
            backlog.slots += u64::from(cost);
        });
    }

    /// A waiter leaves the line; one that never joined changes nothing.
    pub(super) fn leave(&mut self, caller: Caller, own: Own) {
        if !self.backlogs.contains_key(&caller) {
            return;
        }
        self.change(caller, |backlog| {
            if let Some(cost) = backlog.waiters.remove(&own) {
                backlog.slots -= u64::from(cost);
            }
        });
    }

    fn change(&mut self, caller: Caller, change: impl FnOnce(&mut Backlog)) {
        let backlog = self.backlogs.entry(caller).or_default();
        change(backlog);
        if backlog.waiters.is_empty() {
            self.backlogs.remove(&caller);
        }
    }

    /// A waiter whose home this is has this place from here on.
    pub(super) fn sit(&mut self, caller: Caller, place: Place, id: u32) {
        self.backlogs.get_mut(&caller).map(|backlog| backlog.places.insert((place, id)));
    }

    /// A waiter whose home this is has this place no more.
    pub(super) fn rise(&mut self, caller: Caller, place: Place, id: u32) {
        self.backlogs.get_mut(&caller).map(|backlog| backlog.places.remove(&(place, id)));
    }

    /// The first of the places that a caller's waiters have here, and whose it is.
    pub(super) fn first_place(&self, caller: Caller) -> Option<(Place, u32)> {
        self.backlogs.get(&caller)?.places.first().copied()
    }

    /// How many slots a caller's waiters need.
    pub(super) fn slots(&self, caller: Caller) -> u64 {
        self.backlogs.get(&caller).map_or(0, |backlog| backlog.slots)
    }

    /// A caller's waiters of this urgency and less that come before this one of it, in their order.
    pub(super) fn before(&self, caller: Caller, urgency: u8, own: Own) -> impl Iterator<Item = Own> + '_ {
        let from = Own { urgency: urgency.min(own.urgency), arrived: Time::START, seq: 0, id: 0 };
        let waiters = self.backlogs.get(&caller).map(|backlog| backlog.waiters.range(from..own));
        waiters.into_iter().flatten().map(|(own, _)| *own)
    }

    /// Whether a caller has a less urgent waiter than one of that urgency.
    pub(super) fn has_less_urgent(&self, caller: Caller, urgency: u8) -> bool {
        let waiters = self.backlogs.get(&caller).map(|backlog| &backlog.waiters);
        waiters.and_then(|waiters| waiters.last_key_value()).is_some_and(|(last, _)| last.urgency > urgency)
    }

    /// Whether a caller has a waiter that is more or less urgent than one of that urgency.
    pub(super) fn is_mixed(&self, caller: Caller, urgency: u8) -> bool {
        let waiters = self.backlogs.get(&caller).map(|backlog| &backlog.waiters);
        let first = waiters.and_then(|waiters| waiters.first_key_value());
        first.is_some_and(|(first, _)| first.urgency < urgency) || self.has_less_urgent(caller, urgency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Caller = Caller(1);
    const B: Caller = Caller(2);

    fn own(urgency: u8, seq: u64) -> Own {
        Own { urgency, arrived: Time::from_nanos(seq), seq, id: u32::try_from(seq).unwrap() }
    }

    #[test]
    fn nothing_is_left_of_those_who_left() {
        let mut callers = Callers::default();
        callers.leave(A, own(3, 9));
        for seq in 0..10 {
            callers.join(A, own(3, seq), 2);
        }
        callers.leave(A, own(3, 77));
        (0..10).for_each(|seq| callers.leave(A, own(3, seq)));
        assert!(callers.backlogs.is_empty());
    }

    #[test]
    fn those_before_one_come_in_order() {
        let mut callers = Callers::default();
        for own in [own(3, 1), own(0, 2), own(3, 3), own(5, 4)] {
            callers.join(A, own, 1);
        }
        assert_eq!(callers.before(A, 0, own(5, 4)).collect::<Vec<_>>(), [own(0, 2), own(3, 1), own(3, 3)]);
        assert_eq!(callers.before(A, 3, own(3, 3)).collect::<Vec<_>>(), [own(3, 1)]);
        assert_eq!(callers.before(A, 0, own(0, 2)).count(), 0);
        let known = |urgency| (callers.has_less_urgent(A, urgency), callers.is_mixed(A, urgency));
        assert_eq!((known(0), known(5), known(7)), ((true, true), (false, true), (false, true)));
        assert!(!callers.is_mixed(B, 3));
    }
}
