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

/// Reader of the longest step: each has a look of its own, which does not disturb the other's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepReader {
    /// `/metrics`.
    Scrape,
    /// Export of metrics to a collector.
    Export,
}

/// Longest step since the last look, in nanoseconds, for each [`StepReader`].
#[derive(Default)]
pub(super) struct LongestStep([AtomicU64; 2]);

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
        for longest in &self.0 {
            if nanos > longest.load(Ordering::Relaxed) {
                longest.fetch_max(nanos, Ordering::Relaxed);
            }
        }
    }
}

impl Gate {
    /// Longest step since this reader's last call.
    pub fn take_longest_step(&self, reader: StepReader) -> Duration {
        let longest = match reader {
            StepReader::Scrape => &self.longest_step.0[0],
            StepReader::Export => &self.longest_step.0[1],
        };
        Duration::from_nanos(longest.swap(0, Ordering::Relaxed))
    }
}
