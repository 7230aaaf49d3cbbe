//! Percentiles, and the two counts that the promise is judged by.

/// The value below which `share` of the sorted values lie.
pub(crate) fn percentile(sorted: &[u64], share: f64) -> u64 {
    let last = sorted.len().saturating_sub(1);
    let place = (share * last as f64).round() as usize;
    sorted.get(place.min(last)).copied().unwrap_or(0)
}

/// `"p50_us":…,"p90_us":…,…` of these nanoseconds.
pub(crate) fn latencies(mut nanos: Vec<u64>) -> String {
    nanos.sort_unstable();
    let us = |share| percentile(&nanos, share) as f64 / 1e3;
    format!(
        r#""p50_us":{:.2},"p90_us":{:.2},"p99_us":{:.2},"p999_us":{:.2},"max_us":{:.2}"#,
        us(0.5),
        us(0.9),
        us(0.99),
        us(0.999),
        us(1.0)
    )
}

/// The most stamps in any half-open span [x, x + per). Some such span begins at a stamp.
pub(crate) fn most_in_any(stamps: &[u64], per: u64) -> usize {
    let mut most = 0;
    let mut end = 0;
    for (begin, first) in stamps.iter().enumerate() {
        while stamps.get(end).is_some_and(|stamp| stamp - first < per) {
            end += 1;
        }
        most = most.max(end - begin);
    }
    most
}

/// How many of the `offered` moments a perfect gateway would have let through before `end`:
/// each goes at its moment, or as soon as the one `requests` before it is `per` ago.
pub(crate) fn possible(offered: impl Iterator<Item = u64>, requests: usize, per: u64, end: u64) -> usize {
    let mut gone: Vec<u64> = Vec::new();
    for moment in offered {
        let opening = gone.len().checked_sub(requests).map_or(0, |place| gone[place] + per);
        let goes = moment.max(opening);
        if goes >= end {
            break;
        }
        gone.push(goes);
    }
    gone.len()
}
