//! Whether the gateway lives, and whether it should be sent anybody.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::House;
use crate::gate::journal::Health;
use crate::gate::store;

/// The word for how what is counted is kept.
pub(super) fn word(health: Health) -> &'static str {
    match health {
        Health::Off => "off",
        Health::Whole => "whole",
        Health::Blind => "blind",
        Health::Held => "held",
    }
}

/// The word for how it stands with the store of shared limits.
pub(super) fn store_word(health: store::Health) -> &'static str {
    match health {
        store::Health::Off => "off",
        store::Health::Asked => "asked",
        store::Health::Lost => "lost",
        store::Health::Shared => "part",
        store::Health::Alone => "alone",
    }
}

/// 200 as long as decisions are made. A state folder that cannot be written is told, but a restart would mend nothing.
pub(super) async fn alive(State(house): State<Arc<House>>) -> Json<Value> {
    // It takes the gate's lock: if that is held for ever, nobody is answered.
    let state = house.gate.journal_health();
    let store = store_word(house.gate.store_status().map_or(store::Health::Off, |status| status.health().0));
    let status = if matches!(state, Health::Blind | Health::Held) || !matches!(store, "off" | "asked") {
        "degraded"
    } else {
        "ok"
    };
    Json(json!({ "status": status, "version": env!("CARGO_PKG_VERSION"), "state": word(state), "store": store }))
}

/// 200 while new callers are served, be it by the process that has taken over; 503 once the gateway drains.
pub(super) async fn ready(State(house): State<Arc<House>>) -> (StatusCode, Json<Value>) {
    match house.drain.is_draining() && !house.drain.entered_lame_duck() {
        false => (StatusCode::OK, Json(json!({ "status": "ready" }))),
        true => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "draining" }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_word_in_the_description_and_on_the_page() {
        let described: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let described = described["paths"]["/healthz"].to_string();
        for word in [Health::Off, Health::Whole, Health::Blind, Health::Held].map(word) {
            assert!(described.contains(&format!("\"{word}\"")), "{word}: {described}");
            assert!(include_str!("page/page.js").contains(&format!("    {word}: ")), "{word}");
        }
    }
}
