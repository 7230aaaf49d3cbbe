//! Bytes both ways: CONNECT left closed, and what a connection becomes after 101. Counted once, as a whole.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use super::body::{Body, BodyError};
use super::connection::Caller;
use super::origin::Ready;
use super::story::Story;
use crate::gate::{Flight, Permit};
use crate::wire::{Conn, Length};

/// How many hosts are named in the log; a stranger can ask for any number of names.
const MOST_TOLD: usize = 1024;

/// The hosts of which the log has said that their tunnels are counted as a whole.
#[derive(Default)]
pub(super) struct Opaque {
    told: Mutex<HashSet<Box<str>>>,
}

impl Opaque {
    /// Says once per host that a limit counts its tunnels, not what goes through them: it is less than the limit's
    /// owner may think.
    pub(super) fn tell(&self, host: &str, counted: bool) {
        if !counted {
            return;
        }
        // A panic elsewhere cannot leave the set half changed.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MOST_TOLD && !told.contains(host) {
            told.insert(host.into());
            tracing::warn!(host, "a limit counts its tunnels, not the requests in them; [tls] intercept opens them");
        }
    }
}

/// Two connections to be joined.
pub(super) struct Tunnel {
    origin: Conn,
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
        Tunnel { origin: origin.conn, _flight: flight, story: None }
    }

    /// Joins them after a 101: the permit was spent on the request that asked for it.
    pub(super) fn upgraded(origin: Conn, flight: Flight) -> Tunnel {
        Tunnel { origin, _flight: flight, story: None }
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

    /// Ready when the last byte and the end behind it have been passed on.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Conn, to: &mut Conn) -> Poll<Result<(), BodyError>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(self.bytes.poll_move(cx, from, to))?;
        std::task::ready!(to.stream.poll_shutdown(cx)).map_err(BodyError::Sink)?;
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}

/// Passes bytes both ways until both sides have ended (half-close is passed on), one breaks, or nothing has
/// moved for `[timeouts] tunnel_idle`.
pub(super) async fn relay(caller: &mut Caller, mut tunnel: Tunnel) {
    let idle = caller.worker.proxy.timeouts.tunnel_idle;
    let (mut out, mut back) = (Way::new(), Way::new());
    let mut moved = u64::MAX;
    let clean = poll_fn(|cx| {
        let there = out.poll(cx, &mut caller.conn, &mut tunnel.origin);
        let here = back.poll(cx, &mut tunnel.origin, &mut caller.conn);
        match (there, here) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(false),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(true),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        let now = out.bytes.moved.wrapping_add(back.bytes.moved);
        if now != moved {
            moved = now;
            caller.alarm.set(idle);
        }
        caller.alarm.poll_ring(cx).map(|()| false)
    })
    .await;
    if let Some(mut story) = tunnel.story.take() {
        story.bytes_in += out.bytes.moved;
        story.bytes_out += back.bytes.moved;
        story.end(caller);
    }
    if !clean {
        // A tunnel that broke must not look like one that ended.
        caller.conn.stream.abort();
        tunnel.origin.stream.abort();
    }
}
