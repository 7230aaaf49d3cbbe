//! Sharing mode: the authority that decides whether a request may pass a shared limit.

use std::num::NonZeroU32;

use super::Sharing;
use crate::locker::api::LimitId;
use crate::locker::limit_table::LimitTable;
use crate::locker::queue::{Queue, StoreAsk};
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

/// Authority that decides whether a request may pass a shared limit. The gate's store client sets
/// it as the store becomes reachable or unreachable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SharingMode {
    /// The store grants slots.
    Store,
    /// None: the store cannot be asked, and requests wait.
    Blocked,
    /// This gateway, which has one equal part of the limit for a time.
    Fraction {
        /// Number of parts, one per gateway. A part is rounded down; if it is 0, no request passes.
        parts: NonZeroU32,
        /// Time at which the part passes to other gateways: a request in it must have left by then.
        until: Time,
    },
    /// This gateway alone, with the whole limit, as if there were no other.
    Standalone,
}

impl WindowRule {
    /// Applies a mode to the rule: sets `requests`, `interval` and `in_flight` from the whole or a
    /// part, and `store_managed` and `store_lost`. A rule that is not shared is never
    /// store-managed.
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
                let part = |all: u32| {
                    if all == u32::MAX {
                        all
                    } else {
                        mutant!(all / parts, "a part is rounded up", all.div_ceil(parts.get()))
                    }
                };
                (self.requests, self.in_flight) = (part(requests), part(in_flight));
                self.interval = interval.saturating_mul(u64::from(parts.get()));
                // A part of less than one slot or flight is none.
                let nothing = self.requests == 0 || self.in_flight == 0;
                (nothing, nothing)
            }
        };
        (self.store_managed, self.store_lost) = (self.shared && store_managed, self.shared && store_lost);
    }
}

impl Sharing {
    /// Opens sharing with a store that does not know this gateway: all shared limits become the
    /// store's. A scan finds the windows to report with the next exchanges, some at a time; until
    /// then the store counts them by the former name. Returns the limits that need a review of
    /// their waiters.
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

    /// Closes sharing, as the store cannot be asked any more: no request passes a shared limit
    /// before the next `open` or `set_mode`. Returns the limits that need a review of their
    /// waiters.
    pub(in crate::locker) fn close(&mut self, limits: &mut LimitTable) -> Vec<LimitId> {
        self.epoch = None;
        self.cancel_asks();
        let shared = limits.shared();
        self.set_mode(limits, &shared, SharingMode::Blocked);
        shared
    }

    /// Sets the mode of these shared limits. It holds at once, and the slots that the store has
    /// granted are void: both are in the rule (its term changes), and no window is touched.
    pub(in crate::locker) fn set_mode(&mut self, limits: &mut LimitTable, ids: &[LimitId], mode: SharingMode) {
        for id in ids {
            let rule = &mut limits.rules[id.at()];
            rule.apply_sharing_mode(mode);
            rule.begin_term();
            self.modes.insert(*id, mode);
        }
    }

    /// Applies the mode to the rule of a limit that is new or changed. `before`: by its earlier
    /// rule. The windows of one that was not shared before are found for a report with the next
    /// exchanges, some at a time.
    pub(in crate::locker) fn update_limit(
        &mut self,
        limits: &mut LimitTable,
        table: &mut WindowTable,
        id: LimitId,
        before: PriorSharing,
        now: Time,
    ) {
        let was_shared = before == PriorSharing::Shared;
        let rule = &mut limits.rules[id.at()];
        if rule.shared != was_shared {
            rule.begin_term();
        }
        if !rule.shared {
            self.modes.remove(&id);
            self.renew_id |= was_shared && self.epoch.is_some();
            return;
        }
        let present = if self.epoch.is_some() { SharingMode::Store } else { SharingMode::Blocked };
        let mode = *self.modes.entry(id).or_insert(present);
        rule.apply_sharing_mode(mode);
        // While the store cannot be asked, the scan waits for `open`.
        if !was_shared && rule.live > 0 && self.epoch.is_some() {
            self.scan.push_back(id);
            if self.scan.len() == 1 {
                self.begin_scan(table);
            }
            self.due = self.due.min(now);
        }
    }

    /// Drops the mode of a limit that is forgotten.
    pub(in crate::locker) fn forget_limit(&mut self, id: LimitId) {
        self.modes.remove(&id);
    }

    /// Cancels the scheduled question for a group, as after a change of its limit's rule. Returns
    /// true if there was one: the group must be looked at.
    pub(in crate::locker) fn cancel_scheduled(&mut self, queue: &mut Queue, group: u32) -> bool {
        let asks = self.current_ask(queue.groups[group].asks);
        let is_scheduled = matches!(asks, StoreAsk::Scheduled(..));
        if is_scheduled {
            queue.groups[group].asks = StoreAsk::Idle;
            self.cancel_ask(group, asks);
        }
        is_scheduled
    }
}
