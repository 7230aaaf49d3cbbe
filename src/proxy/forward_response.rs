//! Response step: forwards the origin's response as it arrives.
//!
//! Steps: frame the body for the caller's version, write the head, stream the content both ways,
//! return the connection. Of the response nothing is buffered beyond the two connections' own
//! buffers: a caller that reads slowly slows the origin down.
//!
//! The caller's connection is kept if it asks for that, its request was read to the end, the
//! response has an end of its own, and the gateway does not drain.

use std::future::poll_fn;
use std::task::Poll;

use super::attempt::Answered;
use super::body::{Body, BodyError};
use super::checkout;
use super::header_rules::{self, Returned};
use super::outcome::{Failure, Outcome, Tunnel};
use super::plan::Plan;
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::send::OriginConn;
use super::serialize;
use super::session::Session;
use super::timeouts::Timeout;
use crate::wire::{Length, Name, ResponseHead, Version, framing};

/// Forwards the response: its head is in the session, its body has not been read.
///
/// A 101 turns both connections into a tunnel; it passes only if the request's Upgrade was
/// forwarded.
///
/// # Errors
/// 502 for a response that breaks HTTP before any of it has been forwarded; [`Failure::Truncated`]
/// after that; [`Failure::Stalled`]; [`Failure::CallerGone`].
pub(super) async fn run(
    session: &mut Session,
    log: &mut RequestLog,
    plan: &Plan,
    answered: Answered,
) -> Result<Outcome, Failure> {
    let Answered { mut ready, flight, mut body } = answered;
    // The slots have settled, so the request timeout no longer applies.
    session.deadline.uncap();
    let version = session.head.version();
    let (waited, locations) = (log.waited, plan.target.locations.as_deref());
    log.status = session.response.status();
    if session.response.status() == 101 {
        if !plan.outgoing.upgrade {
            return Err(Refusal::ProtocolError("the origin switched to a protocol that was not requested").into());
        }
        let (length, pinned) = (Length::Empty, false);
        let returned = Returned { length, keep: true, version, waited, received_unix_nanos: None, locations, pinned };
        serialize::buffer_response(&session.response, returned, &mut session.conn);
        send_rest(session, &mut ready, &mut body, &plan.timeouts.body_idle).await?;
        log.bytes_in = body.moved;
        return Ok(Outcome::Tunnel(Box::new(Tunnel::upgraded(ready.conn, flight, plan.timeouts.tunnel_idle.clone()))));
    }
    let from = framing::of_response(&session.response, session.head.method())
        .map_err(|error| Refusal::ProtocolError(error.reason()))?;
    let length = from.written_to(version);
    let draining = session.worker.snapshot.drain.is_draining();
    let ends_itself = version == Version::Http2 || length != Length::UntilClose;
    let keep_caller = plan.outgoing.options.keeps_open(version) && ends_itself && body.has_ended() && !draining;
    let stated = stated_length(&session.response, session.head.method(), length, version);
    // A recipient adds a missing Date when it forwards a response (RFC 9110 §6.6.1).
    let undated = session.response.get(Name::Date).is_none();
    let received_unix_nanos = undated.then(|| session.worker.snapshot.gate.clock().wall_unix_nanos());
    let (keep, pinned) = (keep_caller, checkout::is_pinned(session, &ready));
    let returned = Returned { length: stated, keep, version, waited, received_unix_nanos, locations, pinned };
    serialize::buffer_response(&session.response, returned, &mut session.conn);
    let mut back = Body::of_response(from.read_by(session.response.version()), length);
    if !header_rules::takes_trailers(&session.head) {
        back = back.without_trailers();
    }
    let streamed = stream(session, &mut ready, &mut body, &mut back, &plan.timeouts.body_idle).await;
    log.bytes_in = body.moved;
    log.bytes_out += back.moved;
    streamed?;
    if body.has_ended() && from != Length::UntilClose {
        checkout::keep(session, plan, ready);
    }
    drop(flight);
    Ok(if keep_caller && body.has_ended() { Outcome::Keep } else { Outcome::Close })
}

