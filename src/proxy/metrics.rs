//! What became of requests, counted for whoever watches; it goes on over every reading of the file.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::locker::{Caller, RefusalReason};

/// Every reason for which a limit refuses, with its word for logs and metrics.
pub const REASONS: [(RefusalReason, &str); 8] = [
    (RefusalReason::Full, "full"),
    (RefusalReason::TooLong, "too_long"),
    (RefusalReason::QueueFull, "queue_full"),
    (RefusalReason::TimedOut, "timed_out"),
    (RefusalReason::TooManyKeys, "too_many_keys"),
    (RefusalReason::CostTooHigh, "cost_too_high"),
    (RefusalReason::StoreLost, "store_lost"),
    (RefusalReason::Unwritten, "unwritten"),
];

/// The upper bounds of the buckets in which waits are counted, in seconds; what is longer has a bucket of its own.
pub const WAITS: [f64; 14] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// How many callers' names are kept. When there are more, all are forgotten, and learnt again when they wait.
const MOST_CALLERS: usize = 10_000;

/// What the whole process has counted.
#[derive(Default)]
pub struct Metrics {
    limits: Mutex<BTreeMap<Arc<str>, Arc<LimitMetrics>>>,
    /// By the first digit of the status.
    requests: [Count; 6],
    refusals: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// The names of those who have waited.
    callers: Mutex<HashMap<Caller, Arc<str>>>,
    pools: Mutex<Vec<Weak<dyn Pool>>>,
    /// Connections to origins that were opened, and requests that found one which had been opened before.
    pub(super) dialled: Count,
    pub(super) reused: Count,
}

/// Connections to origins that are kept.
pub(super) trait Pool: Send + Sync {
    /// How many there are, and on how many of them requests are under way or may be at any time.
    fn kept(&self) -> Kept;

    /// Closes those that are idle; whether there was one.
    fn close_idle(&self) -> bool;
}

/// How many connections to origins are kept, over all pools.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Kept {
    /// Those on which nothing is under way.
    pub idle: usize,
    /// Those of HTTP/2, which many requests share.
    pub shared: usize,
}

/// What became of the requests that a limit counts.
#[derive(Default, Debug)]
pub struct LimitMetrics {
    /// Permits that were granted.
    pub permits: Count,
    /// Requests that hung up in line.
    pub left: Count,
    /// Answers of origins that ask for less.
    pub pushbacks: Count,
    /// Requests that were sent again after one.
    pub resent: Count,
    refused: [Count; REASONS.len()],
    waits: [Count; WAITS.len() + 1],
    waited_micros: Count,
}

/// A number that only grows.
#[derive(Default, Debug)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add_one(&self) {
        self.add(1);
    }

    fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long requests waited for their permits.
#[derive(Clone, PartialEq, Debug)]
pub struct Waits {
    /// The sum, in seconds.
    pub sum: f64,
    /// How many waited so long and no longer: the upper bound in seconds (`f64::INFINITY`: any), and the number in that bucket alone.
    pub buckets: Vec<(f64, u64)>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl LimitMetrics {
    /// A permit was granted after that wait.
    pub(super) fn permit(&self, waited: Duration) {
        self.permits.add_one();
        let seconds = waited.as_secs_f64();
        let bucket = WAITS.iter().position(|most| seconds <= *most).unwrap_or(WAITS.len());
        self.waits[bucket].add_one();
        self.waited_micros.add(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
    }

    fn refuse(&self, why: RefusalReason) {
        for (count, _) in self.refused.iter().zip(REASONS).filter(|(_, (reason, _))| *reason == why) {
            count.add_one();
        }
    }

    /// How often it refused, for each reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.iter().zip(&self.refused).map(|((_, word), count)| (*word, count.get()))
    }

    /// How long requests waited for their permits; at once is a wait of nothing.
    pub fn waits(&self) -> Waits {
        let bounds = WAITS.into_iter().chain([f64::INFINITY]);
        let buckets = bounds.zip(&self.waits).map(|(most, count)| (most, count.get())).collect();
        Waits { sum: Duration::from_micros(self.waited_micros.get()).as_secs_f64(), buckets }
    }
}

impl Metrics {
    /// The counters of the limit with this name, which is the same for ever.
    pub(super) fn of(&self, limit: &Arc<str>) -> Arc<LimitMetrics> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(limits.entry(Arc::clone(limit)).or_default())
    }

    /// A limit refused a request.
    pub(super) fn limit_refused(&self, limit: &Arc<str>, why: RefusalReason) {
        self.of(limit).refuse(why);
    }

