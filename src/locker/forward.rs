//! The windows are another process's now: what is asked and said here is passed on to it, and its word is what counts.
//!
//! The windows that were here stay as a directory: grants know their slots by them.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::Locker;
use super::api::{Ask, AskKind, Caller, Claim, Grant, HeldSlots, Key, LimitId, SettlePoint, Sorry, Ticket, Verdict};
use super::slab::Slab;
use crate::time::Time;

/// What is passed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Somebody asks.
    Ask {
        /// Whom to tell.
        ticket: Ticket,
        /// What it must be granted.
        claims: SmallVec<[Claim; 2]>,
        /// Who takes turns.
        caller: Caller,
        /// RFC 9218 urgency.
        urgency: u8,
        /// When it came.
        arrived: Time,
        /// The caller's own bound on its wait.
        bound: Time,
        /// Whether it has asked before.
        kind: AskKind,
    },
    /// Somebody who asked is gone.
    Leave(Ticket),
    /// Slots settle, at a moment that may lie ahead.
    Settle {
        /// In which window,
        limit: LimitId,
        /// under which key,
        key: Key,
        /// how many,
        cost: u32,
        /// when.
        at: Time,
    },
    /// Slots were not used.
    GiveBack {
        /// In which window,
        limit: LimitId,
        /// under which key,
        key: Key,
        /// how many.
        cost: u32,
    },
    /// A request has ended.
    Land {
        /// In which window,
        limit: LimitId,
        /// under which key.
        key: Key,
    },
    /// Nothing is to open before that.
    Pause {
        /// In which window,
        limit: LimitId,
        /// under which key,
        key: Key,
        /// until when.
        until: Time,
    },
}

/// Slots of one window that were granted by the other process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantedSlots {
    /// Of which limit.
    pub limit: LimitId,
    /// Under which key.
    pub key: Key,
    /// How many.
    pub cost: u32,
    /// They settle with the answer.
    pub answered: bool,
    /// Its end must be told.
    pub flying: bool,
    /// What has not left by then may not leave.
    pub until: Time,
}

/// What is kept of a locker whose windows were given away.
#[derive(Debug)]
pub(super) struct Forwarding {
    events: VecDeque<Event>,
    /// Those who wait for the other's word.
    waiting: Slab<()>,
}

/// Tells the tickets that are given from here on from those of before.
const FORWARDED: u32 = 1 << 31;

impl Locker {
    /// Everybody who waits, as they would ask anew; in the order of their arrival.
    pub fn queued_asks(&self) -> Vec<Event> {
        let mut waiters = self.queue.waiters.indices();
        waiters.sort_by_key(|id| self.queue.waiters[*id].caller_order.arrival());
        let ask = |id: u32| {
            let waiter = &self.queue.waiters[id];
            Event::Ask {
                ticket: self.queue.ticket(id),
                claims: waiter.claims.clone(),
                caller: waiter.caller,
                urgency: waiter.urgency,
                arrived: waiter.caller_order.arrived,
                bound: waiter.caller_deadline,
                kind: waiter.kind.as_reask(),
            }
        };
        waiters.into_iter().map(ask).collect()
    }

    /// From here on another process decides. It has been told of the estate, and of those who wait.
    pub fn hand_over(&mut self, now: Time) {
        self.advance(now);
        self.write_queue.discard_pending();
        self.review.clear();
        self.late_settles.clear();
        // Those in line stay known, and nothing here lets them go.
        self.held = true;
        self.queue.dirty.clear();
        self.queue.held_waiters.clear();
        self.queue.wakeups.clear();
        self.queue.deadlines.clear();
        self.due = Time::NEVER;
        self.forwarding = Some(Forwarding { events: VecDeque::new(), waiting: Slab::new() });
    }

    /// Whether another process decides.
    pub fn is_handed_over(&self) -> bool {
        self.forwarding.is_some()
    }

