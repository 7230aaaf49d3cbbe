//! Told openings of a window: the openings that refused requests were told, so that the next one is
//! told a later one.
//!
//! An opening is told as advice and never kept: a slot that opens goes to the first request that
//! asks. Each is forgotten when its time has come.

use std::collections::VecDeque;

use super::Window;
use super::window_rule::{WindowRule, later};
use crate::time::Time;

/// Maximum number of entries: 1.5 KiB. Beyond it, neighbours are merged.
const MAX_ENTRIES: usize = 64;

/// Bounds of the horizon: no request is told an opening that is further behind the first one than
/// ten spans, but half a minute at least and five minutes at most. Requests that never come back
/// would else move what others are told ever further away.
const MIN_HORIZON: u64 = 30_000_000_000;
const MAX_HORIZON: u64 = 300_000_000_000;

/// Maximum allowance per turn through all slots: 50 ms, the jitter of a network.
const MAX_ALLOWANCE: u64 = 50_000_000;

/// Slots told for openings in a short span of time.
#[derive(Clone, Copy, Debug)]
struct ToldEntry {
    /// The first opening.
    from: Time,
    /// The last opening: all of the entry is forgotten then.
    until: Time,
    /// Number of slots.
    slots: u64,
}

/// Openings told to refused requests that are still to come.
#[derive(Debug, Default)]
pub(super) struct ToldOpenings {
    /// Soonest first.
    entries: VecDeque<ToldEntry>,
    /// Number of slots over all entries.
    slots: u64,
    /// Least length of an entry in nanoseconds that leaves room for the others.
    grain: u64,
    /// Number of slots told a second time, counted from the first opening on, since all openings
    /// within the horizon are told.
    repeated: u64,
}

impl ToldOpenings {
    /// Forgets the openings whose time has come.
    fn forget(&mut self, now: Time) {
        while let Some(entry) = self.entries.front().filter(|entry| entry.until <= now) {
            self.slots -= entry.slots;
            self.entries.pop_front();
        }
        if self.entries.is_empty() {
            (self.grain, self.repeated) = (0, 0);
        }
    }

    /// Notes that `slots` more are told for `at`. Joins the last entry if that began less than
    /// `grain` nanoseconds before, or is later.
    fn add(&mut self, at: Time, slots: u64, grain: u64) {
        self.slots += slots;
        if let Some(last) = self.entries.back_mut()
            && later(last.from, grain.max(self.grain)) >= at
        {
            (last.until, last.slots) = (last.until.max(at), last.slots + slots);
            return;
        }
        if self.entries.len() >= MAX_ENTRIES {
            self.merge_pairs();
        }
        self.entries.push_back(ToldEntry { from: at, until: at, slots });
    }

    /// Merges each two neighbours, and has later entries be as long. What is told is then remembered
    /// a little longer.
    fn merge_pairs(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if let (Some(first), Some(last)) = (entries.front(), entries.back()) {
            self.grain = (last.until.as_nanos() - first.from.as_nanos()) / (MAX_ENTRIES as u64 / 2);
        }
        for (index, entry) in entries.into_iter().enumerate() {
            match self.entries.back_mut().filter(|_| index % 2 == 1) {
                Some(last) => (last.until, last.slots) = (last.until.max(entry.until), last.slots + entry.slots),
                None => self.entries.push_back(entry),
            }
        }
    }
}

impl WindowRule {
    /// Allowance in nanoseconds for each turn through all slots: a hundredth of the span. A request
    /// that comes a little later than told moves the opening of its slot for the one after it.
    fn told_allowance(&self) -> u64 {
        (self.span / 100).min(MAX_ALLOWANCE)
    }

    /// The time so many turns through all slots after another one, with the allowance for each.
    pub(crate) fn after_turns(&self, time: Time, turns: u64) -> Time {
        later(time, turns.saturating_mul(self.span.saturating_add(self.told_allowance())))
    }

    /// The opening of slots behind so many turns, with the allowance for each.
    pub(crate) fn with_allowance(&self, opening: Time, turns: u64) -> Time {
        later(opening, turns.saturating_mul(self.told_allowance()))
    }

    /// Time in nanoseconds after the first opening within which openings are told.
    fn told_horizon(&self) -> u64 {
        self.span.saturating_mul(10).clamp(MIN_HORIZON, MAX_HORIZON)
    }
}

impl Window {
    /// Opening that a refused request of `cost` slots is told: the one at which it has room if all
    /// that were told one before come back as told. The flag is true if there are any.
    ///
    /// `first`: its opening if none were told. `opens` maps a number of slots ahead to the opening
    /// behind them.
    pub(crate) fn tell_opening(
        &mut self,
        rule: &WindowRule,
        first: Time,
        cost: u32,
        now: Time,
        opens: impl Fn(&Window, u64) -> Time,
    ) -> (Time, bool) {
        let mut told = self.extra_mut().told.take().unwrap_or_default();
        told.forget(now);
        let cost = u64::from(cost);
        let last = later(first, rule.told_horizon());
        let behind = |ahead: u64| if ahead == 0 { first } else { opens(self, ahead).max(first) };
        let (mut ahead, mut at) = (told.slots, behind(told.slots));
        if at <= last {
            told.add(at, cost, rule.told_allowance());
        } else {
            (ahead, at) = (told.repeated, behind(told.repeated));
            if at > last {
                (ahead, at) = (0, first);
            }
            told.repeated = ahead + cost;
        }
        self.extra_mut().told = Some(told);
        (at, ahead > 0)
    }

    /// True if an opening that a refused request was told is still to come.
    pub(super) fn has_told(&self, now: Time) -> bool {
        let told = self.extra.as_ref().and_then(|extra| extra.told.as_ref());
        told.and_then(|told| told.entries.back()).is_some_and(|last| last.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn what_was_told_is_forgotten_when_its_time_has_come() {
        let mut told = ToldOpenings::default();
        told.add(ms(10), 1, 0);
        told.add(ms(20), 2, 0);
        for (now, left) in [(9, 3), (10, 2), (19, 2), (20, 0), (30, 0)] {
            told.forget(ms(now));
            assert_eq!(told.slots, left, "{now} ms");
        }
    }

    #[test]
    fn many_openings_take_little_memory_and_are_remembered_to_the_last() {
        let mut told = ToldOpenings::default();
        for millis in 1..=10_000 {
            told.add(ms(millis), 1, 0);
            assert!(told.entries.len() <= MAX_ENTRIES, "{millis}");
        }
        assert_eq!(told.slots, 10_000);
        for now in (0..10_000).step_by(100) {
            told.forget(ms(now));
            let still_to_come = 10_000 - now;
            assert!((still_to_come..=still_to_come + 1000).contains(&told.slots), "{now} ms: {}", told.slots);
        }
        told.forget(ms(10_000));
        assert_eq!((told.slots, told.entries.len()), (0, 0));
    }
}
