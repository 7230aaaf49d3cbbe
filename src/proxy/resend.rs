//! Writing of a request to its connection, for the first time or again.

use super::body::{Body, Replay};
use super::outcome::Failure;
use super::plan::Plan;
use super::refusal::Refusal;
use super::send::OriginConn;
use super::serialize;
use super::session::Session;
use crate::wire::Version;

/// Part of the request's body that is written again.
pub(super) enum Resend {
    /// The whole body, because it was sent before.
    Whole(Replay),
    /// Content that was queued and not sent, framed for that version.
    Unsent(Vec<u8>, Version),
}

impl Resend {
    /// Content that a connection did not send. Without the head, which depends on the connection: on its version,
    /// and on the way, since a parent proxy may have it in absolute form, with credentials of its own.
    pub(super) fn unsent(ready: &mut OriginConn) -> Resend {
        let version = ready.conn.version();
        let mut bytes = ready.conn.take_unsent();
        if version == Version::Http11 {
            let end = memchr::memmem::find(&bytes, b"\r\n\r\n").map_or(bytes.len(), |end| end + 4);
            bytes.drain(..end);
        }
        Resend::Unsent(bytes, version)
    }
}

/// Writes the request to the connection's buffer, with as much of its body as has been read.
///
/// # Errors
/// - 400 if the chunks of the buffered content are malformed, or HTTP/2 cannot carry the target.
/// - 502 if content that was read is framed for another version than the connection speaks.
pub(super) fn write(
    session: &mut Session,
    plan: &Plan,
    body: &mut Body,
    resend: Option<&Resend>,
    ready: &mut OriginConn,
) -> Result<(), Failure> {
    let forward = ready.forward.as_deref();
    let conn = &mut ready.conn;
    let version = conn.version();
    let framed = plan.outgoing.length.written_to(version);
    body.reframe(framed);
    match resend {
        Some(Resend::Unsent(_, before)) if *before != version && body.moved > 0 => {
            // The part of the body that was read is framed for a version that the origin has stopped speaking.
            return Err(Refusal::ConnectionTerminated.into());
        }
        Some(Resend::Unsent(bytes, before)) => {
            serialize::buffer_request(&session.head, &plan.target, plan.outgoing, forward, conn)?;
            if *before == version {
                conn.out().extend_from_slice(bytes);
            }
        }
        Some(Resend::Whole(kept)) => {
            serialize::buffer_request(&session.head, &plan.target, plan.outgoing, forward, conn)?;
            kept.write(framed, conn);
        }
        None => serialize::buffer_request(&session.head, &plan.target, plan.outgoing, forward, conn)?,
    }
    let gathered = body.gather(&mut session.conn, conn);
    gathered.map_err(|_| Refusal::Malformed("the request's chunks are malformed").into())
}

/// True if the whole body is buffered; it is then kept for the next sending.
///
/// A body that was kept once stays kept: it is not copied again while it is sent again.
pub(super) fn can_repeat(resend: &mut Option<Resend>, body: &mut Body) -> bool {
    if !matches!(resend, Some(Resend::Whole(_))) {
        *resend = body.take_replay().map(Resend::Whole);
    }
    resend.is_some()
}
