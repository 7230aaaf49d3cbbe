//! Terms of a limit in the model: the strictest of what gateways say, the calendar's period, and gateways that are gone.

use std::collections::BTreeMap;

use super::model::{Caller, number_of};
use super::model_window::{Open, Part, Period, SHUT};

/// What a gateway says of a limit.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Terms {
    pub(super) requests: i64,
    pub(super) span: i64,
    pub(super) in_flight: i64,
    pub(super) kind: String,
    pub(super) interval: i64,
    pub(super) burst: i64,
    pub(super) linger: i64,
    pub(super) calendar: String,
}

/// Whether another gateway is there that goes by this name.
pub(super) fn is_other(present: &BTreeMap<String, i64>, caller: &Caller, session: &str) -> bool {
    number_of(session, &caller.process).is_none() && present.get(session).is_some_and(|at| *at >= caller.now)
}

impl Open {
    /// What the others say that are there.
    fn others(&self, present: &BTreeMap<String, i64>, caller: &Caller) -> Vec<Terms> {
        let parts = self.window.parts.iter().filter(|(session, _)| is_other(present, caller, session));
        parts.filter_map(|(_, part)| part.params.clone()).collect()
    }

    /// The strictest of what gateways say; returns what the caller says.
    pub(super) fn agree(&mut self, present: &BTreeMap<String, i64>, caller: &Caller) -> Terms {
        let own = self.params.clone();
        for theirs in self.others(present, caller) {
            let params = &mut self.params;
            let mut causes = vec![
                (theirs.requests != own.requests, 1),
                (theirs.span != own.span, 2),
                (theirs.in_flight != own.in_flight, 4),
                (theirs.linger != own.linger, 32),
            ];
            params.requests = params.requests.min(theirs.requests);
            params.span = params.span.max(theirs.span);
            params.in_flight = params.in_flight.min(theirs.in_flight);
            params.linger = params.linger.max(theirs.linger);
            if theirs.kind == own.kind {
                causes.push((theirs.interval != own.interval || theirs.burst != own.burst, 16));
                causes.push((theirs.calendar != own.calendar, 64));
                params.interval = params.interval.max(theirs.interval);
                params.burst = params.burst.min(theirs.burst);
            } else {
                causes.push((true, 8));
                if theirs.kind == self.window.kind {
                    causes.push((true, SHUT));
                    params.kind = theirs.kind;
                }
            }
            self.causes.extend(causes.into_iter().filter(|(differs, _)| *differs).map(|(_, cause)| cause));
        }
        if self.params.kind == "sliding" || self.params.kind == "smooth" {
            self.late = self.params.linger - own.linger;
        }
        self.window.parts.entry(caller.session.clone()).or_default().params = Some(own.clone());
        own
    }

    /// Which period we are in, and whether it is the one that is counted.
    pub(super) fn find_period(&mut self, present: &BTreeMap<String, i64>, caller: &Caller, own: &Terms) {
        let [first, second, third] = self.bounds;
        let (now, known) = (caller.now, self.window.period.clone());
        let period = |start, end| Period { start, end, calendar: own.calendar.clone() };
        let present_one = match now {
            _ if now >= third || first - now > second - first => return self.causes.extend([128, SHUT]),
            _ if now >= second => Some(period(second, third)),
            _ if now >= first => Some(period(first, second)),
            _ => None,
        };
        let start = present_one.as_ref().map_or(first, |one| one.start);
        let is_same = present_one.as_ref().is_some_and(|one| (one.start, one.end) == (known.start, known.end));
        if start >= known.end {
            if let Some(one) = present_one {
                (self.window.period, self.window.settled) = (one, 0);
            }
        } else if is_same {
        } else if self.others(present, caller).iter().any(|theirs| theirs.calendar == known.calendar) {
            self.causes.extend([64, SHUT]);
        } else if let Some(one) = present_one {
            self.window.floor = self.window.floor.max(one.end);
            (self.window.period, self.window.settled) = (one, 0);
        }
    }

    pub(super) fn bury(&mut self, present: &BTreeMap<String, i64>, caller: &Caller, fresh: bool) {
        let own = number_of(&caller.session, &caller.process);
        let is_earlier = |session: &String| {
            let number = number_of(session, &caller.process);
            number.is_some() && number < own
        };
        let is_dead = |session: &String| {
            let is_gone = present.get(session).is_none_or(|till| *till < caller.now);
            *session != caller.session && (is_gone || (fresh && is_earlier(session)))
        };
        let settles_late = self.window.kind == "fixed" || self.window.kind == "calendar";
        let mut dead: Vec<(i64, i64)> = Vec::new();
        for (session, part) in self.window.parts.iter_mut().filter(|(session, _)| is_dead(session)) {
            let Part { held, params, .. } = std::mem::take(part);
            let linger = params.as_ref().map_or(0, |params| params.linger).max(self.params.linger);
            let at = present.get(session).copied().unwrap_or(caller.now - linger) + linger;
            if is_earlier(session) {
            } else if settles_late && caller.now < at {
                (part.held, part.params) = (held, params);
            } else {
                dead.push((at, held));
            }
        }
        dead.sort_unstable();
        for (at, held) in dead {
            self.settle(at, held);
        }
        self.window.parts.retain(|session, part| !is_dead(session) || part.held > 0);
    }
}
