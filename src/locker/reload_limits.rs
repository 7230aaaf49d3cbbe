//! What becomes of windows and waiters when the limits are read again: both stay, under the new rules.
//!
//! A limit is known by its name. What it has counted counts on, and who waits stays in line. A limit that is gone counts
//! no new request and holds nobody back, but what it has counted is there should it come back while that would count.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::Locker;
use super::api::{Ask, LimitId, RefusalReason, Sorry, Verdict};
use super::counters::Counters;
use super::limit::Limit;
use super::queue::DequeueReason;
use super::sharing::PriorSharing;
use super::window::{UnknownSlots, WindowRule, later};
use crate::time::Time;

/// What became of the limits when they were read again.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ReloadSummary {
    /// Those that are in force, in the order in which they were given.
    pub ids: Vec<LimitId>,
    /// Those that are new.
    pub added: Vec<LimitId>,
    /// Those that were gone.
    pub returned: Vec<LimitId>,
    /// Those that say something else than before.
    pub changed: Vec<LimitId>,
    /// Of these, those whose windows are told apart by something else: until what was let go before no longer counts,
    /// all their windows are full, because it may belong to any of them.
    pub rekeyed: Vec<LimitId>,
    /// Those that are gone.
    pub removed: Vec<LimitId>,
}

impl ReloadSummary {
    /// Whether anything is other than before.
    pub fn is_change(&self) -> bool {
        !(self.added.is_empty() && self.returned.is_empty() && self.changed.is_empty() && self.removed.is_empty())
    }
}

impl Locker {
    /// Puts these limits in the place of all others. `under_way`: how long a request may take from its permit to its
    /// settle at most.
    pub fn reload(&mut self, limits: Vec<Limit>, under_way: Duration, now: Time) -> ReloadSummary {
        let now = self.advance(now);
        // Those that go now keep their names until the next time: they are yet to be told of.
        self.counters.forget_retired(now);
        let mut reload = ReloadSummary::default();
        let by_name: HashMap<Arc<str>, LimitId> = self
            .counters
            .limits
            .ids
            .iter()
            .map(|id| (Arc::clone(&self.counters.limits.all[id.at()].name), *id))
            .collect();
        for limit in limits {
            let known = by_name.get(&limit.name).copied();
            let id = self.reload_limit(known, limit, now + under_way, &mut reload, now);
            reload.ids.push(id);
        }
        let stays: HashSet<LimitId> = reload.ids.iter().copied().collect();
        for id in self.counters.limits.ids.clone() {
            if !stays.contains(&id) && self.is_in_force(id) {
                // What it counts is seen, and keeps nobody back.
                let limit = Limit { dry_run: true, ..self.counters.limits.all[id.at()].clone() };
                self.change_limit(id, limit, now + under_way, now);
                self.counters.limits.retired.insert(id);
                reload.removed.push(id);
            }
        }
        self.next_roll = self.counters.limits.next_roll();
        let changed = [&reload.added[..], &reload.returned, &reload.changed, &reload.removed].concat();
        self.recheck_waiters(&changed, now);
        reload
    }

    /// From here on nobody who could wait goes: those who come join the line, in the order of their arrival.
    pub fn hold(&mut self) {
        self.queue.is_held = true;
    }

    /// Lets go who may go of those who were held.
    pub fn release(&mut self, now: Time) {
        let now = self.advance(now);
        self.queue.is_held = false;
        self.dispatch(now);
        self.queue.end_hold(&mut self.counters, now);
        self.update_due();
    }

    pub(super) fn never_queues(&self, ask: &Ask<'_>) -> bool {
        ask.claims.iter().any(|claim| self.counters.limits.rules[claim.limit.at()].refuses)
    }

    /// Whether a limit is one of those that were given last.
    pub fn is_in_force(&self, id: LimitId) -> bool {
        self.counters.limits.is_in_force(id)
    }

    fn reload_limit(
        &mut self,
        known: Option<LimitId>,
        limit: Limit,
        until: Time,
        reload: &mut ReloadSummary,
        now: Time,
    ) -> LimitId {
        let Some(id) = known else {
            let id = self.add(limit);
            reload.added.push(id);
            return id;
        };
        let at = id.at();
        let returns = self.counters.limits.retired.remove(&id);
        if !returns && self.counters.limits.all[at] == limit {
            return id;
        }
        if returns {
            reload.returned.push(id)
        } else {
            reload.changed.push(id)
        }
        // Slots that each of many keys may have used before a crash may all be one key's now.
        let (rule, is_some) = (&self.counters.limits.rules[at], |unknown: &UnknownSlots| !unknown.is_all());
        let has_counted = rule.live > 0 || rule.unknown.iter().chain(&rule.suspended).any(is_some);
        let rekeyed = self.counters.limits.all[at].keyed_by != limit.keyed_by && has_counted;
        self.change_limit(id, limit, until, now);
        if rekeyed {
            self.forget_keys(id, until, now);
            reload.rekeyed.push(id);
        }
        id
    }

