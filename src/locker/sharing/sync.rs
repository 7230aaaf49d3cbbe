//! One exchange with the store: what is told and asked, and what its answer changes.

use std::time::Duration;

use smallvec::SmallVec;

use super::{LEASE, PACES, SharingMode, SlotGrant, SlotRequest, StoreAsk, SyncRequest, WindowReport};
use crate::locker::Locker;
use crate::locker::api::LimitId;
use crate::locker::queue_position::first;
use crate::locker::window::store_state::SlotLease;
use crate::locker::window::window_rule::nanos;
use crate::locker::window_lists::ListCursor;
use crate::time::Time;

/// How soon the store is asked again for one lane at the earliest.
const SOONEST: Duration = Duration::from_micros(500);
/// After how many beats the store is told of every window of which anything is taken, so that it does not forget it.
const REMINDER: u32 = 150;

/// How many windows and lanes are in one exchange, and for how many requests a lane asks, at most: the store stands still
/// for everybody while it answers.
const MOST_WINDOWS: usize = 256;
const MOST_TAKES: usize = 64;
const MOST_SETTLED: usize = 2000;
const MOST_REQUESTS: usize = 1000;
/// At how many windows is looked to find those that the store must hear of.
const MAX_SCANNED: usize = 512;
/// How many in a lane are looked at to see whether they need the same.
const MAX_CHECKED: usize = 64;

impl Locker {
    /// What the store is to be told and asked now, which is about to happen. At a `beat`, also what nobody has use for.
    pub fn take_exchange(&mut self, beat: bool, now: Time) -> SyncRequest {
        let now = self.advance(now);
        let mut exchange = SyncRequest { horizon: self.sharing.horizon(), ..SyncRequest::default() };
        if self.sharing.epoch.is_none() || self.given.is_some() {
            return exchange;
        }
        self.sharing.last = now;
        if std::mem::take(&mut self.sharing.renews) {
            exchange.renews = true;
            return exchange;
        }
        if beat {
            self.beat(now);
        }
        while let Some(&(at, group)) = self.sharing.asks.first()
            && at <= now
            && exchange.takes.len() < MOST_TAKES
        {
            self.sharing.asks.pop_first();
            self.put_take(&mut exchange, group, now);
        }
        self.note_known(now);
        while exchange.windows.len() < MOST_WINDOWS
            && exchange.windows.iter().map(|told| told.settled.len()).sum::<usize>() < MOST_SETTLED
            && let Some((index, generation)) = self.sharing.noted.pop_front()
        {
            let noted = self.table.still(index, generation).filter(|window| window.is_noted_for_store());
            if noted.is_some_and(|window| self.rules[window.limit.at()].shared) {
                self.mention(&mut exchange, index, now);
            }
        }
        let has_more = !self.sharing.noted.is_empty() || !self.sharing.scan.is_empty();
        self.sharing.due = if has_more { now } else { Time::NEVER };
        self.rearm();
        exchange
    }

    /// Looks for windows that the store is to be told of under this gateway's present name, some at a time.
    fn note_known(&mut self, now: Time) {
        for _ in 0..MAX_SCANNED {
            if self.sharing.scan.is_empty() {
                return;
            }
            match self.table.lists.step(ListCursor::Sharing) {
                Some(index) if self.table.window(index).is_known_to_store() => self.note(index, now),
                Some(_) => {}
                None => {
                    self.sharing.scan.pop_front();
                    self.begin_scan();
                }
            }
        }
    }

    /// Goes on with the windows of the next limit.
    pub(super) fn begin_scan(&mut self) {
        if let Some(limit) = self.sharing.scan.front() {
            self.table.lists.begin(ListCursor::Sharing, *limit);
        }
    }

    fn beat(&mut self, now: Time) {
        self.sharing.beats = (self.sharing.beats + 1) % REMINDER;
        for (index, generation) in self.sharing.holders.clone() {
            let rules = &self.rules;
            let beat = self.table.still(index, generation).map(|window| window.beat(&rules[window.limit.at()]));
            match beat {
                None => drop(self.sharing.holders.remove(&(index, generation))),
                Some(news) if news || self.sharing.beats == 0 => self.note(index, now),
                Some(_) => {}
            }
        }
    }

