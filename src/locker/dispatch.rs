//! Lets waiters go: looks at the queues of windows that have news, and at groups that have a new head.

use super::api::{RefusalReason, Verdict};
use super::counters::Counters;
use super::queue::{Dirty, Location, Queue, QueueCursor, StoreAsk};
use super::queue_position::{QueueEntry, QueuePosition, first};
use super::step_budget::REFUSAL;
use super::window::Window;
use super::window_queue::{GroupQueue, WindowQueue};
use super::window_table::WindowTable;
use crate::time::Time;

/// End of a look at a group.
struct Served {
    /// Number of granted waiters.
    granted: usize,
    /// True if the step ended before the group did: it is in no queue, and must be looked at first in the next step.
    is_cut: bool,
}

/// Result of a look at the head of a group.
enum GroupCheck {
    /// This waiter, the head, may go.
    Go(u32),
    /// This window has no room for it.
    Blocked(u32),
    /// Other groups come first at a window; the group has joined the queue there.
    Behind,
    /// At this window it would delay the claimant that reserves slots. The time is the claimant's
    /// start, if known.
    Reserved(u32, Option<Time>),
}

impl Queue {
    /// Marks a window for a look at its queue: a slot may have opened, or become known. A window
    /// without a queue needs none. If a claimant of several limits waits here, the other windows
    /// that defer groups for its sake are marked too.
    pub(super) fn mark_dirty(&mut self, table: &WindowTable, window: u32) {
        let Some(queue) = table.queue(window) else { return };
        let holder = queue.multi_limit.first().copied();
        self.dirty.push_back(Dirty::Window(window));
        let Some((_, _, holder)) = holder else { return };
        // The claimant's start may have moved, which may let others go elsewhere.
        for demand in &self.waiters[holder].demands {
            let queue = table.queue(demand.window);
            if demand.window != window && queue.is_some_and(|queue| !queue.deferred.is_empty()) {
                self.dirty.push_back(Dirty::Window(demand.window));
            }
        }
    }

    /// Marks the windows with a wakeup time that has come; `dispatch` then serves them. Marks none
    /// while the locker is held: a list of all windows that open meanwhile would be long.
    pub(super) fn fire_wakeups(&mut self, table: &mut WindowTable, now: Time) {
        self.woken_at = now;
        while !self.is_held
            && let Some(&(at, window)) = self.wakeups.first()
            && at <= now
            && !self.budget.is_spent()
        {
            self.budget.spend(1);
            self.wakeups.pop_first();
            if let Some(queue) = table.get_mut(window).and_then(|window| window.queue_mut()) {
                queue.wakeup = None;
            }
            self.mark_dirty(table, window);
        }
    }

    /// Does the work that has come up, as far as the step's budget goes; the rest stays in the list, in its order.
    /// Afterwards every waiter in the queue has a reason to wait, unless work is left. Does nothing
    /// while the locker is held, or waiters are being requeued.
    pub(super) fn dispatch(&mut self, counters: &mut Counters, now: Time) {
        if self.is_held || self.requeue.is_some() {
            return;
        }
        while !self.budget.is_spent()
            && let Some(dirty) = self.dirty.pop_front()
        {
            self.budget.spend(1);
            match dirty {
                Dirty::Window(window) => self.serve_window(counters, window, QueueCursor::default(), now),
                Dirty::Rest(window, cursor) => self.serve_window(counters, window, cursor, now),
                Dirty::Group(group) => {
                    if let Location::Queued(window, _) | Location::Deferred(window, _) =
                        self.detach(&mut counters.table, group)
                    {
                        self.dirty.push_back(Dirty::Window(window));
                    }
                    if self.serve_group(counters, group, now).is_cut {
                        self.cut_group(group);
                    }
                }
            }
        }
    }

    /// Puts a group of which the look was cut short before all other work. Until then it is in no
    /// queue, so that none may be looked at before it that it comes before.
    fn cut_group(&mut self, group: u32) {
        mutant!(
            self.dirty.push_front(Dirty::Group(group)),
            "a newcomer overtakes an unfinished opening",
            self.dirty.push_back(Dirty::Group(group))
        );
    }

