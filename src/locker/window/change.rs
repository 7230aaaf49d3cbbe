//! What becomes of a window when its limit's rule changes.
//!
//! The promise holds under the new rule from then on, counting what the old one counted. What the
//! old rule let be forgotten but the new one would still count is taken to be a full window.

use super::rule::{Form, Rule, Unknown};
use super::{Window, later};
use crate::time::Time;

impl Rule {
    /// Takes over what the limit's `old` rule knew, at `now`. Called before any window is changed. Returns what that rule
    /// let be forgotten and this one would still count, which no window shows.
    pub(crate) fn succeed(&mut self, old: &Rule, wall: i128, now: Time) -> Option<Unknown> {
        self.live = old.live;
        if let (Form::Calendar { unit, zone }, Form::Calendar { unit: was, zone: there }) = (&self.form, &old.form)
            && unit == was
            && zone == there
        {
            self.period = old.period;
        }
        self.roll(wall, now);
        let forgotten = match (&old.form, &self.form) {
            // Nothing was counted: there is nothing to go by.
            (Form::Uncounted, _) => None,
            (Form::Sliding | Form::Smooth, Form::Sliding | Form::Smooth) => {
                // What settled at t was forgotten at t + span; there was nothing before the limit itself.
                let forgotten = now.as_nanos().checked_sub(old.span).map(Time::from_nanos);
                forgotten.filter(|forgotten| *forgotten > old.since)
            }
            (Form::Fixed, Form::Fixed) => None,
            (Form::Calendar { .. }, Form::Calendar { .. }) if self.period_is(old) => None,
            _ => Some(now),
        };
        self.since = old.since;
        self.free = old.free.min(self.block);
        self.unknown.clone_from(&old.unknown);
        let forgotten = forgotten.map(Unknown::all);
        if let Some(unknown) = forgotten {
            self.add_unknown(unknown, now);
        }
        forgotten
    }

    fn period_is(&self, old: &Rule) -> bool {
        self.period_began(0) == old.period_began(0) && self.period_end(0) == old.period_end(0)
    }
}

impl Window {
    /// Goes on under `new` instead of `old`, which let these be forgotten.
    pub(crate) fn succeed(&mut self, old: &Rule, new: &Rule, forgotten: Option<Unknown>, now: Time) {
        self.expire(old, now);
        let settled = self.in_log;
        match (&old.form, &new.form) {
            (_, Form::Uncounted) => self.log_clear(),
            (Form::Uncounted, _) => self.log_clear(),
            (Form::Sliding | Form::Smooth, Form::Sliding | Form::Smooth) | (Form::Fixed, Form::Fixed) => {}
            (Form::Calendar { .. }, Form::Calendar { .. }) if new.period_is(old) => {}
            _ => {
                self.log_clear();
                self.unsettled += settled;
                self.settle(new, settled, now);
            }
        }
        if matches!(new.form, Form::Smooth) && !matches!(old.form, Form::Smooth) {
            self.extra_mut().mark = later(now, if settled > 0 { new.interval } else { 0 });
        }
        self.count_unknown(forgotten.iter(), new, now);
        self.expire(new, now);
    }

    /// What it has counted belongs to a key that cannot be told from others any more.
    pub(crate) fn forget_key(&mut self, rule: &Rule, now: Time) {
        self.log_clear();
        self.count_unknown(rule.unknown.iter(), rule, now);
    }
}
