//! Tunnel relay: forwards bytes both ways, for a CONNECT that is not intercepted or after a response 101. Counted once,
//! as a whole.
//!
//! The gateway reads no byte of a tunnel but the first ones, which a guard checks after a CONNECT: a
//! ClientHello, or the line of a request. Bytes that the caller sends before that check has ended are
//! held back; bytes of the origin are not, unless they are a preface of HTTP/2. Plain HTTP ends the
//! relay: its requests are served one by one.
//!
//! How long an unfinished line is held: for [`BEGIN_TIMEOUT`], and for `[timeouts] head` once it has a
//! method of HTTP and a space. The shorter time is for other protocols whose clients speak first and then
//! wait: an empty line (Gopher, Finger), a single letter (devices behind a serial line), words that end in
//! NUL (Git) or CR. A start of a method is not told from those, so it passes too, and is read on.
//!
//! A clean end (FIN) of one side is forwarded, and the other direction goes on. An error on either
//! side resets both connections, so that no peer takes a broken tunnel for a complete one.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::body::{Body, BodyError};
use super::claims::Claims;
use super::first_bytes::{FirstBytes, GuardContext, HelloGuard};
use super::outcome::Tunnel;
use super::request_log::RequestLog;
use super::session::{InterceptedTunnel, Protocol, Session};
use super::tunnel_warnings::TunnelDenial;
use crate::tls::client_hello::ACCESS_DENIED;
use crate::wire::{Conn, Length};

/// Time for a caller to begin a request, from the tunnel's 200 and from its first byte on: to send its method.
/// Later it is taken for another protocol: one of which the server speaks first, or which begins with a word.
/// Clients that ask for a tunnel have a request for it already; a second spans a round trip over any
/// link.
pub(super) const BEGIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Method of the line that begins HTTP/2 (RFC 9113 §3.4), reserved for it.
const HTTP2_METHOD: &[u8] = b"PRI ";

/// Length of the header of a frame of HTTP/2 (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;

/// Relays bytes both ways until both sides have ended (half-close is forwarded), one breaks, or nothing has moved for
/// `tunnel_idle` of its timeouts.
///
/// Returns when the tunnel has ended; its line in the access log is written then, with the bytes of
/// both directions. While a ClientHello or the line of a request is held back for the check, the deadline
/// is `[timeouts] head` instead. Returns a protocol if the caller has begun plain HTTP: the session carries
/// its requests from then on.
pub(super) async fn relay(session: &mut Session, tunnel: Box<Tunnel>, mut log: RequestLog) -> Option<Protocol> {
    let mut relay = Relay { tunnel, out: Direction::new(), back: Direction::new() };
    let end = run(session, &mut relay).await;
    log.bytes_in += relay.out.bytes.moved;
    log.bytes_out += relay.back.bytes.moved;
    let Relay { mut tunnel, .. } = relay;
    match end {
        TunnelEnd::Http(guard) => return enter(session, *tunnel, *guard, log).await,
        TunnelEnd::Clean => {}
        // The caller must be able to tell a tunnel that broke from one that ended.
        TunnelEnd::Broken | TunnelEnd::Stalled => {
            if matches!(end, TunnelEnd::Stalled) {
                log.stalled(session.deadline.timeout());
            }
            session.conn.stream.abort();
            tunnel.origin.stream.abort();
        }
        TunnelEnd::Denied(denial) => {
            tunnel.origin.stream.abort();
            let host = tunnel.guard.as_ref().map_or("", |guard| guard.host());
            deny(session, &mut log, host, &denial).await;
        }
    }
    if let Some(guard) = &tunnel.guard {
        guard.warn(&session.worker.snapshot);
    }
    tunnel.count();
    log.finish(session);
    None
}

/// Ends a tunnel because of its first bytes: tells the caller of TLS by an alert, and the operator by a warning.
pub(super) async fn deny(session: &mut Session, log: &mut RequestLog, host: &str, denial: &TunnelDenial) {
    log.tunnel_denied(denial);
    session.worker.snapshot.warned_hosts.warn_of_end(host, denial);
    if denial.is_of_tls() {
        session.conn.out().extend_from_slice(&ACCESS_DENIED);
    }
    session.linger().await;
}

