//! Waiters and their lanes: who waits, for what, until when, and in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use smallvec::SmallVec;

use super::api::{Ask, AskKind, Caller, Claim, LimitId, RefusalReason, Sorry, Ticket, Verdict};
use super::caller_backlogs::CallerOrder;
use super::sharing::StoreAsk;
use super::slab::Slab;
use super::waiter_group::DequeueReason;
use super::window_queue::{QueueEntries, QueuePosition};
use super::{Grant, Locker};
use crate::time::Time;

/// A claim, and where its window is.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimCheck {
    /// `None` as long as the key has none.
    pub(super) window: Option<u32>,
    pub(super) limit: LimitId,
    /// Whether the window had room when it was looked at, written down.
    pub(super) room: bool,
    /// Whether it had room that must be written down first.
    pub(super) dry: bool,
}

/// How long a request that would not wait for a slot waits at most until its slot is written down, or until a locker that is
/// held is released.
const WRITING: Duration = Duration::from_secs(1);

pub(super) type ClaimChecks = SmallVec<[ClaimCheck; 2]>;

/// What a waiter must be granted in one window.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowDemand {
    pub(super) window: u32,
    pub(super) limit: LimitId,
    pub(super) cost: u32,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) claims: SmallVec<[Claim; 2]>,
    /// The windows of all claims but those of dry-run limits; the first is its home, see `choose_home`.
    pub(super) wants: SmallVec<[WindowDemand; 2]>,
    pub(super) caller: Caller,
    pub(super) urgency: u8,
    /// How it stands among its caller's other requests; never changes while it is in line.
    pub(super) own: CallerOrder,
    /// Its place in line: what goes to another waiter of its caller's that is to go before it.
    pub(super) place: QueuePosition,
    pub(super) aged: Time,
    /// How many slots the place is for.
    pub(super) slots: u32,
    /// Whether it takes turns with other callers' waiters.
    pub(super) turns: bool,
    pub(super) kind: AskKind,
    /// The caller's own bound.
    pub(super) bound: Time,
    pub(super) deadline: Time,
    pub(super) lane: u32,
}

/// The waiters that need the same windows.
#[derive(Debug)]
pub(super) struct WaiterGroup {
    pub(super) windows: SmallVec<[u32; 2]>,
    pub(super) seats: QueueEntries,
    /// The slots that all of them need, by window.
    pub(super) totals: SmallVec<[u64; 2]>,
    pub(super) spot: Location,
    /// Whether the store is asked for slots for it.
    pub(super) asks: StoreAsk,
}

/// Where a lane waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Location {
    /// Nowhere: it is being looked at, or about to be.
    Detached,
    /// In a window's line.
    Queued(u32, QueuePosition),
    /// Held back at a window, for the sake of its claimant.
    Deferred(u32, QueuePosition),
}

/// What is to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dirty {
    Window(u32),
    Group(u32),
}

/// All waiters.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) waiters: Slab<Waiter>,
    pub(super) lanes: Slab<WaiterGroup>,
    pub(super) by_windows: BTreeMap<SmallVec<[u32; 2]>, u32>,
    pub(super) deadlines: BTreeSet<(Time, u32)>,
    /// When which window's line is to be looked at.
    pub(super) alarms: BTreeSet<(Time, u32)>,
    pub(super) work: VecDeque<Dirty>,
    /// Those who found room while the locker was held: their patience may be longer than their own until it is released.
    pub(super) held_over: Vec<Ticket>,
    seq: u64,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            waiters: Slab::new(),
            lanes: Slab::new(),
            by_windows: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            alarms: BTreeSet::new(),
            work: VecDeque::new(),
            held_over: Vec::new(),
            seq: 0,
        }
    }

    pub(super) fn holds(&self, ticket: Ticket) -> bool {
        self.waiters.generation(ticket.index) == Some(ticket.generation)
    }

    pub(super) fn ticket(&self, waiter: u32) -> Ticket {
        Ticket { index: waiter, generation: self.waiters.generation(waiter).unwrap_or(0) }
    }

    /// Whether nothing is left of anyone who waited.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let people = self.waiters.len() + self.lanes.len() + self.by_windows.len();
        people + self.deadlines.len() + self.alarms.len() + self.work.len() == 0
    }

    /// When something in the queue is due.
    pub(super) fn due(&self) -> Time {
        let alarm = self.alarms.first().map_or(Time::NEVER, |(at, _)| *at);
        let deadline = self.deadlines.first().map_or(Time::NEVER, |(at, _)| *at);
        alarm.min(deadline)
    }

    pub(super) fn lane_of(&self, wants: &[WindowDemand]) -> Option<u32> {
        let windows: SmallVec<[u32; 2]> = wants.iter().map(|want| want.window).collect();
        self.by_windows.get(&windows).copied()
    }
}

