//! Admission step: checks the framing, finds the target, and applies the access rules to the caller.
//!
//! Order of the checks; the first that fails decides the response:
//!
//! 1. framing of the body (400, 501), and members of Connection (400);
//! 2. Expect (417) and the number of gateways in Via (508);
//! 3. target and route (400, 403, 404, 421);
//! 4. address, password, port and host of the caller's request (403, 407, 429, 503);
//! 5. keys and costs under the limits (400).
//!
//! No slot is taken here, and nothing is sent.

use super::access::Admitted;
use super::acquire;
use super::capabilities;
use super::grpc;
use super::header_rules::{self, Outgoing};
use super::local_request::LocalRequest;
use super::named_hosts::HostListing;
use super::outcome::Failure;
use super::plan::{Plan, way};
use super::pool::{ConnRequirement, Freshness};
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::{InterceptedTunnel, Session, TlsInside};
use super::snapshot::ConfigSnapshot;
use super::target::{Form, Origin, PlainVersion, Scheme, Target, too_many_hops};
use super::upstream::Upstream;
use crate::tls::verify::Offer;
use crate::wire::{ConnectionOptions, Length, Name, RequestHead, framing, http2};

/// Treatment of an admitted request.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every request takes the first, and a box would cost each an allocation"
)]
pub(super) enum Admission {
    /// Forward it, once it has a permit.
    Forward(Plan),
    /// Answer it here.
    Local(LocalRequest),
    /// Read the requests in the tunnel of a CONNECT.
    Intercept(Box<InterceptedTunnel>),
}

/// Admits the request in the session, of which only the head has been read.
///
/// A request for `/acquire` leaves before these checks, and has its own.
///
/// # Errors
/// 400 or 501 for the framing; 403, 407 or 429 from the access rules; 404 or 421 without a route; 417 and 508.
///
/// # Cancel safety
/// Dropping the future ends the request without a trace in the limits; a password verification that
/// has begun runs to its end.
pub(super) async fn admit(session: &mut Session, log: &mut RequestLog) -> Result<Admission, Failure> {
    if let Some(request) = acquire::find(session).await? {
        return Ok(Admission::Local(LocalRequest::Acquire(request)));
    }
    let (target, admitted, length) = check(session, log).await?;
    if let Some(request) = LocalRequest::of_last_hop(&session.head) {
        return Ok(Admission::Local(request));
    }
    if target.form == Form::Authority {
        if let Some(tls) = tls_inside(&session.worker.snapshot, &target.origin) {
            let (origin, hosts) = (target.origin, session.hosts);
            return Ok(Admission::Intercept(Box::new(InterceptedTunnel { origin, admitted, tls, hosts })));
        }
        return Ok(Admission::Forward(opaque_plan(session, log, target, admitted)?));
    }
    Ok(Admission::Forward(plan(session, log, target, admitted, length)?))
}

/// Decides on a tunnel whose first bytes are read before anything is dialled. `None`: it is connected first.
///
/// Of a tunnel that may be opaque nothing is known before it is connected: its server may speak first, and its caller
/// must learn if there is none. Port 80 is taken for HTTP, which needs neither.
fn tls_inside(snapshot: &ConfigSnapshot, origin: &Origin) -> Option<TlsInside> {
    if !snapshot.access.allows_tls_to(origin.port) {
        Some(TlsInside::Denied)
    } else if snapshot.intercepts(origin) {
        Some(TlsInside::Intercepted)
    } else {
        (origin.port == Scheme::Http.default_port()).then_some(TlsInside::Opaque)
    }
}

/// Plans an opaque tunnel; the head of its CONNECT is in the session.
///
/// # Errors
/// 403 if such tunnels are denied, and 400 if a limit cannot count it.
fn opaque_plan(session: &Session, log: &mut RequestLog, target: Target, admitted: Admitted) -> Result<Plan, Refusal> {
    let snapshot = &session.worker.snapshot;
    snapshot.access.admit_opaque(snapshot.named_hosts.look_up(&target))?;
    plan(session, log, target, admitted, Length::Empty)
}

/// Plans a tunnel that has turned out to be opaque after its 200 was sent.
///
/// # Errors
/// As for one that is connected first.
pub(super) fn late_plan(session: &Session, log: &mut RequestLog, tunnel: InterceptedTunnel) -> Result<Plan, Refusal> {
    let target = session.worker.snapshot.targets.find(&session.head, &session.ingress())?;
    opaque_plan(session, log, target, tunnel.admitted)
}

