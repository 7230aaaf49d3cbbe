//! Sweep of idle windows: goes round over all places of the window table, a slice at a time.

use std::time::Duration;

use super::counters::Counters;
use crate::time::Time;

/// Places swept for each new window.
pub(super) const ON_INSERT: usize = 1;
/// Places swept for a new key of a limit that has `max_keys` windows, before the key is refused.
pub(super) const FOR_ROOM: usize = 256;

/// Least number of places in a slice: some 40 µs of work.
const SLICE: usize = 2048;

/// Longest time of a round over all places: long enough that a key which pauses for a moment keeps
/// its window.
const ROUND: Duration = Duration::from_secs(10);

/// Shortest and longest interval of the slices: not so often that the sweep is seen in the load,
/// and often enough that a few idle keys do not stay for long. Where there are more places than the
/// shortest allows for, slices grow: a hundred million make them 0.2 ms.
const SLICE_INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(500));

impl Counters {
    /// Sweeps a slice, sets the time of the next one, and forgets retired limits.
    pub(super) fn sweep(&mut self, now: Time) {
        let (slice, slice_interval) = slices(self.table.capacity());
        self.table.sweep(slice, &mut self.limits.rules, now);
        self.next_sweep = now + slice_interval;
        self.forget_retired(now);
    }

    /// Forgets the limits that are no longer in the file and no longer count anything. Waits until
    /// the journal has fetched the drops of windows and the pages of its scan, and until a live copy has ended. The limits are
    /// then written anew.
    pub(super) fn forget_retired(&mut self, now: Time) {
        let is_watched = self.write_queue.has_unwritten_drops(&self.table) || self.table.copy.is_some();
        if self.limits.retired.is_empty() || is_watched {
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

    /// Interval between two slices at the present size of the table.
    pub(super) fn slice_interval(&self) -> Duration {
        slices(self.table.capacity()).1
    }
}

/// Number of places of a slice, and the interval to the next, such that a round stays within
/// `ROUND`.
fn slices(places: usize) -> (usize, Duration) {
    // A key may fall idle just behind the sweep, and that may have been paced for fewer.
    let round = ROUND - 2 * SLICE_INTERVALS.1;
    let slice_interval = |slice: usize| {
        let nanos = round.as_nanos() * slice as u128 / places.max(1) as u128;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(SLICE_INTERVALS.1)
    };
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
