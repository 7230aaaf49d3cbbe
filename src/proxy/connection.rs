//! Connection loop: serves a caller's connection from its first byte to its last, one request after the other.
//!
//! Life of a connection: a PROXY header if a balancer sends it, TLS if the listener has it (a head that
//! stands for the connection, if the kernel has led it here), then heads and exchanges in turn until one side ends. Unless TLS has agreed on HTTP/2, the first bytes
//! decide: the preface `PRI * HTTP/2.0` begins HTTP/2, the byte 5 begins SOCKS5, anything else is
//! HTTP/1. Pipelined requests
//! wait in the read buffer; one exchange runs at a time.
//!
//! Idle connections hold no buffers. Their end: `[timeouts] head` before the first request,
//! `[timeouts] idle` after it, the caller's close, or the shutdown.

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::net::TcpStream;

use super::conn_admission::ConnAdmission;
use super::intercept;
use super::local_response::refuse_bytes;
use super::outcome::Outcome;
use super::refusal::Refusal;
use super::session::{Protocol, Session, TunnelEntry};
use super::worker::Worker;
use super::{balancers, exchange, http2, socks5, transparent, tunnel};
use crate::net::connection_limit::ConnToken;
use crate::net::drain::ShutdownWatch;
use crate::net::listen::ListenerKind;
use crate::net::listener_stats::ListenerStats;
use crate::net::original_destination::original_destination;
use crate::tls::accept::FIRST_BYTE;
use crate::wire::head::may_be_complete;
use crate::wire::http2::PREFACE;
use crate::wire::socks5_server;
use crate::wire::{Conn, HeadError, Stream};

/// Next event on an idle connection.
enum Next {
    /// The head is in the session; its body has not been read.
    Request,
    /// The preface of HTTP/2, sent by a caller with prior knowledge (RFC 9113 §3.3).
    Http2,
    /// The first byte of SOCKS5 is in the input.
    Socks5,
    /// Bytes that are no request, or a head that did not arrive in time.
    Malformed(Refusal),
    /// It was closed, was idle too long, or the gateway shuts down.
    End,
}

/// Serves connections one after the other, each to its end, and reuses the buffers.
pub struct ConnectionServer {
    /// Session with the buffers that all connections of this server use in turn.
    session: Session,
    /// Ready when idle connections must close.
    shutdown: ShutdownWatch,
    /// Decides on connections that begin with a PROXY header.
    admission: Arc<ConnAdmission>,
}

impl ConnectionServer {
    /// A server without a connection. Must be called inside the worker's runtime.
    pub fn new(worker: Worker, admission: Arc<ConnAdmission>) -> ConnectionServer {
        let shutdown = worker.snapshot.drain.watch();
        let no_peer = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        ConnectionServer { session: Session::new(worker, no_peer, Stream::closed()), shutdown, admission }
    }

    /// Serves one caller's connection until either side ends it. `listener`: counters of the listener that accepted it.
    /// `token`: its count, which is not identified if it must begin with a PROXY header.
    ///
    /// # Cancel safety
    /// Dropping the future does not close the connection; that happens when the server serves the next one, or is
    /// dropped itself.
    pub async fn serve(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        listener: &ListenerStats,
        token: &mut ConnToken,
    ) {
        let ConnectionServer { session, shutdown, admission } = self;
        session.worker.refresh();
        let destination = match listener.kind {
            ListenerKind::Proxy => None,
            ListenerKind::Transparent => original_destination(&stream, listener.address).ok().flatten(),
        };
        session.attach(stream, peer);
        session.deadline.set(session.worker.snapshot.timeouts.head);
        let is_admitted = token.is_identified() || {
            let received = admission.receive_header(session, shutdown, listener, token);
            Box::pin(received).await
        };
        if is_admitted {
            session.loopback = listener.address.ip().is_loopback() && session.peer.ip().is_loopback();
            let protocol = match listener.kind {
                ListenerKind::Proxy => begin(session).await,
                ListenerKind::Transparent => {
                    let prepared = Box::pin(transparent::receive(session, destination, None)).await;
                    prepared.then_some(Protocol::Http1)
                }
            };
            if let Some(protocol) = protocol {
                serve(session, protocol, shutdown).await;
            }
        }
        // Closes the connection, and the connections to origins that were pinned to it.
        session.conn = Conn::new(Stream::closed());
        session.pinned.reset();
    }
}

