//! What all windows hold at a moment, for whoever watches.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::Locker;
use super::ask::{Caller, LimitId, Usage};
use super::window::{Form, Window};
use crate::time::Time;

/// What the windows of a limit hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Survey {
    /// How many keys have a window.
    pub keys: usize,
    /// Requests in line, over all of its windows; one that needs several limits is in line at each.
    pub waiting: usize,
    /// Requests between permit and end, over all of its windows; counted only where `in_flight` is capped.
    pub flying: u64,
    /// What the window holds that is fullest; `None`: no key has one.
    pub fullest: Option<Usage>,
}

/// One limit, from near.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Closeup {
    /// Who waits, and how often; whoever waits most often first.
    pub callers: Vec<(Caller, usize)>,
    /// When slots of the window open that is fullest, and how many, soonest first. Those of requests under way are not among
    /// them.
    pub openings: Vec<(Time, u32)>,
}

impl Locker {
    /// How many windows are alive, over all limits.
    pub fn live_keys(&self) -> usize {
        self.table.live()
    }

    /// How many requests wait, over all limits.
    pub fn waiting(&self) -> usize {
        self.queue.waiters.len()
    }

    /// What the windows of each limit hold, by `LimitId`. Looks at every window.
    pub fn survey(&mut self, now: Time) -> Vec<Survey> {
        let now = self.advance(now);
        let nothing = Survey { keys: 0, waiting: 0, flying: 0, fullest: None };
        let mut surveys = vec![nothing; self.limits.len()];
        let mut fullest: Vec<Option<(u32, u32)>> = vec![None; self.limits.len()];
        for (index, limit) in self.table.places() {
            let window = self.table.window_mut(index);
            window.expire(&self.rules[limit.at()], now);
            let (taken, flying) = (window.unsettled.saturating_add(window.in_log), window.flying);
            let waiting = window.waits().map_or(0, |waits| waits.waiting);
            let survey = &mut surveys[limit.at()];
            survey.keys += 1;
            survey.flying += u64::from(flying);
            survey.waiting += waiting;
            let most = &mut fullest[limit.at()];
            if most.is_none_or(|(most, _)| taken.max(flying) > most) {
                *most = Some((taken.max(flying), index));
            }
        }
        for (survey, most) in surveys.iter_mut().zip(fullest) {
            survey.fullest = most
                .map(|(_, index)| {
                    let window = self.table.window(index);
                    (window.limit, window.key)
                })
                .map(|(limit, key)| self.usage(limit, key, now));
        }
        surveys
    }

    /// A look at one limit: at its waiters, and at its fullest window.
    pub fn closeup(&mut self, limit: LimitId, now: Time) -> Closeup {
        let now = self.advance(now);
        let mut waiting: HashMap<Caller, usize> = HashMap::new();
        for number in self.queue.waiters.numbers() {
            let waiter = &self.queue.waiters[number];
            if waiter.claims.iter().any(|claim| claim.limit == limit) {
                *waiting.entry(waiter.caller).or_default() += 1;
            }
        }
        let mut callers: Vec<_> = waiting.into_iter().collect();
        callers.sort_unstable_by_key(|(caller, count)| (Reverse(*count), *caller));
        let taken = |window: &Window| window.unsettled.saturating_add(window.in_log).max(window.flying);
        let fullest = self.table.of_limit(limit).into_iter().max_by_key(|index| taken(self.table.window(*index)));
        Closeup { callers, openings: fullest.map_or_else(Vec::new, |index| self.openings(index, now)) }
    }

    fn openings(&mut self, index: u32, now: Time) -> Vec<(Time, u32)> {
        let page = self.page(index, 0, usize::MAX);
        let rule = &self.rules[page.limit.at()];
        let window = self.table.window(index);
        let opens = |(settled, count): &(Time, u32)| {
            let at = match rule.form {
                Form::Sliding | Form::Smooth => *settled + Duration::from_nanos(rule.span),
                Form::Fixed | Form::Calendar { .. } => window.next_window(rule),
                Form::Uncounted => now,
            };
            (at, *count)
        };
        page.log.iter().map(opens).filter(|(at, _)| *at > now).collect()
    }
}
