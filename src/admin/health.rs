//! `/healthz` and `/readyz`: liveness and readiness checks.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::state::AdminState;
use super::words::{persistence_word, store_word};
use crate::gate::journal::JournalHealth;
use crate::gate::store;

/// True if the gateway works, but less safely than it is configured to: the state folder cannot be written, or the
/// store is unreachable.
pub(super) fn is_degraded(persistence: JournalHealth, store: store::Health) -> bool {
    let can_write = matches!(persistence, JournalHealth::Off | JournalHealth::Ok);
    !can_write || !matches!(store, store::Health::Off | store::Health::Up)
}

/// Handles `GET /healthz`: 200 as long as the gateway makes decisions, with `degraded` if the state
/// folder cannot be written or the store is unreachable. A restart would mend neither.
///
/// ```json
/// {"status": "ok", "version": "0.1.0", "state": "ok", "store": "off"}
/// ```
pub(super) async fn healthz(State(state): State<Arc<AdminState>>) -> Json<Value> {
    // Takes the gate's lock: if that is never released, this check times out as it should.
    let persistence = state.gate.journal_health();
    let store = state.gate.store_status().map_or(store::Health::Off, |status| status.health().0);
    let status = if is_degraded(persistence, store) { "degraded" } else { "ok" };
    let version = env!("CARGO_PKG_VERSION");
    Json(
        json!({ "status": status, "version": version, "state": persistence_word(persistence), "store": store_word(store) }),
    )
}

/// Handles `GET /readyz`: 200 with `{"status": "ready"}` while new callers are served, also if by a
/// process that has taken over; 503 with `{"status": "draining"}` once the gateway drains.
pub(super) async fn readyz(State(state): State<Arc<AdminState>>) -> (StatusCode, Json<Value>) {
    match state.drain.is_draining() && !state.drain.entered_lame_duck() {
        false => (StatusCode::OK, Json(json!({ "status": "ready" }))),
        true => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "draining" }))),
    }
}
