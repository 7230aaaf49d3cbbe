//! Lets waiters go: looks at the lines of windows that have news, and at lanes that have a new head.

use super::Locker;
use super::api::{LimitId, RefusalReason, Verdict};
use super::queue::{Dirty, Location, Waiter, WindowDemand};
use super::window::Window;
use super::window_queue::{GroupQueue, QueueEntry, QueuePosition, WindowQueue, first};
use crate::time::Time;

/// What a look at a lane's head found.
enum GroupCheck {
    /// It may go.
    Go(u32),
    /// This window keeps it back.
    Blocked(u32),
    /// Other lanes come first at this window, in whose line it is now.
    Behind,
    /// At this window it would make the claimant later, who starts then (if that is known).
    Reserved(u32, Option<Time>),
}

impl Locker {
    /// Something may have opened here, or become known.
    pub(super) fn news(&mut self, window: u32) {
        let Some(waits) = self.table.waits(window) else { return };
        let claimant = waits.claimants.first().copied();
        self.queue.work.push_back(Dirty::Window(window));
        let Some((_, _, claimant)) = claimant else { return };
        // The claimant's start may have moved, which may let others go elsewhere.
        for want in &self.queue.waiters[claimant].wants {
            let waits = self.table.waits(want.window);
            if want.window != window && waits.is_some_and(|waits| !waits.held.is_empty()) {
                self.queue.work.push_back(Dirty::Window(want.window));
            }
        }
    }

    /// All windows of a limit may have news.
    pub(super) fn limit_news(&mut self, limit: LimitId) {
        for window in self.table.of_limit(limit) {
            self.news(window);
        }
    }

    /// Looks at the windows whose alarm has come.
    pub(super) fn ring(&mut self, now: Time) {
        while let Some(&(at, window)) = self.queue.alarms.first()
            && at <= now
        {
            self.queue.alarms.pop_first();
            if let Some(waits) = self.table.get_mut(window).and_then(|window| window.waits_mut()) {
                waits.armed = None;
            }
            self.news(window);
        }
    }

    /// Does all work that has come up. Afterwards nobody waits who may go, unless they are held.
    pub(super) fn run(&mut self, now: Time) {
        if self.held {
            return self.rearm();
        }
        while let Some(work) = self.queue.work.pop_front() {
            match work {
                Dirty::Window(window) => self.serve(window, now),
                Dirty::Group(lane) => {
                    if let Location::Queued(window, _) | Location::Deferred(window, _) = self.detach(lane) {
                        self.queue.work.push_back(Dirty::Window(window));
                    }
                    self.attempt(lane, now);
                }
            }
        }
        self.rearm();
    }

    /// Looks at who waits at a window, in order, until the first in line is kept back by it.
    fn serve(&mut self, window: u32, now: Time) {
        let mut stuck = None;
        let mut held_too = true;
        while let Some(waits) = self.table.waits(window) {
            let line = waits.line.first().filter(|(_, seat)| stuck != Some(seat.who));
            let held = waits.held.first().filter(|_| held_too);
            let (lane, was_held) = match (line, held) {
                (Some(line), Some(held)) if before(&held, &line) => (held.1.who, true),
                (Some(line), _) => (line.1.who, false),
                (None, Some(held)) => (held.1.who, true),
                (None, None) => break,
            };
            self.detach(lane);
            let went = self.attempt(lane, now);
            // Another window may keep back what was held here; the next may go all the same.
            if went == 0 && was_held && self.waits_at(lane, window) {
                held_too = false;
            }
            if !was_held {
                stuck = Some(lane);
            }
        }
        self.arm(window, None, now);
    }

    /// Whether a lane is in one of a window's lines.
    fn waits_at(&self, lane: u32, window: u32) -> bool {
        let spot = self.queue.lanes.get(lane).map(|lane| lane.spot);
        matches!(spot, Some(Location::Queued(at, _) | Location::Deferred(at, _)) if at == window)
    }

    /// Lets a lane's waiters go as long as they may; then the lane waits where it is kept back. Returns how many went.
    fn attempt(&mut self, lane: u32, now: Time) -> usize {
        let mut went = 0;
        while self.queue.lanes.get(lane).is_some() {
            match self.look_at(lane, now) {
                GroupCheck::Go(waiter) if self.puts_off(waiter) => {}
                GroupCheck::Go(waiter) => match self.goes_instead(waiter, now) {
                    Some(other) => self.change_places(waiter, other),
                    None => {
                        self.let_go(waiter, now);
                        went += 1;
                    }
                },
                GroupCheck::Blocked(window) if self.turns_away(lane, window, now) => {}
                GroupCheck::Blocked(window) => {
                    if self.rules[self.table.window(window).limit.at()].pooled {
                        self.ask_store(lane, window, now);
                    }
                    self.attach(lane, window, Location::Queued);
                    self.arm(window, None, now);
                    break;
                }
                GroupCheck::Behind => break,
                GroupCheck::Reserved(window, _) if self.turns_away(lane, window, now) => {}
                GroupCheck::Reserved(window, start) => {
                    self.attach(lane, window, Location::Deferred);
                    self.arm(window, start, now);
                    break;
                }
            }
        }
        went
    }

