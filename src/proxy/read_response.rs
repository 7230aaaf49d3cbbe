//! Reader of an origin's response head; forwards the interim responses before it.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use super::body::{Body, BodyError};
use super::header_rules;
use super::outcome::Failure;
use super::refusal::Refusal;
use super::send::OriginConn;
use super::serialize;
use super::session::Session;
use super::timeouts::RequestTimeouts;
use crate::tls::verify::late_rejection;
use crate::wire::http2::{self, ResponseKind};
use crate::wire::response_head::may_be_complete;
use crate::wire::{Conn, HeadError, HeadLimits, ResponseHead, Version};

/// Most interim (1xx) responses forwarded for one request; real servers send a few, and each costs the caller work.
const MAX_INTERIM: u32 = 64;

/// Reason for a missing response.
pub(super) enum NoResponse {
    /// The connection ended before a byte of a response: the request may be sent again if it is idempotent.
    ConnectionLost,
    /// The origin said that it did not process the request: any request may be sent again.
    RefusedStream,
    /// The same, and the origin requires HTTP/1.1 for it.
    WantsHttp1,
    /// The exchange has failed.
    Ended(Failure),
}

impl From<Refusal> for NoResponse {
    fn from(refusal: Refusal) -> NoResponse {
        NoResponse::Ended(Failure::Refused(refusal))
    }
}

impl From<http2::StreamFailure> for NoResponse {
    fn from(failure: http2::StreamFailure) -> NoResponse {
        match failure {
            http2::StreamFailure::Refused => NoResponse::RefusedStream,
            http2::StreamFailure::Http11Required => NoResponse::WantsHttp1,
            http2::StreamFailure::ConnectionLost(failure) => {
                failure.and_then(|error| of_tls_alert(&error)).unwrap_or(NoResponse::ConnectionLost)
            }
            http2::StreamFailure::Reset => Refusal::ConnectionTerminated.into(),
            http2::StreamFailure::ProtocolViolation => Refusal::ProtocolError("it violates HTTP/2").into(),
        }
    }
}

/// Failure behind a read error: the origin has rejected our certificate after the handshake.
fn of_tls_alert(error: &io::Error) -> Option<NoResponse> {
    let error = late_rejection(error)?;
    Some(Refusal::TlsError(error.to_string()).into())
}

/// Reads the origin's final response head into the session; sends the rest of the request's body meanwhile and forwards
/// interim responses (RFC 9110 §15.2). Sets the deadline to the timeouts of the content and of the response.
///
/// # Errors
/// See [`NoResponse`].
pub(super) async fn read_response(
    session: &mut Session,
    ready: &mut OriginConn,
    body: &mut Body,
    timeouts: &RequestTimeouts,
) -> Result<(), NoResponse> {
    let version = session.head.version();
    let limits = session.worker.snapshot.pool.response_head;
    ready.conn.input.allow(limits.bytes);
    let Session { conn, deadline, response, .. } = session;
    let mut reader = HeadReader { seen: 0, interim: 0, version, limits };
    let (mut sending, mut moved) = (!body.has_ended() || ready.conn.has_pending(), body.moved);
    if sending {
        deadline.arm(&timeouts.body_idle);
    }
    poll_fn(|cx| {
        if sending {
            match body.poll_move(cx, conn, &mut ready.conn) {
                Poll::Ready(Ok(())) => {
                    sending = false;
                    deadline.arm(&timeouts.answer);
                }
                // The origin may have answered before it stopped reading.
                Poll::Ready(Err(BodyError::Sink(_))) => sending = false,
                Poll::Ready(Err(BodyError::Source(_))) => {
                    return Poll::Ready(Err(NoResponse::Ended(Failure::CallerGone)));
                }
                Poll::Ready(Err(BodyError::Malformed(error))) => {
                    return Poll::Ready(Err(Refusal::Malformed(error.0).into()));
                }
                Poll::Pending if body.moved != moved => {
                    moved = body.moved;
                    deadline.arm(&timeouts.body_idle);
                }
                Poll::Pending => {}
            }
        }
        // Polled after the content, whatever came of it: the end of the caller's connection must wake this task from now
        // on.
        if conn.stream.poll_hangup(cx).is_ready() {
            return Poll::Ready(Err(NoResponse::Ended(Failure::CallerGone)));
        }
        if let Poll::Ready(read) = reader.poll(cx, &mut ready.conn, response, conn) {
            return Poll::Ready(read);
        }
        // The caller is late, not the origin, if content is missing and none waits for the origin.
        let stalled = sending && !ready.conn.has_pending();
        let late = || if stalled { Refusal::BodyTimeout } else { Refusal::AnswerTimeout };
        deadline.poll_expired(cx).map(|()| Err(late().into()))
    })
    .await
}

