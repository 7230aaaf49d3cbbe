//! One line of time for all stamps of a test run: nanoseconds since the first use, never set back.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

struct Start {
    instant: Instant,
    unix_nanos: u128,
}

fn start() -> &'static Start {
    static START: OnceLock<Start> = OnceLock::new();
    START.get_or_init(|| {
        // The wall clock between two readings of the monotonic one; the tightest of many tries ties the two
        // together to within a microsecond, however often the scheduler comes between.
        let tries = (0..200).map(|_| {
            let before = Instant::now();
            let wall = SystemTime::now();
            (before.elapsed(), before, wall)
        });
        let (_, instant, wall) = tries.min_by_key(|(took, _, _)| *took).expect("there were tries");
        Start { instant, unix_nanos: wall.duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() }
    })
}

/// The present, in nanoseconds; starts well above zero, so that a little earlier is still a time.
pub(crate) fn now() -> u64 {
    1_000_000_000 + u64::try_from(start().instant.elapsed().as_nanos()).expect("a test run ends within centuries")
}

/// The same line for a stamp that the kernel took from the wall clock.
pub(crate) fn from_unix_nanos(nanos: u128) -> u64 {
    let since = nanos + 1_000_000_000 - start().unix_nanos;
    u64::try_from(since).expect("a test run ends within centuries")
}
