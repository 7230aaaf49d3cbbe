//! Local responses: those that the gateway makes itself, from refusals to the 200 of a tunnel.
//!
//! Every response here is complete in the write buffer before its first byte leaves, has a
//! `Content-Length` (but for the 200 of a CONNECT), and needs no origin. Contents come from
//! `problem` (refusals) and `local_request`; the bytes are written by `serialize`.
//!
//! The connection is kept after it if its next request has a known start: the rest of the request's
//! body must be absent or short enough to be read and dropped.

use std::future::poll_fn;
use std::task::Poll;

use super::grpc;
use super::outcome::Outcome;
use super::problem::{self, PutField};
use super::refusal::Refusal;
use super::request_log::{BodyRead, RequestLog};
use super::serialize::{LocalResponse, buffer_local};
use super::session::{FirstProtocol, Session, TunnelEntry};
use crate::tls::client_hello::ACCESS_DENIED;
use crate::wire::socks5_server::Reply;
use crate::wire::{ConnectionOptions, Length, Name, RequestHead, Version, framing};

/// Largest body of a refused request that is read and dropped so that its connection can be kept, in bytes: a few
/// buffers' worth, which costs less than a new connection.
const MAX_DROPPED: u64 = 64 * 1024;

/// Responds to a request with a refusal.
///
/// Steps: discards an unsent response of the origin, decides whether the connection can be kept,
/// writes the response, flushes it, and drops the rest of the request's body.
///
/// A client of SOCKS5 gets a reply in its form, and a redirected caller what it expects of its origin:
/// its connection ends. Returns `Abort` if part of
/// another response has left already: bytes of a second one would be read as its content.
pub(super) async fn refuse(session: &mut Session, log: &mut RequestLog, refusal: &Refusal) -> Outcome {
    log.refused(refusal);
    match session.entry {
        TunnelEntry::Http | TunnelEntry::Redirected(FirstProtocol::Http) => {}
        TunnelEntry::Socks5 => return refuse_with(session, log, &Reply::from(refusal).bytes()).await,
        // A failure of the origin looks like one: the connection breaks.
        TunnelEntry::Redirected(FirstProtocol::Tls) if refusal.refused_by() != "origin" => {
            return refuse_with(session, log, &ACCESS_DENIED).await;
        }
        TunnelEntry::Redirected(FirstProtocol::Tls | FirstProtocol::Other) => return Outcome::Abort,
    }
    if session.conn.is_partly_sent() {
        return Outcome::Abort;
    }
    session.conn.discard_unsent();
    let head = &session.head;
    let rest = match log.body {
        // The rest of the body belongs to its own stream.
        _ if head.version() == Version::Http2 => Some(0),
        BodyRead::Nothing => droppable(head),
        BodyRead::Partly => None,
        BodyRead::All => Some(0),
    };
    let close = refusal.closes() || session.entry != TunnelEntry::Http || rest.is_none() || !may_keep(session);
    let persistence = match (close, head.version()) {
        (true, _) => Persistence::Close,
        (false, Version::Http10) => Persistence::KeepAlive,
        (false, Version::Http11 | Version::Http2) => Persistence::Unsaid,
    };
    let version = head.version();
    log.bytes_out += send_refusal(session, refusal, persistence, version);
    if flush(session).await && !close && drop_body(session, rest.unwrap_or(0)).await {
        Outcome::Keep
    } else {
        Outcome::Close
    }
}

/// Responds with these bytes in place of a response of HTTP.
async fn refuse_with(session: &mut Session, log: &mut RequestLog, bytes: &[u8]) -> Outcome {
    session.conn.out().extend_from_slice(bytes);
    log.bytes_out += bytes.len() as u64;
    flush(session).await;
    Outcome::Close
}

/// Responds to bytes that are no request, and logs that; the connection ends after it.
///
/// Answers in HTTP/1.1, as no version is known. Used for malformed heads, heads that did not arrive
/// in time, and plain text on a port with TLS.
pub(super) async fn refuse_bytes(session: &mut Session, refusal: &Refusal) {
    let mut log = RequestLog::begin(session);
    log.refused(refusal);
    // Head and caller in the session belong to an earlier request.
    session.head.shrink();
    session.forget_caller();
    send_refusal(session, refusal, Persistence::Close, Version::Http11);
    log.bytes_out = session.conn.pending() as u64;
    flush(session).await;
    log.finish(session);
}

/// Responds with 200, a body of ours and these header fields, each with its value.
///
/// `Date` and `Content-Length` are added, and `Connection: close` if the connection ends. Callers
/// of HTTP/1.0 always have it closed.
pub(super) async fn respond(
    session: &mut Session,
    log: &mut RequestLog,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Outcome {
    let head = &session.head;
    let stays = head.version() == Version::Http11 && may_keep(session);
    let rest = droppable(head).filter(|_| stays);
    let (wall, version) = (session.worker.snapshot.gate.clock().wall_unix_nanos(), head.version());
    let put_all = |put: &mut PutField<'_>| {
        put("Date", format_args!("{}", problem::date(wall)));
        fields.iter().for_each(|(name, value)| put(name, format_args!("{value}")));
        put("Content-Length", format_args!("{}", body.len()));
    };
    let connection = rest.is_none().then_some("close");
    let response = LocalResponse { status: 200, reason: "OK", fields: &put_all, connection, body };
    log.status = 200;
    log.bytes_out += buffer_local(&response, version, &mut session.conn);
    match rest {
        Some(rest) if flush(session).await && drop_body(session, rest).await => Outcome::Keep,
        Some(_) => Outcome::Close,
        None => {
            flush(session).await;
            Outcome::Close
        }
    }
}

