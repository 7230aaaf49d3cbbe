//! Metrics of requests, limits and connections to origins; they outlive reloads.
//!
//! Counters are relaxed atomics: a reader may see one of two related counters a moment earlier than
//! the other. They begin at zero with the process, and never decrease. The admin API exports them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::hang_ups::{CallerTimeout, HangUps};
use super::histogram::{Count, Histogram, HistogramValues};
use super::host_metrics::HostMetrics;
use super::instance_id::InstanceId;
use super::log_interval::LogInterval;
use super::parent_status::ParentStatus;
pub use super::refusal_tally::REASONS;
use super::refusal_tally::{ManyRefusals, RefusalTally};
use crate::locker::{Caller, RefusalReason};
use crate::time::Time;

/// Number of callers' names that are kept, below a MiB together. When there are more, all are
/// forgotten, and learnt again when their callers wait.
const MAX_CALLER_NAMES: usize = 10_000;

/// Metrics of the whole process.
#[derive(Default)]
pub struct Metrics {
    /// Metrics by name of the limit; an entry stays after its limit was removed.
    limits: Mutex<BTreeMap<Arc<str>, Arc<LimitMetrics>>>,
    /// Requests whose head has been read, but for queries of the capabilities.
    pub(super) received: Count,
    /// Finished requests, by the first digit of the status.
    requests: [Count; 6],
    /// Number of refusals by party and reason.
    refusals: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// Metrics by name of the host; an entry stays after the configuration names the host no more.
    hosts: Mutex<BTreeMap<Arc<str>, Arc<HostMetrics>>>,
    /// Status by URL of the parent proxy; an entry stays after the configuration names the parent no more.
    parents: Mutex<BTreeMap<Arc<str>, Arc<ParentStatus>>>,
    /// Names of callers that have waited.
    callers: Mutex<HashMap<Caller, Arc<str>>>,
    /// Pools of all runtimes and configurations that are still used.
    pools: Mutex<Vec<Weak<dyn Pool>>>,
    /// Number of connections to origins that were opened, and number of requests that reused one.
    pub(super) dialled: Count,
    pub(super) reused: Count,
    /// Number of spans lost: the queue was full, or the collector did not take them.
    pub spans_dropped: Arc<Count>,
    /// Identity of this process for collectors.
    pub instance: InstanceId,
}

/// A pool of connections to origins.
pub(super) trait Pool: Send + Sync {
    /// Number of connections that it keeps.
    fn kept(&self) -> PoolSize;

    /// Closes the idle ones; returns true if there was one.
    fn close_idle(&self) -> bool;
}

/// Number of connections to origins that are kept, over all pools.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PoolSize {
    /// Connections without a request.
    pub idle: usize,
    /// Connections of HTTP/2, which many requests share.
    pub shared: usize,
}

/// Metrics of the requests that one limit counts.
#[derive(Default, Debug)]
pub struct LimitMetrics {
    /// Permits granted.
    pub permits: Count,
    /// Times after which requests left the queue because their callers hung up.
    left: Histogram,
    /// The last of these.
    hang_ups: HangUps,
    /// Pushbacks of origins.
    pub pushbacks: Count,
    /// Since the last log line about a pause that follows from one.
    pause_logged: Mutex<LogInterval>,
    /// Requests that were sent again after a pushback.
    pub resent: Count,
    /// Refusals by reason, in the order of [`REASONS`].
    refused: [Count; REASONS.len()],
    /// Refusals since the last log line about them.
    refusal_tally: RefusalTally,
    /// Waits for permits.
    waits: Histogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl LimitMetrics {
    /// Counts a permit that was granted after that wait.
    pub(super) fn permit(&self, waited: Duration) {
        self.permits.add_one();
        self.waits.observe(waited);
    }

    /// Counts a request that left the queue after that wait, because its caller hung up. Returns
    /// what such hang-ups show, if a log line about it is due.
    pub(super) fn hang_up(&self, waited: Duration, caller: Caller, now: Time) -> Option<CallerTimeout> {
        self.left.observe(waited);
        self.hang_ups.record(waited, caller, now)
    }

    /// Counts a refusal. Returns the last ones, if a log line about them is due.
    pub(super) fn refuse(&self, why: RefusalReason, now: Time) -> Option<ManyRefusals> {
        for (count, _) in self.refused.iter().zip(REASONS).filter(|(_, (reason, _))| *reason == why) {
            count.add_one();
        }
        self.refusal_tally.count(why, now)
    }

    /// Notes a pause that follows from a pushback. Returns true if a log line about it is due.
    pub(super) fn pause(&self, now: Time) -> bool {
        let mut logged = self.pause_logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = logged.is_over(now);
        if is_due {
            logged.begin(now);
        }
        is_due
    }

    /// Time-out that callers seem to have, by their hang-ups of the last ten minutes.
    pub fn caller_timeout(&self, now: Time) -> Option<CallerTimeout> {
        self.hang_ups.timeout(now)
    }

    /// Number of refusals for each reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.iter().zip(&self.refused).map(|((_, word), count)| (*word, count.get()))
    }

