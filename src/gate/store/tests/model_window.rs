//! Window of the model: its counts, opening times and fair shares.

use std::collections::{BTreeMap, BTreeSet};

use super::model::CallArgs;
use super::model_params::LimitParams;
use super::world_mutants::WorldMutant;

const UNCAPPED: i64 = 1_000_000_000_000;
const RETRY: i64 = 20_000;
const FLIGHT_RETRY: i64 = 5_000;
const SOONEST_RETRY: i64 = 1_000;
const TAIL: usize = 128;
/// Bit of a mismatch because of which the caller is granted nothing.
pub(super) const BLOCKED: i64 = 1024;

/// Counts of one gateway in a window.
#[derive(Clone, Default, Debug)]
pub(super) struct GatewayShare {
    pub(super) held: i64,
    pub(super) flying: i64,
    pub(super) waiting: i64,
    pub(super) credit: f64,
    pub(super) params: Option<LimitParams>,
}

/// A period of a calendar.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Period {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) calendar: String,
}

#[derive(Clone, Default, Debug)]
pub(super) struct Window {
    pub(super) kind: String,
    pub(super) span: i64,
    pub(super) floor: i64,
    pub(super) settled: i64,
    pub(super) began: i64,
    pub(super) over: i64,
    pub(super) mark: i64,
    pub(super) paused: i64,
    pub(super) period: Period,
    pub(super) free_since: Option<i64>,
    pub(super) log: Vec<(i64, i64)>,
    pub(super) shares: BTreeMap<String, GatewayShare>,
}

/// A window during a call: its stored state, and the caller's parameters.
pub(super) struct OpenWindow {
    pub(super) key: String,
    pub(super) window: Window,
    /// Parameters, merged to the strictest.
    pub(super) params: LimitParams,
    pub(super) quantum: i64,
    pub(super) bounds: [i64; 3],
    pub(super) horizon: i64,
    /// Time by which requests of the caller may be counted later by gateways that count answers, in µs.
    pub(super) late: i64,
    /// Settles that are not in the log yet: time and number.
    pub(super) unlogged: Vec<(i64, i64)>,
    pub(super) causes: BTreeSet<i64>,
    /// Rule that is broken on purpose.
    pub(super) mutant: Option<WorldMutant>,
    pub(super) room: i64,
    pub(super) most_flying: i64,
}

impl OpenWindow {
    fn is_blocked(&self) -> bool {
        self.causes.contains(&BLOCKED)
    }

    pub(super) fn settle(&mut self, bound: i64, count: i64) {
        let window = &mut self.window;
        if count == 0 {
            return;
        }
        match window.kind.as_str() {
            "none" => {}
            "calendar" => window.settled += if bound >= window.period.start { count } else { 0 },
            "fixed" => {
                let bound = bound.max(window.over);
                if window.settled > 0 && window.began + window.span <= bound {
                    (window.settled, window.over) = (0, window.began + window.span);
                }
                if window.settled == 0 {
                    window.began = bound;
                }
                window.settled += count;
            }
            kind => {
                if kind == "smooth" {
                    let is_alone = self.mutant == Some(WorldMutant::SmoothMarkAlone);
                    window.mark = if is_alone { bound } else { window.mark.max(bound) } + count * self.params.interval;
                }
                let bound = bound.div_euclid(self.quantum) * self.quantum
                    + if bound.rem_euclid(self.quantum) > 0 { self.quantum } else { 0 };
                self.unlogged.push((bound, count));
                window.settled += count;
            }
        }
    }

    /// Merges new settles into the log by time, none of them before its last `TAIL` entries.
    pub(super) fn write_log(&mut self) {
        let log = &mut self.window.log;
        let floor = log.len().checked_sub(TAIL).map_or(0, |at| log[at].0);
        for (bound, count) in self.unlogged.drain(..) {
            let bound = bound.max(floor);
            match log.binary_search_by_key(&bound, |(at, _)| *at) {
                Ok(place) => log[place].1 += count,
                Err(place) => log.insert(place, (bound, count)),
            }
        }
    }

