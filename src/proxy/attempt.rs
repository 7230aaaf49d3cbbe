//! Attempt step: sends the request until there is a response to forward; each sending needs a
//! permit of its own.
//!
//! One attempt: check out a connection, write head and buffered content, send them with the permit,
//! read the response's head. A further attempt follows if
//!
//! | reason | permit | condition |
//! |---|---|---|
//! | no byte was sent | the same | at most 3 times, on a new connection |
//! | the origin refused the stream unprocessed | another | at most 2 times, buffered body |
//! | a reused connection ended unanswered | another | once; idempotent method, buffered body |
//! | a parent proxy ended a new one unanswered | another | once, through another parent; idempotent method, buffered body |
//! | pushback | another | at most `retry` times of the limits, buffered body |
//! | the permit came too late | another | at most 8 times |
//!
//! This step never forwards a response, and never sends without a permit that was granted for this
//! very sending.

use std::time::Duration;

use super::body::Body;
use super::checkout::{check_out, discard_response};
use super::claims::Pushback;
use super::first_bytes::HelloGuard;
use super::idle_timeout;
use super::outcome::{Failure, Tunnel};
use super::parent::check_answer;
use super::permit_request::{self, LatePermits};
use super::plan::Plan;
use super::pool::Freshness;
use super::pushback::pause_log::PauseRequest;
use super::pushback::signal::{self, Signal};
use super::read_response::{self, NoResponse};
use super::refusal::Refusal;
use super::request_log::{BodyRead, RequestLog};
use super::resend::{Resend, can_repeat, write};
use super::retry;
use super::send::{OriginConn, SendError};
use super::session::Session;
use super::timeouts::RequestTimeouts;
use super::upstream::Way;
use super::wait::Granted;
use crate::gate::{Flight, Permit};
use crate::locker::{AskKind, LimitId};
use crate::tls::verify::Offer;

/// Most times that a request is sent again after its origin has said that it did not process it
/// (REFUSED_STREAM, GOAWAY). Two such responses can be bad luck; more mean that the origin accepts
/// nothing.
const MAX_REFUSED: u32 = 2;

/// Most times that a request of which no byte has left moves to another connection. A new
/// connection nearly always works, but an origin could keep breaking them.
const MAX_UNTOUCHED: u32 = 3;

/// An exchange with its response head in the session; the body of the response has not been read.
pub(super) struct Answered {
    /// Connection that the response arrives on.
    pub(super) ready: Box<OriginConn>,
    /// Slots of the request.
    pub(super) flight: Flight,
    /// Body of the request, part of which may still have to be sent.
    pub(super) body: Body,
}

/// Reason for sending a request again.
enum RetryReason {
    /// No byte was sent; its permit is still valid.
    Untouched(Permit),
    /// The origin said that it did not process the request. Holds the versions of HTTP to offer
    /// next, if it asked for fewer.
    RefusedStream(Offer),
    /// The connection ended without a response: the origin may have been closing it already.
    ConnectionLost,
    /// The origin's response is a pushback.
    PushedBack,
}

/// Connects a tunnel within the slot of its permit.
///
/// A tunnel always dials a new connection, because the origin counts it. If the permit is late by
/// then, another one is awaited with that connection kept ready.
///
/// # Errors
/// The refusal for the step that failed: no connection, no further permit; [`Failure::CallerGone`].
pub(super) async fn connect(
    session: &mut Session,
    log: &mut RequestLog,
    plan: &mut Plan,
    mut granted: Granted,
) -> Result<Tunnel, Failure> {
    let mut late = LatePermits::default();
    loop {
        let ready = match check_out(session, plan, granted.held).await {
            Ok(ready) => ready,
            Err(failure) => {
                // A parent proxy may have connected before it failed: the origin counts that connection.
                if plan.upstream.way != Way::Direct && may_have_connected(&failure) {
                    drop(granted.permit.depart());
                }
                return Err(failure);
            }
        };
        if !granted.permit.is_late() {
            permit_request::check(&granted.permit)?;
            let guard = HelloGuard::new(&session.worker.snapshot, plan);
            return Ok(Tunnel::open(ready.conn, granted.permit, guard, plan.timeouts.tunnel_idle.clone()));
        }
        late.add_one(&session.worker.snapshot)?;
        granted = permit_request::obtain_again(session, log, plan, granted.permit, ready).await?;
    }
}

/// True if a parent proxy may have connected to the origin, or still may, although the gateway has no connection.
fn may_have_connected(failure: &Failure) -> bool {
    match failure {
        Failure::Refused(refusal) => refusal.may_have_connected(),
        Failure::CallerGone => true,
        Failure::LeftQueue | Failure::Truncated | Failure::Stalled => false,
    }
}

