//! Bytes both ways: CONNECT left closed, and what a connection becomes after 101. Counted once, as a whole.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::body::{Body, BodyError};
use super::connection::Caller;
use super::request_log::Story;
use super::send::Ready;
use super::server_name::{Asker, Guard, Unfit};
use crate::gate::{Flight, Permit};
use crate::tls::client_hello::ACCESS_DENIED;
use crate::wire::{Conn, Length};

/// Two connections to be joined.
pub(super) struct Tunnel {
    origin: Conn,
    out: Way,
    back: Way,
    /// Checks the first bytes of the caller; `None` once they may pass.
    guard: Option<Box<Guard>>,
    /// Its slots stay in flight until the tunnel ends.
    _flight: Flight,
    /// What the access log will tell of it.
    pub(super) story: Option<Story>,
}

impl Tunnel {
    /// Joins a caller to an origin that has just been dialled for it. With the permit goes the right to send.
    pub(super) fn open(origin: Ready, permit: Permit, guard: Option<Box<Guard>>) -> Tunnel {
        let mut flight = permit.depart();
        flight.sent();
        flight.answered();
        Tunnel { guard, ..Tunnel::upgraded(origin.conn, flight) }
    }

    /// Joins them after a 101: the permit was spent on the request that asked for it.
    pub(super) fn upgraded(mut origin: Conn, flight: Flight) -> Tunnel {
        // A reader at the other end may pause for as long as the tunnel may be idle.
        origin.stream.set_user_timeout(None);
        Tunnel { origin, out: Way::new(), back: Way::new(), guard: None, _flight: flight, story: None }
    }

    /// How many bytes have passed.
    fn moved(&self) -> u64 {
        self.out.bytes.moved.wrapping_add(self.back.bytes.moved)
    }

    /// True if bytes of the caller are held back.
    fn is_held_up(&self, caller: &Conn) -> bool {
        self.guard.is_some() && !caller.input.is_empty()
    }

    /// Ready when the tunnel has ended.
    fn poll(&mut self, cx: &mut Context<'_>, caller: &mut Conn, asker: Asker<'_>) -> Poll<End> {
        if let Some(guard) = &mut self.guard {
            match guard.poll(cx, caller, asker) {
                Poll::Ready(Ok(None)) => self.guard = None,
                Poll::Ready(Ok(Some(unfit))) => return Poll::Ready(End::Barred(unfit)),
                Poll::Ready(Err(_)) => return Poll::Ready(End::Broken),
                Poll::Pending => {}
            }
        }
        match self.poll_both(cx, caller) {
            Poll::Ready(Ok(())) => Poll::Ready(End::Clean),
            Poll::Ready(Err(_)) => Poll::Ready(End::Broken),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Ready when both sides have ended, or one broke.
    fn poll_both(&mut self, cx: &mut Context<'_>, caller: &mut Conn) -> Poll<Result<(), BodyError>> {
        let there = match self.guard {
            None => self.out.poll(cx, caller, &mut self.origin, &self.back)?,
            Some(_) => Poll::Pending,
        };
        let here = self.back.poll(cx, &mut self.origin, caller, &self.out)?;
        if there.is_ready() && here.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// The end of a tunnel.
enum End {
    Clean,
    Broken,
    /// The first bytes of the caller must not pass.
    Barred(Unfit),
}

/// One direction of a tunnel.
struct Way {
    bytes: Body,
    closed: bool,
}

impl Way {
    fn new() -> Way {
        Way { bytes: Body::new(Length::UntilClose, Length::UntilClose, false), closed: false }
    }

    /// Ready when the last byte and the end behind it have been passed on, or will be when the connection is dropped.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Conn,
        to: &mut Conn,
        other: &Way,
    ) -> Poll<Result<(), BodyError>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(self.bytes.poll_move(cx, from, to))?;
        // The second end of a tunnel is the end of both connections: it needs no call of its own.
        if !(other.closed && to.stream.closes_on_drop()) {
            std::task::ready!(to.stream.poll_shutdown(cx)).map_err(BodyError::Sink)?;
        }
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}

/// Passes bytes both ways until both sides have ended (half-close is passed on), one breaks, or nothing has
/// moved for `[timeouts] tunnel_idle`.
pub(super) async fn relay(caller: &mut Caller, mut tunnel: Box<Tunnel>) {
    let Caller { worker, head, conn, alarm, peer, .. } = &mut *caller;
    let timeouts = &worker.proxy.timeouts;
    let asker = Asker { proxy: &worker.proxy, head, peer: peer.ip() };
    let mut before = None;
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = tunnel.poll(cx, conn, asker) {
            return Poll::Ready(end);
        }
        let is_held_up = tunnel.is_held_up(conn);
        let now = Some((tunnel.moved(), is_held_up));
        if now != before {
            before = now;
            alarm.set(if is_held_up { timeouts.head } else { timeouts.tunnel_idle });
        }
        alarm.poll_expired(cx).map(|()| End::Broken)
    })
    .await;
    let mut story = tunnel.story.take();
    if let Some(story) = &mut story {
        story.bytes_in += tunnel.out.bytes.moved;
        story.bytes_out += tunnel.back.bytes.moved;
    }
    match end {
        End::Clean => {}
        // A tunnel that broke must not look like one that ended.
        End::Broken => {
            caller.conn.stream.abort();
            tunnel.origin.stream.abort();
        }
        End::Barred(unfit) => {
            tunnel.origin.stream.abort();
            if let Some(story) = &mut story {
                story.barred(unfit.to_string());
            }
            let host = tunnel.guard.as_ref().map_or("", |guard| guard.host());
            caller.worker.proxy.opaque.tell_end(host, &unfit);
            caller.conn.out().extend_from_slice(&ACCESS_DENIED);
            caller.linger().await;
        }
    }
    if let Some(story) = story {
        story.end(caller);
    }
}
