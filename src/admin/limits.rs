//! The limits and what their windows hold, as JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::House;
use super::visitor::refused;
use crate::gate::View;
use crate::locker::{Counts, Kind, WhenFull};
use crate::time::Time;

/// Every limit that is in force.
pub(super) async fn all(State(house): State<Arc<House>>) -> Json<Value> {
    let (views, now) = look(&house);
    let limits: Vec<Value> = views.iter().map(|view| shown(&house, view, now)).collect();
    Json(json!({ "limits": limits }))
}

/// One of them.
pub(super) async fn one(State(house): State<Arc<House>>, Path(name): Path<String>) -> Response {
    let (views, now) = look(&house);
    match views.iter().find(|view| *view.limit.name == *name) {
        Some(view) => Json(shown(&house, view, now)).into_response(),
        None => refused(StatusCode::NOT_FOUND, &format!("there is no limit named {name:?} in force")),
    }
}

pub(super) fn look(house: &House) -> (Vec<View>, Time) {
    (house.gate.survey(), house.gate.clock().now())
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

pub(super) fn shown(house: &House, view: &View, now: Time) -> Value {
    let (limit, held) = (&view.limit, &view.held);
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
    let fullest = held.fullest.map(|fullest| {
        json!({
            "taken": fullest.taken,
            "in_flight": fullest.flying,
            "waiting": fullest.waiting,
            "opens_in_ms": fullest.opens.map(|at| millis(at.since(now))),
        })
    });
    let tally = house.tallies.limits().into_iter().find(|(name, _)| *name == limit.name).map(|(_, tally)| tally);
    let refused = tally.as_ref().map(|tally| tally.refused().map(|(why, count)| (why.to_owned(), count.into())));
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
        "keys": held.keys,
        "waiting": held.waiting,
        "fullest": fullest,
        "permits": tally.as_ref().map_or(0, |tally| tally.permits.get()),
        "refused": refused.map(|refused| refused.collect::<serde_json::Map<String, Value>>()).unwrap_or_default(),
        "pushbacks": tally.as_ref().map_or(0, |tally| tally.pushbacks.get()),
    })
}
