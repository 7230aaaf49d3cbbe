//! JSON of a limit: its rule, its state, and its fullest window.

use std::time::Duration;

use serde_json::{Value, json};

use super::history::LimitTotals;
use super::state::AdminState;
use crate::gate::View;
use crate::locker::{Counts, Kind, Usage, WhenFull};
use crate::time::Time;

/// All limits in force, and the time at which they were read.
pub(super) fn survey(state: &AdminState) -> (Vec<View>, Time) {
    (state.gate.survey(), state.gate.clock().now())
}

/// Milliseconds, with fractions.
pub(super) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// Summary of a limit for `/v1/events`: rule, fullest window, and counters since the start.
pub(super) fn summary(view: &View, totals: LimitTotals) -> Value {
    let mut summary = rule(view);
    let fullest = view.held.fullest.map(|(_, usage)| usage);
    for (key, value) in [
        ("keys", json!(view.held.keys)),
        ("waiting", json!(view.held.waiting)),
        ("taken", json!(fullest.map_or(0, |fullest| fullest.taken))),
        ("in_flight_taken", json!(fullest.map_or(0, |fullest| fullest.flying))),
        ("permits", json!(totals.permits)),
        ("refused", json!(totals.refused)),
        ("waited_ms", json!(totals.waited_ms)),
        ("pushbacks", json!(totals.pushbacks)),
    ] {
        summary[key] = value;
    }
    summary
}

/// A limit in full for `/v1/limits`: rule, state, refusals by reason.
pub(super) fn limit(state: &AdminState, view: &View, now: Time) -> Value {
    let mut limit = rule(view);
    let fullest = view.held.fullest.map(|(_, usage)| window(&usage, now));
    let tally = state.tallies.limits().into_iter().find(|(name, _)| *name == view.limit.name).map(|(_, tally)| tally);
    let refused = tally.as_ref().map(|tally| tally.refused().map(|(why, count)| (why.to_owned(), count.into())));
    for (key, value) in [
        ("keys", json!(view.held.keys)),
        ("waiting", json!(view.held.waiting)),
        ("fullest", json!(fullest)),
        ("permits", json!(tally.as_ref().map_or(0, |tally| tally.permits.get()))),
        ("refused", refused.map(|refused| refused.collect::<serde_json::Map<_, _>>()).unwrap_or_default().into()),
        ("pushbacks", json!(tally.as_ref().map_or(0, |tally| tally.pushbacks.get()))),
    ] {
        limit[key] = value;
    }
    limit
}

/// Slots of a window; `opens_in_ms` is null if only the end of a request opens it.
pub(super) fn window(usage: &Usage, now: Time) -> Value {
    json!({
        "taken": usage.taken,
        "in_flight": usage.flying,
        "waiting": usage.waiting,
        "opens_in_ms": usage.opens.map(|at| millis(at.since(now))),
    })
}

/// The configured values of a limit; those that it does not have are null.
fn rule(view: &View) -> Value {
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
