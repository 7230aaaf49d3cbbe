//! Naive oracle: a list of everything that was ever granted, and loops over it. It never drops an
//! entry.

use super::rule_history::{RuleHistory, interval};
use super::*;

/// Slots of one grant in one window.
#[derive(Clone, Debug)]
pub(super) struct OracleItem {
    pub(super) limit: u32,
    pub(super) key: u128,
    pub(super) cost: u64,
    pub(super) taken: Time,
    /// Time at which they settled or will settle; `None` while that is unknown.
    pub(super) settled: Option<Time>,
    pub(super) flying: bool,
    pub(super) answered: bool,
}

/// Everything granted, and all pauses.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) items: Vec<OracleItem>,
    pub(super) pauses: Vec<(u32, u128, Time)>,
    pub(super) history: RuleHistory,
}

impl Oracle {
    pub(super) fn of(&self, limit: u32, key: u128) -> impl Iterator<Item = &OracleItem> + '_ {
        self.items.iter().filter(move |item| item.limit == limit && item.key == key)
    }

    /// Number of busy slots: not settled, or settled less than a span ago.
    pub(super) fn busy(&self, limit: u32, key: u128, span: Duration, now: Time) -> u64 {
        let counts = |item: &&OracleItem| item.settled.is_none_or(|settled| settled + span > now);
        self.of(limit, key).filter(counts).map(|item| item.cost).sum()
    }

    pub(super) fn flying(&self, limit: u32, key: u128) -> u64 {
        self.of(limit, key).filter(|item| item.flying).count() as u64
    }

    pub(super) fn paused(&self, limit: u32, key: u128, now: Time) -> bool {
        self.pauses.iter().any(|pause| pause.0 == limit && pause.1 == key && pause.2 > now)
    }

    /// True if the window has room for `cost` more slots, by the rule as the specification words
    /// it.
    pub(super) fn room(&self, rule: &Limit, limit: u32, key: u128, cost: u64, now: Time) -> bool {
        if self.paused(limit, key, now) || rule.in_flight.is_some_and(|most| self.flying(limit, key) >= u64::from(most))
        {
            return false;
        }
        let Some(rate) = &rule.rate else { return true };
        let span = rate.per + rate.guard;
        let most = u64::from(rate.requests);
        match &rate.kind {
            Kind::Sliding => self.busy(limit, key, span, now) + cost <= most,
            Kind::Smooth { burst } => {
                self.busy(limit, key, span, now) + cost <= most && self.spaced(rate, *burst, limit, key, cost, now)
            }
            Kind::Fixed => self.fixed_taken(limit, key, span, now) + cost <= most,
            Kind::Calendar { .. } => self.in_period(limit, key, rate, now) + cost <= most,
        }
    }

    /// Settle time and number of slots of each settled request, in order of time.
    fn settles(&self, limit: u32, key: u128, until: Time) -> Vec<(Time, u64)> {
        let settles = self.settled_items(limit, key).into_iter();
        settles.filter(|(_, at, _)| *at <= until).map(|(_, at, cost)| (at, cost)).collect()
    }

    fn unsettled(&self, limit: u32, key: u128, now: Time) -> u64 {
        let open = |item: &&OracleItem| item.settled.is_none_or(|at| at > now);
        self.of(limit, key).filter(open).map(|item| item.cost).sum()
    }

    /// `calendar`: slots of the present minute, including those that may be in it by a clock that
    /// is off by the guard, plus unsettled ones.
    pub(super) fn in_period(&self, limit: u32, key: u128, rate: &Rate, now: Time) -> u64 {
        let settled =
            |item: &&OracleItem| item.settled.is_some_and(|at| at <= now && in_one_minute(at, now, rate.guard));
        let settled: u64 = self.of(limit, key).filter(settled).map(|item| item.cost).sum();
        settled + self.unsettled(limit, key, now)
    }

    fn spaced(&self, rate: &Rate, burst: u32, limit: u32, key: u128, cost: u64, now: Time) -> bool {
        let interval = interval(rate);
        let mut used_up = 0u128;
        let since = self.history.smooth_since(limit);
        let items = self.settled_items(limit, key).into_iter().filter(|(_, at, _)| (since..=now).contains(at));
        for (_, at, cost) in items.filter(|(item, _, _)| *item >= self.history.first_after_restart) {
            used_up = used_up.max(u128::from(at.as_nanos())) + u128::from(cost) * self.history.interval_at(limit, at);
        }
        let now_nanos = u128::from(now.as_nanos());
        let ahead = u128::from(self.unsettled(limit, key, now) + cost) * interval;
        used_up.max(now_nanos) + ahead <= now_nanos + u128::from(burst.max(cost as u32)) * interval
    }

    /// `fixed`: slots in the open window, computed anew from all settles, plus unsettled ones.
    fn fixed_taken(&self, limit: u32, key: u128, span: Duration, now: Time) -> u64 {
        let windows = self.fixed_windows(limit, key, span, now);
        let open = windows.last().filter(|(began, _)| *began + span > now).map_or(0, |(_, count)| *count);
        open + self.unsettled(limit, key, now)
    }

    /// `fixed`: start and number of settled slots of every window.
    pub(super) fn fixed_windows(&self, limit: u32, key: u128, span: Duration, now: Time) -> Vec<(Time, u64)> {
        let mut windows: Vec<(Time, u64)> = Vec::new();
        for (at, cost) in self.settles(limit, key, now) {
            match windows.last_mut() {
                Some((began, count)) if *began + span > at => *count += cost,
                Some(_) | None => windows.push((at, cost)),
            }
        }
        windows
    }

    /// Index, moment and cost of each item of a window, from the origin's side. `place` picks the
    /// moment, between its bounds, at which each answered request was counted; the guarantee is that
    /// no choice exceeds N.
    pub(super) fn placed(
        &self,
        limit: u32,
        key: u128,
        place: &mut impl FnMut(Time, Time) -> Time,
    ) -> Vec<(usize, Time, u64)> {
        let items = self.items.iter().enumerate().filter(|(_, item)| item.limit == limit && item.key == key);
        let placed = |(index, item): (usize, &OracleItem)| {
            let settled = item.settled?;
            Some((index, if item.answered { place(item.taken, settled) } else { settled }, item.cost))
        };
        items.filter_map(placed).collect()
    }

    /// Index, settle time and cost of each item of a window, in order of time.
    pub(super) fn settled_items(&self, limit: u32, key: u128) -> Vec<(usize, Time, u64)> {
        let mut items = self.placed(limit, key, &mut |_, settled| settled);
        items.retain(|(_, _, cost)| *cost > 0);
        items.sort_by_key(|(index, at, _)| (*at, *index));
        items
    }
}

const MINUTE: i128 = 60_000_000_000;

/// True if a clock that is off by the guard at most can show both moments in one minute.
fn in_one_minute(one: Time, other: Time, guard: Duration) -> bool {
    let [one, other, guard] = [one.as_nanos().into(), other.as_nanos().into(), guard.as_nanos() as i128];
    // In the extreme case the clock is ahead so far that the earlier moment is just in the other's minute, or shows the last
    // moment of a minute at the later one.
    let last_moment = MINUTE - 1 - i128::rem_euclid(other, MINUTE);
    let offs = [guard, -guard, last_moment, last_moment - MINUTE];
    let minute = |at: i128, off: i128| (at + off).div_euclid(MINUTE);
    offs.iter().filter(|off| off.abs() <= guard).any(|off| minute(one, *off) == minute(other, *off))
}
