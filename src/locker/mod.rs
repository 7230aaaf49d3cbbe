//! The limiter: decides whether a request may go now, and if not, when.
//!
//! [`Locker`] is a state machine without I/O. Inputs (`ask`, `settle`, …) say what happened and at
//! what time; outputs (`poll_verdict`, `poll_timeout`) say what follows. It never reads a clock,
//! starts a task or knows what a request is, and nothing that it decides is random.
//!
//! A request asks for slots in all its windows at once and gets all or none. If it must wait it
//! joins a *group*, the waiters with the same windows; a group waits in the *queue* of one window
//! that keeps it back, and is looked at only when that window has news.

mod admission;
mod api;
mod caller_backlogs;
mod copy_progress;
mod counter_snapshot;
mod counters;
mod decide;
mod dispatch;
mod fair_queue;
mod forecast;
mod forward;
mod forwarded_event;
mod hash_index;
mod journal_api;
pub mod limit;
mod limit_table;
mod live_copy;
mod opening;
mod outbox;
mod overflow;
mod persistence;
mod priority;
mod queue;
mod queue_position;
mod reload_limits;
mod remote;
mod remote_holdings;
mod replica;
mod requeue;
mod reservation;
mod review;
mod rule_changes;
mod settle;
mod sharing;
mod slab;
mod snapshot_scan;
mod stats;
mod step_budget;
mod steps;
mod store_api;
mod store_sync;
mod sweep;
#[cfg(test)]
mod tests;
mod waiter_group;
mod wall_clock;
mod window;
mod window_lists;
mod window_queue;
mod window_record;
mod window_table;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

pub use self::api::{
    Ask, AskKind, Caller, Claim, Grant, Key, LimitId, RefusalReason, SettlePoint, Sorry, Ticket, Usage, Verdict,
};
pub use self::counter_snapshot::{LimitSnapshot, Shutdown, Snapshot};
pub use self::forward::Forwarder;
pub use self::forwarded_event::{Event, GrantedSlots};
pub use self::limit::{Counts, Kind, Limit, Priority, Rate, ShareBy, Unit, WhenFull};
pub use self::live_copy::{CopyRest, CopySlice};
pub use self::persistence::{JournalRecord, JournalStart, WriteToken};
pub use self::reload_limits::ReloadSummary;
pub use self::replica::Replica;
pub use self::sharing::{
    LEASE, MAX_HORIZON, SharedKind, SharingMode, SlotGrant, SlotRequest, SyncRequest, SyncTrigger, WindowParams,
    WindowReport,
};
pub use self::snapshot_scan::SnapshotScan;
pub use self::stats::{CallerScan, LimitDetail, LimitStats, StatsScan};
pub use self::wall_clock::{WallReading, WallSample};
pub use self::window_record::{LateSlots, WindowRecord};

use self::counters::Counters;
use self::decide::{AskCheck, ClaimChecks};
use self::queue::Queue;
use self::remote_holdings::RemoteHoldings;
use self::settle::LateSettle;
use self::sharing::PriorSharing;
use self::wall_clock::WallClock;
use self::window::Algorithm;
use crate::time::Time;

/// The longest pause of a window: a broken Retry-After must not close a window for a year.
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// All windows and all waiters of a gateway.
///
/// Coordinates the two: [`Counters`] counts, [`Queue`] has the waiters. Owns besides all that
/// happens by itself as time goes on: late settles, the periods of the wall clock, and the time at
/// which either is due.
///
/// Every method that takes `now` accepts any value: one before the latest counts as the latest.
/// After any call, `poll_verdict` must be drained.
#[derive(Debug)]
pub struct Locker {
    /// Limits, windows, and the work lists of journal and store.
    counters: Counters,
    /// Waiters, deadlines, and verdicts not yet fetched.
    queue: Queue,
    /// Slots and flights of the process before this one.
    remote_holdings: RemoteHoldings,
    /// Failed attempts, which the origin may still count for a while.
    late_settles: BinaryHeap<Reverse<LateSettle>>,
    /// Wall clock, for the periods of `calendar` windows.
    wall: WallClock,
    /// Latest time given to any method.
    last: Time,
    /// Before this moment nothing happens by itself.
    due: Time,
    /// End of the next `calendar` period.
    next_roll: Time,
}

