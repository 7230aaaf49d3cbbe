//! Reload of the limits: windows and waiters stay, under the new rules.
//!
//! A limit is identified by its name. Its counts go on, and its waiters stay in the queue. A
//! removed limit counts no new request and delays none, but keeps its counts, should it come back
//! while they would still count.

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

/// Result of a reload, by limit. A limit is in at most one of `added`, `returned`, `changed` and
/// `removed`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ReloadSummary {
    /// Limits in force, in the order in which they were given.
    pub ids: Vec<LimitId>,
    /// Limits with a new name.
    pub added: Vec<LimitId>,
    /// Limits that had been removed and are back.
    pub returned: Vec<LimitId>,
    /// Limits with other settings than before.
    pub changed: Vec<LimitId>,
    /// Limits of these with another kind of key for their windows: until the requests granted
    /// before no longer count, all windows are full, because they may belong to any of them.
    pub rekeyed: Vec<LimitId>,
    /// Limits that are no longer given.
    pub removed: Vec<LimitId>,
}

impl ReloadSummary {
    /// True if any limit was added, returned, changed or removed.
    pub fn is_change(&self) -> bool {
        !(self.added.is_empty() && self.returned.is_empty() && self.changed.is_empty() && self.removed.is_empty())
    }
}

impl Locker {
    /// Puts these limits in the place of all others. `under_way`: longest time of a request from
    /// its permit to its settle. Waiters are checked once, after all limits have changed.
    pub fn reload(&mut self, limits: Vec<Limit>, under_way: Duration, now: Time) -> ReloadSummary {
        let now = self.advance(now);
        // Limits removed by this reload keep their names until the next one: the caller still
        // reports them.
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
                // As a dry run, it still shows its counts and delays no request.
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

    /// Begins a hold: no request that could wait goes from here on. New ones join the queue, in the
    /// order of their arrival.
    pub fn hold(&mut self) {
        self.queue.is_held = true;
    }

    /// Ends the hold, and grants the held waiters that may go.
    pub fn release(&mut self, now: Time) {
        let now = self.advance(now);
        self.queue.is_held = false;
        self.dispatch(now);
        self.queue.end_hold(&mut self.counters, now);
        self.update_due();
    }

    /// True if a limit of the ask refuses at once: a hold does not delay such a request.
    pub(super) fn never_queues(&self, ask: &Ask<'_>) -> bool {
        ask.claims.iter().any(|claim| self.counters.limits.rules[claim.limit.at()].refuses)
    }

    /// True if a limit is one of those that were given last.
    pub fn is_in_force(&self, id: LimitId) -> bool {
        self.counters.limits.is_in_force(id)
    }

    /// Adds or changes one limit of a reload, and notes in `reload` which it was. `known`: id of
    /// the limit with this name so far. `until`: time by which all requests granted by the old rule
    /// have settled. A limit with the same settings stays untouched.
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

    /// Replaces one limit's rule in its windows; by `until` all has settled that was granted by the
    /// old one. Its waiters are looked at by `recheck_waiters`.
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
        self.counters.limits.revision += 1;
        self.update_work_lists(id, before, until, block);
    }

    /// Brings the work lists of journal and store in line with a limit that is new or changed.
    /// `before`, `block`: of the earlier rule.
    pub(super) fn update_work_lists(&mut self, id: LimitId, before: PriorSharing, until: Time, block: u32) {
        let Counters { limits, table, write_queue, sharing, .. } = &mut self.counters;
        write_queue.update_limit(limits, table, id, until, block);
        if sharing.update_limit(limits, table, id, before, self.last) {
            sharing.cancel_asks_for(table, &mut self.queue, id);
        }
        write_queue.request_limits_write();
    }

    /// Voids the keys of a limit, as its windows are no longer distinguishable: each counts as full
    /// of slots that settle by `until`.
    fn forget_keys(&mut self, id: LimitId, until: Time, now: Time) {
        let rule = &mut self.counters.limits.rules[id.at()];
        rule.unknown = if rule.counts_slots() { vec![UnknownSlots::all(until)] } else { Vec::new() };
        for window in self.counters.table.of_limit(id) {
            self.counters.table.window_mut(window).forget_key(rule, now);
        }
    }

    /// Checks the waiters of changed limits, after all limits have changed: a mix of old and new
    /// rules could grant a request that neither the old nor the new limits permit.
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
        // All leave before the first comes back: turns, windows and deadlines may differ now, and
        // they return in the order of their arrival.
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

    /// True if a waiter may stay in the queue; else it is removed, and its refusal pushed to the
    /// outbox with a retry time of one millisecond.
    fn keep_waiter(&mut self, id: u32, limit: LimitId, now: Time) -> bool {
        let Some(reason) = self.refused_by(id, limit) else { return true };
        let ticket = self.queue.ticket(id);
        self.queue.remove_waiter(&mut self.counters, id, now);
        let sorry = Sorry { reason, limit, until: later(now, 1_000_000), exact: false };
        self.queue.outbox.push(ticket, Verdict::Sorry(sorry));
        false
    }

    /// Reason for which the new rule does not let a waiter stay: `CostTooHigh` if it needs more
    /// slots than the whole limit, `TooManyKeys` if its key is new and there is no room for it.
    /// `None` if it may stay.
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
