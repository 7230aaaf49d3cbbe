//! HTTP handlers: take, show and release a lock; list and release all as an operator.
//!
//! Refusals of a handler are problem documents (RFC 9457). Operators' calls need a password of
//! `[locks] users`; without such users they are answered 401.
//!
//! ```text
//! POST /locks/backup  {"title": "host 7", "wait": 5, "lifetime": 300}
//! 201 Created         Location: http://HOST/locks/backup/UID
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, MatchedPath, Path, Request, State};
use axum::http::header::{HOST, LOCATION, ORIGIN, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;

use super::table::{LockRequest, LockTable, Uid};
use super::{LONGEST, LockApi, hal};
use crate::audit::{self, Author};
use crate::gate::{Answer, Permit, Refused};
use crate::http_admin::{TransportSecurity, check_password, may_be_dns_rebinding, problem, unauthorized};
use crate::locker::RefusalReason;

/// Most bytes of a resource's name, and of a title. Both appear in logs and listings.
///
/// A choice: enough for any host name (RFC 1035 §2.3.4).
const LONGEST_NAME: usize = 255;
/// A choice: a title is a sentence for people.
const LONGEST_TITLE: usize = 1024;
/// Most bytes of a Host: a name, and a port behind a colon.
const LONGEST_HOST: usize = LONGEST_NAME + 6;

/// Middleware that refuses requests from web pages: cross-origin (403) and DNS rebinding (421).
pub(super) async fn reject_browsers(State(api): State<Arc<LockApi>>, request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        return problem(StatusCode::FORBIDDEN, "locks are for programs, and a browser asks for one");
    }
    if api.on_loopback && may_be_dns_rebinding(&request) {
        return problem(StatusCode::MISDIRECTED_REQUEST, "the Host must be an address or localhost");
    }
    next.run(request).await
}

/// The change that [`release_resource`] and [`release_all`] make, in audit lines.
const REMOVAL: &str = "removal of locks";

/// Middleware that logs a removal by an operator's call if it is refused, by whichever step. One that finds no lock is
/// not refused.
pub(super) async fn log_refused_removal(
    State(api): State<Arc<LockApi>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let is_of_operators = |route: &MatchedPath| route.as_str().starts_with("/resources");
    let route = request.extensions().get::<MatchedPath>();
    let is_removal = request.method() == Method::DELETE && route.is_some_and(is_of_operators);
    let answer = next.run(request).await;
    let status = answer.status();
    if is_removal && !status.is_success() && status != StatusCode::NOT_FOUND {
        let why = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("refused"));
        api.attempts.refused(&Author::client(None, peer.ip()), REMOVAL, &why, api.gate.clock().now());
    }
    answer
}

/// Body of `POST /locks/{resource}`. Unknown members are ignored.
#[derive(Deserialize)]
struct LockBody {
    /// Text for listings, at most [`LONGEST_TITLE`] bytes.
    title: String,
    /// Longest wait in seconds; 0 refuses at once.
    wait: f64,
    /// Seconds from the grant to the expiry, at least 0.001.
    lifetime: f64,
}

/// Parses and checks a request for a lock.
///
/// Resources have the unreserved characters of a URL (RFC 3986 §2.3), so that links need no
/// encoding.
///
/// # Errors
/// The message of the 400.
fn lock_request(resource: String, body: &[u8]) -> Result<LockRequest, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '~');
    if resource.len() > LONGEST_NAME || !resource.chars().all(fits) {
        return Err(format!("a resource is 1 to {LONGEST_NAME} letters, digits, dots, dashes, tildes and underscores"));
    }
    let right = "the body is {\"title\": \"who\", \"wait\": 5, \"lifetime\": 300}, with seconds that may be fractions";
    let body: LockBody = serde_json::from_slice(body).map_err(|error| format!("{right}: {error}"))?;
    let longest = LONGEST.as_secs_f64();
    if !(0.0..=longest).contains(&body.wait) {
        return Err(format!("`wait` is a number of seconds from 0 to {longest}"));
    }
    if !(0.001..=longest).contains(&body.lifetime) {
        return Err(format!("`lifetime` is a number of seconds from 0.001 to {longest}"));
    }
    if body.title.len() > LONGEST_TITLE {
        return Err(format!("`title` has at most {LONGEST_TITLE} bytes"));
    }
    Ok(LockRequest { resource: resource.into(), title: body.title.into(), wait: body.wait, lifetime: body.lifetime })
}

/// Removes a waiter from the table when dropped: the handler's future ends when the caller hangs
/// up.
///
/// Does nothing to a lock that was granted meanwhile.
struct WaitGuard<'t> {
    table: &'t LockTable,
    uid: &'t Uid,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.table.forget(self.uid);
    }
}

/// `POST /locks/{resource}`: takes a lock, after a wait of up to `wait` seconds. 201 with
/// `Location`; 408 if it was held all that time, 409 if an operator ended the wait, 503 if the
/// service closes or is full.
///
/// 400 for an invalid name, body or Host. A caller that hangs up while it waits leaves the queue.
pub(super) async fn take(
    State(api): State<Arc<LockApi>>,
    Extension(transport): Extension<TransportSecurity>,
    Path(resource): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let read = base_url(transport, &headers).and_then(|base| Ok((base, lock_request(resource, &body)?)));
    let (base, request) = match read {
        Ok(read) => read,
        Err(why) => return problem(StatusCode::BAD_REQUEST, &why),
    };
    // Up to 64 KiB each, which every waiter would hold: all fields are parts of one buffer.
    drop((headers, body));
    let mut uid = [0; 16];
    if SystemRandom::new().fill(&mut uid).is_err() {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "the system has no random numbers");
    }
    let uid: Uid = format!("{:032x}", u128::from_be_bytes(uid)).into();
    let permit = match api.table.ask(&request.resource, Some(Duration::from_secs_f64(request.wait))) {
        Answer::Go(permit) => permit,
        Answer::Sorry(refused) => return refuse(refused),
        Answer::Wait(waiting) => {
            let ended = api.table.wait(&uid, &request);
            let _waits = WaitGuard { table: &api.table, uid: &uid };
            let mut over = api.over.clone();
            tokio::select! {
                biased;
                () = ended.notified() => return problem(StatusCode::CONFLICT, "an operator ended it"),
                _ = over.wait_for(|over| *over) => return closing(),
                decided = waiting => match decided {
                    Ok(permit) => permit,
                    Err(refused) => return refuse(refused),
                },
            }
        }
    };
    taken(&api, &base, &uid, &request, permit)
}

