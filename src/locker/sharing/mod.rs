//! Sharing of limits between gateways: the reports and questions to the store, and the changes that
//! its answers make.
//!
//! The locker does no I/O with the store. It returns the time of the next exchange (`sync_due`) and
//! its content (`take_sync`), and takes the answer (`sync_answered`) or the lack of one
//! (`sync_lost`). Between two exchanges the windows hand out the slots that they were granted. A
//! question covers all windows of a request at once, group by group.

mod mode;
mod sync_request;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

pub(super) use self::mode::PriorSharing;
pub use self::mode::SharingMode;
pub use self::sync_request::{
    SharedKind, SlotGrant, SlotRequest, SyncRequest, SyncTrigger, WindowParams, WindowReport,
};

use super::api::LimitId;
use super::limit_table::LimitTable;
use super::queue::StoreAsk;
use super::window::WindowRule;
use super::window_table::WindowTable;
use crate::time::Time;

/// Shortest time before its opening at which the store may grant a slot, so that its waiter leaves
/// at the opening and not a round trip later. A gateway that is far away takes a longer one
/// (`Sharing::horizon`), so that it does not come too late for every slot. A quarter of the span,
/// if that is less.
const HORIZON: Duration = Duration::from_millis(5);
/// Longest horizon of any gateway, however slow its store answers.
pub const MAX_HORIZON: Duration = Duration::from_millis(50);
/// Time after its opening for which a granted slot may be used: a request that has not left by then
/// never does.
pub const LEASE: Duration = Duration::from_millis(250);

/// Bounds of the delay of a settle report, which is a 200th of the span: other gateways need the
/// settle time only shortly before a span has passed, so reports are batched.
pub(super) const REPORT_DELAYS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// Least time between two questions to the store for slots without a waiter.
const REFILL_INTERVAL: Duration = Duration::from_millis(1);

/// The work list of the store of shared limits.
///
/// Owns the name under which the store can be asked, the mode of each shared limit, the windows
/// that it must hear of, and the times at which it is asked for groups of waiters. Promises that
/// what is due is due until it is taken, and that no answer to a question of an earlier round is
/// believed. The slots that the store has granted lie in the windows.
#[derive(Debug)]
pub(in crate::locker) struct Sharing {
    /// Number of the present name of this gateway with the store; `None` while the store cannot be
    /// asked.
    pub(super) epoch: Option<u64>,
    /// Number of names so far: each `open` takes the next one.
    pub(super) epochs: u64,
    /// The mode of each shared limit.
    pub(super) modes: HashMap<LimitId, SharingMode>,
    /// Windows that changed since their last report: index and generation. Each is in it once, by
    /// `mark_report_queued`.
    pub(super) reports: VecDeque<(u32, u32)>,
    /// Time by which the first of the reports must go out; `Time::NEVER` without any.
    pub(super) due: Time,
    /// Limits with windows not yet scanned for state that the store does not know under the present
    /// name; the scan is in the first of them.
    pub(super) scan: VecDeque<LimitId>,
    /// Groups to ask for, by time: `(at, group)`.
    pub(super) asks: BTreeSet<(Time, u32)>,
    /// Present round of questions and answers. A `StoreAsk` of another round counts as `Idle`.
    pub(super) round: u32,
    /// Windows with granted slots, or with a question under way: index and generation.
    pub(super) lease_holders: BTreeSet<(u32, u32)>,
    /// Asks and lease holders of earlier rounds, not yet dropped.
    pub(super) discarded: Vec<Discarded>,
    /// Heartbeats since the last reminder, modulo the interval of reminders (150).
    pub(super) heartbeats: u32,
    /// True if a limit is no longer shared: the store's state of it is out of date, and a new
    /// client id makes the store forget it.
    pub(super) renew_id: bool,
    /// Duration of an exchange with the store: a longer one replaces it at once, a shorter one by
    /// an eighth, at most `LEASE`.
    pub(super) round_trip: Duration,
    /// Time of the last exchange.
    pub(super) last: Time,
}

impl Sharing {
    /// Closed sharing: no name, no modes, no work.
    pub(in crate::locker) fn new() -> Sharing {
        Sharing {
            epoch: None,
            epochs: 0,
            modes: HashMap::new(),
            reports: VecDeque::new(),
            due: Time::NEVER,
            scan: VecDeque::new(),
            asks: BTreeSet::new(),
            round: 0,
            lease_holders: BTreeSet::new(),
            discarded: Vec::new(),
            heartbeats: 0,
            renew_id: false,
            round_trip: Duration::ZERO,
            last: Time::START,
        }
    }

    /// True if the store can be asked.
    pub(in crate::locker) fn is_open(&self) -> bool {
        self.epoch.is_some()
    }

    /// Time before its opening at which a slot may be granted to this gateway: one and a half round
    /// trips, within 5 ms and 50 ms.
    pub(super) fn horizon(&self) -> Duration {
        (self.round_trip * 3 / 2).clamp(HORIZON, MAX_HORIZON)
    }

    /// Time before its opening at which a slot of a limit is asked for: half a round trip, so that
    /// the question is there in time, plus three quarters of the horizon.
    pub(in crate::locker) fn lead_time(&self, rule: &WindowRule) -> Duration {
        self.horizon().min(Duration::from_nanos(rule.span / 4)) * 3 / 4 + self.round_trip / 2
    }

