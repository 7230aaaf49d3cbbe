//! Attempt step: sends the request on a connection until there is a response to forward; every sending has its own permit.

use super::body::{Body, Replay};
use super::checkout::{check_out, discard_response};
use super::outcome::{Failure, Tunnel};
use super::permit::{self, LatePermits};
use super::plan::Plan;
use super::pool::Fresh;
use super::read_response::{self, NoResponse};
use super::refusal::Refusal;
use super::request_log::{BodyRead, RequestLog};
use super::retry::{self, Pushback};
use super::send::{OriginConn, SendError};
use super::serialize;
use super::server_name::Guard;
use super::session::Session;
use super::target::Scheme;
use super::wait::Granted;
use crate::gate::{Flight, Permit};
use crate::locker::AskKind;
use crate::tls::verify::Offer;
use crate::wire::Version;

/// Most times that a request is sent again of which the origin says that it has not looked at it. Two are bad luck; more are
/// an origin that takes nothing.
const MAX_REFUSED: u32 = 2;

/// Most times that a request of which nothing has left is put on another connection. A new one takes it nearly always; an
/// origin could go on breaking them for ever.
const MAX_UNTOUCHED: u32 = 3;

/// A request that has reached its origin.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every request takes the first, and a box would cost each an allocation"
)]
pub(super) enum Reached {
    /// The head of its response has been read.
    Answered(Answered),
    /// Its tunnel is connected.
    Connected(Box<Tunnel>),
}

/// A request whose response head is in the session; the response's body has not been read.
pub(super) struct Answered {
    pub(super) ready: OriginConn,
    pub(super) flight: Flight,
    /// The request's body, of which some may still have to be sent.
    pub(super) body: Body,
}

/// What of the request's body is written once more.
enum Resend {
    /// All of it, because it left before.
    Whole(Replay),
    /// The bytes that waited behind a head that did not leave, framed for that version.
    Unsent(Vec<u8>, Version),
}

/// Why a request is sent once more.
enum RetryReason {
    /// It never left; its permit is as good as before.
    Untouched(Permit),
    /// The origin has not looked at it, and says so; and the protocol that it will take, if that is less than it chose.
    RefusedStream(Offer),
    /// Its connection ended without a response: the origin may have been closing it already.
    ConnectionLost,
    /// The origin's response is a pushback.
    PushedBack,
}

/// Sends the request until there is a response to forward, or connects its tunnel.
///
/// # Errors
/// The refusal of what failed: no connection, no response, no other permit; that the caller has hung up.
pub(super) async fn run(
    session: &mut Session,
    log: &mut RequestLog,
    plan: &mut Plan,
    granted: Granted,
) -> Result<Reached, Failure> {
    if plan.is_tunnel() {
        return Ok(Reached::Connected(Box::new(connect(session, log, plan, granted).await?)));
    }
    exchange(session, log, plan, granted).await.map(Reached::Answered)
}

/// Connects a tunnel, in the slot of its permit.
async fn connect(
    session: &mut Session,
    log: &mut RequestLog,
    plan: &mut Plan,
    mut granted: Granted,
) -> Result<Tunnel, Failure> {
    let snapshot = &session.worker.snapshot;
    snapshot.warned_hosts.warn_of_tunnel(&plan.target.origin, &snapshot.rules, &plan.claims);
    let mut late = LatePermits::default();
    loop {
        let ready = check_out(session, plan, granted.held).await?;
        if !granted.permit.is_late() {
            permit::check(&granted.permit)?;
            let guard = Guard::new(&session.worker.snapshot, plan);
            return Ok(Tunnel::open(ready, granted.permit, guard));
        }
        late.add_one(session)?;
        granted = permit::obtain_again(session, log, plan, granted.permit, ready).await?;
    }
}

