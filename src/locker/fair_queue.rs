//! Whose turn it is: start-time fair queueing between the callers that wait at one window.
//!
//! A request's turn is given when it arrives: the present one, or the end of its caller's last if
//! that is later. Nobody saves up credit while idle. Of a caller's waiters only the first needs the right
//! turn, the end of what went before it: it is moved there when it is the first, because others may have
//! left, or gone before it with another cost.

use std::collections::{BTreeMap, BTreeSet};

use super::api::Caller;

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// Where the caller's next request may start.
    end: u64,
    /// The end of the last one that went: where the first of those that wait is to start.
    served: u64,
    waiting: usize,
}

/// The turns at one window. Turns are counted in slots.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    /// The turn of the latest request that went.
    virtual_time: u64,
    flows: BTreeMap<Caller, Flow>,
    /// A request went in a turn of another cost: the turns of its caller's others are not yet what they will be.
    shifted: bool,
    /// The callers that wait for nothing but are ahead of the present turn.
    idle: BTreeSet<(u64, Caller)>,
}

impl FairQueue {
    /// The turn that `arrive` would give.
    pub(super) fn next(&self, caller: Caller) -> u64 {
        self.flows.get(&caller).map_or(self.virtual_time, |flow| flow.end.max(self.virtual_time))
    }

    /// A request of `cost` joins the line, and has this turn.
    pub(super) fn arrive(&mut self, caller: Caller, cost: u32) -> u64 {
        let turn = self.next(caller);
        self.join(caller, turn + u64::from(cost));
        turn
    }

    /// A request that had its turn before and comes again: it is next, and its caller's later
    /// requests come after it all the same.
    pub(super) fn arrive_retry(&mut self, caller: Caller, cost: u32) -> u64 {
        let end = self.next(caller) + u64::from(cost);
        self.join(caller, end);
        self.virtual_time
    }

    fn join(&mut self, caller: Caller, end: u64) {
        let virtual_time = self.virtual_time;
        let flow = self.flows.entry(caller).or_insert(Flow { end: virtual_time, served: virtual_time, waiting: 0 });
        if flow.waiting == 0 {
            self.idle.remove(&(flow.end, caller));
        }
        flow.end = end;
        flow.waiting += 1;
    }

    /// The request with this turn goes; the turn was given to one that costs `slab`.
    pub(super) fn grant(&mut self, caller: Caller, turn: u64, cost: u32, slots: u32) {
        self.shifted |= cost != slots;
        self.virtual_time = self.virtual_time.max(turn);
        if let Some(flow) = self.flows.get_mut(&caller) {
            flow.served = flow.served.max(turn) + u64::from(cost);
        }
        self.end_waiting(caller);
        while let Some(&(end, idle)) = self.idle.first()
            && end <= self.virtual_time
        {
            self.idle.pop_first();
            self.flows.remove(&idle);
        }
    }

    /// Where the first of a caller's waiters is to start, by what went before it.
    pub(super) fn next_start(&self, caller: Caller) -> Option<u64> {
        self.flows.get(&caller).filter(|flow| flow.waiting > 0).map(|flow| flow.served)
    }

    /// A request leaves without having gone; if it was its caller's last, the caller owes nothing for it.
    pub(super) fn leave(&mut self, caller: Caller, turn: u64, cost: u32) {
        if let Some(flow) = self.flows.get_mut(&caller)
            && flow.end == turn + u64::from(cost)
        {
            flow.end = turn.max(flow.served);
        }
        self.end_waiting(caller);
    }

    fn end_waiting(&mut self, caller: Caller) {
        let Some(flow) = self.flows.get_mut(&caller) else { return };
        flow.waiting = flow.waiting.saturating_sub(1);
        if flow.waiting > 0 {
            return;
        }
        flow.end = flow.served;
        if flow.end > self.virtual_time {
            self.idle.insert((flow.end, caller));
        } else {
            self.flows.remove(&caller);
        }
    }

    /// Whether turns may be moved to later ones.
    pub(super) fn may_shift(&self) -> bool {
        self.shifted
    }

    /// The callers that wait, and where the first of each is to start.
    pub(super) fn flows(&self) -> impl Iterator<Item = (Caller, u64)> + '_ {
        self.flows.iter().filter(|(_, flow)| flow.waiting > 0).map(|(caller, flow)| (*caller, flow.served))
    }

    /// Whether nobody but this caller waits or is ahead.
    pub(super) fn is_only(&self, caller: Caller) -> bool {
        self.flows.len() <= 1 && self.flows.keys().all(|other| *other == caller)
    }

    /// How many callers are remembered.
    #[cfg(test)]
    pub(super) fn callers(&self) -> usize {
        self.flows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Caller = Caller(1);
    const B: Caller = Caller(2);

    #[test]
    fn a_caller_that_asks_twice_comes_after_one_that_asks_once() {
        let mut turns = FairQueue::default();
        let a = (turns.arrive(A, 1), turns.arrive(A, 1));
        let b = turns.arrive(B, 1);
        assert!(a.0 <= b && b < a.1, "{a:?} {b}");
    }

    #[test]
    fn nobody_saves_up_credit_while_idle() {
        let mut turns = FairQueue::default();
        for _ in 0..10 {
            let turn = turns.arrive(A, 1);
            turns.arrive(A, 1);
            turns.grant(A, turn, 1, 1);
        }
        let late = turns.arrive(B, 1);
        assert_eq!(late, turns.virtual_time, "it starts now, not at the beginning");
    }

    #[test]
    fn a_caller_whose_waiters_all_left_owes_nothing() {
        let mut turns = FairQueue::default();
        let kept = turns.arrive(B, 1);
        for turn in (0..100).map(|_| turns.arrive(A, 1)).collect::<Vec<_>>() {
            turns.leave(A, turn, 1);
        }
        assert_eq!(turns.next(A), kept);
        assert_eq!(turns.callers(), 1);
    }

    #[test]
    fn callers_are_forgotten_once_they_are_not_ahead() {
        let mut turns = FairQueue::default();
        for caller in 0..1000 {
            let turn = turns.arrive(Caller(caller), 3);
            turns.grant(Caller(caller), turn, 3, 3);
        }
        let turn = turns.arrive(A, 1);
        let next = turns.arrive(A, 5);
        turns.grant(A, turn, 1, 1);
        turns.grant(A, next, 5, 5);
        let last = turns.arrive(A, 1);
        turns.grant(A, last, 1, 1);
        assert!(turns.callers() <= 1, "{}", turns.callers());
    }
}
