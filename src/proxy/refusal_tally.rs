//! Refusal tally of a limit: tells when there are many, for one line of the log a minute.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::log_interval::{LOG_INTERVAL, LogInterval};
use crate::locker::RefusalReason;
use crate::time::Time;

/// Every reason for which a limit refuses, with its label in logs and metrics.
pub const REASONS: [(RefusalReason, &str); 8] = [
    (RefusalReason::Full, "full"),
    (RefusalReason::TooLong, "too_long"),
    (RefusalReason::QueueFull, "queue_full"),
    (RefusalReason::TimedOut, "timed_out"),
    (RefusalReason::TooManyKeys, "too_many_keys"),
    (RefusalReason::CostTooHigh, "cost_too_high"),
    (RefusalReason::StoreLost, "store_lost"),
    (RefusalReason::Unwritten, "unwritten"),
];

/// Least number of refusals for a log line; they must come within [`LOG_INTERVAL`].
const MIN_REFUSALS: u64 = 10;

/// Refusals of one limit since the last log line.
#[derive(Default, Debug)]
pub(super) struct RefusalTally(Mutex<Tally>);

#[derive(Default, Debug)]
struct Tally {
    refusals: ManyRefusals,
    /// Time of the first of them.
    since: Time,
    /// Since the last log line.
    logged: LogInterval,
}

/// Many refusals of one limit. Displays their reasons: `too_long 12, queue_full 3`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct ManyRefusals {
    /// Number by reason, in the order of [`REASONS`].
    by_reason: [u64; REASONS.len()],
    /// Time from the first to the last.
    pub(super) within: Duration,
}

impl RefusalTally {
    /// Counts a refusal. Returns all since the last line if a line is due.
    pub(super) fn count(&self, why: RefusalReason, now: Time) -> Option<ManyRefusals> {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.since(tally.since);
        let is_few = tally.refusals.total() < MIN_REFUSALS && age >= LOG_INTERVAL;
        if tally.refusals.total() == 0 || is_few || age >= 2 * LOG_INTERVAL {
            (tally.refusals, tally.since) = (ManyRefusals::default(), now);
        }
        for (count, _) in tally.refusals.by_reason.iter_mut().zip(REASONS).filter(|(_, (reason, _))| *reason == why) {
            *count += 1;
        }
        tally.refusals.within = now.since(tally.since);
        if !tally.logged.is_over(now) || tally.refusals.total() < MIN_REFUSALS {
            return None;
        }
        tally.logged.begin(now);
        Some(std::mem::take(&mut tally.refusals))
    }
}

impl ManyRefusals {
    /// Number of refusals.
    pub(super) fn total(&self) -> u64 {
        self.by_reason.iter().sum()
    }
}

impl fmt::Display for ManyRefusals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = self.by_reason.iter().zip(REASONS).filter(|(count, _)| **count > 0);
        for (number, (count, (_, word))) in some.enumerate() {
            write!(out, "{}{word} {count}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts refusals at these times in ms. Returns the times and totals of the log lines.
    fn lines(times: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
        let tally = RefusalTally::default();
        let at = |millis: u64| {
            let now = Time::START + Duration::from_millis(millis);
            tally.count(RefusalReason::TooLong, now).map(|many| (millis, many.total()))
        };
        times.into_iter().filter_map(at).collect()
    }

    #[test]
    fn many_refusals_are_logged_at_once_and_then_once_a_minute() {
        assert_eq!(lines((0..150).map(|number| number * 1000)), [(9000, 10), (69_000, 60), (129_000, 60)]);
    }

    #[test]
    fn few_refusals_are_not_logged() {
        assert_eq!(lines((0..100).map(|number| number * 8000)), []);
    }

    #[test]
    fn what_was_long_ago_is_not_counted() {
        let burst = |from: u64| (0..50).map(move |number| from + number);
        assert_eq!(lines(burst(0).chain(burst(3_600_000))), [(9, 10), (3_600_009, 10)]);
    }

    #[test]
    fn reasons_are_named_with_their_numbers() {
        let tally = RefusalTally::default();
        let whys = [&[RefusalReason::QueueFull][..], &[RefusalReason::TooLong; 9]].concat();
        let many = whys.into_iter().filter_map(|why| tally.count(why, Time::START)).last();
        assert_eq!(many.map(|many| many.to_string()).as_deref(), Some("too_long 9, queue_full 1"));
    }
}