/// Sends the request until there is a response to forward.
async fn exchange(
    session: &mut Session,
    log: &mut RequestLog,
    plan: &mut Plan,
    granted: Granted,
) -> Result<Answered, Failure> {
    let idempotent = retry::is_idempotent(session.head.method());
    let length = plan.outgoing.length;
    let mut body = Body::new(length.read_by(session.head.version()), length, true);
    // An origin that may speak HTTP/2 may say of any request that it has not looked at it.
    if idempotent || plan.claims.retry > 0 || plan.target.origin.scheme == Scheme::Https {
        body = body.keep();
    }
    let Granted { mut permit, mut held } = granted;
    let (mut resend, mut late) = (None, LatePermits::default());
    let (mut resent, mut refused, mut untouched) = (0, 0, 0);
    loop {
        let mut ready = check_out(session, plan, held.take()).await?;
        if permit.is_late() {
            late.add_one(session)?;
            Granted { permit, held } = permit::obtain_again(session, log, plan, permit, ready).await?;
            continue;
        }
        write(session, plan, &mut body, resend.as_ref(), &mut ready)?;
        log.body = BodyRead::of(&body);
        permit::check(&permit)?;
        let reason = match send(session, log, &mut ready, &mut body, permit).await? {
            Sent::Unanswered(reason) => reason,
            Sent::Answered(mut flight) => {
                if !pushed_back(session, plan, &mut flight, resent) || !can_repeat(&mut resend, &mut body) {
                    return Ok(Answered { ready, flight, body });
                }
                resent += 1;
                log.resent += 1;
                session.worker.snapshot.rules.metrics(&plan.claims).for_each(|limit| limit.resent.add_one());
                RetryReason::PushedBack
            }
        };
        let may_repeat = match reason {
            RetryReason::Untouched(unused) => {
                untouched += 1;
                if untouched > MAX_UNTOUCHED {
                    return Err(Refusal::ConnectionTerminated.into());
                }
                // Trailers are kept with a body that is there whole. Where more is to come, there are none yet.
                if !can_repeat(&mut resend, &mut body) {
                    resend = Some(Resend::Unsent(ready.conn.take_unsent(), ready.conn.version()));
                }
                permit = unused;
                plan.want.fresh = fresh_from_now(session);
                continue;
            }
            RetryReason::PushedBack => {
                discard_response(session, plan, ready);
                true
            }
            RetryReason::RefusedStream(wants) => {
                if wants == Offer::Http1 {
                    session.worker.pool.force_http1(&plan.upstream);
                    plan.want.offer = Offer::Http1;
                }
                refused += 1;
                refused <= MAX_REFUSED && can_repeat(&mut resend, &mut body)
            }
            // A kept connection may have been closed by the origin before it saw the request (RFC 9112 §9.3.1).
            RetryReason::ConnectionLost => {
                let may = ready.reused && idempotent && plan.want.fresh == Fresh::No;
                plan.want.fresh = fresh_from_now(session);
                may && can_repeat(&mut resend, &mut body)
            }
        };
        if !may_repeat {
            return Err(Refusal::ConnectionTerminated.into());
        }
        // It may have been counted, so the next sending takes a slot of its own.
        Granted { permit, held } = permit::obtain(session, log, plan, AskKind::Retry).await?;
    }
}

/// Result of one sending.
enum Sent {
    /// The head of the response has been read.
    Answered(Flight),
    Unanswered(RetryReason),
}

