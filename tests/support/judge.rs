//! Judges arrivals: how many fall into one span of time, wherever it starts.

use std::time::Duration;

/// The most stamps in any half-open span of `per`: `[t, t + per)` for every t. Two pointers over the sorted stamps.
pub(crate) fn most_in(per: Duration, stamps: &[u64]) -> usize {
    let mut sorted = stamps.to_vec();
    sorted.sort_unstable();
    let per = u64::try_from(per.as_nanos()).expect("a span of centuries is not tested");
    let mut first = 0;
    let mut most = 0;
    for (last, stamp) in sorted.iter().enumerate() {
        while stamp - sorted[first] >= per {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// Fails if any span of `per` holds more than `limit` stamps, and shows the worst gap.
#[track_caller]
pub(crate) fn one_window(limit: usize, per: Duration, stamps: &[u64]) {
    let most = most_in(per, stamps);
    let mut sorted = stamps.to_vec();
    sorted.sort_unstable();
    let closest = sorted.windows(limit + 1).map(|w| (w[limit] - w[0], w[0])).min();
    assert!(
        most <= limit,
        "{most} arrivals in one span of {per:?}, where {limit} are allowed; {} arrivals in all; \
         the closest {} of them lie within {:?}",
        stamps.len(),
        limit + 1,
        closest.map(|(gap, _)| Duration::from_nanos(gap)),
    );
}

#[test]
fn the_judge_counts_the_fullest_half_open_span() {
    let per = Duration::from_nanos(10);
    assert_eq!(most_in(per, &[]), 0);
    assert_eq!(most_in(per, &[7]), 1);
    assert_eq!(most_in(per, &[0, 9]), 2, "both lie in [0, 10)");
    assert_eq!(most_in(per, &[0, 10]), 1, "10 is outside [0, 10)");
    assert_eq!(most_in(per, &[0, 1, 2, 11, 12, 20]), 3);
    assert_eq!(most_in(per, &[20, 0, 12, 2, 11, 19]), 4, "order does not matter, and [11, 21) holds four");
    assert_eq!(most_in(per, &[5, 5, 5]), 3, "equal stamps count each");
}

#[test]
#[should_panic(expected = "3 arrivals in one span")]
fn the_judge_fails_a_run_that_breaks_the_promise() {
    one_window(2, Duration::from_nanos(10), &[0, 10, 13, 19, 30]);
}

#[test]
fn the_judge_agrees_with_a_double_loop() {
    let mut state = 7_u64;
    for _ in 0..200 {
        let stamps: Vec<u64> = (0..40)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % 300
            })
            .collect();
        let naive =
            stamps.iter().map(|start| stamps.iter().filter(|s| **s >= *start && **s < start + 25).count()).max();
        assert_eq!(Some(most_in(Duration::from_nanos(25), &stamps)), naive, "{stamps:?}");
    }
}
