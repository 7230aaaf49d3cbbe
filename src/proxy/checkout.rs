//! Checkout of a connection for one request, and its return: pinned to the caller, pooled, or newly dialled.

use super::header_rules;
use super::outcome::Failure;
use super::plan::Plan;
use super::pool::Freshness;
use super::send::OriginConn;
use super::session::Session;
use crate::wire::{ConnectionOptions, Length, Name, framing};

/// Checks a connection out: the one that is pinned to the caller, the one that was dialled while the request waited, a
/// pooled one, or a new one.
///
/// # Errors
/// The refusal of a dial that failed; [`Failure::CallerGone`].
pub(super) async fn check_out(
    session: &mut Session,
    plan: &Plan,
    held: Option<Box<OriginConn>>,
) -> Result<Box<OriginConn>, Failure> {
    let (snapshot, want) = (&session.worker.snapshot, plan.want);
    if want.fresh == Freshness::Any
        && !session.pinned.is_empty()
        && let Some(pinned) =
            session.pinned.take(&plan.pin_key(session), snapshot.timeouts.idle, snapshot.gate.clock().now())
    {
        return Ok(pinned);
    }
    if let Some(mut held) = held
        && held.is_good(snapshot.gate.clock().now())
    {
        return Ok(held);
    }
    let origins = &session.worker.pool;
    if let Some(ready) = origins.idle(&plan.upstream, want) {
        return Ok(ready);
    }
    let (origins, upstream, how) = (origins.clone(), plan.upstream.clone(), plan.dialling());
    let dialled = Box::pin(async move { origins.dial(&upstream, how, want).await });
    Ok(session.unless_gone(dialled).await.ok_or(Failure::CallerGone)??)
}

/// Returns a connection for the next request, if it can carry another: to the caller's own connections if it is pinned,
/// else to the pool. Its response has been read to the end.
pub(super) fn keep(session: &Session, plan: &Plan, ready: Box<OriginConn>) {
    let options = ConnectionOptions::of(session.response.all(Name::Connection));
    if session.response.has_doubtful_end() || !options.keeps_open(session.response.version()) {
        return;
    }
    if is_pinned(session, &ready) {
        session.pinned.keep(plan.pin_key(session), ready, session.worker.snapshot.gate.clock().now());
    } else {
        session.worker.pool.keep(&plan.upstream, ready);
    }
}

/// Drops a response that is not forwarded; its connection is kept if the whole response has been read already.
pub(super) fn discard_response(session: &Session, plan: &Plan, mut ready: Box<OriginConn>) {
    let here = ready.conn.input.bytes().len();
    match framing::of_response(&session.response, session.head.method()) {
        Ok(Length::Empty) => keep(session, plan, ready),
        Ok(Length::Exact(length)) if length == here as u64 => {
            ready.conn.input.consume(here);
            keep(session, plan, ready);
        }
        Ok(Length::Exact(_) | Length::Chunked | Length::UntilClose) | Err(_) => {}
    }
}

/// True if the connection belongs to the caller's connection from now on. A connection of HTTP/2 cannot be logged in.
pub(super) fn is_pinned(session: &Session, ready: &OriginConn) -> bool {
    let logs_in = || header_rules::logs_in(&session.head) || header_rules::mentions_login(&session.response);
    ready.pinned || !ready.conn.stream.is_http2() && logs_in()
}
