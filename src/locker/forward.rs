//! Forwarder: stands in the place of a [`Locker`] after another process took over the windows. It
//! forwards asks and settles to that process; only the verdicts of that process count.

use std::collections::{HashMap, VecDeque};

use super::Locker;
use super::api::{Ask, Grant, HeldSlots, Key, LimitId, SettlePoint, Sorry, Ticket, Usage, Verdict};
use super::counter_snapshot::{LimitSnapshot, Snapshot};
use super::forwarded_event::{Event, GrantedSlots};
use super::limit::Limit;
use super::limit_table::LimitTable;
use super::outbox::Outbox;
use super::queue::Waiter;
use super::remote_holdings::{Holding, RemoteHoldings};
use super::slab::Slab;
use super::stats::{CallerScan, LimitDetail, LimitStats, StatsScan};
use super::wall_clock::{WallClock, WallReading};
use super::window_table::WindowTable;
use crate::time::Time;

/// Set in the tickets of requests that asked after the hand-over, and clear in those of before.
const FORWARDED: u32 = 1 << 31;

/// The requests of a process that has handed its windows over: those in the queue then, those under
/// way, and those that ask since.
///
/// Owns the events that the other process has not been told of, and the verdicts that have come
/// back. Keeps the limits and windows of before as a directory, by which grants know their slots;
/// nothing is counted in them any more, and new keys only get a place there. It grants nothing by
/// itself: each ask waits, and each input becomes at most one event per slot that it is about.
/// Events of requests that the process before this one still has are passed on as far as that
/// process holds the slots.
#[derive(Debug)]
pub struct Forwarder {
    /// Limits of before, by `LimitId`. An id beyond them is unknown here.
    limits: LimitTable,
    /// Windows of before, used only to look up indexes and keys.
    table: WindowTable,
    /// Wall clock readings up to the hand-over.
    wall: WallClock,
    /// The requests that were in the queue at the hand-over.
    queued: Slab<Waiter>,
    /// The requests that have asked since and have no verdict.
    asked: Slab<()>,
    /// Events not yet sent to the other process, oldest first.
    events: VecDeque<Event>,
    /// Verdicts not yet fetched.
    outbox: Outbox,
    /// Slots of the process before this one, in a chain of upgrades.
    remote_holdings: RemoteHoldings,
    /// As [`Locker::is_catching_up`] said at the hand-over.
    is_catching_up: bool,
    /// Latest time given to any method; time never goes back.
    last: Time,
}

impl From<Locker> for Forwarder {
    fn from(mut locker: Locker) -> Forwarder {
        locker.end_copy();
        Forwarder {
            is_catching_up: locker.is_catching_up(),
            limits: locker.counters.limits,
            table: locker.counters.table,
            wall: locker.wall,
            queued: locker.queue.waiters,
            asked: Slab::new(),
            events: VecDeque::new(),
            outbox: locker.queue.outbox,
            remote_holdings: locker.remote_holdings,
            last: locker.last,
        }
    }
}

impl Forwarder {
    /// Every limit, as [`Locker::limits`].
    pub fn limits(&self) -> &[Limit] {
        &self.limits.all
    }

    /// True if a limit is one of those that were given last.
    pub fn is_in_force(&self, id: LimitId) -> bool {
        self.limits.is_in_force(id)
    }

    /// The limits that are shared.
    pub fn shared(&self) -> Vec<LimitId> {
        self.limits.shared()
    }

    /// True if any limit in force is shared.
    pub fn shares(&self) -> bool {
        self.limits.shares()
    }

