//! Invariants of a random world, checked after every step and at its end.

use super::locker_world::{LockerWorld, WorldWaiter, settle_item, share_window};
use super::rule_history::RatePeriod;
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
            for key in 0..3 {
                self.check_window(limit, key);
            }
            let live = self.locker.counters.limits.rules[limit as usize].live;
            let most = self.locker.limits()[limit as usize].max_keys;
            assert!(live <= most, "seed {}: {live} keys of {most}", self.seed);
        }
        for WorldWaiter { claims, .. } in &self.waiting {
            let can_go = |claim: &Claim| {
                let rule = &self.locker.limits()[claim.limit.at()];
                rule.dry_run || rule.rate.as_ref().is_none_or(|rate| claim.cost <= rate.requests)
            };
            assert!(claims.iter().all(can_go), "seed {}: {claims:?} can never go", self.seed);
        }
        if self.world_config.turns || self.held {
            return;
        }
        // I4: a waiter with no older waiter at any of its windows lacks room somewhere.
        for (number, claims) in self.others_waiting() {
            let older = |(other, theirs): (u64, &[Claim])| other < number && share_window(theirs, claims);
            let foreseen = claims.iter().all(|claim| self.is_foreseen(claim.limit.0));
            if foreseen && !self.others_waiting().any(older) {
                assert!(!self.has_room(claims), "seed {}: {claims:?} may go", self.seed);
            }
        }
    }

    /// I3, I5: asserts that the locker counts what the oracle counts.
    fn check_window(&mut self, limit: u32, key: u128) {
        let usage = self.locker.usage(LimitId(limit), Key(key), self.now);
        let rule = self.rule(limit);
        let (flying, known) = (u64::from(usage.flying), self.oracle.flying(limit, key));
        assert!(flying >= known, "seed {}: {flying} of {known} flights", self.seed);
        assert!(flying == known || self.has_events_under_way, "seed {}: {flying} of {known} flights", self.seed);
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
        if rate.requests > 1024 {
            // Settle times are rounded up, by a 1024th of the span at most.
            let quantum = (rate.per + rate.guard) / 1000;
            let span = rate.per + rate.guard + quantum;
            let most = self.oracle.busy(limit, key, span, self.now);
            let exact = matches!(rate.kind, Kind::Calendar { .. }) || !self.oracle.history.is_exact(limit, self.now);
            assert!(exact || taken <= most, "seed {}: {taken} of {most} and no more", self.seed);
        } else if self.oracle.history.is_exact(limit, self.now) {
            assert_eq!(taken, busy, "seed {}", self.seed);
        }
        if self.is_foreseen(limit) {
            let room = self.oracle.room(&rule, limit, key, 1, self.now);
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

    /// I1 and I2 from the origin's side: for each rate that was in force, all that went under it and
    /// before.
    pub(super) fn assert_promise(&mut self) {
        for limit in 0..self.locker.limits().len() as u32 {
            for (period, end) in self.oracle.history.of(limit) {
                for key in 0..6 {
                    self.check_period(&period, end, key);
                }
            }
        }
    }

    /// Asserts that no span or window that holds a request of this period holds more than N of those
    /// that were granted up to it. `end`: index of the first item of the next period.
    fn check_period(&mut self, period: &RatePeriod, end: usize, key: u128) {
        let RatePeriod { limit, first_item, rate: Some(rate), .. } = period else { return };
        if self.locker.limits()[*limit as usize].dry_run {
            return;
        }
        if rate.kind == Kind::Fixed {
            return self.check_fixed(period, end, key);
        }
        let requests = self.part_of(u64::from(rate.requests));
        let guard = rate.guard.as_nanos() as u64;
        let off = i128::from(self.rng.range(0, 2 * guard + 1)) - i128::from(guard);
        let rng = &mut self.rng;
        let mut place = |from: Time, to: Time| Time::from_nanos(rng.range(from.as_nanos(), to.as_nanos() + 1));
        let counted: Vec<(usize, Time, u64)> = self.oracle.placed(*limit, key, &mut place);
        let span = rate.per + rate.guard;
        for (last, at, _) in counted.iter().filter(|(item, _, _)| (*first_item..end).contains(item)) {
            let before = || counted.iter().filter(|(item, _, cost)| item <= last && *cost > 0);
            let most = if matches!(rate.kind, Kind::Calendar { .. }) {
                let minute = |at: Time| (i128::from(at.as_nanos()) + off).div_euclid(60_000_000_000);
                before().filter(|(_, other, _)| minute(*other) == minute(*at)).map(|(_, _, cost)| cost).sum()
            } else {
                let from = |start: Time| before().filter(move |(_, other, _)| *other >= start && *other < start + span);
                let spans = before().filter(|(_, start, _)| start <= at && *start + span > *at);
                spans.map(|(_, start, _)| from(*start).map(|(_, _, cost)| cost).sum()).max().unwrap_or(0)
            };
            assert!(most <= requests, "seed {}: {most} of {requests} at {at:?}, {period:?}", self.seed);
        }
    }

    /// As `check_period`, of a `fixed` limit: its windows may have begun anywhere within a span of the
    /// change, but from then on each begins with the first settle after the end of the last.
    fn check_fixed(&self, period: &RatePeriod, end: usize, key: u128) {
        let RatePeriod { limit, from, first_item, rate: Some(rate) } = period else { return };
        let span = rate.per + rate.guard;
        let mut settles = self.oracle.settled_items(*limit, key);
        let until = self.oracle.items.get(end).map_or(Time::NEVER, |next| next.taken);
        settles.retain(|(_, at, _)| at >= from && *at < until);
        let is_kept = |begin: Time| {
            let mut windows: Vec<(Time, u64, usize)> = Vec::new();
            for (item, at, cost) in settles.iter().filter(|(_, at, _)| *at >= begin) {
                match windows.last_mut() {
                    Some((began, count, last)) if *began + span > *at => {
                        (*count, *last) = (*count + cost, *item.max(last));
                    }
                    Some(_) | None => windows.push((*at, *cost, *item)),
                }
            }
            windows.iter().all(|(_, count, last)| last < first_item || *count <= u64::from(rate.requests))
        };
        let linger =
            if self.oracle.history.is_unbroken(*limit) { Duration::ZERO } else { span + Duration::from_secs(2) };
        let begins = settles.iter().map(|(_, at, _)| *at).filter(|at| *at <= *from + linger);
        assert!([*from].into_iter().chain(begins).any(is_kept), "seed {}: {period:?}: {settles:?}", self.seed);
    }
}
