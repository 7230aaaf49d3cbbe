//! Dashboard: static files compiled into the program, and the OpenAPI document of the admin API.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::IntoResponse;
use axum::routing::get;

/// Content-Security-Policy: no resources from other sites, and no frame around the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Routes of the dashboard (`/`, `/page.css`, `/page.js`) and of `/v1/openapi.json`.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(|| async { file("text/html; charset=utf-8", include_str!("dashboard/index.html")) }))
        .route("/page.css", get(|| async { file("text/css; charset=utf-8", include_str!("dashboard/page.css")) }))
        .route("/v1/openapi.json", get(|| async { file("application/json", include_str!("openapi.json")) }))
        .route("/page.js", get(|| async { file("text/javascript; charset=utf-8", include_str!("dashboard/page.js")) }))
}

/// A static file of this media type, with the headers that protect the page.
fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let fields = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The page must match the version of the API that it reads.
        (CACHE_CONTROL, "no-cache"),
    ];
    (fields, text)
}