    /// Forwards an ask. It waits in any case; [`Forwarder::poll_verdict`] names its ticket once the
    /// other process has decided.
    pub fn ask(&mut self, ask: &Ask<'_>, now: Time) -> Verdict {
        let arrived = ask.arrived.map_or(now, |at| at.min(now));
        let bound = ask.max_wait.map_or(Time::NEVER, |wait| arrived + wait);
        let number = self.asked.insert(());
        let ticket = self.asked_ticket(number);
        let claims = ask.claims.iter().copied().collect();
        let Ask { caller, urgency, kind, .. } = *ask;
        self.events.push_back(Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind });
        Verdict::Wait(ticket, None)
    }

    /// A request gives up its place, or the grant that it has not fetched.
    pub fn leave(&mut self, ticket: Ticket) {
        if self.is_waiting(ticket) {
            self.remove_ticket(ticket);
            mutant!("a leaving is not forwarded", return);
            self.events.push_back(Event::Leave(ticket));
        } else if let Some(Verdict::Go(grant)) = self.outbox.take(ticket) {
            self.give_back(grant);
        }
    }

    /// Forwards a pause of a window.
    pub fn pause(&mut self, limit: LimitId, key: Key, until: Time) {
        self.events.push_back(Event::Pause { limit, key, until });
    }

    /// Forwards how far a granted request has come. Each slot settles once.
    pub fn settle(&mut self, grant: &mut Grant, point: SettlePoint, now: Time) {
        for held in &mut grant.held {
            if held.settled || (point == SettlePoint::Sent && held.answered) {
                continue;
            }
            held.settled = true;
            let Some(key) = self.table.current(held.window, held.generation).map(|window| window.key) else { continue };
            let linger = self.limits.rules[held.limit.at()].linger;
            let at = if point == SettlePoint::Failed { now + linger } else { now };
            mutant!("a forwarded settle is dropped", continue);
            self.events.push_back(Event::Settle { limit: held.limit, key, cost: held.cost, at });
        }
    }

    /// Nothing of the request left: gives back the slots that have not settled, and ends its
    /// flight.
    pub fn give_back(&mut self, grant: Grant) {
        for held in &grant.held {
            let Some(key) = self.table.current(held.window, held.generation).map(|window| window.key) else { continue };
            if !held.settled {
                self.events.push_back(Event::GiveBack { limit: held.limit, key, cost: held.cost });
            }
        }
        self.land(&grant);
    }

    /// The response's last byte is gone: the flight ends. Slots that have not settled settle as
    /// failed.
    pub fn finish(&mut self, mut grant: Grant, now: Time) {
        self.settle(&mut grant, SettlePoint::Failed, now);
        self.land(&grant);
    }

    /// Queues a `Land` event for each flight of a grant.
    fn land(&mut self, grant: &Grant) {
        for held in grant.held.iter().filter(|held| held.flying) {
            let Some(key) = self.table.current(held.window, held.generation).map(|window| window.key) else { continue };
            self.events.push_back(Event::Land { limit: held.limit, key });
        }
    }

    /// Takes the next decided waiter and its verdict, `Go` or `Sorry`, never `Wait`.
    pub fn poll_verdict(&mut self) -> Option<(Ticket, Verdict)> {
        self.outbox.pop()
    }

    /// The next event for the other process.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// True if there are events for the other process.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The other process's verdict on a waiter. A grant for one that has left goes back.
    pub fn handle_verdict(&mut self, ticket: Ticket, verdict: Result<Vec<GrantedSlots>, Sorry>, now: Time) {
        let is_waiting = self.is_waiting(ticket);
        let verdict = match verdict {
            Ok(slots) => Verdict::Go(self.rebuild_grant(&slots, now)),
            Err(sorry) => Verdict::Sorry(sorry),
        };
        match (is_waiting, verdict) {
            (true, verdict) => {
                self.remove_ticket(ticket);
                self.outbox.push(ticket, verdict);
            }
            // It left while the verdict was on its way.
            (false, Verdict::Go(grant)) => {
                mutant!(self.give_back(grant), "a grant for a waiter that has left is lost", drop(grant))
            }
            (false, Verdict::Sorry(_) | Verdict::Wait(..)) => {}
        }
    }

    /// All waiters of the other process, which is gone.
    pub fn orphaned_tickets(&self) -> Vec<Ticket> {
        let queued = self.queued.indices().into_iter().map(|id| self.queued_ticket(id));
        queued.chain(self.asked.indices().into_iter().map(|number| self.asked_ticket(number))).collect()
    }

    /// Ticket of a waiter that was in the queue at the hand-over: as the locker made it.
    fn queued_ticket(&self, id: u32) -> Ticket {
        Ticket { index: id, generation: self.queued.generation(id).unwrap_or(0) }
    }

    /// Ticket of a request that has asked since: the index has the `FORWARDED` bit.
    fn asked_ticket(&self, number: u32) -> Ticket {
        Ticket { index: number | FORWARDED, generation: self.asked.generation(number).unwrap_or(0) }
    }

    /// True if the ticket's request still waits for a verdict.
    fn is_waiting(&self, ticket: Ticket) -> bool {
        let generation = match ticket.index & FORWARDED {
            0 => self.queued.generation(ticket.index),
            _ => self.asked.generation(ticket.index & !FORWARDED),
        };
        generation == Some(ticket.generation)
    }

    /// Removes a request by its ticket, from the slab that the `FORWARDED` bit names.
    fn remove_ticket(&mut self, ticket: Ticket) {
        if ticket.index & FORWARDED == 0 {
            self.queued.remove(ticket.index);
        } else {
            self.asked.remove(ticket.index & !FORWARDED);
        }
    }

    /// A grant of the other process, as this one would have made it. Limits that are unknown here
    /// are left out.
    fn rebuild_grant(&mut self, slots: &[GrantedSlots], now: Time) -> Grant {
        let mut grant = Grant::default();
        let known = self.limits.rules.len();
        for slot in slots.iter().filter(|slot| slot.limit.at() < known) {
            grant.until = grant.until.min(slot.until);
            let found = self.table.find(slot.limit, slot.key);
            let window = found.unwrap_or_else(|| self.table.create(&mut self.limits.rules, slot.limit, slot.key, now));
            grant.held.push(HeldSlots {
                window,
                generation: self.table.peek(window).generation,
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

/// Requests of the process before this one: the windows have moved on to a third process, which
/// counts them as this one's.
impl Forwarder {
    /// As [`Locker::knows_limits_of`].
    pub fn knows_limits_of(&self, event: &Event) -> bool {
        event.is_valid(self.limits.rules.len())
    }

    /// Passes an event of the process before on, if that process holds what the event speaks of.
    pub fn handle_remote(&mut self, event: &Event) {
        let is_remote = match *event {
            Event::Settle { limit, key, cost, .. } | Event::GiveBack { limit, key, cost } => {
                self.remote_holdings.take(limit, key, Holding { open: cost, flying: 0 })
            }
            Event::Land { limit, key } => self.remote_holdings.take(limit, key, Holding { open: 0, flying: 1 }),
            Event::Pause { .. } => true,
            // These are the gate's to know.
            Event::Ask { .. } | Event::Leave(_) => false,
        };
        if is_remote {
            self.events.push_back(event.clone());
        }
    }

    /// Passes a grant to the process before, which says from here on how it ends.
    pub fn delegate(&mut self, grant: Grant) -> Vec<GrantedSlots> {
        self.remote_holdings.delegate(&grant, &mut self.table)
    }

    /// The process before is gone: all that it held settles as failed.
    pub fn remote_lost(&mut self, now: Time) {
        for ((limit, key), Holding { open, flying }) in self.remote_holdings.take_all() {
            if open > 0 {
                let at = now + self.limits.rules[limit.at()].linger;
                self.events.push_back(Event::Settle { limit, key, cost: open, at });
            }
            (0..flying).for_each(|_| self.events.push_back(Event::Land { limit, key }));
        }
    }
}

/// State at the hand-over, for the last records of the journal and for display.
impl Forwarder {
    /// True if a folder was not complete at the hand-over: it must not be marked as such then.
    pub fn is_catching_up(&self) -> bool {
        self.is_catching_up
    }

    /// As [`Locker::crash_limit_snapshots`] said at the hand-over, but for limits with unwritten
    /// windows: the other process writes these.
    pub fn crash_limit_snapshots(&self) -> Vec<LimitSnapshot> {
        self.limits.snapshots()
    }

    /// The readings of the wall clock up to the hand-over.
    pub fn readings(&self) -> Vec<WallReading> {
        self.wall.readings()
    }

    /// Returns true if the wall clock goes on as it was known to at the hand-over.
    pub fn expects_wall(&self, unix_nanos: i128, now: Time) -> bool {
        self.wall.expects(unix_nanos, now)
    }

    /// Snapshot of the windows of before.
    pub fn snapshot(&mut self, now: Time) -> Snapshot {
        let now = self.advance(now);
        Snapshot::of(&self.limits, &mut self.table, HashMap::new(), &self.wall, now)
    }

    /// As [`Locker::usage`], of the windows of before.
    pub fn usage(&mut self, limit: LimitId, key: Key, now: Time) -> Usage {
        let now = self.advance(now);
        self.table.usage(&self.limits, limit, key, now)
    }

    /// As [`Locker::scan_stats`], of the windows of before.
    pub fn scan_stats(&mut self, scan: &mut StatsScan, now: Time) -> bool {
        let now = self.advance(now);
        scan.step(&self.limits, &mut self.table, now)
    }

    /// As [`Locker::finish_stats`].
    pub fn finish_stats(&mut self, scan: StatsScan, now: Time) -> Vec<LimitStats> {
        let now = self.advance(now);
        scan.finish(&self.limits, &mut self.table, now)
    }

    /// As [`Locker::limit_detail`], of the windows of before.
    pub fn limit_detail(&mut self, limit: LimitId, key: Option<Key>, now: Time) -> LimitDetail {
        let now = self.advance(now);
        LimitDetail::of_window(&self.limits, &mut self.table, limit, key, now)
    }

    /// As [`Locker::scan_callers`], of the requests that were in the queue at the hand-over.
    pub fn scan_callers(&self, scan: &mut CallerScan) -> bool {
        scan.step(&self.queued)
    }

    /// Moves the time on, and returns the later of `now` and the latest time.
    fn advance(&mut self, now: Time) -> Time {
        self.last = self.last.max(now);
        self.last
    }
}
