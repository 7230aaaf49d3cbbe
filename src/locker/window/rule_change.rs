//! What becomes of a window when its limit's rule changes.
//!
//! The promise holds under the new rule from then on, counting what the old one counted. What the
//! old rule let be forgotten but the new one would still count is taken to be a full window.

use std::time::Duration;

use super::window_rule::{Algorithm, UnknownSlots, WindowRule};
use super::{Window, later};
use crate::locker::wall_clock::WallClock;
use crate::time::Time;

impl WindowRule {
    /// Takes over what the limit's `old` rule knew, at `now`; by `until` all has settled that was granted by it. Called
    /// before any window is changed. Returns what this
    /// rule counts and no window shows: what the old one let be forgotten, or did not need to know.
    pub(crate) fn change_rule(
        &mut self,
        old: &WindowRule,
        until: Time,
        wall: &WallClock,
        now: Time,
    ) -> Vec<UnknownSlots> {
        self.live = old.live;
        self.roll(wall, now);
        // There was nothing before the limit itself.
        let counted = |forgotten: &Time| *forgotten > old.since;
        let forgotten = match (&old.algorithm, &self.algorithm) {
            // Nothing was counted: there is nothing to go by.
            (Algorithm::Uncounted, _) => None,
            (Algorithm::Sliding | Algorithm::Smooth, Algorithm::Sliding | Algorithm::Smooth) => {
                // Slots that settled at t were forgotten at t + span.
                now.as_nanos().checked_sub(old.span).map(Time::from_nanos).filter(counted)
            }
            (Algorithm::Fixed, Algorithm::Fixed) => None,
            (Algorithm::Calendar { .. }, Algorithm::Calendar { .. }) => self.period_forgotten(old).filter(counted),
            _ => Some(now),
        };
        self.since = old.since;
        self.lingers = match old.lingers.filter(|(earlier, _)| *earlier > now) {
            Some((earlier, linger)) if old.answered => Some((earlier.max(until), linger.max(old.linger))),
            earlier => earlier.or(old.answered.then_some((until, old.linger))),
        };
        self.initial_prewritten = old.initial_prewritten.min(self.block);
        self.unknown.clone_from(&old.unknown);
        self.suspended.clone_from(&old.suspended);
        let is_counted = !self.shared && !self.dry_run;
        let mut unseen = if is_counted { self.resume_suspended() } else { Vec::new() };
        if let Some(forgotten) = forgotten.map(UnknownSlots::all) {
            self.add_unknown(forgotten, now);
            unseen.push(forgotten);
            unseen.sort_unstable_by_key(|unknown| unknown.at);
        }
        unseen
    }

    /// The latest moment at which slots settled that would count now, and were forgotten when the old rule's period began. A guard
    /// that has grown covers the boundaries that are to come, not the one at which the period began.
    fn period_forgotten(&mut self, old: &WindowRule) -> Option<Time> {
        if let (Algorithm::Calendar { unit, zone }, Algorithm::Calendar { unit: was, zone: there }) =
            (&self.algorithm, &old.algorithm)
            && unit == was
            && zone == there
            && self.period.end >= old.period.end
        {
            self.period.began = old.period.began.max(self.period.began);
            return None;
        }
        (self.period.began < old.period.began).then(|| old.period.began - Duration::from_nanos(1))
    }
}

impl Window {
    /// Goes on under `new` instead of `old`; what else that counts is `unseen`, oldest first.
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
                self.settle(new, settled, at);
            }
        }
        if matches!(new.algorithm, Algorithm::Smooth) && !matches!(old.algorithm, Algorithm::Smooth) {
            self.extra_mut().tat = later(at, if settled > 0 { new.interval } else { 0 });
        }
        // A lower limit had no room for all that may have been taken.
        let unseen = if new.requests > old.requests { &new.unknown } else { unseen };
        self.count_unknown(unseen.iter(), new, now);
        self.expire(new, now);
    }

    /// The moment by which all that it has logged has settled: after an end, an answer may be yet to come.
    fn settled_by(&self, rule: &WindowRule, now: Time) -> Time {
        match rule.algorithm {
            // Its only entry says when the window began.
            Algorithm::Fixed if rule.answered && self.in_log > 0 => now + rule.linger,
            Algorithm::Uncounted
            | Algorithm::Sliding
            | Algorithm::Smooth
            | Algorithm::Fixed
            | Algorithm::Calendar { .. } => self.log_entries().last().map_or(now, |last| last.at.max(now)),
        }
    }

    /// What it has counted belongs to a key that cannot be told from others any more.
    pub(crate) fn forget_key(&mut self, rule: &WindowRule, now: Time) {
        self.log_clear();
        self.count_unknown(rule.unknown.iter(), rule, now);
    }
}
