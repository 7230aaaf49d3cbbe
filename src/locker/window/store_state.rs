//! Store state of a shared window: leases granted by the store, and the changes still to be
//! reported to it.
//!
//! A window of a shared limit does not compute free slots itself. It grants the slots that the
//! store has leased to this gateway, within the time of the lease, and reports when they settled.
//! It keeps its own counts all the same: they decide when the store is unreachable.

use std::collections::VecDeque;

use super::Window;
use super::window_rule::WindowRule;
use crate::time::Time;

/// Maximum number of settled entries in one report: the store blocks all gateways while it
/// processes a report. Beyond it, neighbouring entries are merged into one with the later one's
/// time.
const MAX_REPORTED: usize = 200;
/// Maximum number of settled entries kept while the store is unreachable. Within its own span a
/// window never has as many (up to 1024 exact ones, or 1024 steps of the span), but another gateway
/// may count slots for longer.
const MAX_KEPT: usize = 4096;

/// Slots granted by the store, for a limited time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotLease {
    /// Time at which the slots open.
    pub(crate) from: Time,
    /// End of the lease. A request that has not left by then must not leave: the store counts this
    /// gateway as gone.
    pub(crate) until: Time,
    /// Number of slots not used yet.
    pub(crate) slots: u32,
    /// Number of flights not used yet; ignored if the limit does not cap flights.
    pub(crate) flights: u32,
}

/// Report of a window to the store: everything that changed since the last one.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Delta {
    /// Settle times and the number of slots that settled at each, oldest first.
    pub(crate) settled: Vec<(Time, u32)>,
    /// Number of leased slots returned unused.
    pub(crate) returned: u32,
    /// Number of flights that have ended.
    pub(crate) landed: u32,
    /// Number of slots to lease beyond those for present waiters, estimated from recent use.
    pub(crate) prefetch: u32,
}

/// Grants from the store, and changes to report to it.
#[derive(Debug, Default)]
pub(super) struct StoreState {
    /// Term of the rule under which the store granted and said everything down to `opens_after`. In
    /// any other term these fields are void.
    term: u32,
    /// Leases, ordered by the time at which they open.
    leases: VecDeque<SlotLease>,
    /// Slots to return with the next report.
    returned: u32,
    /// Ended flights to report.
    landed: u32,
    /// Lower bound from the store: before this time nothing opens for a request of at least this
    /// many slots.
    opens_after: (Time, u32),
    /// Settled slots to report: times and counts, oldest first.
    settled: VecDeque<(Time, u32)>,
    /// Settle time of the first slot in the last entry of `settled`.
    last_entry_began: Time,
    /// Number of slots (or flights) used since the last report.
    used: u32,
    /// Largest `used` of recent report intervals; halved at each heartbeat.
    recent_use: u32,
    /// True if no lease was used since the last heartbeat.
    is_idle: bool,
    /// Epoch (this gateway's identity) under which the store knows the window.
    epoch: u64,
    /// True if the window is queued for a report.
    report_queued: bool,
    /// Number of store calls under way that contain this window.
    under_way: u32,
}

impl StoreState {
    /// Number of unused slots over all leases.
    fn left(&self) -> u32 {
        self.leases.iter().map(|lease| lease.slots).sum()
    }

    /// Marks all unused leases as returned, to be reported.
    fn return_all(&mut self) {
        for lease in self.leases.drain(..) {
            self.returned = self.returned.saturating_add(lease.slots);
            self.landed = self.landed.saturating_add(lease.flights);
        }
    }

    /// True if nothing needs to be reported. While the store is unreachable, only slots that still
    /// count make it false.
    fn is_empty(&self, rule: &WindowRule, now: Time) -> bool {
        let counts = |(at, _): &(Time, u32)| at.as_nanos() > now.as_nanos().saturating_sub(rule.report_span());
        let (is_connected, holds) = (rule.store_managed && !rule.store_lost, self.term == rule.term);
        let to_report = is_connected && (self.report_queued || holds && (self.returned > 0 || self.landed > 0));
        let granted = holds && !self.leases.is_empty();
        self.under_way == 0 && !granted && !self.settled.iter().any(counts) && !to_report
    }
}

