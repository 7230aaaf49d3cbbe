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
const AFTERWARDS: u32 = 1 << 31;

impl Locker {
    /// Everybody who waits, as they would ask anew; in the order of their arrival.
    pub fn waiters(&self) -> Vec<Event> {
        let mut waiters = self.queue.waiters.numbers();
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
    pub fn give(&mut self, now: Time) {
        self.advance(now);
        self.write_queue.discard_pending();
        self.review.clear();
        self.late.clear();
        // Those in line stay known, and nothing here lets them go.
        self.held = true;
        self.queue.dirty.clear();
        self.queue.held_waiters.clear();
        self.queue.wakeups.clear();
        self.queue.deadlines.clear();
        self.due = Time::NEVER;
        self.given = Some(Forwarding { events: VecDeque::new(), waiting: Slab::new() });
    }

    /// Whether another process decides.
    pub fn is_given(&self) -> bool {
        self.given.is_some()
    }

    /// The next thing to be passed on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.given.as_mut()?.events.pop_front()
    }

    /// Whether there is anything to be passed on.
    pub fn has_events(&self) -> bool {
        self.given.as_ref().is_some_and(|given| !given.events.is_empty())
    }

    /// The other process's verdict on somebody who waits.
    pub fn tell(&mut self, ticket: Ticket, verdict: Result<Vec<GrantedSlots>, Sorry>, now: Time) {
        let waits = self.waits(ticket);
        let verdict = match verdict {
            Ok(slots) => Verdict::Go(self.granted(&slots, now)),
            Err(sorry) => Verdict::Sorry(sorry),
        };
        match (waits, verdict) {
            (true, verdict) => {
                self.forget(ticket);
                self.outbox.push_back((ticket, verdict));
            }
            // It left while the verdict was on its way.
            (false, Verdict::Go(grant)) => self.pass_on_return(grant),
            (false, Verdict::Sorry(_) | Verdict::Wait(..)) => {}
        }
    }

    /// Everybody who waits for the other process, which is gone.
    pub fn forsaken(&mut self) -> Vec<Ticket> {
        let mut tickets: Vec<Ticket> =
            self.queue.waiters.numbers().into_iter().map(|id| self.queue.ticket(id)).collect();
        if let Some(given) = &self.given {
            tickets.extend(given.waiting.numbers().into_iter().map(|id| given.ticket(id)));
        }
        tickets
    }

    fn waits(&self, ticket: Ticket) -> bool {
        let afterwards =
            |given: &Forwarding| given.waiting.generation(ticket.index & !AFTERWARDS) == Some(ticket.generation);
        match ticket.index & AFTERWARDS {
            0 => self.queue.contains(ticket),
            _ => self.given.as_ref().is_some_and(afterwards),
        }
    }

    fn forget(&mut self, ticket: Ticket) {
        if ticket.index & AFTERWARDS == 0 {
            self.queue.waiters.remove(ticket.index);
        } else if let Some(given) = &mut self.given {
            given.waiting.remove(ticket.index & !AFTERWARDS);
        }
    }

    pub(super) fn pass_on_ask(&mut self, ask: &Ask<'_>, now: Time) -> Verdict {
        let arrived = ask.arrived.map_or(now, |at| at.min(now));
        let bound = ask.max_wait.map_or(Time::NEVER, |wait| arrived + wait);
        let Some(given) = &mut self.given else { unreachable!("it is called where there is one") };
        let number = given.waiting.insert(());
        let ticket = given.ticket(number);
        let claims = ask.claims.iter().copied().collect();
        let Ask { caller, urgency, kind, .. } = *ask;
        given.events.push_back(Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind });
        Verdict::Wait(ticket, None)
    }

    pub(super) fn pass_on_leave(&mut self, ticket: Ticket) {
        if self.waits(ticket) {
            self.forget(ticket);
            self.pass_on(Event::Leave(ticket));
        } else if let Some(Verdict::Go(grant)) = self.take_verdict(ticket) {
            self.pass_on_return(grant);
        }
    }

    pub(super) fn pass_on_settle(&mut self, grant: &mut Grant, moment: SettlePoint, now: Time) {
        for held in &mut grant.held {
            if held.settled || (moment == SettlePoint::Sent && held.answered) {
                continue;
            }
            held.settled = true;
            let Some(key) = self.table.still(held.window, held.generation).map(|window| window.key) else { continue };
            let linger = self.rules[held.limit.at()].linger;
            let at = if moment == SettlePoint::Failed { now + linger } else { now };
            let (limit, cost) = (held.limit, held.cost);
            if let Some(given) = &mut self.given {
                given.events.push_back(Event::Settle { limit, key, cost, at });
            }
        }
    }

    /// What is not settled is given back, and what is under way has ended.
    pub(super) fn pass_on_return(&mut self, grant: Grant) {
        for held in &grant.held {
            let Some(key) = self.table.still(held.window, held.generation).map(|window| window.key) else { continue };
            if !held.settled {
                self.pass_on(Event::GiveBack { limit: held.limit, key, cost: held.cost });
            }
        }
        self.pass_on_end(&grant);
    }

    pub(super) fn pass_on_end(&mut self, grant: &Grant) {
        for held in grant.held.iter().filter(|held| held.flying) {
            let Some(key) = self.table.still(held.window, held.generation).map(|window| window.key) else { continue };
            self.pass_on(Event::Land { limit: held.limit, key });
        }
    }

    pub(super) fn pass_on(&mut self, event: Event) {
        if let Some(given) = &mut self.given {
            given.events.push_back(event);
        }
    }

    fn granted(&mut self, slots: &[GrantedSlots], now: Time) -> Grant {
        let mut grant = Grant::default();
        let known = self.rules.len();
        for slot in slots.iter().filter(|slot| slot.limit.at() < known) {
            grant.until = grant.until.min(slot.until);
            let found = self.table.find(slot.limit, slot.key);
            let window = found.unwrap_or_else(|| self.begin(slot.limit, slot.key, now));
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
        Ticket { index: number | AFTERWARDS, generation: self.waiting.generation(number).unwrap_or(0) }
    }
}