/// Enters a tunnel with plain HTTP: gives its slots back, as its requests take their own, and keeps its connection for
/// the first of them. `None` if the caller does not take the 200.
async fn enter(session: &mut Session, tunnel: Tunnel, guard: HelloGuard, mut log: RequestLog) -> Option<Protocol> {
    let (within, upstream) = guard.into_http();
    // An origin whose caller has prior knowledge of HTTP/2 has begun it on this connection, or will: it is closed.
    let is_http1 = tunnel.origin.input.is_empty() && !session.conn.input.bytes().starts_with(HTTP2_METHOD);
    if let Some(unused) = tunnel.into_unused() {
        if is_http1 {
            session.worker.pool.keep(&upstream, unused);
        }
        log.claimed(session, &Claims::default());
    }
    log.carries_http();
    log.finish(session);
    // Bytes that came with the CONNECT are answered at once, and a refusal would take the place of the 200.
    session.deadline.set(session.worker.snapshot.timeouts.head);
    session.deadline.run(session.conn.flush()).await?.ok()?;
    session.conn.stream.become_tunnel();
    session.within = Some(Arc::new(InterceptedTunnel { hosts: session.hosts, ..within }));
    Some(Protocol::Http1)
}

/// Runs a tunnel to its end.
///
/// A caller that has sent nothing within [`BEGIN_TIMEOUT`] may still begin HTTP later; the slots of
/// the tunnel settle all the same.
async fn run(session: &mut Session, relay: &mut Relay) -> TunnelEnd {
    let Session { worker, head, conn, deadline, peer, .. } = session;
    let head_timeout = worker.snapshot.timeouts.of_head();
    let context = GuardContext { snapshot: &worker.snapshot, head, peer: peer.ip() };
    let mut before = None;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = relay.poll(cx, conn, context) {
                return Poll::Ready(end);
            }
            let stage = relay.stage(conn);
            let now = Some((relay.moved(), stage));
            if now != before {
                before = now;
                match stage {
                    RelayStage::Silent | RelayStage::Line => deadline.set(BEGIN_TIMEOUT),
                    RelayStage::Hello | RelayStage::Request => deadline.arm(&head_timeout),
                    RelayStage::Open => deadline.arm(&relay.tunnel.idle),
                }
            }
            std::task::ready!(deadline.poll_expired(cx));
            match stage {
                RelayStage::Silent => relay.tunnel.count(),
                RelayStage::Line => relay.pass_in_parts(),
                RelayStage::Hello | RelayStage::Request | RelayStage::Open => return Poll::Ready(TunnelEnd::Stalled),
            }
        }
    })
    .await
}

/// An open tunnel.
struct Relay {
    tunnel: Box<Tunnel>,
    /// To the origin.
    out: Direction,
    /// To the caller.
    back: Direction,
}

/// RelayStage of a tunnel, which decides its deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RelayStage {
    /// The caller has sent nothing, and the slots have not settled.
    Silent,
    /// Bytes that may become a request are held back.
    Line,
    /// The unfinished line of a request is held back.
    Request,
    /// Bytes that may become a ClientHello are held back.
    Hello,
    /// No byte is held back.
    Open,
}

impl Relay {
    /// Number of bytes moved in both directions.
    fn moved(&self) -> u64 {
        self.out.bytes.moved.wrapping_add(self.back.bytes.moved)
    }

    /// Current stage.
    fn stage(&self, caller: &Conn) -> RelayStage {
        match &self.tunnel.guard {
            Some(_) if caller.input.is_empty() && !self.tunnel.is_counted() => RelayStage::Silent,
            Some(guard) if !caller.input.is_empty() && !guard.passes_in_parts() => {
                if guard.may_be_tls() {
                    RelayStage::Hello
                } else if guard.is_request(caller.input.bytes()) {
                    RelayStage::Request
                } else {
                    RelayStage::Line
                }
            }
            Some(_) | None => RelayStage::Open,
        }
    }

    /// True while the caller may begin HTTP. The server of HTTP/1 does not speak first.
    fn may_be_http(&self) -> bool {
        self.tunnel.guard.as_ref().is_some_and(|guard| guard.may_be_http())
    }

    /// Takes the tunnel for one of another protocol: settles its slots.
    fn expect_no_http(&mut self) {
        if let Some(guard) = &mut self.tunnel.guard {
            guard.expect_no_http();
        }
        self.tunnel.count();
    }

    /// Takes half a line for one of another protocol: settles the slots, and reads the rest as it passes.
    fn pass_in_parts(&mut self) {
        if let Some(guard) = &mut self.tunnel.guard {
            guard.pass_in_parts();
        }
        self.tunnel.count();
    }

    /// Moves the bytes that were read to the origin's buffer.
    fn pass_part(&mut self, caller: &mut Conn) {
        let part = caller.input.bytes();
        self.tunnel.origin.out().extend_from_slice(part);
        self.out.bytes.moved += part.len() as u64;
        caller.input.consume(part.len());
    }

