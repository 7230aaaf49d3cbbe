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
const MOST_TOLD: usize = 200;
/// How many entries a window keeps at most while nobody listens. Within its own span there are never so many: it keeps up
/// to 1024 slots exactly, and of more the 1024th parts of the span; but others may count for longer.
const MOST_KEPT: usize = 4096;

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
    pub(crate) ahead: u32,
}

#[derive(Debug, Default)]
pub(super) struct StoreState {
    /// In which term of its rule the store has granted and said all that follows up to `later`; in another nothing of it
    /// holds.
    term: u32,
    /// Those that open first are first.
    shares: VecDeque<SlotLease>,
    returned: u32,
    landed: u32,
    /// Nothing opens before for a request of so many slots, as far as the store has said.
    later: (Time, u32),
    settled: VecDeque<(Time, u32)>,
    /// When the first of the last part settled.
    part: Time,
    /// How many slots were used since the store was told last, and at most between two such times of late.
    used: u32,
    pace: u32,
    /// None was used since the last beat.
    is_idle: bool,
    /// Under which name of this gateway's the store knows the window.
    epoch: u64,
    /// It is among those that are to be told of.
    is_noted: bool,
    /// How many exchanges about it are under way.
    under_way: u32,
}

impl StoreState {
    fn left(&self) -> u32 {
        self.shares.iter().map(|share| share.slots).sum()
    }

    /// What is granted and of no use to anybody here is given back.
    fn give_up(&mut self) {
        for share in self.shares.drain(..) {
            self.returned = self.returned.saturating_add(share.slots);
            self.landed = self.landed.saturating_add(share.flights);
        }
    }

    /// Whether nothing of it needs to be told. As long as nobody listens, only what still counts for some gateway.
    fn is_empty(&self, rule: &WindowRule, now: Time) -> bool {
        let counts = |(at, _): &(Time, u32)| at.as_nanos() > now.as_nanos().saturating_sub(rule.report_span());
        let (is_heard, holds) = (rule.store_managed && !rule.store_lost, self.term == rule.term);
        let news = is_heard && (self.is_noted || holds && (self.returned > 0 || self.landed > 0));
        let granted = holds && !self.shares.is_empty();
        self.under_way == 0 && !granted && !self.settled.iter().any(counts) && !news
    }
}

/// No more entries than are told.
fn shortened(entries: Vec<(Time, u32)>) -> Vec<(Time, u32)> {
    if entries.len() <= MOST_TOLD {
        return entries;
    }
    let parts = entries.chunks(entries.len().div_ceil(MOST_TOLD));
    let sum = |part: &[(Time, u32)]| part.iter().fold(0u32, |sum, (_, count)| sum.saturating_add(*count));
    parts.filter_map(|part| Some((part.last()?.0, sum(part)))).collect()
}

impl Window {
    fn pool(&self) -> Option<&StoreState> {
        self.extra.as_ref()?.pool.as_deref()
    }

    /// What the store has granted and said in this term.
    fn granted(&self, rule: &WindowRule) -> Option<&StoreState> {
        self.pool().filter(|pool| pool.term == rule.term)
    }

    /// What there is to be told of it, to be changed.
    fn told_mut(&mut self) -> &mut StoreState {
        self.extra_mut().pool.get_or_insert_default()
    }

    /// What the store has granted and said in this term, to be changed.
    fn pool_mut(&mut self, rule: &WindowRule) -> &mut StoreState {
        let pool = self.told_mut();
        if pool.term != rule.term {
            pool.shares.clear();
            (pool.term, pool.returned, pool.landed, pool.later) = (rule.term, 0, 0, (Time::START, 0));
        }
        pool
    }

    /// Whether the store has granted what a request of `cost` slots needs now.
    pub(super) fn has_share(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        self.share_opens(rule, cost, now) == Some(now)
    }

    /// When what the store has granted covers a request of `cost` slots; `None`: it does not.
    pub(crate) fn share_opens(&self, rule: &WindowRule, cost: u32, now: Time) -> Option<Time> {
        let (mut slots, mut flights) = (rule.slots(cost), u32::from(rule.counts_flights()));
        let mut at = self.paused().max(now);
        for share in self.granted(rule)?.shares.iter().filter(|share| share.until > now) {
            if slots == 0 && flights == 0 {
                break;
            }
            slots = slots.saturating_sub(share.slots);
            flights = flights.saturating_sub(share.flights);
            at = at.max(share.from);
        }
        (slots == 0 && flights == 0).then_some(at)
    }

