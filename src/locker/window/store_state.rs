//! A window's part of what several gateways count together: the slots that the store has granted it, and what the store
//! is still to be told.
//!
//! A window of a shared limit does not reckon by itself what is free. It gives out the slots that the store has granted,
//! within the time for which they were granted, and reports when they settled. What it has counted itself it keeps all the
//! same: that is what it goes by when there is no store.

use std::collections::VecDeque;

use super::Window;
use super::window_rule::WindowRule;
use crate::time::Time;

/// How many entries a window tells at most: the store stands still for everybody while it hears them. Of more, neighbours
/// are one, with the later's time.
const MAX_REPORTED: usize = 200;
/// How many entries a window keeps at most while nobody listens. Within its own span there are never so many: it keeps up
/// to 1024 slots exactly, and of more the 1024th parts of the span; but others may count for longer.
const MAX_KEPT: usize = 4096;

/// Slots that the store has granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotLease {
    /// When they open.
    pub(crate) from: Time,
    /// What has not left by then may not leave: for all that the store knows the gateway is gone.
    pub(crate) until: Time,
    pub(crate) slots: u32,
    /// How many requests may be under way in them; where `in_flight` is not capped nobody asks.
    pub(crate) flights: u32,
}

/// What the store is told of a window.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Delta {
    /// How many slots settled when, oldest first.
    pub(crate) settled: Vec<(Time, u32)>,
    /// Slots that were not used.
    pub(crate) returned: u32,
    /// Requests that have ended.
    pub(crate) landed: u32,
    /// Slots beyond those for who waits that would be of use, going by what was used of late.
    pub(crate) prefetch: u32,
}

#[derive(Debug, Default)]
pub(super) struct StoreState {
    /// In which term of its rule the store has granted and said all that follows up to `opens_after`; in another nothing of it
    /// holds.
    term: u32,
    /// Those that open first are first.
    leases: VecDeque<SlotLease>,
    returned: u32,
    landed: u32,
    /// Nothing opens before for a request of so many slots, as far as the store has said.
    opens_after: (Time, u32),
    settled: VecDeque<(Time, u32)>,
    /// When the first of the last part settled.
    last_entry_began: Time,
    /// How many slots were used since the store was told last, and at most between two such times of late.
    used: u32,
    recent_use: u32,
    /// None was used since the last beat.
    is_idle: bool,
    /// Under which name of this gateway's the store knows the window.
    epoch: u64,
    /// It is among those that are to be told of.
    report_queued: bool,
    /// How many exchanges about it are under way.
    under_way: u32,
}

impl StoreState {
    fn left(&self) -> u32 {
        self.leases.iter().map(|lease| lease.slots).sum()
    }

    /// What is granted and of no use to anybody here is given back.
    fn return_all(&mut self) {
        for lease in self.leases.drain(..) {
            self.returned = self.returned.saturating_add(lease.slots);
            self.landed = self.landed.saturating_add(lease.flights);
        }
    }

    /// Whether nothing of it needs to be told. As long as nobody listens, only what still counts for some gateway.
    fn is_empty(&self, rule: &WindowRule, now: Time) -> bool {
        let counts = |(at, _): &(Time, u32)| at.as_nanos() > now.as_nanos().saturating_sub(rule.report_span());
        let (is_heard, holds) = (rule.store_managed && !rule.store_lost, self.term == rule.term);
        let to_report = is_heard && (self.report_queued || holds && (self.returned > 0 || self.landed > 0));
        let granted = holds && !self.leases.is_empty();
        self.under_way == 0 && !granted && !self.settled.iter().any(counts) && !to_report
    }
}

/// No more entries than are told.
fn merge_entries(entries: Vec<(Time, u32)>) -> Vec<(Time, u32)> {
    if entries.len() <= MAX_REPORTED {
        return entries;
    }
    let parts = entries.chunks(entries.len().div_ceil(MAX_REPORTED));
    let sum = |part: &[(Time, u32)]| part.iter().fold(0u32, |sum, (_, count)| sum.saturating_add(*count));
    parts.filter_map(|part| Some((part.last()?.0, sum(part)))).collect()
}