    /// Replaces one limit's rule in its windows; by `until` all has settled that was granted by the old one. Its waiters are
    /// looked at by `recheck_waiters`.
    fn change_limit(&mut self, id: LimitId, limit: Limit, until: Time, now: Time) {
        let mut rule = WindowRule::new(&limit);
        let old = &self.counters.limits.rules[id.at()];
        let unseen = rule.change_rule(old, until, &self.wall, now);
        for window in self.counters.table.of_limit(id) {
            self.counters.table.window_mut(window).change_rule(old, &rule, &unseen, now);
        }
        (rule.persisted, rule.term, rule.catches_up) = (old.persisted, old.term, old.catches_up);
        let (before, block) = (PriorSharing::of(old), old.block);
        self.counters.limits.rules[id.at()] = rule;
        self.counters.limits.all[id.at()] = limit;
        self.update_work_lists(id, before, until, block);
    }

    /// Brings the work lists of journal and store in line with a limit that is new or changed. `before`, `block`: of the
    /// earlier rule.
    pub(super) fn update_work_lists(&mut self, id: LimitId, before: PriorSharing, until: Time, block: u32) {
        let Counters { limits, table, write_queue, sharing, .. } = &mut self.counters;
        write_queue.update_limit(limits, table, id, until, block);
        if sharing.update_limit(limits, table, id, before, self.last) {
            sharing.cancel_asks_for(table, &mut self.queue, id);
        }
        write_queue.request_limits_write();
    }

    /// No window of a limit can be told from another: each counts as full of what settles until then.
    fn forget_keys(&mut self, id: LimitId, until: Time, now: Time) {
        let rule = &mut self.counters.limits.rules[id.at()];
        rule.unknown = if rule.counts_slots() { vec![UnknownSlots::all(until)] } else { Vec::new() };
        for window in self.counters.table.of_limit(id) {
            self.counters.table.window_mut(window).forget_key(rule, now);
        }
    }

    /// Looks at everybody whose limits have changed, once all of them have: a state in which only some have would let
    /// go whom neither the old nor the new limits let go.
    fn recheck_waiters(&mut self, changed: &[LimitId], now: Time) {
        self.requeue_waiters(changed, now);
        for id in changed {
            self.queue.mark_limit_dirty(&self.counters.table, *id);
        }
        self.serve_waiters(now);
    }

    /// Brings every waiter of these limits in line with their new rules.
    fn requeue_waiters(&mut self, limits: &[LimitId], now: Time) {
        let mut waiters = self.queue.waiters.indices();
        waiters.retain(|id| self.queue.waiters[*id].claims.iter().any(|claim| limits.contains(&claim.limit)));
        waiters.sort_by_key(|id| self.queue.waiters[*id].caller_order.arrival());
        // All leave before the first comes back: turns, windows and patience may all be others now,
        // and their order is to be that of their arrival.
        waiters.retain(|id| limits.iter().all(|limit| self.keep_waiter(*id, *limit, now)));
        for id in &waiters {
            self.queue.dequeue(&mut self.counters, *id, DequeueReason::Left, now);
        }
        for id in waiters {
            let mut waiter = self.queue.waiters.take(id);
            self.queue.resolve_demands(&mut self.counters, &mut waiter, now);
            waiter.deadline = self.counters.limits.deadline(&waiter);
            self.queue.waiters.put_back(id, waiter);
            self.queue.enqueue(&mut self.counters, id);
        }
    }

    /// Whether a waiter may stay in line; if not, it is told so.
    fn keep_waiter(&mut self, id: u32, limit: LimitId, now: Time) -> bool {
        let Some(reason) = self.refused_by(id, limit) else { return true };
        let ticket = self.queue.ticket(id);
        self.queue.remove_waiter(&mut self.counters, id, now);
        let sorry = Sorry { reason, limit, until: later(now, 1_000_000), exact: false };
        self.queue.outbox.push(ticket, Verdict::Sorry(sorry));
        false
    }

    /// Why the new rule does not let a waiter stay.
    fn refused_by(&self, id: u32, limit: LimitId) -> Option<RefusalReason> {
        let rule = &self.counters.limits.rules[limit.at()];
        if rule.dry_run {
            return None;
        }
        let mut claims = self.queue.waiters[id].claims.iter().filter(|claim| claim.limit == limit);
        claims.find_map(|claim| {
            let new_key = self.counters.table.find(limit, claim.key).is_none() && rule.live >= rule.max_keys;
            if rule.slots(claim.cost) > rule.requests && !rule.is_fraction {
                Some(RefusalReason::CostTooHigh)
            } else {
                new_key.then_some(RefusalReason::TooManyKeys)
            }
        })
    }
}
