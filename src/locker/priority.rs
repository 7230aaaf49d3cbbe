//! Priority within a caller: of its requests the most urgent goes in the first of its turns, and of those the eldest.
//!
//! Places in line are given on arrival and never moved, so that no turn of anybody else's changes. When a waiter's turn
//! comes, the one of its caller's that should go before it takes its place, and leaves it its own.

use smallvec::SmallVec;

use super::Locker;
use super::limit::Priority;
use super::queue::{Dirty, Location, Waiter};
use super::window_queue::{QueueEntry, QueuePosition};
use crate::time::Time;

/// How many of a caller's more urgent waiters are looked at when one of its turns has come: those that other windows keep
/// back cannot take it.
const LOOKED_AT: usize = 16;

impl Locker {
    /// The waiter of the same caller that goes instead of this one, whose turn it is.
    pub(super) fn goes_instead(&mut self, id: u32, now: Time) -> Option<u32> {
        let waiter = &self.queue.waiters[id];
        let home = waiter.wants.first()?;
        let rule = &self.rules[home.limit.at()];
        let callers = &self.table.window(home.window).waits()?.callers;
        // Where everybody's urgencies are compared, only arrival is left to be put right.
        let from = if rule.priority == Priority::Strict { waiter.own.urgency } else { 0 };
        let others = callers.before(waiter.caller, from, waiter.own).take(LOOKED_AT);
        let others: SmallVec<[u32; LOOKED_AT]> = others.map(|own| own.id).collect();
        others.into_iter().find(|other| self.may_go_instead(*other, id, now))
    }

    /// Whether a waiter may go in the turn of another one of its caller's: it has a later one, and nothing but
    /// their home's slots may keep it back.
    fn may_go_instead(&mut self, other: u32, id: u32, now: Time) -> bool {
        let (first, second) = (&self.queue.waiters[other], &self.queue.waiters[id]);
        let (Some(one), Some(home)) = (first.wants.first(), second.wants.first()) else { return false };
        if first.place <= second.place || one.window != home.window {
            return false;
        }
        // What waits elsewhere is kept back there.
        let waits_here = match self.queue.lanes[first.lane].spot {
            Location::Detached => first.lane == second.lane,
            Location::Queued(at, _) => at == home.window,
            Location::Deferred(..) => false,
        };
        waits_here
            && first.wants.iter().skip(1).all(|want| {
                let rule = &self.rules[want.limit.at()];
                let window = self.table.window_mut(want.window);
                window.expire(rule, now);
                window.fits(rule, want.cost, now)
            })
    }

    /// Two waiters of one caller change places. The lane of `id` is being looked at; that of `other` waits in the line of their
    /// home, if it is another.
    pub(super) fn change_places(&mut self, id: u32, other: u32) {
        let (one, two) = (self.queue.waiters[id].standing(), self.queue.waiters[other].standing());
        self.stand(other, one);
        self.stand(id, two);
    }

    /// Whether a waiter whose place has come is to go later, because others of its caller's went before it with more than the
    /// turns that they had; it is moved then.
    pub(super) fn puts_off(&mut self, id: u32) -> bool {
        let waiter = &self.queue.waiters[id];
        let due = self.due(waiter).filter(|due| *due > waiter.place.turn);
        self.move_to(id, due)
    }

    /// One of a caller's has gone: the first of the others goes where that one ended, and not later.
    pub(super) fn move_up(&mut self, gone: &Waiter) {
        let Some(home) = gone.wants.first() else { return };
        let first = self.table.waits(home.window).and_then(|waits| waits.callers.first_place(gone.caller));
        let Some((place, id)) = first else { return };
        let due = self.due(&self.queue.waiters[id]).filter(|due| *due < place.turn);
        self.move_to(id, due);
    }

    /// Where the first of a caller's waiters is to start. A retry is next in any case.
    fn due(&self, waiter: &Waiter) -> Option<u64> {
        let home = waiter.wants.first().filter(|_| waiter.turns && !waiter.kind.is_retry())?;
        self.table.waits(home.window)?.turns.due(waiter.caller)
    }

    fn move_to(&mut self, id: u32, turn: Option<u64>) -> bool {
        let Some(turn) = turn else { return false };
        let standing = self.queue.waiters[id].standing();
        self.stand(id, WaiterPosition { place: QueuePosition { turn, ..standing.place }, ..standing });
        true
    }

    /// Gives a waiter another place. Its lane stays in the line that it is in.
    fn stand(&mut self, id: u32, standing: WaiterPosition) {
        let mut waiter = self.queue.waiters.lift(id);
        let before = std::mem::replace(&mut waiter.place, standing.place);
        (waiter.aged, waiter.slots) = (standing.aged, standing.slots);
        let spot = self.detach(waiter.lane);
        let seats = &mut self.queue.lanes[waiter.lane].seats;
        if seats.get(&before).is_some_and(|seat| seat.who == id) {
            seats.remove(&before);
        }
        seats.insert(waiter.place, QueueEntry { who: id, aged: waiter.aged });
        if let Some(home) = waiter.wants.first()
            && let Some(waits) = self.table.window_mut(home.window).waits_mut()
        {
            waits.callers.rise(waiter.caller, before, id);
            waits.callers.sit(waiter.caller, waiter.place, id);
        }
        let lane = waiter.lane;
        self.queue.waiters.put_back(id, waiter);
        let (window, line) = match spot {
            Location::Detached => return,
            Location::Queued(window, _) => (window, Location::Queued as fn(u32, QueuePosition) -> Location),
            Location::Deferred(window, _) => (window, Location::Deferred as fn(u32, QueuePosition) -> Location),
        };
        self.attach(lane, window, line);
        self.queue.work.push_back(Dirty::Window(window));
    }
}

/// A waiter's place, and what goes with it.
#[derive(Clone, Copy)]
struct WaiterPosition {
    place: QueuePosition,
    aged: Time,
    slots: u32,
}

impl Waiter {
    fn standing(&self) -> WaiterPosition {
        WaiterPosition { place: self.place, aged: self.aged, slots: self.slots }
    }
}
