//! Reviews waiters of whole limits, a slice of lanes at a time.
//!
//! What decides whether a waiter may go (who has the say, whether slots must be written down) changes for a whole limit from
//! one moment to the next, in its rule. Who may go by the new rule is found afterwards: so such a change costs no more with
//! a million waiters than with none. A slice that has yet to come lets nobody go too many, only somebody a little later.

use super::counters::Counters;
use super::queue::Queue;
use crate::time::Time;

/// How many lanes are looked at in one go: some 100 µs, if every one of them has news.
pub(super) const SLICE: u32 = 128;

impl Queue {
    /// Returns true if there is anything left to be looked at.
    pub(super) fn has_review(&self, counters: &Counters) -> bool {
        !self.review.limits.is_empty() || counters.sharing.has_discarded()
    }

    /// Looks at the next slice.
    pub(super) fn review_some(&mut self, counters: &mut Counters, now: Time) {
        counters.sharing.discard_some(SLICE as usize);
        if self.review.limits.is_empty() {
            return self.dispatch(counters, now);
        }
        let (groups, more) = self.groups.in_range(self.review.next, SLICE);
        self.review.next += SLICE;
        for group in groups {
            for window in self.groups[group].windows.clone() {
                let limit = counters.table.window(window).limit;
                if self.review.limits.contains(&limit) {
                    self.mark_dirty(&counters.table, window);
                }
            }
        }
        if !more {
            self.review.clear();
        }
        self.dispatch(counters, now);
    }
}
