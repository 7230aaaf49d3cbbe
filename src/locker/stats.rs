//! Statistics of windows and limits, for metrics and the dashboard.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::api::{Caller, Key, LimitId, Usage};
use super::limit_table::LimitTable;
use super::queue::Waiter;
use super::slab::Slab;
use super::window::{Algorithm, Window, WindowRule};
use super::window_table::WindowTable;
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
    /// Key and usage of the fullest window, by the nearer of its two bounds; `None` if the limit has no window.
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
    /// Windows scanned so far.
    keys: usize,
    /// Waiters at them.
    waiting: usize,
    /// Flights over them.
    flying: u64,
    /// Largest [`share`] of slots taken, or of flights, in one window, and its key.
    fullest: Option<(u64, Key)>,
}

/// Details of one limit.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LimitDetail {
    /// Callers with waiters, and the number of waiters of each; the largest number first.
    pub callers: Vec<(Caller, usize)>,
    /// Usage of the window of the requested key, if one was given.
    pub usage: Option<Usage>,
    /// Times at which slots of that window open, and how many; soonest first. Slots of requests
    /// under way are not included.
    pub openings: Vec<(Time, u32)>,
}

impl WindowTable {
    /// Usage of a key's window.
    pub(super) fn usage(&mut self, limits: &LimitTable, limit: LimitId, key: Key, now: Time) -> Usage {
        let rule = &limits.rules[limit.at()];
        let Some(found) = self.find(limit, key) else {
            let fresh = Window::new(limit, key, rule, now);
            let opens = fresh.room_opens(rule, 0, 0, 1, now);
            return Usage { taken: fresh.in_log, flying: 0, waiting: 0, opens };
        };
        let window = self.window_mut(found);
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
}

/// Share of `most` that is held, in parts of 2^32.
fn share(held: u32, most: u32) -> u64 {
    (u64::from(held) << 32) / u64::from(most.max(1))
}

impl StatsScan {
    /// Scans the next windows. Returns true if more are left. Windows change between calls, so the
    /// result is approximate.
    pub(super) fn step(&mut self, limits: &LimitTable, table: &mut WindowTable, now: Time) -> bool {
        self.tallies.resize(limits.all.len(), LimitTally::default());
        let (places, more) = table.windows_in(self.next, SLICE);
        self.next += SLICE;
        for (index, limit) in places {
            let window = table.window_unnoted(index);
            let rule = &limits.rules[limit.at()];
            window.expire(rule, now);
            let tally = &mut self.tallies[limit.at()];
            tally.keys += 1;
            tally.flying += u64::from(window.flying);
            tally.waiting += window.queue().map_or(0, |queue| queue.waiting);
            let taken = window.unsettled.saturating_add(window.in_log);
            let share = share(taken, rule.requests).max(share(window.flying, rule.in_flight));
            if tally.fullest.is_none_or(|(most, _)| share > most) {
                tally.fullest = Some((share, window.key));
            }
        }
        more
    }

    /// Result of a finished scan, by `LimitId`.
    pub(super) fn finish(self, limits: &LimitTable, table: &mut WindowTable, now: Time) -> Vec<LimitStats> {
        let all = (0u32..).map(LimitId).zip(self.tallies);
        let stats_of = |(limit, tally): (LimitId, LimitTally)| LimitStats {
            keys: tally.keys,
            waiting: tally.waiting,
            flying: tally.flying,
            fullest: tally.fullest.map(|(_, key)| (key, table.usage(limits, limit, key, now))),
        };
        all.map(stats_of).collect()
    }
}

impl LimitDetail {
    /// Details of the window of one key, without the callers that wait, see [`CallerScan`].
    pub(super) fn of_window(
        limits: &LimitTable,
        table: &mut WindowTable,
        limit: LimitId,
        key: Option<Key>,
        now: Time,
    ) -> LimitDetail {
        let rule = &limits.rules[limit.at()];
        let found = key.and_then(|key| table.find(limit, key));
        LimitDetail {
            callers: Vec::new(),
            usage: key.map(|key| table.usage(limits, limit, key, now)),
            openings: found.map_or_else(Vec::new, |index| openings(table.window(index), rule, now)),
        }
    }
}

/// Incremental scan over all waiters, for those of one limit.
#[derive(Debug)]
pub struct CallerScan {
    /// Limit of the waiters.
    limit: LimitId,
    /// Index of the next waiter.
    next: u32,
    /// Number of waiters of each caller.
    waiting: HashMap<Caller, usize>,
}

impl CallerScan {
    /// A scan for the waiters of a limit, at its beginning.
    pub fn of(limit: LimitId) -> CallerScan {
        CallerScan { limit, next: 0, waiting: HashMap::new() }
    }

    /// Scans the next waiters. Returns true if more are left.
    pub(super) fn step(&mut self, waiters: &Slab<Waiter>) -> bool {
        let (found, has_more) = waiters.in_range(self.next, SLICE);
        self.next += SLICE;
        for number in found {
            let waiter = &waiters[number];
            if waiter.claims.iter().any(|claim| claim.limit == self.limit) {
                *self.waiting.entry(waiter.caller).or_default() += 1;
            }
        }
        has_more
    }

    /// Result of a finished scan: callers, with the number of their waiters; the largest first.
    pub fn finish(self) -> Vec<(Caller, usize)> {
        let mut callers: Vec<_> = self.waiting.into_iter().collect();
        callers.sort_unstable_by_key(|(caller, count)| (Reverse(*count), *caller));
        callers
    }
}

/// Opening times of a window's settled slots.
fn openings(window: &Window, rule: &WindowRule, now: Time) -> Vec<(Time, u32)> {
    let opens = |(settled, count): &(Time, u32)| {
        let at = match rule.algorithm {
            Algorithm::Sliding | Algorithm::Smooth => *settled + Duration::from_nanos(rule.span),
            Algorithm::Fixed => window.next_window(rule),
            Algorithm::Calendar { .. } => rule.period_opens(*settled),
            Algorithm::Uncounted => now,
        };
        (at, *count)
    };
    window.short_log(rule, usize::MAX).iter().map(opens).filter(|(at, _)| *at > now).collect()
}