/// Begins a connection: with the TLS handshake, if the listener has TLS. `None`: it has ended.
async fn begin(session: &mut Session) -> Option<Protocol> {
    match session.worker.snapshot.identity.as_deref().cloned() {
        Some(identity) => Box::pin(intercept::tls_accept(session, identity)).await,
        None => Some(Protocol::Http1),
    }
}

/// Serves a connection, or the requests in a tunnel. Boxed, because the HTTP/2 server calls it for tunnels in its streams.
fn serve_boxed<'s>(
    session: &'s mut Session,
    protocol: Protocol,
    shutdown: &'s mut ShutdownWatch,
) -> Pin<Box<dyn Future<Output = ()> + 's>> {
    Box::pin(serve(session, protocol, shutdown))
}

/// Serves a connection, or the requests in a tunnel.
///
/// An upgrade to another protocol or an opaque tunnel ends the loop: the connection carries no
/// requests after it. A tunnel that is intercepted, or carries plain HTTP, goes on in the loop, as a
/// connection with requests.
async fn serve(session: &mut Session, mut protocol: Protocol, shutdown: &mut ShutdownWatch) {
    let drain = session.worker.snapshot.drain.clone();
    let mut is_first = true;
    loop {
        if protocol == Protocol::Http2 {
            return Box::pin(http2::serve(session, shutdown, serve_boxed)).await;
        }
        let prepared = is_first && matches!(session.entry, TunnelEntry::Redirected(_));
        match if prepared { Next::Request } else { next(session, shutdown).await } {
            Next::End => return close_idle(session),
            Next::Http2 if is_first => {
                protocol = Protocol::Http2;
                continue;
            }
            Next::Http2 => return refuse(session, &Refusal::Version).await,
            Next::Malformed(refusal) => return refuse(session, &refusal).await,
            Next::Socks5 if !Box::pin(socks5::receive(session)).await => return,
            Next::Socks5 | Next::Request => is_first = false,
        }
        let guard = drain.request_guard();
        session.worker.refresh();
        let (outcome, log) = exchange::run(session).await;
        match outcome {
            Outcome::Tunnel(tunnel) => match tunnel::relay(session, tunnel, log).await {
                Some(inside) => (protocol, is_first) = (inside, true),
                None => return,
            },
            Outcome::Intercept(tunnel) => match Box::pin(intercept::open(session, tunnel, log)).await {
                Some(inside) => (protocol, is_first) = (inside, true),
                None => return,
            },
            Outcome::Keep => {
                log.finish(session);
                // During shutdown one more response is sent: the caller may have been told that it may send a request.
                if drain.is_stopping() {
                    return session.linger().await;
                }
            }
            Outcome::Close => {
                log.finish(session);
                return session.linger().await;
            }
            Outcome::Abort => {
                log.finish(session);
                return session.conn.stream.abort();
            }
        }
        drop(guard);
    }
}

/// Responds to bytes that are no request, and closes the connection.
async fn refuse(session: &mut Session, refusal: &Refusal) {
    refuse_bytes(session, refusal).await;
    session.linger().await;
}

/// Closes an idle connection; TLS sends close_notify if the caller still reads.
fn close_idle(session: &mut Session) {
    let _ = session.conn.stream.poll_shutdown(&mut Context::from_waker(Waker::noop()));
}

