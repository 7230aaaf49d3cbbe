//! Limits that several gateways count together: what the store is told and asked, and what its answer changes.
//!
//! The locker does not speak with the store. It says when an exchange is due (`sync_due`) and what is in it
//! (`take_sync`), and is told the answer (`sync_answered`) or that none came (`sync_lost`). Between two exchanges the
//! windows give out what they were granted. What is asked for is asked for all windows of a request at once, lane by lane.

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

/// How long before its opening the store may grant a slot, so that who waits for it leaves when it opens and not a round
/// trip later; longer for a gateway that is far away, so that it does not come too late for every slot. A quarter of the
/// span, if that is less.
const HORIZON: Duration = Duration::from_millis(5);
/// The longest horizon that any gateway takes.
pub const MAX_HORIZON: Duration = Duration::from_millis(50);
/// How long after its opening a granted slot may be used: a request that has not left by then never does.
pub const LEASE: Duration = Duration::from_millis(250);

/// What settles is told after a 200th of the span: others need to know it only shortly before a span has passed.
pub(super) const REPORT_DELAYS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// How soon after one another the store is asked for slots that nobody waits for yet.
const REFILL_INTERVAL: Duration = Duration::from_millis(1);

/// The work list of the store of shared limits.
///
/// Owns the name under which the store can be asked, the mode of each shared limit, the windows that it must hear of, and
/// the times at which it is asked for groups of waiters. Promises that what is due is due until it is taken, and that no
/// answer to a question of an earlier round is believed. The slots that the store has granted lie in the windows.
#[derive(Debug)]
pub(in crate::locker) struct Sharing {
    /// Whether the store can be asked, and under which name of this gateway's.
    pub(super) epoch: Option<u64>,
    pub(super) epochs: u64,
    /// The mode of each shared limit.
    pub(super) modes: HashMap<LimitId, SharingMode>,
    pub(super) reports: VecDeque<(u32, u32)>,
    /// When those are to be told of.
    pub(super) due: Time,
    /// The limits whose windows have yet to be looked at for what the store does not know under the present name; the
    /// first of them is being walked through.
    pub(super) scan: VecDeque<LimitId>,
    /// For which lanes to ask when.
    pub(super) asks: BTreeSet<(Time, u32)>,
    /// Which asking and answering lanes are in; what one bears of another turn is of no account.
    pub(super) round: u32,
    /// Windows to which slots were granted, or may have been.
    pub(super) lease_holders: BTreeSet<(u32, u32)>,
    /// What there was of both before this turn, until it is dropped.
    pub(super) discarded: Vec<Discarded>,
    pub(super) heartbeats: u32,
    /// A limit is shared no more, and what the store knows of it is out of date.
    pub(super) renew_id: bool,
    /// How long an answer of the store takes, at most or of late.
    pub(super) round_trip: Duration,
    pub(super) last: Time,
}

impl Sharing {
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

    /// How long before its opening a slot may be granted to this gateway.
    pub(super) fn horizon(&self) -> Duration {
        (self.round_trip * 3 / 2).clamp(HORIZON, MAX_HORIZON)
    }

    /// How long before its opening a slot of a limit is asked for, so that the question is there in time.
    pub(in crate::locker) fn lead_time(&self, rule: &WindowRule) -> Duration {
        self.horizon().min(Duration::from_nanos(rule.span / 4)) * 3 / 4 + self.round_trip / 2
    }

    /// When the store is to be told or asked something.
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

    /// A lane is no more.
    pub(in crate::locker) fn cancel_ask(&mut self, group: u32, asks: StoreAsk) {
        if let StoreAsk::Scheduled(at, _) = self.current_ask(asks) {
            self.asks.remove(&(at, group));
        }
    }

    /// Whether the store is asked for a lane that bears this.
    pub(in crate::locker) fn current_ask(&self, asks: StoreAsk) -> StoreAsk {
        match asks {
            StoreAsk::Scheduled(_, round) | StoreAsk::InFlight(round) if round != self.round => StoreAsk::Idle,
            StoreAsk::Idle | StoreAsk::Scheduled(..) | StoreAsk::InFlight(_) => asks,
        }
    }

    /// Asks for slots for a group of waiters, which bears `asks`, at that time and no other.
    pub(in crate::locker) fn ask_at(&mut self, group: u32, asks: &mut StoreAsk, at: Time) {
        let before = std::mem::replace(asks, StoreAsk::Scheduled(at, self.round));
        self.cancel_ask(group, before);
        self.asks.insert((at, group));
    }

    /// A window must be told of, by then.
    pub(in crate::locker) fn queue_report(&mut self, table: &mut WindowTable, index: u32, by: Time) {
        let window = table.window_mut(index);
        if window.mark_report_queued() {
            let generation = window.generation;
            self.reports.push_back((index, generation));
        }
        self.due = self.due.min(by);
    }

    /// Has the store told soon of what has happened in a window, if its limit is shared.
    pub(in crate::locker) fn queue_settle_report(
        &mut self,
        limits: &LimitTable,
        table: &mut WindowTable,
        index: u32,
        now: Time,
    ) {
        let rule = &limits.rules[table.window(index).limit.at()];
        if rule.shared {
            self.queue_report(table, index, now + rule.report_delay());
        }
    }

    /// Slots of a shared window were taken: if it goes on so, more are needed.
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

    /// Slots that the store has granted and no request waits for are given back at once, if they keep others back.
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

    /// Nothing is asked for any more, and no answer to what was is of any account.
    pub(super) fn cancel_asks(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.scan.clear();
        let discarded =
            Discarded { asks: std::mem::take(&mut self.asks), lease_holders: std::mem::take(&mut self.lease_holders) };
        if !(discarded.asks.is_empty() && discarded.lease_holders.is_empty()) {
            self.discarded.push(discarded);
        }
    }

    /// Drops so many of the things that are of no account any more; whether any are left.
    pub(in crate::locker) fn discard_some(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some(last) = self.discarded.last_mut() else { return false };
            if last.asks.pop_first().is_none() && last.lease_holders.pop_first().is_none() {
                self.discarded.pop();
            }
        }
        self.has_discarded()
    }

    /// Whether anything is of no account any more, and still there.
    pub(in crate::locker) fn has_discarded(&self) -> bool {
        !self.discarded.is_empty()
    }
}

/// What is of no account any more. It may be large, and is dropped some at a time.
#[derive(Debug)]
pub(super) struct Discarded {
    asks: BTreeSet<(Time, u32)>,
    lease_holders: BTreeSet<(u32, u32)>,
}

impl WindowRule {
    pub(super) fn report_delay(&self) -> Duration {
        let delay = Duration::from_nanos(self.span / 200).clamp(REPORT_DELAYS.0, REPORT_DELAYS.1);
        // The next one's distance runs from it.
        if self.is_spaced() { delay.min(Duration::from_nanos(self.interval / 4)) } else { delay }
    }
}
