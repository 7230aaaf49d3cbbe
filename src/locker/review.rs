//! Reviews waiters of whole limits, a slice of lanes at a time.
//!
//! What decides whether a waiter may go (who has the say, whether slots must be written down) changes for a whole limit from
//! one moment to the next, in its rule. Who may go by the new rule is found afterwards: so such a change costs no more with
//! a million waiters than with none. A slice that has yet to come lets nobody go too many, only somebody a little later.

use std::collections::BTreeSet;

use super::Locker;
use super::api::LimitId;
use crate::time::Time;

/// How many lanes are looked at in one go: some 100 µs, if every one of them has news.
pub(super) const SLICE: u32 = 128;

/// The limits whose waiters must all be looked at again.
#[derive(Debug, Default)]
pub(super) struct Review {
    limits: BTreeSet<LimitId>,
    /// The lane to go on with.
    next: u32,
}

impl Review {
    /// Nobody needs to be looked at.
    pub(super) fn clear(&mut self) {
        *self = Review::default();
    }
}

impl Locker {
    /// Everybody who waits for this limit is to be looked at again, soon. Lanes that are made later need not be: they are
    /// looked at when they are made.
    pub(super) fn review(&mut self, limit: LimitId) {
        self.review.limits.insert(limit);
        self.review.next = 0;
    }

    /// Whether there is anything left to be looked at.
    pub(super) fn has_review(&self) -> bool {
        !self.review.limits.is_empty() || self.sharing.has_discarded()
    }

    /// Looks at the next slice.
    pub(super) fn review_some(&mut self, now: Time) {
        self.sharing.discard_some(SLICE as usize);
        if self.review.limits.is_empty() {
            return self.dispatch(now);
        }
        let (groups, more) = self.queue.groups.in_range(self.review.next, SLICE);
        self.review.next += SLICE;
        for group in groups {
            for window in self.queue.groups[group].windows.clone() {
                let limit = self.table.window(window).limit;
                if self.review.limits.contains(&limit) {
                    self.mark_dirty(window);
                }
            }
        }
        if !more {
            self.review.clear();
        }
        self.dispatch(now);
    }
}
