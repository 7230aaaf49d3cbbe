//! Clock-jump check: compares the progress of the store's clock with that of our clock between two
//! replies.

use std::time::Duration;

use crate::time::Time;

/// Tolerated difference between the clocks: in speed, in parts per million, and besides in
/// microseconds. The speed is the bound of the rate at which NTP slews a clock (500 ppm).
const TOLERANCE: (i64, i64) = (500, 1000);

/// One reading of the store's clock, between two readings of ours.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Identity of the store, see [`StoreConn::id`](super::store_conn::StoreConn).
    pub(super) id: String,
    /// The store's clock, in µs of Unix time. Read by the script during the call.
    pub(super) now: i64,
    /// Our clock before the call.
    pub(super) began: Time,
    /// Our clock after the reply.
    pub(super) ended: Time,
}

/// Microseconds by which the store's clock has advanced more (positive) or less (negative) than it
/// can have, between two samples of the same store; 0 if it agrees with our clock.
///
/// The time between the two readings of the store is only known within bounds: at least from the
/// end of the first call to the begin of the second, at most from begin to end. A longer pause
/// tolerates more drift.
pub(super) fn clock_jump(before: &Sample, after: &Sample) -> i64 {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4);
    let passed = after.now - before.now;
    let (least, most) = (micros(after.began.since(before.ended)), micros(after.ended.since(before.began)));
    let allowed = |micros: i64| micros / 1_000_000 * TOLERANCE.0 + TOLERANCE.1;
    match passed {
        _ if passed < least - allowed(least) => passed - least,
        _ if passed > most + allowed(most) => passed - most,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_told_from_one_that_goes() {
        let sample = |now: i64, began: u64, ended: u64| Sample {
            id: String::new(),
            now: now * 1000,
            began: Time::from_nanos(began * 1_000_000),
            ended: Time::from_nanos(ended * 1_000_000),
        };
        let before = sample(10_000, 1000, 1010);
        // By our clock, 90 to 110 ms passed.
        assert_eq!(clock_jump(&before, &sample(10_100, 1100, 1110)), 0);
        assert_eq!(clock_jump(&before, &sample(10_111, 1100, 1110)), 0);
        assert_eq!(clock_jump(&before, &sample(10_089, 1100, 1110)), 0);
        assert_eq!(clock_jump(&before, &sample(10_130, 1100, 1110)), 20_000);
        assert_eq!(clock_jump(&before, &sample(10_060, 1100, 1110)), -30_000);
        assert_eq!(clock_jump(&before, &sample(10_000, 1100, 1110)), -90_000);
        // After an hour, synchronised clocks may differ by 1.8 s.
        assert_eq!(clock_jump(&before, &sample(3_611_000, 3_601_000, 3_601_010)), 0);
    }

    #[test]
    fn a_pause_tolerates_half_a_millisecond_of_drift_for_each_whole_second_and_a_millisecond_besides() {
        let sample = |now: i64, at: u64| Sample {
            id: String::new(),
            now,
            began: Time::from_nanos(at * 1000),
            ended: Time::from_nanos(at * 1000),
        };
        for (seconds, tolerated) in [(0, 1000_i64), (1, 1500), (100, 51_000)] {
            let passed = seconds * 1_000_000 + 999_999;
            let before = sample(0, 0);
            for off in [tolerated, -tolerated] {
                let beyond = off + off.signum();
                assert_eq!(
                    clock_jump(&before, &sample(passed + off, passed.unsigned_abs())),
                    0,
                    "{off} in {seconds} s"
                );
                assert_eq!(clock_jump(&before, &sample(passed + beyond, passed.unsigned_abs())), beyond);
            }
        }
    }
}
