//! THE straight line: one request, from its head to the last byte of its response.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::access::Admitted;
use super::alarm::Alarm;
use super::body::{Body, BodyError};
use super::claims::Claims;
use super::connection::Caller;
use super::headers::{self, Outgoing, Returned};
use super::origin::{Fresh, Ready, Unsent};
use super::refusal::Refusal;
use super::retry::{self, Pushback};
use super::story::{BodyRead, Story};
use super::target::{Form, Target};
use super::tunnel::Tunnel;
use super::{answer, hear, line, patience};
use crate::gate::{Answer, Flight, Permit};
use crate::time::Time;
use crate::wire::{Length, Name, Options, Version, framing};

/// What becomes of the caller's connection.
pub(super) enum Outcome {
    /// It can carry another request.
    Keep,
    /// It ends, once all is written.
    Close,
    /// It ends visibly broken: what the caller has of the response is not all of it.
    Abort,
    /// Its bytes now go both ways.
    Tunnel(Box<Tunnel>),
}

/// Why a request did not come to its response.
pub(super) enum End {
    /// The caller gets an answer of ours.
    Refused(Refusal),
    /// There is no caller any more.
    Left,
    /// The response broke off after its start had been passed on.
    Broken,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

/// What is known of a request before it is sent.
struct Plan {
    target: Target,
    admitted: Admitted,
    claims: Claims,
    outgoing: Outgoing,
    arrived: Time,
}

/// Carries one request: `caller.head` has been read, its body has not.
pub(super) async fn run(caller: &mut Caller) -> Outcome {
    let mut story = Story::begin(caller);
    match go(caller, &mut story).await {
        Ok(Outcome::Tunnel(mut tunnel)) => {
            tunnel.story = Some(story);
            Outcome::Tunnel(tunnel)
        }
        Ok(outcome) => {
            story.end(caller);
            outcome
        }
        Err(End::Refused(refusal)) => {
            let outcome = answer::refuse(caller, &mut story, &refusal).await;
            story.end(caller);
            outcome
        }
        Err(End::Left) => {
            story.left();
            story.end(caller);
            Outcome::Abort
        }
        Err(End::Broken) => {
            story.broken();
            story.end(caller);
            Outcome::Abort
        }
    }
}

async fn go(caller: &mut Caller, story: &mut Story) -> Result<Outcome, End> {
    let plan = plan(caller, story).await?;
    if let Some(outcome) = answer::own(caller, story).await {
        return Ok(outcome);
    }
    let tunnel = plan.target.form == Form::Authority;
    // A tunnel begins where its connection begins, not behind other requests on it.
    let fresh = if tunnel { Fresh::Yes } else { Fresh::No };
    let (permit, held) = permit(caller, story, &plan, None, fresh).await?;
    if tunnel {
        caller.worker.proxy.opaque.tell(&plan.target.origin.host, !plan.claims.claims.is_empty());
        let ready = connection(caller, &plan, held, fresh).await?;
        return Ok(answer::tunnel(caller, story, Tunnel::open(ready, permit)));
    }
    attempts(caller, story, &plan, permit, held).await
}

/// Where to, whether that is allowed, and which windows it takes.
async fn plan(caller: &mut Caller, story: &mut Story) -> Result<Plan, End> {
    let proxy = &caller.worker.proxy;
    let head = &caller.head;
    let length = framing::of_request(head).map_err(|error| Refusal::Malformed(error.0))?;
    if headers::stolen_field(head).is_some() {
        return Err(Refusal::Malformed("Connection names a field that is meant for the origin").into());
    }
    if headers::expects_the_unknown(head) {
        return Err(Refusal::Expectation.into());
    }
    if super::target::too_many_hops(head) {
        return Err(Refusal::Loop.into());
    }
    let target = proxy.targets.find(head)?;
    if target.form == Form::Authority && length != Length::Empty {
        return Err(Refusal::Malformed("CONNECT has no body").into());
    }
    let named = proxy.rules.names(&target.origin.host, target.origin.port);
    let peer = caller.peer.ip();
    let admitted = proxy.access.admit(peer, head, &target, named, proxy.gate.clock()).await?;
    story.admitted(&admitted);
    let claims = proxy.rules.find(&target, head, &admitted, peer)?;
    story.claimed(caller, &claims);
    let options = Options::of(head.all(Name::Connection).chain(head.all(Name::ProxyConnection)));
    let upgrade = headers::wants_upgrade(head, options, length);
    let outgoing = Outgoing { length, options, upgrade };
    Ok(Plan { target, admitted, claims, outgoing, arrived: story.started })
}

/// One permit, after a wait if need be.
async fn permit(
    caller: &mut Caller,
    story: &mut Story,
    plan: &Plan,
    again: Option<Time>,
    fresh: Fresh,
) -> Result<(Permit, Option<Ready>), End> {
    let mut patience = patience::of(&caller.head);
    patience.arrived = again;
    let proxy = &caller.worker.proxy;
    let (permit, held) = match proxy.gate.ask(&plan.claims.claims, plan.admitted.caller, patience) {
        Answer::Go(permit) => (permit, None),
        Answer::Sorry(refused) => return Err(proxy.refusal(refused).into()),
        Answer::Wait(waiting) => {
            // Boxed, so that a connection whose requests never wait does not carry the memory of a wait.
            let asked = proxy.gate.clock().now();
            let turn = Box::pin(line::wait(caller, waiting, &plan.target.origin, plan.admitted.named, fresh)).await;
            story.waited += caller.worker.proxy.gate.clock().now().since(asked);
            turn?
        }
    };
    story.permitted(caller, &permit);
    Ok((permit, held))
}

async fn connection(caller: &mut Caller, plan: &Plan, held: Option<Ready>, fresh: Fresh) -> Result<Ready, End> {
    if let Some(mut held) = held
        && held.is_good()
    {
        return Ok(held);
    }
    let origins = &caller.worker.origins;
    if let Some(ready) = fresh.or_idle(origins, &plan.target.origin) {
        return Ok(ready);
    }
    let (origins, origin, named) = (origins.clone(), plan.target.origin.clone(), plan.admitted.named);
    Ok(line::race(caller, Box::pin(async move { origins.dial(&origin, named).await })).await??)
}

/// Sends the request until an answer is to be passed on; every sending has a permit of its own.
async fn attempts(
    caller: &mut Caller,
    story: &mut Story,
    plan: &Plan,
    permit: Permit,
    held: Option<Ready>,
) -> Result<Outcome, End> {
    let idempotent = retry::is_idempotent(caller.head.method());
    let mut body = Body::new(plan.outgoing.length, plan.outgoing.length, true);
    if idempotent || plan.claims.retry > 0 {
        body = body.keep();
    }
    let (mut permit, mut held, mut fresh, mut resent) = (permit, held, Fresh::No, 0);
    // A request that must be written once more: its whole body; or, if not a byte of it had left, all that waited.
    let (mut again, mut unsent): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
    loop {
        let mut ready = connection(caller, plan, held.take(), fresh).await?;
        if let Some(unsent) = unsent.take() {
            ready.conn.out().extend_from_slice(&unsent);
        } else {
            headers::write_request(&caller.head, &plan.target, plan.outgoing, ready.conn.out());
            ready.conn.out().extend_from_slice(again.as_deref().unwrap_or_default());
        }
        body.gather(&mut caller.conn, &mut ready.conn)
            .map_err(|_| Refusal::Malformed("the request's chunks are broken"))?;
        story.body = BodyRead::of(&body);
        caller.alarm.set(caller.worker.proxy.timeouts.answer);
        let lost = match within(&mut caller.alarm, ready.send(permit)).await {
            None => return Err(Refusal::AnswerTimeout.into()),
            Some(Err(Unsent::Untouched(unused))) if ready.reused => {
                (permit, fresh) = (unused, Fresh::Yes);
                unsent = Some(ready.conn.take_out());
                continue;
            }
            Some(Err(Unsent::Untouched(_) | Unsent::Partly)) => Refusal::ConnectionTerminated,
            Some(Ok(mut flight)) => match heard(caller, story, &mut ready, &mut body).await {
                Ok(()) => {
                    if pushed_back(caller, plan, &mut flight, resent) {
                        // What was sent a second time is at hand for a third.
                        again = again.or_else(|| body.take_written());
                        if again.is_some() {
                            drop(flight);
                            resent += 1;
                            story.resent += 1;
                            discard(caller, plan, ready);
                            (permit, held) = self::permit(caller, story, plan, Some(plan.arrived), fresh).await?;
                            continue;
                        }
                    }
                    return pass(caller, story, plan, Exchanged { ready, flight, body }).await;
                }
                Err(hear::Silence::Lost) => Refusal::ConnectionTerminated,
                Err(hear::Silence::End(end)) => return Err(end),
            },
        };
        // A kept connection may have been closed by the origin before it saw the request (RFC 9112 §9.3.1). It may
        // also have been counted, so the next sending takes a slot of its own.
        if !(ready.reused && idempotent && fresh == Fresh::No) {
            return Err(lost.into());
        }
        again = again.or_else(|| body.take_written());
        if again.is_none() {
            return Err(lost.into());
        }
        fresh = Fresh::Yes;
        (permit, held) = self::permit(caller, story, plan, Some(plan.arrived), fresh).await?;
    }
}

async fn heard(
    caller: &mut Caller,
    story: &mut Story,
    ready: &mut Ready,
    body: &mut Body,
) -> Result<(), hear::Silence> {
    let answer = hear::answer(caller, ready, body).await;
    story.body = BodyRead::of(body);
    answer
}

/// Runs `work` until the alarm rings.
async fn within<T>(alarm: &mut Alarm, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => alarm.poll_ring(cx).map(|()| None),
    })
    .await
}

