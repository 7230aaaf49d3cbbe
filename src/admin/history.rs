//! History of each limit: one sample a second for the last 15 minutes, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::proxy::metrics::LimitMetrics;

/// Samples kept for each limit: 15 minutes, what the dashboard's charts span. A sample is 40 bytes,
/// so 100 limits take 3.6 MB.
const MAX_SAMPLES: usize = 900;

/// The samples of all limits, by name, oldest first.
#[derive(Default)]
pub(super) struct History(Mutex<BTreeMap<Arc<str>, VecDeque<LimitSample>>>);

/// Counts of one limit within one second.
#[derive(Clone, Copy, Default)]
pub(super) struct LimitSample {
    /// Number of permits granted.
    pub(super) permits: u64,
    /// Number of requests refused, for all reasons together.
    pub(super) refused: u64,
    /// Number of waiters at the end of the second.
    pub(super) waiting: usize,
    /// Mean wait of the requests that were granted a permit, in milliseconds; 0 if there were none.
    pub(super) waited_ms: f64,
    /// Number of responses by which an origin asked for fewer requests.
    pub(super) pushbacks: u64,
}

/// Counters of a limit since the start of the process.
#[derive(Clone, Copy, Default)]
pub(super) struct LimitTotals {
    /// Number of permits granted.
    pub(super) permits: u64,
    /// Number of requests refused, for all reasons together.
    pub(super) refused: u64,
    /// Sum of the waits of all permits, in milliseconds.
    pub(super) waited_ms: f64,
    /// Number of responses by which an origin asked for fewer requests.
    pub(super) pushbacks: u64,
}

impl LimitTotals {
    /// The present counters of a limit.
    pub(super) fn of(tally: &LimitMetrics) -> LimitTotals {
        LimitTotals {
            permits: tally.permits.get(),
            refused: tally.refused().map(|(_, count)| count).sum(),
            waited_ms: tally.waits().sum * 1e3,
            pushbacks: tally.pushbacks.get(),
        }
    }

    /// The difference to `before`; `waiting`: the present number of waiters.
    pub(super) fn since(self, before: LimitTotals, waiting: usize) -> LimitSample {
        let permits = self.permits - before.permits;
        let waited = self.waited_ms - before.waited_ms;
        LimitSample {
            permits,
            refused: self.refused - before.refused,
            waiting,
            waited_ms: if permits > 0 { waited / permits as f64 } else { 0.0 },
            pushbacks: self.pushbacks - before.pushbacks,
        }
    }
}

impl History {
    /// The samples of all limits, locked.
    ///
    /// Hold it briefly: the sampler needs it each second.
    pub(super) fn samples(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, VecDeque<LimitSample>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a sample, and drops the oldest one of a full history.
    ///
    /// The limit's history begins with its first sample.
    pub(super) fn push(&self, limit: &Arc<str>, sample: LimitSample) {
        let mut all = self.samples();
        let samples = all.entry(Arc::clone(limit)).or_default();
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}