/// Sends the rest of a request's body before its connection changes protocol: the bytes behind it are those of the new
/// protocol (RFC 9110 §7.8). The caller receives the 101 meanwhile.
///
/// # Errors
/// [`Failure::Truncated`] if either side breaks off or the body is malformed; [`Failure::Stalled`] if nothing moves until
/// the timeout.
async fn send_rest(
    session: &mut Session,
    ready: &mut OriginConn,
    body: &mut Body,
    body_idle: &Timeout,
) -> Result<(), Failure> {
    let Session { conn, deadline, .. } = session;
    let mut moved = u64::MAX;
    poll_fn(|cx| {
        if body.has_ended() && !ready.conn.has_pending() {
            return Poll::Ready(Ok(()));
        }
        if conn.poll_flush(cx).map_err(|_| Failure::Truncated)?.is_ready() {
            match body.poll_move(cx, conn, &mut ready.conn) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::Truncated)),
                Poll::Pending => {}
            }
        }
        if body.moved != moved {
            moved = body.moved;
            deadline.arm(body_idle);
        }
        deadline.poll_expired(cx).map(|()| Err(Failure::Stalled))
    })
    .await
}

/// Length that the head states. A response of HTTP/2 may end with its head and name no length; in
/// HTTP/1 that would mean content until the connection closes (RFC 9112 §6.3).
///
/// Example: a response of HTTP/2 with status 200 and END_STREAM on its head goes to a caller of
/// HTTP/1.1 with `Content-Length: 0`.
fn stated_length(head: &ResponseHead, method: &str, length: Length, version: Version) -> Length {
    let ends_by_rule = method == "HEAD" || matches!(head.status(), 100..=199 | 204 | 304);
    let silent = length == Length::Empty && !ends_by_rule && head.get(Name::ContentLength).is_none();
    if silent && version != Version::Http2 { Length::Exact(0) } else { length }
}

/// Moves the response's body back and the rest of the request's body out, until the response is
/// written.
///
/// Both directions share one deadline, `body_idle`: a byte moved in either of them sets it anew. A
/// stream of events may be silent for that long.
///
/// # Errors
/// - [`Failure::CallerGone`] if the caller hangs up or cannot be written to.
/// - 502 if the origin breaks off, or its chunks are malformed, before a byte of the response has
///   left.
/// - [`Failure::Truncated`] after that.
/// - [`Failure::Stalled`] if nothing moves until the deadline.
async fn stream(
    session: &mut Session,
    ready: &mut OriginConn,
    body: &mut Body,
    back: &mut Body,
    body_idle: &Timeout,
) -> Result<(), Failure> {
    let (mut moved, mut sending) = (u64::MAX, !body.has_ended() || ready.conn.has_pending());
    let clock = session.worker.snapshot.gate.clock();
    let Session { conn, deadline, .. } = session;
    let before = conn.total_written();
    poll_fn(|cx| {
        match back.poll_move(cx, &mut ready.conn, conn) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(BodyError::Sink(_))) => return Poll::Ready(Err(Failure::CallerGone)),
            // Nothing of the response has left, so an error response is still possible.
            Poll::Ready(Err(BodyError::Source(_))) if conn.total_written() == before => {
                return Poll::Ready(Err(Refusal::ConnectionTerminated.into()));
            }
            Poll::Ready(Err(BodyError::Malformed(error))) if conn.total_written() == before => {
                return Poll::Ready(Err(Refusal::ProtocolError(error.0).into()));
            }
            Poll::Ready(Err(BodyError::Source(_) | BodyError::Malformed(_))) => {
                return Poll::Ready(Err(Failure::Truncated));
            }
            Poll::Pending => {}
        }
        if sending {
            // An origin that answers early may stop reading; its response is forwarded all the same.
            sending = body.poll_move(cx, conn, &mut ready.conn).is_pending();
        }
        // Polled after the content, whatever came of it: the end of the caller's connection must wake this task from now
        // on.
        if conn.stream.poll_hangup(cx).is_ready() {
            return Poll::Ready(Err(Failure::CallerGone));
        }
        let now = body.moved.wrapping_add(back.moved);
        if now != moved {
            moved = now;
            deadline.arm(body_idle);
        }
        std::task::ready!(deadline.poll_expired(cx));
        ready.mark_suspect(clock.now());
        Poll::Ready(Err(Failure::Stalled))
    })
    .await
}
