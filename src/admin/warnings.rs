//! `/v1/warnings`: handler that lists the warnings about the configuration file in force.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::state::AdminState;

/// Handles `GET /v1/warnings`: every line of the file that has less effect than it seems to, with its place and advice.
pub(super) async fn all(State(state): State<Arc<AdminState>>) -> Json<Value> {
    let proxy = state.current.snapshot();
    let warnings = proxy.warnings().iter().map(|warning| {
        json!({
            "file": warning.file,
            "line": warning.line,
            "column": warning.column,
            "message": warning.message,
            "advice": warning.advice,
        })
    });
    Json(json!({ "warnings": warnings.collect::<Vec<_>>() }))
}
