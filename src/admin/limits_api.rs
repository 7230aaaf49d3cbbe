//! `/v1/limits`: handlers that list the limits in force, or show one in detail.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::limit_json::{limit, millis, survey, window};
use super::state::AdminState;
use crate::http_admin::problem;
use crate::time::Time;

/// Maximum number of callers listed for a limit: those with the most waiters. As many as fit on a
/// screen of the dashboard.
const MAX_CALLERS: usize = 50;
/// Maximum number of groups into which the slots of a window are merged: about as many as the
/// dashboard can tell apart.
const MAX_SLOT_GROUPS: usize = 100;

/// Handles `GET /v1/limits`: every limit in force.
pub(super) async fn all(State(state): State<Arc<AdminState>>) -> Json<Value> {
    let (views, now) = survey(&state);
    let limits: Vec<Value> = views.iter().map(|view| limit(&state, view, now)).collect();
    Json(json!({ "limits": limits }))
}

/// Handles `GET /v1/limits/{name}`: one limit, with its waiters by caller and the slots of its
/// fullest window. 404 if no such limit is in force.
pub(super) async fn one(State(state): State<Arc<AdminState>>, Path(name): Path<String>) -> Response {
    let (views, now) = survey(&state);
    let Some(view) = views.iter().find(|view| *view.limit.name == *name) else {
        return problem(StatusCode::NOT_FOUND, &format!("there is no limit named {name:?} in force"));
    };
    let mut limit = limit(&state, view, now);
    let closeup = state.gate.limit_detail(view.id, view.held.fullest.map(|(key, _)| key));
    let callers: Vec<Value> = closeup
        .callers
        .iter()
        .take(MAX_CALLERS)
        .map(|(caller, waiting)| json!({ "caller": &*state.metrics.caller(*caller), "waiting": waiting }))
        .collect();
    limit["callers"] = callers.into();
    // Usage and slots are those of one moment.
    limit["fullest"] = closeup.usage.map_or(Value::Null, |usage| {
        let slots = merge_slots(&closeup.openings).into_iter();
        let slots = slots.map(|(at, count)| json!({ "opens_in_ms": millis(at.since(now)), "count": count }));
        let mut fullest = window(&usage, now);
        fullest["slots"] = slots.collect();
        fullest
    });
    Json(limit).into_response()
}

/// Merges neighbouring slots into at most [`MAX_SLOT_GROUPS`] groups, each with the latest time at
/// which one of its slots opens. A window may have thousands of slots.
///
/// Counts add up to that of all slots.
fn merge_slots(openings: &[(Time, u32)]) -> Vec<(Time, u32)> {
    let each = openings.len().div_ceil(MAX_SLOT_GROUPS).max(1);
    let last = |some: &[(Time, u32)]| some.last().map_or(Time::START, |(at, _)| *at);
    openings.chunks(each).map(|some| (last(some), some.iter().map(|(_, count)| count).sum())).collect()
}
