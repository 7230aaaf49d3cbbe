//! Rule change: carries a window over to a new rule when its limit is reloaded.
//!
//! From then on the guarantee holds under the new rule, including everything the old rule counted.
//! Slots that the old rule had dropped but the new one would still count are assumed to be a full
//! window.

use std::time::Duration;

use super::window_rule::{Algorithm, UnknownSlots, WindowRule};
use super::{RULE_VERSIONS, Window, later};
use crate::locker::wall_clock::WallClock;
use crate::time::Time;

impl WindowRule {
    /// Takes over the limit-wide state of the `old` rule at `now`, before any window is changed. By
    /// `until` all slots granted under the old rule have settled. Returns the slots that this rule
    /// counts but no window shows: the old rule had dropped them, or had no need to know them.
    pub(crate) fn change_rule(
        &mut self,
        old: &WindowRule,
        until: Time,
        wall: &WallClock,
        now: Time,
    ) -> Vec<UnknownSlots> {
        self.live = old.live;
        self.version = (old.version + 1) % RULE_VERSIONS;
        self.roll(wall, now);
        // Before the limit existed there were no slots.
        let counted = |forgotten: &Time| *forgotten > old.since;
        let forgotten = match (&old.algorithm, &self.algorithm) {
            // The old rule counted nothing that could be carried over.
            (Algorithm::Uncounted, _) => None,
            (Algorithm::Sliding | Algorithm::Smooth, Algorithm::Sliding | Algorithm::Smooth) => {
                // Slots that settled at t were dropped at t + span.
                now.as_nanos().checked_sub(old.span).map(Time::from_nanos).filter(counted)
            }
            (Algorithm::Fixed, Algorithm::Fixed) => None,
            (Algorithm::Calendar { .. }, Algorithm::Calendar { .. }) => self.period_forgotten(old).filter(counted),
            _ => Some(now),
        };
        mutant!("a lowered N is ignored", self.requests = self.requests.max(old.requests));
        self.since = old.since;
        self.lingers = match old.lingers.filter(|(earlier, _)| *earlier > now) {
            Some((earlier, linger)) if old.answered => Some((earlier.max(until), linger.max(old.linger))),
            earlier => earlier.or(old.answered.then_some((until, old.linger))),
        };
        mutant!("answers of an earlier rule do not linger", self.lingers = None);
        self.initial_prewritten = old.initial_prewritten.min(self.block);
        self.unknown.clone_from(&old.unknown);
        self.suspended.clone_from(&old.suspended);
        let is_counted = !self.shared && !self.dry_run;
        let mut unseen = if is_counted { self.resume_suspended() } else { Vec::new() };
        let forgotten = mutant!(forgotten.map(UnknownSlots::all), "a longer span opens what is no longer known", None);
        if let Some(forgotten) = forgotten {
            self.add_unknown(forgotten, now);
            unseen.push(forgotten);
            unseen.sort_unstable_by_key(|unknown| unknown.at);
        }
        unseen
    }

    /// Latest settle time of slots that would count now but were dropped when the old rule's period
    /// began; `None` if there are none. A longer guard covers the boundaries to come, not the one
    /// at which the period began.
    fn period_forgotten(&mut self, old: &WindowRule) -> Option<Time> {
        if let (Algorithm::Calendar { unit, zone }, Algorithm::Calendar { unit: old_unit, zone: old_zone }) =
            (&self.algorithm, &old.algorithm)
            && unit == old_unit
            && zone == old_zone
            && self.period.end >= old.period.end
        {
            self.period.began = old.period.began.max(self.period.began);
            return None;
        }
        (self.period.began < old.period.began).then(|| old.period.began - Duration::from_nanos(1))
    }
}

impl Window {
    /// Moves the window from the `old` rule to the `new` one, and adds the `unseen` slots, oldest
    /// first.
    pub(crate) fn change_rule(&mut self, old: &WindowRule, new: &WindowRule, unseen: &[UnknownSlots], now: Time) {
        self.expire(old, now);
        let (settled, at) = (self.in_log, self.settled_by(old, now));
        match (&old.algorithm, &new.algorithm) {
            (_, Algorithm::Uncounted) => self.log_clear(),
            (Algorithm::Uncounted, _) => self.log_clear(),
            (Algorithm::Sliding | Algorithm::Smooth, Algorithm::Sliding | Algorithm::Smooth)
            | (Algorithm::Fixed, Algorithm::Fixed)
            | (Algorithm::Calendar { .. }, Algorithm::Calendar { .. }) => {}
            _ => {
                self.log_clear();
                self.unsettled += settled;
                let kept = mutant!(settled, "another kind of window forgets what was counted", 0);
                self.settle(new, kept, at);
            }
        }
        if matches!(new.algorithm, Algorithm::Smooth) && !matches!(old.algorithm, Algorithm::Smooth) {
            self.extra_mut().tat = later(at, if settled > 0 { new.interval } else { 0 });
        }
        // The lower limit had no room for all slots that may have been taken.
        let unseen = if new.requests > old.requests { &new.unknown } else { unseen };
        self.count_unknown(unseen.iter(), new, now);
        self.expire(new, now);
    }

    /// Time by which all logged slots have settled, given that an answer may still be under way.
    fn settled_by(&self, rule: &WindowRule, now: Time) -> Time {
        match rule.algorithm {
            // The only entry of the log says when the window began, not when its last slot settled.
            Algorithm::Fixed if rule.answered && self.in_log > 0 => now + rule.linger,
            Algorithm::Uncounted
            | Algorithm::Sliding
            | Algorithm::Smooth
            | Algorithm::Fixed
            | Algorithm::Calendar { .. } => self.log_entries().last().map_or(now, |last| last.at.max(now)),
        }
    }

    /// Drops the counts of a key that can no longer be told from others, and counts the limit's
    /// unknown slots instead.
    pub(crate) fn forget_key(&mut self, rule: &WindowRule, now: Time) {
        self.log_clear();
        self.count_unknown(rule.unknown.iter(), rule, now);
    }
}

#[cfg(test)]
mod tests;
