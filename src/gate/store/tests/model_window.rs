//! A window of the model: what is free when, and for whom.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Caller;
use super::model_terms::Terms;

const UNCAPPED: i64 = 1_000_000_000_000;
const RETRY: i64 = 20_000;
const FLIGHT_RETRY: i64 = 5_000;
const SOONEST_RETRY: i64 = 1_000;
const TAIL: usize = 128;
/// The cause that says that the caller is granted nothing.
pub(super) const SHUT: i64 = 1024;

/// What one gateway has in a window.
#[derive(Clone, Default, Debug)]
pub(super) struct Part {
    pub(super) held: i64,
    pub(super) flying: i64,
    pub(super) waiting: i64,
    pub(super) due: f64,
    pub(super) params: Option<Terms>,
}

/// A calendar's period, and of which calendar.
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
    pub(super) parts: BTreeMap<String, Part>,
}

/// A window in a call: what is kept of it, and what the caller says.
pub(super) struct Open {
    pub(super) key: String,
    pub(super) window: Window,
    /// The strictest.
    pub(super) params: Terms,
    pub(super) quantum: i64,
    pub(super) bounds: [i64; 3],
    pub(super) horizon: i64,
    /// By how much later what the caller sent may be counted elsewhere.
    pub(super) late: i64,
    /// What settled and is not in the log.
    pub(super) fresh: Vec<(i64, i64)>,
    pub(super) causes: BTreeSet<i64>,
    pub(super) room: i64,
    pub(super) most_flying: i64,
}

