//! Whose word it is whether a request may pass a shared limit.

use std::num::NonZeroU32;

use super::Sharing;
use crate::locker::api::LimitId;
use crate::locker::limit_table::LimitTable;
use crate::locker::queue::{Dirty, Queue, StoreAsk, WaiterGroup};
use crate::locker::window::WindowRule;
use crate::locker::window_table::WindowTable;
use crate::time::Time;

/// Sharing of a limit by its earlier rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::locker) enum PriorSharing {
    /// The store knows its windows.
    Shared,
    /// It was counted here alone.
    Local,
}

impl PriorSharing {
    /// That of a rule.
    pub(in crate::locker) fn of(rule: &WindowRule) -> PriorSharing {
        if rule.shared { PriorSharing::Shared } else { PriorSharing::Local }
    }
}

/// Source of the decision whether a request may pass a shared limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SharingMode {
    /// The store's.
    Store,
    /// Nobody's: the store cannot be asked, and who comes waits.
    Blocked,
    /// This gateway's, which has one equal part of the limit for a time.
    Fraction {
        /// How many parts there are.
        parts: NonZeroU32,
        /// When its part is given to others: what goes in it must have left by then.
        until: Time,
    },
    /// This gateway's alone, as if there were no other.
    Standalone,
}

impl WindowRule {
    /// Whose word it is from here on.
    fn apply_sharing_mode(&mut self, mode: SharingMode) {
        let (requests, interval, in_flight) = self.whole;
        (self.requests, self.interval, self.in_flight) = self.whole;
        (self.is_fraction, self.until) = match mode {
            SharingMode::Fraction { until, .. } => (true, until),
            SharingMode::Store | SharingMode::Blocked | SharingMode::Standalone => (false, Time::NEVER),
        };
        let (store_managed, store_lost) = match mode {
            SharingMode::Store => (true, false),
            SharingMode::Blocked => (true, true),
            SharingMode::Standalone => (false, false),
            SharingMode::Fraction { parts, .. } => {
                let part = |all: u32| if all == u32::MAX { all } else { all / parts };
                (self.requests, self.in_flight) = (part(requests), part(in_flight));
                self.interval = interval.saturating_mul(u64::from(parts.get()));
                // Less than one each is nothing.
                let nothing = self.requests == 0 || self.in_flight == 0;
                (nothing, nothing)
            }
        };
        (self.store_managed, self.store_lost) = (self.shared && store_managed, self.shared && store_lost);
    }
}

impl Sharing {
    /// The store can be asked, and does not know this gateway: from here on what may go is its to say. Which windows it must
    /// hear of is found with the next exchanges, some at a time: until then it counts them by the name it knew before.
    /// Returns the limits whose waiters must be reviewed.
    pub(in crate::locker) fn open(
        &mut self,
        limits: &mut LimitTable,
        table: &mut WindowTable,
        now: Time,
    ) -> Vec<LimitId> {
        self.epochs += 1;
        self.epoch = Some(self.epochs);
        self.cancel_asks();
        let shared = limits.shared();
        self.set_mode(limits, &shared, SharingMode::Store);
        self.scan = shared.iter().copied().collect();
        self.due = now;
        self.begin_scan(table);
        shared
    }

    /// The store cannot be asked any more: no request passes a shared limit before the next `open` or `set_mode`. Returns
    /// the limits whose waiters must be reviewed.
    pub(in crate::locker) fn close(&mut self, limits: &mut LimitTable) -> Vec<LimitId> {
        self.epoch = None;
        self.cancel_asks();
        let shared = limits.shared();
        self.set_mode(limits, &shared, SharingMode::Blocked);
        shared
    }

    /// Sets who has the say about these shared limits. Holds at once, and the slots that the store has granted are void: the
    /// rule says both, and no window is looked at.
    pub(in crate::locker) fn set_mode(&mut self, limits: &mut LimitTable, ids: &[LimitId], mode: SharingMode) {
        for id in ids {
            let rule = &mut limits.rules[id.at()];
            rule.apply_sharing_mode(mode);
            rule.begin_term();
            self.modes.insert(*id, mode);
        }
    }

    /// Brings the rule of a limit that is new or changed in line with whose word it is. `before`: by its earlier
    /// rule. Returns true if the limit is shared: then what the store has said of it was of another rule.
    pub(in crate::locker) fn update_limit(
        &mut self,
        limits: &mut LimitTable,
        table: &mut WindowTable,
        id: LimitId,
        before: PriorSharing,
        now: Time,
    ) -> bool {
        let was_shared = before == PriorSharing::Shared;
        let rule = &mut limits.rules[id.at()];
        if rule.shared != was_shared {
            rule.begin_term();
        }
        if !rule.shared {
            self.modes.remove(&id);
            self.renew_id |= was_shared && self.epoch.is_some();
            return false;
        }
        let present = if self.epoch.is_some() { SharingMode::Store } else { SharingMode::Blocked };
        let mode = *self.modes.entry(id).or_insert(present);
        rule.apply_sharing_mode(mode);
        for index in table.of_limit(id) {
            let window = table.window_mut(index);
            window.clear_opens_after();
            if !was_shared {
                window.report_all(&limits.rules[id.at()]);
                self.queue_report(table, index, now);
            }
        }
        true
    }

    /// A limit is forgotten.
    pub(in crate::locker) fn forget_limit(&mut self, id: LimitId) {
        self.modes.remove(&id);
    }

    /// No group of waiters that needs a window of this limit is asked for any more until it is looked at again.
    pub(in crate::locker) fn cancel_asks_for(&mut self, table: &WindowTable, queue: &mut Queue, id: LimitId) {
        for group in queue.groups.indices() {
            let WaiterGroup { asks, windows, .. } = &queue.groups[group];
            let asks = self.current_ask(*asks);
            if matches!(asks, StoreAsk::Scheduled(..)) && windows.iter().any(|index| table.window(*index).limit == id) {
                queue.groups[group].asks = StoreAsk::Idle;
                self.cancel_ask(group, asks);
                queue.dirty.push_back(Dirty::Group(group));
            }
        }
    }
}
