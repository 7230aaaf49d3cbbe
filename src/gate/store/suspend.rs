//! Suspend detector: finds out if the machine was suspended, as the gateway's clock stands still
//! then and the store's runs on.
//!
//! A grant of the store is valid for a time by the store's clock. After a suspend this gateway
//! would take it for valid longer than it is, so no grant from before is used.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::gate::Gate;
use crate::time::Time;

/// Tolerated difference, in nanoseconds, between two clocks that are read one after the other: the
/// thread may be preempted between the reads. A choice: a suspend takes far longer than 10 ms.
const READ_JITTER_NANOS: u64 = 10_000_000;

/// Suspends of the machine so far.
pub(in crate::gate) struct SuspendDetector {
    /// Total time suspended at the last noted suspend, in nanoseconds.
    noted_total: AtomicU64,
    /// Time on the gateway's clock just after the last noted suspend, in nanoseconds; 0 if there
    /// was none.
    noted_at: AtomicU64,
}

impl SuspendDetector {
    /// Starts with a machine that has been suspended for so many nanoseconds since its boot.
    pub(in crate::gate) fn new(asleep_nanos: u64) -> SuspendDetector {
        SuspendDetector { noted_total: AtomicU64::new(asleep_nanos), noted_at: AtomicU64::new(0) }
    }
}

impl Gate {
    /// Returns true if the machine was suspended since `then`.
    ///
    /// Called for each check of a shared permit: two reads of clocks, no lock.
    pub(in crate::gate) fn has_slept_since(&self, then: Time) -> bool {
        // Reads in the opposite order of the writes in `note_wake`, so that no suspend is missed in between.
        self.has_woken() || then.as_nanos() < self.sleep.noted_at.load(Ordering::Relaxed)
    }

    /// Returns true if the machine was suspended since the last noted suspend. Until
    /// [`note_wake`](Gate::note_wake), no grant of the store is valid.
    pub(super) fn has_woken(&self) -> bool {
        self.unnoted_suspend().is_some()
    }

    /// Total time suspended since the boot, in nanoseconds; `None` if it was noted already.
    fn unnoted_suspend(&self) -> Option<u64> {
        let asleep = self.clock.asleep_nanos();
        (asleep > self.sleep.noted_total.load(Ordering::Acquire).saturating_add(READ_JITTER_NANOS)).then_some(asleep)
    }

    /// Notes a suspend: all grants until now are late. Called after the locker's slots of the store
    /// were dropped, so that no later grant uses slots from before the suspend.
    pub(super) fn note_wake(&self) {
        let Some(asleep) = self.unnoted_suspend() else { return };
        // A grant at this very nanosecond uses slots from before the suspend.
        self.sleep.noted_at.store(self.clock.now().as_nanos() + 1, Ordering::Relaxed);
        self.sleep.noted_total.store(asleep, Ordering::Release);
    }
}
