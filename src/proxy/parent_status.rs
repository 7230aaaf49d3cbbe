//! Health and metrics of parent proxies; they outlive reloads.
//!
//! A parent that failed is passed over for a second, and twice as long after each further failure, up to half a minute.
//! One request tries it then: traffic is the probe. A change is logged once, not for each request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::histogram::Count;
use crate::time::Time;

/// First and longest time for which a failed parent is passed over. A second spans the restart of a proxy, half a minute
/// what a fleet can wait for one that has come back.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Health and metrics of one parent.
#[derive(Debug)]
pub struct ParentStatus {
    /// Its URL, without credentials.
    name: Arc<str>,
    /// Connections that were made through it.
    pub connected: Count,
    /// Requests for a connection that it refused.
    pub refused: Count,
    /// Failures: no connection, or no sensible answer.
    pub failed: Count,
    /// True from a failure until the next success.
    is_down: AtomicBool,
    outage: Mutex<Outage>,
}

/// Present outage; of no meaning while the parent is up.
#[derive(Default, Debug)]
struct Outage {
    /// Failures in a row.
    failures: u32,
    /// Time of the next try.
    retry_at: Time,
    /// True while one request tries it.
    is_tried: bool,
}

impl Outage {
    /// Length of the present back-off.
    fn backoff(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        (FIRST_BACKOFF * (1 << doublings)).min(MAX_BACKOFF)
    }
}

impl ParentStatus {
    /// Status of a parent that has not been used.
    pub(super) fn new(name: Arc<str>) -> ParentStatus {
        ParentStatus {
            name,
            connected: Count::default(),
            refused: Count::default(),
            failed: Count::default(),
            is_down: AtomicBool::new(false),
            outage: Mutex::default(),
        }
    }

    /// True from a failure until the next success.
    pub fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// True if a request may use it now: it is up, or it is time for one request to try it.
    pub(super) fn admits(&self, now: Time) -> bool {
        if !self.is_down() {
            return true;
        }
        let mut outage = self.lock();
        let is_time = now >= outage.retry_at;
        if is_time {
            outage.retry_at = now + outage.backoff();
            outage.is_tried = true;
        }
        is_time
    }

    /// Records that it has answered.
    pub(super) fn succeeded(&self) {
        if self.is_down() && self.is_down.swap(false, Ordering::Relaxed) {
            *self.lock() = Outage::default();
            tracing::info!(parent = &*self.name, "a parent proxy works again");
        }
    }

    /// Records a failure. Of many requests that fail together the first one counts.
    pub(super) fn failed(&self, why: &str, now: Time) {
        self.failed.add_one();
        let mut outage = self.lock();
        let was_down = self.is_down.swap(true, Ordering::Relaxed);
        if was_down && !std::mem::take(&mut outage.is_tried) {
            return;
        }
        outage.failures += 1;
        outage.retry_at = now + outage.backoff();
        drop(outage);
        if !was_down {
            tracing::warn!(
                parent = &*self.name,
                why,
                "a parent proxy fails, and is passed over for some seconds at a time"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failed_parent_is_tried_by_one_request_after_each_backoff() {
        let parent = ParentStatus::new("http://a:1".into());
        let mut now = Time::from_nanos(1 << 60);
        assert!(parent.admits(now));
        for _ in 0..100 {
            parent.failed("refused", now);
        }
        for backoff in [1, 2, 4, 8, 16, 30, 30] {
            assert!(!parent.admits(now + SECOND * backoff - Duration::from_millis(1)), "{backoff}");
            now = now + SECOND * backoff;
            assert!(parent.admits(now), "{backoff}");
            assert!(!parent.admits(now), "one request is enough");
            parent.failed("refused", now);
            parent.failed("refused", now);
        }
        parent.succeeded();
        assert!(!parent.is_down() && parent.admits(now) && parent.admits(now));
        parent.failed("refused", now);
        assert!(!parent.admits(now) && parent.admits(now + SECOND), "the next outage begins anew");
    }

    #[test]
    fn a_try_that_is_given_up_does_not_end_the_tries() {
        let parent = ParentStatus::new("http://a:1".into());
        let now = Time::from_nanos(1 << 60);
        parent.failed("refused", now);
        assert!(parent.admits(now + SECOND));
        assert!(parent.admits(now + SECOND * 2), "its caller has hung up meanwhile");
    }
}