/// Progress in reading one final head.
struct HeadReader {
    /// Number of bytes of the input that were parsed already.
    seen: usize,
    /// Number of interim responses so far.
    interim: u32,
    /// Version that the caller speaks.
    version: Version,
    limits: HeadLimits,
}

impl HeadReader {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        origin: &mut Conn,
        response: &mut ResponseHead,
        caller: &mut Conn,
    ) -> Poll<Result<(), NoResponse>> {
        loop {
            if caller.has_pending()
                && caller.poll_flush(cx).map_err(|_| NoResponse::Ended(Failure::CallerGone))?.is_pending()
            {
                return Poll::Pending;
            }
            if let Some(stream) = origin.stream.as_origin() {
                match ready!(stream.poll_response(cx, self.limits, response)) {
                    Ok(ResponseKind::Final) => return Poll::Ready(Ok(())),
                    Ok(ResponseKind::Interim) => drop(self.is_interim(response, Version::Http2, caller)?),
                    Err(failure) => return Poll::Ready(Err(failure.into())),
                }
                continue;
            }
            let input = origin.input.bytes();
            if !input.is_empty() && may_be_complete(input, self.seen, self.limits) {
                match response.read(input, self.limits) {
                    // HTTP/2 has no Connection field (RFC 9113 §8.2.2).
                    Ok(Some(_)) if header_rules::has_too_many_options(response) => {
                        let why = "its Connection has too many members";
                        return Poll::Ready(Err(Refusal::ProtocolError(why).into()));
                    }
                    Ok(Some(length)) => {
                        origin.input.consume(length);
                        self.seen = 0;
                        if !self.is_interim(response, Version::Http11, caller)? {
                            return Poll::Ready(Ok(()));
                        }
                        continue;
                    }
                    Ok(None) => {}
                    Err(HeadError::Malformed(what)) => return Poll::Ready(Err(Refusal::ProtocolError(what).into())),
                    Err(HeadError::TooLarge | HeadError::LineTooLong) => {
                        return Poll::Ready(Err(Refusal::ProtocolError("its head is too large").into()));
                    }
                    Err(HeadError::Version) => {
                        return Poll::Ready(Err(Refusal::ProtocolError("it does not speak HTTP/1").into()));
                    }
                }
            }
            self.seen = origin.input.bytes().len();
            match origin.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.lost())),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(of_tls_alert(&error).unwrap_or_else(|| self.lost())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Meaning of the end of the connection: it depends on the bytes received before.
    fn lost(&self) -> NoResponse {
        if self.seen == 0 && self.interim == 0 {
            NoResponse::ConnectionLost
        } else {
            Refusal::ConnectionTerminated.into()
        }
    }

    /// Forwards an interim response, except to a caller that would take it for the final one. True if it was one.
    /// `origin`: version that it came by.
    ///
    /// HTTP/1.0 knows none. Many clients of HTTP/1.1 know only 100; servers spare them 103 (RFC 8297 §3), and send it by
    /// HTTP/2, which such a client would not have spoken without the gateway. RFC 8297 §2 lets a proxy drop it.
    fn is_interim(&mut self, response: &ResponseHead, origin: Version, caller: &mut Conn) -> Result<bool, NoResponse> {
        if response.status() >= 200 || response.status() == 101 {
            return Ok(false);
        }
        self.interim += 1;
        if self.interim > MAX_INTERIM {
            return Err(Refusal::ProtocolError("it sends too many interim responses").into());
        }
        let is_understood = match self.version {
            Version::Http10 => false,
            Version::Http11 => origin <= Version::Http11 || response.status() == 100,
            Version::Http2 => true,
        };
        if is_understood {
            serialize::send_interim(response, self.version, caller)
                .map_err(|_| NoResponse::Ended(Failure::CallerGone))?;
        }
        Ok(true)
    }
}