impl Locker {
    /// Puts a request that cannot go at once in line, if it may and will wait.
    pub(super) fn line_up(&mut self, ask: &Ask<'_>, needs: super::ClaimChecks, now: Time) -> Verdict {
        if !ask.kind.was_in_line()
            && let Some(sorry) = self.refuse_at_sight(ask, &needs, now)
        {
            return Verdict::Sorry(sorry);
        }
        let mut waiter = self.waiter(ask, now);
        self.want(&mut waiter, now);
        waiter.deadline = self.deadline(&waiter);
        let is_kept_back = needs.iter().any(|need| !need.room && !need.dry && !self.rules[need.limit.at()].dry_run);
        let is_held_over = self.held && !is_kept_back;
        if is_held_over || needs.iter().any(|need| need.dry) {
            // It waits for nobody's slot, only for its own to be written down, or for the locker to be released.
            waiter.deadline = waiter.deadline.max(now + WRITING);
        }
        if is_kept_back {
            self.seat(&mut waiter);
            let forecast = self.forecast(&waiter, now);
            let was_in_line = ask.kind.was_in_line();
            if waiter.deadline <= now || forecast.at > waiter.deadline && !was_in_line {
                let why = if was_in_line { RefusalReason::TimedOut } else { RefusalReason::TooLong };
                return Verdict::Sorry(forecast.sorry(why, now));
            }
        }
        let id = self.queue.waiters.insert(waiter);
        let ticket = self.queue.ticket(id);
        if is_held_over {
            self.queue.held_over.push(ticket);
        }
        self.link(id);
        self.run(now);
        if let Some(verdict) = self.verdict_of(ticket) {
            return verdict;
        }
        let forecast = self.forecast(&self.queue.waiters[id], now);
        if !ask.kind.was_in_line()
            && let Some((why, limit)) = self.refuse_in_line(id, now)
        {
            let sorry = forecast.sorry(self.why(id, why), now);
            self.part(id);
            self.run(now);
            return Verdict::Sorry(Sorry { limit: limit.unwrap_or(sorry.limit), ..sorry });
        }
        // Another may have been dropped for it.
        self.run(now);
        if let Some(verdict) = self.verdict_of(ticket) {
            return verdict;
        }
        Verdict::Wait(ticket, (forecast.at > now).then_some(forecast.at))
    }

    /// The refusals that a look at the windows is enough for.
    fn refuse_at_sight(&self, ask: &Ask<'_>, needs: &[ClaimCheck], now: Time) -> Option<Sorry> {
        for (claim, need) in ask.claims.iter().zip(needs) {
            let rule = &self.rules[need.limit.at()];
            if need.room || need.dry || rule.dry_run {
                continue;
            }
            let Some(waits) = need.window.and_then(|found| self.table.waits(found)) else { continue };
            if waits.waiting >= rule.max_waiting && !self.displaces(ask, waits, rule) {
                return Some(self.sorry_at(claim, need.window, RefusalReason::QueueFull, now));
            }
        }
        None
    }