    /// Uses what `share_opens` says is there. By when the request must have left.
    pub(super) fn use_share(&mut self, rule: &WindowRule, cost: u32) -> Time {
        let (mut slots, mut flights) = (rule.slots(cost), u32::from(rule.counts_flights()));
        let pool = self.pool_mut(rule);
        pool.used = pool.used.saturating_add(slots.max(flights));
        pool.is_idle = false;
        let mut until = Time::NEVER;
        for share in &mut pool.shares {
            let (taken, landing) = (slots.min(share.slots), flights.min(share.flights));
            if taken + landing > 0 {
                until = until.min(share.until);
            }
            (share.slots, share.flights) = (share.slots - taken, share.flights - landing);
            (slots, flights) = (slots - taken, flights - landing);
        }
        pool.shares.retain(|share| share.slots + share.flights > 0);
        debug_assert!(slots == 0 && flights == 0, "only what the store has granted is used");
        until
    }

    /// The store has granted these.
    pub(crate) fn add_share(&mut self, rule: &WindowRule, share: SlotLease) {
        let pool = self.pool_mut(rule);
        let place = pool.shares.partition_point(|other| other.from <= share.from);
        pool.shares.insert(place, share);
    }

    /// Nothing opens before for a request of so many slots, as far as the store has said.
    pub(crate) fn set_later(&mut self, rule: &WindowRule, later: Time, cost: u32) {
        self.pool_mut(rule).later = (later, cost);
    }

    /// What the store has said was of another rule.
    pub(crate) fn forget_later(&mut self) {
        if let Some(pool) = self.extra.as_mut().and_then(|extra| extra.pool.as_mut()) {
            pool.later = (Time::START, 0);
        }
    }

    /// Before when no request of so many slots can go, as far as the store has said; `Time::START`: nothing is known.
    pub(crate) fn later(&self, rule: &WindowRule, cost: u32) -> Time {
        match self.granted(rule) {
            Some(StoreState { later: (later, for_cost), .. }) if cost >= *for_cost => *later,
            Some(_) | None => Time::START,
        }
    }

    /// How many slots the store has granted that are not used.
    pub(crate) fn share_left(&self, rule: &WindowRule) -> u32 {
        self.granted(rule).map_or(0, StoreState::left)
    }

    /// Whether anything of what the store has granted is not used.
    pub(crate) fn has_shares(&self, rule: &WindowRule) -> bool {
        self.granted(rule).is_some_and(|pool| !pool.shares.is_empty())
    }

    /// For how many requests of `cost` slots what is granted and not used is enough.
    pub(crate) fn share_covers(&self, rule: &WindowRule, cost: u32) -> u32 {
        let by_slots = self.share_left(rule).checked_div(rule.slots(cost)).unwrap_or(u32::MAX);
        let flights = self.granted(rule).map_or(0, |pool| pool.shares.iter().map(|share| share.flights).sum());
        by_slots.min(if rule.counts_flights() { flights } else { u32::MAX })
    }

    /// What is granted has run out of time: the store is told that it was not used.
    pub(super) fn expire_shares(&mut self, rule: &WindowRule, now: Time) {
        let pool = self.extra.as_mut().and_then(|extra| extra.pool.as_mut());
        let Some(pool) = pool.filter(|pool| pool.term == rule.term) else { return };
        if pool.shares.iter().all(|share| share.until > now) {
            return;
        }
        let StoreState { shares, returned, landed, .. } = &mut **pool;
        shares.retain(|share| {
            if share.until <= now {
                *returned = returned.saturating_add(share.slots);
                *landed = landed.saturating_add(share.flights);
            }
            share.until > now
        });
    }

    /// What is granted and of no use to anybody here is given back.
    pub(crate) fn return_shares(&mut self, rule: &WindowRule) {
        self.pool_mut(rule).give_up();
    }

