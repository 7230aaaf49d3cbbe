//! Fair-share semaphore: a fixed number of tokens; a caller gets another one while it has fewer
//! than are free.
//!
//! This is the dynamic threshold of Choudhury and Hahne (IEEE/ACM Transactions on Networking 6(2),
//! 1998) with α = 1. A single caller gets as many as one caller may have. Of `n` callers that hold
//! all they can get, each has about 1/(n + 1) of the tokens, and as many stay free for the next
//! caller. A caller without a token waits only while none is free, which takes as many callers as
//! there are tokens.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// The semaphore; callers are numbers.
pub(super) struct FairShare {
    /// Maximum number of tokens of one caller.
    most: usize,
    /// Changed under the lock, and never across an await.
    state: Mutex<ShareState>,
}

/// Tokens and waiters, under one lock.
struct ShareState {
    /// Number of free tokens.
    free: usize,
    /// Callers that have a token or wait for one.
    callers: HashMap<u64, CallerShare>,
    /// The [`CallerShare::rank`] of each waiting caller: fewest tokens first, then by arrival.
    queue: BTreeSet<(usize, u64, u64)>,
    /// Number of the next waiter.
    next: u64,
}

/// Tokens and waiters of one caller.
#[derive(Default)]
struct CallerShare {
    /// Number of tokens held.
    taken: usize,
    /// By number, that is by arrival.
    waiters: BTreeMap<u64, oneshot::Sender<ThreadToken>>,
}

/// One token; released when dropped.
pub(super) struct ThreadToken {
    /// Semaphore to which it belongs.
    all: Arc<FairShare>,
    caller: u64,
}

/// Future of a token.
///
/// # Cancel safety
/// Cancel safe: dropping it leaves the queue.
pub(super) struct AcquireToken {
    all: Arc<FairShare>,
    caller: u64,
    /// Number of the waiter, by which it leaves the queue.
    number: u64,
    /// Receives the token.
    granted: oneshot::Receiver<ThreadToken>,
}

impl FairShare {
    /// A semaphore with `tokens` in all, at most `most` for one caller.
    pub(super) fn new(tokens: usize, most: usize) -> Arc<FairShare> {
        let state = ShareState { free: tokens, callers: HashMap::new(), queue: BTreeSet::new(), next: 0 };
        Arc::new(FairShare { most, state: Mutex::new(state) })
    }

    /// A token for `caller`. Waiters of one caller are served in the order of these calls.
    pub(super) fn acquire(self: &Arc<Self>, caller: u64) -> AcquireToken {
        let (grant, granted) = oneshot::channel();
        let mut number = 0;
        self.change(|state| {
            number = state.next;
            state.next += 1;
            state.update(caller, |share| share.waiters.insert(number, grant));
        });
        AcquireToken { all: Arc::clone(self), caller, number, granted }
    }

