//! One request, sent until an answer is to be passed on.

use std::time::Duration;

use super::body::{Body, Kept};
use super::connection::Caller;
use super::exchange::{self, End, Outcome, Plan};
use super::forward_response::{self, Exchanged};
use super::pool::{Fresh, Want};
use super::refusal::Refusal;
use super::request_log::{BodyRead, Story};
use super::retry::{self, Pushback};
use super::send::{Ready, Unsent};
use super::target::Scheme;
use super::{header_rules, read_response, serialize, wait};
use crate::gate::{Flight, Permit};
use crate::tls::verify::Offer;
use crate::wire::{ConnectionOptions, Length, Name, Version, framing};

/// How often a request is sent that the origin says it has not looked at. Twice is bad luck; more often is an origin
/// that takes nothing.
const MAX_UNTAKEN: u32 = 2;

/// How often a request of which nothing has left is put on another connection. A new one takes it nearly always; an origin
/// could go on breaking them for ever.
const MAX_UNTOUCHED: u32 = 3;

/// How many permits of one request may come too late. It has its connection by then, so it takes 250 ms of delay elsewhere,
/// every time: in the store, in the gateway, or in an origin that breaks each connection before it is used.
const MAX_LATE: u32 = 8;

/// A connection for the request: the one that is pinned to its caller, the one that was made ready, one that is there, or a
/// new one.
pub(super) async fn connection(
    caller: &mut Caller,
    plan: &Plan,
    held: Option<Ready>,
    want: Want,
) -> Result<Ready, End> {
    let proxy = &caller.worker.proxy;
    if want.fresh == Fresh::No
        && !caller.pinned.is_empty()
        && let Some(pinned) = caller.pinned.take(&plan.key(caller), proxy.timeouts.idle, proxy.gate.clock().now())
    {
        return Ok(pinned);
    }
    if let Some(mut held) = held
        && held.is_good()
    {
        return Ok(held);
    }
    let origins = &caller.worker.origins;
    if let Some(ready) = origins.idle(&plan.upstream, want) {
        return Ok(ready);
    }
    let (origins, upstream, plan) = (origins.clone(), plan.upstream.clone(), plan.dialling());
    Ok(wait::race(caller, Box::pin(async move { origins.dial(&upstream, plan, want).await })).await??)
}

/// What of the request's body is to be written once more.
enum Again {
    /// All of it, because it left before.
    Whole(Kept),
    /// What waited for a head that did not leave, framed for that version.
    Unsent(Vec<u8>, Version),
}

/// Why a request is sent once more.
enum Once {
    /// It never left; its permit is as good as before.
    Untouched(Permit),
    /// The origin has not looked at it, and says so; and what it will take, if that is less than it chose.
    Untaken(Offer),
    /// Its connection ended without an answer: the origin may have been closing it already.
    Lost,
    /// The origin has had enough for now.
    PushedBack,
}

