//! Fair queue: start-time fair queueing (Goyal, Vin, Cheng 1996) between the callers that wait at
//! one window.
//!
//! A request gets its turn (start tag) when it arrives: the present virtual time, or the end of its
//! caller's last turn if that is later. An idle caller saves up no credit. Of a caller's waiters
//! only the first needs a correct turn, which is the end of the caller's last granted turn. It is
//! moved there when it becomes the first, because others may have been granted before it with
//! another cost. The place of a waiter that leaves goes to its caller's last one
//! (`Queue::leave_place_to_last`), so that the caller keeps its turns.
//!
//! Example: A and B have 3 and 1 waiters of cost 1 that arrive together. Their turns are A 0, A 1,
//! A 2 and B 0, so the order is A, B, A, A: a backlog delays its own caller, and not the next one.

use std::collections::{BTreeMap, BTreeSet};

use super::api::Caller;

/// Most idle callers forgotten per grant. Each grant makes one caller idle at most, so that those left over are few, and
/// they have the turn of a new one.
const MAX_FORGOTTEN: usize = 16;

/// One caller's position on the virtual time line.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// Turn at which the caller's next request may start.
    end: u64,
    /// End of the last granted turn: the turn of the caller's first waiter.
    served: u64,
    /// Number of the caller's waiters at this window.
    waiting: usize,
}

/// Turns of all callers at one window. A turn is a virtual time, counted in slots.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    /// Turn of the latest granted request: the virtual time.
    virtual_time: u64,
    /// Callers that wait, and idle ones that are ahead of the virtual time.
    flows: BTreeMap<Caller, Flow>,
    /// True if a request was granted in a turn of another cost, so that later turns of its caller
    /// may be out of date.
    shifted: bool,
    /// Callers without waiters that are ahead of the virtual time, by the end of their last turn.
    idle: BTreeSet<(u64, Caller)>,
}

impl FairQueue {
    /// The turn that [`FairQueue::arrive`] would return.
    pub(super) fn next(&self, caller: Caller) -> u64 {
        self.flows.get(&caller).map_or(self.virtual_time, |flow| flow.end.max(self.virtual_time))
    }

    /// Adds a request of `cost` slots to the queue and returns its turn.
    pub(super) fn arrive(&mut self, caller: Caller, cost: u32) -> u64 {
        let turn = self.next(caller);
        self.join(caller, turn + u64::from(cost));
        turn
    }

    /// Adds a retry, a request that already had its turn: it is next, and the caller's later
    /// requests follow it as they would have done otherwise.
    pub(super) fn arrive_retry(&mut self, caller: Caller, cost: u32) -> u64 {
        let end = self.next(caller) + u64::from(cost);
        self.join(caller, end);
        self.virtual_time
    }

    /// Counts one more waiter of a caller; the caller's next request starts at `end`.
    fn join(&mut self, caller: Caller, end: u64) {
        let virtual_time = self.virtual_time;
        let flow = self.flows.entry(caller).or_insert(Flow { end: virtual_time, served: virtual_time, waiting: 0 });
        if flow.waiting == 0 {
            self.idle.remove(&(flow.end, caller));
        }
        flow.end = end;
        flow.waiting += 1;
    }

    /// Grants the request with this turn; the turn was assigned to one that costs `slots`.
    pub(super) fn grant(&mut self, caller: Caller, turn: u64, cost: u32, slots: u32) {
        self.shifted |= cost != slots;
        self.virtual_time = self.virtual_time.max(turn);
        if let Some(flow) = self.flows.get_mut(&caller) {
            flow.served = flow.served.max(turn) + u64::from(cost);
        }
        self.end_waiting(caller);
        for _ in 0..MAX_FORGOTTEN {
            let Some(&(end, idle)) = self.idle.first().filter(|(end, _)| *end <= self.virtual_time) else { break };
            self.idle.remove(&(end, idle));
            self.flows.remove(&idle);
        }
    }

    /// The turn of a caller's first waiter, computed from the caller's granted turns.
    ///
    /// `None` if the caller has no waiter here.
    pub(super) fn next_start(&self, caller: Caller) -> Option<u64> {
        self.flows.get(&caller).filter(|flow| flow.waiting > 0).map(|flow| flow.served)
    }

