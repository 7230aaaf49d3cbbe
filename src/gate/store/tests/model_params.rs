//! Parameters of a limit in the model: merging to the strictest, the calendar's period, and slots
//! of gateways that are gone.

use std::collections::BTreeMap;

use super::model::{CallArgs, number_of};
use super::model_window::{BLOCKED, GatewayShare, OpenWindow, Period};
use super::world_mutants::WorldMutant;

/// Parameters of a limit in a gateway's configuration; durations in µs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct LimitParams {
    pub(super) requests: i64,
    pub(super) span: i64,
    pub(super) in_flight: i64,
    pub(super) kind: String,
    pub(super) interval: i64,
    pub(super) burst: i64,
    pub(super) linger: i64,
    pub(super) calendar: String,
    /// Text of another version in which nothing can be read.
    pub(super) unreadable: Option<String>,
}

/// Returns true for a present session of another process.
pub(super) fn is_other(present: &BTreeMap<String, i64>, args: &CallArgs, session: &str) -> bool {
    number_of(session, &args.process).is_none() && present.get(session).is_some_and(|at| *at >= args.now)
}

impl OpenWindow {
    /// Parameters of the other present gateways.
    fn others(&self, present: &BTreeMap<String, i64>, args: &CallArgs) -> Vec<LimitParams> {
        let parts = self.window.shares.iter().filter(|(session, _)| is_other(present, args, session));
        parts.filter_map(|(_, share)| share.params.clone()).collect()
    }

    /// Merges the caller's parameters with those of the others to the strictest; returns the
    /// caller's own.
    pub(super) fn merge_params(&mut self, present: &BTreeMap<String, i64>, args: &CallArgs) -> LimitParams {
        let own = self.params.clone();
        for theirs in self.others(present, args) {
            if theirs.unreadable.is_some() {
                self.causes.extend([256, BLOCKED]);
                continue;
            }
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
                    causes.push((true, BLOCKED));
                    params.kind = theirs.kind;
                }
            }
            self.causes.extend(causes.into_iter().filter(|(differs, _)| *differs).map(|(_, cause)| cause));
        }
        if self.params.kind == "sliding" || self.params.kind == "smooth" {
            self.late = self.params.linger - own.linger;
        }
        self.window.shares.entry(args.session.clone()).or_default().params = Some(own.clone());
        own
    }

    /// Finds the present period of a calendar window, and starts it if it is a new one.
    pub(super) fn find_period(&mut self, present: &BTreeMap<String, i64>, args: &CallArgs, own: &LimitParams) {
        let [first, second, third] = self.bounds;
        let (now, known) = (args.now, self.window.period.clone());
        let period = |start, end| Period { start, end, calendar: own.calendar.clone() };
        let present_one = match now {
            _ if now >= third || first - now > second - first => return self.causes.extend([128, BLOCKED]),
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
        } else if self
            .others(present, args)
            .iter()
            .any(|theirs| theirs.unreadable.is_none() && theirs.calendar == known.calendar)
        {
            self.causes.extend([64, BLOCKED]);
        } else if let Some(one) = present_one {
            self.window.floor = self.window.floor.max(one.end);
            (self.window.period, self.window.settled) = (one, 0);
        }
    }

    /// Settles the slots of gateways that are gone.
    pub(super) fn settle_dead(&mut self, present: &BTreeMap<String, i64>, args: &CallArgs, is_new: bool) {
        let own = number_of(&args.session, &args.process);
        let is_earlier = |session: &String| {
            let number = number_of(session, &args.process);
            number.is_some() && number < own
        };
        let is_dead = |session: &String| {
            let is_gone = present.get(session).is_none_or(|till| *till < args.now);
            *session != args.session && (is_gone || (is_new && is_earlier(session)))
        };
        let settles_late = self.window.kind == "fixed" || self.window.kind == "calendar";
        let mut dead: Vec<(i64, i64)> = Vec::new();
        for (session, share) in self.window.shares.iter_mut().filter(|(session, _)| is_dead(session)) {
            let GatewayShare { held, params, .. } = std::mem::take(share);
            let linger = match self.mutant {
                Some(WorldMutant::DeadWithoutLinger) => 0,
                Some(WorldMutant::DeadAtLastCall) => -args.presence,
                Some(WorldMutant::DeadForgotten) => -self.window.span - args.presence,
                Some(_) | None => params.as_ref().map_or(0, |params| params.linger).max(self.params.linger),
            };
            let at = present.get(session).copied().unwrap_or(args.now - linger) + linger;
            if is_earlier(session) {
            } else if settles_late && args.now < at {
                (share.held, share.params) = (held, params);
            } else {
                dead.push((at, held));
            }
        }
        dead.sort_unstable();
        for (at, held) in dead {
            self.settle(at, held);
        }
        self.window.shares.retain(|session, share| !is_dead(session) || share.held > 0);
    }
}
