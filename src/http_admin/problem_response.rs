//! Error responses of the HTTP server, as problem documents (RFC 9457).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::proxy::Problem;

/// Response with a problem document (RFC 9457) of this status. `detail`: one sentence for people,
/// which names the cause.
///
/// For instance `{"type":"about:blank","title":"Not Found","detail":"...","status":404}`.
pub fn problem(status: StatusCode, detail: &str) -> Response {
    let problem = Problem::of_status(status.as_u16(), status.canonical_reason().unwrap_or("Error"), detail);
    let json = [("content-type", "application/problem+json")];
    (status, json, problem.to_string()).into_response()
}
