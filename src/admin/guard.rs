//! Middleware of the admin API: rejects cross-site requests, requires a password if users are
//! configured, and logs the changes that were refused.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::state::AdminState;
use crate::audit::Author;
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

/// Requires Basic credentials of a user if `[admin] users` is configured. Handlers find the [`Author`] of their request
/// in its extensions, and the middleware outside of this one in those of the response.
///
/// 401 for missing or wrong credentials; 429 after too many wrong ones from the same address; 503
/// if they cannot be checked now.
pub(super) async fn require_password(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let user = match &state.passwords {
        Some(passwords) => match check_password(passwords, peer.ip(), request.headers(), state.gate.clock()).await {
            Ok(user) => Some(user),
            Err(response) => return response.into_response(),
        },
        None => None,
    };
    let author = Author::client(user, peer.ip());
    request.extensions_mut().insert(author.clone());
    let mut response = next.run(request).await;
    response.extensions_mut().insert(author);
    response
}

/// Reason of a refusal for its audit line, in the extensions of a response.
#[derive(Clone, Debug)]
pub(super) struct RefusalNote(pub(super) String);

/// Logs a change that is refused, by whichever middleware or handler: an audit line with the [`RefusalNote`] of the
/// response, else with the words of its status. Calls that change nothing (GET) are not logged.
pub(super) async fn log_refused_change(
    State(state): State<Arc<AdminState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    // The pattern of the route has no text of the client's; a path without a route changes nothing.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let response = next.run(request).await;
    let is_refused = response.status().is_client_error() || response.status().is_server_error();
    if let Some(route) = route.filter(|_| is_refused && !method.is_safe()) {
        let extensions = response.extensions();
        let author = extensions.get::<Author>().cloned().unwrap_or_else(|| Author::client(None, peer.ip()));
        let status = response.status();
        let note = extensions.get::<RefusalNote>().map(|note| note.0.as_str());
        let why = note.unwrap_or_else(|| status.canonical_reason().unwrap_or("refused"));
        let what = change_of(&method, &route);
        state.attempts.refused(&author, &what, &format!("{} {why}", status.as_u16()), state.gate.clock().now());
    }
    response
}

/// Word for the change that a route makes, as in the audit line of one that has happened; else method and route.
fn change_of(method: &Method, route: &str) -> String {
    match (method.as_str(), route) {
        ("PATCH", "/v1/limits/{name}") => "tune".to_owned(),
        ("POST", "/v1/config/reload") => "reload".to_owned(),
        ("POST", "/v1/config/save") => "save".to_owned(),
        (method, route) => format!("{method} {route}"),
    }
}
