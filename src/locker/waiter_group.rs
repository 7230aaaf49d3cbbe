//! Puts a waiter in its lane, and takes it out again.

use std::time::Duration;

use smallvec::SmallVec;

use super::Locker;
use super::api::Caller;
use super::caller_backlogs::CallerOrder;
use super::limit::Priority;
use super::queue::{Dirty, Location, Waiter, WaiterGroup, WindowDemand};
use super::sharing::StoreAsk;
use super::window::window_rule::nanos;
use super::window_queue::{QueueEntries, QueueEntry, QueuePosition, first};
use crate::time::Time;

/// Why a waiter is taken out of its lane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DequeueReason {
    Granted,
    Left,
}

impl Locker {
    /// The place that a waiter has, or would have, in its lane.
    pub(super) fn seat(&self, waiter: &mut Waiter) {
        let Some(home) = waiter.wants.first() else { return };
        let rule = &self.rules[home.limit.at()];
        waiter.turns = rule.turns;
        waiter.slots = home.cost;
        waiter.own.urgency = if rule.priority == Priority::None { USUAL } else { waiter.urgency };
        let class = if rule.priority == Priority::Strict { waiter.urgency } else { USUAL };
        let waits = self.table.window(home.window).waits();
        let turn = match waits {
            Some(waits) if rule.turns => waits.turns.next(waiter.caller),
            Some(_) | None => 0,
        };
        waiter.place = QueuePosition { class, turn, arrived: waiter.own.arrived, seq: waiter.own.seq };
        waiter.aged = aged(waiter.place, rule.max_wait);
    }

    /// Puts a waiter in its lane.
    pub(super) fn link(&mut self, id: u32) {
        let mut waiter = self.queue.waiters.lift(id);
        waiter.own.id = id;
        self.seat(&mut waiter);
        if let Some(home) = waiter.wants.first()
            && waiter.turns
        {
            let turns = &mut self.table.window_mut(home.window).waits_begun().turns;
            waiter.place.turn = if waiter.kind.is_retry() {
                turns.arrive_again(waiter.caller, home.cost)
            } else {
                turns.arrive(waiter.caller, home.cost)
            };
        }
        // Several windows of one limit are those of keys that a caller may have made up: they win it no slot before others.
        let several = waiter.wants.iter().any(|want| want.limit != waiter.wants[0].limit);
        for want in &waiter.wants {
            let waits = self.table.window_mut(want.window).waits_begun();
            waits.waiting += 1;
            waits.slots += u64::from(want.cost);
            if several {
                waits.claimants.insert((waiter.own.arrived, waiter.own.seq, id));
            }
            if self.rules[want.limit.at()].knows_callers() {
                waits.callers.join(waiter.caller, waiter.own, want.cost);
            }
        }
        if let Some(home) = waiter.wants.first() {
            self.table.window_mut(home.window).waits_begun().callers.sit(waiter.caller, waiter.place, id);
        }
        waiter.lane = self.lane(&waiter.wants);
        let lane = &mut self.queue.lanes[waiter.lane];
        lane.seats.insert(waiter.place, QueueEntry { who: id, aged: waiter.aged });
        for (total, want) in lane.totals.iter_mut().zip(&waiter.wants) {
            *total += u64::from(want.cost);
        }
        if first(&lane.seats).is_some_and(|(_, seat)| seat.who == id) {
            self.queue.work.push_back(Dirty::Group(waiter.lane));
        }
        self.queue.deadlines.insert((waiter.deadline, id));
        self.queue.waiters.put_back(id, waiter);
    }

    fn lane(&mut self, wants: &[WindowDemand]) -> u32 {
        if let Some(lane) = self.queue.lane_of(wants) {
            return lane;
        }
        let windows: SmallVec<[u32; 2]> = wants.iter().map(|want| want.window).collect();
        let totals = SmallVec::from_elem(0, windows.len());
        let lane = WaiterGroup {
            windows: windows.clone(),
            seats: QueueEntries::new(),
            totals,
            spot: Location::Detached,
            asks: StoreAsk::Idle,
        };
        let lane = self.queue.lanes.insert(lane);
        self.queue.by_windows.insert(windows, lane);
        lane
    }

