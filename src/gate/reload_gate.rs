//! The limits are read again while requests are in line and on their way.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Gate, Refused, Revision, State};
use crate::locker::{Key, Kind, Limit, LimitDetail, LimitId, LimitStats, ReloadSummary, StatsScan};
use crate::time::Time;

/// What becomes of those in line when the limits are read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaiterPolicy {
    /// Which limits a request must pass is as before: they stay.
    Stay,
    /// Which limits a request must pass may be other now: each must ask again, with [`Refused::Reask`] for an answer.
    Reask,
}

/// A limit, and what its windows hold.
#[derive(Clone, PartialEq, Debug)]
pub struct LimitView {
    /// Its number.
    pub id: LimitId,
    /// The limit.
    pub limit: Limit,
    /// What its windows hold.
    pub held: LimitStats,
}

impl Gate {
    /// Puts these limits in the place of all others, from one moment to the next. What was counted counts on.
    /// `under_way`: how long a request may take from its permit to its settle at most. `publish` is called before anybody
    /// asks again, so that they can find what they have to pass, and with which revision to ask; it must not ask itself.
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
        let reload = self.step(now, |state| {
            if let Some(wall) = wall {
                state.begin_to_follow_wall(wall, now);
            }
            if waiters == WaiterPolicy::Reask {
                state.reask_all(now);
            }
            let reload = state.locker.reload(limits, under_way, now);
            // Under the lock, so that of two reloads the later one's stay.
            *self.limits.write().unwrap_or_else(PoisonError::into_inner) = state.locker.limits().into();
            publish(&reload, state.revision);
            self.revision.store(state.revision.0, Ordering::Release);
            reload
        });
        self.follows_wall.fetch_or(follows_wall, Ordering::Relaxed);
        reload
    }

    /// Whether a limit is in the file that was read last.
    pub fn is_in_force(&self, limit: LimitId) -> bool {
        self.lock().locker.is_in_force(limit)
    }

    /// Every limit in force, and what its windows hold now. Looks at every window, a few at a time, so that nobody waits
    /// long for a decision.
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

    /// Who waits at a limit, and when the slots of one of its windows open.
    pub fn limit_detail(&self, limit: LimitId, key: Option<Key>) -> LimitDetail {
        let now = self.clock.now();
        self.step(now, |state| state.locker.limit_detail(limit, key, now))
    }

    /// The limits by `LimitId`; also those that are no longer in force.
    pub fn limits(&self) -> Arc<[Limit]> {
        Arc::clone(&self.limits.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Those in line were sent back, and come again one by one. Until all are there nobody goes, so that they go in the order
/// of their arrival and not in that of their coming back.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReaskBarrier {
    missing: usize,
    /// Some may have hung up meanwhile.
    pub(super) until: Time,
}

/// How long nobody goes at most: each that is missing is a task that has been woken.
const REASK_TIMEOUT: Duration = Duration::from_millis(20);

impl State {
    /// Everybody in line is to ask again.
    fn reask_all(&mut self, now: Time) {
        self.revision = self.revision.next();
        let all = self.line.expected_after(None);
        if !all.is_empty() {
            // Some who were sent back a moment ago may still be on their way.
            let missing = self.reask_barrier.map_or(0, |before| before.missing) + all.len();
            self.reask_barrier = Some(ReaskBarrier { missing, until: now + REASK_TIMEOUT });
            self.locker.hold();
        }
        self.decide_all(all, Refused::Reask, now);
    }

    /// One who was sent back is there again.
    pub(super) fn on_reask(&mut self, now: Time) {
        let Some(reask_barrier) = &mut self.reask_barrier else { return };
        reask_barrier.missing = reask_barrier.missing.saturating_sub(1);
        if reask_barrier.missing == 0 {
            self.reask_barrier = None;
            self.locker.release(now);
        }
    }

    /// Nobody is waited for any longer than that.
    pub(super) fn end_reask_barrier(&mut self, now: Time) {
        if self.reask_barrier.is_some_and(|reask_barrier| now >= reask_barrier.until) {
            self.reask_barrier = None;
            self.locker.release(now);
        }
    }
}

/// Whether a limit's windows start by the wall clock.
pub(super) fn depends_on_wall(limit: &Limit) -> bool {
    limit.rate.as_ref().is_some_and(|rate| matches!(rate.kind, Kind::Calendar { .. }))
}
