//! Dashboard: a page and its files, compiled into the program, and the OpenAPI document of the admin API.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::first_state;
use super::overview;
use super::state::AdminState;

/// Content-Security-Policy: no resources from other sites, no script or style in the page, and no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Static files: path, media type, and text.
const FILES: [(&str, &str, &str); 8] = [
    ("/page.css", CSS, include_str!("dashboard/page.css")),
    ("/page.js", JAVASCRIPT, include_str!("dashboard/page.js")),
    ("/table.js", JAVASCRIPT, include_str!("dashboard/table.js")),
    ("/detail.js", JAVASCRIPT, include_str!("dashboard/detail.js")),
    ("/format.js", JAVASCRIPT, include_str!("dashboard/format.js")),
    ("/graph.js", JAVASCRIPT, include_str!("dashboard/graph.js")),
    ("/what_if.js", JAVASCRIPT, include_str!("dashboard/what_if.js")),
    ("/v1/openapi.json", "application/json", include_str!("openapi.json")),
];

/// Routes of the dashboard (`/` and its files) and of `/v1/openapi.json`.
pub(super) fn routes() -> Router<Arc<AdminState>> {
    let files = Router::new().route("/", get(page));
    FILES
        .into_iter()
        .fold(files, |files, (path, kind, text)| files.route(path, get(move || async move { file(kind, text) })))
}

/// Handles `GET /`: the page, with the state of the moment in it.
///
/// Reads the limits as `/v1/limits` does: the gate's lock is released between the parts of the scan.
async fn page(State(state): State<Arc<AdminState>>) -> Response {
    let views = state.gate.limit_stats();
    let limits = overview::limits(&state, &views);
    let snapshot = state.current.snapshot();
    file("text/html; charset=utf-8", first_state::render(&overview::gateway(&state), &limits, snapshot.warnings()))
}

/// A file of this media type, with the headers that protect the page.
fn file(kind: &'static str, text: impl IntoResponse) -> Response {
    let fields = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The page must match the version of the API that it reads.
        (CACHE_CONTROL, "no-cache"),
    ];
    (fields, text).into_response()
}