/// Responds to a CONNECT that its tunnel is established (RFC 9110 §9.3.6: no length, no coding), or to a client of
/// SOCKS5; a redirected caller expects no response. For an intercepted tunnel the state of the origin is not known yet: the responses inside report it.
///
/// Bytes that follow on the connection are no SOCKS5.
pub(super) fn establish(session: &mut Session, log: &mut RequestLog) {
    log.status = 200;
    match std::mem::take(&mut session.entry) {
        TunnelEntry::Http => {}
        TunnelEntry::Socks5 => return session.conn.out().extend_from_slice(&Reply::Succeeded.bytes()),
        TunnelEntry::Redirected(_) => return,
    }
    let reason = "Connection established";
    let response = LocalResponse { status: 200, reason, fields: &|_| {}, connection: None, body: b"" };
    buffer_local(&response, session.head.version(), &mut session.conn);
}

/// Treatment of the connection that a refusal announces.
#[derive(Clone, Copy)]
enum Persistence {
    /// It ends after this response: `Connection: close`.
    Close,
    /// It stays open, which HTTP/1.0 does not imply (RFC 9112 §9.3).
    KeepAlive,
    /// It stays open, as the version implies.
    Unsaid,
}

/// Writes a refusal to the connection's buffer; returns its length in bytes.
///
/// A response to HEAD states the length of its body without sending it (RFC 9110 §9.3.2).
fn send_refusal(session: &mut Session, refusal: &Refusal, persistence: Persistence, version: Version) -> u64 {
    let wall = session.worker.snapshot.gate.clock().wall_unix_nanos();
    if grpc::is_call(&session.head) {
        let fields = &|put: &mut PutField<'_>| refusal.grpc_fields(wall, put);
        let response = LocalResponse { status: 200, reason: "OK", fields, connection: None, body: b"" };
        return buffer_local(&response, version, &mut session.conn);
    }
    let body = refusal.body();
    let is_head = session.head.method() == "HEAD";
    let response = LocalResponse {
        status: refusal.status(),
        reason: problem::reason(refusal.status()),
        fields: &|put| refusal.fields(body.len(), wall, put),
        connection: match persistence {
            Persistence::Close => Some("close"),
            Persistence::KeepAlive => Some("keep-alive"),
            Persistence::Unsaid => None,
        },
        body: if is_head { b"" } else { body.as_bytes() },
    };
    buffer_local(&response, version, &mut session.conn)
}

/// True if the caller wants its connection kept, and the gateway does not drain.
fn may_keep(session: &Session) -> bool {
    let head = &session.head;
    let options = ConnectionOptions::of(head.all(Name::Connection).chain(head.all(Name::ProxyConnection)));
    options.keeps_open(head.version()) && !session.worker.snapshot.drain.is_draining()
}

/// Number of body bytes before the next request; `None` if unknown or too many to drop.
///
/// At most [`MAX_DROPPED`]. Content in chunks has no known length, and is never dropped.
fn droppable(head: &RequestHead) -> Option<u64> {
    match framing::of_request(head) {
        Ok(Length::Empty) => Some(0),
        // A caller that waits for a 100 may or may not send the body after a final response.
        Ok(Length::Exact(length)) if length <= MAX_DROPPED && head.get(Name::Expect).is_none() => Some(length),
        Ok(Length::Exact(_) | Length::Chunked | Length::UntilClose) | Err(_) => None,
    }
}

/// Flushes the buffer within `[timeouts] body_idle`. False if the connection broke.
///
/// The timeout is for the whole response, not for each write.
async fn flush(session: &mut Session) -> bool {
    session.deadline.arm(&session.worker.snapshot.timeouts.of_content());
    let Session { conn, deadline, .. } = session;
    // Local responses are complete when written.
    conn.finish();
    poll_fn(|cx| match conn.poll_flush(cx) {
        Poll::Ready(flushed) => Poll::Ready(flushed.is_ok()),
        Poll::Pending => deadline.poll_expired(cx).map(|()| false),
    })
    .await
}

/// Reads the rest of a body, and drops it. False if it did not arrive.
///
/// Waits for `[timeouts] head` altogether, as for the head that follows.
async fn drop_body(session: &mut Session, mut left: u64) -> bool {
    session.deadline.set(session.worker.snapshot.timeouts.head);
    let Session { conn, deadline, .. } = session;
    poll_fn(|cx| {
        loop {
            let here = conn.input.bytes().len();
            let dropped = usize::try_from(left).map_or(here, |left| left.min(here));
            conn.input.consume(dropped);
            left -= dropped as u64;
            if left == 0 {
                return Poll::Ready(true);
            }
            match conn.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return deadline.poll_expired(cx).map(|()| false),
            }
        }
    })
    .await
}
