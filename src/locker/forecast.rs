//! When a waiter will go, told on its arrival.
//!
//! A waiter's rank is the number of slots that those before it in its lane need, plus its own. The
//! slots of a window open in a known order: those free now, those that settled, oldest first, then
//! those not settled yet; after one turn through all N, the same again a span later.

use super::Locker;
use super::api::{Claim, LimitId, RefusalReason, Sorry};
use super::limit::Priority;
use super::queue::{Waiter, WaiterGroup, WindowDemand};
use super::window::{Algorithm, Window, WindowRule, later};
use super::window_queue::{QueueEntry, QueuePosition};
use crate::time::Time;

/// How many others are looked at to find a rank, at most; beyond, the rank is a lower bound.
const LOOKED_AT: usize = 64;

const MILLISECOND: u64 = 1_000_000;

/// When a waiter goes, at the earliest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecast {
    pub(super) at: Time,
    /// Whether it goes exactly then if nothing else happens.
    exact: bool,
    /// The limit it waits for longest.
    limit: LimitId,
}

impl Forecast {
    pub(super) fn sorry(self, why: RefusalReason, now: Time) -> Sorry {
        let exact = self.exact && self.at > now;
        let until = if exact { self.at } else { self.at.max(later(now, MILLISECOND)) };
        Sorry { why, limit: self.limit, until, exact }
    }
}

/// How many slots those before a waiter need.
struct SlotsAhead {
    ahead: Vec<u64>,
    /// Whether that is all of them, and in which order they go is settled.
    sure: bool,
    /// Whether each of them needs one slot.
    even: bool,
}

impl Locker {
    /// When a waiter goes, or would go if it joined the line.
    pub(super) fn forecast(&self, waiter: &Waiter, now: Time) -> Forecast {
        let lane = self.queue.lane_of(&waiter.wants).map(|lane| &self.queue.lanes[lane]);
        let rank = self.rank(lane, waiter);
        let mut forecast = Forecast { at: now, exact: false, limit: LimitId(0) };
        for (want, ahead) in waiter.wants.iter().zip(&rank.ahead) {
            let rule = &self.rules[want.limit.at()];
            let (at, known) = slot_opens(rule, self.table.window(want.window), *ahead, rank.even, want.cost, now);
            if at >= forecast.at {
                let alone = waiter.wants.len() == 1 && self.one_flow(lane, waiter);
                forecast = Forecast { at, exact: known && alone && rank.sure, limit: want.limit };
            }
        }
        forecast
    }

    /// When asking a window again makes sense, for one that never joined its line.
    pub(super) fn sorry_at(&self, claim: &Claim, window: Option<u32>, why: RefusalReason, now: Time) -> Sorry {
        let Claim { limit, key, cost } = *claim;
        let rule = &self.rules[limit.at()];
        let why = if rule.lost { RefusalReason::StoreLost } else { why };
        let (at, known) = match window.map(|found| self.table.window(found)) {
            Some(window) => {
                let (at, known) = slot_opens(rule, window, 0, true, cost, now);
                (at, known && window.waits().is_none())
            }
            // The store has not been asked about this key.
            None if rule.pooled => (later(now, rule.span), false),
            // One that begins shows what may have been taken under any key.
            None => slot_opens(rule, &Window::new(limit, key, rule, now), 0, true, cost, now),
        };
        Forecast { at, exact: known, limit }.sorry(why, now)
    }

    /// Whether the lane's waiters are all that wait there, of one caller and one class, or take no turns.
    fn one_flow(&self, lane: Option<&WaiterGroup>, waiter: &Waiter) -> bool {
        let Some(lane) = lane else { return true };
        let waits = self.table.window(waiter.wants[0].window).waits();
        let turns = |turns: &super::fair_queue::FairQueue| !waiter.turns || turns.only(waiter.caller);
        let one_class = lane.seats.first_key_value().map(|(place, _)| place.class) == Some(waiter.place.class)
            && lane.seats.last_key_value().map(|(place, _)| place.class) == Some(waiter.place.class);
        let own = waits.is_none_or(|waits| !waits.callers.is_mixed(waiter.caller, waiter.own.urgency));
        one_class && own && waits.is_none_or(|waits| waits.waiting == lane.seats.len() && turns(&waits.turns))
    }

    /// The place in which a waiter may go: its own, or the first of its caller's if less urgent ones of that wait.
    fn best_place(&self, waiter: &Waiter) -> QueuePosition {
        let waits = waiter.wants.first().and_then(|home| self.table.waits(home.window));
        let Some(waits) = waits.filter(|waits| waits.callers.has_less_urgent(waiter.caller, waiter.own.urgency)) else {
            return waiter.place;
        };
        let rule = &self.rules[waiter.wants[0].limit.at()];
        match rule.priority {
            Priority::Strict | Priority::None => waiter.place,
            Priority::WithinCaller => {
                let first = waits.callers.first_place(waiter.caller).map(|(place, _)| place);
                first.map_or(waiter.place, |place| place.min(waiter.place))
            }
        }
    }