    /// Changes the state, then grants the tokens that can be granted.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut ShareState)) {
        let granted = {
            let mut state = self.lock();
            change(&mut state);
            state.grants(self.most)
        };
        // After the lock is released: a token whose receiver is gone releases itself, which takes the lock.
        for (caller, grant) in granted {
            drop(grant.send(ThreadToken { all: Arc::clone(self), caller }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, ShareState> {
        // No change can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShareState {
    /// Removes the waiters that can be granted a token from the queue, and returns them.
    ///
    /// A caller with `t` tokens gets another one if `t < min(most, free)`.
    fn grants(&mut self, most: usize) -> Vec<(u64, oneshot::Sender<ThreadToken>)> {
        let mut granted = Vec::new();
        // The first has the fewest tokens: if it gets none, no other does.
        while let Some((taken, number, caller)) = self.queue.first().copied()
            && taken < most.min(self.free)
        {
            self.free -= 1;
            self.update(caller, |share| {
                share.taken += 1;
                granted.extend(share.waiters.remove(&number).map(|grant| (caller, grant)));
            });
        }
        granted
    }

    /// Changes the share of a caller, and its rank in the queue with it.
    fn update<T>(&mut self, caller: u64, change: impl FnOnce(&mut CallerShare) -> T) {
        let share = self.callers.entry(caller).or_default();
        if let Some(rank) = share.rank(caller) {
            self.queue.remove(&rank);
        }
        change(share);
        if let Some(rank) = share.rank(caller) {
            self.queue.insert(rank);
        } else if share.taken == 0 {
            self.callers.remove(&caller);
        }
    }
}

impl CallerShare {
    /// Position in the queue: (tokens, number of the first waiter, caller); `None` without a
    /// waiter.
    fn rank(&self, caller: u64) -> Option<(usize, u64, u64)> {
        self.waiters.first_key_value().map(|(number, _)| (self.taken, *number, caller))
    }
}

impl Drop for ThreadToken {
    fn drop(&mut self) {
        self.all.change(|state| {
            state.free += 1;
            state.update(self.caller, |share| share.taken -= 1);
        });
    }
}

impl Future for AcquireToken {
    type Output = ThreadToken;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ThreadToken> {
        let granted = Pin::new(&mut self.granted).poll(cx);
        granted.map(|place| place.expect("its sender stays in the queue until it is used"))
    }
}

impl Drop for AcquireToken {
    fn drop(&mut self) {
        // A waiter that was granted a token has left the queue; its caller may have been removed.
        self.all.change(|state| state.update(self.caller, |share| share.waiters.remove(&self.number)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The token of a waiter, if it was granted.
    fn got(waiting: &mut AcquireToken) -> Option<ThreadToken> {
        match Pin::new(waiting).poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    /// The tokens that these callers get if each requests 100, in turns.
    fn greedy(all: &Arc<FairShare>, callers: u64) -> (Vec<ThreadToken>, Vec<AcquireToken>) {
        let mut waiting: Vec<_> = (0..100).flat_map(|_| (0..callers).map(|caller| all.acquire(caller))).collect();
        let places = waiting.iter_mut().filter_map(got).collect();
        waiting.retain(|one| all.lock().callers.get(&one.caller).is_some_and(|s| s.waiters.contains_key(&one.number)));
        (places, waiting)
    }

    fn is_empty(all: &FairShare) -> bool {
        let state = all.lock();
        state.callers.is_empty() && state.queue.is_empty()
    }

    #[test]
    fn one_caller_gets_as_many_as_it_may_have_and_many_leave_some() {
        for (callers, taken) in [(1, 16), (2, 32), (3, 48), (4, 52), (8, 57), (30, 62), (63, 63), (64, 64), (100, 64)] {
            let all = FairShare::new(64, 16);
            let (places, waiting) = greedy(&all, callers);
            assert_eq!(places.len(), taken, "{callers}");
            assert_eq!(got(&mut all.acquire(1_000)).is_some(), taken < 64, "{callers}");
            drop((places, waiting));
            assert!(is_empty(&all) && all.lock().free == 64, "{callers}");
        }
    }

    #[test]
    fn a_caller_that_comes_first_leaves_half_of_the_rest_to_each_after_it() {
        let all = FairShare::new(64, 100);
        let held: Vec<_> = [32, 16, 8, 4, 2, 1]
            .into_iter()
            .map(|share| {
                let mut waiting: Vec<_> = (0..100).map(|_| all.acquire(share)).collect();
                let places: Vec<_> = waiting.iter_mut().filter_map(got).collect();
                assert_eq!(places.len() as u64, share);
                places
            })
            .collect();
        assert_eq!(all.lock().free, 1);
        drop(held);
        assert!(is_empty(&all));
    }

    #[test]
    fn a_place_that_is_given_back_goes_to_the_caller_with_the_fewest() {
        let all = FairShare::new(4, 4);
        let mut first = [all.acquire(1), all.acquire(1), all.acquire(1)];
        let mut held: Vec<_> = first.iter_mut().filter_map(got).collect();
        held.extend([2, 3].into_iter().filter_map(|caller| got(&mut all.acquire(caller))));
        let (mut again, mut new) = (all.acquire(2), all.acquire(4));
        assert!(held.len() == 4 && got(&mut again).is_none() && got(&mut new).is_none());
        held.pop();
        let _new = got(&mut new).expect("the caller that has none");
        assert!(got(&mut again).is_none());
        held.clear();
        assert!(got(&mut again).is_some());
    }

    #[test]
    fn waiters_of_a_caller_are_served_in_their_order_and_one_that_leaves_is_passed_over() {
        let all = FairShare::new(2, 1);
        let place = got(&mut all.acquire(1)).expect("a place");
        let (second, mut third, fourth) = (all.acquire(1), all.acquire(1), all.acquire(1));
        drop(second);
        assert!(got(&mut third).is_none());
        drop(place);
        // Was granted, and is released without having been polled.
        drop(third);
        let mut fourth = fourth;
        drop(got(&mut fourth).expect("the next one's"));
        drop(fourth);
        assert!(is_empty(&all) && all.lock().free == 2);
    }
}