    /// `count` slots have settled, of which the store is to be told.
    pub(super) fn report(&mut self, rule: &WindowRule, count: u32, now: Time) {
        if count == 0 {
            return;
        }
        let forgotten = now.as_nanos().saturating_sub(rule.report_span());
        let pool = self.told_mut();
        match pool.settled.back_mut() {
            Some(last) if now.since(pool.part).as_nanos() < u128::from(rule.quantum) => {
                *last = (now.max(last.0), last.1.saturating_add(count));
            }
            Some(_) | None => {
                pool.settled.push_back((now, count));
                pool.part = now;
            }
        }
        // Only as long as nobody listens: the store forgets it by itself.
        while pool.settled.front().is_some_and(|(at, _)| at.as_nanos() < forgotten) {
            pool.settled.pop_front();
        }
        if pool.settled.len() > MOST_KEPT {
            pool.settled = shortened(std::mem::take(&mut pool.settled).into()).into();
        }
    }

    /// All that it has counted is news to the store.
    pub(crate) fn report_all(&mut self, rule: &WindowRule) {
        let log = self.short_log(rule, MOST_TOLD);
        self.told_mut().settled = log.into();
    }

    /// `slab` were granted, taken, and not used; `flights` requests have ended.
    pub(super) fn report_unused(&mut self, rule: &WindowRule, slots: u32, flights: u32) {
        let pool = self.pool_mut(rule);
        pool.returned = pool.returned.saturating_add(slots);
        pool.landed = pool.landed.saturating_add(flights);
    }

    /// It is to be told of; `false` if that was known.
    pub(crate) fn note_for_store(&mut self) -> bool {
        !std::mem::replace(&mut self.told_mut().is_noted, true)
    }

    /// Whether so little is left of what is used that more should be asked for, before somebody has to wait for it.
    pub(crate) fn is_short(&self, rule: &WindowRule) -> bool {
        let left = u64::from(self.share_left(rule));
        self.pool().is_some_and(|pool| pool.under_way == 0 && left < 2 * u64::from(pool.pace.max(1)))
    }

    /// What the store is to be told, which is about to happen; and whether it knows the window under this name.
    pub(crate) fn take_news(&mut self, rule: &WindowRule, epoch: u64, now: Time) -> (Delta, bool) {
        let waits = self.queue().is_some();
        let pool = self.pool_mut(rule);
        pool.pace = pool.used.max(pool.pace);
        let ahead = pool.pace.saturating_mul(4).saturating_sub(pool.left()).min(rule.requests / 16);
        let forgotten = now.as_nanos().saturating_sub(rule.report_span());
        let settled = pool.settled.drain(..).filter(|(at, _)| at.as_nanos() > forgotten).collect();
        let news = Delta {
            settled: shortened(settled),
            returned: std::mem::take(&mut pool.returned),
            landed: std::mem::take(&mut pool.landed),
            ahead: if waits || pool.used == 0 { 0 } else { ahead },
        };
        pool.used = 0;
        pool.is_noted = false;
        pool.under_way += 1;
        let is_new = std::mem::replace(&mut pool.epoch, epoch) != epoch;
        (news, is_new)
    }

    /// A moment has passed; what nobody has used in the one before is given back. Whether the store is to be told of it.
    pub(crate) fn beat(&mut self, rule: &WindowRule) -> bool {
        let waits = self.queue().is_some();
        let pool = self.pool_mut(rule);
        pool.pace /= 2;
        if std::mem::replace(&mut pool.is_idle, true) && !waits && !pool.shares.is_empty() {
            pool.give_up();
        }
        pool.returned + pool.landed > 0
    }

    /// Whether it is among those that are to be told of.
    pub(crate) fn is_noted_for_store(&self) -> bool {
        self.pool().is_some_and(|pool| pool.is_noted)
    }

    /// The store has been told.
    pub(crate) fn was_told(&mut self) {
        let pool = self.told_mut();
        pool.under_way = pool.under_way.saturating_sub(1);
    }

    /// Whether the store has heard it is not known: it is told again, and counts twice what it has heard.
    pub(crate) fn untold(&mut self, settled: Vec<(Time, u32)>) {
        let pool = self.told_mut();
        pool.under_way = pool.under_way.saturating_sub(1);
        for entry in settled.into_iter().rev() {
            pool.settled.push_front(entry);
        }
    }

    /// Whether the store is to be told of it when it knows this gateway under another name.
    pub(crate) fn is_known_to_store(&self) -> bool {
        self.unsettled > 0 || self.flying > 0 || self.pool().is_some_and(|pool| !pool.settled.is_empty())
    }

    pub(super) fn has_pool(&self, rule: &WindowRule, now: Time) -> bool {
        self.pool().is_some_and(|pool| !pool.is_empty(rule, now))
    }
}
