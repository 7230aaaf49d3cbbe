//! Middleware of the admin API: rejects cross-site requests, and requires a password if users are
//! configured.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::state::AdminState;
use crate::http_admin::{check_password, is_cross_site, may_be_dns_rebinding, problem};

/// Rejects requests that a foreign web page made a browser send.
///
/// 421 for a Host that may have been pointed here by its owner (DNS rebinding), unless the connection has TLS, or a
/// password is needed anyway: a browser does not send one to another host. 403 for a request from a page of
/// another site (CSRF), except for following a link.
pub(super) async fn reject_cross_site(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    if state.passwords.is_none() && may_be_dns_rebinding(&request) {
        return problem(StatusCode::MISDIRECTED_REQUEST, "the Host must be an address or localhost");
    }
    let headers = request.headers();
    // A link to the dashboard may stand on any page.
    let follows_link =
        request.method() == Method::GET && headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    if !follows_link && is_cross_site(headers) {
        return problem(StatusCode::FORBIDDEN, "this request comes from another site");
    }
    next.run(request).await
}

/// Requires Basic credentials of a user if `[admin] users` is configured.
///
/// 401 for missing or wrong credentials; 429 after too many wrong ones from the same address; 503
/// if they cannot be checked now.
pub(super) async fn require_password(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let Some(passwords) = &state.passwords else { return next.run(request).await };
    match check_password(passwords, peer.ip(), request.headers(), state.gate.clock()).await {
        Ok(()) => next.run(request).await,
        Err(response) => response.into_response(),
    }
}
