//! The calls: take, show, release; and those of operators.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::header::{HOST, LOCATION, ORIGIN, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;

use super::table::{LockTable, Uid, LockRequest};
use super::{LockApi, LONGEST, hal};
use crate::gate::{Answer, Permit, Refused};
use crate::lobby::{ask_for_password, may_be_rebound, refused, unknown};
use crate::locker::Why;

/// The longest name of a resource, and the longest title.
const LONGEST_NAME: usize = 255;
const LONGEST_TITLE: usize = 1024;

/// Refuses requests of pages in a browser.
pub(super) async fn reject_browsers(State(api): State<Arc<LockApi>>, request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        return refused(StatusCode::FORBIDDEN, "locks are for programs, and a browser asks for one");
    }
    if api.on_loopback && may_be_rebound(request.headers()) {
        return refused(StatusCode::MISDIRECTED_REQUEST, "the Host must be an address or localhost");
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct LockBody {
    title: String,
    wait: f64,
    lifetime: f64,
}

/// What is asked for, if it makes sense.
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

/// Whoever waits and hangs up is forgotten, because this is dropped.
struct WaitGuard<'t> {
    table: &'t LockTable,
    uid: &'t Uid,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.table.forget(self.uid);
    }
}

/// Takes a lock, after a wait if need be.
pub(super) async fn take(
    State(api): State<Arc<LockApi>>,
    Path(resource): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = match lock_request(resource, &body) {
        Ok(request) => request,
        Err(why) => return refused(StatusCode::BAD_REQUEST, &why),
    };
    let mut uid = [0; 16];
    if SystemRandom::new().fill(&mut uid).is_err() {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "the system has no random numbers");
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
                () = ended.notified() => return refused(StatusCode::CONFLICT, "an operator has ended it"),
                _ = over.wait_for(|over| *over) => return closing(),
                decided = waiting => match decided {
                    Ok(permit) => permit,
                    Err(refused) => return refuse(refused),
                },
            }
        }
    };
    taken(&api, &headers, &uid, &request, permit)
}

fn taken(api: &LockApi, headers: &HeaderMap, uid: &Uid, request: &LockRequest, permit: Permit) -> Response {
    if let Err(error) = api.table.hold(uid, request, permit) {
        tracing::error!(%error, "a lock cannot be noted, and so not be given");
        return refused(StatusCode::SERVICE_UNAVAILABLE, "the gateway cannot note who holds the lock");
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let location = format!("http://{host}/locks/{}/{uid}", request.resource);
    (StatusCode::CREATED, [(LOCATION, location)]).into_response()
}

fn refuse(why: Refused) -> Response {
    match why {
        Refused::Sorry(sorry) if matches!(sorry.why, Why::TimedOut | Why::TooLong | Why::Full) => {
            refused(StatusCode::REQUEST_TIMEOUT, "somebody else held it all the time")
        }
        Refused::Sorry(_) => busy("as many wait or hold as may"),
        Refused::Closing { .. } | Refused::Anew => closing(),
    }
}

fn closing() -> Response {
    busy("the gateway is ending; ask again")
}

fn busy(why: &str) -> Response {
    ([(RETRY_AFTER, "1")], refused(StatusCode::SERVICE_UNAVAILABLE, why)).into_response()
}

fn not_found() -> Response {
    refused(StatusCode::NOT_FOUND, "there is no such lock: it was given back, has ended by itself, or never was")
}

/// Shows a lock.
pub(super) async fn show(State(api): State<Arc<LockApi>>, Path((resource, uid)): Path<(String, String)>) -> Response {
    api.table.find(&resource, &uid).map_or_else(not_found, |lock| hal::document(&hal::lock(&lock)))
}

/// Gives a lock back.
pub(super) async fn release(
    State(api): State<Arc<LockApi>>,
    Path((resource, uid)): Path<(String, String)>,
) -> Response {
    if api.table.end(&resource, &uid) { StatusCode::NO_CONTENT.into_response() } else { not_found() }
}

/// Whether an operator asks; if not, the answer.
async fn operator(api: &LockApi, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Response> {
    let Some(passwords) = &api.passwords else { return Err(unknown()) };
    let known = ask_for_password(passwords, peer.ip(), headers, api.gate.clock()).await;
    known.map_err(IntoResponse::into_response)
}

/// Shows all resources.
pub(super) async fn resources(
    State(api): State<Arc<LockApi>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    operator(&api, peer, &headers).await?;
    let names = api.table.resources();
    Ok(hal::document(&hal::resources(names.iter().map(|name| &**name))))
}

/// Shows who holds a resource, and who waits for it.
pub(super) async fn resource(
    State(api): State<Arc<LockApi>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(resource): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    operator(&api, peer, &headers).await?;
    Ok(hal::document(&hal::resource(&resource, &api.table.of(&resource))))
}

/// Ends all locks of a resource.
pub(super) async fn release_resource(
    State(api): State<Arc<LockApi>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(resource): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    operator(&api, peer, &headers).await?;
    match api.table.end_all(Some(&resource)) {
        0 => Ok(refused(StatusCode::NOT_FOUND, "nobody holds it or waits for it")),
        _ => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// Ends all locks.
pub(super) async fn release_all(
    State(api): State<Arc<LockApi>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    operator(&api, peer, &headers).await?;
    api.table.end_all(None);
    Ok(StatusCode::NO_CONTENT.into_response())
}