    /// What comes of it that a window keeps a lane's head back: what is to be written down is asked for; whoever does not
    /// wait for slots, and has only waited for that, is refused. Whether it is.
    fn turns_away(&mut self, lane: u32, window: u32, now: Time) -> bool {
        let Some((_, seat)) = first(&self.queue.lanes[lane].seats) else { return false };
        let waiter = &self.queue.waiters[seat.who];
        let Some(want) = waiter.wants.iter().find(|want| want.window == window) else { return false };
        let rule = &self.rules[want.limit.at()];
        if self.is_dry(want, now) {
            if !rule.pooled {
                self.ask_for_record(window);
            }
            return false;
        }
        if rule.pooled && self.table.window(window).share_opens(rule, want.cost, now).is_some_and(|at| at > now) {
            return false;
        }
        // Its own patience is over, but not the time that the writing may take.
        let why = match self.deadline(waiter) <= now && waiter.deadline > now {
            _ if rule.refuses => RefusalReason::Full,
            true => RefusalReason::TooLong,
            false => return false,
        };
        let sorry = self.forecast(waiter, now).sorry(self.why(seat.who, why), now);
        let ticket = self.queue.ticket(seat.who);
        self.part(seat.who);
        self.outbox.push_back((ticket, Verdict::Sorry(sorry)));
        true
    }

    /// May the head of a lane go now?
    fn look_at(&mut self, lane: u32, now: Time) -> GroupCheck {
        let (place, seat) = first(&self.queue.lanes[lane].seats).expect("a lane without waiters is dropped");
        let waiter = &self.queue.waiters[seat.who];
        let (mut crowded, mut dry) = (None, None);
        for want in &waiter.wants {
            let rule = &self.rules[want.limit.at()];
            let window = self.table.window_mut(want.window);
            window.expire(rule, now);
            if !window.fits(rule, want.cost, now) {
                // The store is asked when nothing else keeps it back, so that what it grants can be used.
                if rule.pooled {
                    let later = window.later(rule, want.cost);
                    dry = dry.filter(|(_, other)| *other >= later).or(Some((want.window, later)));
                    continue;
                }
                return GroupCheck::Blocked(want.window);
            }
            if crowded.is_none() && window.waits().is_some_and(|waits| !waits.line.is_empty()) {
                crowded = Some(want.window);
            }
        }
        if let Some((window, _)) = dry {
            return GroupCheck::Blocked(window);
        }
        let claimed = self.claimed(waiter, seat.who, lane, now);
        if crowded.is_some() {
            for window in self.queue.lanes[lane].windows.clone() {
                if self.comes_behind(lane, window, place, seat) {
                    return GroupCheck::Behind;
                }
            }
        }
        match claimed {
            Some((window, start)) => GroupCheck::Reserved(window, start),
            None => GroupCheck::Go(seat.who),
        }
    }

    /// Whether others come first at a window; if so, the lane stays in its line.
    fn comes_behind(&mut self, lane: u32, window: u32, place: QueuePosition, seat: QueueEntry) -> bool {
        let waits = self.table.window_mut(window).waits_begun();
        if waits.line.is_empty() {
            return false;
        }
        self.attach(lane, window, Location::Queued);
        let waits = self.table.window_mut(window).waits_begun();
        let comes_first = waits.line.first() == Some((place, QueueEntry { who: lane, ..seat }));
        if comes_first {
            self.detach(lane);
        }
        !comes_first
    }

    /// Whether a waiter would make an older one that needs several windows later, before which it has no turn; where, and when
    /// that one starts.
    fn claimed(&self, waiter: &Waiter, id: u32, lane: u32, now: Time) -> Option<(u32, Option<Time>)> {
        let age = (waiter.own.arrived, waiter.own.seq, id);
        for want in &waiter.wants {
            let waits = self.table.window(want.window).waits()?;
            let Some(&first) = waits.claimants.first() else { continue };
            let claimant = &self.queue.waiters[first.2];
            if first >= age || claimant.lane == lane || comes_first(waiter, claimant) {
                continue;
            }
            let start = self.start(claimant, &[], now);
            let start_after = self.start(claimant, &waiter.wants, now);
            let moves = match (start, start_after) {
                (Some(start), Some(after)) => after > start,
                (Some(_), None) => true,
                (None, _) => self.holds_slots(claimant, now) && self.takes_from(claimant, &waiter.wants, now),
            };
            if moves {
                return Some((want.window, start));
            }
        }
        None
    }