    /// Asks for the first of a lane who need the same.
    fn put_take(&mut self, exchange: &mut SyncRequest, group: u32, now: Time) {
        let Some(found) = self.queue.groups.get_mut(group) else { return };
        found.asks = StoreAsk::InFlight(self.sharing.turn);
        let found = &self.queue.groups[group];
        let Some((_, head)) = first(&found.entries) else { return };
        let demands = self.queue.waiters[head.id].demands.clone();
        let costs = |id: u32| self.queue.waiters[id].demands.iter().map(|demand| demand.cost);
        let all = found.entries.len();
        let uniform =
            found.totals.iter().zip(&demands).all(|(total, demand)| *total == all as u64 * u64::from(demand.cost));
        let count = match uniform {
            true => all,
            false => {
                let entries = found.entries.values().take(MAX_CHECKED);
                entries.take_while(|entry| costs(entry.id).eq(costs(head.id))).count().max(1)
            }
        };
        let pooled = demands.iter().filter(|demand| self.rules[demand.limit.at()].store_managed);
        let store_managed: SmallVec<[(u32, u32); 2]> = pooled.map(|demand| (demand.window, demand.cost)).collect();
        let covers = |(index, cost): &(u32, u32)| {
            let window = self.table.window(*index);
            window.share_covers(&self.rules[window.limit.at()], *cost)
        };
        let covered = store_managed.iter().map(covers).min().unwrap_or(0) as usize;
        let requests = count.saturating_sub(covered).clamp(1, MOST_REQUESTS);
        let generation = self.queue.groups.generation(group).unwrap_or(0);
        let mut take = SlotRequest {
            group: Some((group, generation)),
            requests: u32::try_from(requests).unwrap_or(1),
            ahead: 0,
            windows: SmallVec::new(),
        };
        for (index, cost) in store_managed {
            let slots = self.rules[self.table.window(index).limit.at()].slots(cost);
            take.windows.push((self.mention(exchange, index, now), slots));
        }
        exchange.takes.push(take);
    }

    /// Puts a window into the exchange, and says at which place.
    fn mention(&mut self, exchange: &mut SyncRequest, index: u32, now: Time) -> usize {
        if let Some(place) = exchange.windows.iter().position(|told| told.window == index) {
            return place;
        }
        let epoch = self.sharing.epoch.unwrap_or(0);
        let window = self.table.window_mut(index);
        let rule = &self.rules[window.limit.at()];
        window.expire(rule, now);
        let (news, is_new) = window.take_news(rule, epoch, now);
        let granted = u64::from(window.share_left(rule));
        exchange.windows.push(WindowReport {
            window: index,
            generation: window.generation,
            limit: window.limit,
            key: window.key,
            terms: rule.terms(),
            is_new,
            held: window.unsettled,
            flying: window.flying,
            waiting: window.queue().map_or(0, |queue| queue.slots).saturating_sub(granted),
            paused: window.paused().max(rule.unknown_until().unwrap_or(Time::START)),
            settled: news.settled,
            returned: news.returned,
            landed: news.landed,
        });
        let place = exchange.windows.len() - 1;
        self.sharing.holders.insert((index, window.generation));
        if news.ahead > 0 && rule.store_managed {
            let windows = SmallVec::from_slice(&[(place, 0)]);
            exchange.takes.push(SlotRequest { group: None, requests: 0, ahead: news.ahead, windows });
        }
        place
    }

    /// For how long what settled counts for other gateways, where they say another span than this one.
    pub fn spans_said(&mut self, spans: &[(LimitId, Duration)]) {
        for (limit, span) in spans {
            let rule = &mut self.rules[limit.at()];
            rule.longest_span = rule.longest_span.max(nanos(*span));
        }
    }

