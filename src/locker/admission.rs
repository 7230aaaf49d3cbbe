//! Admission of requests that cannot go at once: they join a queue, are refused, or go later.

use std::time::Duration;

use smallvec::SmallVec;

use super::api::{Ask, Grant, LimitId, RefusalReason, Sorry, Verdict};
use super::caller_backlogs::CallerOrder;
use super::counters::Counters;
use super::decide::{ClaimCheck, ClaimChecks};
use super::overflow::displaces;
use super::queue::{DequeueReason, Location, Queue, Waiter, WindowDemand};
use super::queue_position::QueuePosition;
use super::step_budget::REFUSAL;
use super::window::Window;
use super::window_table::WindowTable;
use crate::time::Time;

/// Longest wait of a request without patience for a slot, until its slot is written down or a held
/// locker is released. One second: far above one write of the journal, and short for a client.
const MAX_WRITE_WAIT: Duration = Duration::from_secs(1);

impl Queue {
    /// Puts a request that cannot go at once in the queue, if it may and will wait. Called for
    /// every ask that `Counters::check_claims` found blocked, and while the locker is held also for
    /// open ones.
    ///
    /// Refuses a new request without queueing it if a queue on its way is full. Else makes a
    /// waiter, computes its deadline and forecast, and enqueues it; a dispatch may then grant it at
    /// once. Returns `Go`, `Sorry`, or `Wait` with the ticket and, if it lies ahead, the forecast
    /// time. A request that was queued before skips the checks against full lines and long waits.
    pub(super) fn try_enqueue(
        &mut self,
        counters: &mut Counters,
        ask: &Ask<'_>,
        checks: ClaimChecks,
        now: Time,
    ) -> Verdict {
        if !ask.kind.was_queued()
            && let Some(sorry) = self.refuse_before_queueing(counters, ask, &checks, now)
        {
            return Verdict::Sorry(sorry);
        }
        let mut waiter = self.waiter(ask, now);
        if self.joins_requeue(ask.claims) {
            return Verdict::Wait(self.join_requeue(waiter), None);
        }
        self.resolve_demands(counters, &mut waiter, now);
        waiter.deadline = counters.limits.deadline(&waiter);
        let is_blocked = checks
            .iter()
            .any(|check| !check.room && !check.awaits_io && !counters.limits.rules[check.limit.at()].dry_run);
        let is_held = self.is_held && !is_blocked;
        if is_held || checks.iter().any(|check| check.awaits_io) {
            // No other request holds its slot: it waits only for a write, or for the end of the
            // hold.
            waiter.deadline = waiter.deadline.max(now + MAX_WRITE_WAIT);
        }
        if is_blocked {
            self.assign_position(counters, &mut waiter);
            let forecast = self.forecast(counters, &waiter, now);
            let was_queued = ask.kind.was_queued();
            if waiter.deadline <= now || forecast.at > waiter.deadline && !was_queued {
                let reason = if was_queued { RefusalReason::TimedOut } else { RefusalReason::TooLong };
                return Verdict::Sorry(counters.refuse(forecast, reason, now));
            }
        }
        let id = self.waiters.insert(waiter);
        let ticket = self.ticket(id);
        if is_held {
            self.held_waiters.push(ticket);
        }
        self.enqueue(counters, id);
        self.dispatch(counters, now);
        if let Some(verdict) = self.outbox.take(ticket) {
            return verdict;
        }
        let forecast = self.forecast(counters, &self.waiters[id], now);
        if !ask.kind.was_queued()
            && let Some((reason, limit)) = self.refuse_after_queueing(counters, id, now)
        {
            let sorry = counters.refuse(forecast, self.refusal_reason(counters, id, reason), now);
            self.remove_waiter(counters, id, now);
            self.dispatch(counters, now);
            return Verdict::Sorry(Sorry { limit: limit.unwrap_or(sorry.limit), ..sorry });
        }
        // Another may have been dropped for it.
        self.dispatch(counters, now);
        if let Some(verdict) = self.outbox.take(ticket) {
            return verdict;
        }
        Verdict::Wait(ticket, (forecast.at > now).then_some(forecast.at))
    }

    /// Refusals that need only a look at the windows: `QueueFull`, if a queue has reached
    /// `max_waiting` and the request displaces no waiter there.
    fn refuse_before_queueing(
        &self,
        counters: &mut Counters,
        ask: &Ask<'_>,
        checks: &[ClaimCheck],
        now: Time,
    ) -> Option<Sorry> {
        for (claim, check) in ask.claims.iter().zip(checks) {
            let rule = &counters.limits.rules[check.limit.at()];
            if check.room || check.awaits_io || rule.dry_run {
                continue;
            }
            let Some(queue) = check.window.and_then(|found| counters.table.queue(found)) else { continue };
            if queue.waiting >= rule.max_waiting && !displaces(ask, queue, rule) {
                return Some(counters.sorry_at(claim, check.window, RefusalReason::QueueFull, now));
            }
        }
        None
    }

