//! Rule changes that some windows have not followed yet: a reload changes the rules of its limits at once, and each
//! window when it is next touched.
//!
//! A window notes the version of the rule that it was last carried over to. Whatever touches one finds it carried over:
//! the accessors of the table see to it. The windows that nothing touches are carried over in slices, and then the
//! history is forgotten. Carrying a window over late makes no difference: nothing has changed in it since the reload.

use std::collections::{BTreeMap, VecDeque};

use super::api::LimitId;
use super::window::{RULE_VERSIONS, UnknownSlots, Window, WindowRule};
use crate::time::Time;

/// A change of one limit's rule.
#[derive(Debug)]
pub(super) struct RuleChange {
    /// The rule before.
    pub(super) old: WindowRule,
    /// The rule after, before it is told how the limit is persisted and shared.
    pub(super) new: WindowRule,
    /// Slots that the new rule counts and no window shows, oldest first.
    pub(super) unseen: Vec<UnknownSlots>,
    /// The rule after, if the windows' keys mean something else from then on.
    pub(super) rekeyed: Option<WindowRule>,
    /// Time of the change.
    pub(super) at: Time,
}

impl RuleChange {
    /// Carries a window over.
    fn apply(&self, window: &mut Window) {
        window.change_rule(&self.old, &self.new, &self.unseen, self.at);
        if self.new.shared {
            window.clear_opens_after();
            if !self.old.shared {
                window.report_all(&self.new);
            }
        }
        if let Some(rule) = &self.rekeyed {
            window.forget_key(rule, self.at);
        }
        window.set_rule_version(self.new.version);
    }
}

/// The changes that some window of each limit has not followed yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct RuleChanges {
    by_limit: BTreeMap<LimitId, VecDeque<RuleChange>>,
    /// Limits of which windows are to be carried over; the walk is in the first of them.
    walk: VecDeque<LimitId>,
    /// Version of the first limit's rule when the walk through its windows began.
    walk_version: u16,
}

impl RuleChanges {
    /// True if any window may not have followed its limit's rule.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        !self.by_limit.is_empty()
    }

    /// Notes the change of a limit that has windows.
    pub(super) fn add(&mut self, limit: LimitId, change: RuleChange) {
        let changes = self.by_limit.entry(limit).or_default();
        debug_assert!(changes.len() + 1 < usize::from(RULE_VERSIONS), "the walk is faster than reloads");
        changes.push_back(change);
        if changes.len() == 1 {
            self.walk.push_back(limit);
        }
    }

    /// The last change of a limit.
    pub(super) fn last_mut(&mut self, limit: LimitId) -> Option<&mut RuleChange> {
        self.by_limit.get_mut(&limit)?.back_mut()
    }

    /// Carries a window over to the present rule of its limit.
    #[cold]
    pub(super) fn carry(&self, window: &mut Window) {
        let Some(changes) = self.by_limit.get(&window.limit) else { return };
        let Some(first) = changes.front() else { return };
        // Versions follow each other, and the window has one of these or the last.
        let known = window.rule_version().wrapping_sub(first.old.version) % RULE_VERSIONS;
        changes.iter().skip(usize::from(known)).for_each(|change| change.apply(window));
    }

    /// True if a window has followed its limit's rule.
    pub(super) fn is_carried(&self, window: &Window) -> bool {
        self.last_version(window.limit).is_none_or(|last| last == window.rule_version())
    }

    /// Version of a limit's rule after its last change; `None` if all its windows have followed.
    fn last_version(&self, limit: LimitId) -> Option<u16> {
        self.by_limit.get(&limit)?.back().map(|last| last.new.version)
    }

    /// The limit in which the walk is.
    pub(super) fn walked(&self) -> Option<LimitId> {
        self.walk.front().copied()
    }

    /// Notes that a walk through the windows of the first limit begins. Returns the limit.
    pub(super) fn begin_walk(&mut self) -> Option<LimitId> {
        let limit = self.walked()?;
        self.walk_version = self.last_version(limit).unwrap_or_default();
        Some(limit)
    }

    /// Ends the walk through the windows of a limit, whose changes are forgotten unless there are
    /// newer ones.
    pub(super) fn end_walk(&mut self, limit: LimitId) {
        if self.last_version(limit).is_none_or(|last| last == self.walk_version) {
            self.by_limit.remove(&limit);
            self.walk.pop_front();
        }
    }
}
