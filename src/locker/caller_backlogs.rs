//! Caller backlogs at one window: finds a caller's next waiter, and the caller with the longest
//! backlog.
//!
//! A full queue drops from the longest backlog (longest queue drop), so that no caller can fill it
//! for the others.

use std::collections::{BTreeMap, BTreeSet};

use super::api::Caller;
use super::queue_position::QueuePosition;
use crate::time::Time;

/// Sort key of a waiter among its caller's own: by urgency, then by arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct CallerOrder {
    /// RFC 9218 urgency, 0 first; the same for all waiters if the limit ignores it.
    pub(super) urgency: u8,
    /// Time of arrival.
    pub(super) arrived: Time,
    /// Sequence number; unique.
    pub(super) seq: u64,
    /// Index of the waiter in the queue's slab.
    pub(super) id: u32,
}

impl CallerOrder {
    /// Sort key of the order of arrival.
    pub(super) fn arrival(self) -> (Time, u64) {
        (self.arrived, self.seq)
    }
}

/// Backlog of one caller.
#[derive(Debug, Default)]
struct Backlog {
    /// Number of slots that all its waiters need.
    slots: u64,
    /// Waiters in order, and the slots that each needs.
    waiters: BTreeMap<CallerOrder, u32>,
    /// Queue positions of the waiters that have this as their primary window.
    positions: BTreeSet<(QueuePosition, u32)>,
}

impl Backlog {
    /// The last waiter, and the number of slots that the caller's other waiters need before it.
    ///
    /// `None` for a backlog without waiters.
    fn last(&self) -> Option<(u64, CallerOrder)> {
        let (caller_order, cost) = self.waiters.last_key_value()?;
        Some((self.slots - u64::from(*cost), *caller_order))
    }
}

/// Sort key of a caller's last waiter: slots needed before it, arrival, sequence number, and the
/// caller.
type BacklogEnd = (u64, Time, u64, Caller);

/// Backlogs of all callers at one window.
///
/// Both maps change together, in [`CallerBacklogs::change`]: each backlog with a waiter has exactly
/// one entry in `ends`. Every operation costs O(log n) of the callers and of one caller's waiters,
/// but for [`CallerBacklogs::before`].
#[derive(Debug, Default)]
pub(super) struct CallerBacklogs {
    /// Backlog of each caller with a waiter.
    backlogs: BTreeMap<Caller, Backlog>,
    /// Last waiter of each caller; the longest backlog is last.
    ends: BTreeSet<BacklogEnd>,
}

impl CallerBacklogs {
    /// Adds a waiter that needs `cost` slots.
    pub(super) fn join(&mut self, caller: Caller, caller_order: CallerOrder, cost: u32) {
        self.change(caller, |backlog| {
            backlog.waiters.insert(caller_order, cost);
            backlog.slots += u64::from(cost);
        });
    }

    /// Removes a waiter. Changes nothing if it was never added.
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

    /// Applies `change` to a caller's backlog and keeps `ends` up to date.
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

    /// Assigns a queue position to a waiter that has this as its primary window.
    ///
    /// The waiter must have joined before; a caller without a backlog is ignored.
    pub(super) fn add_position(&mut self, caller: Caller, position: QueuePosition, id: u32) {
        self.backlogs.get_mut(&caller).map(|backlog| backlog.positions.insert((position, id)));
    }

    /// Withdraws a queue position from a waiter that has this as its primary window.
    pub(super) fn remove_position(&mut self, caller: Caller, position: QueuePosition, id: u32) {
        self.backlogs.get_mut(&caller).map(|backlog| backlog.positions.remove(&(position, id)));
    }

    /// First queue position among a caller's waiters, and the waiter that has it.
    pub(super) fn first_position(&self, caller: Caller) -> Option<(QueuePosition, u32)> {
        self.backlogs.get(&caller)?.positions.first().copied()
    }

    /// Last queue position among a caller's waiters, and the waiter that has it.
    pub(super) fn last_position(&self, caller: Caller) -> Option<(QueuePosition, u32)> {
        self.backlogs.get(&caller)?.positions.last().copied()
    }

    /// Number of slots that a caller's waiters need.
    pub(super) fn slots(&self, caller: Caller) -> u64 {
        self.backlogs.get(&caller).map_or(0, |backlog| backlog.slots)
    }

    /// Last waiter of the caller with the longest backlog: slots that the caller needs before it,
    /// the caller, the waiter. Among equal backlogs, the one with the latest arrival of its last
    /// waiter.
    pub(super) fn last(&self) -> Option<(u64, Caller, CallerOrder)> {
        let (start, .., caller) = *self.ends.last()?;
        let (caller_order, _) = self.backlogs.get(&caller)?.waiters.last_key_value()?;
        Some((start, caller, *caller_order))
    }

    /// A caller's waiters before `caller_order`, of at most this urgency, in their order.
    ///
    /// Costs time in proportion to what it yields.
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

    /// True if a caller has a less urgent waiter than `urgency`.
    pub(super) fn has_less_urgent(&self, caller: Caller, urgency: u8) -> bool {
        let waiters = self.backlogs.get(&caller).map(|backlog| &backlog.waiters);
        waiters.and_then(|waiters| waiters.last_key_value()).is_some_and(|(last, _)| last.urgency > urgency)
    }

    /// True if a caller has a waiter of another urgency than `urgency`.
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