/// Merges neighbouring entries until at most [`MAX_REPORTED`] are left.
fn merge_entries(entries: Vec<(Time, u32)>) -> Vec<(Time, u32)> {
    if entries.len() <= MAX_REPORTED {
        return entries;
    }
    let parts = entries.chunks(entries.len().div_ceil(MAX_REPORTED));
    let sum = |part: &[(Time, u32)]| part.iter().fold(0u32, |sum, (_, count)| sum.saturating_add(*count));
    parts.filter_map(|part| Some((part.last()?.0, sum(part)))).collect()
}

impl Window {
    /// The store state, if the window has one.
    fn store_state(&self) -> Option<&StoreState> {
        self.extra.as_ref()?.store.as_deref()
    }

    /// The store state, if it belongs to the present term.
    fn store_in_term(&self, rule: &WindowRule) -> Option<&StoreState> {
        self.store_state().filter(|store| store.term == rule.term)
    }

    /// The store state for changes, whatever its term; created on first use.
    fn store_mut(&mut self) -> &mut StoreState {
        self.extra_mut().store.get_or_insert_default()
    }

    /// The store state for changes; grants of an earlier term are dropped first.
    fn store_in_term_mut(&mut self, rule: &WindowRule) -> &mut StoreState {
        let store = self.store_mut();
        if store.term != rule.term {
            store.leases.clear();
            (store.term, store.returned, store.landed, store.opens_after) = (rule.term, 0, 0, (Time::START, 0));
        }
        store
    }

    /// True if the leases cover a request of `cost` slots now.
    pub(super) fn has_lease(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        self.lease_opens(rule, cost, now) == Some(now)
    }

    /// Time at which the leases cover a request of `cost` slots; `None` if they do not.
    pub(crate) fn lease_opens(&self, rule: &WindowRule, cost: u32, now: Time) -> Option<Time> {
        let (mut slots, mut flights) = (rule.slots(cost), u32::from(rule.counts_flights()));
        let mut at = self.paused().max(now);
        for lease in self.store_in_term(rule)?.leases.iter().filter(|lease| lease.until > now) {
            if slots == 0 && flights == 0 {
                break;
            }
            slots = slots.saturating_sub(lease.slots);
            flights = flights.saturating_sub(lease.flights);
            at = at.max(lease.from);
        }
        (slots == 0 && flights == 0).then_some(at)
    }

    /// Uses leases that [`Window::lease_opens`] found to be enough. Returns the time by which the
    /// request must have left.
    pub(super) fn use_lease(&mut self, rule: &WindowRule, cost: u32) -> Time {
        let (mut slots, mut flights) = (rule.slots(cost), u32::from(rule.counts_flights()));
        let store = self.store_in_term_mut(rule);
        store.used = store.used.saturating_add(slots.max(flights));
        store.is_idle = false;
        let mut until = Time::NEVER;
        for lease in &mut store.leases {
            let (taken, landing) = (slots.min(lease.slots), flights.min(lease.flights));
            if taken + landing > 0 {
                until = until.min(lease.until);
            }
            (lease.slots, lease.flights) = (lease.slots - taken, lease.flights - landing);
            (slots, flights) = (slots - taken, flights - landing);
        }
        store.leases.retain(|lease| lease.slots + lease.flights > 0);
        debug_assert!(slots == 0 && flights == 0, "only what the store has granted is used");
        until
    }

    /// Adds a lease granted by the store.
    pub(crate) fn add_lease(&mut self, rule: &WindowRule, lease: SlotLease) {
        let store = self.store_in_term_mut(rule);
        let place = store.leases.partition_point(|other| other.from <= lease.from);
        store.leases.insert(place, lease);
    }