    /// Reason to refuse a waiter that has joined the queue and was not let through; the limit is
    /// `Some` if it is another than the one with the latest opening. Reasons: `Full` at a window of
    /// a limit that refuses at once, `TooLong` after the deadline, `QueueFull` if the queue has no
    /// place for it. If it stays in a queue that is full, another waiter is dropped.
    fn refuse_after_queueing(
        &mut self,
        counters: &mut Counters,
        id: u32,
        now: Time,
    ) -> Option<(RefusalReason, Option<LimitId>)> {
        if self.is_unfinished() {
            // Not all waiters have been looked at, and this one may go when its turn comes.
            return self.make_room(counters, id, now).err().map(|limit| (RefusalReason::QueueFull, Some(limit)));
        }
        let waiter = &self.waiters[id];
        let blocked_at = match self.groups[waiter.group].location {
            Location::Queued(window, _) | Location::Deferred(window, _) => Some(window),
            Location::Detached => None,
        };
        for demand in &waiter.demands {
            let rule = &counters.limits.rules[demand.limit.at()];
            if rule.refuses && blocked_at == Some(demand.window) && !counters.awaits_io(demand, now) {
                return Some((RefusalReason::Full, None));
            }
        }
        if waiter.deadline <= now {
            return Some((RefusalReason::TooLong, None));
        }
        self.make_room(counters, id, now).err().map(|limit| (RefusalReason::QueueFull, Some(limit)))
    }

    /// Reason for the refusal of a waiter: `StoreLost` if the store cannot be asked for one of its
    /// limits, else the given reason.
    pub(super) fn refusal_reason(&self, counters: &Counters, id: u32, reason: RefusalReason) -> RefusalReason {
        let lost = self.waiters[id].demands.iter().any(|demand| counters.limits.rules[demand.limit.at()].store_lost);
        if lost { RefusalReason::StoreLost } else { reason }
    }

    /// True if slots of a limit that the store does not manage are free but not yet written down:
    /// the journal is then the cause of the wait.
    fn awaits_disk(&self, counters: &Counters, id: u32, now: Time) -> bool {
        let demands = &self.waiters[id].demands;
        let mut written = demands.iter().filter(|demand| !counters.limits.rules[demand.limit.at()].store_managed);
        written.any(|demand| counters.awaits_io(demand, now))
    }

    /// Makes the waiter of an ask, without windows, place or deadline: `resolve_demands`,
    /// `assign_position` and the limits fill these in. Takes the next sequence number. An arrival
    /// in the future counts as now; an urgency above 7 (RFC 9218) counts as 7.
    fn waiter(&mut self, ask: &Ask<'_>, now: Time) -> Waiter {
        self.seq += 1;
        let arrived = ask.arrived.map_or(now, |at| at.min(now));
        Waiter {
            claims: ask.claims.iter().copied().collect(),
            demands: SmallVec::new(),
            caller: ask.caller,
            urgency: ask.urgency.min(7),
            caller_order: CallerOrder { urgency: 0, arrived, seq: self.seq, id: u32::MAX },
            position: QueuePosition { priority: 0, turn: 0, arrived, seq: self.seq },
            effective_arrival: arrived,
            slots: 0,
            takes_turns: false,
            kind: ask.kind,
            caller_deadline: ask.max_wait.map_or(Time::NEVER, |wait| arrived + wait),
            deadline: Time::NEVER,
            group: 0,
        }
    }

    /// Finds or makes the windows that a waiter needs, one for each claim of a limit that is not a
    /// dry run. The caller has checked `max_keys` before. The primary window comes first.
    pub(super) fn resolve_demands(&mut self, counters: &mut Counters, waiter: &mut Waiter, now: Time) {
        waiter.demands.clear();
        for claim in &waiter.claims {
            if counters.limits.rules[claim.limit.at()].dry_run {
                continue;
            }
            let found = counters.table.find(claim.limit, claim.key);
            let window = found.unwrap_or_else(|| counters.create_window(claim.limit, claim.key, now));
            waiter.demands.push(WindowDemand { window, limit: claim.limit, cost: claim.cost });
        }
        self.choose_primary(&counters.table, &mut waiter.demands);
    }

