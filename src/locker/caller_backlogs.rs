//! Backlogs of callers at one window: which of a caller's waiters is its next, and which caller has the longest.
//!
//! A line that is full drops from the longest backlog (longest queue drop), so that no caller can fill it for the others.

use std::collections::{BTreeMap, BTreeSet};

use super::api::Caller;
use super::queue_position::QueuePosition;
use crate::time::Time;

/// A waiter among its caller's own: by urgency, then by arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct CallerOrder {
    /// RFC 9218 urgency, 0 first; the same for all where the limit does not look at it.
    pub(super) urgency: u8,
    pub(super) arrived: Time,
    /// Unique.
    pub(super) seq: u64,
    pub(super) id: u32,
}

impl CallerOrder {
    /// The order of arrival.
    pub(super) fn arrival(self) -> (Time, u64) {
        (self.arrived, self.seq)
    }
}

#[derive(Debug, Default)]
struct Backlog {
    /// How many slots its waiters need.
    slots: u64,
    /// And each of them.
    waiters: BTreeMap<CallerOrder, u32>,
    /// The places of those whose home this is.
    positions: BTreeSet<(QueuePosition, u32)>,
}

impl Backlog {
    /// How many slots the caller's others need that come before its last waiter; and that one.
    fn last(&self) -> Option<(u64, CallerOrder)> {
        let (caller_order, cost) = self.waiters.last_key_value()?;
        Some((self.slots - u64::from(*cost), *caller_order))
    }
}

/// The last waiter of a caller: by how many slots the caller needs before it, then by its arrival.
type BacklogEnd = (u64, Time, u64, Caller);

/// What each caller has in line at one window.
#[derive(Debug, Default)]
pub(super) struct CallerBacklogs {
    backlogs: BTreeMap<Caller, Backlog>,
    ends: BTreeSet<BacklogEnd>,
}

impl CallerBacklogs {
    /// A waiter that needs so many slots joins the line.
    pub(super) fn join(&mut self, caller: Caller, caller_order: CallerOrder, cost: u32) {
        self.change(caller, |backlog| {
            backlog.waiters.insert(caller_order, cost);
            backlog.slots += u64::from(cost);
        });
    }

    /// A waiter leaves the line; one that never joined changes nothing.
    pub(super) fn leave(&mut self, caller: Caller, caller_order: CallerOrder) {
        if !self.backlogs.contains_key(&caller) {
            return;
        }
        self.change(caller, |backlog| {
            if let Some(cost) = backlog.waiters.remove(&caller_order) {
                backlog.slots -= u64::from(cost);
            }
        });
    }

    fn change(&mut self, caller: Caller, change: impl FnOnce(&mut Backlog)) {
        let last = |backlog: &Backlog| {
            backlog.last().map(|(start, caller_order)| (start, caller_order.arrived, caller_order.seq, caller))
        };
        let backlog = self.backlogs.entry(caller).or_default();
        let before = last(backlog);
        change(backlog);
        let after = last(backlog);
        if before != after {
            before.map(|before| self.ends.remove(&before));
            after.map(|after| self.ends.insert(after));
        }
        if after.is_none() {
            self.backlogs.remove(&caller);
        }
    }

    /// A waiter whose home this is has this place from here on.
    pub(super) fn add_position(&mut self, caller: Caller, position: QueuePosition, id: u32) {
        self.backlogs.get_mut(&caller).map(|backlog| backlog.positions.insert((position, id)));
    }

    /// A waiter whose home this is has this place no more.
    pub(super) fn remove_position(&mut self, caller: Caller, position: QueuePosition, id: u32) {
        self.backlogs.get_mut(&caller).map(|backlog| backlog.positions.remove(&(position, id)));
    }

    /// The first of the places that a caller's waiters have here, and whose it is.
    pub(super) fn first_position(&self, caller: Caller) -> Option<(QueuePosition, u32)> {
        self.backlogs.get(&caller)?.positions.first().copied()
    }

    /// How many slots a caller's waiters need.
    pub(super) fn slots(&self, caller: Caller) -> u64 {
        self.backlogs.get(&caller).map_or(0, |backlog| backlog.slots)
    }

    /// The last waiter of the caller with the longest backlog: how many slots that caller needs before it, whose it is, and
    /// which. Of several with as many, the one that came last.
    pub(super) fn last(&self) -> Option<(u64, Caller, CallerOrder)> {
        let (start, .., caller) = *self.ends.last()?;
        let (caller_order, _) = self.backlogs.get(&caller)?.waiters.last_key_value()?;
        Some((start, caller, *caller_order))
    }