    /// Histogram of waits for permits; a permit granted at once is a wait of zero.
    pub fn waits(&self) -> HistogramValues {
        self.waits.values()
    }

    /// Histogram of the waits of requests whose callers hung up in the queue.
    pub fn left(&self) -> HistogramValues {
        self.left.values()
    }
}

impl Metrics {
    /// Metrics of the limit with this name; they are the same object for the life of the process.
    pub(super) fn of(&self, limit: &Arc<str>) -> Arc<LimitMetrics> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(limits.entry(Arc::clone(limit)).or_default())
    }

    /// Metrics of the host with this name; they are the same object for the life of the process.
    pub(super) fn of_host(&self, name: &str) -> Arc<HostMetrics> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(name.into()).or_default())
    }

    /// Metrics of every host that the configuration names or has named, and of all others as one.
    pub fn hosts(&self) -> Vec<(Arc<str>, Arc<HostMetrics>)> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.iter().map(|(name, counters)| (Arc::clone(name), Arc::clone(counters))).collect()
    }

    /// Status of the parent proxy with this URL; it is the same object for the life of the process.
    pub(super) fn of_parent(&self, name: &Arc<str>) -> Arc<ParentStatus> {
        let mut parents = self.parents.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = parents.entry(Arc::clone(name));
        Arc::clone(entry.or_insert_with(|| Arc::new(ParentStatus::new(Arc::clone(name)))))
    }

    /// Every parent proxy that the configuration names or has named.
    pub fn parents(&self) -> Vec<(Arc<str>, Arc<ParentStatus>)> {
        let parents = self.parents.lock().unwrap_or_else(PoisonError::into_inner);
        parents.iter().map(|(name, status)| (Arc::clone(name), Arc::clone(status))).collect()
    }

    /// Counts a request that has ended with this status. `refused`: party that refused it, and the
    /// reason in a word.
    ///
    /// A status outside of 100 to 599 counts only as a refusal, if it was one.
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
        if callers.len() >= MAX_CALLER_NAMES {
            callers.clear();
        }
        callers.insert(caller, name().into());
    }

    /// Name of a caller that has waited: a user name or an address.
    ///
    /// `unknown` for one that has not waited, or was forgotten.
    pub fn caller(&self, caller: Caller) -> Arc<str> {
        let callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.get(&caller).map_or_else(|| "unknown".into(), Arc::clone)
    }

    /// Adds a pool, for as long as it lives.
    pub(super) fn watch(&self, pool: Weak<dyn Pool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }

    /// Number of connections to origins that are kept.
    pub fn kept(&self) -> PoolSize {
        let kept = self.pools().into_iter().map(|pool| pool.kept());
        kept.fold(PoolSize::default(), |all, one| PoolSize {
            idle: all.idle + one.idle,
            shared: all.shared + one.shared,
        })
    }

    /// Closes the idle connections to origins in all pools, to free descriptors; returns true if
    /// there was one. Those of HTTP/2 end a moment later, each in its own runtime.
    pub fn close_idle(&self) -> bool {
        self.pools().iter().filter(|pool| pool.close_idle()).count() > 0
    }

    fn pools(&self) -> Vec<Arc<dyn Pool>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    /// Number of connections to origins that were opened.
    pub fn dialled(&self) -> u64 {
        self.dialled.get()
    }

    /// Number of requests that reused a connection.
    pub fn reused(&self) -> u64 {
        self.reused.get()
    }

    /// Metrics of every limit that exists or has existed.
    pub fn limits(&self) -> Vec<(Arc<str>, Arc<LimitMetrics>)> {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.iter().map(|(name, counters)| (Arc::clone(name), Arc::clone(counters))).collect()
    }

    /// Number of requests that have ended, by the first digit of their status.
    pub fn requests(&self) -> impl Iterator<Item = (usize, u64)> {
        self.requests.iter().enumerate().map(|(digit, count)| (digit, count.get())).skip(1)
    }

    /// Number of refusals, by the party that refused and the reason in a word.
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
    fn a_limit_keeps_its_tally_as_long_as_it_keeps_its_name() {
        let metrics = Metrics::default();
        metrics.of(&"a".into()).refuse(RefusalReason::TooLong, Time::START);
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
