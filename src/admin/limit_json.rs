//! JSON of a limit: its rule, its state, and its fullest window.
//!
//! Durations are numbers in milliseconds, with fractions; their names end with `_ms`. Counters run
//! since the start of the process. A value that a limit does not have is null. `openapi.json`
//! describes all of it for clients.

use std::time::Duration;

use serde_json::{Value, json};

use super::state::AdminState;
use crate::gate::LimitView;
use crate::locker::{Counts, Kind, Usage, WhenFull};
use crate::proxy::metrics::LimitMetrics;
use crate::time::Time;

/// All limits in force, and the time at which they were read.
pub(super) fn survey(state: &AdminState) -> (Vec<LimitView>, Time) {
    (state.gate.limit_stats(), state.gate.clock().now())
}

/// Milliseconds, with fractions.
pub(super) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// A limit in full for `/v1/limits`: rule, state and counters.
///
/// `refused`: object with a number for each reason; `fullest`: the fullest [`window`], null if no
/// key has one; `cancelled`: number of requests whose callers hung up in the queue; `hang_ups`: see
/// [`hang_ups`].
pub(super) fn limit(state: &AdminState, view: &LimitView, now: Time) -> Value {
    let mut limit = rule(view);
    let fullest = view.held.fullest.map(|(_, usage)| window(&usage, now));
    let tally = state.metrics.limits().into_iter().find(|(name, _)| *name == view.limit.name).map(|(_, tally)| tally);
    let refused = tally.as_ref().map(|tally| tally.refused().map(|(why, count)| (why.to_owned(), count.into())));
    for (key, value) in [
        ("keys", json!(view.held.keys)),
        ("waiting", json!(view.held.waiting)),
        ("fullest", json!(fullest)),
        ("permits", json!(tally.as_ref().map_or(0, |tally| tally.permits.get()))),
        ("refused", refused.map(|refused| refused.collect::<serde_json::Map<_, _>>()).unwrap_or_default().into()),
        ("pushbacks", json!(tally.as_ref().map_or(0, |tally| tally.pushbacks.get()))),
        ("cancelled", json!(tally.as_ref().map_or(0, |tally| tally.left().count()))),
        ("hang_ups", tally.map_or(Value::Null, |tally| hang_ups(state, view, &tally))),
    ] {
        limit[key] = value;
    }
    limit
}

/// Finding from the hang-ups in the queue of a limit: callers give up `after_ms`; `caller`: the one
/// that they are all of, null if there are several; `advice`: a sentence for people. Null if there is
/// none, or if callers wait as long as the limit lets them.
pub(super) fn hang_ups(state: &AdminState, view: &LimitView, tally: &LimitMetrics) -> Value {
    let Some(found) = tally.caller_timeout(state.gate.clock().now()) else { return Value::Null };
    let caller = found.caller.map(|caller| state.metrics.caller(caller));
    let Some(advice) = found.advice(&view.limit.name, view.limit.max_wait, caller.as_deref()) else {
        return Value::Null;
    };
    json!({ "after_ms": millis(found.after), "caller": caller.as_deref(), "advice": advice })
}

/// A window: `taken` slots of `requests`, requests `in_flight`, and its number of waiters.
///
/// `opens_in_ms`: time until the next request may pass, 0 if now; null if only the end of a request
/// opens the window.
pub(super) fn window(usage: &Usage, now: Time) -> Value {
    json!({
        "taken": usage.taken,
        "in_flight": usage.flying,
        "waiting": usage.waiting,
        "opens_in_ms": usage.opens.map(|at| millis(at.since(now))),
    })
}

/// The configured values of a limit.
///
/// `requests` per `per_ms`, counted when they are `sent` or `answered` (`counts`); `guard_ms`
/// lengthens the window for clock and network jitter; `in_flight`: maximum number of requests in
/// flight; `when_full`: `wait` up to `max_wait_ms`, or `refuse`.
pub(super) fn rule(view: &LimitView) -> Value {
    let limit = &view.limit;
    let rate = limit.rate.as_ref();
    let kind = rate.map(|rate| match rate.kind {
        Kind::Sliding => "sliding",
        Kind::Fixed => "fixed",
        Kind::Smooth { .. } => "smooth",
        Kind::Calendar { .. } => "calendar",
    });
    let counts = rate.map(|rate| match rate.counts {
        Counts::Sent => "sent",
        Counts::Answered => "answered",
    });
    json!({
        "name": &*limit.name,
        "requests": rate.map(|rate| rate.requests),
        "per_ms": rate.map(|rate| millis(rate.per)),
        "guard_ms": rate.map(|rate| millis(rate.guard)),
        "window": kind,
        "counts": counts,
        "in_flight": limit.in_flight,
        "when_full": match limit.when_full { WhenFull::Wait => "wait", WhenFull::Refuse => "refuse" },
        "max_wait_ms": millis(limit.max_wait),
        "dry_run": limit.dry_run,
    })
}
