//! Who may come: not a browser that somebody else's page sent, and where there are users, one of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::House;
use crate::proxy::refusal::Refusal;

/// Turns away what a page of somebody else's had a browser send: a name that was made to lead here (DNS rebinding) where
/// no password is asked for, and what another site's page asks for (CSRF).
pub(super) async fn is_no_puppet(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if house.passwords.is_none() && !host(headers).is_some_and(is_ours) {
        return refused(StatusCode::MISDIRECTED_REQUEST, "the Host must be an address or localhost");
    }
    // A link to the page may stand anywhere.
    let follows_link =
        request.method() == Method::GET && headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    if !follows_link && comes_from_elsewhere(headers) {
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
    let field = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    match passwords.check(peer.ip(), field, house.gate.clock()).await {
        Ok(_) => next.run(request).await,
        Err(refusal @ (Refusal::TooManyTries { .. } | Refusal::Exhausted)) => {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            refused(status, &refusal.detail())
        }
        Err(_) => {
            let ask = [(WWW_AUTHENTICATE, "Basic realm=\"lockgate\", charset=\"UTF-8\"")];
            (ask, refused(StatusCode::UNAUTHORIZED, "a name and its password are needed")).into_response()
        }
    }
}

/// The host that the visitor asked for, without its port.
pub(super) fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok()?;
    match host.strip_prefix('[') {
        Some(six) => six.split_once(']').map(|(host, _)| host),
        None => Some(host.rsplit_once(':').map_or(host, |(host, _)| host)),
    }
}

/// An address leads where it leads, and `localhost` to this machine (RFC 6761 §6.3); any other name may be anybody's.
pub(super) fn is_ours(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

/// Browsers say where a request comes from, unless it is the address line (Fetch, `Origin` and `Sec-Fetch-Site`).
pub(super) fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return true;
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let of_origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    of_origin != headers.get(HOST).and_then(|host| host.to_str().ok())
}

/// A refusal as a problem document (RFC 9457).
pub(super) fn refused(status: StatusCode, detail: &str) -> Response {
    let problem =
        serde_json::json!({ "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail });
    let json = [("content-type", "application/problem+json")];
    (status, json, problem.to_string()).into_response()
}