    /// Takes a waiter out of its lane, and lets those be looked at whom it kept back.
    pub(super) fn unlink(&mut self, id: u32, fate: DequeueReason) {
        let waiter = self.queue.waiters.lift(id);
        let was_first = first(&self.queue.lanes[waiter.lane].seats).is_some_and(|(_, seat)| seat.who == id);
        // One that goes is being looked at with its lane.
        if was_first && fate == DequeueReason::Left {
            if let Location::Queued(window, _) | Location::Deferred(window, _) = self.detach(waiter.lane) {
                self.queue.work.push_back(Dirty::Window(window));
            }
            self.queue.work.push_back(Dirty::Group(waiter.lane));
        }
        let lane = &mut self.queue.lanes[waiter.lane];
        lane.seats.remove(&waiter.place);
        for (total, want) in lane.totals.iter_mut().zip(&waiter.wants) {
            *total -= u64::from(want.cost);
        }
        if lane.seats.is_empty() {
            let windows = std::mem::take(&mut lane.windows);
            self.sharing.forget(waiter.lane, lane.asks);
            self.queue.by_windows.remove(&windows);
            self.queue.lanes.remove(waiter.lane);
        }
        self.queue.deadlines.remove(&(waiter.deadline, id));
        if let Some(home) = waiter.wants.first()
            && let Some(waits) = self.table.window_mut(home.window).waits_mut()
        {
            waits.callers.rise(waiter.caller, waiter.place, id);
            match fate {
                DequeueReason::Granted if waiter.turns => {
                    waits.turns.go(waiter.caller, waiter.place.turn, home.cost, waiter.slots);
                }
                DequeueReason::Left if waiter.turns => {
                    waits.turns.leave(waiter.caller, waiter.place.turn, waiter.slots)
                }
                DequeueReason::Granted | DequeueReason::Left => {}
            }
        }
        for want in &waiter.wants {
            self.unwait(want, waiter.caller, waiter.own);
            // One that goes has not taken its slots yet.
            if fate == DequeueReason::Left {
                self.return_unwanted(want.window);
            }
        }
        self.queue.waiters.put_back(id, waiter);
    }

    fn unwait(&mut self, want: &WindowDemand, caller: Caller, own: CallerOrder) {
        let window = want.window;
        let found = self.table.window_mut(window);
        let Some(waits) = found.waits_mut() else { return };
        waits.callers.leave(caller, own);
        let claimant = (own.arrived, own.seq, own.id);
        let was_claimant = waits.claimants.first() == Some(&claimant);
        waits.claimants.remove(&claimant);
        waits.waiting -= 1;
        waits.slots = waits.slots.saturating_sub(u64::from(want.cost));
        if waits.waiting == 0 {
            if let Some(at) = waits.armed {
                self.queue.alarms.remove(&(at, window));
            }
            found.waits_end();
            // The store shares slots out by who waits where.
            if self.rules[want.limit.at()].pooled {
                self.note_settle(window);
            }
        } else if was_claimant && !waits.held.is_empty() {
            self.queue.work.push_back(Dirty::Window(window));
        }
    }
}

/// When a waiter counts as having arrived when classes are compared: a class more or less urgent than
/// the usual one puts it forward or off by an eighth of the patience, so that no class starves another.
fn aged(place: QueuePosition, patience: Duration) -> Time {
    let step = nanos(patience.min(LONGEST_PATIENCE)) / 8;
    let class = u64::from(place.class) * step;
    Time::from_nanos(
        (place.arrived.as_nanos().saturating_add(BEFORE_START + class)).saturating_sub(u64::from(USUAL) * step),
    )
}

/// The urgency of those who say nothing (RFC 9218 section 4.1).
const USUAL: u8 = 3;

/// Keeps an urgent arrival soon after the start above zero: more than `USUAL` eighths of the longest patience.
const BEFORE_START: u64 = 1 << 60;

/// Far longer than anybody waits; bounds the arithmetic.
const LONGEST_PATIENCE: Duration = Duration::from_secs(366 * 86_400);
