//! Requeue of waiters after a reload that changed their places in the queue, a slice at a time.
//!
//! All leave before the first comes back: turns, windows and deadlines may differ now, and they return in the order of
//! their arrival. Until the last is back no waiter is granted, and a new request with a claim on one of these limits
//! joins them, so that none overtakes another.

use std::collections::{BTreeMap, BTreeSet};

use super::api::{Claim, LimitId, RefusalReason, Sorry, Ticket, Verdict};
use super::counters::Counters;
use super::queue::{DequeueReason, Queue, Requeue, Waiter};
use super::step_budget::REFUSAL;
use super::window::later;
use crate::time::Time;

/// Waiters looked at per unit of the step budget, besides those that leave.
const CHECKED_PER_UNIT: u32 = 16;

impl Queue {
    /// Begins a requeue of the waiters of some limits, or adds these to the one under way.
    pub(super) fn begin_requeue(&mut self, moved: BTreeSet<LimitId>, lowered: BTreeSet<LimitId>) {
        if self.waiters.len() == 0 || moved.is_empty() && lowered.is_empty() {
            return;
        }
        let requeue = self.requeue.get_or_insert_with(|| Requeue {
            moved: BTreeSet::new(),
            lowered: BTreeSet::new(),
            next: None,
            pending: BTreeMap::new(),
            begun_at: self.seq,
        });
        requeue.moved.extend(moved);
        requeue.lowered.extend(lowered);
        requeue.next = Some(0);
    }

    /// True if a new request must join the waiters that are being requeued.
    pub(super) fn joins_requeue(&self, claims: &[Claim]) -> bool {
        let moved = self.requeue.as_ref().map(|requeue| &requeue.moved);
        moved.is_some_and(|moved| {
            mutant!(
                claims.iter().any(|claim| moved.contains(&claim.limit)),
                "a newcomer overtakes waiters that are being requeued",
                false
            )
        })
    }

    /// Adds a new request behind the waiters that are being requeued.
    pub(super) fn join_requeue(&mut self, waiter: Waiter) -> Ticket {
        let arrival = waiter.caller_order.arrival();
        let id = self.waiters.insert(waiter);
        if let Some(requeue) = &mut self.requeue {
            requeue.pending.insert(arrival, id);
        }
        self.ticket(id)
    }

    /// Removes a waiter from those outside the queue. Returns false if it is in the queue.
    pub(super) fn leave_requeue(&mut self, id: u32) -> bool {
        let Some(requeue) = &mut self.requeue else { return false };
        requeue.pending.remove(&self.waiters[id].caller_order.arrival()).is_some()
    }

    /// Goes on with the requeue under way.
    pub(super) fn requeue_some(&mut self, counters: &mut Counters, now: Time) {
        let Some(mut requeue) = self.requeue.take() else { return };
        while !self.budget.is_spent()
            && let Some(from) = requeue.next
        {
            self.budget.spend(1);
            let (waiters, has_more) = self.waiters.in_range(from, CHECKED_PER_UNIT);
            requeue.next = has_more.then_some(from + CHECKED_PER_UNIT);
            for id in waiters {
                self.take_out(counters, &mut requeue, id, now);
            }
        }
        while !self.budget.is_spent()
            && requeue.next.is_none()
            && let Some((_, id)) = requeue.pending.pop_first()
        {
            self.budget.spend(2);
            self.put_in(counters, id, requeue.begun_at, now);
        }
        if requeue.next.is_some() || !requeue.pending.is_empty() {
            self.requeue = Some(requeue);
        }
    }

    /// Takes a waiter out of the queue if one of its limits asks for it, and refuses it if it can never go.
    fn take_out(&mut self, counters: &mut Counters, requeue: &mut Requeue, id: u32, now: Time) {
        let waiter = &self.waiters[id];
        let arrival = waiter.caller_order.arrival();
        let is_of = |limits: &BTreeSet<LimitId>| waiter.claims.iter().any(|claim| limits.contains(&claim.limit));
        if requeue.pending.contains_key(&arrival) {
            return;
        }
        if is_of(&requeue.moved) {
            self.budget.spend(2);
            self.dequeue(counters, id, DequeueReason::Left, now);
            requeue.pending.insert(arrival, id);
        } else if is_of(&requeue.lowered)
            && let Some((limit, reason)) = self.refused_by(counters, id)
        {
            self.budget.spend(2);
            self.dequeue(counters, id, DequeueReason::Left, now);
            self.refuse(id, limit, reason, now);
        }
    }

    /// Puts a waiter back into the queue, or refuses it if it can never go. One that joined after the requeue began is
    /// new to the queue: it stays only if there is room for it.
    fn put_in(&mut self, counters: &mut Counters, id: u32, begun_at: u64, now: Time) {
        if let Some((limit, reason)) = self.refused_by(counters, id) {
            return self.refuse(id, limit, reason, now);
        }
        let mut waiter = self.waiters.take(id);
        self.resolve_demands(counters, &mut waiter, now);
        waiter.deadline = counters.limits.deadline(&waiter);
        let is_new = waiter.caller_order.seq > begun_at && !waiter.kind.was_queued();
        // Another reload may requeue it once more.
        waiter.kind = waiter.kind.as_reask();
        self.waiters.put_back(id, waiter);
        self.enqueue(counters, id);
        if is_new && let Err(full) = self.make_room(counters, id, now) {
            self.budget.spend(REFUSAL);
            self.drop_waiter(counters, id, full, now);
        }
    }

    /// Refuses a waiter outside the queue, with a retry time of one millisecond.
    fn refuse(&mut self, id: u32, limit: LimitId, reason: RefusalReason, now: Time) {
        let ticket = self.ticket(id);
        self.waiters.remove(id);
        let sorry = Sorry { reason, limit, until: later(now, 1_000_000), exact: false };
        self.outbox.push(ticket, Verdict::Sorry(sorry));
    }

    /// The limit whose new rule does not let a waiter stay, and the reason: `CostTooHigh` if it
    /// needs more slots than the whole limit, `TooManyKeys` if its key is new and there is no room
    /// for it. `None` if it may stay.
    fn refused_by(&self, counters: &Counters, id: u32) -> Option<(LimitId, RefusalReason)> {
        self.waiters[id].claims.iter().find_map(|claim| {
            let rule = &counters.limits.rules[claim.limit.at()];
            let is_too_high = rule.slots(claim.cost) > rule.requests && !rule.is_fraction;
            let is_new_key = || counters.table.find(claim.limit, claim.key).is_none() && rule.live >= rule.max_keys;
            match rule.dry_run {
                true => None,
                false if is_too_high => Some((claim.limit, RefusalReason::CostTooHigh)),
                false => is_new_key().then_some((claim.limit, RefusalReason::TooManyKeys)),
            }
        })
    }
}
