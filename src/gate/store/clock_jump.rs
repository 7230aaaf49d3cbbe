//! Whether the store's clock has gone as ours has.

use std::time::Duration;

use crate::time::Time;

/// How much the store's clock and ours may differ in their speed, in parts of a million, and by how much besides: the
/// bounds of what a clock that is kept in step does.
const DRIFT: (i64, i64) = (500, 1000);

/// When an answer of the store's clock was between which two moments of ours.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) id: String,
    pub(super) now: i64,
    pub(super) began: Time,
    pub(super) ended: Time,
}

/// By how many microseconds the store's clock has gone further than it can have, or less far.
pub(super) fn clock_jump(before: &Sample, after: &Sample) -> i64 {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4);
    let passed = after.now - before.now;
    let (least, most) = (micros(after.began.since(before.ended)), micros(after.ended.since(before.began)));
    let allowed = |micros: i64| micros / 1_000_000 * DRIFT.0 + DRIFT.1;
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
        // Between 90 and 110 ms have passed here.
        assert_eq!(clock_jump(&before, &sample(10_100, 1100, 1110)), 0);
        assert_eq!(clock_jump(&before, &sample(10_111, 1100, 1110)), 0);
        assert_eq!(clock_jump(&before, &sample(10_089, 1100, 1110)), 0);
        assert_eq!(clock_jump(&before, &sample(10_130, 1100, 1110)), 20_000);
        assert_eq!(clock_jump(&before, &sample(10_060, 1100, 1110)), -30_000);
        assert_eq!(clock_jump(&before, &sample(10_000, 1100, 1110)), -90_000);
        // An hour, in which clocks that are kept in step may part by a second or two.
        assert_eq!(clock_jump(&before, &sample(3_611_000, 3_601_000, 3_601_010)), 0);
    }
}
