//! A point on the gateway's own time line: 64-bit nanoseconds since a moment well before it started.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds on a monotonic line that begins before the gateway starts, so that what an earlier process did has a place
/// on it.
///
/// It has no `now`: whoever needs the present is handed it. All arithmetic saturates, so that a
/// jump ahead by centuries is late but never wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Time(u64);

impl Time {
    /// Where the line begins.
    pub const START: Time = Time(0);
    /// A moment that never comes.
    pub const NEVER: Time = Time(u64::MAX);

    /// The moment `nanos` after the line's beginning.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Nanoseconds since the line's beginning.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    fn sub(self, duration: Duration) -> Time {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_sub(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Time::NEVER + Duration::from_secs(1), Time::NEVER);
        assert_eq!(Time::START + Duration::MAX, Time::NEVER);
        assert_eq!(Time::START - Duration::from_nanos(1), Time::START);
        assert_eq!(Time::START.since(Time::NEVER), Duration::ZERO);
    }

    #[test]
    fn a_time_is_the_sum_of_an_earlier_one_and_what_passed_since() {
        let earlier = Time::from_nanos(7);
        let later = earlier + Duration::from_millis(800);
        assert_eq!(later.since(earlier), Duration::from_millis(800));
        assert_eq!(later - Duration::from_millis(800), earlier);
    }
}
