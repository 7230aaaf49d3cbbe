//! Reload of the limits: windows and waiters stay, under the new rules.
//!
//! A limit is identified by its name. Its counts go on, and its waiters stay in the queue. A
//! removed limit counts no new request and delays none, but keeps its counts, should it come back
//! while they would still count.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::Locker;
use super::api::{Ask, LimitId};
use super::counters::Counters;
use super::limit::Limit;
use super::rule_changes::RuleChange;
use super::sharing::PriorSharing;
use super::window::{UnknownSlots, WindowRule};
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
        let mut changes = Vec::new();
        let was_walking = self.counters.table.changes.is_pending();
        let by_name: HashMap<Arc<str>, LimitId> = self
            .counters
            .limits
            .ids
            .iter()
            .map(|id| (Arc::clone(&self.counters.limits.all[id.at()].name), *id))
            .collect();
        for limit in limits {
            let known = by_name.get(&limit.name).copied();
            let (id, change) = self.reload_limit(known, limit, now + under_way, &mut reload, now);
            changes.extend(change.map(|change| (id, change)));
            reload.ids.push(id);
        }
        let stays: HashSet<LimitId> = reload.ids.iter().copied().collect();
        for id in self.counters.limits.ids.clone() {
            if !stays.contains(&id) && self.is_in_force(id) {
                // As a dry run, it still shows its counts and delays no request.
                let limit = Limit { dry_run: true, ..self.counters.limits.all[id.at()].clone() };
                changes.push((id, self.change_limit(id, limit, now + under_way, now)));
                self.counters.limits.retired.insert(id);
                reload.removed.push(id);
            }
        }
        self.next_roll = self.counters.limits.next_roll();
        if !was_walking {
            self.counters.begin_walk();
        }
        self.recheck_waiters(&changes, now);
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
        self.queue.fire_wakeups(&mut self.counters.table, now);
        self.serve_waiters(now);
    }

    /// True if a request that all windows have room for may go: neither a hold nor waiters that are
    /// being requeued come before it. A limit that refuses at once delays no request.
    pub(super) fn may_go_now(&self, ask: &Ask<'_>) -> bool {
        let never_queues = || ask.claims.iter().any(|claim| self.counters.limits.rules[claim.limit.at()].refuses);
        !(self.queue.is_held || self.queue.joins_requeue(ask.claims)) || never_queues()
    }

    /// True if a limit is one of those that were given last.
    pub fn is_in_force(&self, id: LimitId) -> bool {
        self.counters.limits.is_in_force(id)
    }

    /// Adds or changes one limit of a reload, and notes in `reload` which it was. `known`: id of
    /// the limit with this name so far. `until`: time by which all requests granted by the old rule
    /// have settled. A limit with the same settings stays untouched. Returns its id, and how the
    /// waiters of one that has changed are concerned.
    fn reload_limit(
        &mut self,
        known: Option<LimitId>,
        limit: Limit,
        until: Time,
        reload: &mut ReloadSummary,
        now: Time,
    ) -> (LimitId, Option<WaiterChange>) {
        let Some(id) = known else {
            let id = self.add_limit(limit);
            reload.added.push(id);
            return (id, None);
        };
        let at = id.at();
        let returns = self.counters.limits.retired.remove(&id);
        if !returns && self.counters.limits.all[at] == limit {
            return (id, None);
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
        let change = self.change_limit(id, limit, until, now);
        if rekeyed {
            self.forget_keys(id, until);
            reload.rekeyed.push(id);
        }
        (id, Some(change))
    }

    /// Replaces one limit's rule; by `until` all has settled that was granted by the old one. Its
    /// windows follow when they are next touched, and its waiters are looked at by
    /// `recheck_waiters`. Returns how its waiters are concerned.
    fn change_limit(&mut self, id: LimitId, limit: Limit, until: Time, now: Time) -> WaiterChange {
        let mut rule = WindowRule::new(&limit);
        let old = &self.counters.limits.rules[id.at()];
        let unseen = rule.change_rule(old, until, &self.wall, now);
        self.queue.budget.spend(1);
        let waiters = WaiterChange::between(old, &rule);
        if old.live > 0 {
            let change = RuleChange { old: old.clone(), new: rule.clone(), unseen, rekeyed: None, at: now };
            self.counters.table.changes.add(id, change);
        }
        (rule.persisted, rule.term, rule.catches_up) = (old.persisted, old.term, old.catches_up);
        let (before, block) = (PriorSharing::of(old), old.block);
        self.counters.limits.rules[id.at()] = rule;
        self.counters.limits.all[id.at()] = limit;
        self.counters.limits.revision += 1;
        self.update_work_lists(id, before, until, block);
        waiters
    }

    /// Brings the work lists of journal and store in line with a limit that is new or changed.
    /// `before`, `block`: of the earlier rule.
    pub(super) fn update_work_lists(&mut self, id: LimitId, before: PriorSharing, until: Time, block: u32) {
        let Counters { limits, table, write_queue, sharing, .. } = &mut self.counters;
        write_queue.update_limit(limits, table, id, until, block);
        sharing.update_limit(limits, table, id, before, self.last);
        write_queue.request_limits_write();
    }

    /// Voids the keys of a limit, as its windows are no longer distinguishable: each counts as full
    /// of slots that settle by `until`.
    fn forget_keys(&mut self, id: LimitId, until: Time) {
        let rule = &mut self.counters.limits.rules[id.at()];
        rule.unknown = if rule.counts_slots() { vec![UnknownSlots::all(until)] } else { Vec::new() };
        if let Some(change) = self.counters.table.changes.last_mut(id) {
            change.rekeyed = Some(rule.clone());
        }
    }

    /// Checks the waiters of changed limits, after all limits have changed: a mix of old and new
    /// rules could grant a request that neither the old nor the new limits permit.
    fn recheck_waiters(&mut self, changes: &[(LimitId, WaiterChange)], now: Time) {
        let of = |kind: WaiterChange| changes.iter().filter(move |(_, change)| *change == kind).map(|(id, _)| *id);
        self.queue.begin_requeue(of(WaiterChange::Places).collect(), of(WaiterChange::FewerSlots).collect());
        changes.iter().for_each(|(id, _)| self.queue.review.add_changed(*id));
        self.queue.requeue_some(&mut self.counters, now);
        self.queue.review_some(&mut self.counters, now);
        self.serve_waiters(now);
    }
}

/// Change of a limit's rule, as it concerns the waiters of the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WaiterChange {
    /// Their places in the queue, their windows or their deadlines are others.
    Places,
    /// Some may need more slots than there are now.
    FewerSlots,
    /// They stay where they are.
    None,
}

impl WaiterChange {
    /// The change from an old rule to a new one.
    fn between(old: &WindowRule, new: &WindowRule) -> WaiterChange {
        let places = |rule: &WindowRule| (rule.dry_run, rule.takes_turns, rule.priority, rule.max_wait);
        let (slots, new_slots) = (old.whole.0, new.whole.0);
        match mutant!(places(old) != places(new), "waiters keep their places under another order", false) {
            true => WaiterChange::Places,
            false if new_slots < slots => WaiterChange::FewerSlots,
            false => WaiterChange::None,
        }
    }
}
