//! How it stands with the store, for whoever watches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Whether the store can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// No limit in force is shared.
    Off,
    /// It is asked.
    Asked,
    /// It cannot be asked, and nobody passes a shared limit.
    Lost,
    /// It cannot be asked, and this gateway goes on with its part of the shared limits that have come so far.
    Shared,
    /// It cannot be asked, and this gateway goes on as if it were alone.
    Alone,
}

/// What has happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StoreFigures {
    /// Answers of the store.
    pub exchanges: u64,
    /// How long they took together, in microseconds.
    pub exchange_micros: u64,
    /// How often it could be asked no longer.
    pub losses: u64,
    /// How often its clock was set.
    pub clock_steps: u64,
    /// Permits that came too late to be used.
    pub late_permits: u64,
    /// Answers in which another gateway's `[store]` said something else of gateways that are cut off.
    pub settings_mismatch: u64,
}

/// How it stands with the store.
#[derive(Debug)]
pub struct Status {
    health: Mutex<(Health, Option<String>)>,
    exchanges: AtomicU64,
    exchange_micros: AtomicU64,
    losses: AtomicU64,
    clock_steps: AtomicU64,
    late_permits: AtomicU64,
    settings_mismatch: AtomicU64,
    mismatch_log: Mutex<BTreeMap<Arc<str>, u64>>,
}

impl Status {
    pub(super) fn new() -> Status {
        Status {
            health: Mutex::new((Health::Off, None)),
            exchanges: AtomicU64::new(0),
            exchange_micros: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            clock_steps: AtomicU64::new(0),
            late_permits: AtomicU64::new(0),
            settings_mismatch: AtomicU64::new(0),
            mismatch_log: Mutex::default(),
        }
    }

    /// Whether it can be asked; and if not, why.
    pub fn health(&self) -> (Health, Option<String>) {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has happened so far.
    pub fn figures(&self) -> StoreFigures {
        StoreFigures {
            exchanges: self.exchanges.load(Ordering::Relaxed),
            exchange_micros: self.exchange_micros.load(Ordering::Relaxed),
            losses: self.losses.load(Ordering::Relaxed),
            clock_steps: self.clock_steps.load(Ordering::Relaxed),
            late_permits: self.late_permits.load(Ordering::Relaxed),
            settings_mismatch: self.settings_mismatch.load(Ordering::Relaxed),
        }
    }

    /// Of each limit of which gateways say different things, in how many answers they did.
    pub fn mismatches(&self) -> Vec<(Arc<str>, u64)> {
        let known = self.mismatch_log.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(name, count)| (Arc::clone(name), *count)).collect()
    }

    pub(super) fn count_mismatch(&self, limit: &Arc<str>) {
        let mut known = self.mismatch_log.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(Arc::clone(limit)).or_insert(0) += 1;
    }

    pub(super) fn count_settings_mismatch(&self) {
        self.settings_mismatch.fetch_add(1, Ordering::Relaxed);
    }

    /// A permit came too late to be used.
    pub fn count_late_permit(&self) {
        self.late_permits.fetch_add(1, Ordering::Relaxed);
    }

    /// It is so from here on; whether it was otherwise before.
    pub(super) fn set(&self, health: Health, why: Option<String>) -> bool {
        let mut known = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = known.0 != health;
        *known = (health, why);
        changed
    }

    pub(super) fn count_response(&self, micros: u64) {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        self.exchange_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) fn count_outage(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_clock_step(&self) {
        self.clock_steps.fetch_add(1, Ordering::Relaxed);
    }
}