    fn rank(&self, lane: Option<&WaiterGroup>, waiter: &Waiter) -> SlotsAhead {
        let nobody = SlotsAhead { ahead: vec![0; waiter.wants.len()], sure: true, even: true };
        let Some(lane) = lane else { return nobody };
        let place = self.best_place(waiter);
        let of_class = QueuePosition { turn: 0, arrived: Time::START, seq: 0, ..place };
        if let Some(ahead) = self.at_least_ahead(lane, waiter, place) {
            return SlotsAhead { ahead, sure: false, even: false };
        }
        let one_class = lane.seats.range(..of_class).next().is_none();
        let behind: Vec<&QueueEntry> = lane.seats.range(place..).map(|(_, seat)| seat).take(LOOKED_AT + 1).collect();
        if one_class && behind.len() <= LOOKED_AT {
            let mut ahead = lane.totals.to_vec();
            self.add_costs(&mut ahead, behind.iter().copied(), |total, cost| total - cost);
            let before = lane.seats.len() - behind.len();
            let even = ahead.iter().all(|total| *total == before as u64);
            return SlotsAhead { ahead, sure: true, even };
        }
        let mut rank = nobody;
        let before = lane.seats.range(of_class..place).map(|(_, seat)| seat).take(LOOKED_AT);
        self.add_costs(&mut rank.ahead, before, |total, cost| total + cost);
        rank.sure = false;
        rank
    }

    /// How many slots are used before a place in any case, where callers may put forward requests of other costs than those
    /// whose places are before it; `None` if none may.
    fn at_least_ahead(&self, lane: &WaiterGroup, waiter: &Waiter, place: QueuePosition) -> Option<Vec<u64>> {
        let home = waiter.wants.first()?;
        let waits = self.table.waits(home.window)?;
        let seats = lane.seats.len();
        let is_even = !waits.turns.may_shift() && lane.totals.iter().all(|total| *total == seats as u64);
        let is_alone = waiter.turns && waits.turns.only(waiter.caller);
        if self.rules[home.limit.at()].priority != Priority::WithinCaller || is_even || is_alone {
            return None;
        }
        if !waiter.turns {
            let of_class = QueuePosition { turn: 0, arrived: Time::START, seq: 0, ..place };
            let before = lane.seats.range(of_class..place).take(LOOKED_AT).count();
            return Some(vec![before as u64; waiter.wants.len()]);
        }
        let mut ahead = vec![0; waiter.wants.len()];
        // Others may be kept back elsewhere.
        let flows = waits.turns.flows().take(if waits.waiting == seats { LOOKED_AT } else { 0 });
        for (caller, due) in flows {
            // A caller goes as long as its turn is an earlier one.
            let slots = waits.callers.slots(caller).min(place.turn.saturating_sub(due));
            for (number, total) in ahead.iter_mut().enumerate() {
                *total += if number == 0 { slots } else { slots.min(1) };
            }
        }
        Some(ahead)
    }

    fn add_costs<'a>(&self, totals: &mut [u64], seats: impl Iterator<Item = &'a QueueEntry>, sum: fn(u64, u64) -> u64) {
        for seat in seats {
            let wants: &[WindowDemand] = &self.queue.waiters[seat.who].wants;
            for (total, want) in totals.iter_mut().zip(wants) {
                *total = sum(*total, u64::from(want.cost));
            }
        }
    }
}

/// The earliest moment at which a window lets `cost` slots go after `ahead` others, and whether it is that moment.
fn slot_opens(rule: &WindowRule, window: &Window, ahead: u64, even: bool, cost: u32, now: Time) -> (Time, bool) {
    if rule.pooled {
        let opens = window.share_opens(rule, cost, now).filter(|_| ahead == 0);
        let least = window.later(rule, cost).max(window.paused()).max(now);
        let turns = (ahead + u64::from(cost)).saturating_sub(1) / u64::from(rule.requests.max(1));
        return (opens.unwrap_or(least).max(later(now, turns.saturating_sub(1).saturating_mul(rule.span))), false);
    }
    let certain = window.unsettled == 0 && !rule.answered && !rule.counts_flights() && !rule.period.is_unsure;
    if let Some(at) = window.opening(rule, ahead, 0, cost, now) {
        return (at, certain && (ahead == 0 || !matches!(rule.form, Algorithm::Smooth)));
    }
    let from = window.paused().max(now);
    let rank = ahead.saturating_add(u64::from(cost));
    let requests = u64::from(rule.requests);
    let (cycles, place) = ((rank - 1) / requests, (rank - 1) % requests + 1);
    let even = even && cost == 1;
    match rule.form {
        Algorithm::Uncounted => (from, false),
        Algorithm::Sliding | Algorithm::Smooth => {
            let first = window.opening_at_best(rule, place, from);
            let at = later(first, cycles.saturating_mul(rule.span));
            let spaced = window.spacing_at_best(rule, ahead, cost, from);
            (at.max(spaced), certain && even && rule.quantum == 1 && matches!(rule.form, Algorithm::Sliding))
        }
        Algorithm::Fixed | Algorithm::Calendar { .. } => next_windows(rule, window, rank, certain && even, from),
    }
}

/// Where all slots of a window open at once: how many windows on the rank comes.
fn next_windows(rule: &WindowRule, window: &Window, rank: u64, certain: bool, from: Time) -> (Time, bool) {
    let requests = u64::from(rule.requests);
    let free = requests.saturating_sub(u64::from(window.in_log));
    if rank <= free {
        return (from, false);
    }
    let windows = (rank - free - 1) / requests;
    let calendar = matches!(rule.form, Algorithm::Calendar { .. });
    if calendar {
        return (rule.period_end(windows).max(from), certain && windows == 0);
    }
    let end = if window.in_log == 0 { later(from, rule.span) } else { window.next_window(rule).max(from) };
    (later(end, windows.saturating_mul(rule.span)), certain)
}
