//! Exchange with the store: its content, and the changes that the answer makes.

use std::time::Duration;

use smallvec::SmallVec;

use super::api::LimitId;
use super::counters::Counters;
use super::queue::{Queue, StoreAsk};
use super::queue_position::first;
use super::sharing::{LEASE, REPORT_DELAYS, Sharing, SlotGrant, SlotRequest, SyncRequest, SyncTrigger, WindowReport};
use super::window::store_state::SlotLease;
use super::window::window_rule::nanos;
use super::window_lists::ListCursor;
use super::window_table::WindowTable;
use crate::time::Time;

/// Least time between an answer and the next question for the same group.
const MIN_ASK_INTERVAL: Duration = Duration::from_micros(500);
/// Heartbeats between two reminders: a reminder reports every window with slots, so that the store
/// does not forget it.
const HEARTBEATS_PER_REMINDER: u32 = 150;

/// Number of windows in an exchange from which on no queued report is added; groups may add theirs
/// beyond it. All four bounds keep the exchange short, because the store serves no other gateway
/// while it answers.
const MAX_WINDOWS: usize = 256;
/// Number of slot requests in an exchange from which on no further group is added.
const MAX_SLOT_REQUESTS: usize = 64;
/// Number of settle times after which no further window is added; one report may exceed it.
const MAX_SETTLED: usize = 2000;
/// Most requests for which one group asks at once.
const MAX_REQUESTS: usize = 1000;
/// Most windows scanned per exchange to find those that the store does not know.
const MAX_SCANNED: usize = 512;
/// Most waiters of a group examined for the same costs as its head.
const MAX_CHECKED: usize = 64;

impl Sharing {
    /// Starts the scan of the windows of the next limit, if there is one.
    pub(super) fn begin_scan(&self, table: &mut WindowTable) {
        if let Some(limit) = self.scan.front() {
            table.lists.begin(ListCursor::Sharing, *limit);
        }
    }
}

impl Counters {
    /// Takes the content of the exchange that is about to happen. At a `heartbeat`, it also returns
    /// granted slots without a use. Empty if the store cannot be asked; only `renew_id` if the
    /// client id must change. The rest of a large backlog stays due at once.
    pub(super) fn take_sync(&mut self, queue: &mut Queue, trigger: SyncTrigger, now: Time) -> SyncRequest {
        let mut sync = SyncRequest { horizon: self.sharing.horizon(), ..SyncRequest::default() };
        if self.sharing.epoch.is_none() {
            return sync;
        }
        self.sharing.last = now;
        if std::mem::take(&mut self.sharing.renew_id) {
            sync.renew_id = true;
            return sync;
        }
        if trigger == SyncTrigger::Heartbeat {
            self.heartbeat(now);
        }
        while let Some(&(at, group)) = self.sharing.asks.first()
            && at <= now
            && sync.slot_requests.len() < MAX_SLOT_REQUESTS
        {
            self.sharing.asks.pop_first();
            self.add_slot_request(queue, &mut sync, group, now);
        }
        self.queue_known_reports(now);
        while sync.windows.len() < MAX_WINDOWS
            && sync.windows.iter().map(|report| report.settled.len()).sum::<usize>() < MAX_SETTLED
            && let Some((index, generation)) = self.sharing.reports.pop_front()
        {
            let queued = self.table.current(index, generation).filter(|window| window.has_report_queued());
            if queued.is_some_and(|window| self.limits.rules[window.limit.at()].shared) {
                self.add_report(&mut sync, index, now);
            }
        }
        let has_more = !self.sharing.reports.is_empty() || !self.sharing.scan.is_empty();
        self.sharing.due = if has_more { now } else { Time::NEVER };
        sync
    }

    /// Queues reports of the windows to be known under this gateway's present name, some at a time.
    fn queue_known_reports(&mut self, now: Time) {
        for _ in 0..MAX_SCANNED {
            if self.sharing.scan.is_empty() {
                return;
            }
            match self.table.lists.step(ListCursor::Sharing) {
                Some(index) if self.table.window_unnoted(index).is_known_to_store() => {
                    self.sharing.queue_report(&mut self.table, index, now)
                }
                Some(_) => {}
                None => {
                    self.sharing.scan.pop_front();
                    self.sharing.begin_scan(&mut self.table);
                }
            }
        }
    }

