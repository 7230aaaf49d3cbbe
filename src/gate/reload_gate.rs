//! Reload of the limits while requests wait and are in flight; also the reports on limits for the dashboard and
//! metrics.
//!
//! A reload is one step under the gate's lock: each request is decided by the old limits or by the
//! new ones, never by a mix. Requests in flight settle in the windows that granted them.
//!
//! Steps of a reload that changes which limits a request must pass:
//!
//! 1. The revision increases, so that claims of the old configuration are refused with `Reask`.
//! 2. The barrier holds grants, and every waiter is told to ask again; of many, some with each step.
//! 3. The locker exchanges the limits; the new configuration is published.
//! 4. The waiters ask again with their original arrival time; the last one ends the barrier.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Gate, Refused, Revision, State};
use crate::locker::{
    CallerScan, Key, Kind, Limit, LimitDetail, LimitId, LimitStats, ReloadSummary, Sorry, StatsScan, Ticket,
};
use crate::time::Time;

/// Treatment of the waiters in a reload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaiterPolicy {
    /// They stay queued: the reload does not change which limits a request must pass.
    /// For changed numbers of limits, for example.
    Stay,
    /// Each is told to ask again ([`Refused::Reask`]): the reload may change which limits a request must pass.
    Reask,
}

/// A limit and the usage of its windows.
///
/// One entry of the admin API, the dashboard's events and the metrics.
#[derive(Clone, PartialEq, Debug)]
pub struct LimitView {
    /// Id of the limit.
    pub id: LimitId,
    /// Settings of the limit.
    pub limit: Limit,
    /// Usage of its windows.
    /// Approximate: windows change during the scan.
    pub held: LimitStats,
}

impl Gate {
    /// Replaces all limits atomically; counts continue. `under_way`: longest time from a request's permit to its
    /// settle. `publish` is called with the new revision before any waiter asks again, so that waiters find their new
    /// claims; it must not call the gate.
    ///
    /// The wall clock is followed from the first `calendar` limit on, and still after its removal.
    ///
    /// Returns the ids of the limits in force, in the order of `limits`, and the ids of those that
    /// were added, changed or removed. After an upgrade it changes nothing and returns an empty
    /// summary: the new process reads the file.
    ///
    /// # Panics
    /// After a panic under the gate's lock.
    pub fn reload(
        &self,
        limits: Vec<Limit>,
        under_way: Duration,
        waiters: WaiterPolicy,
        publish: impl FnOnce(&ReloadSummary, Revision),
    ) -> ReloadSummary {
        let now = self.clock.now();
        let follows_wall = limits.iter().any(depends_on_wall);
        let wall = follows_wall.then(|| self.clock.wall());
        let summary = self.step(now, |state| {
            if let Some(wall) = wall {
                state.begin_to_follow_wall(wall, now);
            }
            if waiters == WaiterPolicy::Reask {
                state.reask_all(now);
            }
            let summary = state.locker.reload(limits, under_way, now);
            // Stored under the lock, so that of two reloads the later one's limits stay.
            *self.limits.write().unwrap_or_else(PoisonError::into_inner) = state.locker.limits().into();
            publish(&summary, state.revision);
            self.revision.store(state.revision.0, Ordering::Release);
            summary
        });
        self.follows_wall.fetch_or(follows_wall, Ordering::Relaxed);
        summary
    }

    /// True if the limit is in the configuration that was loaded last.
    ///
    /// An id stays valid after its limit was removed.
    pub fn is_in_force(&self, limit: LimitId) -> bool {
        self.lock().locker.is_in_force(limit)
    }

    /// All limits in force with the usage of their windows. Scans every window, a few at a time, so that no decision
    /// waits long.
    ///
    /// The lock is released between the parts of the scan, so the counts of different windows are
    /// of slightly different times. Called by the admin API and the metrics.
    pub fn limit_stats(&self) -> Vec<LimitView> {
        let mut scan = StatsScan::default();
        loop {
            let now = self.clock.now();
            if !self.step(now, |state| state.locker.scan_stats(&mut scan, now)) {
                break;
            }
        }
        let now = self.clock.now();
        let (limits, stats) = self.step(now, |state| {
            let stats = state.locker.finish_stats(scan, now).into_iter().zip(0..);
            let stats = stats.map(|(held, id)| (LimitId(id), held));
            let in_force: Vec<_> = stats.filter(|(id, _)| state.locker.is_in_force(*id)).collect();
            (self.limits(), in_force)
        });
        stats.into_iter().map(|(id, held)| LimitView { id, limit: limits[id.0 as usize].clone(), held }).collect()
    }

    /// Number of requests of this process that wait; one that needs several limits counts once. Takes the same time
    /// however many there are.
    pub fn waiting(&self) -> usize {
        self.lock().wait_slots.waiting()
    }