    /// The refusals of one who has joined the line and was not let through, and by which limit if that is not the one that keeps
    /// it longest. If it stays where as many wait as may, another is refused.
    fn refuse_in_line(&mut self, id: u32, now: Time) -> Option<(RefusalReason, Option<LimitId>)> {
        let waiter = &self.queue.waiters[id];
        let kept_back_at = match self.queue.lanes[waiter.lane].spot {
            Location::Queued(window, _) | Location::Deferred(window, _) => Some(window),
            Location::Detached => None,
        };
        for want in &waiter.wants {
            let rule = &self.rules[want.limit.at()];
            if rule.refuses && kept_back_at == Some(want.window) && !self.is_dry(want, now) {
                return Some((RefusalReason::Full, None));
            }
        }
        if waiter.deadline <= now {
            return Some((RefusalReason::TooLong, None));
        }
        self.make_room(id, now).err().map(|limit| (RefusalReason::QueueFull, Some(limit)))
    }

    /// Why a waiter is refused; where the store cannot be asked, that is why.
    pub(super) fn why(&self, id: u32, why: RefusalReason) -> RefusalReason {
        let lost = self.queue.waiters[id].wants.iter().any(|want| self.rules[want.limit.at()].lost);
        if lost { RefusalReason::StoreLost } else { why }
    }

    /// Whether a waiter would go if what it takes were written down.
    fn waits_for_the_disk(&self, id: u32, now: Time) -> bool {
        let wants = &self.queue.waiters[id].wants;
        let mut written = wants.iter().filter(|want| !self.rules[want.limit.at()].pooled);
        written.any(|want| self.is_dry(want, now))
    }

    /// Whether a window keeps somebody back only until something of it is written down.
    pub(super) fn is_dry(&self, want: &WindowDemand, now: Time) -> bool {
        self.table.window(want.window).is_dry(&self.rules[want.limit.at()], want.cost, now)
    }

    fn waiter(&mut self, ask: &Ask<'_>, now: Time) -> Waiter {
        self.queue.seq += 1;
        let arrived = ask.arrived.map_or(now, |at| at.min(now));
        Waiter {
            claims: ask.claims.iter().copied().collect(),
            wants: SmallVec::new(),
            caller: ask.caller,
            urgency: ask.urgency.min(7),
            own: CallerOrder { urgency: 0, arrived, seq: self.queue.seq, id: u32::MAX },
            place: QueuePosition { class: 0, turn: 0, arrived, seq: self.queue.seq },
            aged: arrived,
            slots: 0,
            turns: false,
            kind: ask.kind,
            bound: ask.max_wait.map_or(Time::NEVER, |wait| arrived + wait),
            deadline: Time::NEVER,
            lane: 0,
        }
    }

    /// Finds or makes the windows that a waiter needs. Whether there may be so many keys was asked before.
    pub(super) fn want(&mut self, waiter: &mut Waiter, now: Time) {
        waiter.wants.clear();
        for claim in &waiter.claims {
            if self.rules[claim.limit.at()].dry_run {
                continue;
            }
            let found = self.table.find(claim.limit, claim.key);
            let window = found.unwrap_or_else(|| self.begin(claim.limit, claim.key, now));
            waiter.wants.push(WindowDemand { window, limit: claim.limit, cost: claim.cost });
        }
        self.choose_home(&mut waiter.wants);
    }

