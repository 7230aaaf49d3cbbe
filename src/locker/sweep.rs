//! Drops idle windows: a sweep that goes round over all places, a slice at a time.

use std::time::Duration;

use super::counters::Counters;
use crate::time::Time;

/// Places that are looked at when a window is made, and when a limit has as many keys as it may.
pub(super) const ON_INSERT: usize = 1;
pub(super) const FOR_ROOM: usize = 256;

/// Places of a slice at least: some 40 µs of work.
const SLICE: usize = 2048;

/// In what time the sweep has been everywhere: long enough that a key which pauses for a moment keeps its window.
const ROUND: Duration = Duration::from_secs(10);

/// Shortest and longest interval of the slices: not so often that the sweep is seen in the load, and often enough that a few idle
/// keys do not stay for long. Where there are more places than the shortest allows for, slices grow: a hundred million
/// make them 0.2 ms.
const SLICE_INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(500));

impl Counters {
    /// Sweeps a slice, and says when the next is due.
    pub(super) fn sweep(&mut self, now: Time) {
        let (slice, slice_interval) = slices(self.table.capacity());
        self.table.sweep(slice, &mut self.limits.rules, now);
        self.next_sweep = now + slice_interval;
        self.forget_retired(now);
    }

    /// Forgets the limits that are gone from the file and of which nothing counts any more.
    pub(super) fn forget_retired(&mut self, now: Time) {
        if self.limits.retired.is_empty() || self.write_queue.has_unwritten_drops(&self.table) {
            return;
        }
        let forgotten = self.limits.forget_retired(now);
        for id in &forgotten {
            self.sharing.forget_limit(*id);
        }
        if !forgotten.is_empty() {
            self.write_queue.request_limits_write();
        }
    }

    /// Interval of the slices.
    pub(super) fn slice_interval(&self) -> Duration {
        slices(self.table.capacity()).1
    }
}

/// The number of places of a slice, and the interval to the next.
fn slices(places: usize) -> (usize, Duration) {
    // A key may fall idle just behind the sweep, and that may have been paced for fewer.
    let round = ROUND - 2 * SLICE_INTERVALS.1;
    let slice_interval = |slice: usize| round.mul_f64(slice as f64 / places.max(1) as f64).min(SLICE_INTERVALS.1);
    if slice_interval(SLICE) >= SLICE_INTERVALS.0 {
        return (SLICE, slice_interval(SLICE));
    }
    let rounds = usize::try_from(round.as_nanos() / SLICE_INTERVALS.0.as_nanos()).unwrap_or(usize::MAX);
    (places.div_ceil(rounds), SLICE_INTERVALS.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locker::tests::{ask, claim, limit, ms, send};
    use crate::locker::{Kind, Locker};

    #[test]
    fn idle_keys_are_dropped_within_a_round_however_many_there_are() {
        for keys in [1, 5_000, 200_000] {
            let mut locker = Locker::new(vec![limit(5, 1, Kind::Sliding)]);
            for key in 0..keys {
                assert!(send(&mut locker, &ask(&[claim(0, key, 1)], 1), ms(0)).is_ok());
            }
            let mut now = ms(1);
            while let Some(at) = locker.poll_timeout() {
                let live = locker.live_keys();
                locker.handle_timeout(at);
                assert!(live - locker.live_keys() <= SLICE, "{keys} keys: the lock is held for long");
                now = at;
            }
            assert_eq!(locker.live_keys(), 0);
            assert!(now <= ms(1) + ROUND, "{keys} keys: {now:?}");
        }
    }

    #[test]
    fn a_round_takes_ten_seconds_at_most_and_no_slice_takes_long() {
        for places in (0..10).map(|zeros| 3 * 10_usize.pow(zeros)) {
            let (slice, slice_interval) = slices(places);
            let round = slice_interval * u32::try_from(places.div_ceil(slice)).unwrap();
            assert!(round + SLICE_INTERVALS.1 <= ROUND, "{places}: {round:?}");
            assert!(slice <= SLICE.max(places / 8_000), "{places}: {slice}");
        }
    }
}
