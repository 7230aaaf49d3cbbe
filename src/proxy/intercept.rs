//! TLS handshakes with callers: on a listener that has TLS, and inside an intercepted tunnel.
//!
//! Tunnels that are not connected before their first bytes are read begin here, too: those with plain
//! HTTP, which is read as requests whether TLS is intercepted or not.
//!
//! The certificate is the gateway's own on a listener, and one signed by the authority of `[tls]`
//! for the tunnel's host otherwise. HTTP/2 is spoken if both sides agree on `h2` by ALPN (RFC
//! 7301).

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};

use rustls::ServerConfig;

use super::local_response::refuse_bytes;
use super::outcome::Failure;
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::{InterceptedTunnel, Protocol, Session, TlsInside};
use super::snapshot::ConfigSnapshot;
use super::target::Scheme;
use super::tunnel_warnings::TunnelDenial;
use super::{balancers, exchange, tunnel};
use crate::tls::accept::{FIRST_BYTE, IncomingHandshake, rejected_certificate};
use crate::tls::ca;
use crate::wire::request_line::{FirstLine, first_line, names_method};
use crate::wire::{Conn, Stream};

/// Opens a tunnel of which nothing is dialled: sends the caller its 200, and completes a TLS handshake
/// in the origin's place if TLS is intercepted. Returns `None` if the tunnel has ended, with its log
/// line written.
///
/// Bytes that are no TLS are read as requests: nothing bypasses the limits through a tunnel to an
/// intercepted host, nor to a port that may carry plain HTTP only. Another protocol, where it is
/// allowed, is relayed from here on.
///
/// Writes the access-log line of the CONNECT; requests inside have lines of their own. The time for
/// the first byte and the handshake is `[timeouts] head`.
pub(super) async fn open(
    session: &mut Session,
    mut tunnel: Box<InterceptedTunnel>,
    mut log: RequestLog,
) -> Option<Protocol> {
    let protocol = match begin(session, &mut tunnel).await {
        Ok(Inside::Requests(protocol)) => protocol,
        Ok(Inside::Opaque) => return Box::pin(relay_late(session, *tunnel, log)).await,
        Err(InterceptError::Denied(denial)) => {
            tunnel::deny(session, &mut log, &tunnel.origin.host, &denial).await;
            log.finish(session);
            return None;
        }
        Err(why) => {
            if let (InterceptError::Rejected(alert), Some(authority)) = (&why, &session.worker.snapshot.authority) {
                let (warned, peer) = (&session.worker.snapshot.warned_hosts, session.peer.ip());
                warned.warn_of_rejection(&tunnel.origin.host, peer, alert, authority.certificate());
            }
            let head = session.worker.snapshot.timeouts.of_head();
            log.not_intercepted(why.to_string(), matches!(why, InterceptError::Late).then_some(&head));
            log.finish(session);
            return None;
        }
    };
    match tunnel.tls {
        TlsInside::Intercepted => log.intercepted(),
        TlsInside::Opaque | TlsInside::Denied => log.carries_http(),
    }
    log.finish(session);
    session.within = Some(Arc::from(tunnel));
    Some(protocol)
}

/// Relays a tunnel that has turned out to be opaque. A failure resets the connection, as the 200 has been sent.
async fn relay_late(session: &mut Session, tunnel: InterceptedTunnel, mut log: RequestLog) -> Option<Protocol> {
    match exchange::connect_late(session, &mut log, tunnel).await {
        Ok(tunnel) => tunnel::relay(session, Box::new(tunnel), log).await,
        Err(failure) => {
            match &failure {
                Failure::Refused(refusal) => log.not_connected(refusal),
                Failure::CallerGone | Failure::Truncated => log.caller_gone(),
                Failure::LeftQueue => log.left_queue(),
                Failure::Stalled => log.stalled(session.deadline.timeout()),
            }
            log.finish(session);
            session.conn.stream.abort();
            None
        }
    }
}

/// Content of a tunnel, by its first bytes.
enum Inside {
    /// Requests, in this protocol.
    Requests(Protocol),
    /// Bytes that are relayed unread.
    Opaque,
}

/// Reason for which a tunnel was not intercepted.
///
/// Its text is the note of the CONNECT in the access log.
#[derive(Debug, thiserror::Error)]
enum InterceptError {
    #[error("the caller hung up")]
    Left,
    #[error("the caller did not begin in time")]
    Late,
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error(
        "the caller broke its TLS handshake off without an alert, as some do that do not trust the gateway's authority"
    )]
    BrokenOff,
    #[error("the caller does not trust the gateway's authority: its TLS ended with {0}")]
    Rejected(String),
    #[error("the caller asked for {0:?} in TLS, which is not the host of its CONNECT")]
    OtherName(String),
    #[error("there is no certificate for this host: {0}")]
    Leaf(ca::Error),
    #[error("{0}")]
    Denied(TunnelDenial),
}