    /// The next thing to be passed on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.forwarding.as_mut()?.events.pop_front()
    }

    /// Whether there is anything to be passed on.
    pub fn has_events(&self) -> bool {
        self.forwarding.as_ref().is_some_and(|forwarding| !forwarding.events.is_empty())
    }

    /// The other process's verdict on somebody who waits.
    pub fn handle_verdict(&mut self, ticket: Ticket, verdict: Result<Vec<GrantedSlots>, Sorry>, now: Time) {
        let is_waiting = self.is_waiting(ticket);
        let verdict = match verdict {
            Ok(slots) => Verdict::Go(self.rebuild_grant(&slots, now)),
            Err(sorry) => Verdict::Sorry(sorry),
        };
        match (is_waiting, verdict) {
            (true, verdict) => {
                self.remove_ticket(ticket);
                self.outbox.push_back((ticket, verdict));
            }
            // It left while the verdict was on its way.
            (false, Verdict::Go(grant)) => self.forward_give_back(grant),
            (false, Verdict::Sorry(_) | Verdict::Wait(..)) => {}
        }
    }

    /// Everybody who waits for the other process, which is gone.
    pub fn orphaned_tickets(&mut self) -> Vec<Ticket> {
        let mut tickets: Vec<Ticket> =
            self.queue.waiters.indices().into_iter().map(|id| self.queue.ticket(id)).collect();
        if let Some(forwarding) = &self.forwarding {
            tickets.extend(forwarding.waiting.indices().into_iter().map(|id| forwarding.ticket(id)));
        }
        tickets
    }

    fn is_waiting(&self, ticket: Ticket) -> bool {
        let is_forwarded = |forwarding: &Forwarding| {
            forwarding.waiting.generation(ticket.index & !FORWARDED) == Some(ticket.generation)
        };
        match ticket.index & FORWARDED {
            0 => self.queue.contains(ticket),
            _ => self.forwarding.as_ref().is_some_and(is_forwarded),
        }
    }

    fn remove_ticket(&mut self, ticket: Ticket) {
        if ticket.index & FORWARDED == 0 {
            self.queue.waiters.remove(ticket.index);
        } else if let Some(forwarding) = &mut self.forwarding {
            forwarding.waiting.remove(ticket.index & !FORWARDED);
        }
    }

    pub(super) fn forward_ask(&mut self, ask: &Ask<'_>, now: Time) -> Verdict {
        let arrived = ask.arrived.map_or(now, |at| at.min(now));
        let bound = ask.max_wait.map_or(Time::NEVER, |wait| arrived + wait);
        let Some(forwarding) = &mut self.forwarding else { unreachable!("it is called where there is one") };
        let number = forwarding.waiting.insert(());
        let ticket = forwarding.ticket(number);
        let claims = ask.claims.iter().copied().collect();
        let Ask { caller, urgency, kind, .. } = *ask;
        forwarding.events.push_back(Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind });
        Verdict::Wait(ticket, None)
    }

    pub(super) fn forward_leave(&mut self, ticket: Ticket) {
        if self.is_waiting(ticket) {
            self.remove_ticket(ticket);
            self.forward_event(Event::Leave(ticket));
        } else if let Some(Verdict::Go(grant)) = self.take_verdict(ticket) {
            self.forward_give_back(grant);
        }
    }

    pub(super) fn forward_settle(&mut self, grant: &mut Grant, point: SettlePoint, now: Time) {
        for held in &mut grant.held {
            if held.settled || (point == SettlePoint::Sent && held.answered) {
                continue;
            }
            held.settled = true;
            let Some(key) = self.table.current(held.window, held.generation).map(|window| window.key) else { continue };
            let linger = self.limits.rules[held.limit.at()].linger;
            let at = if point == SettlePoint::Failed { now + linger } else { now };
            let (limit, cost) = (held.limit, held.cost);
            if let Some(forwarding) = &mut self.forwarding {
                forwarding.events.push_back(Event::Settle { limit, key, cost, at });
            }
        }
    }

    /// What is not settled is given back, and what is under way has ended.
    pub(super) fn forward_give_back(&mut self, grant: Grant) {
        for held in &grant.held {
            let Some(key) = self.table.current(held.window, held.generation).map(|window| window.key) else { continue };
            if !held.settled {
                self.forward_event(Event::GiveBack { limit: held.limit, key, cost: held.cost });
            }
        }
        self.forward_land(&grant);
    }

    pub(super) fn forward_land(&mut self, grant: &Grant) {
        for held in grant.held.iter().filter(|held| held.flying) {
            let Some(key) = self.table.current(held.window, held.generation).map(|window| window.key) else { continue };
            self.forward_event(Event::Land { limit: held.limit, key });
        }
    }

    pub(super) fn forward_event(&mut self, event: Event) {
        if let Some(forwarding) = &mut self.forwarding {
            forwarding.events.push_back(event);
        }
    }

    fn rebuild_grant(&mut self, slots: &[GrantedSlots], now: Time) -> Grant {
        let mut grant = Grant::default();
        let known = self.limits.rules.len();
        for slot in slots.iter().filter(|slot| slot.limit.at() < known) {
            grant.until = grant.until.min(slot.until);
            let found = self.table.find(slot.limit, slot.key);
            let window = found.unwrap_or_else(|| self.create_window(slot.limit, slot.key, now));
            grant.held.push(HeldSlots {
                window,
                generation: self.table.window(window).generation,
                limit: slot.limit,
                cost: slot.cost,
                answered: slot.answered,
                settled: slot.cost == 0,
                flying: slot.flying,
            });
        }
        grant
    }
}

impl Forwarding {
    fn ticket(&self, number: u32) -> Ticket {
        Ticket { index: number | FORWARDED, generation: self.waiting.generation(number).unwrap_or(0) }
    }
}