    /// Serves the groups at a window from `cursor` on, in order, until the window keeps the first in
    /// the queue back. Queued and deferred groups are merged by effective arrival.
    fn serve_window(&mut self, counters: &mut Counters, window: u32, mut cursor: QueueCursor, now: Time) {
        while let Some(queue) = counters.table.queue(window) {
            let queued = queue.queued.first().filter(|(_, entry)| cursor.blocked != Some(entry.id));
            let deferred = queue.deferred.first().filter(|_| !cursor.skips_deferred);
            let (group, was_deferred) = match (queued, deferred) {
                (Some(queued), Some(deferred)) if is_earlier(&deferred, &queued) => (deferred.1.id, true),
                (Some(queued), _) => (queued.1.id, false),
                (None, Some(deferred)) => (deferred.1.id, true),
                (None, None) => break,
            };
            self.detach(&mut counters.table, group);
            let Served { granted, is_cut } = self.serve_group(counters, group, now);
            // Another window may keep back what was held here; the next may go all the same.
            if granted == 0 && was_deferred && self.is_queued_at(group, window) {
                cursor.skips_deferred = true;
            }
            if !was_deferred {
                cursor.blocked = Some(group);
            }
            if is_cut || self.budget.is_spent() {
                self.dirty.push_front(Dirty::Rest(window, cursor));
                if is_cut {
                    self.cut_group(group);
                }
                return;
            }
        }
        self.set_wakeup(counters, window, None, now);
    }

    /// True if a group is in one of the two queues of a window, queued or deferred.
    fn is_queued_at(&self, group: u32, window: u32) -> bool {
        let location = self.groups.get(group).map(|group| group.location);
        matches!(location, Some(Location::Queued(at, _) | Location::Deferred(at, _)) if at == window)
    }

    /// Grants a group's waiters as long as they may go; then attaches the group at the window that
    /// keeps it back. A step that has decided one of them may end here.
    fn serve_group(&mut self, counters: &mut Counters, group: u32, now: Time) -> Served {
        let mut served = Served { granted: 0, is_cut: false };
        let mut decided = false;
        while self.groups.get(group).is_some() {
            if decided && self.budget.is_spent() {
                return Served { is_cut: true, ..served };
            }
            self.budget.spend(1);
            match self.check_group(counters, group, now) {
                GroupCheck::Go(waiter) if self.postpone(&mut counters.table, waiter) => {}
                GroupCheck::Go(waiter) => match self.find_substitute(counters, waiter, now) {
                    Some(other) => self.swap_positions(&mut counters.table, waiter, other),
                    None => {
                        self.budget.spend(1);
                        self.grant_waiter(counters, waiter, now);
                        served.granted += 1;
                        decided = true;
                    }
                },
                GroupCheck::Blocked(window) if self.refuse_head(counters, group, window, now) => decided = true,
                GroupCheck::Blocked(window) => {
                    if counters.limits.rules[counters.table.peek(window).limit.at()].store_managed {
                        self.ask_store(counters, group, window, now);
                    }
                    self.attach(&mut counters.table, group, window, Location::Queued);
                    self.set_wakeup(counters, window, None, now);
                    break;
                }
                GroupCheck::Behind => break,
                GroupCheck::Reserved(window, _) if self.refuse_head(counters, group, window, now) => decided = true,
                GroupCheck::Reserved(window, start) => {
                    self.attach(&mut counters.table, group, window, Location::Deferred);
                    self.set_wakeup(counters, window, start, now);
                    break;
                }
            }
        }
        served
    }

    /// Schedules a question to the store for a group that waits at a store-managed window. Does
    /// nothing if a granted slot opens at a known time, if the store is lost, or if the group is in
    /// a question already. The question goes out one lead time before the slot is expected to open.
    fn ask_store(&mut self, counters: &mut Counters, group: u32, index: u32, now: Time) {
        let found = &mut self.groups[group];
        let Some((_, entry)) = first(&found.entries) else { return };
        let Counters { limits, table, sharing, .. } = counters;
        let window = table.window(index);
        let rule = &limits.rules[window.limit.at()];
        let demands = &self.waiters[entry.id].demands;
        let cost = demands.iter().find(|demand| demand.window == index).map_or(1, |demand| demand.cost);
        let is_known = window.lease_opens(rule, cost, now).is_some();
        if is_known || rule.store_lost || sharing.current_ask(found.asks) != StoreAsk::Idle {
            return;
        }
        let at = (window.store_opens_after(rule, cost).max(window.paused()) - sharing.lead_time(rule)).max(now);
        sharing.ask_at(group, &mut found.asks, at);
    }