/// Reads the first bytes, and completes the TLS handshake with the caller if there is to be one, under
/// a certificate for the tunnel's host.
///
/// The scheme of the tunnel's origin is set by the first byte: `https` for a TLS record, else
/// `http`.
async fn begin(session: &mut Session, tunnel: &mut InterceptedTunnel) -> Result<Inside, InterceptError> {
    session.deadline.set(session.worker.snapshot.timeouts.head);
    let Session { conn, deadline, .. } = session;
    let told = async {
        conn.flush().await.map_err(|_| InterceptError::Left)?;
        first_byte(conn).await.ok_or(InterceptError::Left)
    };
    let first = deadline.run(told).await.unwrap_or(Err(InterceptError::Late))?;
    match tunnel.tls {
        TlsInside::Opaque if !begins_http(session).await? => return Ok(Inside::Opaque),
        TlsInside::Intercepted | TlsInside::Opaque | TlsInside::Denied if first != FIRST_BYTE => {
            tunnel.origin.scheme = Scheme::Http;
            session.conn.stream.become_tunnel();
            return Ok(Inside::Requests(Protocol::Http1));
        }
        TlsInside::Denied => return Err(InterceptError::Denied(TunnelDenial::Port(tunnel.origin.port))),
        TlsInside::Opaque | TlsInside::Intercepted => tunnel.origin.scheme = Scheme::Https,
    }
    session.conn.stream.become_tunnel();
    let snapshot = Arc::clone(&session.worker.snapshot);
    let handshake = handshake(&snapshot, session.conn.take_stream(), &tunnel.origin.host);
    let (stream, protocol) = session.deadline.run(handshake).await.unwrap_or(Err(InterceptError::Late))?;
    session.conn = Conn::new(stream);
    Ok(Inside::Requests(protocol))
}

/// True if the caller begins HTTP: sends a method within [`BEGIN_TIMEOUT`](tunnel::BEGIN_TIMEOUT), and its line
/// within `[timeouts] head`. What passes as another protocol is still read when it is relayed.
async fn begins_http(session: &mut Session) -> Result<bool, InterceptError> {
    session.deadline.set(tunnel::BEGIN_TIMEOUT);
    let Session { conn, deadline, worker, .. } = session;
    let mut line = deadline.run(whole_line(conn)).await;
    if line.is_none() && names_method(conn.input.bytes()) {
        deadline.set(worker.snapshot.timeouts.head);
        line = Some(deadline.run(whole_line(conn)).await.ok_or(InterceptError::Late)?);
    }
    Ok(line == Some(FirstLine::Http))
}

/// Reads the first line, which stays in the buffer.
async fn whole_line(conn: &mut Conn) -> FirstLine {
    poll_fn(|cx| {
        loop {
            let line = first_line(conn.input.bytes());
            if line != FirstLine::Incomplete {
                return Poll::Ready(line);
            }
            match ready!(conn.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(FirstLine::Other),
                Ok(_) => {}
            }
        }
    })
    .await
}

/// Reads the ClientHello, checks its server name, obtains a certificate for the host, and completes
/// the handshake. A final dot and letter case of the server name make no difference.
async fn handshake(
    snapshot: &ConfigSnapshot,
    stream: Stream,
    host: &str,
) -> Result<(Stream, Protocol), InterceptError> {
    let hello = IncomingHandshake::read(stream).await.map_err(InterceptError::Handshake)?;
    // A server name other than the host that was admitted is domain fronting. A missing name is accepted.
    if let Some(name) = hello.server_name()
        && !name.trim_end_matches('.').eq_ignore_ascii_case(host)
    {
        return Err(InterceptError::OtherName(name));
    }
    let Some(authority) = &snapshot.authority else { return Err(InterceptError::Left) };
    let wall = snapshot.gate.clock().wall_unix_nanos();
    let leaf = authority.leaf(host, wall).await.map_err(InterceptError::Leaf)?;
    accept(hello, leaf).await.map_err(|error| match (rejected_certificate(&error), error.kind()) {
        (Some(alert), _) => InterceptError::Rejected(alert),
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => InterceptError::BrokenOff,
        (None, _) => InterceptError::Handshake(error),
    })
}

/// Accepts TLS on a listener that has it, within the timeout of the first head. `None`: the
/// connection has ended.
///
/// A first byte that begins no TLS record is answered in plain text (400), for callers with
/// `http://` in the URL of the proxy.
pub(super) async fn tls_accept(session: &mut Session, identity: Arc<ServerConfig>) -> Option<Protocol> {
    let first = session.deadline.run(first_byte(&mut session.conn)).await??;
    if first != FIRST_BYTE {
        let refusal = balancers::refuse_bytes(session.conn.input.bytes(), Refusal::NotTls);
        refuse_bytes(session, &refusal).await;
        session.linger().await;
        return None;
    }
    let stream = session.conn.take_stream();
    let handshake = async {
        let hello = IncomingHandshake::read(stream).await?;
        accept(hello, identity).await
    };
    match session.deadline.run(handshake).await? {
        Ok((stream, protocol)) => {
            session.conn = Conn::new(stream);
            session.secure = true;
            Some(protocol)
        }
        Err(error) => {
            if let Some(alert) = rejected_certificate(&error) {
                session.worker.snapshot.warned_hosts.warn_of_distrust(session.peer.ip(), &alert);
            }
            tracing::debug!(peer = %session.peer, %error, "a TLS handshake with a caller failed");
            None
        }
    }
}

/// Completes a handshake under this certificate; the protocol is that agreed by ALPN.
async fn accept(hello: IncomingHandshake<Stream>, config: Arc<ServerConfig>) -> io::Result<(Stream, Protocol)> {
    let tls = hello.accept(config).await?;
    let protocol = if tls.get_ref().1.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
    Ok((Stream::tls(tls), protocol))
}

/// Waits for the first byte, which stays in the buffer. `None`: the connection ended without one.
async fn first_byte(conn: &mut Conn) -> Option<u8> {
    if conn.input.is_empty() {
        poll_fn(|cx| conn.stream.poll_readable(cx)).await.ok()?;
        poll_fn(|cx| conn.poll_fill(cx)).await.ok()?;
    }
    conn.input.bytes().first().copied()
}