    /// Ready when the tunnel has ended.
    ///
    /// The guard comes first.
    fn poll(&mut self, cx: &mut Context<'_>, caller: &mut Conn, context: GuardContext<'_>) -> Poll<TunnelEnd> {
        if let Poll::Ready(end) = self.poll_guard(cx, caller, context) {
            return Poll::Ready(end);
        }
        let both = match self.poll_both(cx, caller) {
            Poll::Ready(Ok(())) => Poll::Ready(TunnelEnd::Clean),
            Poll::Ready(Err(_)) => Poll::Ready(TunnelEnd::Broken),
            Poll::Pending => Poll::Pending,
        };
        if both.is_pending() && self.may_be_http() && (self.back.bytes.moved > 0 || self.back.closed) {
            self.expect_no_http();
            // Once more, for bytes that were held back as the start of a request.
            return self.poll(cx, caller, context);
        }
        both
    }

    /// Ready if the caller's first bytes end the relay. Drops the guard once they pass.
    fn poll_guard(&mut self, cx: &mut Context<'_>, caller: &mut Conn, context: GuardContext<'_>) -> Poll<TunnelEnd> {
        while let Some(mut guard) = self.tunnel.guard.take() {
            // Back-pressure: no byte is read while a part before it waits for the origin.
            let checked = match self.tunnel.origin.poll_flush(cx) {
                Poll::Ready(Ok(())) => guard.poll(cx, caller, context),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            };
            match checked {
                Poll::Ready(Ok(FirstBytes::Http)) => return Poll::Ready(TunnelEnd::Http(guard)),
                Poll::Ready(Ok(FirstBytes::Pass)) => {
                    guard.warn(context.snapshot);
                    self.tunnel.count();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(FirstBytes::PassPart)) => {
                    self.tunnel.guard = Some(guard);
                    self.tunnel.count();
                    self.pass_part(caller);
                }
                Poll::Ready(Ok(FirstBytes::Denied(denial))) => {
                    self.tunnel.guard = Some(guard);
                    return Poll::Ready(TunnelEnd::Denied(denial));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(TunnelEnd::Broken),
                Poll::Pending => {
                    self.tunnel.guard = Some(guard);
                    return Poll::Pending;
                }
            }
        }
        Poll::Pending
    }

    /// Ready when both sides have ended, or one broke.
    fn poll_both(&mut self, cx: &mut Context<'_>, caller: &mut Conn) -> Poll<Result<(), BodyError>> {
        let is_held = self.holds_server(cx)?;
        let origin = &mut self.tunnel.origin;
        let there = match self.tunnel.guard {
            None => self.out.poll(cx, caller, origin, &self.back)?,
            Some(_) => Poll::Pending,
        };
        let here = if is_held {
            // The caller waits for the 200 before it begins.
            let _flushed = caller.poll_flush(cx).map_err(BodyError::Sink)?;
            Poll::Pending
        } else {
            self.back.poll(cx, origin, caller, &self.out)?
        };
        if there.is_ready() && here.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Relay {
    /// True while bytes of the server are held back: they begin HTTP/2, in which servers may speak first
    /// (RFC 9113 §3.4), and the caller may begin it, too.
    ///
    /// Without a bound, as clients of HTTP/2 do not wait for them. Fewer bytes than tell are held until
    /// the slots settle.
    ///
    /// # Errors
    /// Those of the server's connection.
    fn holds_server(&mut self, cx: &mut Context<'_>) -> Result<bool, BodyError> {
        if !self.may_be_http() || self.back.bytes.moved > 0 {
            return Ok(false);
        }
        let is_counted = self.tunnel.is_counted();
        let origin = &mut self.tunnel.origin;
        while may_be_server_preface(origin.input.bytes()) {
            if origin.input.bytes().len() >= FRAME_HEADER {
                return Ok(true);
            }
            match origin.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => return Ok(false),
                Poll::Ready(Err(error)) => return Err(BodyError::Source(Some(error))),
                Poll::Pending => return Ok(!origin.input.is_empty() && !is_counted),
            }
        }
        Ok(false)
    }
}

/// True if these bytes are the start of a server's preface of HTTP/2: a frame SETTINGS (RFC 9113 §3.4),
/// shorter than 64 KiB, without flags, for the connection as a whole.
fn may_be_server_preface(bytes: &[u8]) -> bool {
    let is_it = |(at, byte): (usize, &u8)| match at {
        1 | 2 => true,
        3 => *byte == 4,
        _ => *byte == 0,
    };
    bytes.iter().take(FRAME_HEADER).enumerate().all(is_it)
}

/// The end of a tunnel.
enum TunnelEnd {
    /// Both sides have sent their last byte.
    Clean,
    /// An error on one side.
    Broken,
    /// No progress until the deadline.
    Stalled,
    /// The first bytes of the caller must not pass.
    Denied(TunnelDenial),
    /// The caller has begun plain HTTP.
    Http(Box<HelloGuard>),
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
