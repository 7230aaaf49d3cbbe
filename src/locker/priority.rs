//! Priority within a caller: of its requests the most urgent goes in the first of its turns, and of those the eldest.
//!
//! Places in line are given on arrival and never moved, so that no turn of anybody else's changes. When a waiter's turn
//! comes, the one of its caller's that should go before it takes its place, and leaves it its own.

use smallvec::SmallVec;

use super::counters::Counters;
use super::limit::Priority;
use super::queue::{Dirty, Location, Queue, Waiter};
use super::queue_position::{QueueEntry, QueuePosition};
use super::window_table::WindowTable;
use crate::time::Time;

/// How many of a caller's more urgent waiters are looked at when one of its turns has come: those that other windows keep
/// back cannot take it.
const MAX_CHECKED: usize = 16;

impl Queue {
    /// The waiter of the same caller that goes instead of this one, whose turn it is.
    pub(super) fn find_substitute(&mut self, counters: &mut Counters, id: u32, now: Time) -> Option<u32> {
        let waiter = &self.waiters[id];
        let primary = waiter.demands.first()?;
        let rule = &counters.limits.rules[primary.limit.at()];
        let callers = &counters.table.window(primary.window).queue()?.callers;
        // Where everybody's urgencies are compared, only arrival is left to be put right.
        let from = if rule.priority == Priority::Strict { waiter.caller_order.urgency } else { 0 };
        let others = callers.before(waiter.caller, from, waiter.caller_order).take(MAX_CHECKED);
        let others: SmallVec<[u32; MAX_CHECKED]> = others.map(|caller_order| caller_order.id).collect();
        others.into_iter().find(|other| self.can_substitute(counters, *other, id, now))
    }

    /// Whether a waiter may go in the turn of another one of its caller's: it has a later one, and nothing but
    /// their home's slots may keep it back.
    fn can_substitute(&mut self, counters: &mut Counters, other: u32, id: u32, now: Time) -> bool {
        let (first, second) = (&self.waiters[other], &self.waiters[id]);
        let (Some(one), Some(primary)) = (first.demands.first(), second.demands.first()) else { return false };
        if first.position <= second.position || one.window != primary.window {
            return false;
        }
        // What waits elsewhere is kept back there.
        let waits_here = match self.groups[first.group].location {
            Location::Detached => first.group == second.group,
            Location::Queued(at, _) => at == primary.window,
            Location::Deferred(..) => false,
        };
        waits_here
            && first.demands.iter().skip(1).all(|demand| {
                let rule = &counters.limits.rules[demand.limit.at()];
                let window = counters.table.window_mut(demand.window);
                window.expire(rule, now);
                window.fits(rule, demand.cost, now)
            })
    }

    /// Two waiters of one caller change places. The lane of `id` is being looked at; that of `other` waits in the line of their
    /// home, if it is another.
    pub(super) fn swap_positions(&mut self, table: &mut WindowTable, id: u32, other: u32) {
        let (one, two) = (self.waiters[id].waiter_position(), self.waiters[other].waiter_position());
        self.set_position(table, other, one);
        self.set_position(table, id, two);
    }

    /// Whether a waiter whose place has come is to go later, because others of its caller's went before it with more than the
    /// turns that they had; it is moved then.
    pub(super) fn postpone(&mut self, table: &mut WindowTable, id: u32) -> bool {
        let waiter = &self.waiters[id];
        let due = next_start(table, waiter).filter(|due| *due > waiter.position.turn);
        self.set_turn(table, id, due)
    }

    /// One of a caller's has gone: the first of the others goes where that one ended, and not later.
    pub(super) fn advance_caller(&mut self, table: &mut WindowTable, granted: &Waiter) {
        let Some(primary) = granted.demands.first() else { return };
        let first = table.queue(primary.window).and_then(|queue| queue.callers.first_position(granted.caller));
        let Some((position, id)) = first else { return };
        let due = next_start(table, &self.waiters[id]).filter(|due| *due < position.turn);
        self.set_turn(table, id, due);
    }

    fn set_turn(&mut self, table: &mut WindowTable, id: u32, turn: Option<u64>) -> bool {
        let Some(turn) = turn else { return false };
        let waiter_position = self.waiters[id].waiter_position();
        self.set_position(
            table,
            id,
            WaiterPosition { position: QueuePosition { turn, ..waiter_position.position }, ..waiter_position },
        );
        true
    }

    /// Gives a waiter another place. Its lane stays in the line that it is in.
    fn set_position(&mut self, table: &mut WindowTable, id: u32, waiter_position: WaiterPosition) {
        let mut waiter = self.waiters.take(id);
        let before = std::mem::replace(&mut waiter.position, waiter_position.position);
        (waiter.effective_arrival, waiter.slots) = (waiter_position.effective_arrival, waiter_position.slots);
        let location = self.detach(table, waiter.group);
        let entries = &mut self.groups[waiter.group].entries;
        if entries.get(&before).is_some_and(|entry| entry.id == id) {
            entries.remove(&before);
        }
        entries.insert(waiter.position, QueueEntry { id, effective_arrival: waiter.effective_arrival });
        if let Some(primary) = waiter.demands.first()
            && let Some(queue) = table.window_mut(primary.window).queue_mut()
        {
            queue.callers.remove_position(waiter.caller, before, id);
            queue.callers.add_position(waiter.caller, waiter.position, id);
        }
        let group = waiter.group;
        self.waiters.put_back(id, waiter);
        let (window, kind) = match location {
            Location::Detached => return,
            Location::Queued(window, _) => (window, Location::Queued as fn(u32, QueuePosition) -> Location),
            Location::Deferred(window, _) => (window, Location::Deferred as fn(u32, QueuePosition) -> Location),
        };
        self.attach(table, group, window, kind);
        self.dirty.push_back(Dirty::Window(window));
    }
}

/// A waiter's place, and what goes with it.
#[derive(Clone, Copy)]
struct WaiterPosition {
    position: QueuePosition,
    effective_arrival: Time,
    slots: u32,
}

impl Waiter {
    fn waiter_position(&self) -> WaiterPosition {
        WaiterPosition { position: self.position, effective_arrival: self.effective_arrival, slots: self.slots }
    }
}

/// Where the first of a caller's waiters must start. A retry is next in any case.
fn next_start(table: &WindowTable, waiter: &Waiter) -> Option<u64> {
    let primary = waiter.demands.first().filter(|_| waiter.takes_turns && !waiter.kind.is_retry())?;
    table.queue(primary.window)?.fair_queue.next_start(waiter.caller)
}