/// Sends the request until there is a response to forward.
///
/// The body is copied while it is sent (up to 64 KiB) if a further sending is possible at all: the
/// method is idempotent, a limit has `retry`, or the origin may speak HTTP/2.
///
/// Errors of a sending that may have reached the origin: 502 if the connection ended, 504 if the
/// response did not come in time. The slots stay taken then: the origin may have counted the
/// request.
///
/// # Errors
/// The refusal for the step that failed: no connection, no response, no further permit;
/// [`Failure::CallerGone`].
pub(super) async fn run(
    session: &mut Session,
    log: &mut RequestLog,
    plan: &mut Plan,
    granted: Granted,
) -> Result<Answered, Failure> {
    let idempotent = retry::is_idempotent(session.head.method());
    let length = plan.outgoing.length;
    let mut body = Body::new(length.read_by(session.head.version()), length);
    // An origin that may speak HTTP/2 can reject any request unprocessed, so its body is kept.
    if idempotent || plan.claims.retry > 0 || plan.want.offer == Offer::Http2 {
        body = body.keep();
    }
    let Granted { mut permit, mut held } = granted;
    let (mut resend, mut late) = (None, LatePermits::default());
    let (mut resent, mut refused, mut untouched, mut passed_over) = (0, 0, 0, false);
    loop {
        let mut ready = check_out(session, plan, held.take()).await?;
        if permit.is_late() {
            late.add_one(&session.worker.snapshot)?;
            Granted { permit, held } = permit_request::obtain_again(session, log, plan, permit, ready).await?;
            continue;
        }
        write(session, plan, &mut body, resend.as_ref(), &mut ready)?;
        log.body = BodyRead::of(&body);
        permit_request::check(&permit)?;
        let reason = match send(session, log, &mut ready, &mut body, &plan.timeouts, permit).await? {
            SendResult::Unanswered(reason) => reason,
            SendResult::Answered(mut flight) => {
                if !pushed_back(session, plan, &ready, &mut flight, resent) || !can_repeat(&mut resend, &mut body) {
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
                // Trailers are kept with a body that was read to its end. A body that was not has none yet.
                if !can_repeat(&mut resend, &mut body) {
                    resend = Some(Resend::unsent(&mut ready));
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
            // The origin may have closed an idle connection before it saw the request (RFC 9112 §9.3.1).
            RetryReason::ConnectionLost => {
                let was_idle = ready.reused && plan.want.fresh == Freshness::Any;
                let passes_over = !was_idle && !passed_over && has_other_parent(session, plan, &ready);
                (passed_over, plan.want.fresh) = (passed_over | passes_over, fresh_from_now(session));
                idempotent && (was_idle || passes_over) && can_repeat(&mut resend, &mut body)
            }
        };
        if !may_repeat {
            return Err(Refusal::ConnectionTerminated.into());
        }
        // The origin may have counted the request, so the next sending takes a slot of its own.
        Granted { permit, held } = permit_request::obtain(session, log, plan, AskKind::Retry).await?;
    }
}

/// Result of one sending.
enum SendResult {
    /// The head of the response has been read.
    Answered(Flight),
    /// No final response; the reason decides if another sending may follow.
    Unanswered(RetryReason),
}

/// Sends the bytes written to the connection, and waits for the head of the response.
///
/// The deadline is `answer`, from the begin of the writing; content that is still sent
/// sets it anew.
///
/// # Errors
/// 504 if the head could not be written in time, and the failures of
/// [`read_response`](read_response::read_response).
async fn send(
    session: &mut Session,
    log: &mut RequestLog,
    ready: &mut OriginConn,
    body: &mut Body,
    timeouts: &RequestTimeouts,
    permit: Permit,
) -> Result<SendResult, Failure> {
    session.deadline.arm(&timeouts.answer);
    let flight = match session.deadline.run(ready.send(permit)).await {
        None => {
            ready.mark_suspect(session.worker.snapshot.gate.clock().now());
            return Err(Refusal::AnswerTimeout.into());
        }
        Some(Err(SendError::Untouched(unused))) if ready.reused || unused.is_late() => {
            return Ok(SendResult::Unanswered(RetryReason::Untouched(unused)));
        }
        Some(Err(SendError::Untouched(_) | SendError::Partly)) => {
            parent_failed(session, ready, "the connection broke");
            return Ok(SendResult::Unanswered(RetryReason::ConnectionLost));
        }
        Some(Ok(flight)) => flight,
    };
    let read = read_response::read_response(session, ready, body, timeouts).await;
    (log.body, log.bytes_in) = (BodyRead::of(body), body.moved);
    match read {
        Ok(()) => {
            if let Some(proxy) = &ready.forward
                && check_answer(&session.response, proxy)?
            {
                log.answered_by_parent();
            }
            let clock = session.worker.snapshot.gate.clock();
            ready.usable_until = idle_timeout::usable_until(&session.response, || clock.now());
            Ok(SendResult::Answered(flight))
        }
        Err(NoResponse::RefusedStream) => Ok(SendResult::Unanswered(RetryReason::RefusedStream(Offer::Http2))),
        Err(NoResponse::WantsHttp1) => Ok(SendResult::Unanswered(RetryReason::RefusedStream(Offer::Http1))),
        Err(NoResponse::ConnectionLost) => {
            parent_failed(session, ready, "the connection ended without an answer");
            Ok(SendResult::Unanswered(RetryReason::ConnectionLost))
        }
        Err(NoResponse::Ended(end)) => {
            // Nonsense and silence may be the origin's, and are no fault of a parent proxy between.
            if matches!(end, Failure::Refused(Refusal::AnswerTimeout)) {
                ready.mark_suspect(session.worker.snapshot.gate.clock().now());
            }
            Err(end)
        }
    }
}

/// Records that the parent proxy at the other end has failed a request in absolute form. Not for a connection that was
/// idle before: the parent may have been closing it.
fn parent_failed(session: &Session, ready: &OriginConn, why: &str) {
    if let Some(proxy) = ready.forward.as_ref().filter(|_| !ready.reused) {
        proxy.status.failed(why, session.worker.snapshot.gate.clock().now());
    }
}

/// True if requests in absolute form go to another parent proxy now than the one at the other end.
fn has_other_parent(session: &Session, plan: &Plan, ready: &OriginConn) -> bool {
    let Some(failed) = &ready.forward else { return false };
    let rule = session.worker.snapshot.parents.rule(plan.upstream.way);
    rule.and_then(|rule| rule.preferred()).is_some_and(|next| next.index != failed.index)
}

/// Requires a connection opened from now on: older ones may all be as dead as the last.
///
/// A restarted origin has closed all of its connections; trying each of them would use up the
/// attempts.
fn fresh_from_now(session: &Session) -> Freshness {
    Freshness::Since(session.worker.snapshot.gate.clock().now())
}

/// Pauses the windows of the claims if the response is a pushback. Returns true if the request may
/// be sent again instead of forwarding that response. A refusal of a parent proxy's own is none of the origin's.
///
/// The slots settle first, whatever the response is. A pause is per window and credential: other
/// keys of the limit go on, and other credentials. A time that the origin does not name is short
/// term: just the limits with the shortest T pause.
fn pushed_back(session: &Session, plan: &Plan, ready: &OriginConn, flight: &mut Flight, resent: u8) -> bool {
    flight.answered();
    if ready.forward.as_ref().is_some_and(|proxy| check_answer(&session.response, proxy) == Ok(true)) {
        return false;
    }
    let status = session.response.status();
    let snapshot = &session.worker.snapshot;
    let wall = || {
        let nanos = snapshot.gate.clock().wall_unix_nanos().max(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    };
    let Some(signal) = signal::read(&session.response, wall) else { return false };
    let listens = |limit: &LimitId| snapshot.rules.rule(*limit).listens_to(status);
    let shortest = plan.claims.limits().filter(listens).map(|limit| snapshot.span(limit)).min();
    let Some(shortest) = shortest else { return false };
    snapshot.rules.metrics(&plan.claims).for_each(|limit| limit.pushbacks.add_one());
    let now = snapshot.gate.clock().now();
    for claim in plan.claims.claims.iter().filter(|claim| listens(&claim.limit)) {
        let rule = snapshot.rules.rule(claim.limit);
        let is_too_long = signal == Signal::Unnamed && snapshot.span(claim.limit) > shortest;
        if rule.pushback == Pushback::Ignore || is_too_long {
            continue;
        }
        let credential = plan.credential(session, claim);
        let asked = PauseRequest { signal, first: shortest, max_backoff: rule.max_backoff, credential };
        let pause = snapshot.pauses.record(claim.limit, claim.key, asked, now);
        snapshot.gate.pause(claim.limit, pause.key, pause.length);
        snapshot.log_pause(claim.limit, status, pause.length, now);
    }
    resent < plan.claims.retry && retry::may_resend(status, session.head.method())
}