/// URL of this service as its client writes it: the scheme of the connection, and the Host of the request.
///
/// # Errors
/// The message of the 400.
fn base_url(transport: TransportSecurity, headers: &HeaderMap) -> Result<String, String> {
    let scheme = match transport {
        TransportSecurity::Plain => "http",
        TransportSecurity::Tls => "https",
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if host.len() > LONGEST_HOST {
        return Err(format!("the Host has at most {LONGEST_HOST} bytes"));
    }
    Ok(format!("{scheme}://{host}"))
}

/// Writes the lock to the register, then answers 201; 503 if it cannot be written.
fn taken(api: &LockApi, base: &str, uid: &Uid, request: &LockRequest, permit: Permit) -> Response {
    if let Err(error) = api.table.hold(uid, request, permit) {
        tracing::error!(%error, "cannot persist lock; request refused");
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the lock cannot be written to the register");
    }
    let location = format!("{base}/locks/{}/{uid}", request.resource);
    (StatusCode::CREATED, [(LOCATION, location)]).into_response()
}

/// 408 after the wait, 503 for all other reasons.
fn refuse(why: Refused) -> Response {
    match why {
        Refused::Sorry(sorry)
            if matches!(sorry.reason, RefusalReason::TimedOut | RefusalReason::TooLong | RefusalReason::Full) =>
        {
            problem(StatusCode::REQUEST_TIMEOUT, "it was held by another all the time")
        }
        Refused::Sorry(_) => busy("too many locks are held or waited for"),
        Refused::Closing { .. } | Refused::Reask => closing(),
    }
}

/// 503 with `Retry-After: 1`: another process may open the service soon.
fn closing() -> Response {
    busy("the gateway is shutting down; ask again")
}

/// 503 with `Retry-After: 1`.
fn busy(why: &str) -> Response {
    ([(RETRY_AFTER, "1")], problem(StatusCode::SERVICE_UNAVAILABLE, why)).into_response()
}

/// 404. The three cases are not told apart: an ended lock leaves no trace.
fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "no such lock: it was released, has expired, or never existed")
}

/// `GET /locks/{resource}/{uid}`: shows a lock.
///
/// 404 if it has ended. No password is needed: the id is a secret of its holder.
pub(super) async fn show(State(api): State<Arc<LockApi>>, Path((resource, uid)): Path<(String, String)>) -> Response {
    api.table.find(&resource, &uid).map_or_else(not_found, |lock| hal::document(&hal::lock(&lock)))
}

/// `DELETE /locks/{resource}/{uid}`: releases a lock. 204, or 404 if it has ended.
///
/// A wait can be ended in the same way.
pub(super) async fn release(
    State(api): State<Arc<LockApi>>,
    Path((resource, uid)): Path<(String, String)>,
) -> Response {
    if api.table.end(&resource, &uid) { StatusCode::NO_CONTENT.into_response() } else { not_found() }
}

/// Checks an operator's password. Returns the operator.
///
/// # Errors
/// The answer: 401, or 429 after too many wrong passwords.
async fn operator(api: &LockApi, peer: SocketAddr, headers: &HeaderMap) -> Result<Author, Response> {
    let Some(passwords) = &api.passwords else { return Err(unauthorized()) };
    let known = check_password(passwords, peer.ip(), headers, api.gate.clock()).await;
    known.map(|user| Author::client(Some(user), peer.ip())).map_err(IntoResponse::into_response)
}

/// `GET /resources`: lists all resources.
pub(super) async fn resources(
    State(api): State<Arc<LockApi>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    operator(&api, peer, &headers).await?;
    let names = api.table.resources();
    Ok(hal::document(&hal::resources(names.iter().map(|name| &**name))))
}

/// `GET /resources/{resource}`: lists the lock that is held and the waiters, in order.
///
/// An unknown resource has an empty list.
pub(super) async fn resource(
    State(api): State<Arc<LockApi>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(resource): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    operator(&api, peer, &headers).await?;
    Ok(hal::document(&hal::resource(&resource, &api.table.of(&resource))))
}

/// `DELETE /resources/{resource}`: ends all locks and waits of a resource.
///
/// 204, or 404 if there is none.
pub(super) async fn release_resource(
    State(api): State<Arc<LockApi>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(resource): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let by = operator(&api, peer, &headers).await?;
    match api.table.end_all(Some(&resource)) {
        0 => Ok(problem(StatusCode::NOT_FOUND, "it is neither held nor waited for")),
        ended => {
            audit::changed(&by, REMOVAL, Some(&format!("resource {resource}: {ended} held or waited for")));
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}

/// `DELETE /resources`: ends all locks and waits.
///
/// 204, also if there is none.
pub(super) async fn release_all(
    State(api): State<Arc<LockApi>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let by = operator(&api, peer, &headers).await?;
    let ended = api.table.end_all(None);
    audit::changed(&by, REMOVAL, Some(&format!("all resources: {ended} held or waited for")));
    Ok(StatusCode::NO_CONTENT.into_response())
}
