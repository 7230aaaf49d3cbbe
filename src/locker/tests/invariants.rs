//! Invariants of a random world, checked after every step and at its end.

use super::locker_world::{LockerWorld, WorldWaiter, settle_item, share_window};
use super::*;

/// Locker that returns the verdicts on a world's waiters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum VerdictSource {
    Here,
    Elsewhere,
}

impl LockerWorld {
    /// Asserts after every step that no slot is lost or counted twice, and that no waiter waits that may go.
    pub(super) fn check_invariants(&mut self) {
        for limit in 0..self.locker.limits().len() as u32 {
            for key in 0..2 {
                self.check_window(limit, key);
            }
        }
        if self.world_config.turns || self.changed || self.held {
            return;
        }
        // I4: a waiter with no older waiter at any of its windows lacks room somewhere.
        for waiting in &self.waiting {
            let older =
                |other: &&WorldWaiter| other.number < waiting.number && share_window(&other.claims, &waiting.claims);
            if !self.waiting.iter().any(|other| older(&other)) {
                assert!(!self.has_room(&waiting.claims), "seed {}: {:?} may go", self.seed, waiting.claims);
            }
        }
    }

    /// I3, I5: asserts that the locker counts what the oracle counts.
    fn check_window(&mut self, limit: u32, key: u128) {
        let usage = self.locker.usage(LimitId(limit), Key(key), self.now);
        let rule = &self.locker.limits()[limit as usize];
        assert_eq!(u64::from(usage.flying), self.oracle.flying(limit, key), "seed {}", self.seed);
        let Some(rate) = &rule.rate else { return };
        if matches!(rate.kind, Kind::Fixed) {
            return;
        }
        let busy = match rate.kind {
            Kind::Calendar { .. } => self.oracle.in_period(limit, key, rate, self.now),
            Kind::Sliding | Kind::Fixed | Kind::Smooth { .. } => {
                self.oracle.busy(limit, key, rate.per + rate.guard, self.now)
            }
        };
        let taken = u64::from(usage.taken);
        assert!(taken >= busy.min(u64::from(rate.requests)), "seed {}: {taken} of {busy} known", self.seed);
        if !self.changed {
            assert_eq!(taken, busy, "seed {}", self.seed);
            let room = self.oracle.room(rule, limit, key, 1, self.now);
            assert_eq!(usage.opens == Some(self.now), room, "seed {}: {usage:?}", self.seed);
        }
    }

    /// Ends all requests and advances until nothing is due. Asserts that no waiter and no window is left.
    pub(super) fn run_until_idle(&mut self) {
        if self.held {
            self.hold_or_release(self.now);
        }
        for _ in 0..10_000 {
            while let Some(sent) = self.sent.pop() {
                for item in sent.items {
                    let item = &mut self.oracle.items[item];
                    item.flying = false;
                    settle_item(item, self.locker.limits(), SettlePoint::Failed, self.now);
                }
                self.locker.finish(sent.grant, self.now);
            }
            self.drain_verdicts();
            self.write_all();
            if self.sent.is_empty() {
                let Some(next) = self.locker.poll_timeout() else { break };
                assert!(next >= self.now || self.locker.live_keys() > 0, "seed {}", self.seed);
                self.now = self.now.max(next);
                self.locker.handle_timeout(self.now);
                self.drain_verdicts();
            }
        }
        assert_eq!(self.waiting.len(), 0, "seed {}: a waiter is never granted or refused", self.seed);
        assert_eq!(self.locker.live_keys(), 0, "seed {}: a window is never dropped", self.seed);
        assert_eq!(self.locker.counters.table.chunks(), 0, "seed {}", self.seed);
        assert!(self.locker.queue.is_empty(), "seed {}: {:?}", self.seed, self.locker.queue);
    }

    /// I1 and I2 from the origin's side, if the rules never changed.
    pub(super) fn check_promise(&mut self) {
        if !self.changed {
            self.assert_promise();
        }
    }

    /// I1 and I2 from the origin's side, under the present rules.
    pub(super) fn assert_promise(&mut self) {
        let rules: Vec<Limit> = self.locker.limits().to_vec();
        for (limit, rule) in (0u32..).zip(&rules) {
            let Some(rate) = &rule.rate else { continue };
            if self.changed && matches!(rate.kind, Kind::Fixed) {
                // The locker's fixed windows begin elsewhere than the oracle's after a crash.
                continue;
            }
            let span = rate.per + rate.guard;
            for key in 0..2 {
                let most = if matches!(rate.kind, Kind::Calendar { .. }) {
                    let rng = &mut self.rng;
                    let guard = rate.guard.as_nanos() as u64;
                    let off = i128::from(rng.range(0, 2 * guard + 1)) - i128::from(guard);
                    let place = |from: Time, to: Time| Time::from_nanos(rng.range(from.as_nanos(), to.as_nanos() + 1));
                    self.oracle.most_in_a_minute(limit, key, off, place)
                } else if matches!(rate.kind, Kind::Fixed) {
                    let windows = self.oracle.fixed_windows(limit, key, span, self.now);
                    windows.iter().map(|(_, count)| *count).max().unwrap_or(0)
                } else {
                    let rng = &mut self.rng;
                    let place = |from: Time, to: Time| Time::from_nanos(rng.range(from.as_nanos(), to.as_nanos() + 1));
                    self.oracle.most_in_any_span(limit, key, span, place)
                };
                assert!(most <= u64::from(rate.requests), "seed {}: {most} of {}", self.seed, rate.requests);
            }
        }
    }
}