    /// Waiters of a limit, and the opening times of one of its windows. Scans the waiters some at a
    /// time, as [`limit_stats`](Gate::limit_stats) does the windows.
    ///
    /// `key` names the window to describe; with `None` only the waiters are reported. Called by the
    /// admin API.
    pub fn limit_detail(&self, limit: LimitId, key: Option<Key>) -> LimitDetail {
        let mut scan = CallerScan::of(limit);
        while self.lock().locker.scan_callers(&mut scan) {}
        let now = self.clock.now();
        let detail = self.step(now, |state| state.locker.limit_detail(limit, key, now));
        LimitDetail { callers: scan.finish(), ..detail }
    }

    /// Limits by `LimitId`, including those no longer in force.
    ///
    /// Takes no gate lock: a list that stays as it is, even if a reload replaces it meanwhile.
    pub fn limits(&self) -> Arc<[Limit]> {
        Arc::clone(&self.limits.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Re-ask barrier. After a reload every waiter asks again. Grants are held until all have, or until a timeout, so that
/// they keep their arrival order instead of the order of their return.
#[derive(Debug)]
pub(super) struct ReaskBarrier {
    /// Number of waiters that have not asked again.
    /// Also those of an earlier reload.
    missing: usize,
    /// Waiters that are still to be told: of many, some with each step.
    untold: Vec<Ticket>,
    /// End of the barrier even if some are missing, since they may have disconnected. In the past
    /// as long as not all are told.
    until: Time,
}

impl ReaskBarrier {
    /// Time of the next step of the barrier.
    pub(super) fn due(&self) -> Time {
        if self.untold.is_empty() { self.until } else { Time::START }
    }
}

/// Waiters told to ask again in one step: some 0.5 ms of work.
const TOLD_PER_STEP: usize = 256;

/// Longest time for which the barrier holds grants: each missing waiter is a task that was woken already.
///
/// A choice: far above the time that a woken task takes to ask again, and hardly noticed as a
/// delay.
const REASK_TIMEOUT: Duration = Duration::from_millis(20);

impl State {
    /// Begins to tell every waiter to ask again, and holds grants until all have.
    ///
    /// Without waiters only the revision changes, and grants go on.
    fn reask_all(&mut self, now: Time) {
        self.revision = self.revision.next();
        let all = self.wait_slots.expected_after(None);
        if !all.is_empty() {
            // Some from the reload before may still be missing. Those that it has not told are among all.
            let before = self.reask_barrier.take();
            let missing = before.map_or(0, |before| before.missing.saturating_sub(before.untold.len())) + all.len();
            self.reask_barrier = Some(ReaskBarrier { missing, untold: all, until: now + REASK_TIMEOUT });
            self.locker.hold();
        }
        self.reask_some(TOLD_PER_STEP, now);
    }

    /// Tells the next waiters to ask again.
    fn reask_some(&mut self, most: usize, now: Time) {
        let Some(barrier) = &mut self.reask_barrier else { return };
        let rest = barrier.untold.len().saturating_sub(most);
        let told = barrier.untold.split_off(rest);
        barrier.until = now + REASK_TIMEOUT;
        self.decide_all(told, Refused::Reask, now);
    }

    /// Tells all waiters to ask again that are still to be told.
    pub(super) fn reask_rest(&mut self, now: Time) {
        self.reask_some(usize::MAX, now);
    }

    /// The answer to a waiter that the locker refuses. One that is to ask again is not refused by
    /// the limits that it asked for before.
    pub(super) fn refusal(&mut self, sorry: Sorry) -> Refused {
        match &mut self.reask_barrier {
            Some(barrier) if !barrier.untold.is_empty() => {
                // One that has asked again already asks once more.
                barrier.missing += 1;
                Refused::Reask
            }
            Some(_) | None => Refused::Sorry(sorry),
        }
    }

    /// Counts a waiter that has asked again; the last one ends the barrier.
    ///
    /// Called for each ask of a request that was queued before; no effect without a barrier.
    pub(super) fn on_reask(&mut self, now: Time) {
        let Some(barrier) = &mut self.reask_barrier else { return };
        barrier.missing = barrier.missing.saturating_sub(1);
        if barrier.missing == 0 && barrier.untold.is_empty() {
            self.reask_barrier = None;
            self.locker.release(now);
        }
    }

    /// Tells the next waiters to ask again, or ends the barrier after its timeout.
    ///
    /// Called by the timer driver. Waiters that ask later than that still keep their arrival time.
    pub(super) fn end_reask_barrier(&mut self, now: Time) {
        match &self.reask_barrier {
            Some(barrier) if !barrier.untold.is_empty() => self.reask_some(TOLD_PER_STEP, now),
            Some(barrier) if now >= barrier.until => {
                self.reask_barrier = None;
                self.locker.release(now);
            }
            Some(_) | None => {}
        }
    }
}

/// True if the windows of a limit start by the wall clock.
///
/// Only `calendar` windows do. Other kinds measure spans of gateway time.
pub(super) fn depends_on_wall(limit: &Limit) -> bool {
    limit.rate.as_ref().is_some_and(|rate| matches!(rate.kind, Kind::Calendar { .. }))
}
