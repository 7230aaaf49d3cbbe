//! Marks of a window: two flags, and the version of the rule that it was last carried over to, in the 16 bits that the
//! first cache line has left.

use super::Window;
use crate::time::Time;

/// Flag: the window is paused.
const PAUSED: u16 = 1 << 15;
/// Flag: the journal holds a record of the window.
const PERSISTED: u16 = 1 << 14;

/// Number of versions of a rule before they repeat.
pub(in crate::locker) const RULE_VERSIONS: u16 = 1 << 14;

/// Flags and rule version of one window.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Marks(u16);

impl Marks {
    /// True if the window's pause is set: a cheap check without the second allocation.
    #[inline]
    pub(super) fn is_paused(self) -> bool {
        self.0 & PAUSED != 0
    }

    /// Notes that the window's pause is set.
    pub(super) fn set_paused(&mut self) {
        self.0 |= PAUSED;
    }

    /// True if the journal holds a record of the window, which must go when the window is dropped.
    pub(super) fn is_persisted(self) -> bool {
        self.0 & PERSISTED != 0
    }

    /// Notes that the journal holds a record of the window.
    pub(super) fn set_persisted(&mut self) {
        self.0 |= PERSISTED;
    }

    /// Version of the rule.
    #[inline]
    pub(super) fn rule_version(self) -> u16 {
        self.0 % RULE_VERSIONS
    }

    /// Sets the version of the rule, modulo [`RULE_VERSIONS`].
    pub(super) fn set_rule_version(&mut self, version: u16) {
        self.0 = self.0 / RULE_VERSIONS * RULE_VERSIONS + version % RULE_VERSIONS;
    }
}

impl Window {
    /// End of the pause; `Time::START` if there is none.
    #[inline]
    pub(crate) fn paused(&self) -> Time {
        match &self.extra {
            Some(extra) if self.marks.is_paused() => extra.paused,
            Some(_) | None => Time::START,
        }
    }

    /// Opens no slot before `until`. Never shortens a pause.
    pub(crate) fn pause(&mut self, until: Time) {
        let until = mutant!(self.paused().max(until), "a later pause shortens an earlier one", until);
        self.extra_mut().paused = until;
        self.marks.set_paused();
    }

    /// Restores a pause unless it is over.
    pub(super) fn pause_again(&mut self, until: Time, now: Time) {
        if until > now {
            self.pause(until);
        }
    }

    /// Version of the rule that the window was last carried over to.
    #[inline]
    pub(crate) fn rule_version(&self) -> u16 {
        self.marks.rule_version()
    }

    /// Notes the version of the rule that the window is carried over to.
    pub(crate) fn set_rule_version(&mut self, version: u16) {
        self.marks.set_rule_version(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_changes_no_flag_and_no_flag_changes_the_version() {
        let mut marks = Marks::default();
        marks.set_rule_version(RULE_VERSIONS - 1);
        assert_eq!((marks.is_paused(), marks.is_persisted(), marks.rule_version()), (false, false, RULE_VERSIONS - 1));
        marks.set_paused();
        marks.set_persisted();
        assert_eq!((marks.is_paused(), marks.is_persisted(), marks.rule_version()), (true, true, RULE_VERSIONS - 1));
        marks.set_rule_version(RULE_VERSIONS + 5);
        assert_eq!((marks.is_paused(), marks.is_persisted(), marks.rule_version()), (true, true, 5));
    }
}
