//! Counters and histograms of durations, which many threads count in without a lock.
//!
//! Relaxed atomics: a reader may see one of two related counters a moment earlier than the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds; longer durations have a bucket of their own. The bounds are the usual ones
/// of Prometheus clients, and longer ones up to a minute.
const BOUNDS: [f64; 14] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Counter that only grows.
#[derive(Default, Debug)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Adds a number.
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Histogram of durations.
#[derive(Default, Debug)]
pub(super) struct Histogram {
    /// Durations by bucket: one for each of [`BOUNDS`], and one for longer ones.
    buckets: [Count; BOUNDS.len() + 1],
    /// Sum of all durations, in microseconds.
    sum_micros: Count,
}

/// Values of a histogram at one time.
#[derive(Clone, PartialEq, Debug)]
pub struct HistogramValues {
    /// Sum of all durations, in seconds.
    pub sum: f64,
    /// Upper bound of each bucket in seconds (`f64::INFINITY` for the last), and number of durations in that bucket
    /// alone: not cumulative, unlike those of the Prometheus text format.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Counts a duration in the first bucket that holds it.
    pub(super) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|most| seconds <= *most).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add_one();
        self.sum_micros.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Current values.
    pub(super) fn values(&self) -> HistogramValues {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets = bounds.zip(&self.buckets).map(|(most, count)| (most, count.get())).collect();
        HistogramValues { sum: Duration::from_micros(self.sum_micros.get()).as_secs_f64(), buckets }
    }
}

impl HistogramValues {
    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for millis in [0, 1, 2, 999, 1000, 60_000, 60_001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let values = histogram.values();
        let counted: Vec<_> = values.buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(counted, [(0.001, 2), (0.005, 1), (1.0, 2), (60.0, 1), (f64::INFINITY, 1)]);
        assert!((values.sum - 122.003).abs() < 1e-9, "{}", values.sum);
    }
}