impl Locker {
    /// Makes a locker for these limits, with all slots free.
    pub fn new(limits: Vec<Limit>) -> Locker {
        Locker::in_chunks(window_table::CHUNK_BITS, limits)
    }

    /// As [`Locker::new`], with room for windows in chunks of this size, as a power of two.
    fn in_chunks(bits: u32, limits: Vec<Limit>) -> Locker {
        let mut locker = Locker {
            counters: Counters::new(bits),
            queue: Queue::new(),
            remote_holdings: RemoteHoldings::default(),
            late_settles: BinaryHeap::new(),
            wall: WallClock::default(),
            last: Time::START,
            due: Time::NEVER,
            next_roll: Time::NEVER,
        };
        for limit in limits {
            locker.add(limit);
        }
        locker
    }

    /// Adds a limit behind the others.
    pub fn add(&mut self, limit: Limit) -> LimitId {
        let id = self.add_limit(limit);
        self.next_roll = self.counters.limits.next_roll();
        self.update_due();
        id
    }

    /// As `add`, but the caller notes when something is due next.
    fn add_limit(&mut self, limit: Limit) -> LimitId {
        let id = self.counters.limits.add(limit, &self.wall, self.last);
        let before = PriorSharing::of(&self.counters.limits.rules[id.at()]);
        self.update_work_lists(id, before, self.last, 0);
        id
    }

    /// Every limit, in the order of `LimitId`; also those that are no longer in force, and marks
    /// for those that were forgotten ([`Limit::is_forgotten`]).
    pub fn limits(&self) -> &[Limit] {
        &self.counters.limits.all
    }

    /// May this request go? Takes all its slots, or changes no window.
    pub fn ask(&mut self, ask: &Ask<'_>, now: Time) -> Verdict {
        let now = self.advance(now);
        let mut checks = ClaimChecks::new();
        let mut check = self.counters.check_claims(ask.claims, &mut checks, now);
        if matches!(check, Err(Sorry { reason: RefusalReason::TooManyKeys, .. })) {
            self.counters.table.sweep(sweep::FOR_ROOM, &mut self.counters.limits.rules, now);
            check = self.counters.check_claims(ask.claims, &mut checks, now);
        }
        let live = self.counters.table.live();
        let verdict = match check {
            Ok(AskCheck::Open) if self.may_go_now(ask) => Verdict::Go(self.counters.take(ask.claims, &checks, now)),
            Ok(AskCheck::Open | AskCheck::Blocked) => {
                let verdict = self.queue.try_enqueue(&mut self.counters, ask, checks, now);
                self.update_due();
                verdict
            }
            Err(sorry) => Verdict::Sorry(sorry),
        };
        if self.counters.table.live() > live {
            self.counters.table.sweep(sweep::ON_INSERT, &mut self.counters.limits.rules, now);
        }
        verdict
    }

    /// A waiter gives up its place. If it was granted already, its slots are given back.
    pub fn leave(&mut self, ticket: Ticket, now: Time) {
        let now = self.advance(now);
        if self.queue.contains(ticket) {
            self.queue.remove_waiter(&mut self.counters, ticket.index, now);
            self.dispatch(now);
        } else if let Some(Verdict::Go(grant)) = self.queue.outbox.take(ticket) {
            self.give_back(grant, now);
        }
    }

    /// Nothing opens in this window before `until`, at most an hour from now. Pauses only lengthen.
    pub fn pause(&mut self, limit: LimitId, key: Key, until: Time, now: Time) {
        let now = self.advance(now);
        let until = until.min(now + MAX_PAUSE);
        if until <= now {
            return;
        }
        let rule = &self.counters.limits.rules[limit.at()];
        let window = match self.counters.table.find(limit, key) {
            Some(window) => window,
            // An unknown key beyond the last is refused anyway.
            None if rule.live >= rule.max_keys => return,
            None => self.counters.create_window(limit, key, now),
        };
        self.counters.table.window_mut(window).pause(until);
        self.counters.request_rewrite(window);
        if self.counters.limits.rules[limit.at()].shared {
            self.counters.sharing.queue_report(&mut self.counters.table, window, now);
        }
        self.queue.mark_dirty(&self.counters.table, window);
        self.dispatch(now);
    }

