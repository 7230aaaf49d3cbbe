//! Statistics of windows and limits, for metrics and the dashboard.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::Locker;
use super::api::{Caller, Key, LimitId, Usage};
use super::window::{Algorithm, Window};
use crate::time::Time;

/// Statistics of one limit over all its windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitStats {
    /// Number of keys that have a window.
    pub keys: usize,
    /// Number of waiters at its windows. A request that needs several limits counts at each.
    pub waiting: usize,
    /// Number of flights over its windows; counted only if `in_flight` is capped.
    pub flying: u64,
    /// Key and usage of the fullest window; `None` if the limit has no window.
    pub fullest: Option<(Key, Usage)>,
}

/// Number of table places scanned per call: some 40 µs.
const SLICE: u32 = 2048;

/// Incremental scan over all windows.
#[derive(Default, Debug)]
pub struct StatsScan {
    /// Index of the next place.
    next: u32,
    /// Totals by `LimitId`.
    tallies: Vec<LimitTally>,
}

/// Running totals of one limit.
#[derive(Clone, Copy, Default, Debug)]
struct LimitTally {
    keys: usize,
    waiting: usize,
    flying: u64,
    /// Largest number of slots taken (or flights) in one window, and its key.
    fullest: Option<(u32, Key)>,
}

/// Details of one limit.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LimitDetail {
    /// Callers with waiters, and the number of waiters of each; the largest number first.
    pub callers: Vec<(Caller, usize)>,
    /// Usage of the window of the requested key, if one was given.
    pub usage: Option<Usage>,
    /// Times at which slots of that window open, and how many; soonest first. Slots of requests under way are not included.
    pub openings: Vec<(Time, u32)>,
}

impl Locker {
    /// Usage of a key's window.
    pub fn usage(&mut self, limit: LimitId, key: Key, now: Time) -> Usage {
        let now = self.advance(now);
        let rule = &self.limits.rules[limit.at()];
        let Some(found) = self.table.find(limit, key) else {
            let fresh = Window::new(limit, key, rule, now);
            let opens = fresh.room_opens(rule, 0, 0, 1, now);
            return Usage { taken: fresh.in_log, flying: 0, waiting: 0, opens };
        };
        let window = self.table.window_mut(found);
        window.expire(rule, now);
        Usage {
            taken: window.unsettled.saturating_add(window.in_log),
            flying: window.flying,
            waiting: window.queue().map_or(0, |queue| queue.waiting),
            opens: if rule.store_managed {
                Some(window.store_opens_after(rule, 1).max(window.paused()).max(now))
            } else {
                window.room_opens(rule, 0, 0, 1, now)
            },
        }
    }

    /// Number of live windows over all limits.
    pub fn live_keys(&self) -> usize {
        self.table.live()
    }

    /// Number of waiters over all limits.
    pub fn waiting(&self) -> usize {
        self.queue.waiters.len()
    }

    /// Scans the next windows. Returns true if more are left. Windows change between calls, so the result is approximate.
    pub fn scan_stats(&mut self, scan: &mut StatsScan, now: Time) -> bool {
        let now = self.advance(now);
        scan.tallies.resize(self.limits.all.len(), LimitTally::default());
        let (places, more) = self.table.windows_in(scan.next, SLICE);
        scan.next += SLICE;
        for (index, limit) in places {
            let window = self.table.window_mut(index);
            window.expire(&self.limits.rules[limit.at()], now);
            let tally = &mut scan.tallies[limit.at()];
            tally.keys += 1;
            tally.flying += u64::from(window.flying);
            tally.waiting += window.queue().map_or(0, |queue| queue.waiting);
            let taken = window.unsettled.saturating_add(window.in_log).max(window.flying);
            if tally.fullest.is_none_or(|(most, _)| taken > most) {
                tally.fullest = Some((taken, window.key));
            }
        }
        more
    }

    /// Result of a finished scan, by `LimitId`.
    pub fn finish_stats(&mut self, scan: StatsScan, now: Time) -> Vec<LimitStats> {
        let all = (0u32..).map(LimitId).zip(scan.tallies);
        let stats_of = |(limit, tally): (LimitId, LimitTally)| LimitStats {
            keys: tally.keys,
            waiting: tally.waiting,
            flying: tally.flying,
            fullest: tally.fullest.map(|(_, key)| (key, self.usage(limit, key, now))),
        };
        all.map(stats_of).collect()
    }

    /// Details of one limit: its waiters, and the window of one key.
    pub fn limit_detail(&mut self, limit: LimitId, key: Option<Key>, now: Time) -> LimitDetail {
        let now = self.advance(now);
        let mut waiting: HashMap<Caller, usize> = HashMap::new();
        for number in self.queue.waiters.indices() {
            let waiter = &self.queue.waiters[number];
            if waiter.claims.iter().any(|claim| claim.limit == limit) {
                *waiting.entry(waiter.caller).or_default() += 1;
            }
        }
        let mut callers: Vec<_> = waiting.into_iter().collect();
        callers.sort_unstable_by_key(|(caller, count)| (Reverse(*count), *caller));
        let found = key.and_then(|key| self.table.find(limit, key));
        LimitDetail {
            callers,
            usage: key.map(|key| self.usage(limit, key, now)),
            openings: found.map_or_else(Vec::new, |index| self.openings(index, now)),
        }
    }

    /// Opening times of a window's settled slots.
    fn openings(&mut self, index: u32, now: Time) -> Vec<(Time, u32)> {
        let record = self.window_record(index, 0, usize::MAX);
        let rule = &self.limits.rules[record.limit.at()];
        let window = self.table.window(index);
        let opens = |(settled, count): &(Time, u32)| {
            let at = match rule.algorithm {
                Algorithm::Sliding | Algorithm::Smooth => *settled + Duration::from_nanos(rule.span),
                Algorithm::Fixed => window.next_window(rule),
                Algorithm::Calendar { .. } => rule.period_opens(*settled),
                Algorithm::Uncounted => now,
            };
            (at, *count)
        };
        record.log.iter().map(opens).filter(|(at, _)| *at > now).collect()
    }
}