    /// Records the store's answer that nothing opens before `opens_after` for a request of at least
    /// `cost` slots.
    pub(crate) fn set_opens_after(&mut self, rule: &WindowRule, opens_after: Time, cost: u32) {
        self.store_in_term_mut(rule).opens_after = (opens_after, cost);
    }

    /// Forgets the store's lower bound, as after a change of the rule.
    pub(crate) fn clear_opens_after(&mut self) {
        if let Some(store) = self.extra.as_mut().and_then(|extra| extra.store.as_mut()) {
            store.opens_after = (Time::START, 0);
        }
    }

    /// Time before which no request of `cost` slots can go, according to the store; `Time::START`
    /// if nothing is known.
    pub(crate) fn store_opens_after(&self, rule: &WindowRule, cost: u32) -> Time {
        match self.store_in_term(rule) {
            Some(StoreState { opens_after: (later, for_cost), .. }) if cost >= *for_cost => *later,
            Some(_) | None => Time::START,
        }
    }

    /// Number of leased slots not used yet.
    pub(crate) fn leased_slots(&self, rule: &WindowRule) -> u32 {
        self.store_in_term(rule).map_or(0, StoreState::left)
    }

    /// True if any lease is not used up.
    pub(crate) fn has_leases(&self, rule: &WindowRule) -> bool {
        self.store_in_term(rule).is_some_and(|store| !store.leases.is_empty())
    }

    /// Number of requests of `cost` slots that the unused leases cover.
    pub(crate) fn requests_covered(&self, rule: &WindowRule, cost: u32) -> u32 {
        let by_slots = self.leased_slots(rule).checked_div(rule.slots(cost)).unwrap_or(u32::MAX);
        let flights = self.store_in_term(rule).map_or(0, |store| store.leases.iter().map(|lease| lease.flights).sum());
        by_slots.min(if rule.counts_flights() { flights } else { u32::MAX })
    }

    /// Drops leases that have ended; their unused rest is returned with the next report.
    pub(super) fn expire_leases(&mut self, rule: &WindowRule, now: Time) {
        let store = self.extra.as_mut().and_then(|extra| extra.store.as_mut());
        let Some(store) = store.filter(|store| store.term == rule.term) else { return };
        if store.leases.iter().all(|lease| lease.until > now) {
            return;
        }
        let StoreState { leases, returned, landed, .. } = &mut **store;
        leases.retain(|lease| {
            if lease.until <= now {
                *returned = returned.saturating_add(lease.slots);
                *landed = landed.saturating_add(lease.flights);
            }
            lease.until > now
        });
    }

    /// Returns all unused leases to the store.
    pub(crate) fn return_leases(&mut self, rule: &WindowRule) {
        self.store_in_term_mut(rule).return_all();
    }

    /// Queues `count` slots that settled at `now` for the next report.
    pub(super) fn report(&mut self, rule: &WindowRule, count: u32, now: Time) {
        if count == 0 {
            return;
        }
        let cutoff = now.as_nanos().saturating_sub(rule.report_span());
        let store = self.store_mut();
        match store.settled.back_mut() {
            Some(last) if now.since(store.last_entry_began).as_nanos() < u128::from(rule.quantum) => {
                *last = (now.max(last.0), last.1.saturating_add(count));
            }
            Some(_) | None => {
                store.settled.push_back((now, count));
                store.last_entry_began = now;
            }
        }
        // Matters only while the store is unreachable: the store drops expired entries itself.
        while store.settled.front().is_some_and(|(at, _)| at.as_nanos() < cutoff) {
            store.settled.pop_front();
        }
        if store.settled.len() > MAX_KEPT {
            store.settled = merge_entries(std::mem::take(&mut store.settled).into()).into();
        }
    }

    /// Queues the whole log for the next report, as the store knows none of it.
    pub(crate) fn report_all(&mut self, rule: &WindowRule) {
        let log = self.short_log(rule, MAX_REPORTED);
        self.store_mut().settled = log.into();
    }