/// Sends the request until an answer is to be passed on; every sending has a permit of its own.
pub(super) async fn run(
    caller: &mut Caller,
    story: &mut Story,
    plan: &mut Plan,
    permit: Permit,
    held: Option<Ready>,
) -> Result<Outcome, End> {
    let idempotent = retry::is_idempotent(caller.head.method());
    let length = plan.outgoing.length;
    let mut body = Body::new(length.read_by(caller.head.version()), length, true);
    // An origin that may speak HTTP/2 may say of any request that it has not looked at it.
    if idempotent || plan.claims.retry > 0 || plan.target.origin.scheme == Scheme::Https {
        body = body.keep();
    }
    let (mut permit, mut held, mut want) = (permit, held, plan.want());
    let (mut again, mut late) = (None, Late::default());
    let (mut resent, mut untaken, mut untouched) = (0, 0, 0);
    loop {
        let mut ready = connection(caller, plan, held.take(), want).await?;
        if permit.is_late() {
            late.note(caller)?;
            (permit, held) = ask_anew(caller, story, plan, permit, ready, want).await?;
            continue;
        }
        write(caller, plan, &mut body, again.as_ref(), &mut ready)?;
        story.body = BodyRead::of(&body);
        still_good(&permit)?;
        let once = match send(caller, story, &mut ready, &mut body, permit).await? {
            Sent::Unanswered(once) => once,
            Sent::Answered(mut flight) => {
                if !pushed_back(caller, plan, &mut flight, resent) || !can_repeat(&mut again, &mut body) {
                    return forward_response::run(caller, story, plan, Exchanged { ready, flight, body }).await;
                }
                resent += 1;
                story.resent += 1;
                caller.worker.proxy.rules.metrics(&plan.claims).for_each(|counters| counters.resent.add_one());
                Once::PushedBack
            }
        };
        let spent = match once {
            Once::Untouched(unused) => {
                untouched += 1;
                if untouched > MAX_UNTOUCHED {
                    return Err(Refusal::ConnectionTerminated.into());
                }
                // Trailers are kept with a body that is there whole. Where more is to come, there are none yet.
                if !can_repeat(&mut again, &mut body) {
                    again = Some(Again::Unsent(ready.conn.take_unsent(), ready.conn.version()));
                }
                (permit, want.fresh) = (unused, fresh_from_now(caller));
                continue;
            }
            Once::PushedBack => {
                discard(caller, plan, ready);
                true
            }
            Once::Untaken(wants) => {
                if wants == Offer::Http1 {
                    caller.worker.origins.speak_http1(&plan.upstream);
                    want.offer = Offer::Http1;
                }
                untaken += 1;
                untaken <= MAX_UNTAKEN && can_repeat(&mut again, &mut body)
            }
            // A kept connection may have been closed by the origin before it saw the request (RFC 9112 §9.3.1).
            Once::Lost => {
                let may = ready.reused && idempotent && want.fresh == Fresh::No;
                want.fresh = fresh_from_now(caller);
                may && can_repeat(&mut again, &mut body)
            }
        };
        if !spent {
            return Err(Refusal::ConnectionTerminated.into());
        }
        let arrived = plan.arrived;
        // It may have been counted, so the next sending takes a slot of its own.
        (permit, held) = exchange::permit(caller, story, plan, Some(arrived), want).await?;
    }
}

/// The outcome of a sending.
enum Sent {
    /// The head of an answer is there.
    Answered(Flight),
    Unanswered(Once),
}

/// Sends what was written, and waits for the head of an answer.
async fn send(
    caller: &mut Caller,
    story: &mut Story,
    ready: &mut Ready,
    body: &mut Body,
    permit: Permit,
) -> Result<Sent, End> {
    caller.alarm.set(caller.worker.proxy.timeouts.answer);
    let flight = match caller.alarm.during(ready.send(permit)).await {
        None => {
            ready.doubt(caller.worker.proxy.gate.clock().now());
            return Err(Refusal::AnswerTimeout.into());
        }
        Some(Err(Unsent::Untouched(unused))) if ready.reused || unused.is_late() => {
            return Ok(Sent::Unanswered(Once::Untouched(unused)));
        }
        Some(Err(Unsent::Untouched(_) | Unsent::Partly)) => return Ok(Sent::Unanswered(Once::Lost)),
        Some(Ok(flight)) => flight,
    };
    let heard = read_response::answer(caller, ready, body).await;
    story.body = BodyRead::of(body);
    match heard {
        Ok(()) => Ok(Sent::Answered(flight)),
        Err(read_response::Silence::Untaken) => Ok(Sent::Unanswered(Once::Untaken(Offer::Http2))),
        Err(read_response::Silence::WantsHttp1) => Ok(Sent::Unanswered(Once::Untaken(Offer::Http1))),
        Err(read_response::Silence::Lost) => Ok(Sent::Unanswered(Once::Lost)),
        Err(read_response::Silence::End(end)) => {
            if matches!(end, End::Refused(Refusal::AnswerTimeout)) {
                ready.doubt(caller.worker.proxy.gate.clock().now());
            }
            Err(end)
        }
    }
}

/// The permit came too late to be used: another one, with the place in line that it had.
pub(super) async fn ask_anew(
    caller: &mut Caller,
    story: &mut Story,
    plan: &mut Plan,
    late: Permit,
    ready: Ready,
    want: Want,
) -> Result<(Permit, Option<Ready>), End> {
    drop(late);
    let ready = if ready.pinned {
        // It is found again there, and none is made ready in its place: the login is on this one.
        caller.pinned.keep(plan.key(caller), ready.conn, caller.worker.proxy.gate.clock().now());
        None
    } else {
        Some(ready)
    };
    let arrived = plan.arrived;
    let (permit, held) = exchange::permit(caller, story, plan, Some(arrived), want).await?;
    Ok((permit, held.or(ready)))
}

