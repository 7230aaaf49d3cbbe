//! Rules of a random world: which request has room by the oracle, what the oracle can know, and changes
//! of the rules.

use std::borrow::Cow;

use super::generators::{Sizes, WorldConfig, rule};
use super::locker_world::{LockerWorld, PARTS};
use super::*;

impl LockerWorld {
    pub(super) fn has_room(&self, claims: &[Claim]) -> bool {
        claims.iter().all(|claim| self.room(claim))
    }

    fn room(&self, claim: &Claim) -> bool {
        let rule = self.rule(claim.limit.0);
        rule.dry_run || self.room_by(&rule, claim)
    }

    /// True if every key of these claims has a window, or a place for one.
    pub(super) fn has_key(&mut self, claims: &[Claim]) -> bool {
        let keys = |claim: &Claim, locker: &Locker| {
            let new = claims.iter().filter(|other| other.limit == claim.limit);
            let new = new.filter(|other| locker.counters.table.find(other.limit, other.key).is_none()).count();
            locker.counters.limits.rules[claim.limit.at()].live + new
        };
        claims.iter().all(|claim| keys(claim, &self.locker) <= self.rule(claim.limit.0).max_keys)
    }

    /// The rule that a limit has here.
    pub(super) fn rule(&self, limit: u32) -> Cow<'_, Limit> {
        let rule = &self.locker.limits()[limit as usize];
        if self.world_config.sizes != Sizes::Fraction {
            return Cow::Borrowed(rule);
        }
        let mut part = rule.clone();
        part.in_flight = rule.in_flight.map(|most| most / PARTS);
        if let Some(rate) = &mut part.rate {
            rate.requests /= PARTS;
        }
        Cow::Owned(part)
    }

    /// Slots of a limit of so many that may go here.
    pub(super) fn part_of(&self, requests: u64) -> u64 {
        if self.world_config.sizes == Sizes::Fraction { requests / u64::from(PARTS) } else { requests }
    }

    /// Numbers and claims of all that wait, here or elsewhere.
    pub(super) fn others_waiting(&self) -> impl Iterator<Item = (u64, &[Claim])> {
        let elsewhere = self.elsewhere.iter().map(|(number, claims)| (*number, &claims[..]));
        self.waiting.iter().map(|waiting| (waiting.number, &waiting.claims[..])).chain(elsewhere)
    }

    /// True if the oracle knows whether a request has room at a limit.
    pub(super) fn is_foreseen(&self, limit: u32) -> bool {
        let (rule, history) = (self.rule(limit), &self.oracle.history);
        let is_nothing = |most: Option<u32>| most == Some(0);
        let requests = rule.rate.as_ref().map(|rate| rate.requests);
        // The locker rounds settle times of so many slots, and a part of nothing has no opening.
        if requests > Some(1024) || is_nothing(requests) || is_nothing(rule.in_flight) {
            return false;
        }
        let is_fixed = matches!(rule.rate.as_ref().map(|rate| &rate.kind), Some(Kind::Fixed | Kind::Smooth { .. }));
        !self.waits_for_others && history.is_exact(limit, self.now) && (!is_fixed || history.is_unbroken(limit))
    }

    pub(super) fn room_by(&self, rule: &Limit, claim: &Claim) -> bool {
        let cost = if rule.rate.is_some() { u64::from(claim.cost) } else { 0 };
        self.oracle.room(rule, claim.limit.0, claim.key.0, cost, self.now)
    }

    /// Changes the rule of a limit.
    pub(super) fn change(&mut self) {
        // Earlier settles and grants count by the old rule.
        self.now = self.now + Duration::from_nanos(1);
        self.locker.handle_timeout(self.now);
        self.drain_verdicts();
        let limit = LimitId(self.rng.range(0, self.locker.limits().len() as u64) as u32);
        let old = self.locker.limits()[limit.at()].clone();
        let mut new = rule(&mut self.rng, WorldConfig { changes: true, ..self.world_config });
        (new.in_flight, new.dry_run) = (old.in_flight, old.dry_run);
        if self.rng.one_in(2) {
            // The waiters keep their places.
            (new.max_wait, new.share_by, new.priority) = (old.max_wait, old.share_by, old.priority);
        }
        self.oracle.history.blur(limit.0, &[old.rate, new.rate.clone()], self.now);
        let now = self.now;
        self.ungranting(|locker| _ = change(locker, limit, new, now));
        self.oracle.history.begin(self.locker.limits(), self.oracle.items.len(), self.now);
    }

    /// Notes that the locker may count more than the oracle in all windows.
    pub(super) fn blur(&mut self) {
        for (limit, rule) in (0u32..).zip(self.locker.limits()) {
            self.oracle.history.blur(limit, std::slice::from_ref(&rule.rate), self.now);
        }
    }
}