/// What the origin's answer says of the limit: its windows pause. Whether the request may be sent again instead of
/// passing the answer on.
fn pushed_back(caller: &Caller, plan: &Plan, flight: &mut Flight, resent: u8) -> bool {
    flight.answered();
    let proxy = &caller.worker.proxy;
    if !retry::may_push_back(caller.response.status()) {
        return false;
    }
    let wall = proxy.gate.clock().wall_unix_nanos();
    for claim in &plan.claims.claims {
        let rule = proxy.rules.rule(claim.limit);
        if rule.pushback == super::claims::Pushback::Pause
            && let Pushback::For(pause) = retry::pushback(&caller.response, proxy.span(claim.limit), wall)
        {
            proxy.gate.pause(claim.limit, claim.key, pause);
        }
    }
    resent < plan.claims.retry && retry::asks_for_another(&caller.response)
}

/// Lets a response that nobody gets go; its connection is kept if all of it is here already.
fn discard(caller: &Caller, plan: &Plan, mut ready: Ready) {
    let here = ready.conn.input.bytes().len();
    match framing::of_response(&caller.response, caller.head.method()) {
        Ok(Length::Empty) => keep(caller, plan, ready),
        Ok(Length::Exact(length)) if length == here as u64 => {
            ready.conn.input.consume(here);
            keep(caller, plan, ready);
        }
        Ok(Length::Exact(_) | Length::Chunked | Length::UntilClose) | Err(_) => {}
    }
}