    /// The store has answered, take by take. `began`: a moment before it was asked; `ended`: one after it had answered.
    pub fn exchanged(&mut self, exchange: &SyncRequest, answers: &[SlotGrant], began: Time, ended: Time, now: Time) {
        if self.given.is_some() {
            return;
        }
        let now = self.advance(now);
        for told in &exchange.windows {
            let Some(window) = self.table.still(told.window, told.generation) else { continue };
            window.was_told();
            if !window.has_shares(&self.rules[told.limit.at()]) && told.held == 0 && told.flying == 0 {
                self.sharing.holders.remove(&(told.window, told.generation));
            }
        }
        let took = ended.since(began).min(LEASE);
        self.sharing.round_trip =
            if took > self.sharing.round_trip { took } else { (self.sharing.round_trip * 7 + took) / 8 };
        for (take, taken) in exchange.takes.iter().zip(answers) {
            self.share_out(exchange, take, taken, began, ended);
        }
        for told in &exchange.windows {
            if self.table.still(told.window, told.generation).is_some() {
                self.mark_dirty(told.window);
            }
        }
        self.dispatch(now);
        self.return_surplus(exchange, now);
    }

    fn share_out(&mut self, exchange: &SyncRequest, take: &SlotRequest, taken: &SlotGrant, began: Time, ended: Time) {
        let mut again = SOONEST;
        for (number, (place, cost)) in take.windows.iter().enumerate() {
            let Some(told) = exchange.windows.get(*place) else { continue };
            let Some(window) = self.table.still(told.window, told.generation) else { continue };
            let rule = &self.rules[told.limit.at()];
            // The file was read again meanwhile, and the store is about to forget all of it.
            if !rule.store_managed {
                continue;
            }
            for (wait, requests) in &taken.groups {
                let flights = if rule.counts_flights() { *requests } else { 0 };
                let (from, until) = (ended + *wait, began + *wait + LEASE);
                window.add_share(rule, SlotLease { from, until, slots: requests.saturating_mul(*cost), flights });
            }
            if taken.ahead > 0 {
                window.add_share(rule, SlotLease { from: ended, until: began + LEASE, slots: taken.ahead, flights: 0 });
            }
            if take.group.is_some() {
                let shut = taken.shut.get(number).filter(|shut| !shut.is_zero());
                window.set_later(rule, shut.map_or(Time::START, |shut| ended + *shut), *cost);
            }
            // An opening is asked for in time; where none is known there is nothing to be early for.
            let ahead = if taken.is_known { self.sharing.ahead(rule) } else { Duration::ZERO };
            again = again.max(taken.later.unwrap_or_default().saturating_sub(ahead));
            self.sharing.holders.insert((told.window, told.generation));
        }
        let Some((group, generation)) = take.group else { return };
        if self.queue.groups.generation(group) == Some(generation) {
            self.queue.groups[group].asks = StoreAsk::Idle;
            if taken.later.is_some() {
                self.ask_store_at(group, ended + again);
            }
        }
    }

    /// Those for whom slots were asked may be gone.
    fn return_surplus(&mut self, exchange: &SyncRequest, now: Time) {
        for told in &exchange.windows {
            let Some(window) = self.table.still(told.window, told.generation) else { continue };
            let asked_ahead = exchange.takes.iter().any(|take| take.group.is_none());
            if window.queue().is_none() && window.share_left(&self.rules[told.limit.at()]) > 0 && !asked_ahead {
                let by = now + PACES.1;
                self.note(told.window, by);
                self.return_unwanted(told.window);
            }
        }
    }

    /// No answer came: whether the store was told anything is not known. `close_sharing` is to follow.
    pub fn exchange_lost(&mut self, exchange: SyncRequest, now: Time) {
        if self.given.is_some() {
            return;
        }
        self.advance(now);
        for told in exchange.windows {
            let Some(window) = self.table.still(told.window, told.generation) else { continue };
            window.untold(told.settled);
        }
    }

    /// The last exchange: nothing is asked for, and what was granted is given back.
    pub fn farewell(&mut self, now: Time) -> SyncRequest {
        let now = self.advance(now);
        let mut exchange = SyncRequest::default();
        if self.sharing.epoch.is_none() || self.given.is_some() {
            return exchange;
        }
        let noted: Vec<_> = self.sharing.noted.drain(..).chain(std::mem::take(&mut self.sharing.holders)).collect();
        for (index, generation) in noted {
            if let Some(window) = self.table.still(index, generation) {
                window.return_shares(&self.rules[window.limit.at()]);
                self.mention(&mut exchange, index, now);
            }
        }
        exchange.takes.clear();
        self.sharing.epoch = None;
        self.sharing.stop_asking();
        self.set_authority(None, SharingMode::Blocked, now);
        exchange
    }
}