impl Window {
    fn store_state(&self) -> Option<&StoreState> {
        self.extra.as_ref()?.store.as_deref()
    }

    /// What the store has granted and said in this term.
    fn store_in_term(&self, rule: &WindowRule) -> Option<&StoreState> {
        self.store_state().filter(|store| store.term == rule.term)
    }

    /// What there is to be told of it, to be changed.
    fn store_mut(&mut self) -> &mut StoreState {
        self.extra_mut().store.get_or_insert_default()
    }

    /// What the store has granted and said in this term, to be changed.
    fn store_in_term_mut(&mut self, rule: &WindowRule) -> &mut StoreState {
        let store = self.store_mut();
        if store.term != rule.term {
            store.leases.clear();
            (store.term, store.returned, store.landed, store.opens_after) = (rule.term, 0, 0, (Time::START, 0));
        }
        store
    }

    /// Whether the store has granted what a request of `cost` slots needs now.
    pub(super) fn has_lease(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        self.lease_opens(rule, cost, now) == Some(now)
    }

    /// When what the store has granted covers a request of `cost` slots; `None`: it does not.
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

    /// Uses what `lease_opens` says is there. By when the request must have left.
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

    /// The store has granted these.
    pub(crate) fn add_lease(&mut self, rule: &WindowRule, lease: SlotLease) {
        let store = self.store_in_term_mut(rule);
        let place = store.leases.partition_point(|other| other.from <= lease.from);
        store.leases.insert(place, lease);
    }

    /// Nothing opens before for a request of so many slots, as far as the store has said.
    pub(crate) fn set_opens_after(&mut self, rule: &WindowRule, opens_after: Time, cost: u32) {
        self.store_in_term_mut(rule).opens_after = (opens_after, cost);
    }

    /// What the store has said was of another rule.
    pub(crate) fn clear_opens_after(&mut self) {
        if let Some(store) = self.extra.as_mut().and_then(|extra| extra.store.as_mut()) {
            store.opens_after = (Time::START, 0);
        }
    }

    /// Before when no request of so many slots can go, as far as the store has said; `Time::START`: nothing is known.
    pub(crate) fn store_opens_after(&self, rule: &WindowRule, cost: u32) -> Time {
        match self.store_in_term(rule) {
            Some(StoreState { opens_after: (later, for_cost), .. }) if cost >= *for_cost => *later,
            Some(_) | None => Time::START,
        }
    }

    /// How many slots the store has granted that are not used.
    pub(crate) fn leased_slots(&self, rule: &WindowRule) -> u32 {
        self.store_in_term(rule).map_or(0, StoreState::left)
    }

    /// Whether anything of what the store has granted is not used.
    pub(crate) fn has_leases(&self, rule: &WindowRule) -> bool {
        self.store_in_term(rule).is_some_and(|store| !store.leases.is_empty())
    }

    /// For how many requests of `cost` slots what is granted and not used is enough.
    pub(crate) fn requests_covered(&self, rule: &WindowRule, cost: u32) -> u32 {
        let by_slots = self.leased_slots(rule).checked_div(rule.slots(cost)).unwrap_or(u32::MAX);
        let flights = self.store_in_term(rule).map_or(0, |store| store.leases.iter().map(|lease| lease.flights).sum());
        by_slots.min(if rule.counts_flights() { flights } else { u32::MAX })
    }

    /// What is granted has run out of time: the store is told that it was not used.
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

    /// What is granted and of no use to anybody here is given back.
    pub(crate) fn return_leases(&mut self, rule: &WindowRule) {
        self.store_in_term_mut(rule).return_all();
    }

    /// `count` slots have settled, of which the store is to be told.
    pub(super) fn report(&mut self, rule: &WindowRule, count: u32, now: Time) {
        if count == 0 {
            return;
        }
        let forgotten = now.as_nanos().saturating_sub(rule.report_span());
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
        // Only as long as nobody listens: the store forgets it by itself.
        while store.settled.front().is_some_and(|(at, _)| at.as_nanos() < forgotten) {
            store.settled.pop_front();
        }
        if store.settled.len() > MAX_KEPT {
            store.settled = merge_entries(std::mem::take(&mut store.settled).into()).into();
        }
    }