    /// Puts a window first of those of the first limit. A request may count under several keys of one limit, and its caller may
    /// have made one of them up: with that for its home it would take no turns. So the home is the window with the longest
    /// line, unless others wait for the same windows already: those that need the same wait in one lane, in one order.
    fn choose_home(&self, wants: &mut [WindowDemand]) {
        let Some(first) = wants.first().map(|want| want.limit) else { return };
        let of_first = wants.iter().take_while(|want| want.limit == first).count();
        if of_first <= 1 {
            return;
        }
        // The order in which a request names its keys makes no other lane.
        wants[..of_first].sort_unstable_by_key(|want| want.window);
        for home in 0..of_first {
            wants[..=home].rotate_right(1);
            if self.queue.lane_of(wants).is_some() {
                return;
            }
            wants[..=home].rotate_left(1);
        }
        let waiting = |want: &WindowDemand| self.table.window(want.window).waits().map_or(0, |waits| waits.waiting);
        // Of equal ones the first.
        let home = (0..of_first).rev().max_by_key(|at| waiting(&wants[*at])).unwrap_or(0);
        wants[..=home].rotate_right(1);
    }

    pub(super) fn deadline(&self, waiter: &Waiter) -> Time {
        let of_limit = |want: &WindowDemand| waiter.own.arrived + self.rules[want.limit.at()].max_wait;
        waiter.wants.iter().map(of_limit).fold(waiter.bound, Time::min)
    }

    /// A waiter leaves without having gone.
    pub(super) fn part(&mut self, id: u32) {
        self.unlink(id, DequeueReason::Left);
        self.queue.waiters.remove(id);
    }

    /// A waiter goes: all its slots are taken.
    pub(super) fn let_go(&mut self, id: u32, now: Time) {
        let ticket = self.queue.ticket(id);
        self.unlink(id, DequeueReason::Granted);
        let Some(waiter) = self.queue.waiters.remove(id) else { return };
        self.move_up(&waiter);
        let mut grant = Grant::default();
        for claim in &waiter.claims {
            let rule = &self.rules[claim.limit.at()];
            let window = self.table.find(claim.limit, claim.key);
            let room = match window {
                Some(found) if rule.dry_run => {
                    let window = self.table.window_mut(found);
                    window.expire(rule, now);
                    window.fits(rule, claim.cost, now)
                }
                Some(_) => true,
                None => rule.live < rule.max_keys,
            };
            let need = ClaimCheck { window, limit: claim.limit, room, dry: false };
            self.take_one(&mut grant, claim, need, now);
            if let Some(window) = window {
                self.return_unwanted(window);
            }
        }
        self.outbox.push_back((ticket, Verdict::Go(grant)));
    }

    /// Refuses the waiters whose patience ends.
    pub(super) fn time_out(&mut self, now: Time) {
        while let Some(&(deadline, id)) = self.queue.deadlines.first()
            && deadline <= now
        {
            let why = if self.waits_for_the_disk(id, now) { RefusalReason::Unwritten } else { RefusalReason::TimedOut };
            let why = self.why(id, why);
            let sorry = self.forecast(&self.queue.waiters[id], now).sorry(why, now);
            let ticket = self.queue.ticket(id);
            self.part(id);
            self.outbox.push_back((ticket, Verdict::Sorry(sorry)));
        }
    }

    /// The locker is not held any more: whoever waited for that and has not gone is as patient as its limits say.
    pub(super) fn end_holding_over(&mut self, now: Time) {
        for ticket in std::mem::take(&mut self.queue.held_over) {
            if !self.queue.holds(ticket) {
                continue;
            }
            let waiter = &self.queue.waiters[ticket.index];
            let (before, own) = (waiter.deadline, self.deadline(waiter));
            if own < before && !waiter.wants.iter().any(|want| self.is_dry(want, now)) {
                self.queue.deadlines.remove(&(before, ticket.index));
                self.queue.deadlines.insert((own, ticket.index));
                self.queue.waiters[ticket.index].deadline = own;
            }
        }
        self.time_out(now);
        self.run(now);
    }

    /// Takes a waiter's verdict out of what is to be told.
    pub(super) fn verdict_of(&mut self, ticket: Ticket) -> Option<Verdict> {
        let at = self.outbox.iter().rposition(|(told, _)| *told == ticket)?;
        self.outbox.remove(at).map(|(_, verdict)| verdict)
    }
}
