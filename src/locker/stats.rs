//! What all windows hold at a moment, for whoever watches.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::Locker;
use super::api::{Caller, Key, LimitId, Usage};
use super::window::{Algorithm, Window};
use crate::time::Time;

/// What the windows of a limit hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitStats {
    /// How many keys have a window.
    pub keys: usize,
    /// Requests in line, over all of its windows; one that needs several limits is in line at each.
    pub waiting: usize,
    /// Requests between permit and end, over all of its windows; counted only where `in_flight` is capped.
    pub flying: u64,
    /// The key whose window is fullest, and what that holds; `None`: no key has one.
    pub fullest: Option<(Key, Usage)>,
}

/// How many places for windows are looked at in one go: some 40 µs.
const SLICE: u32 = 2048;

/// Looks at all windows, some at a time.
#[derive(Default, Debug)]
pub struct StatsScan {
    next: u32,
    tallies: Vec<LimitTally>,
}

#[derive(Clone, Copy, Default, Debug)]
struct LimitTally {
    keys: usize,
    waiting: usize,
    flying: u64,
    fullest: Option<(u32, Key)>,
}

/// One limit, from near.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LimitDetail {
    /// Who waits, and how often; whoever waits most often first.
    pub callers: Vec<(Caller, usize)>,
    /// What the window holds.
    pub usage: Option<Usage>,
    /// When its slots open, and how many, soonest first. Those of requests under way are not among
    /// them.
    pub openings: Vec<(Time, u32)>,
}

impl Locker {
    /// What a key's window holds.
    pub fn usage(&mut self, limit: LimitId, key: Key, now: Time) -> Usage {
        let now = self.advance(now);
        let rule = &self.rules[limit.at()];
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

    /// How many windows are alive, over all limits.
    pub fn live_keys(&self) -> usize {
        self.table.live()
    }

    /// How many requests wait, over all limits.
    pub fn waiting(&self) -> usize {
        self.queue.waiters.len()
    }

    /// Looks at some more windows; whether there are more. Between two looks anything may happen: what is seen is roughly
    /// so.
    pub fn scan_stats(&mut self, scan: &mut StatsScan, now: Time) -> bool {
        let now = self.advance(now);
        scan.tallies.resize(self.limits.len(), LimitTally::default());
        let (places, more) = self.table.windows_in(scan.next, SLICE);
        scan.next += SLICE;
        for (index, limit) in places {
            let window = self.table.window_mut(index);
            window.expire(&self.rules[limit.at()], now);
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

    /// What was found, by `LimitId`.
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

    /// A look at one limit: at its waiters, and at the window of one key.
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

    fn openings(&mut self, index: u32, now: Time) -> Vec<(Time, u32)> {
        let record = self.window_record(index, 0, usize::MAX);
        let rule = &self.rules[record.limit.at()];
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