    /// All that it has counted is news to the store.
    pub(crate) fn report_all(&mut self, rule: &WindowRule) {
        let log = self.short_log(rule, MAX_REPORTED);
        self.store_mut().settled = log.into();
    }

    /// `slab` were granted, taken, and not used; `flights` requests have ended.
    pub(super) fn report_unused(&mut self, rule: &WindowRule, slots: u32, flights: u32) {
        let store = self.store_in_term_mut(rule);
        store.returned = store.returned.saturating_add(slots);
        store.landed = store.landed.saturating_add(flights);
    }

    /// It is to be told of; `false` if that was known.
    pub(crate) fn mark_report_queued(&mut self) -> bool {
        !std::mem::replace(&mut self.store_mut().report_queued, true)
    }

    /// Whether so little is left of what is used that more should be asked for, before somebody has to wait for it.
    pub(crate) fn needs_refill(&self, rule: &WindowRule) -> bool {
        let left = u64::from(self.leased_slots(rule));
        self.store_state().is_some_and(|store| store.under_way == 0 && left < 2 * u64::from(store.recent_use.max(1)))
    }

    /// What the store is to be told, which is about to happen; and whether it knows the window under this name.
    pub(crate) fn take_delta(&mut self, rule: &WindowRule, epoch: u64, now: Time) -> (Delta, bool) {
        let waits = self.queue().is_some();
        let store = self.store_in_term_mut(rule);
        store.recent_use = store.used.max(store.recent_use);
        let ahead = store.recent_use.saturating_mul(4).saturating_sub(store.left()).min(rule.requests / 16);
        let forgotten = now.as_nanos().saturating_sub(rule.report_span());
        let settled = store.settled.drain(..).filter(|(at, _)| at.as_nanos() > forgotten).collect();
        let to_report = Delta {
            settled: merge_entries(settled),
            returned: std::mem::take(&mut store.returned),
            landed: std::mem::take(&mut store.landed),
            prefetch: if waits || store.used == 0 { 0 } else { ahead },
        };
        store.used = 0;
        store.report_queued = false;
        store.under_way += 1;
        let is_new = std::mem::replace(&mut store.epoch, epoch) != epoch;
        (to_report, is_new)
    }

    /// A moment has passed; what nobody has used in the one before is given back. Whether the store is to be told of it.
    pub(crate) fn heartbeat(&mut self, rule: &WindowRule) -> bool {
        let waits = self.queue().is_some();
        let store = self.store_in_term_mut(rule);
        store.recent_use /= 2;
        if std::mem::replace(&mut store.is_idle, true) && !waits && !store.leases.is_empty() {
            store.return_all();
        }
        store.returned + store.landed > 0
    }

    /// Whether it is among those that are to be told of.
    pub(crate) fn has_report_queued(&self) -> bool {
        self.store_state().is_some_and(|store| store.report_queued)
    }

    /// The store has been told.
    pub(crate) fn report_delivered(&mut self) {
        let store = self.store_mut();
        store.under_way = store.under_way.saturating_sub(1);
    }

    /// Whether the store has heard it is not known: it is told again, and counts twice what it has heard.
    pub(crate) fn report_lost(&mut self, settled: Vec<(Time, u32)>) {
        let store = self.store_mut();
        store.under_way = store.under_way.saturating_sub(1);
        for entry in settled.into_iter().rev() {
            store.settled.push_front(entry);
        }
    }

    /// Whether the store is to be told of it when it knows this gateway under another name.
    pub(crate) fn is_known_to_store(&self) -> bool {
        self.unsettled > 0 || self.flying > 0 || self.store_state().is_some_and(|store| !store.settled.is_empty())
    }

    pub(super) fn has_store_state(&self, rule: &WindowRule, now: Time) -> bool {
        self.store_state().is_some_and(|store| !store.is_empty(rule, now))
    }
}