    /// When a waiter could start, if `before` were granted and settled now; `None` if unknown.
    fn start(&self, waiter: &Waiter, before: &[WindowDemand], now: Time) -> Option<Time> {
        let mut start = now;
        for want in &waiter.wants {
            start = start.max(self.opening_after(want, before, now)?);
        }
        Some(start)
    }

    fn opening_after(&self, want: &WindowDemand, before: &[WindowDemand], now: Time) -> Option<Time> {
        let ahead = before.iter().find(|other| other.window == want.window);
        let (slots, flights) = ahead.map_or((0, 0), |other| (u64::from(other.cost), 1));
        let rule = &self.rules[want.limit.at()];
        self.table.window(want.window).opening(rule, slots, flights, want.cost, now)
    }

    /// A claimant whose start is unknown keeps slots for itself once it has waited for longer than they take to open.
    fn holds_slots(&self, claimant: &Waiter, now: Time) -> bool {
        let spans = claimant.wants.iter().map(|want| self.rules[want.limit.at()].span);
        u64::try_from(now.since(claimant.own.arrived).as_nanos()).unwrap_or(u64::MAX) >= spans.max().unwrap_or(0)
    }

    /// Whether `before` would take slots that are open and that the waiter needs.
    fn takes_from(&self, waiter: &Waiter, before: &[WindowDemand], now: Time) -> bool {
        waiter.wants.iter().any(|want| {
            self.opening_after(want, &[], now) == Some(now) && self.opening_after(want, before, now) != Some(now)
        })
    }

    pub(super) fn attach(&mut self, lane: u32, window: u32, spot: fn(u32, QueuePosition) -> Location) {
        let found = &mut self.queue.lanes[lane];
        let Some((place, seat)) = first(&found.seats) else { return };
        found.spot = spot(window, place);
        let home = found.windows.first().copied().unwrap_or(window);
        let seat = QueueEntry { who: lane, ..seat };
        line_at(self.table.window_mut(window), found.spot).insert(home, place, seat);
    }

    /// Takes a lane from where it waits, and says where that was.
    pub(super) fn detach(&mut self, lane: u32) -> Location {
        let Some(found) = self.queue.lanes.get_mut(lane) else { return Location::Detached };
        let spot = std::mem::replace(&mut found.spot, Location::Detached);
        if let Location::Queued(window, place) | Location::Deferred(window, place) = spot {
            let home = found.windows.first().copied().unwrap_or(window);
            line_at(self.table.window_mut(window), spot).remove(home, place);
        }
        spot
    }

    /// Sets the moment at which a window's line is looked at again: when its first can go, or when the
    /// claimant for whose sake others are held is to start.
    fn arm(&mut self, window: u32, claimed_until: Option<Time>, now: Time) {
        // Work that came up while the locker was held may be for a window that has been swept since.
        let Some(found) = self.table.get(window) else { return };
        let Some(waits) = found.waits() else { return };
        let opening = waits.line.first().and_then(|(_, seat)| {
            let lane = &self.queue.lanes[seat.who];
            let (_, head) = first(&lane.seats)?;
            let want = self.queue.waiters[head.who].wants.iter().find(|want| want.window == window)?;
            found.opening(&self.rules[want.limit.at()], 0, 0, want.cost, now)
        });
        let still = waits.armed.filter(|_| !waits.held.is_empty());
        let times = [opening, claimed_until, still];
        // What can go now is kept back by something that will have news of its own.
        let next = times.into_iter().flatten().filter(|at| *at > now).min();
        let armed = waits.armed;
        if next == armed {
            return;
        }
        if let Some(at) = armed {
            self.queue.alarms.remove(&(at, window));
        }
        if let Some(at) = next {
            self.queue.alarms.insert((at, window));
        }
        self.table.window_mut(window).waits_begun().armed = next;
    }
}

fn line_at(window: &mut Window, spot: Location) -> &mut GroupQueue {
    let waits: &mut WindowQueue = window.waits_begun();
    match spot {
        Location::Deferred(..) => &mut waits.held,
        Location::Queued(..) | Location::Detached => &mut waits.line,
    }
}

/// Whether a waiter comes before another by the turns of the home that they share.
fn comes_first(one: &Waiter, other: &Waiter) -> bool {
    let home = |waiter: &Waiter| waiter.wants.first().map(|want| want.window);
    let first = match one.place.class == other.place.class {
        true => one.place < other.place,
        false => (one.aged, one.place.seq) < (other.aged, other.place.seq),
    };
    first && home(one) == home(other)
}

fn before(one: &(QueuePosition, QueueEntry), other: &(QueuePosition, QueueEntry)) -> bool {
    (one.1.aged, one.0.seq) < (other.1.aged, other.0.seq)
}
