//! Monotonic time: 64-bit nanoseconds since a point well before the gateway started.
//!
//! `gate::clock` reads the clock of the system; tests choose any time. Wall-clock times are plain
//! nanoseconds of Unix time, and never of this type.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: nanoseconds on a monotonic clock whose zero lies before the start of the
/// gateway, so that events of an earlier process have a time, too.
///
/// There is no `now`: functions take the present as an argument, so that tests can run at any time.
/// All arithmetic saturates: a clock that jumps ahead by centuries makes deadlines late, never
/// wrong.
///
/// Has 64 bits, so that a time costs as much as a number: the range is 584 years. `Default` is
/// [`Time::START`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Time(u64);

impl Time {
    /// Zero of the clock.
    pub const START: Time = Time(0);
    /// Later than every other time (584 years after [`Time::START`]): a deadline that never comes.
    pub const NEVER: Time = Time(u64::MAX);

    /// The point `nanos` nanoseconds after [`Time::START`].
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Nanoseconds since [`Time::START`].
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Duration since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Saturates at [`Time::NEVER`].
    fn add(self, duration: Duration) -> Time {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    /// Saturates at [`Time::START`].
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
