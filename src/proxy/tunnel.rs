//! Bytes both ways: CONNECT left closed, and what a connection becomes after 101. Counted once, as a whole.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::body::{Body, BodyError};
use super::connection::Caller;
use super::origin::Ready;
use super::story::Story;
use crate::gate::{Flight, Permit};
use crate::wire::{Conn, Length};

/// Two connections to be joined.
pub(super) struct Tunnel {
    origin: Conn,
    out: Way,
    back: Way,
    /// Its slots stay in flight until the tunnel ends.
    _flight: Flight,
    /// What the access log will tell of it.
    pub(super) story: Option<Story>,
}

impl Tunnel {
    /// Joins a caller to an origin that has just been dialled for it. With the permit goes the right to send.
    pub(super) fn open(origin: Ready, permit: Permit) -> Tunnel {
        let mut flight = permit.depart();
        flight.sent();
        flight.answered();
        Tunnel::upgraded(origin.conn, flight)
    }

    /// Joins them after a 101: the permit was spent on the request that asked for it.
    pub(super) fn upgraded(origin: Conn, flight: Flight) -> Tunnel {
        Tunnel { origin, out: Way::new(), back: Way::new(), _flight: flight, story: None }
    }

    /// How many bytes have passed.
    fn moved(&self) -> u64 {
        self.out.bytes.moved.wrapping_add(self.back.bytes.moved)
    }

    /// Ready when both sides have ended, or one broke.
    fn poll(&mut self, cx: &mut Context<'_>, caller: &mut Conn) -> Poll<Result<(), BodyError>> {
        let there = self.out.poll(cx, caller, &mut self.origin, &self.back)?;
        let here = self.back.poll(cx, &mut self.origin, caller, &self.out)?;
        if there.is_ready() && here.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
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
        if !(other.closed && to.stream.ends_when_dropped()) {
            std::task::ready!(to.stream.poll_shutdown(cx)).map_err(BodyError::Sink)?;
        }
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}

/// Passes bytes both ways until both sides have ended (half-close is passed on), one breaks, or nothing has
/// moved for `[timeouts] tunnel_idle`.
pub(super) async fn relay(caller: &mut Caller, mut tunnel: Box<Tunnel>) {
    let idle = caller.worker.proxy.timeouts.tunnel_idle;
    let mut moved = u64::MAX;
    let clean = poll_fn(|cx| {
        if let Poll::Ready(ended) = tunnel.poll(cx, &mut caller.conn) {
            return Poll::Ready(ended.is_ok());
        }
        let now = tunnel.moved();
        if now != moved {
            moved = now;
            caller.alarm.set(idle);
        }
        caller.alarm.poll_ring(cx).map(|()| false)
    })
    .await;
    if let Some(mut story) = tunnel.story.take() {
        story.bytes_in += tunnel.out.bytes.moved;
        story.bytes_out += tunnel.back.bytes.moved;
        story.end(caller);
    }
    if !clean {
        // A tunnel that broke must not look like one that ended.
        caller.conn.stream.abort();
        tunnel.origin.stream.abort();
    }
}