    pub(super) fn expire(&mut self, now: i64) {
        let window = &mut self.window;
        let now = now + if self.mutant == Some(WorldMutant::ExpireEarly) { 1000 } else { 0 };
        match window.kind.as_str() {
            "fixed" if window.settled > 0 && window.began + window.span <= now => {
                (window.settled, window.over) = (0, window.began + window.span);
            }
            "sliding" | "smooth" => {
                let span = window.span;
                window.log.retain(|(at, _)| at + span > now);
                window.settled = window.log.iter().map(|(_, count)| count).sum();
            }
            _ => {}
        }
    }

    pub(super) fn unsettled(&self) -> i64 {
        self.window.shares.values().map(|share| share.held).sum()
    }

    pub(super) fn flying(&self) -> i64 {
        self.window.shares.values().map(|share| share.flying).sum()
    }

    pub(super) fn free(&self) -> i64 {
        self.room - self.unsettled() - self.window.settled
    }

    /// Number of slots for which other gateways wait.
    pub(super) fn others_waiting(&self, args: &CallArgs) -> i64 {
        self.window.shares.iter().filter(|(session, _)| **session != args.session).map(|(_, share)| share.waiting).sum()
    }

    pub(super) fn ends(&self, now: i64) -> i64 {
        match self.window.kind.as_str() {
            "fixed" => self.window.began + self.window.span,
            _ => self.bounds.into_iter().find(|bound| *bound > now).unwrap_or(now),
        }
    }

    pub(super) fn slot_opens(&self, now: i64, count: i64) -> Option<i64> {
        if self.window.kind == "none" || count <= self.free() {
            return Some(now);
        }
        if self.unsettled() + count > self.room {
            return None;
        }
        if self.window.kind == "fixed" || self.window.kind == "calendar" {
            return Some(self.ends(now));
        }
        let mut free = self.free();
        self.window.log.iter().find_map(|(at, freed)| {
            free += freed;
            (free >= count).then_some(at + self.window.span)
        })
    }

    /// Opening time of the `nth` request, or else the time until the next check.
    pub(super) fn opens(&self, args: &CallArgs, nth: i64, cost: i64) -> Result<i64, i64> {
        if self.is_blocked() {
            return Err(RETRY);
        }
        if self.flying() + nth > self.most_flying {
            return Err(FLIGHT_RETRY);
        }
        let opening = self.slot_opens(args.now, nth * cost).ok_or(RETRY)?;
        let mut at = opening.max(args.now).max(self.window.floor).max(self.window.paused);
        if self.window.kind == "calendar" {
            at = at.max(self.bounds[0]);
        }
        if self.window.kind == "smooth" {
            let saved = self.params.burst.max(cost) * self.params.interval;
            let needed = (self.unsettled() + nth * cost) * self.params.interval;
            let due = self.window.mark.max(args.now) + needed - saved;
            if needed > saved {
                return Err((due - args.now - self.horizon * 3 / 4).clamp(SOONEST_RETRY, RETRY));
            }
            at = at.max(due);
        }
        Ok(at)
    }

    pub(super) fn free_soon(&self, now: i64) -> i64 {
        if self.window.kind == "fixed" || self.window.kind == "calendar" {
            return if self.ends(now) <= now + self.horizon { self.room - self.unsettled() } else { self.free() };
        }
        let soon = self.window.log.iter().filter(|(at, _)| at + self.window.span <= now + self.horizon);
        self.free() + soon.map(|(_, count)| count).sum::<i64>()
    }

    pub(super) fn allowance(&self, args: &CallArgs, cost: i64) -> i64 {
        let others = self.others_waiting(args);
        if self.window.kind == "none" || others == 0 || self.is_blocked() {
            return i64::MAX;
        }
        let own = self.window.shares[&args.session].clone();
        let share = own.waiting as f64 / (own.waiting + others).max(1) as f64;
        let mut may = ((own.credit + self.free_soon(args.now) as f64 * share).ceil() as i64).div_euclid(cost);
        if self.window.free_since.is_some_and(|since| args.now - since >= 2 * self.horizon) {
            may = may.max(self.free().div_euclid(cost));
        }
        let waits = |(session, share): (&String, &GatewayShare)| {
            (*session != args.session && share.waiting > 0).then_some(share.credit)
        };
        if may < 1 && self.window.shares.iter().filter_map(waits).all(|credit| credit <= own.credit) {
            may = 1;
        }
        may.max(0)
    }