    /// Runs the heartbeat of each lease holder, and queues a report of those that changed; every
    /// 150th time, of all. Drops holders without a window.
    fn heartbeat(&mut self, now: Time) {
        self.sharing.heartbeats = (self.sharing.heartbeats + 1) % HEARTBEATS_PER_REMINDER;
        for (index, generation) in self.sharing.lease_holders.clone() {
            let rules = &self.limits.rules;
            let heartbeat =
                self.table.current(index, generation).map(|window| window.heartbeat(&rules[window.limit.at()]));
            match heartbeat {
                None => drop(self.sharing.lease_holders.remove(&(index, generation))),
                Some(changed) if changed || self.sharing.heartbeats == 0 => {
                    self.sharing.queue_report(&mut self.table, index, now)
                }
                Some(_) => {}
            }
        }
    }

    /// Adds the question for the first waiters of a group that need the same costs as its head.
    /// Slots that are granted already are subtracted, but at least one request is asked for.
    fn add_slot_request(&mut self, queue: &mut Queue, sync: &mut SyncRequest, group: u32, now: Time) {
        let Some(found) = queue.groups.get_mut(group) else { return };
        found.asks = StoreAsk::InFlight(self.sharing.round);
        let found = &queue.groups[group];
        let Some((_, head)) = first(&found.entries) else { return };
        let demands = queue.waiters[head.id].demands.clone();
        self.carry_demands(&demands);
        let costs = |id: u32| queue.waiters[id].demands.iter().map(|demand| demand.cost);
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
        let managed = demands.iter().filter(|demand| self.limits.rules[demand.limit.at()].store_managed);
        let store_managed: SmallVec<[(u32, u32); 2]> = managed.map(|demand| (demand.window, demand.cost)).collect();
        let covers = |(index, cost): &(u32, u32)| {
            let window = self.table.window(*index);
            window.requests_covered(&self.limits.rules[window.limit.at()], *cost)
        };
        let covered = store_managed.iter().map(covers).min().unwrap_or(0) as usize;
        let requests = count.saturating_sub(covered).clamp(1, MAX_REQUESTS);
        let generation = queue.groups.generation(group).unwrap_or(0);
        let mut request = SlotRequest {
            group: Some((group, generation)),
            requests: u32::try_from(requests).unwrap_or(1),
            prefetch: 0,
            windows: SmallVec::new(),
        };
        for (index, cost) in store_managed {
            let slots = self.limits.rules[self.table.peek(index).limit.at()].slots(cost);
            request.windows.push((self.add_report(sync, index, now), slots));
        }
        sync.slot_requests.push(request);
    }

    /// Adds the report of a window to the exchange, once, and returns its place. May add a question
    /// for prefetched slots, which has no group.
    fn add_report(&mut self, sync: &mut SyncRequest, index: u32, now: Time) -> usize {
        if let Some(place) = sync.windows.iter().position(|report| report.window == index) {
            return place;
        }
        let epoch = self.sharing.epoch.unwrap_or(0);
        let window = self.table.window_mut(index);
        let rule = &self.limits.rules[window.limit.at()];
        window.expire(rule, now);
        let (delta, is_new) = window.take_delta(rule, epoch, now);
        let granted = u64::from(window.leased_slots(rule));
        sync.windows.push(WindowReport {
            window: index,
            generation: window.generation,
            limit: window.limit,
            key: window.key,
            params: rule.params(),
            is_new,
            held: window.unsettled,
            flying: window.flying,
            waiting: window.queue().map_or(0, |queue| queue.slots).saturating_sub(granted),
            paused: window.paused().max(rule.unknown_until().unwrap_or(Time::START)),
            settled: delta.settled,
            returned: delta.returned,
            landed: delta.landed,
        });
        let place = sync.windows.len() - 1;
        self.sharing.lease_holders.insert((index, window.generation));
        if delta.prefetch > 0 && rule.store_managed {
            let windows = SmallVec::from_slice(&[(place, 0)]);
            sync.slot_requests.push(SlotRequest { group: None, requests: 0, prefetch: delta.prefetch, windows });
        }
        place
    }

    /// Records the spans of other gateways for limits where they differ from this one's: settled
    /// slots are reported for the longest span. It never shrinks.
    pub(super) fn set_reported_spans(&mut self, spans: &[(LimitId, Duration)]) {
        for (limit, span) in spans {
            let rule = &mut self.limits.rules[limit.at()];
            rule.longest_span = rule.longest_span.max(nanos(*span));
        }
    }

