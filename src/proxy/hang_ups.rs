//! Hang-ups in the queue of a limit: shows when callers give up after a time-out of their own that
//! is shorter than `max_wait`.
//!
//! Such callers come back to the end of the queue, and may never get through. One sees it by
//! hang-ups that come again and again after the same time: those of a job that is ended come at
//! once, and those of people after any time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::log_interval::LogInterval;
use super::timeouts::Short;
use crate::locker::Caller;
use crate::time::Time;

/// Most hang-ups that are kept of one limit: 1 KiB.
const MAX_KEPT: usize = 32;
/// Most hang-ups kept of one second, so that those of many callers at once do not displace earlier
/// ones.
const MAX_PER_SECOND: usize = 8;
/// Age at which a hang-up is forgotten.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Least number of hang-ups after the same time that show a time-out.
const MIN_ALIKE: usize = 5;
/// Shortest wait that is taken for a time-out.
const MIN_WAIT: Duration = Duration::from_millis(100);

/// The last hang-ups of one limit.
#[derive(Default, Debug)]
pub(super) struct HangUps(Mutex<RecentHangUps>);

#[derive(Default, Debug)]
struct RecentHangUps {
    /// Oldest first.
    recent: VecDeque<HangUp>,
    /// Since the last log line.
    logged: LogInterval,
}

#[derive(Clone, Copy, Debug)]
struct HangUp {
    at: Time,
    waited: Duration,
    caller: Caller,
}

/// Time-out of callers, as their hang-ups show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallerTimeout {
    /// Median of the times that they waited.
    pub after: Duration,
    /// The caller, if all are of one.
    pub caller: Option<Caller>,
}

impl HangUps {
    /// Records a hang-up. Returns the time-out that it shows together with the earlier ones, for a
    /// log line; `None` if they show none, or were logged less than a minute ago.
    pub(super) fn record(&self, waited: Duration, caller: Caller, now: Time) -> Option<CallerTimeout> {
        let mut hang_ups = self.lock();
        hang_ups.push(HangUp { at: now, waited, caller });
        if !hang_ups.logged.is_over(now) {
            return None;
        }
        let found = hang_ups.timeout(now)?;
        hang_ups.logged.begin(now);
        Some(found)
    }

    /// Time-out that the hang-ups of the last ten minutes show.
    pub(super) fn timeout(&self, now: Time) -> Option<CallerTimeout> {
        self.lock().timeout(now)
    }

    /// A poisoned lock is used on: no entry is half changed.
    fn lock(&self) -> MutexGuard<'_, RecentHangUps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecentHangUps {
    fn push(&mut self, hang_up: HangUp) {
        let of_this_second = |earlier: &&HangUp| hang_up.at.since(earlier.at) < Duration::from_secs(1);
        if hang_up.waited < MIN_WAIT || self.recent.iter().rev().take_while(of_this_second).count() >= MAX_PER_SECOND {
            return;
        }
        if self.recent.len() >= MAX_KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(hang_up);
    }

    /// The median wait, if at least five and at least half of the hang-ups differ from it by a tenth
    /// at most, and these are spread over more than half of it.
    fn timeout(&self, now: Time) -> Option<CallerTimeout> {
        let recent: Vec<&HangUp> = self.recent.iter().filter(|one| now.since(one.at) < MAX_AGE).collect();
        let mut waits: Vec<Duration> = recent.iter().map(|one| one.waited).collect();
        waits.sort_unstable();
        let after = *waits.get(waits.len() / 2)?;
        let alike = || recent.iter().filter(|one| one.waited.abs_diff(after) <= after / 10);
        let count = alike().count();
        let (first, last) = (alike().next()?, alike().next_back()?);
        if count < MIN_ALIKE || 2 * count < recent.len() || last.at.since(first.at) < after / 2 {
            return None;
        }
        let caller = Some(first.caller).filter(|caller| alike().all(|one| one.caller == *caller));
        Some(CallerTimeout { after, caller })
    }
}

impl CallerTimeout {
    /// Sentence for operators; `None` if the callers wait about as long as the limit lets them.
    /// `caller`: name of the caller, if all hang-ups are of one.
    pub fn advice(&self, limit: &str, max_wait: Duration, caller: Option<&str>) -> Option<String> {
        if self.after >= max_wait.saturating_mul(9) / 10 {
            return None;
        }
        let seconds = self.after.as_secs_f64();
        let (max_wait, shorter) = (Short(max_wait), Short(self.shorter()));
        let of_one = caller.map(|caller| format!(", all of {caller},")).unwrap_or_default();
        Some(format!(
            "callers of {limit}{of_one} hang up after {seconds:.1} s while max_wait is {max_wait}: give them a longer \
             time-out, or set max_wait = \"{shorter}\" so that they are refused in time"
        ))
    }