    /// A request has ended with this status; `refused`: who refused it, and the reason in a word.
    pub(super) fn ended(&self, status: u16, refused: Option<(&'static str, &'static str)>) {
        if let Some(count) = self.requests.get(usize::from(status / 100)) {
            count.add_one();
        }
        if let Some(refused) = refused {
            *self.refusals().entry(refused).or_default() += 1;
        }
    }

    /// Remembers the name of a caller that is about to wait.
    pub(super) fn remember_name(&self, caller: Caller, name: impl FnOnce() -> String) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.contains_key(&caller) {
            return;
        }
        if callers.len() >= MOST_CALLERS {
            callers.clear();
        }
        callers.insert(caller, name().into());
    }

    /// The name of a caller who has waited: a user's or an address.
    pub fn caller(&self, caller: Caller) -> Arc<str> {
        let callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.get(&caller).map_or_else(|| "unknown".into(), Arc::clone)
    }

    /// One more pool, as long as there is one.
    pub(super) fn watch(&self, pool: Weak<dyn Pool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }

    /// How many connections to origins are kept.
    pub fn kept(&self) -> Kept {
        let kept = self.pools().into_iter().map(|pool| pool.kept());
        kept.fold(Kept::default(), |all, one| Kept { idle: all.idle + one.idle, shared: all.shared + one.shared })
    }

    /// Closes the idle connections to origins, of all pools: for want of descriptors. Whether there was one. Those of HTTP/2
    /// end a moment later, each in its runtime.
    pub fn close_idle(&self) -> bool {
        self.pools().iter().filter(|pool| pool.close_idle()).count() > 0
    }

    fn pools(&self) -> Vec<Arc<dyn Pool>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    /// How many connections to origins were opened.
    pub fn dialled(&self) -> u64 {
        self.dialled.get()
    }

    /// How many requests found a connection that was there.
    pub fn reused(&self) -> u64 {
        self.reused.get()
    }

    /// Every limit that there is or was, and what became of its requests.
    pub fn limits(&self) -> Vec<(Arc<str>, Arc<LimitMetrics>)> {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.iter().map(|(name, counters)| (Arc::clone(name), Arc::clone(counters))).collect()
    }

    /// How many requests have ended, by the first digit of their status.
    pub fn requests(&self) -> impl Iterator<Item = (usize, u64)> {
        self.requests.iter().enumerate().map(|(digit, count)| (digit, count.get())).skip(1)
    }

    /// How many requests the gateway answered itself, with an error: who refused, and the reason in a word.
    pub fn refused(&self) -> Vec<((&'static str, &'static str), u64)> {
        self.refusals().iter().map(|(why, count)| (*why, *count)).collect()
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<(&'static str, &'static str), u64>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_counted_in_the_first_bucket_that_holds_it() {
        let counters = LimitMetrics::default();
        for millis in [0, 1, 2, 999, 1000, 60_000, 60_001] {
            counters.permit(Duration::from_millis(millis));
        }
        let waits = counters.waits();
        let counted: Vec<_> = waits.buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(counted, [(0.001, 2), (0.005, 1), (1.0, 2), (60.0, 1), (f64::INFINITY, 1)]);
        assert!((waits.sum - 122.003).abs() < 1e-9, "{}", waits.sum);
        assert_eq!(counters.permits.get(), 7);
    }

    #[test]
    fn a_limit_keeps_its_tally_as_long_as_it_keeps_its_name() {
        let metrics = Metrics::default();
        metrics.limit_refused(&"a".into(), RefusalReason::TooLong);
        metrics.of(&"b".into());
        assert!(Arc::ptr_eq(&metrics.of(&"a".into()), &metrics.of(&"a".into())));
        let refused: Vec<_> = metrics.of(&"a".into()).refused().filter(|(_, count)| *count > 0).collect();
        assert_eq!(refused, [("too_long", 1)]);
        assert_eq!(metrics.limits().len(), 2);
    }

    #[test]
    fn every_status_and_reason_is_counted_where_it_belongs() {
        let metrics = Metrics::default();
        metrics.ended(200, None);
        metrics.ended(204, None);
        metrics.ended(429, Some(("limit", "full")));
        metrics.ended(999, None);
        assert_eq!(metrics.requests().collect::<Vec<_>>(), [(1, 0), (2, 2), (3, 0), (4, 1), (5, 0)]);
        assert_eq!(metrics.refused(), [(("limit", "full"), 1)]);
    }
}