    /// Handles the head of a group that a window keeps back. Requests the write of its slots, if
    /// only that is missing. Refuses a waiter that had patience for such a write only, and none for
    /// a slot. Returns true if the waiter was refused, so that the next head can be checked.
    fn refuse_head(&mut self, counters: &mut Counters, group: u32, window: u32, now: Time) -> bool {
        let Some((_, entry)) = first(&self.groups[group].entries) else { return false };
        let waiter = &self.waiters[entry.id];
        let Some(demand) = waiter.demands.iter().find(|demand| demand.window == window) else { return false };
        let rule = &counters.limits.rules[demand.limit.at()];
        if counters.awaits_io(demand, now) {
            if !rule.store_managed {
                counters.request_write(window);
            }
            return false;
        }
        if rule.store_managed
            && counters.table.window(window).lease_opens(rule, demand.cost, now).is_some_and(|at| at > now)
        {
            return false;
        }
        // Its own patience is over, but not the time that the writing may take.
        let reason = match counters.limits.deadline(waiter) <= now && waiter.deadline > now {
            _ if rule.refuses => RefusalReason::Full,
            true => RefusalReason::TooLong,
            false => return false,
        };
        self.budget.spend(REFUSAL);
        let waiter = &self.waiters[entry.id];
        let forecast = self.forecast(counters, waiter, now);
        let sorry = counters.refuse(forecast, self.refusal_reason(counters, entry.id, reason), now);
        let ticket = self.ticket(entry.id);
        self.remove_waiter(counters, entry.id, now);
        self.outbox.push(ticket, Verdict::Sorry(sorry));
        true
    }

    /// Checks all windows of the head of a group, which must have a head. Windows of the store come
    /// last: the latest of these is named if nothing else blocks.
    fn check_group(&mut self, counters: &mut Counters, group: u32, now: Time) -> GroupCheck {
        let (position, entry) = first(&self.groups[group].entries).expect("a group without waiters is dropped");
        let waiter = &self.waiters[entry.id];
        counters.carry_demands(&waiter.demands);
        let (mut contended, mut store_blocked) = (None, None);
        for demand in &waiter.demands {
            let rule = &counters.limits.rules[demand.limit.at()];
            let window = counters.table.window_mut(demand.window);
            window.expire(rule, now);
            if !window.fits(rule, demand.cost, now) {
                // The store is asked when nothing else keeps it back, so that what it grants can be used.
                if rule.store_managed {
                    let later = window.store_opens_after(rule, demand.cost);
                    store_blocked = store_blocked.filter(|(_, other)| *other >= later).or(Some((demand.window, later)));
                    continue;
                }
                return GroupCheck::Blocked(demand.window);
            }
            if contended.is_none() && window.queue().is_some_and(|queue| !queue.queued.is_empty()) {
                contended = Some(demand.window);
            }
        }
        if let Some((window, _)) = store_blocked {
            return GroupCheck::Blocked(window);
        }
        let reserved = self.delays_reservation(counters, waiter, entry.id, group, now);
        if contended.is_some() {
            for window in self.groups[group].windows.clone() {
                if self.queues_behind(&mut counters.table, group, window, position, entry) {
                    return GroupCheck::Behind;
                }
            }
        }
        match reserved {
            Some((window, start)) => GroupCheck::Reserved(window, start),
            None => GroupCheck::Go(entry.id),
        }
    }

    /// True if other groups come first at a window; the group then stays in its queue.
    fn queues_behind(
        &mut self,
        table: &mut WindowTable,
        group: u32,
        window: u32,
        position: QueuePosition,
        entry: QueueEntry,
    ) -> bool {
        let queue = table.window_mut(window).queue_or_new();
        if queue.queued.is_empty() {
            return false;
        }
        self.attach(table, group, window, Location::Queued);
        let queue = table.window_mut(window).queue_or_new();
        let precedes = queue.queued.first() == Some((position, QueueEntry { id: group, ..entry }));
        if precedes {
            self.detach(table, group);
        }
        !precedes
    }