    pub(super) fn credit_others(&mut self, args: &CallArgs, taken: i64) {
        let others = self.others_waiting(args);
        let most = self.params.requests as f64;
        let own = self.window.shares[&args.session].clone();
        let all = own.waiting + others;
        let parts = &mut self.window.shares;
        let credit = if others == 0 || all == 0 {
            0.0
        } else {
            for (_, share) in parts.iter_mut().filter(|(session, share)| **session != args.session && share.waiting > 0)
            {
                share.credit = most.min(share.credit + (taken * share.waiting) as f64 / all as f64);
            }
            (-most).max(own.credit + (taken * own.waiting) as f64 / all as f64 - taken as f64)
        };
        parts.entry(args.session.clone()).or_default().credit = credit;
    }

    pub(super) fn prefetchable(&self, args: &CallArgs, wanted: i64, alive: i64) -> i64 {
        let is_apart = self.window.kind == "none" || self.window.kind == "smooth" || self.params.in_flight < UNCAPPED;
        let is_blocked = self.window.floor.max(self.window.paused) > args.now
            || (self.window.kind == "calendar" && args.now < self.bounds[0]);
        if wanted == 0 || self.others_waiting(args) > 0 || is_apart || is_blocked {
            return 0;
        }
        wanted.min((self.free() - self.room / 2).div_euclid(2 * alive.max(1))).max(0)
    }
}

/// Answers one slot request: grants what may pass within the horizon, and appends to the reply.
pub(super) fn grant_slots(
    open: &mut [OpenWindow],
    args: &CallArgs,
    parts: &[(usize, i64)],
    (most, wanted): (i64, i64),
    alive: i64,
    answer: &mut Vec<i64>,
) {
    let may = parts.iter().map(|(place, cost)| open[*place].allowance(args, *cost)).min().unwrap_or(i64::MAX);
    let horizon = parts.iter().map(|(place, _)| open[*place].horizon).min().unwrap_or(0);
    let span = parts.iter().map(|(place, _)| open[*place].window.span).min().unwrap_or(0);
    let (mut taken, mut later) = (0, 0);
    let mut laters = vec![0; parts.len()];
    let mut groups: Vec<(i64, i64)> = Vec::new();
    while taken < most {
        let looks: Vec<Result<i64, i64>> =
            parts.iter().map(|(place, cost)| open[*place].opens(args, taken + 1, *cost)).collect();
        for ((later, look), (place, _)) in laters.iter_mut().zip(&looks).zip(parts) {
            *later = look.map_or_else(|again| again.min(open[*place].window.span), |at| at - args.now);
        }
        if let Some(again) = looks.iter().filter_map(|look| look.err()).max() {
            later = -span.min(again).max(1);
            break;
        }
        let at = looks.iter().filter_map(|look| look.ok()).max().unwrap_or(args.now).max(args.now);
        if at > args.now + horizon {
            later = at - args.now;
            break;
        } else if taken >= may {
            later = -horizon.max(1);
            break;
        }
        taken += 1;
        match groups.last_mut() {
            Some(last) if last.0 == at => last.1 += 1,
            Some(_) | None => groups.push((at, 1)),
        }
    }
    let mut extra = 0;
    for (place, cost) in parts {
        let window = &mut open[*place];
        let slots = taken * cost;
        let is_capped = window.params.in_flight < UNCAPPED;
        let own = window.window.shares.entry(args.session.clone()).or_default();
        own.held += slots;
        own.flying += if is_capped { taken } else { 0 };
        window.credit_others(args, slots);
        let own = window.window.shares.entry(args.session.clone()).or_default();
        own.waiting = (own.waiting - slots).max(0);
        if parts.len() == 1 {
            extra = window.prefetchable(args, wanted, alive);
            window.window.shares.entry(args.session.clone()).or_default().held += extra;
        }
    }
    answer.push(groups.len() as i64);
    for (at, count) in groups {
        answer.extend([at - args.now, count]);
    }
    answer.extend([extra, later]);
    answer.extend(laters.into_iter().map(|each| if later != 0 { each } else { 0 }));
}