/// Waits without buffers for the first byte of the next request. False: the connection ends.
async fn wait_readable(session: &mut Session, shutdown: &mut ShutdownWatch) -> bool {
    let timeouts = &session.worker.snapshot.timeouts;
    session.conn.release_buffers();
    session.head.shrink();
    if session.has_read_request {
        session.deadline.set(timeouts.idle);
    }
    let readable = poll_fn(|cx| {
        if session.conn.stream.may_have_unread() {
            if let Poll::Ready(filled) = session.conn.poll_fill(cx) {
                return Poll::Ready(filled.is_ok_and(|count| count > 0));
            }
            session.conn.release_buffers();
        }
        // A task without budget looks for the unread bytes at its next poll.
        if !session.conn.stream.may_have_unread()
            && let Poll::Ready(readable) = session.conn.stream.poll_readable(cx)
        {
            return Poll::Ready(readable.is_ok());
        }
        if session.deadline.poll_expired(cx).is_ready() || shutdown.poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        Poll::Pending
    });
    readable.await
}

/// Waits for the head of the next request.
///
/// Waits for the first byte, and then reads until the head is complete, within `[timeouts] head` from
/// that byte on (from the accept for the first head).
async fn next(session: &mut Session, shutdown: &mut ShutdownWatch) -> Next {
    if session.conn.input.is_empty() && !wait_readable(session, shutdown).await {
        return Next::End;
    }
    let timeouts = &session.worker.snapshot.timeouts;
    let (mut timed, mut seen) = (!session.has_read_request, 0);
    loop {
        // Empty lines before a request are ignored (RFC 9112 §2.2), in any number.
        while session.conn.input.bytes().starts_with(b"\r\n") {
            session.conn.input.consume(2);
        }
        let bytes = session.conn.input.bytes();
        if bytes.starts_with(PREFACE) {
            return Next::Http2;
        }
        let may_be_preface = bytes.first() == Some(&PREFACE[0]) && PREFACE.starts_with(bytes);
        if !may_be_preface && may_be_complete(bytes, seen) {
            match session.head.read(bytes) {
                Ok(Some(length)) => {
                    session.conn.input.consume(length);
                    session.has_read_request = true;
                    return Next::Request;
                }
                Ok(None) => {}
                Err(_) if begins_socks5(session) => return Next::Socks5,
                Err(error) => return Next::Malformed(of_no_head(session, error)),
            }
        } else if begins_socks5(session) {
            return Next::Socks5;
        }
        seen = session.conn.input.bytes().len();
        if !timed {
            session.deadline.set(timeouts.head);
            timed = true;
        }
        let filled = poll_fn(|cx| {
            if let Poll::Ready(filled) = session.conn.poll_fill(cx) {
                return Poll::Ready(Some(filled));
            }
            session.deadline.poll_expired(cx).map(|()| None)
        });
        match filled.await {
            Some(Ok(0) | Err(_)) => return Next::End,
            Some(Ok(_)) => {}
            None if session.conn.input.is_empty() => return Next::End,
            None => {
                return Next::Malformed(Refusal::HeadTimeout.of_timeout(session.worker.snapshot.timeouts.of_head()));
            }
        }
    }
}

/// True if the first bytes of a connection are those of SOCKS5. Asked only once they are no whole head of
/// HTTP, so that requests of HTTP that arrive in one piece take no step more.
fn begins_socks5(session: &Session) -> bool {
    !session.has_read_request && session.conn.input.bytes().first() == Some(&socks5_server::VERSION)
}

/// Refusal of bytes that are no head. A connection without TLS that begins with it has a cause of its
/// own, https:// in the URL of the proxy, and so has a PROXY header of an address that is not listed.
fn of_no_head(session: &Session, error: HeadError) -> Refusal {
    let bytes = session.conn.input.bytes();
    let is_tls = bytes.first() == Some(&FIRST_BYTE) && !session.has_read_request && !session.secure;
    if is_tls { Refusal::TlsToPlain } else { balancers::refuse_bytes(bytes, error.into()) }
}