    /// Removes a request that was not granted. If it was its caller's last one, its turn is free
    /// again.
    ///
    /// `turn` and `cost`: those of its arrival. The turns of the caller's other waiters are
    /// corrected when they become the first.
    pub(super) fn leave(&mut self, caller: Caller, turn: u64, cost: u32) {
        if let Some(flow) = self.flows.get_mut(&caller)
            && flow.end == turn + u64::from(cost)
        {
            flow.end = turn.max(flow.served);
        }
        self.end_waiting(caller);
    }

    /// Counts one waiter less, and forgets the caller if it is not ahead of the virtual time.
    ///
    /// An idle caller that is ahead is kept until the virtual time has reached its end, or its next
    /// request would start as if its last grants had cost nothing.
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

    /// True if assigned turns may still be moved to later ones.
    pub(super) fn may_shift(&self) -> bool {
        self.shifted
    }

    /// Callers with waiters, and the turn of the first waiter of each.
    pub(super) fn flows(&self) -> impl Iterator<Item = (Caller, u64)> + '_ {
        self.flows.iter().filter(|(_, flow)| flow.waiting > 0).map(|(caller, flow)| (*caller, flow.served))
    }

    /// True if no other caller waits or is ahead of the virtual time.
    pub(super) fn is_only(&self, caller: Caller) -> bool {
        self.flows.len() <= 1 && self.flows.keys().all(|other| *other == caller)
    }

    /// Number of callers remembered.
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
        for _ in 0..100 {
            let last = turns.arrive(A, 1);
            turns.grant(A, last, 1, 1);
        }
        assert!(turns.callers() <= 1, "{}", turns.callers());
    }

    #[test]
    fn a_retry_is_next_and_delays_its_callers_later_requests_by_its_cost() {
        let mut turns = FairQueue::default();
        let first = turns.arrive(A, 2);
        assert_eq!(turns.arrive_retry(A, 3), first, "the virtual time");
        assert_eq!(turns.next(A), first + 2 + 3);
    }

    #[test]
    fn turns_may_shift_once_a_request_of_another_cost_took_one() {
        let mut turns = FairQueue::default();
        let granted = |turns: &mut FairQueue, cost, slots| {
            let turn = turns.arrive(A, slots);
            turns.grant(A, turn, cost, slots);
            turns.may_shift()
        };
        assert!(!granted(&mut turns, 2, 2));
        assert!(granted(&mut turns, 1, 2));
        assert!(granted(&mut turns, 2, 2), "those behind it may still be out of date");
    }

    #[test]
    fn an_idle_caller_that_is_ahead_is_remembered_until_the_others_have_caught_up() {
        let mut turns = FairQueue::default();
        let turn = turns.arrive(A, 3);
        turns.grant(A, turn, 3, 3);
        assert_eq!((turns.next(A), turns.next_start(A)), (3, None));
        for served in 0..4 {
            let turn = turns.arrive(B, 1);
            assert_eq!((turn, turns.next(A), turns.callers()), (served, 3, 2));
            turns.grant(B, turn, 1, 1);
        }
        assert_eq!((turns.next(A), turns.callers()), (3, 1), "no credit, and no debt");
    }

    #[test]
    fn a_turn_is_free_again_if_the_last_request_leaves_and_no_other() {
        let mut turns = FairQueue::default();
        let [first, last] = [0; 2].map(|_| turns.arrive(A, 3));
        turns.leave(A, first, 3);
        assert_eq!(turns.next(A), last + 3);
        let next = turns.arrive(A, 3);
        turns.leave(A, next, 3);
        assert_eq!(turns.next(A), next);
    }

    #[test]
    fn a_caller_is_alone_if_no_other_waits_or_is_ahead() {
        let mut turns = FairQueue::default();
        assert!(turns.is_only(A), "nobody is there");
        let turn = turns.arrive(A, 1);
        assert!(turns.is_only(A) && !turns.is_only(B));
        turns.arrive(B, 1);
        assert!(!turns.is_only(A) && !turns.is_only(B));
        turns.grant(A, turn, 1, 1);
        let waiting: Vec<(Caller, u64)> = turns.flows().collect();
        assert_eq!(waiting, [(B, 0)], "A is ahead, and has no waiter");
        assert!(!turns.is_only(B));
    }
}