    /// Takes the next decided waiter and its verdict, `Go` or `Sorry`, never `Wait`.
    pub fn poll_verdict(&mut self) -> Option<(Ticket, Verdict)> {
        self.queue.outbox.pop()
    }

    /// Usage of a key's window.
    pub fn usage(&mut self, limit: LimitId, key: Key, now: Time) -> Usage {
        let now = self.advance(now);
        self.counters.table.usage(&self.counters.limits, limit, key, now)
    }

    /// Number of live windows over all limits.
    pub fn live_keys(&self) -> usize {
        self.counters.table.live()
    }

    /// Number of waiters over all limits.
    pub fn waiting(&self) -> usize {
        self.queue.waiters.len()
    }

    /// Scans the next windows. Returns true if more are left. Windows change between calls, so the
    /// result is approximate.
    pub fn scan_stats(&mut self, scan: &mut StatsScan, now: Time) -> bool {
        let now = self.advance(now);
        scan.step(&self.counters.limits, &mut self.counters.table, now)
    }

    /// Result of a finished scan, by `LimitId`.
    pub fn finish_stats(&mut self, scan: StatsScan, now: Time) -> Vec<LimitStats> {
        let now = self.advance(now);
        scan.finish(&self.counters.limits, &mut self.counters.table, now)
    }

    /// Details of one limit: the window of one key. Its callers are found by a scan of their own
    /// ([`Locker::scan_callers`]).
    pub fn limit_detail(&mut self, limit: LimitId, key: Option<Key>, now: Time) -> LimitDetail {
        let now = self.advance(now);
        LimitDetail::of_window(&self.counters.limits, &mut self.counters.table, limit, key, now)
    }

    /// Scans the next waiters. Returns true if more are left. Waiters come and go between calls, so
    /// the result is approximate.
    pub fn scan_callers(&self, scan: &mut CallerScan) -> bool {
        scan.step(&self.queue.waiters)
    }

    /// Every waiter, as it would ask anew; in the order of arrival.
    pub fn queued_asks(&self) -> Vec<Event> {
        self.queue.asks()
    }

    /// Gives all windows and waiters away: from here on another process decides, which has been
    /// told of both.
    pub fn hand_over(mut self, now: Time) -> Forwarder {
        self.advance(now);
        Forwarder::from(self)
    }

    /// Takes a reading of the wall clock into account.
    pub fn set_wall(&mut self, wall: WallSample, now: Time) {
        let now = self.advance(now);
        let calendar =
            |id: &LimitId| matches!(self.counters.limits.rules[id.at()].algorithm, Algorithm::Calendar { .. });
        let calendars: Vec<LimitId> = self.counters.limits.ids.iter().copied().filter(calendar).collect();
        if calendars.is_empty() {
            self.wall = WallClock::begin(wall);
            return;
        }
        if !self.wall.set(wall, now) {
            return;
        }
        for id in &calendars {
            self.counters.limits.rules[id.at()].roll(&self.wall, now);
        }
        self.counters.limits.revision += 1;
        self.next_roll = self.counters.limits.next_roll();
        self.counters.write_queue.request_limits_write();
        self.review_limits(&calendars, now);
    }

    /// Returns true if a wall clock that reads so many nanoseconds of Unix time goes on as it is
    /// known to.
    pub fn expects_wall(&self, unix_nanos: i128, now: Time) -> bool {
        self.wall.expects(unix_nanos, now)
    }

    /// The readings of the wall clock that a locker which goes on from here must know of.
    pub fn readings(&self) -> Vec<WallReading> {
        self.wall.readings()
    }
}
