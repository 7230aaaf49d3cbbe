//! Status and counters of the store client, for the admin API and metrics.
//!
//! Written by the store thread, read by any thread. The counters never decrease; each is read by
//! itself, so a set of them may be of slightly different moments.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Reachability of the store, and the fallback in use. The admin API and metrics show it as `off`,
/// `up`, `down`, `fraction` or `standalone`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// No limit in force is shared.
    Off,
    /// The store decides about shared limits.
    Up,
    /// The store is unreachable, and shared limits let no request pass.
    Down,
    /// The store is unreachable, and this gateway uses its fraction of at least one shared limit.
    Fraction,
    /// The store is unreachable, and this gateway uses each shared limit as if it were the only
    /// gateway.
    Standalone,
}

/// Counters of the store client since its start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StoreFigures {
    /// Number of replies of the store. Heartbeats and hellos included.
    pub responses: u64,
    /// Sum of the response times, in microseconds. Divided by `responses`: the mean.
    pub response_micros: u64,
    /// Number of times that the store became unreachable. The first failed attempt after the start
    /// counts too.
    pub outages: u64,
    /// Number of jumps of the store's clock.
    pub clock_steps: u64,
    /// Number of permits that arrived too late to be used.
    pub late_permits: u64,
    /// Number of replies according to which another gateway has other `[store]` settings of the
    /// fallback.
    pub settings_mismatch: u64,
}

/// Status of the store client, shared with its readers.
#[derive(Debug)]
pub struct Status {
    /// The state, and the reason of an outage.
    health: Mutex<(Health, Option<String>)>,
    /// Counters, see the fields of [`StoreFigures`] with the same names.
    responses: AtomicU64,
    response_micros: AtomicU64,
    outages: AtomicU64,
    clock_steps: AtomicU64,
    late_permits: AtomicU64,
    settings_mismatch: AtomicU64,
    /// Number of replies with a mismatch, by the limit's name.
    mismatches: Mutex<BTreeMap<Arc<str>, u64>>,
}

impl Status {
    /// Status before the first attempt: off, and all counters at 0.
    pub(super) fn new() -> Status {
        Status {
            health: Mutex::new((Health::Off, None)),
            responses: AtomicU64::new(0),
            response_micros: AtomicU64::new(0),
            outages: AtomicU64::new(0),
            clock_steps: AtomicU64::new(0),
            late_permits: AtomicU64::new(0),
            settings_mismatch: AtomicU64::new(0),
            mismatches: Mutex::default(),
        }
    }

    /// The state of the store; and the reason while it is unreachable.
    pub fn health(&self) -> (Health, Option<String>) {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counters so far.
    pub fn figures(&self) -> StoreFigures {
        StoreFigures {
            responses: self.responses.load(Ordering::Relaxed),
            response_micros: self.response_micros.load(Ordering::Relaxed),
            outages: self.outages.load(Ordering::Relaxed),
            clock_steps: self.clock_steps.load(Ordering::Relaxed),
            late_permits: self.late_permits.load(Ordering::Relaxed),
            settings_mismatch: self.settings_mismatch.load(Ordering::Relaxed),
        }
    }

    /// Limits with a configuration that differs between gateways, and the number of replies that
    /// reported it.
    ///
    /// Sorted by name. A limit without mismatches is missing.
    pub fn mismatches(&self) -> Vec<(Arc<str>, u64)> {
        let known = self.mismatches.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(name, count)| (Arc::clone(name), *count)).collect()
    }

    /// Counts a reply that reports a mismatch of this limit.
    pub(super) fn count_mismatch(&self, limit: &Arc<str>) {
        let mut known = self.mismatches.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(Arc::clone(limit)).or_insert(0) += 1;
    }

    /// Counts a reply that reports a mismatch of `[store]`.
    pub(super) fn count_settings_mismatch(&self) {
        self.settings_mismatch.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a permit that arrived too late to be used.
    pub fn count_late_permit(&self) {
        self.late_permits.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the state and the reason of an outage; returns true if the state changed.
    ///
    /// `why` replaces the earlier reason in any case.
    pub(super) fn set(&self, health: Health, why: Option<String>) -> bool {
        let mut known = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = known.0 != health;
        *known = (health, why);
        changed
    }

    /// Counts a reply that took so many microseconds.
    pub(super) fn count_response(&self, micros: u64) {
        self.responses.fetch_add(1, Ordering::Relaxed);
        self.response_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts a loss of the store.
    pub(super) fn count_outage(&self) {
        self.outages.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a jump of the store's clock.
    pub(super) fn count_clock_step(&self) {
        self.clock_steps.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_state_is_told_from_a_new_reason() {
        let status = Status::new();
        let down = |why: &str| status.set(Health::Down, Some(why.to_owned()));
        assert!(down("refused") && !down("silent"));
        assert_eq!(status.health(), (Health::Down, Some("silent".to_owned())));
        assert!(status.set(Health::Up, None));
        assert_eq!(status.health(), (Health::Up, None));
    }

    #[test]
    fn each_counter_counts_its_own_events() {
        let status = Status::new();
        status.count_response(300);
        status.count_response(400);
        status.count_outage();
        (0..2).for_each(|_| status.count_clock_step());
        (0..3).for_each(|_| status.count_late_permit());
        (0..4).for_each(|_| status.count_settings_mismatch());
        let expected = StoreFigures {
            responses: 2,
            response_micros: 700,
            outages: 1,
            clock_steps: 2,
            late_permits: 3,
            settings_mismatch: 4,
        };
        assert_eq!(status.figures(), expected);
    }

    #[test]
    fn mismatches_are_counted_by_the_name_of_the_limit() {
        let status = Status::new();
        let (one, other) = (Arc::from("one"), Arc::from("other"));
        assert!(status.mismatches().is_empty());
        status.count_mismatch(&other);
        status.count_mismatch(&one);
        status.count_mismatch(&one);
        assert_eq!(status.mismatches(), [(one, 2), (other, 1)]);
    }
}