    /// Time of the next exchange. `Time::NEVER` if the store cannot be asked or there is nothing to
    /// send; `Time::START`, so at once, if the client id must change.
    pub(in crate::locker) fn due(&self) -> Time {
        if self.epoch.is_none() {
            return Time::NEVER;
        }
        if self.renew_id {
            return Time::START;
        }
        let reports_due = if self.reports.is_empty() && self.scan.is_empty() { Time::NEVER } else { self.due };
        self.asks.first().map_or(Time::NEVER, |(at, _)| *at).min(reports_due)
    }

    /// Removes the scheduled question for a group, as for a group that is dropped. One that is
    /// under way is not taken back.
    pub(in crate::locker) fn cancel_ask(&mut self, group: u32, asks: StoreAsk) {
        if let StoreAsk::Scheduled(at, _) = self.current_ask(asks) {
            self.asks.remove(&(at, group));
        }
    }

    /// State of a group's question in the present round: `Idle` if `asks` is of another round.
    pub(in crate::locker) fn current_ask(&self, asks: StoreAsk) -> StoreAsk {
        match asks {
            StoreAsk::Scheduled(_, round) | StoreAsk::InFlight(round) if round != self.round => StoreAsk::Idle,
            StoreAsk::Idle | StoreAsk::Scheduled(..) | StoreAsk::InFlight(_) => asks,
        }
    }

    /// Schedules the question for a group of waiters, with its state `asks`, at a time. It replaces
    /// one that was scheduled before.
    pub(in crate::locker) fn ask_at(&mut self, group: u32, asks: &mut StoreAsk, at: Time) {
        let before = std::mem::replace(asks, StoreAsk::Scheduled(at, self.round));
        self.cancel_ask(group, before);
        self.asks.insert((at, group));
    }

    /// Queues a report of a window, to go out by a time. A window that is queued already only makes
    /// the time earlier.
    pub(in crate::locker) fn queue_report(&mut self, table: &mut WindowTable, index: u32, by: Time) {
        let window = table.window_mut(index);
        if window.mark_report_queued() {
            let generation = window.generation;
            self.reports.push_back((index, generation));
        }
        self.due = self.due.min(by);
    }

    /// Queues a report of a change in a window, after the report delay of its rule. Does nothing if
    /// the limit is not shared.
    pub(in crate::locker) fn queue_settle_report(
        &mut self,
        limits: &LimitTable,
        table: &mut WindowTable,
        index: u32,
        now: Time,
    ) {
        let rule = &limits.rules[table.peek(index).limit.at()];
        if rule.shared {
            self.queue_report(table, index, now + rule.report_delay());
        }
    }

    /// Queues a report of a window that runs out of granted slots, to prefetch more. Does nothing
    /// for a window with a queue: its groups ask for themselves.
    pub(in crate::locker) fn queue_refill(
        &mut self,
        limits: &LimitTable,
        table: &mut WindowTable,
        index: u32,
        now: Time,
    ) {
        let window = table.window(index);
        if window.queue().is_none() && window.needs_refill(&limits.rules[window.limit.at()]) {
            let by = now.max(self.last + REFILL_INTERVAL);
            self.queue_report(table, index, by);
        }
    }

    /// Returns granted slots for which no request waits, at once. Only for limits with spacing:
    /// there an unused slot delays the other gateways.
    pub(in crate::locker) fn return_unwanted(
        &mut self,
        limits: &LimitTable,
        table: &mut WindowTable,
        index: u32,
        now: Time,
    ) {
        let window = table.window_mut(index);
        let rule = &limits.rules[window.limit.at()];
        if rule.store_managed && rule.is_spaced() && window.queue().is_none() && window.has_leases(rule) {
            window.return_leases(rule);
            self.queue_report(table, index, now);
        }
    }

    /// Voids all questions, scheduled or under way, by a new round. Constant time: the old lists
    /// are dropped later, by `discard_some`.
    pub(super) fn cancel_asks(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.scan.clear();
        let discarded =
            Discarded { asks: std::mem::take(&mut self.asks), lease_holders: std::mem::take(&mut self.lease_holders) };
        if !(discarded.asks.is_empty() && discarded.lease_holders.is_empty()) {
            self.discarded.push(discarded);
        }
    }

    /// Drops up to `most` void entries; returns true if any are left.
    pub(in crate::locker) fn discard_some(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some(last) = self.discarded.last_mut() else { return false };
            if last.asks.pop_first().is_none() && last.lease_holders.pop_first().is_none() {
                self.discarded.pop();
            }
        }
        self.has_discarded()
    }

    /// True if void entries are left to drop.
    pub(in crate::locker) fn has_discarded(&self) -> bool {
        !self.discarded.is_empty()
    }
}

/// Void entries of one earlier round. They may be many, and are dropped some at a time.
#[derive(Debug)]
pub(super) struct Discarded {
    asks: BTreeSet<(Time, u32)>,
    lease_holders: BTreeSet<(u32, u32)>,
}

impl WindowRule {
    /// Delay of a settle report: a 200th of the span, from 1 ms to 50 ms; with spacing at most a
    /// quarter of the interval.
    pub(super) fn report_delay(&self) -> Duration {
        let delay = Duration::from_nanos(self.span / 200).clamp(REPORT_DELAYS.0, REPORT_DELAYS.1);
        // With spacing, the next slot opens one interval after the reported time.
        if self.is_spaced() { delay.min(Duration::from_nanos(self.interval / 4)) } else { delay }
    }
}
