//! Longest step of the gate: the time for which a request may have waited for its lock.
//!
//! A step is measured from the time that it is given, shortly before it takes the lock, until the lock is released; it
//! includes the wait for other steps and the wake-ups that it causes. Reading the clock takes some 35 ns, so that of the
//! steps of requests, which wait for each long one in any case, only an eighth is measured.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Gate;
use super::clock::Clock;
use crate::time::Time;

/// Longest step since the last look, in nanoseconds.
#[derive(Default)]
pub(super) struct LongestStep(AtomicU64);

impl LongestStep {
    /// Notes one step in eight, chosen by the last bits of its time.
    pub(super) fn note_some(&self, began: Time, clock: Clock) {
        if began.as_nanos().is_multiple_of(8) {
            self.note(began, clock);
        }
    }

    /// Notes a step that began at `began` and ends now.
    pub(super) fn note(&self, began: Time, clock: Clock) {
        let nanos = clock.now().as_nanos().saturating_sub(began.as_nanos());
        // Written rarely, so that the threads do not share a line of the cache that changes.
        if nanos > self.0.load(Ordering::Relaxed) {
            self.0.fetch_max(nanos, Ordering::Relaxed);
        }
    }
}

impl Gate {
    /// Longest step since the last call. Begins anew with each call, so it is meant for one reader.
    pub fn take_longest_step(&self) -> Duration {
        Duration::from_nanos(self.longest_step.0.swap(0, Ordering::Relaxed))
    }
}