/// Sends what was written, and waits for the head of the response.
async fn send(
    session: &mut Session,
    log: &mut RequestLog,
    ready: &mut OriginConn,
    body: &mut Body,
    permit: Permit,
) -> Result<Sent, Failure> {
    session.deadline.set(session.worker.snapshot.timeouts.answer);
    let flight = match session.deadline.run(ready.send(permit)).await {
        None => {
            ready.doubt(session.worker.snapshot.gate.clock().now());
            return Err(Refusal::AnswerTimeout.into());
        }
        Some(Err(SendError::Untouched(unused))) if ready.reused || unused.is_late() => {
            return Ok(Sent::Unanswered(RetryReason::Untouched(unused)));
        }
        Some(Err(SendError::Untouched(_) | SendError::Partly)) => {
            return Ok(Sent::Unanswered(RetryReason::ConnectionLost));
        }
        Some(Ok(flight)) => flight,
    };
    let read = read_response::read_response(session, ready, body).await;
    log.body = BodyRead::of(body);
    match read {
        Ok(()) => Ok(Sent::Answered(flight)),
        Err(NoResponse::RefusedStream) => Ok(Sent::Unanswered(RetryReason::RefusedStream(Offer::Http2))),
        Err(NoResponse::WantsHttp1) => Ok(Sent::Unanswered(RetryReason::RefusedStream(Offer::Http1))),
        Err(NoResponse::ConnectionLost) => Ok(Sent::Unanswered(RetryReason::ConnectionLost)),
        Err(NoResponse::Ended(end)) => {
            if matches!(end, Failure::Refused(Refusal::AnswerTimeout)) {
                ready.doubt(session.worker.snapshot.gate.clock().now());
            }
            Err(end)
        }
    }
}

/// Asks for a new connection: those opened before may all be as dead as the last.
fn fresh_from_now(session: &Session) -> Fresh {
    Fresh::Since(session.worker.snapshot.gate.clock().now())
}

/// Puts the request on the connection, with as much of its body as has been read.
fn write(
    session: &mut Session,
    plan: &Plan,
    body: &mut Body,
    resend: Option<&Resend>,
    ready: &mut OriginConn,
) -> Result<(), Failure> {
    let conn = &mut ready.conn;
    let version = conn.version();
    let framed = plan.outgoing.length.written_to(version);
    body.reframe(framed);
    match resend {
        // Its head is in it.
        Some(Resend::Unsent(bytes, Version::Http11)) if version == Version::Http11 => {
            conn.out().extend_from_slice(bytes);
        }
        Some(Resend::Unsent(_, before)) if *before != version && body.moved > 0 => {
            // What was read of the body is framed for a version that the origin does not speak any more.
            return Err(Refusal::ConnectionTerminated.into());
        }
        Some(Resend::Unsent(bytes, before)) => {
            serialize::send_request(&session.head, &plan.target, plan.outgoing, conn)?;
            if *before == version {
                conn.out().extend_from_slice(bytes);
            }
        }
        Some(Resend::Whole(kept)) => {
            serialize::send_request(&session.head, &plan.target, plan.outgoing, conn)?;
            kept.write(framed, conn);
        }
        None => serialize::send_request(&session.head, &plan.target, plan.outgoing, conn)?,
    }
    let gathered = body.gather(&mut session.conn, conn);
    gathered.map_err(|_| Refusal::Malformed("the request's content is broken").into())
}

/// True if the whole body is at hand; it is kept for the next sending then.
fn can_repeat(resend: &mut Option<Resend>, body: &mut Body) -> bool {
    if !matches!(resend, Some(Resend::Whole(_))) {
        *resend = body.take_replay().map(Resend::Whole);
    }
    resend.is_some()
}

/// What the origin's answer says of the limit: its windows pause. Whether the request may be sent resend instead of
/// passing the answer on.
fn pushed_back(session: &Session, plan: &Plan, flight: &mut Flight, resent: u8) -> bool {
    flight.answered();
    let snapshot = &session.worker.snapshot;
    if !retry::may_push_back(session.response.status()) {
        return false;
    }
    let wall = snapshot.gate.clock().wall_unix_nanos();
    if retry::asks_for_another(&session.response) {
        snapshot.rules.metrics(&plan.claims).for_each(|limit| limit.pushbacks.add_one());
    }
    for claim in &plan.claims.claims {
        let rule = snapshot.rules.rule(claim.limit);
        if rule.pushback == super::claims::Pushback::Pause
            && let Pushback::For(pause) = retry::pushback(&session.response, snapshot.span(claim.limit), wall)
        {
            snapshot.gate.pause(claim.limit, claim.key, pause);
        }
    }
    resent < plan.claims.retry && retry::asks_for_another(&session.response)
}
