//! Whether the machine was suspended: the gateway's line stands still then, and the store's does not.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::gate::Gate;
use crate::time::Time;

/// What the two clocks may differ by because a thread was held up between them.
const UNREST_NANOS: u64 = 10_000_000;

/// What is known of it.
pub(in crate::gate) struct SuspendDetector {
    /// For how long it had been suspended when that was looked at last.
    before: AtomicU64,
    /// Just after it was noticed that it had been.
    noticed: AtomicU64,
}

impl SuspendDetector {
    pub(in crate::gate) fn new(asleep_nanos: u64) -> SuspendDetector {
        SuspendDetector { before: AtomicU64::new(asleep_nanos), noticed: AtomicU64::new(0) }
    }
}

impl Gate {
    /// Whether the machine was suspended since then.
    pub(in crate::gate) fn has_slept_since(&self, then: Time) -> bool {
        // In this order: `note_wake` writes them in the other.
        self.has_woken() || then.as_nanos() < self.sleep.noticed.load(Ordering::Relaxed)
    }

    /// Whether the machine was suspended since that was noted last. Until it is noted, nothing of the store's is good.
    pub(super) fn has_woken(&self) -> bool {
        self.wake().is_some()
    }

    /// How long it has been suspended altogether, if that is more than was noted.
    fn wake(&self) -> Option<u64> {
        let asleep = self.clock.asleep_nanos();
        (asleep > self.sleep.before.load(Ordering::Acquire).saturating_add(UNREST_NANOS)).then_some(asleep)
    }

    /// Notes a suspend: all that was granted until now is late. Called when nothing is left from which more could be granted
    /// that dates from before.
    pub(super) fn note_wake(&self) {
        let Some(asleep) = self.wake() else { return };
        // What was granted at this very moment dates from before.
        self.sleep.noticed.store(self.clock.now().as_nanos() + 1, Ordering::Relaxed);
        self.sleep.before.store(asleep, Ordering::Release);
    }
}