fn keep(caller: &Caller, plan: &Plan, ready: Ready) {
    let options = Options::of(caller.response.all(Name::Connection));
    if options.keeps_open(caller.response.version()) {
        caller.worker.origins.keep(&plan.target.origin, ready.conn);
    }
}

/// A request that has its answer.
struct Exchanged {
    ready: Ready,
    flight: Flight,
    body: Body,
}

/// Passes the response on: `caller.response` has been read, its body has not.
async fn pass(caller: &mut Caller, story: &mut Story, plan: &Plan, done: Exchanged) -> Result<Outcome, End> {
    let Exchanged { mut ready, flight, mut body } = done;
    let version = caller.head.version();
    story.status = caller.response.status();
    if caller.response.status() == 101 {
        if !plan.outgoing.upgrade {
            return Err(Refusal::ProtocolError("the origin switched to a protocol that nobody asked for").into());
        }
        let returned = Returned { length: Length::Empty, keep: true, version, waited: story.waited };
        headers::write_response(&caller.response, returned, caller.conn.out());
        return Ok(Outcome::Tunnel(Box::new(Tunnel::upgraded(ready.conn, flight))));
    }
    let from = framing::of_response(&caller.response, caller.head.method())
        .map_err(|error| Refusal::ProtocolError(error.0))?;
    let length = match (from, version) {
        (Length::Chunked | Length::UntilClose, Version::Http11) => Length::Chunked,
        (Length::Chunked | Length::UntilClose, Version::Http10) => Length::UntilClose,
        (Length::Empty | Length::Exact(_), _) => from,
    };
    let draining = caller.worker.proxy.drain.is_draining();
    let keep_caller =
        plan.outgoing.options.keeps_open(version) && length != Length::UntilClose && body.has_ended() && !draining;
    let returned = Returned { length, keep: keep_caller, version, waited: story.waited };
    headers::write_response(&caller.response, returned, caller.conn.out());
    let mut back = Body::new(from, length, headers::takes_trailers(&caller.head));
    let streamed = stream(caller, &mut ready, &mut body, &mut back).await;
    story.bytes_in += body.moved;
    story.bytes_out += back.moved;
    streamed?;
    if body.has_ended() && from != Length::UntilClose {
        keep(caller, plan, ready);
    }
    drop(flight);
    Ok(if keep_caller && body.has_ended() { Outcome::Keep } else { Outcome::Close })
}

/// Moves the response's body back and what is left of the request's body out, until the response is written.
async fn stream(caller: &mut Caller, ready: &mut Ready, body: &mut Body, back: &mut Body) -> Result<(), End> {
    let idle = caller.worker.proxy.timeouts.idle;
    let (mut moved, mut sending) = (u64::MAX, !body.has_ended());
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
        alarm.poll_ring(cx).map(|()| Err(End::Broken))
    })
    .await
}
