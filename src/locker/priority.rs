//! Priority within a caller: of its requests the most urgent goes in the first of its turns, and of
//! those the eldest.
//!
//! Places in the queue are given on arrival and never moved, so that no turn of another caller
//! changes. At a waiter's turn, the waiter of the same caller that should go first swaps places
//! with it.

use smallvec::SmallVec;

use super::counters::Counters;
use super::limit::Priority;
use super::queue::{Dirty, Location, Queue, Waiter};
use super::queue_position::{QueueEntry, QueuePosition};
use super::window_table::WindowTable;
use crate::time::Time;

/// Most of a caller's more urgent waiters examined when one of its turns has come. Waiters that
/// other windows keep back cannot take the turn, so several may fail. Sixteen fit on the stack.
const MAX_CHECKED: usize = 16;

impl Queue {
    /// Finds the waiter of the same caller that goes instead of this one, which has the turn. Tries
    /// the more urgent and older ones in order; `None` if this one goes itself.
    pub(super) fn find_substitute(&mut self, counters: &mut Counters, id: u32, now: Time) -> Option<u32> {
        let waiter = &self.waiters[id];
        let primary = waiter.demands.first()?;
        let rule = &counters.limits.rules[primary.limit.at()];
        let callers = &counters.table.queue(primary.window)?.callers;
        // Under strict priority the queue compares urgencies already: only arrival within one
        // urgency is left.
        let from = if rule.priority == Priority::Strict { waiter.caller_order.urgency } else { 0 };
        let others = callers.before(waiter.caller, from, waiter.caller_order).take(MAX_CHECKED);
        let others: SmallVec<[u32; MAX_CHECKED]> = others.map(|caller_order| caller_order.id).collect();
        others.into_iter().find(|other| self.can_substitute(counters, *other, id, now))
    }

    /// True if waiter `other` may go in the turn of `id`, of the same caller: its own turn is a
    /// later one, both have the same primary window, and every other window of it has room now.
    fn can_substitute(&mut self, counters: &mut Counters, other: u32, id: u32, now: Time) -> bool {
        let (first, second) = (&self.waiters[other], &self.waiters[id]);
        let (Some(one), Some(primary)) = (first.demands.first(), second.demands.first()) else { return false };
        if first.position <= second.position || one.window != primary.window {
            return false;
        }
        // A group in the queue of another window is kept back there.
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

    /// Two waiters of one caller change places. The group of `id` is being looked at; that of
    /// `other` waits in the queue of their home, if it is another.
    pub(super) fn swap_positions(&mut self, table: &mut WindowTable, id: u32, other: u32) {
        let (one, two) = (self.waiters[id].waiter_position(), self.waiters[other].waiter_position());
        self.set_position(table, other, one);
        self.set_position(table, id, two);
    }

    /// Moves a waiter at its place's turn to a later turn, if waiters of its caller took more than
    /// the turns that they had. Returns true if it was moved.
    pub(super) fn postpone(&mut self, table: &mut WindowTable, id: u32) -> bool {
        let waiter = &self.waiters[id];
        let due = next_start(table, waiter).filter(|due| *due > waiter.position.turn);
        self.set_turn(table, id, due)
    }

    /// Moves the first remaining waiter of a caller forward after another was granted, to the turn
    /// at which that one ended, if it had a later turn.
    pub(super) fn advance_caller(&mut self, table: &mut WindowTable, granted: &Waiter) {
        let Some(primary) = granted.demands.first() else { return };
        let first = table.queue(primary.window).and_then(|queue| queue.callers.first_position(granted.caller));
        let Some((position, id)) = first else { return };
        let due = next_start(table, &self.waiters[id]).filter(|due| *due < position.turn);
        self.set_turn(table, id, due);
    }

    /// Gives the place of a waiter that leaves to the last waiter of its caller, if that needs the same slots. The
    /// caller's turns are then as if its last waiter had left: its others still go in order at each of them, and its
    /// next request follows at once.
    pub(super) fn leave_place_to_last(&mut self, table: &mut WindowTable, id: u32) {
        let waiter = &self.waiters[id];
        let Some(primary) = waiter.demands.first().filter(|_| takes_usual_turn(waiter)) else { return };
        let last = table.queue(primary.window).and_then(|queue| queue.callers.last_position(waiter.caller));
        let Some((position, last)) = last else { return };
        let other = &self.waiters[last];
        let needs_same = other.group == waiter.group && other.slots == waiter.slots && takes_usual_turn(other);
        if needs_same && position > waiter.position && position.priority == waiter.position.priority {
            self.swap_positions(table, id, last);
        }
    }

    /// Moves a waiter to a turn, if one is given; returns true if so. Its arrival and slots stay.
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

    /// Gives a waiter another place, in its group and in the list of its caller. Its group stays in
    /// the queue that it is in, and the window of that queue is marked for a look.
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

/// Place of a waiter, with the two values that belong to the place: these are swapped together.
#[derive(Clone, Copy)]
struct WaiterPosition {
    /// Priority, turn, arrival and sequence number, the key of its group.
    position: QueuePosition,
    /// Time by which groups of a window are merged.
    effective_arrival: Time,
    /// Number of slots for which the place was assigned.
    slots: u32,
}

impl Waiter {
    /// Copy of the waiter's present place.
    fn waiter_position(&self) -> WaiterPosition {
        WaiterPosition { position: self.position, effective_arrival: self.effective_arrival, slots: self.slots }
    }
}

/// True for a waiter with a turn of its caller: it takes turns, and is no retry, which is next in any case.
fn takes_usual_turn(waiter: &Waiter) -> bool {
    waiter.takes_turns && !waiter.kind.is_retry()
}

/// Turn at which the first of a caller's waiters must start. `None` for a retry, which is next in
/// any case, and for a waiter that takes no turns.
fn next_start(table: &WindowTable, waiter: &Waiter) -> Option<u64> {
    let primary = waiter.demands.first().filter(|_| takes_usual_turn(waiter))?;
    table.queue(primary.window)?.fair_queue.next_start(waiter.caller)
}
