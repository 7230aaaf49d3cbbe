//! Permits without a request to forward: `POST /v1/limits/NAME/acquire` takes slots of the same
//! windows and waits in the same queue. Other programs use it to rate-limit work that is not HTTP.
//!
//! Example: `POST /v1/limits/partner-api/acquire?key=tenant-7&cost=2&wait=5` waits for two slots in
//! the window of that key, for at most 5 seconds, and is answered with
//!
//! ```text
//! HTTP/1.1 200 OK
//! Content-Type: application/json
//!
//! {"verdict":"go","waited_ms":812.4}
//! ```
//!
//! The target is a path, or a URL that leads to this gateway: HTTP/2 knows no other form (RFC 9113 §8.3.1), and in
//! HTTP/1.1 a server must accept it (RFC 9112 §3.2.2).
//!
//! A refusal is the same problem document as for a forwarded request, with `"verdict":"sorry"` if a
//! limit refused. The slots settle when the permit is granted, so a window of `in_flight` is free
//! again at once.

use std::sync::Arc;
use std::task::{Context, Poll};

use serde_json::json;

use super::access::Admitted;
use super::bare_permit::{self, BareAsk};
use super::claims::Claims;
use super::host::Authority;
use super::outcome::Failure;
use super::pushback::reset_time::seconds;
use super::query::{decode, parameter, parameters};
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::Session;
use super::snapshot::ConfigSnapshot;
use super::target::{Form, Scheme, Target};
use super::wait_prefs;
use crate::gate::Patience;
use crate::locker::Caller;
use crate::net::dial::{DialStrategy, Endpoint};
use crate::time::Time;
use crate::wire::cross_site::{is_cross_site, may_be_rebound};
use crate::wire::{Name, RequestHead};

/// Path before the name of the limit.
const PREFIX: &str = "/v1/limits/";
/// Path behind the name, which is percent-encoded and holds no raw slash.
const SUFFIX: &str = "/acquire";

/// Parsed `acquire` request: the name in the path, and the query.
pub(super) struct AcquireRequest {
    /// Name of the limit, still percent-encoded.
    name: String,
    /// Query as received, without the question mark; empty if there is none.
    query: String,
}

/// Returns the `acquire` request if the session's request is one. Routes take precedence over the
/// path.
///
/// Inside an intercepted tunnel the same path belongs to the origin. Other methods than POST are
/// refused by [`acquire`].
///
/// # Errors
/// Those of [`Access::identify`](super::access::Access::identify), for a URL that may lead to this gateway.
pub(super) async fn find(session: &Session) -> Result<Option<AcquireRequest>, Refusal> {
    let Some(request) = AcquireRequest::read(session.head.target()).filter(|_| session.within.is_none()) else {
        return Ok(None);
    };
    let is_here = match session.worker.snapshot.targets.find(&session.head, &session.ingress()) {
        Err(Refusal::NoRoute) => true,
        Ok(target) if target.form == Form::Absolute && (target.origin.scheme == Scheme::Https) == session.secure => {
            // Boxed, so that a connection with other requests does not hold its memory.
            Box::pin(leads_here(session, &target)).await?
        }
        Ok(_) | Err(_) => false,
    };
    Ok(is_here.then_some(request))
}

/// True if the target's host and port lead to a listener of this gateway. Names are looked up for callers that may use
/// it alone.
async fn leads_here(session: &Session, target: &Target) -> Result<bool, Refusal> {
    let snapshot = &session.worker.snapshot;
    let admitted = snapshot.access.identify(session.source(), &session.head, snapshot.gate.clock()).await?;
    let endpoint = Endpoint {
        host: &target.origin.host,
        port: target.origin.port,
        reach: snapshot.named_hosts.look_up(target).reach,
        caller: admitted.caller.0,
        strategy: DialStrategy::Sequential,
    };
    let within = target.timeouts(&session.head, &snapshot.timeouts).connect.value;
    Ok(snapshot.dialer.leads_here(endpoint, within).await)
}

/// Obtains the permit, and settles it at once. Returns the JSON document of the response.
///
/// # Errors
/// 405 for another method than POST; 404 if there is no such limit; 400 if key or cost do not fit it;
/// the limiter's refusal; [`Failure::CallerGone`].
pub(super) async fn acquire(
    session: &mut Session,
    log: &mut RequestLog,
    request: AcquireRequest,
) -> Result<String, Failure> {
    let snapshot = &session.worker.snapshot;
    check_site(session)?;
    let admitted = snapshot.access.identify(session.source(), &session.head, snapshot.gate.clock()).await?;
    log.identified(&admitted);
    if session.head.method() != "POST" {
        return Err(Refusal::NotPost.into());
    }
    let prefs = request.prefs(&session.head)?;
    let claims = request.claims(session, log, &admitted)?;
    bare_permit::obtain(&mut Acquire { session, log, request, admitted, claims }, prefs).await?;
    Ok(json!({ "verdict": "go", "waited_ms": log.waited.as_micros() as f64 / 1e3 }).to_string())
}