impl Open {
    fn is_shut(&self) -> bool {
        self.causes.contains(&SHUT)
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
                    window.mark = window.mark.max(bound) + count * self.params.interval;
                }
                let bound = bound.div_euclid(self.quantum) * self.quantum
                    + if bound.rem_euclid(self.quantum) > 0 { self.quantum } else { 0 };
                self.fresh.push((bound, count));
                window.settled += count;
            }
        }
    }

    /// Each into its place; none before the last `TAIL`.
    pub(super) fn write_log(&mut self) {
        let log = &mut self.window.log;
        let floor = log.len().checked_sub(TAIL).map_or(0, |at| log[at].0);
        for (bound, count) in self.fresh.drain(..) {
            let bound = bound.max(floor);
            match log.binary_search_by_key(&bound, |(at, _)| *at) {
                Ok(place) => log[place].1 += count,
                Err(place) => log.insert(place, (bound, count)),
            }
        }
    }

    pub(super) fn expire(&mut self, now: i64) {
        let window = &mut self.window;
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
        self.window.parts.values().map(|part| part.held).sum()
    }

    pub(super) fn flying(&self) -> i64 {
        self.window.parts.values().map(|part| part.flying).sum()
    }

    pub(super) fn free(&self) -> i64 {
        self.room - self.unsettled() - self.window.settled
    }

    /// Who else waits, and for how many slots.
    pub(super) fn others_waiting(&self, caller: &Caller) -> i64 {
        self.window.parts.iter().filter(|(session, _)| **session != caller.session).map(|(_, part)| part.waiting).sum()
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

    /// When the `nth` request may go, or how soon to look again.
    pub(super) fn opens(&self, caller: &Caller, nth: i64, cost: i64) -> Result<i64, i64> {
        if self.is_shut() {
            return Err(RETRY);
        }
        if self.flying() + nth > self.most_flying {
            return Err(FLIGHT_RETRY);
        }
        let opening = self.slot_opens(caller.now, nth * cost).ok_or(RETRY)?;
        let mut at = opening.max(caller.now).max(self.window.floor).max(self.window.paused);
        if self.window.kind == "calendar" {
            at = at.max(self.bounds[0]);
        }
        if self.window.kind == "smooth" {
            let saved = self.params.burst.max(cost) * self.params.interval;
            let needed = (self.unsettled() + nth * cost) * self.params.interval;
            let due = self.window.mark.max(caller.now) + needed - saved;
            if needed > saved {
                return Err((due - caller.now - self.horizon * 3 / 4).clamp(SOONEST_RETRY, RETRY));
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

    pub(super) fn allowance(&self, caller: &Caller, cost: i64) -> i64 {
        let others = self.others_waiting(caller);
        if self.window.kind == "none" || others == 0 || self.is_shut() {
            return i64::MAX;
        }
        let own = self.window.parts[&caller.session].clone();
        let part = own.waiting as f64 / (own.waiting + others).max(1) as f64;
        let mut may = ((own.due + self.free_soon(caller.now) as f64 * part).ceil() as i64).div_euclid(cost);
        if self.window.free_since.is_some_and(|since| caller.now - since >= 2 * self.horizon) {
            may = may.max(self.free().div_euclid(cost));
        }
        let waits =
            |(session, part): (&String, &Part)| (*session != caller.session && part.waiting > 0).then_some(part.due);
        if may < 1 && self.window.parts.iter().filter_map(waits).all(|due| due <= own.due) {
            may = 1;
        }
        may.max(0)
    }

    pub(super) fn owe(&mut self, caller: &Caller, taken: i64) {
        let others = self.others_waiting(caller);
        let most = self.params.requests as f64;
        let own = self.window.parts[&caller.session].clone();
        let all = own.waiting + others;
        let parts = &mut self.window.parts;
        let due = if others == 0 || all == 0 {
            0.0
        } else {
            for (_, part) in parts.iter_mut().filter(|(session, part)| **session != caller.session && part.waiting > 0)
            {
                part.due = most.min(part.due + (taken * part.waiting) as f64 / all as f64);
            }
            (-most).max(own.due + (taken * own.waiting) as f64 / all as f64 - taken as f64)
        };
        parts.entry(caller.session.clone()).or_default().due = due;
    }

    pub(super) fn spare(&self, caller: &Caller, wanted: i64, alive: i64) -> i64 {
        let is_apart = self.window.kind == "none" || self.window.kind == "smooth" || self.params.in_flight < UNCAPPED;
        let is_shut = self.window.floor.max(self.window.paused) > caller.now
            || (self.window.kind == "calendar" && caller.now < self.bounds[0]);
        if wanted == 0 || self.others_waiting(caller) > 0 || is_apart || is_shut {
            return 0;
        }
        wanted.min((self.free() - self.room / 2).div_euclid(2 * alive.max(1))).max(0)
    }
}

pub(super) fn take(
    open: &mut [Open],
    caller: &Caller,
    parts: &[(usize, i64)],
    (most, wanted): (i64, i64),
    alive: i64,
    answer: &mut Vec<i64>,
) {
    let may = parts.iter().map(|(place, cost)| open[*place].allowance(caller, *cost)).min().unwrap_or(i64::MAX);
    let horizon = parts.iter().map(|(place, _)| open[*place].horizon).min().unwrap_or(0);
    let span = parts.iter().map(|(place, _)| open[*place].window.span).min().unwrap_or(0);
    let (mut taken, mut later) = (0, 0);
    let mut laters = vec![0; parts.len()];
    let mut groups: Vec<(i64, i64)> = Vec::new();
    while taken < most {
        let looks: Vec<Result<i64, i64>> =
            parts.iter().map(|(place, cost)| open[*place].opens(caller, taken + 1, *cost)).collect();
        for ((later, look), (place, _)) in laters.iter_mut().zip(&looks).zip(parts) {
            *later = look.map_or_else(|again| again.min(open[*place].window.span), |at| at - caller.now);
        }
        if let Some(again) = looks.iter().filter_map(|look| look.err()).max() {
            later = -span.min(again).max(1);
            break;
        }
        let at = looks.iter().filter_map(|look| look.ok()).max().unwrap_or(caller.now).max(caller.now);
        if at > caller.now + horizon {
            later = at - caller.now;
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
        let own = window.window.parts.entry(caller.session.clone()).or_default();
        own.held += slots;
        own.flying += if is_capped { taken } else { 0 };
        window.owe(caller, slots);
        let own = window.window.parts.entry(caller.session.clone()).or_default();
        own.waiting = (own.waiting - slots).max(0);
        if parts.len() == 1 {
            extra = window.spare(caller, wanted, alive);
            window.window.parts.entry(caller.session.clone()).or_default().held += extra;
        }
    }
    answer.push(groups.len() as i64);
    for (at, count) in groups {
        answer.extend([at - caller.now, count]);
    }
    answer.extend([extra, later]);
    answer.extend(laters.into_iter().map(|each| if later != 0 { each } else { 0 }));
}
