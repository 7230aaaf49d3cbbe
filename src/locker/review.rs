//! Reviews waiters of whole limits, a slice of groups at a time.
//!
//! A change of a rule (the sharing mode of a limit, or the need to write its slots down) holds for
//! the whole limit at once. The waiters that may go by the new rule are found afterwards: so such a
//! change costs no more with a million waiters than with none. A slice not yet reviewed cannot
//! grant too much; its waiters only go a little later.

use super::counters::Counters;
use super::queue::{Dirty, Queue};
use crate::time::Time;

/// Groups per slice: some 100 µs of work, if each of them has news. It also bounds the discarded
/// entries that are dropped per slice.
pub(super) const SLICE: u32 = 128;

impl Queue {
    /// Returns true if groups are left for review, or discarded entries of the sharing state are
    /// left to drop. The locker's timeout is then due at once, and reviews the next slice.
    pub(super) fn has_review(&self, counters: &Counters) -> bool {
        !self.review.limits.is_empty() || counters.sharing.has_discarded()
    }

    /// Reviews the next slice: marks the windows of its groups that belong to a limit under review,
    /// and dispatches. After the last slice the review ends.
    pub(super) fn review_some(&mut self, counters: &mut Counters, now: Time) {
        counters.sharing.discard_some(SLICE as usize);
        // Findings of the slices before come first, and a requeue makes other groups.
        if self.review.limits.is_empty() || self.is_unfinished() {
            return self.dispatch(counters, now);
        }
        let (groups, more) = self.groups.in_range(self.review.next, SLICE);
        self.review.next += SLICE;
        for group in groups {
            let mut is_concerned = false;
            for window in self.groups[group].windows.clone() {
                let limit = counters.table.peek(window).limit;
                if self.review.limits.contains(&limit) {
                    self.mark_dirty(&counters.table, window);
                    is_concerned = true;
                }
            }
            if is_concerned && self.review.voids_answers && counters.sharing.cancel_scheduled(self, group) {
                self.dirty.push_back(Dirty::Group(group));
            }
        }
        if !more {
            self.review.clear();
        }
        self.dispatch(counters, now);
    }
}