    /// Puts a group, by its head's place, into the queue of a window. `location` says which of the
    /// two lines: `Location::Queued` or `Location::Deferred`. The group must be detached or already
    /// at the same place.
    pub(super) fn attach(
        &mut self,
        table: &mut WindowTable,
        group: u32,
        window: u32,
        location: fn(u32, QueuePosition) -> Location,
    ) {
        let found = &mut self.groups[group];
        let Some((position, entry)) = first(&found.entries) else { return };
        found.location = location(window, position);
        let primary = found.windows.first().copied().unwrap_or(window);
        let entry = QueueEntry { id: group, ..entry };
        queue_at(table.window_mut(window), found.location).insert(primary, position, entry);
    }

    /// Removes a group from the queue in which it waits. Returns its former location; `Detached` if
    /// the group is gone or in no queue.
    pub(super) fn detach(&mut self, table: &mut WindowTable, group: u32) -> Location {
        let Some(found) = self.groups.get_mut(group) else { return Location::Detached };
        let location = std::mem::replace(&mut found.location, Location::Detached);
        if let Location::Queued(window, position) | Location::Deferred(window, position) = location {
            let primary = found.windows.first().copied().unwrap_or(window);
            queue_at(table.window_mut(window), location).remove(primary, position);
        }
        location
    }

    /// Sets the time of the next look at the queue of a window: the opening for its first group, or
    /// the start of the claimant for which others are deferred. At most one wakeup per window is
    /// set, and only for a time after `now`; one that is due stays until it fires.
    fn set_wakeup(&mut self, counters: &mut Counters, window: u32, reserved_until: Option<Time>, now: Time) {
        // Work that came up while the locker was held may be for a window that has been swept since.
        if counters.table.queue(window).is_none() {
            return;
        }
        if counters.table.changes.is_pending() {
            counters.table.carry(window);
        }
        let found = counters.table.window(window);
        let Some(queue) = found.queue() else { return };
        let opening = queue.queued.first().and_then(|(_, entry)| {
            let group = &self.groups[entry.id];
            let (_, head) = first(&group.entries)?;
            let demand = self.waiters[head.id].demands.iter().find(|demand| demand.window == window)?;
            found.opening(&counters.limits.rules[demand.limit.at()], 0, 0, demand.cost, now)
        });
        let current = queue.wakeup.filter(|_| !queue.deferred.is_empty());
        let times = [opening, reserved_until, current];
        // An opening that is not ahead needs no wakeup: another window blocks, and it reports
        // changes.
        let next = times.into_iter().flatten().filter(|at| *at > now).min();
        let wakeup = queue.wakeup;
        // One that is due and has not fired stays: a look that began before the opening may end after it.
        let is_due = wakeup.is_some_and(|at| at <= now);
        if next == wakeup || mutant!(is_due, "a look that ends after an opening forgets it", false) {
            return;
        }
        if let Some(at) = wakeup {
            self.wakeups.remove(&(at, window));
        }
        if let Some(at) = mutant!(next, "an opening wakes no waiter", None) {
            self.wakeups.insert((at, window));
        }
        counters.table.window_mut(window).queue_or_new().wakeup = next;
    }
}

/// Line of a window for a location; `Detached` counts as queued.
fn queue_at(window: &mut Window, location: Location) -> &mut GroupQueue {
    let queue: &mut WindowQueue = window.queue_or_new();
    match location {
        Location::Deferred(..) => &mut queue.deferred,
        Location::Queued(..) | Location::Detached => &mut queue.queued,
    }
}

/// True if `one` arrived before `other`, by effective arrival, then by sequence number.
fn is_earlier(one: &(QueuePosition, QueueEntry), other: &(QueuePosition, QueueEntry)) -> bool {
    (one.1.effective_arrival, one.0.seq) < (other.1.effective_arrival, other.0.seq)
}
