//! Wait for a permit: the caller may hang up, and a connection is made ready before the turn comes (but not for a tunnel).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::Caller;
use super::exchange::{End, Plan};
use super::pool::{Place, Want};
use super::refusal::Refusal;
use super::send::Ready;
use crate::gate::{Permit, Refused, Waiting};

/// How long before a waiter's turn its connection is made ready: a handshake over a continent and a TLS one on top.
const LEAD: Duration = Duration::from_millis(300);

/// The connection of a waiter.
enum Preparation {
    /// Its turn is far away: it holds nothing.
    Later(Pin<Box<Sleep>>),
    Dialling(Pin<Box<dyn Future<Output = Result<Ready, Refusal>> + Send>>),
    Held(Ready),
    /// It could not be dialled, or needs none before its turn.
    Nothing,
}

/// Waits for the permit, and counts what becomes of that. A connection that was made ready meanwhile comes with it; only one that will do. `None`: the
/// limits were read again, and which of them the request must pass is to be found out anew.
///
/// # Errors
/// The refusal, or that the caller is gone.
///
/// # Cancel safety
/// Dropped, it leaves the line.
pub(super) async fn wait(
    caller: &mut Caller,
    mut waiting: Waiting,
    plan: &Plan,
    want: Want,
) -> Result<Option<(Permit, Option<Ready>)>, End> {
    let upstream = &plan.upstream;
    let clock = caller.worker.proxy.gate.clock();
    let since = clock.now();
    let connect = caller.worker.proxy.timeouts.connect;
    let origins = caller.worker.origins.clone();
    let is_pinned = !caller.pinned.is_empty() && caller.pinned.has(&plan.key(caller));
    // If nobody knows when, it could be any moment.
    let begin = waiting.forecast().map_or_else(|| clock.now(), |turn| turn - LEAD);
    let mut preparation = match plan.is_tunnel() {
        // The origin counts the connection, so it is made in the slot.
        true => Preparation::Nothing,
        false => Preparation::Later(Box::pin(sleep_until(Instant::from_std(clock.instant(begin))))),
    };
    let mut place: Option<Place> = None;
    let verdict = poll_fn(|cx| {
        if let Poll::Ready(verdict) = Pin::new(&mut waiting).poll(cx) {
            return Poll::Ready(Ok(verdict));
        }
        if caller.conn.stream.poll_hangup(cx).is_ready() {
            return Poll::Ready(Err(End::Left));
        }
        prepare(&mut preparation, cx, || {
            if is_pinned {
                return Preparation::Nothing;
            }
            place = origins.place(upstream);
            if place.is_none() {
                return Preparation::Nothing;
            }
            match origins.idle(upstream, want) {
                Some(ready) => Preparation::Held(ready),
                None => {
                    let how = plan.dialling_until(clock.now() + connect);
                    let (origins, upstream) = (origins.clone(), upstream.clone());
                    Preparation::Dialling(Box::pin(async move { origins.dial(&upstream, how, want).await }))
                }
            }
        });
        Poll::Pending
    })
    .await;
    let waited = clock.now().since(since);
    let proxy = &caller.worker.proxy;
    match &verdict {
        Ok(Ok(_)) => proxy.rules.metrics(&plan.claims).for_each(|counters| counters.permit(waited)),
        Err(End::Left) => proxy.rules.metrics(&plan.claims).for_each(|counters| counters.left.add_one()),
        Ok(Err(_)) | Err(End::Refused(_) | End::Broken) => {}
    }
    let refused = match (verdict, preparation) {
        (Ok(Ok(permit)), Preparation::Held(ready)) => return Ok(Some((permit, Some(ready)))),
        // Its slot has come before its connection: the handshake goes on, and the slot counts as busy until the head is out.
        (Ok(Ok(permit)), Preparation::Dialling(dialling)) => {
            return Ok(Some((permit, Some(race(caller, dialling).await??))));
        }
        (Ok(Ok(permit)), Preparation::Later(_) | Preparation::Nothing) => return Ok(Some((permit, None))),
        (refused, Preparation::Held(ready)) => {
            origins.keep(upstream, ready.conn);
            refused
        }
        (refused, _) => refused,
    };
    match refused? {
        Err(Refused::Anew) => Ok(None),
        Err(refused) => Err(caller.worker.proxy.refusal(refused).into()),
        Ok(permit) => Ok(Some((permit, None))),
    }
}

/// Brings a preparation one step further.
fn prepare(preparation: &mut Preparation, cx: &mut Context<'_>, begin: impl FnOnce() -> Preparation) {
    if let Preparation::Later(sleep) = preparation {
        if sleep.as_mut().poll(cx).is_pending() {
            return;
        }
        *preparation = begin();
    }
    if let Preparation::Dialling(dialling) = preparation {
        match dialling.as_mut().poll(cx) {
            Poll::Ready(Ok(ready)) => *preparation = Preparation::Held(ready),
            // Whether the origin can be reached is for the moment of its turn to say.
            Poll::Ready(Err(_)) => *preparation = Preparation::Nothing,
            Poll::Pending => {}
        }
    }
}

/// Runs `work` unless the caller hangs up first.
///
/// # Errors
/// That the caller is gone.
pub(super) async fn race<T>(
    caller: &mut Caller,
    mut work: Pin<Box<dyn Future<Output = T> + Send + '_>>,
) -> Result<T, End> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        caller.conn.stream.poll_hangup(cx).map(|()| Err(End::Left))
    })
    .await
}
