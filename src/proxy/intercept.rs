//! TLS handshakes with callers: on a listener that has TLS, and inside an intercepted tunnel.
//!
//! The certificate is the gateway's own on a listener, and one signed by the authority of `[tls]`
//! for the tunnel's host otherwise. HTTP/2 is spoken if both sides agree on `h2` by ALPN (RFC
//! 7301).

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;

use super::local_response::refuse_bytes;
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::{InterceptedTunnel, Protocol, Session};
use super::snapshot::ConfigSnapshot;
use super::target::Scheme;
use crate::tls::accept::{FIRST_BYTE, IncomingHandshake};
use crate::tls::ca;
use crate::wire::{Conn, Stream};

/// Intercepts a tunnel: sends the caller its 200, and completes a TLS handshake in the origin's
/// place. Returns `None` if the tunnel ended before.
///
/// Bytes that are no TLS are read as requests too: nothing bypasses the limits through a tunnel to
/// an intercepted host.
///
/// Writes the access-log line of the CONNECT; requests inside have lines of their own. The time for
/// the first byte and the handshake is `[timeouts] head`.
pub(super) async fn open(
    session: &mut Session,
    mut tunnel: Box<InterceptedTunnel>,
    mut log: RequestLog,
) -> Option<Protocol> {
    let protocol = accept_inside(session, &mut tunnel).await;
    match &protocol {
        Ok(_) => log.intercepted(),
        Err(why) => log.not_intercepted(why.to_string()),
    }
    log.finish(session);
    session.within = Some(Arc::from(tunnel));
    protocol.ok()
}

/// Reason for which a tunnel was not intercepted.
///
/// Its text is the note of the CONNECT in the access log.
#[derive(Debug, thiserror::Error)]
enum InterceptError {
    #[error("the caller hung up")]
    Left,
    #[error("the caller did not begin TLS in time")]
    Late,
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the caller asked for {0:?} in TLS, which is not the host of its CONNECT")]
    OtherName(String),
    #[error("there is no certificate for this host: {0}")]
    Leaf(ca::Error),
}

/// Completes the TLS handshake with the caller, under a certificate for the tunnel's host.
///
/// The scheme of the tunnel's origin is set by the first byte: `https` for a TLS record, else
/// `http`.
async fn accept_inside(session: &mut Session, tunnel: &mut InterceptedTunnel) -> Result<Protocol, InterceptError> {
    session.deadline.set(session.worker.snapshot.timeouts.head);
    let Session { conn, deadline, .. } = session;
    let told = async {
        conn.flush().await.map_err(|_| InterceptError::Left)?;
        first_byte(conn).await.ok_or(InterceptError::Left)
    };
    let first = deadline.run(told).await.unwrap_or(Err(InterceptError::Late))?;
    if first != FIRST_BYTE {
        tunnel.origin.scheme = Scheme::Http;
        return Ok(Protocol::Http1);
    }
    tunnel.origin.scheme = Scheme::Https;
    let snapshot = Arc::clone(&session.worker.snapshot);
    let handshake = handshake(&snapshot, session.conn.take_stream(), &tunnel.origin.host);
    let (stream, protocol) = session.deadline.run(handshake).await.unwrap_or(Err(InterceptError::Late))?;
    session.conn = Conn::new(stream);
    Ok(protocol)
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
    accept(hello, leaf).await.map_err(InterceptError::Handshake)
}

/// Accepts TLS on a listener that has it, within the timeout of the first head. `None`: the
/// connection has ended.
///
/// A first byte that begins no TLS record is answered in plain text (400), for callers with
/// `http://` in the URL of the proxy.
pub(super) async fn tls_accept(session: &mut Session, identity: Arc<ServerConfig>) -> Option<Protocol> {
    let first = session.deadline.run(first_byte(&mut session.conn)).await??;
    if first != FIRST_BYTE {
        refuse_bytes(session, &Refusal::NotTls).await;
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