    /// Queues `slots` that were leased, taken and not used, and `flights` that have ended, for the
    /// next report.
    pub(super) fn report_unused(&mut self, rule: &WindowRule, slots: u32, flights: u32) {
        let store = self.store_in_term_mut(rule);
        store.returned = store.returned.saturating_add(slots);
        store.landed = store.landed.saturating_add(flights);
    }

    /// Marks the window as queued for a report. Returns false if it was queued already.
    pub(crate) fn mark_report_queued(&mut self) -> bool {
        !std::mem::replace(&mut self.store_mut().report_queued, true)
    }

    /// True if so few leased slots are left, compared with recent use, that more should be
    /// requested before a request waits.
    pub(crate) fn needs_refill(&self, rule: &WindowRule) -> bool {
        let left = u64::from(self.leased_slots(rule));
        self.store_state().is_some_and(|store| store.under_way == 0 && left < 2 * u64::from(store.recent_use.max(1)))
    }

    /// Takes the report that is about to be sent. The flag is true if the store does not know the
    /// window under `epoch` yet.
    pub(crate) fn take_delta(&mut self, rule: &WindowRule, epoch: u64, now: Time) -> (Delta, bool) {
        let has_waiters = self.queue().is_some();
        let store = self.store_in_term_mut(rule);
        store.recent_use = store.used.max(store.recent_use);
        let ahead = store.recent_use.saturating_mul(4).saturating_sub(store.left()).min(rule.requests / 16);
        let cutoff = now.as_nanos().saturating_sub(rule.report_span());
        let settled = store.settled.drain(..).filter(|(at, _)| at.as_nanos() > cutoff).collect();
        let to_report = Delta {
            settled: merge_entries(settled),
            returned: std::mem::take(&mut store.returned),
            landed: std::mem::take(&mut store.landed),
            prefetch: if has_waiters || store.used == 0 { 0 } else { ahead },
        };
        store.used = 0;
        store.report_queued = false;
        store.under_way += 1;
        let is_new = std::mem::replace(&mut store.epoch, epoch) != epoch;
        (to_report, is_new)
    }

    /// Returns leases that were not used since the last heartbeat. Returns true if there is
    /// something to report.
    pub(crate) fn heartbeat(&mut self, rule: &WindowRule) -> bool {
        let has_waiters = self.queue().is_some();
        let store = self.store_in_term_mut(rule);
        store.recent_use /= 2;
        if std::mem::replace(&mut store.is_idle, true) && !has_waiters && !store.leases.is_empty() {
            store.return_all();
        }
        store.returned + store.landed > 0
    }

    /// True if the window is queued for a report.
    pub(crate) fn has_report_queued(&self) -> bool {
        self.store_state().is_some_and(|store| store.report_queued)
    }

    /// Notes that the store has received a report.
    pub(crate) fn report_delivered(&mut self) {
        let store = self.store_mut();
        store.under_way = store.under_way.saturating_sub(1);
    }

    /// Notes that a report may not have arrived. It is sent again, so that the store may count it
    /// twice, never too little.
    pub(crate) fn report_lost(&mut self, settled: Vec<(Time, u32)>) {
        let store = self.store_mut();
        store.under_way = store.under_way.saturating_sub(1);
        for entry in settled.into_iter().rev() {
            store.settled.push_front(entry);
        }
    }

    /// True if the window must be reported again after this gateway's epoch has changed.
    pub(crate) fn is_known_to_store(&self) -> bool {
        self.unsettled > 0 || self.flying > 0 || self.store_state().is_some_and(|store| !store.settled.is_empty())
    }

    /// True if leases or reports are left that must not be dropped.
    pub(super) fn has_store_state(&self, rule: &WindowRule, now: Time) -> bool {
        self.store_state().is_some_and(|store| !store.is_empty(rule, now))
    }
}

#[cfg(test)]
mod tests;
