//! What all windows hold at a moment, for whoever watches.

use super::Locker;
use super::ask::Usage;
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
}