    /// Applies the answer of the store, one grant per slot request, in order. `began`: a time
    /// before the question; `ended`: one after the answer. A slot opens at `ended` plus its wait
    /// and is void at `began` plus its wait and `LEASE`: both errors are on the safe side. Windows
    /// in the exchange are marked for dispatch.
    pub(super) fn sync_answered(
        &mut self,
        queue: &mut Queue,
        sync: &SyncRequest,
        answers: &[SlotGrant],
        (began, ended): (Time, Time),
    ) {
        for report in &sync.windows {
            let Some(window) = self.table.current(report.window, report.generation) else { continue };
            window.report_delivered();
            if !window.has_leases(&self.limits.rules[report.limit.at()]) && report.held == 0 && report.flying == 0 {
                self.sharing.lease_holders.remove(&(report.window, report.generation));
            }
        }
        let took = ended.since(began).min(LEASE);
        let before = self.sharing.round_trip;
        self.sharing.round_trip = if took > before { took } else { (before * 7 + took) / 8 };
        for (request, grant) in sync.slot_requests.iter().zip(answers) {
            self.distribute(queue, (sync, request), grant, (began, ended));
        }
        for report in &sync.windows {
            if self.table.current(report.window, report.generation).is_some() {
                queue.mark_dirty(&self.table, report.window);
            }
        }
    }

    /// Adds the grant of one slot request as leases to its windows, and schedules the next question
    /// of its group. Skips a window that is gone or no longer store-managed.
    fn distribute(
        &mut self,
        queue: &mut Queue,
        (sync, request): (&SyncRequest, &SlotRequest),
        grant: &SlotGrant,
        (began, ended): (Time, Time),
    ) {
        let mut again = MIN_ASK_INTERVAL;
        for (number, (place, cost)) in request.windows.iter().enumerate() {
            let Some(report) = sync.windows.get(*place) else { continue };
            let Some(window) = self.table.current(report.window, report.generation) else { continue };
            let rule = &self.limits.rules[report.limit.at()];
            // A reload has taken the limit from the store, which is about to forget it.
            if !rule.store_managed {
                continue;
            }
            for (wait, requests) in &grant.groups {
                let flights = if rule.counts_flights() { *requests } else { 0 };
                let (from, until) = (ended + *wait, began + *wait + LEASE);
                window.add_lease(rule, SlotLease { from, until, slots: requests.saturating_mul(*cost), flights });
            }
            if grant.prefetch > 0 {
                window.add_lease(
                    rule,
                    SlotLease { from: ended, until: began + LEASE, slots: grant.prefetch, flights: 0 },
                );
            }
            if request.group.is_some() {
                let shut = grant.blocked_for.get(number).filter(|shut| !shut.is_zero());
                window.set_opens_after(rule, shut.map_or(Time::START, |shut| ended + *shut), *cost);
            }
            // The question for a known opening goes out one lead time before it; else there is no
            // time to be early for.
            let ahead = if grant.opens_then { self.sharing.lead_time(rule) } else { Duration::ZERO };
            again = again.max(grant.next_in.unwrap_or_default().saturating_sub(ahead));
            self.sharing.lease_holders.insert((report.window, report.generation));
        }
        let Some((group, generation)) = request.group else { return };
        if queue.groups.generation(group) == Some(generation) {
            queue.groups[group].asks = StoreAsk::Idle;
            if grant.next_in.is_some() {
                self.sharing.ask_at(group, &mut queue.groups[group].asks, ended + again);
            }
        }
    }

    /// Returns the granted slots of windows in the exchange that have lost their waiters meanwhile.
    /// A window with an exchange that asked ahead keeps its slots.
    pub(super) fn return_surplus(&mut self, sync: &SyncRequest, now: Time) {
        for report in &sync.windows {
            let Some(window) = self.table.current(report.window, report.generation) else { continue };
            let asked_ahead = sync.slot_requests.iter().any(|request| request.group.is_none());
            if window.queue().is_none()
                && window.leased_slots(&self.limits.rules[report.limit.at()]) > 0
                && !asked_ahead
            {
                let by = now + REPORT_DELAYS.1;
                self.sharing.queue_report(&mut self.table, report.window, by);
                self.return_unwanted(report.window, now);
            }
        }
    }

    /// Handles an exchange without an answer: the store may or may not have applied it, so the
    /// windows keep the settle times to report them again.
    pub(super) fn sync_lost(&mut self, sync: SyncRequest) {
        for report in sync.windows {
            let Some(window) = self.table.current(report.window, report.generation) else { continue };
            window.report_lost(report.settled);
        }
    }

    /// Takes the last exchange, before the gateway stops: no questions, and all granted slots are
    /// returned.
    pub(super) fn sign_off(&mut self, now: Time) -> SyncRequest {
        let mut sync = SyncRequest::default();
        let reports: Vec<_> =
            self.sharing.reports.drain(..).chain(std::mem::take(&mut self.sharing.lease_holders)).collect();
        for (index, generation) in reports {
            if let Some(window) = self.table.current(index, generation) {
                window.return_leases(&self.limits.rules[window.limit.at()]);
                self.add_report(&mut sync, index, now);
            }
        }
        sync.slot_requests.clear();
        sync
    }
}