/// Finds the target, and applies the access rules.
///
/// # Errors
/// See the steps 1 to 4 at the top of this file.
async fn check(session: &mut Session, log: &mut RequestLog) -> Result<(Target, Admitted, Length), Refusal> {
    let snapshot = &session.worker.snapshot;
    let head = &session.head;
    let length = framing::of_request(head)?;
    if header_rules::has_too_many_options(head) {
        return Err(Refusal::Malformed("Connection has too many members"));
    }
    if header_rules::connection_names_end_to_end(head).is_some() {
        return Err(Refusal::Malformed("Connection names a field that is meant for the origin"));
    }
    if header_rules::has_unsupported_expect(head) {
        return Err(Refusal::Expectation);
    }
    if too_many_hops(head) {
        return Err(Refusal::Loop);
    }
    let target = snapshot.targets.find(head, &session.ingress())?;
    if target.form == Form::Authority && length != Length::Empty {
        return Err(Refusal::Malformed("CONNECT has no body"));
    }
    let admitted = match session.within.as_deref() {
        // The tunnel's CONNECT was admitted, and with it every request inside.
        Some(within) => {
            let admitted = snapshot.access.readmit(session.caller, &within.admitted);
            log.identified(&admitted);
            admitted
        }
        None => {
            let named = snapshot.named_hosts.look_up(&target);
            // No host is called: the gateway answers this request itself.
            let named = HostListing { listed: named.listed || capabilities::is_asked(head), ..named };
            let identified = snapshot.access.identify(session.source(), head, snapshot.gate.clock()).await?;
            // A refusal of the host or the port counts for the user, too.
            log.identified(&identified);
            snapshot.access.admit(identified, &target, named)?
        }
    };
    if let Some(first) = &session.first_admission {
        first.set();
    }
    Ok((target, admitted, length))
}

/// Finds the claims of the request, and plans how it is forwarded.
///
/// # Errors
/// 400 if a limit cannot count the request, see [`Rules::find`](super::claims::Rules::find).
fn plan(
    session: &Session,
    log: &mut RequestLog,
    target: Target,
    admitted: Admitted,
    length: Length,
) -> Result<Plan, Refusal> {
    let head = &session.head;
    log.targeted(session, &target.origin);
    let claims = session.worker.snapshot.rules.find(&target, head, &admitted, session.caller)?;
    log.claimed(session, &claims);
    let options = ConnectionOptions::of(head.all(Name::Connection).chain(head.all(Name::ProxyConnection)));
    let access = &session.worker.snapshot.access;
    let upgrade = header_rules::wants_upgrade(head, options, |protocol| access.may_upgrade_to(protocol));
    let outgoing = Outgoing { length, options, upgrade, via: session.worker.snapshot.via_to_origins, trace: log.trace };
    let offer = offer(&target, head, &outgoing);
    let (way, hops) = way(&session.worker.snapshot, head, &target, &outgoing, offer);
    let upstream = Upstream { origin: target.origin.clone(), reach: admitted.reach, way };
    // A tunnel needs a new connection, one that carried no requests before.
    let fresh = if target.form == Form::Authority { Freshness::Since(log.started) } else { Freshness::Any };
    let want = ConnRequirement { fresh, offer };
    let timeouts = target.timeouts(head, &session.worker.snapshot.timeouts);
    Ok(Plan { target, upstream, admitted, claims, outgoing, want, connected_by: log.started, hops, timeouts })
}

/// Versions of HTTP to offer the origin for this request.
///
/// HTTP/1.1 for a tunnel, for an upgrade, for a login that belongs to a connection (NTLM), and for a
/// path that HTTP/2 cannot carry. All others: HTTP/2 if the origin chooses it in the handshake of
/// TLS; without TLS only for a call of gRPC, which no other version carries, and for an origin that
/// is known to speak it.
fn offer(target: &Target, head: &RequestHead, outgoing: &Outgoing) -> Offer {
    let may_speak_http2 = match target.origin.scheme {
        Scheme::Https => http2::can_carry_path(&target.path(head)),
        Scheme::Http => target.plain == PlainVersion::H2c || grpc::is_call(head),
    };
    // Only a connection of HTTP/1.1 can change its protocol or be logged in.
    let needs_http1 = target.form == Form::Authority || outgoing.upgrade || header_rules::logs_in(head);
    if may_speak_http2 && !needs_http1 { Offer::Http2 } else { Offer::Http1 }
}