impl AcquireRequest {
    /// Reads a target: a path, or a URL.
    fn read(target: &str) -> Option<AcquireRequest> {
        let (url, query) = target.split_once('?').unwrap_or((target, ""));
        let path = split_url(url.strip_suffix(SUFFIX)?).1;
        let name = path.strip_prefix(PREFIX).filter(|name| !name.contains('/'))?;
        Some(AcquireRequest { name: name.to_owned(), query: query.to_owned() })
    }

    /// Wait preferences of the request: `wait` of the query, in seconds, can only shorten that of
    /// Prefer.
    ///
    /// # Errors
    /// 400 if `wait` is no number of seconds; `wait=0` refuses instead of waiting.
    fn prefs(&self, head: &RequestHead) -> Result<Patience, Refusal> {
        let mut prefs = wait_prefs::of(head);
        if let Some(stated) = parameter(&self.query, "wait") {
            let stated = seconds(&stated).ok_or(Refusal::BadTarget("wait is not a number of seconds"))?;
            prefs.max_wait = Some(prefs.max_wait.map_or(stated, |before| before.min(stated)));
        }
        Ok(prefs)
    }

    /// Finds the claims of the request under the configuration in force.
    ///
    /// `key` occurs once for each part of the limit's key but `caller`, in the order of the file.
    ///
    /// # Errors
    /// See [`Rules::claim`](super::claims::Rules::claim).
    fn claims(&self, session: &Session, log: &mut RequestLog, admitted: &Admitted) -> Result<Claims, Refusal> {
        let values: Vec<_> = parameters(&self.query, "key").collect();
        let cost = parameter(&self.query, "cost");
        let name = String::from_utf8_lossy(&decode(&self.name)).into_owned();
        let claims = session.worker.snapshot.rules.claim(&name, &values, cost.as_deref(), admitted)?;
        log.claimed(session, &claims);
        Ok(claims)
    }
}

/// Authority, if there is one, and path of a target: a URL, or a path alone.
fn split_url(target: &str) -> (Option<&str>, &str) {
    let rest = if target.starts_with('/') { None } else { target.split_once("://") };
    let Some((_, rest)) = rest else { return (None, target) };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    (Some(&rest[..at]), &rest[at..])
}

/// An `acquire` request with its session, its caller and its claims.
struct Acquire<'s> {
    session: &'s mut Session,
    log: &'s mut RequestLog,
    /// Kept, because a reload requires the claims to be found again.
    request: AcquireRequest,
    /// Caller, as identified for this request: neither its host nor its port is checked.
    admitted: Admitted,
    /// One claim, of the limit that the path names.
    claims: Claims,
}

impl BareAsk for Acquire<'_> {
    fn snapshot(&self) -> &Arc<ConfigSnapshot> {
        &self.session.worker.snapshot
    }

    fn claims(&self) -> &Claims {
        &self.claims
    }

    fn caller(&self) -> Caller {
        self.admitted.caller
    }

    fn arrived(&self) -> Time {
        self.log.started
    }

    fn poll_hang_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.conn.stream.poll_hangup(cx)
    }

    fn begin_wait(&mut self) {
        self.admitted.remember_name(&self.session.worker.snapshot.metrics);
    }

    fn add_wait(&mut self, asked: Time, now: Time) {
        self.log.add_wait(asked, now);
    }

    fn claim_again(&mut self) -> Result<(), Refusal> {
        self.session.worker.refresh();
        self.admitted = self.session.worker.snapshot.access.readmit(self.session.caller, &self.admitted);
        self.claims = self.request.claims(self.session, self.log, &self.admitted)?;
        Ok(())
    }
}

/// Refuses requests of web pages: permits are for programs.
///
/// # Errors
/// - 403 for a request that a browser sent for a page of another site.
/// - 421 for a name of the gateway that DNS could have made, on loopback and without passwords.
fn check_site(session: &Session) -> Result<(), Refusal> {
    let head = &session.head;
    let host = split_url(head.target()).0.map(str::as_bytes).or_else(|| head.get(Name::Host));
    if is_cross_site(head.find("sec-fetch-site"), head.find("origin"), host) {
        return Err(Refusal::Denied("a web page of another site asks for it, and permits are for programs"));
    }
    let name = host.and_then(|host| std::str::from_utf8(host).ok()).and_then(|host| Authority::read(host).ok());
    if session.loopback
        && !session.worker.snapshot.access.asks_for_passwords()
        && name.is_some_and(|name| may_be_rebound(&name.host()))
    {
        return Err(Refusal::Misdirected(
            "on loopback, permits are requested at an address or localhost only, so that no web page gets here by a \
             name that leads here (DNS rebinding)",
        ));
    }
    Ok(())
}
