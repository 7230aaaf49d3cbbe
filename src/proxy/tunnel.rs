//! Tunnel relay: forwards bytes both ways, for a CONNECT that is not intercepted or after a response 101. Counted once,
//! as a whole.
//!
//! The gateway reads no byte of a tunnel but the ClientHello, if a guard checks it. Bytes that the
//! caller sends before that check has ended are held back; bytes of the origin are not.
//!
//! A clean end (FIN) of one side is forwarded, and the other direction goes on. An error on either
//! side resets both connections, so that no peer takes a broken tunnel for a complete one.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::body::{Body, BodyError};
use super::first_bytes::GuardContext;
use super::outcome::Tunnel;
use super::request_log::RequestLog;
use super::session::Session;
use super::tunnel_warnings::TunnelDenial;
use crate::tls::client_hello::ACCESS_DENIED;
use crate::wire::{Conn, Length};

/// Relays bytes both ways until both sides have ended (half-close is forwarded), one breaks, or nothing has moved for
/// `[timeouts] tunnel_idle`.
///
/// Returns when the tunnel has ended; its line in the access log is written then, with the bytes of
/// both directions. While bytes are held back for the check, the deadline is `[timeouts] head`
/// instead.
pub(super) async fn relay(session: &mut Session, tunnel: Box<Tunnel>, mut log: RequestLog) {
    let mut relay = Relay { tunnel, out: Direction::new(), back: Direction::new() };
    let Session { worker, head, conn, deadline, peer, .. } = &mut *session;
    let timeouts = &worker.snapshot.timeouts;
    let context = GuardContext { snapshot: &worker.snapshot, head, peer: peer.ip() };
    let mut before = None;
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = relay.poll(cx, conn, context) {
            return Poll::Ready(end);
        }
        let is_held_up = relay.is_held_up(conn);
        let now = Some((relay.moved(), is_held_up));
        if now != before {
            before = now;
            deadline.set(if is_held_up { timeouts.head } else { timeouts.tunnel_idle });
        }
        deadline.poll_expired(cx).map(|()| TunnelEnd::Broken)
    })
    .await;
    log.bytes_in += relay.out.bytes.moved;
    log.bytes_out += relay.back.bytes.moved;
    let Relay { mut tunnel, .. } = relay;
    match end {
        TunnelEnd::Clean => {}
        // The caller must be able to tell a tunnel that broke from one that ended.
        TunnelEnd::Broken => {
            session.conn.stream.abort();
            tunnel.origin.stream.abort();
        }
        TunnelEnd::Denied(unfit) => {
            tunnel.origin.stream.abort();
            log.tunnel_denied(unfit.to_string());
            let host = tunnel.guard.as_ref().map_or("", |guard| guard.host());
            session.worker.snapshot.warned_hosts.warn_of_end(host, &unfit);
            session.conn.out().extend_from_slice(&ACCESS_DENIED);
            session.linger().await;
        }
    }
    log.finish(session);
}

/// An open tunnel.
struct Relay {
    tunnel: Box<Tunnel>,
    /// To the origin.
    out: Direction,
    /// To the caller.
    back: Direction,
}

impl Relay {
    /// Number of bytes moved in both directions.
    fn moved(&self) -> u64 {
        self.out.bytes.moved.wrapping_add(self.back.bytes.moved)
    }

    /// True if bytes of the caller are held back.
    fn is_held_up(&self, caller: &Conn) -> bool {
        self.tunnel.guard.is_some() && !caller.input.is_empty()
    }

    /// Ready when the tunnel has ended.
    ///
    /// The guard comes first; once it lets the bytes pass, it is dropped.
    fn poll(&mut self, cx: &mut Context<'_>, caller: &mut Conn, context: GuardContext<'_>) -> Poll<TunnelEnd> {
        if let Some(guard) = &mut self.tunnel.guard {
            match guard.poll(cx, caller, context) {
                Poll::Ready(Ok(None)) => self.tunnel.guard = None,
                Poll::Ready(Ok(Some(unfit))) => return Poll::Ready(TunnelEnd::Denied(unfit)),
                Poll::Ready(Err(_)) => return Poll::Ready(TunnelEnd::Broken),
                Poll::Pending => {}
            }
        }
        match self.poll_both(cx, caller) {
            Poll::Ready(Ok(())) => Poll::Ready(TunnelEnd::Clean),
            Poll::Ready(Err(_)) => Poll::Ready(TunnelEnd::Broken),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Ready when both sides have ended, or one broke.
    fn poll_both(&mut self, cx: &mut Context<'_>, caller: &mut Conn) -> Poll<Result<(), BodyError>> {
        let origin = &mut self.tunnel.origin;
        let there = match self.tunnel.guard {
            None => self.out.poll(cx, caller, origin, &self.back)?,
            Some(_) => Poll::Pending,
        };
        let here = self.back.poll(cx, origin, caller, &self.out)?;
        if there.is_ready() && here.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// The end of a tunnel.
enum TunnelEnd {
    /// Both sides have sent their last byte.
    Clean,
    /// An error on one side, or no progress until the deadline.
    Broken,
    /// The first bytes of the caller must not pass.
    Denied(TunnelDenial),
}

/// One direction of a tunnel.
struct Direction {
    /// Bytes from one side to the other, as a body without framing.
    bytes: Body,
    /// True once the end has been forwarded.
    closed: bool,
}

impl Direction {
    /// A direction without length: it ends with the connection, and has no trailers.
    fn new() -> Direction {
        Direction { bytes: Body::new(Length::UntilClose, Length::UntilClose).without_trailers(), closed: false }
    }

    /// Ready when the last byte and the end behind it have been forwarded, or will be when the connection is dropped.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Conn,
        to: &mut Conn,
        other: &Direction,
    ) -> Poll<Result<(), BodyError>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(self.bytes.poll_move(cx, from, to))?;
        // The second end closes both connections: it needs no shutdown of its own.
        if !(other.closed && to.stream.closes_on_drop()) {
            std::task::ready!(to.stream.poll_shutdown(cx)).map_err(BodyError::Sink)?;
        }
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}
