//! Whose word it is whether a request may pass a shared limit.

use std::num::NonZeroU32;

use crate::locker::Locker;
use crate::locker::api::LimitId;
use crate::locker::queue::{Dirty, StoreAsk, WaiterGroup};
use crate::locker::window::WindowRule;
use crate::time::Time;

/// Whose word it is whether a request may pass a shared limit.
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

impl Locker {
    /// Whether any limit in force is shared.
    pub fn shares(&self) -> bool {
        self.limits.shares()
    }

    /// The store can be asked, and does not know this gateway: from here on what may go is its to say. Which windows it must
    /// hear of is found with the next exchanges, some at a time: until then it counts them by the name it knew before.
    pub fn open_sharing(&mut self, now: Time) {
        let now = self.advance(now);
        self.sharing.epochs += 1;
        self.sharing.epoch = Some(self.sharing.epochs);
        self.sharing.cancel_asks();
        self.set_sharing_mode(None, SharingMode::Store, now);
        self.sharing.scan = self.shared().into();
        self.sharing.due = now;
        self.begin_scan();
    }

    /// The store cannot be asked any more: nobody passes a shared limit before `open_sharing` or `set_sharing_mode`.
    pub fn close_sharing(&mut self, now: Time) {
        let now = self.advance(now);
        self.sharing.epoch = None;
        self.sharing.cancel_asks();
        self.set_sharing_mode(None, SharingMode::Blocked, now);
    }

    /// Whose word it is whether a request may pass this shared limit, or all of them. It is so at once, and what the store
    /// has granted holds no longer: both are said by the rule, and no window is looked at. Who waits is looked at again
    /// some at a time (`Locker::review`).
    pub fn set_sharing_mode(&mut self, limit: Option<LimitId>, mode: SharingMode, now: Time) {
        let now = self.advance(now);
        let ids = limit.map_or_else(|| self.shared(), |limit| vec![limit]);
        for id in ids {
            let rule = &mut self.limits.rules[id.at()];
            rule.apply_sharing_mode(mode);
            rule.begin_term();
            self.sharing_modes.insert(id, mode);
            self.review(id);
        }
        self.review_some(now);
    }

    /// The limits that are shared.
    pub fn shared(&self) -> Vec<LimitId> {
        self.limits.shared()
    }

    /// Brings a limit that is new or changed in line with whose word it is. `was_shared`: the store knows its windows.
    pub(in crate::locker) fn update_sharing(&mut self, id: LimitId, was_shared: bool) {
        let rule = &mut self.limits.rules[id.at()];
        if rule.shared != was_shared {
            rule.begin_term();
        }
        if !rule.shared {
            self.sharing_modes.remove(&id);
            self.sharing.renew_id |= was_shared && self.sharing.epoch.is_some();
            return;
        }
        let present = if self.sharing.epoch.is_some() { SharingMode::Store } else { SharingMode::Blocked };
        let mode = *self.sharing_modes.entry(id).or_insert(present);
        rule.apply_sharing_mode(mode);
        self.reask_store(id);
        if !was_shared {
            for index in self.table.of_limit(id) {
                self.table.window_mut(index).report_all(&self.limits.rules[id.at()]);
                self.queue_report(index, self.last);
            }
        }
    }

    /// What the store has said of a limit was of another rule: whoever waits for it is looked at again.
    fn reask_store(&mut self, id: LimitId) {
        for index in self.table.of_limit(id) {
            self.table.window_mut(index).clear_opens_after();
        }
        for group in self.queue.groups.indices() {
            let WaiterGroup { asks, windows, .. } = &self.queue.groups[group];
            let asks = self.sharing.current_ask(*asks);
            if matches!(asks, StoreAsk::Scheduled(..))
                && windows.iter().any(|index| self.table.window(*index).limit == id)
            {
                self.queue.groups[group].asks = StoreAsk::Idle;
                self.sharing.cancel_ask(group, asks);
                self.queue.dirty.push_back(Dirty::Group(group));
            }
        }
    }
}