    /// A caller's waiters of this urgency and less that come before this one of it, in their order.
    pub(super) fn before(
        &self,
        caller: Caller,
        urgency: u8,
        caller_order: CallerOrder,
    ) -> impl Iterator<Item = CallerOrder> + '_ {
        let from = CallerOrder { urgency: urgency.min(caller_order.urgency), arrived: Time::START, seq: 0, id: 0 };
        let waiters = self.backlogs.get(&caller).map(|backlog| backlog.waiters.range(from..caller_order));
        waiters.into_iter().flatten().map(|(caller_order, _)| *caller_order)
    }

    /// Whether a caller has a less urgent waiter than one of that urgency.
    pub(super) fn has_less_urgent(&self, caller: Caller, urgency: u8) -> bool {
        let waiters = self.backlogs.get(&caller).map(|backlog| &backlog.waiters);
        waiters.and_then(|waiters| waiters.last_key_value()).is_some_and(|(last, _)| last.urgency > urgency)
    }

    /// Whether a caller has a waiter that is more or less urgent than one of that urgency.
    pub(super) fn has_mixed_urgency(&self, caller: Caller, urgency: u8) -> bool {
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

    fn caller_order(urgency: u8, seq: u64) -> CallerOrder {
        CallerOrder { urgency, arrived: Time::from_nanos(seq), seq, id: u32::try_from(seq).unwrap() }
    }

    #[test]
    fn the_last_is_the_longest_backlogs_least_urgent() {
        let mut callers = CallerBacklogs::default();
        callers.join(A, caller_order(3, 1), 1);
        callers.join(A, caller_order(7, 2), 1);
        callers.join(A, caller_order(0, 3), 1);
        callers.join(B, caller_order(3, 4), 1);
        callers.join(B, caller_order(3, 5), 1);
        assert_eq!(callers.last(), Some((2, A, caller_order(7, 2))));
        callers.leave(A, caller_order(7, 2));
        assert_eq!(callers.last(), Some((1, B, caller_order(3, 5))), "of two with as many it came later");
        assert_eq!((callers.slots(A), callers.slots(B), callers.slots(Caller(3))), (2, 2, 0));
    }

    #[test]
    fn a_waiter_that_costs_much_begins_where_its_callers_others_end() {
        let mut callers = CallerBacklogs::default();
        callers.join(A, caller_order(3, 1), 1);
        callers.join(A, caller_order(3, 2), 1);
        callers.join(B, caller_order(3, 3), 100);
        assert_eq!(callers.last(), Some((1, A, caller_order(3, 2))));
        callers.join(B, caller_order(3, 4), 1);
        assert_eq!(callers.last(), Some((100, B, caller_order(3, 4))));
    }

    #[test]
    fn nothing_is_left_of_those_who_left() {
        let mut callers = CallerBacklogs::default();
        callers.leave(A, caller_order(3, 9));
        for seq in 0..10 {
            callers.join(A, caller_order(3, seq), 2);
        }
        callers.leave(A, caller_order(3, 77));
        (0..10).for_each(|seq| callers.leave(A, caller_order(3, seq)));
        assert!(callers.backlogs.is_empty() && callers.ends.is_empty());
    }

    #[test]
    fn those_before_one_come_in_order() {
        let mut callers = CallerBacklogs::default();
        for caller_order in [caller_order(3, 1), caller_order(0, 2), caller_order(3, 3), caller_order(5, 4)] {
            callers.join(A, caller_order, 1);
        }
        assert_eq!(
            callers.before(A, 0, caller_order(5, 4)).collect::<Vec<_>>(),
            [caller_order(0, 2), caller_order(3, 1), caller_order(3, 3)]
        );
        assert_eq!(callers.before(A, 3, caller_order(3, 3)).collect::<Vec<_>>(), [caller_order(3, 1)]);
        assert_eq!(callers.before(A, 0, caller_order(0, 2)).count(), 0);
        let known = |urgency| (callers.has_less_urgent(A, urgency), callers.has_mixed_urgency(A, urgency));
        assert_eq!((known(0), known(5), known(7)), ((true, true), (false, true), (false, true)));
        assert!(!callers.has_mixed_urgency(B, 3));
    }
}
