//! The response, passed on as it comes.

use std::future::poll_fn;
use std::task::Poll;

use super::attempt;
use super::body::{Body, BodyError};
use super::connection::Caller;
use super::exchange::{End, Outcome, Plan};
use super::header_rules::{self, Returned};
use super::refusal::Refusal;
use super::request_log::Story;
use super::send::Ready;
use super::serialize;
use super::tunnel::Tunnel;
use crate::gate::Flight;
use crate::wire::{Length, Name, ResponseHead, Version, framing};

/// A request that has its answer.
pub(super) struct Exchanged {
    pub(super) ready: Ready,
    pub(super) flight: Flight,
    pub(super) body: Body,
}

/// Passes the response on: `caller.response` has been read, its body has not.
pub(super) async fn run(caller: &mut Caller, story: &mut Story, plan: &Plan, done: Exchanged) -> Result<Outcome, End> {
    let Exchanged { mut ready, flight, mut body } = done;
    // Its slots have settled.
    caller.alarm.cap(None);
    let version = caller.head.version();
    let (waited, locations) = (story.waited, plan.target.locations.as_deref());
    story.status = caller.response.status();
    if caller.response.status() == 101 {
        if !plan.outgoing.upgrade {
            return Err(Refusal::ProtocolError("the origin switched to a protocol that nobody asked for").into());
        }
        let (length, pinned) = (Length::Empty, false);
        let returned = Returned { length, keep: true, version, waited, received_unix_nanos: None, locations, pinned };
        serialize::send_response(&caller.response, returned, &mut caller.conn);
        return Ok(Outcome::Tunnel(Box::new(Tunnel::upgraded(ready.conn, flight))));
    }
    let from = framing::of_response(&caller.response, caller.head.method())
        .map_err(|error| Refusal::ProtocolError(error.0))?;
    let length = from.written_to(version);
    let draining = caller.worker.proxy.drain.is_draining();
    let ends_itself = version == Version::Http2 || length != Length::UntilClose;
    let keep_caller = plan.outgoing.options.keeps_open(version) && ends_itself && body.has_ended() && !draining;
    let told = told(&caller.response, caller.head.method(), length, version);
    // RFC 9110 §6.6.1: a date that is missing is added when a response is passed on.
    let undated = caller.response.get(Name::Date).is_none();
    let received_unix_nanos = undated.then(|| caller.worker.proxy.gate.clock().wall_unix_nanos());
    let (keep, pinned) = (keep_caller, attempt::is_pinned(caller, &ready));
    let returned = Returned { length: told, keep, version, waited, received_unix_nanos, locations, pinned };
    serialize::send_response(&caller.response, returned, &mut caller.conn);
    let mut back =
        Body::new(from.read_by(caller.response.version()), length, header_rules::takes_trailers(&caller.head));
    let streamed = stream(caller, &mut ready, &mut body, &mut back).await;
    story.bytes_in += body.moved;
    story.bytes_out += back.moved;
    streamed?;
    if body.has_ended() && from != Length::UntilClose {
        attempt::keep(caller, plan, ready);
    }
    drop(flight);
    Ok(if keep_caller && body.has_ended() { Outcome::Keep } else { Outcome::Close })
}

/// The length that the head tells. A response of HTTP/2 may end with its head and name no length; in HTTP/1 that would mean
/// content until the connection closes (RFC 9112 §6.3).
fn told(head: &ResponseHead, method: &str, length: Length, version: Version) -> Length {
    let ends_by_rule = method == "HEAD" || matches!(head.status(), 100..=199 | 204 | 304);
    let silent = length == Length::Empty && !ends_by_rule && head.get(Name::ContentLength).is_none();
    if silent && version != Version::Http2 { Length::Exact(0) } else { length }
}

/// Moves the response's body back and what is left of the request's body out, until the response is written.
async fn stream(caller: &mut Caller, ready: &mut Ready, body: &mut Body, back: &mut Body) -> Result<(), End> {
    let idle = caller.worker.proxy.timeouts.idle;
    let (mut moved, mut sending) = (u64::MAX, !body.has_ended() || ready.conn.has_pending());
    let clock = caller.worker.proxy.gate.clock();
    let Caller { conn, alarm, .. } = caller;
    let before = conn.total_written();
    poll_fn(|cx| {
        match back.poll_move(cx, &mut ready.conn, conn) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(BodyError::Sink(_))) => return Poll::Ready(Err(End::Left)),
            // Nothing of the response has left yet: there is still room for an honest answer.
            Poll::Ready(Err(BodyError::Source(_))) if conn.total_written() == before => {
                return Poll::Ready(Err(Refusal::ConnectionTerminated.into()));
            }
            Poll::Ready(Err(BodyError::Malformed(error))) if conn.total_written() == before => {
                return Poll::Ready(Err(Refusal::ProtocolError(error.0).into()));
            }
            Poll::Ready(Err(BodyError::Source(_) | BodyError::Malformed(_))) => return Poll::Ready(Err(End::Broken)),
            Poll::Pending => {}
        }
        if sending {
            // An origin that answers early may stop reading; its answer is passed on all the same.
            sending = body.poll_move(cx, conn, &mut ready.conn).is_pending();
        }
        // After the content was looked at: whatever became of it, the caller's end must wake us from here on.
        if conn.stream.poll_hangup(cx).is_ready() {
            return Poll::Ready(Err(End::Left));
        }
        let now = body.moved.wrapping_add(back.moved);
        if now != moved {
            moved = now;
            alarm.set(idle);
        }
        std::task::ready!(alarm.poll_expired(cx));
        ready.doubt(clock.now());
        Poll::Ready(Err(End::Broken))
    })
    .await
}
