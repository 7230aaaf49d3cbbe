//! Warnings about the file that is in force, as JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::House;

/// Every line that does less than it seems to.
pub(super) async fn all(State(house): State<Arc<House>>) -> Json<Value> {
    let proxy = house.current.proxy();
    let shown = proxy.warnings().iter().map(|warning| {
        json!({
            "file": warning.file,
            "line": warning.line,
            "column": warning.column,
            "message": warning.message,
            "advice": warning.advice,
        })
    });
    Json(json!({ "warnings": shown.collect::<Vec<_>>() }))
}
