//! Drops idle windows: a sweep that goes round over all places, a slice at a time.

use std::time::Duration;

use super::Locker;
use crate::time::Time;

/// How many places are swept for idle windows when a timeout is handled (some 40 µs of work), when a
/// window is made, and when a limit has as many keys as it may.
const ON_TIMEOUT: usize = 2048;
pub(super) const ON_INSERT: usize = 1;
pub(super) const FOR_ROOM: usize = 256;

/// In what time the sweep goes round, roughly: long enough that a key which pauses for a moment keeps its window.
const ROUND: Duration = Duration::from_secs(10);
const PACES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

impl Locker {
    /// Sweeps a slice, and says when the next is due.
    pub(super) fn sweep(&mut self, now: Time) {
        self.table.sweep(ON_TIMEOUT, &mut self.rules, now);
        self.sweeps = now + self.pace();
    }

    /// How long after one slice of the sweep the next is due.
    pub(super) fn pace(&self) -> Duration {
        let chunks = u32::try_from(self.table.chunks()).unwrap_or(u32::MAX).max(1);
        (ROUND / chunks).clamp(PACES.0, PACES.1)
    }
}
