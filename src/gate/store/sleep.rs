//! Whether the machine was suspended: the gateway's line stands still then, and the store's does not.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::gate::Gate;
use crate::time::Time;

/// What the two clocks may differ by because a thread was held up between them.
const UNREST_NANOS: u64 = 10_000_000;

/// What is known of it.
pub(in crate::gate) struct Sleep {
    /// For how long it had been suspended when that was looked at last.
    before: AtomicU64,
    /// When it was noticed that it had been.
    noticed: AtomicU64,
}

impl Sleep {
    pub(in crate::gate) fn new(asleep_nanos: u64) -> Sleep {
        Sleep { before: AtomicU64::new(asleep_nanos), noticed: AtomicU64::new(0) }
    }
}

impl Gate {
    /// Whether the machine was suspended since then.
    pub(in crate::gate) fn has_slept_since(&self, then: Time) -> bool {
        then.as_nanos() < self.sleep.noticed.load(Ordering::Relaxed) || self.is_awake_again().is_some()
    }

    /// How long it has been suspended altogether, if that is more than was known.
    fn is_awake_again(&self) -> Option<u64> {
        let asleep = self.clock.asleep_nanos();
        (asleep > self.sleep.before.load(Ordering::Relaxed).saturating_add(UNREST_NANOS)).then_some(asleep)
    }

    /// Whether the machine was suspended since this was asked last; from here on that is known of whatever was granted.
    pub(super) fn wakes(&self) -> bool {
        let Some(asleep) = self.is_awake_again() else { return false };
        self.sleep.noticed.store(self.clock.now().as_nanos(), Ordering::Relaxed);
        self.sleep.before.store(asleep, Ordering::Relaxed);
        true
    }
}
