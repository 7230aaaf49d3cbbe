//! Who may come: not a browser that somebody else's page sent, and where there are users, one of them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::House;
use crate::lobby::{ask_for_password, is_cross_site, may_be_rebound, refused};

/// Turns away what a page of somebody else's had a browser send: a name that was made to lead here (DNS rebinding) where
/// no password is asked for, and what another site's page asks for (CSRF).
pub(super) async fn is_no_puppet(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if house.passwords.is_none() && may_be_rebound(headers) {
        return refused(StatusCode::MISDIRECTED_REQUEST, "the Host must be an address or localhost");
    }
    // A link to the page may stand anywhere.
    let follows_link =
        request.method() == Method::GET && headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    if !follows_link && is_cross_site(headers) {
        return refused(StatusCode::FORBIDDEN, "this request comes from another site");
    }
    next.run(request).await
}

/// Asks for a password where there are users.
pub(super) async fn known(
    State(house): State<Arc<House>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let Some(passwords) = &house.passwords else { return next.run(request).await };
    match ask_for_password(passwords, peer.ip(), request.headers(), house.gate.clock()).await {
        Ok(()) => next.run(request).await,
        Err(response) => response.into_response(),
    }
}
