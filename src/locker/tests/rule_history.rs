//! Rule history of a random world: the rates that were in force, and the times from which the locker
//! must count exactly what the oracle counts.

use super::*;

/// A rate of a limit, in force from a change of the rules on.
#[derive(Clone, Debug)]
pub(super) struct RatePeriod {
    pub(super) limit: u32,
    /// Time of the change. Every earlier settle lies before it.
    pub(super) from: Time,
    /// Index of the first item granted under it.
    pub(super) first_item: usize,
    pub(super) rate: Option<Rate>,
}

/// Rates by limit, oldest first, and what is known of the locker's exactness.
#[derive(Debug, Default)]
pub(super) struct RuleHistory {
    periods: Vec<RatePeriod>,
    /// Index of the first item granted since the last restart. A restart knows of N slots per window
    /// at most, which is enough for every span; spacing begins anew.
    pub(super) first_after_restart: usize,
    /// For each limit that a change or restart has blurred: the time from which its counts are
    /// exact again.
    exact_from: Vec<(u32, Time)>,
}

impl RuleHistory {
    /// Notes the rates in force from now on.
    pub(super) fn begin(&mut self, limits: &[Limit], first_item: usize, from: Time) {
        for (limit, rule) in (0u32..).zip(limits) {
            if self.last(limit).is_none_or(|last| last.rate != rule.rate) {
                self.periods.push(RatePeriod { limit, from, first_item, rate: rule.rate.clone() });
            }
        }
    }

    /// Notes a restart: a window may begin anew from now on, by the same rates.
    pub(super) fn restart(&mut self, limits: &[Limit], first_item: usize, from: Time) {
        self.first_after_restart = first_item;
        for (limit, rule) in (0u32..).zip(limits) {
            self.periods.push(RatePeriod { limit, from, first_item, rate: rule.rate.clone() });
        }
    }

    /// All rates of a limit, each with the index of the first item granted after it.
    pub(super) fn of(&self, limit: u32) -> Vec<(RatePeriod, usize)> {
        let all: Vec<&RatePeriod> = self.periods.iter().filter(|period| period.limit == limit).collect();
        let ends = all.iter().skip(1).map(|next| next.first_item).chain([usize::MAX]);
        all.iter().map(|period| (*period).clone()).zip(ends).collect()
    }

    fn last(&self, limit: u32) -> Option<&RatePeriod> {
        self.periods.iter().rev().find(|period| period.limit == limit)
    }

    /// Time since which a limit has been `smooth`.
    pub(super) fn smooth_since(&self, limit: u32) -> Time {
        let kinds = self.periods.iter().rev().filter(|period| period.limit == limit);
        let smooth =
            |period: &&RatePeriod| period.rate.as_ref().is_some_and(|rate| matches!(rate.kind, Kind::Smooth { .. }));
        kinds.take_while(smooth).last().map_or(Time::START, |first| first.from)
    }

    /// Spacing of a `smooth` limit at a time, in nanoseconds.
    pub(super) fn interval_at(&self, limit: u32, at: Time) -> u128 {
        let before = self.periods.iter().rev().filter(|period| period.limit == limit && period.from <= at);
        before.take(1).find_map(|period| period.rate.as_ref()).map_or(0, interval)
    }

    /// Notes that the locker may count more than the oracle: until nothing counts any more that was
    /// counted at `now` by any of these rates, or settles within a second and the guard.
    pub(super) fn blur(&mut self, limit: u32, rates: &[Option<Rate>], now: Time) {
        let longest = |rate: &Rate| match rate.kind {
            Kind::Calendar { .. } => 2 * (rate.per + rate.guard),
            Kind::Sliding | Kind::Fixed | Kind::Smooth { .. } => rate.per + rate.guard,
        };
        let spans: Duration = rates.iter().flatten().map(longest).sum();
        let guard = rates.iter().flatten().map(|rate| rate.guard).max().unwrap_or_default();
        self.exact_from.push((limit, now + spans + guard.max(Duration::from_secs(1)) + Duration::from_nanos(1)));
    }

    /// True if the locker must count exactly what the oracle counts.
    pub(super) fn is_exact(&self, limit: u32, now: Time) -> bool {
        self.exact_from.iter().filter(|(of, _)| *of == limit).all(|(_, from)| *from <= now)
    }

    /// True if nothing has blurred a limit yet.
    pub(super) fn is_unbroken(&self, limit: u32) -> bool {
        self.exact_from.iter().all(|(of, _)| *of != limit)
    }
}

/// Spacing of a `smooth` rate, in nanoseconds.
pub(super) fn interval(rate: &Rate) -> u128 {
    (rate.per + rate.guard).as_nanos().div_ceil(u128::from(rate.requests))
}
