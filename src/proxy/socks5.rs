//! SOCKS5 on a proxy listener: reads a client's handshake, and makes the CONNECT of it that it stands
//! for.
//!
//! From there on nothing differs from a CONNECT of HTTP: admission, limits, waiting, first bytes and
//! interception are those of an [`exchange`](super::exchange), and so is the line in the access log.
//! Only the answer has another form ([`TunnelEntry::Socks5`]).
//!
//! Name and password (RFC 1929) are checked twice: here, since the client must be told before it sends
//! its request, and with the CONNECT, which finds them in the cache.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::{Session, TunnelEntry};
use super::transparent;
use crate::wire::socks5_server::{
    AuthMethod, Greeting, Login, Reply, Unusable, read_greeting, read_login, read_request,
};

/// Reason for which a handshake has not led to a request.
enum HandshakeEnd {
    /// The client has closed the connection.
    Gone,
    /// The gateway ends it, after these bytes.
    Refused(Refusal, Vec<u8>),
}

/// Result of a handshake.
enum ClientWish {
    /// The head of a CONNECT is in the session.
    Request,
    /// The connection is one that a program has made to this address, passed on with these credentials.
    PassedOn(SocketAddr, Option<String>),
}

/// Reads the handshake of a client whose first byte is in the session. True: the head of a CONNECT is
/// in the session, for the next exchange. False: the connection has ended, with a line in the access
/// log if the client was refused.
///
/// Time: what is left of the session's deadline, and `[timeouts] head` once more after a password was
/// verified. Bytes behind the request stay in the session. A client that passes connections on has its
/// reply before the host is known, as it has connected already.
pub(super) async fn receive(session: &mut Session) -> bool {
    match shake_hands(session).await {
        Ok(ClientWish::Request) => true,
        Ok(ClientWish::PassedOn(destination, credentials)) => {
            transparent::receive(session, Some(destination), credentials.as_deref()).await
        }
        Err(HandshakeEnd::Gone) => false,
        Err(HandshakeEnd::Refused(refusal, last)) => {
            refuse(session, &refusal, &last).await;
            false
        }
    }
}

/// The steps of the handshake.
async fn shake_hands(session: &mut Session) -> Result<ClientWish, HandshakeEnd> {
    let greeting = read_message(session, read_greeting, |greeting| greeting.length).await?;
    let method = choose(session, greeting);
    let credentials = match method {
        AuthMethod::Unacceptable => return Err(unacceptable(session)),
        AuthMethod::None => None,
        AuthMethod::Password => {
            session.conn.out().extend_from_slice(&method.bytes());
            Some(log_in(session).await?)
        }
    };
    let answer = if credentials.is_some() { Login::ACCEPTED } else { method.bytes() };
    session.conn.out().extend_from_slice(&answer);
    let request = read_message(session, read_request, |request| request.length).await?;
    let passed_on = request.address().filter(|_| greeting.passes_on);
    if passed_on.is_some() {
        session.conn.out().extend_from_slice(&Reply::Succeeded.bytes());
    }
    // The exchange appends its answer, and expects no other bytes before it.
    let Session { conn, deadline, .. } = &mut *session;
    deadline.run(conn.flush()).await.ok_or(HandshakeEnd::Gone)?.map_err(|_| HandshakeEnd::Gone)?;
    if let Some(destination) = passed_on {
        return Ok(ClientWish::PassedOn(destination, credentials));
    }
    let to = format_args!("{}:{}", request.host, request.port);
    let put = session.put_connect(to, credentials.as_deref(), TunnelEntry::Socks5);
    put.map(|()| ClientWish::Request).map_err(general_failure)
}

/// Method for a client: a password only if one is needed, or if it offers nothing else.
fn choose(session: &Session, greeting: Greeting) -> AuthMethod {
    if greeting.offers_none && !session.worker.snapshot.access.asks_for_passwords() {
        AuthMethod::None
    } else if greeting.offers_password {
        AuthMethod::Password
    } else {
        AuthMethod::Unacceptable
    }
}

/// End of a handshake without a common method.
fn unacceptable(session: &Session) -> HandshakeEnd {
    let refusal = if session.worker.snapshot.access.asks_for_passwords() {
        Refusal::Unauthorized
    } else {
        Refusal::Malformed("SOCKS5 without a method that the gateway has: none (0) or a password (2)")
    };
    HandshakeEnd::Refused(refusal, AuthMethod::Unacceptable.bytes().to_vec())
}

/// Reads name and password, and verifies them if passwords are needed. Returns them as a value of
/// Proxy-Authorization.
async fn log_in(session: &mut Session) -> Result<String, HandshakeEnd> {
    let login = read_message(session, read_login, |login| login.length).await?;
    let wrong = |refusal| HandshakeEnd::Refused(refusal, Login::REFUSED.to_vec());
    // No user has a colon in its name (RFC 7617 §2): the password would begin there.
    if login.name.contains(&b':') {
        return Err(wrong(Refusal::Unauthorized));
    }
    let field = format!("Basic {}", STANDARD.encode([&login.name[..], b":", &login.password].concat()));
    let snapshot = &session.worker.snapshot;
    if snapshot.access.asks_for_passwords() {
        let caller = session.source().caller;
        let checked = snapshot.access.login(caller, login.name, login.password, snapshot.gate.clock()).await;
        checked.map_err(|error| wrong(error.into()))?;
    }
    session.deadline.set(session.worker.snapshot.timeouts.head);
    Ok(field)
}

/// Reads one message, and sends the answer to the one before meanwhile.
async fn read_message<T>(
    session: &mut Session,
    read: fn(&[u8]) -> Result<Option<T>, Unusable>,
    length: fn(&T) -> usize,
) -> Result<T, HandshakeEnd> {
    let Session { conn, deadline, .. } = &mut *session;
    let message = poll_fn(|cx| {
        loop {
            match read(conn.input.bytes()) {
                Ok(Some(message)) => {
                    conn.input.consume(length(&message));
                    return Poll::Ready(Ok(message));
                }
                Ok(None) => {}
                Err(Unusable { reply, why }) => {
                    let refused = HandshakeEnd::Refused(Refusal::Malformed(why), reply.bytes().to_vec());
                    return Poll::Ready(Err(Some(refused)));
                }
            }
            if let Poll::Ready(Err(_)) = conn.poll_flush(cx) {
                return Poll::Ready(Err(Some(HandshakeEnd::Gone)));
            }
            match conn.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Some(HandshakeEnd::Gone))),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return deadline.poll_expired(cx).map(|()| Err(None)),
            }
        }
    });
    message.await.map_err(|end| {
        let late = || Refusal::HeadTimeout.of_timeout(session.worker.snapshot.timeouts.of_head());
        end.unwrap_or_else(|| general_failure(late()))
    })
}

fn general_failure(refusal: Refusal) -> HandshakeEnd {
    HandshakeEnd::Refused(refusal, Reply::GeneralFailure.bytes().to_vec())
}

/// Logs a client that got no request through, and closes its connection after these bytes.
async fn refuse(session: &mut Session, refusal: &Refusal, last: &[u8]) {
    // Nothing of a request is known.
    session.head.shrink();
    let mut log = RequestLog::begin(session);
    log.refused(refusal);
    log.bytes_out = last.len() as u64;
    session.conn.out().extend_from_slice(last);
    log.finish(session);
    session.linger().await;
}
