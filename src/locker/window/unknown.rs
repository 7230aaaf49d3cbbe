//! Slots that may have been taken and that no window shows: after a crash, and under a rule that remembers longer.

use super::rule::{Form, Rule};
use super::{Window, later};
use crate::time::Time;

impl Rule {
    /// Until when what may have been forgotten would still count.
    pub(crate) fn unknown_until(&self) -> Option<Time> {
        let unknown = self.unknown?;
        match self.form {
            Form::Uncounted => None,
            Form::Sliding | Form::Smooth | Form::Fixed => Some(later(unknown.at, self.span)),
            Form::Calendar { .. } => Some(self.period.until),
        }
    }
}

impl Window {
    /// Fills the window with what may have been forgotten, as long as that would still count.
    pub(super) fn count_unknown(&mut self, rule: &Rule, now: Time) {
        let (Some(unknown), Some(until)) = (rule.unknown, rule.unknown_until()) else { return };
        if until <= now {
            return;
        }
        // As if nothing were unsettled: that may yet be given back, what was forgotten may not.
        let room = rule.requests.min(unknown.slots).saturating_sub(self.in_log);
        let unknown = unknown.at;
        match rule.form {
            // What is not known yet comes after all that is.
            Form::Sliding | Form::Smooth if unknown > now => self.log_push(unknown, room),
            Form::Sliding | Form::Smooth => self.log_push_oldest(unknown, room),
            Form::Fixed | Form::Calendar { .. } => self.settled(rule, room, unknown),
            Form::Uncounted => {}
        }
    }
}
