//! The limits and what their windows hold, as JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::House;
use super::history::Totals;
use crate::gate::View;
use crate::lobby::refused;
use crate::locker::{Counts, Kind, Usage, WhenFull};
use crate::time::Time;

/// How many callers are named at most: those of whom most wait.
const MOST_CALLERS: usize = 50;
/// In how many parts a window's slots are told at most.
const MOST_SLOTS: usize = 100;

/// Every limit that is in force.
pub(super) async fn all(State(house): State<Arc<House>>) -> Json<Value> {
    let (views, now) = look(&house);
    let limits: Vec<Value> = views.iter().map(|view| shown(&house, view, now)).collect();
    Json(json!({ "limits": limits }))
}

/// One of them; also who waits, and when the slots of its fullest window open.
pub(super) async fn one(State(house): State<Arc<House>>, Path(name): Path<String>) -> Response {
    let (views, now) = look(&house);
    let Some(view) = views.iter().find(|view| *view.limit.name == *name) else {
        return refused(StatusCode::NOT_FOUND, &format!("there is no limit named {name:?} in force"));
    };
    let mut limit = shown(&house, view, now);
    let closeup = house.gate.closeup(view.id, view.held.fullest.map(|(key, _)| key));
    let callers: Vec<Value> = closeup
        .callers
        .iter()
        .take(MOST_CALLERS)
        .map(|(caller, waiting)| json!({ "caller": &*house.tallies.caller(*caller), "waiting": waiting }))
        .collect();
    limit["callers"] = callers.into();
    // Both of one moment.
    limit["fullest"] = closeup.usage.map_or(Value::Null, |usage| {
        let slots = gathered(&closeup.openings).into_iter();
        let slots = slots.map(|(at, count)| json!({ "opens_in_ms": millis(at.since(now)), "count": count }));
        let mut fullest = window(&usage, now);
        fullest["slots"] = slots.collect();
        fullest
    });
    Json(limit).into_response()
}

/// A window may have a thousand openings: neighbours are put together, each at the latest of them.
fn gathered(openings: &[(Time, u32)]) -> Vec<(Time, u32)> {
    let each = openings.len().div_ceil(MOST_SLOTS).max(1);
    let last = |some: &[(Time, u32)]| some.last().map_or(Time::START, |(at, _)| *at);
    openings.chunks(each).map(|some| (last(some), some.iter().map(|(_, count)| count).sum())).collect()
}

/// A limit in few words, for each second.
pub(super) fn brief(view: &View, totals: Totals) -> Value {
    let mut brief = rule(view);
    let fullest = view.held.fullest.map(|(_, usage)| usage);
    for (key, value) in [
        ("keys", json!(view.held.keys)),
        ("waiting", json!(view.held.waiting)),
        ("taken", json!(fullest.map_or(0, |fullest| fullest.taken))),
        ("flying_most", json!(fullest.map_or(0, |fullest| fullest.flying))),
        ("permits", json!(totals.permits)),
        ("refused", json!(totals.refused)),
        ("waited_ms", json!(totals.waited_ms)),
        ("pushbacks", json!(totals.pushbacks)),
    ] {
        brief[key] = value;
    }
    brief
}

pub(super) fn look(house: &House) -> (Vec<View>, Time) {
    (house.gate.survey(), house.gate.clock().now())
}

pub(super) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// What a limit says.
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

/// What a window holds.
fn window(usage: &Usage, now: Time) -> Value {
    json!({
        "taken": usage.taken,
        "in_flight": usage.flying,
        "waiting": usage.waiting,
        "opens_in_ms": usage.opens.map(|at| millis(at.since(now))),
    })
}

/// What a limit says, holds and did.
pub(super) fn shown(house: &House, view: &View, now: Time) -> Value {
    let mut shown = rule(view);
    let fullest = view.held.fullest.map(|(_, usage)| window(&usage, now));
    let tally = house.tallies.limits().into_iter().find(|(name, _)| *name == view.limit.name).map(|(_, tally)| tally);
    let refused = tally.as_ref().map(|tally| tally.refused().map(|(why, count)| (why.to_owned(), count.into())));
    for (key, value) in [
        ("keys", json!(view.held.keys)),
        ("waiting", json!(view.held.waiting)),
        ("fullest", json!(fullest)),
        ("permits", json!(tally.as_ref().map_or(0, |tally| tally.permits.get()))),
        ("refused", refused.map(|refused| refused.collect::<serde_json::Map<_, _>>()).unwrap_or_default().into()),
        ("pushbacks", json!(tally.as_ref().map_or(0, |tally| tally.pushbacks.get()))),
    ] {
        shown[key] = value;
    }
    shown
}