/// Counts a request's permits that came too late to be used.
#[derive(Default)]
pub(super) struct Late(u32);

impl Late {
    /// One more of them.
    ///
    /// # Errors
    /// 503 after [`MAX_LATE`] of them.
    pub(super) fn note(&mut self, caller: &Caller) -> Result<(), Refusal> {
        if let Some(status) = caller.worker.proxy.gate.store_status() {
            status.note_late();
        }
        self.0 += 1;
        if self.0 > MAX_LATE { Err(Refusal::LatePermit) } else { Ok(()) }
    }
}

/// From here on only a new connection will do: those of before may all be as dead as the last.
fn fresh_from_now(caller: &Caller) -> Fresh {
    Fresh::Since(caller.worker.proxy.gate.clock().now())
}

/// Refuses a request whose permit does not hold any more.
pub(super) fn still_good(permit: &Permit) -> Result<(), End> {
    if permit.is_good() { Ok(()) } else { Err(Refusal::Closing { retry_after: Duration::ZERO }.into()) }
}

/// Puts the request on the connection, with as much of its body as has been read.
fn write(
    caller: &mut Caller,
    plan: &Plan,
    body: &mut Body,
    again: Option<&Again>,
    ready: &mut Ready,
) -> Result<(), End> {
    let conn = &mut ready.conn;
    let version = conn.version();
    let framed = plan.outgoing.length.written_to(version);
    body.reframe(framed);
    match again {
        // Its head is in it.
        Some(Again::Unsent(bytes, Version::Http11)) if version == Version::Http11 => {
            conn.out().extend_from_slice(bytes);
        }
        Some(Again::Unsent(_, before)) if *before != version && body.moved > 0 => {
            // What was read of the body is framed for a version that the origin does not speak any more.
            return Err(Refusal::ConnectionTerminated.into());
        }
        Some(Again::Unsent(bytes, before)) => {
            serialize::send_request(&caller.head, &plan.target, plan.outgoing, conn)?;
            if *before == version {
                conn.out().extend_from_slice(bytes);
            }
        }
        Some(Again::Whole(kept)) => {
            serialize::send_request(&caller.head, &plan.target, plan.outgoing, conn)?;
            kept.write(framed, conn);
        }
        None => serialize::send_request(&caller.head, &plan.target, plan.outgoing, conn)?,
    }
    let gathered = body.gather(&mut caller.conn, conn);
    gathered.map_err(|_| Refusal::Malformed("the request's content is broken").into())
}

/// Whether the whole body is at hand; it is kept for the next sending then.
fn can_repeat(again: &mut Option<Again>, body: &mut Body) -> bool {
    if !matches!(again, Some(Again::Whole(_))) {
        *again = body.take_written().map(Again::Whole);
    }
    again.is_some()
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
    if retry::asks_for_another(&caller.response) {
        proxy.rules.metrics(&plan.claims).for_each(|counters| counters.pushbacks.add_one());
    }
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

/// Keeps a connection for the next request, if it can carry another: the next of the same caller, or of any.
pub(super) fn keep(caller: &Caller, plan: &Plan, ready: Ready) {
    let options = ConnectionOptions::of(caller.response.all(Name::Connection));
    if !options.keeps_open(caller.response.version()) {
        return;
    }
    if is_pinned(caller, &ready) {
        caller.pinned.keep(plan.key(caller), ready.conn, caller.worker.proxy.gate.clock().now());
    } else {
        caller.worker.origins.keep(&plan.upstream, ready.conn);
    }
}

/// Whether the connection belongs to the caller's from here on. One of HTTP/2 cannot be logged in.
pub(super) fn is_pinned(caller: &Caller, ready: &Ready) -> bool {
    let logs_in = || header_rules::logs_in(&caller.head) || header_rules::tells_of_login(&caller.response);
    ready.pinned || !ready.conn.stream.is_http2() && logs_in()
}