    /// Puts a window first of those of the first limit. A request may count under several keys of
    /// one limit, and its caller may have made one of them up: with that for its home it would take
    /// no turns. So the home is the window with the longest queue, unless others wait for the same
    /// windows already: those that need the same wait in one group, in one order.
    fn choose_primary(&self, table: &WindowTable, demands: &mut [WindowDemand]) {
        let Some(first) = demands.first().map(|demand| demand.limit) else { return };
        let of_first = demands.iter().take_while(|demand| demand.limit == first).count();
        if of_first <= 1 {
            return;
        }
        // The order in which a request names its keys makes no other group.
        demands[..of_first].sort_unstable_by_key(|demand| demand.window);
        for primary in 0..of_first {
            demands[..=primary].rotate_right(1);
            if self.group_of(demands).is_some() {
                return;
            }
            demands[..=primary].rotate_left(1);
        }
        let waiting = |demand: &WindowDemand| table.queue(demand.window).map_or(0, |queue| queue.waiting);
        // Of equal ones the first.
        let primary = (0..of_first).rev().max_by_key(|at| waiting(&demands[*at])).unwrap_or(0);
        demands[..=primary].rotate_right(1);
    }

    /// Removes a waiter that leaves without a grant. It pushes no verdict: the caller does, if
    /// there is a reader for it.
    pub(super) fn remove_waiter(&mut self, counters: &mut Counters, id: u32, now: Time) {
        if !self.leave_requeue(id) {
            self.dequeue(counters, id, DequeueReason::Left, now);
        }
        self.waiters.remove(id);
    }

    /// Grants a waiter: takes all its slots, and pushes `Go` with the grant to the outbox. A claim
    /// of a dry-run limit is checked only now, because the waiter did not wait for it.
    pub(super) fn grant_waiter(&mut self, counters: &mut Counters, id: u32, now: Time) {
        let ticket = self.ticket(id);
        self.dequeue(counters, id, DequeueReason::Granted, now);
        let Some(waiter) = self.waiters.remove(id) else { return };
        self.advance_caller(&mut counters.table, &waiter);
        let mut grant = Grant::default();
        for claim in &waiter.claims {
            let rule = &counters.limits.rules[claim.limit.at()];
            let window = counters.table.find(claim.limit, claim.key);
            let room = match window {
                Some(found) if rule.dry_run => {
                    let window = counters.table.window_mut(found);
                    window.expire(rule, now);
                    window.fits(rule, claim.cost, now)
                }
                Some(_) => true,
                // One of a dry run: other limits have let a cost pass that this one never would.
                None => {
                    rule.live < rule.max_keys
                        && Window::new(claim.limit, claim.key, rule, now).fits(rule, claim.cost, now)
                }
            };
            let check = ClaimCheck { window, limit: claim.limit, room, awaits_io: false };
            counters.take_claim(&mut grant, claim, check, now);
            if let Some(window) = window {
                counters.return_unwanted(window, now);
            }
        }
        self.outbox.push(ticket, Verdict::Go(grant));
    }

    /// Refuses the waiters past their deadline, earliest first: as `Unwritten` if only the journal
    /// kept them back, as `StoreLost` if the store cannot be asked, else as `TimedOut`. Refuses none
    /// before all have been looked at that may go.
    pub(super) fn expire_deadlines(&mut self, counters: &mut Counters, now: Time) {
        if self.is_unfinished() {
            return;
        }
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
            && !self.budget.is_spent()
        {
            self.budget.spend(REFUSAL);
            counters.carry_demands(&self.waiters[id].demands);
            let reason =
                if self.awaits_disk(counters, id, now) { RefusalReason::Unwritten } else { RefusalReason::TimedOut };
            let reason = self.refusal_reason(counters, id, reason);
            let forecast = self.forecast(counters, &self.waiters[id], now);
            let sorry = counters.refuse(forecast, reason, now);
            let ticket = self.ticket(id);
            self.remove_waiter(counters, id, now);
            self.outbox.push(ticket, Verdict::Sorry(sorry));
        }
    }

    /// Ends the extensions of a hold that is over. A waiter that was given more time for it and has
    /// not gone falls back to the deadline that its limits set, unless it waits for a write. Does
    /// nothing before all have been looked at that may go.
    pub(super) fn end_extensions(&mut self, counters: &mut Counters, now: Time) {
        if self.is_held || self.requeue.is_some() || self.has_news() {
            return;
        }
        while !self.budget.is_spent()
            && let Some(ticket) = self.held_waiters.pop()
        {
            self.budget.spend(1);
            if !self.contains(ticket) {
                continue;
            }
            counters.carry_demands(&self.waiters[ticket.index].demands);
            let waiter = &self.waiters[ticket.index];
            let (before, own_deadline) = (waiter.deadline, counters.limits.deadline(waiter));
            if own_deadline < before && !waiter.demands.iter().any(|demand| counters.awaits_io(demand, now)) {
                self.deadlines.remove(&(before, ticket.index));
                self.deadlines.insert((own_deadline, ticket.index));
                self.waiters[ticket.index].deadline = own_deadline;
            }
        }
    }
}