    /// About four fifths of the time, in round numbers, and less than it.
    fn shorter(&self) -> Duration {
        let millis = u64::try_from(self.after.as_millis() * 8 / 10).unwrap_or(u64::MAX);
        let step = match millis {
            3200.. => return Duration::from_secs((millis + 500) / 1000),
            500.. => 100,
            _ => 10,
        };
        Duration::from_millis((millis / step * step).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Records hang-ups: when, after how long, and of which caller. Returns the last result that is some.
    fn record(all: &[(f64, f64, u64)]) -> Option<CallerTimeout> {
        let hang_ups = HangUps::default();
        let each = |(at, waited, caller): &(f64, f64, u64)| {
            hang_ups.record(seconds(*waited), Caller(*caller), Time::START + seconds(*at))
        };
        all.iter().filter_map(each).last()
    }

    #[test]
    fn callers_that_hang_up_again_and_again_after_the_same_time_have_a_shorter_time_out() {
        let rounds = [(5.0, 5.0, 1), (5.1, 5.1, 2), (10.0, 4.9, 1), (10.2, 5.1, 2)];
        assert_eq!(record(&rounds), None, "four");
        let found = record(&[&rounds[..], &[(15.0, 5.0, 1)]].concat()).expect("five");
        assert_eq!(found, CallerTimeout { after: seconds(5.0), caller: None });
    }

    #[test]
    fn one_caller_is_named() {
        let rounds: Vec<_> = (1..=5).map(|round| (f64::from(round) * 2.0, 2.0, 7)).collect();
        assert_eq!(record(&rounds).and_then(|found| found.caller), Some(Caller(7)));
    }

    #[test]
    fn a_job_that_is_ended_shows_no_time_out() {
        let at_once: Vec<_> = (0..50).map(|caller| (7.0, 6.9, caller)).collect();
        assert_eq!(record(&at_once), None);
    }

    #[test]
    fn hang_ups_after_all_kinds_of_times_show_no_time_out() {
        let all: Vec<_> = (1..=20).map(|round| (f64::from(round) * 3.0, f64::from(round), 1)).collect();
        assert_eq!(record(&all), None);
    }

    #[test]
    fn hang_ups_of_many_at_once_displace_none_of_the_round_before() {
        let round = |at: f64| (0..100).map(move |caller| (at, 5.0, caller));
        assert!(record(&round(5.0).chain(round(10.0)).collect::<Vec<_>>()).is_some());
    }

    #[test]
    fn a_time_out_is_logged_once_a_minute_and_shown_for_ten() {
        let hang_ups = HangUps::default();
        let logged = (1..=60).filter(|round| {
            let now = Time::START + Duration::from_secs(2 * round);
            hang_ups.record(seconds(2.0), Caller(1), now).is_some()
        });
        assert_eq!(logged.collect::<Vec<_>>(), [5, 35]);
        let end = Time::START + Duration::from_secs(120);
        assert!(hang_ups.timeout(end + Duration::from_secs(500)).is_some());
        assert_eq!(hang_ups.timeout(end + MAX_AGE), None);
    }

    #[test]
    fn the_advice_names_both_times_and_one_that_is_shorter() {
        let advice = |after: f64, max_wait: f64, caller| {
            CallerTimeout { after: seconds(after), caller: None }.advice("partner-api", seconds(max_wait), caller)
        };
        assert_eq!(
            advice(5.02, 30.0, None).as_deref(),
            Some(
                "callers of partner-api hang up after 5.0 s while max_wait is 30s: give them a longer time-out, or set \
                 max_wait = \"4s\" so that they are refused in time"
            )
        );
        assert!(advice(5.0, 30.0, Some("10.0.0.7")).is_some_and(|advice| advice.contains("all of 10.0.0.7, hang up")));
        assert_eq!(advice(5.0, 5.5, None), None, "they wait as long as they may");
        for (after, shorter) in [(60.0, "\"48s\""), (4.98, "\"4s\""), (2.0, "\"1600ms\""), (0.3, "\"240ms\"")] {
            assert!(advice(after, 600.0, None).is_some_and(|advice| advice.contains(shorter)), "{after}");
        }
    }
}
