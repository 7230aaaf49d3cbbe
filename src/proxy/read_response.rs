//! Waiting for the origin's answer: its head, with what comes before it.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use super::body::{Body, BodyError};
use super::connection::Caller;
use super::exchange::End;
use super::header_rules;
use super::refusal::Refusal;
use super::send::Ready;
use super::serialize;
use crate::tls::verify::late_rejection;
use crate::wire::head::may_be_complete;
use crate::wire::http2::{self, ResponseKind};
use crate::wire::{Conn, HeadError, ResponseHead, Version};

/// How many interim (1xx) responses are passed on; more of them are an attack on the caller's patience.
const MAX_INTERIM: u32 = 64;

/// Why there is no answer.
pub(super) enum Silence {
    /// The connection ended before a byte of an answer: the request may be sent again if it is safe to.
    Lost,
    /// The origin has not looked at the request, and says so: it may be sent again, whatever it is.
    Untaken,
    /// It has not, and wants HTTP/1.1 for it.
    WantsHttp1,
    /// The exchange ends.
    End(End),
}

impl From<Refusal> for Silence {
    fn from(refusal: Refusal) -> Silence {
        Silence::End(End::Refused(refusal))
    }
}

impl From<http2::StreamFailure> for Silence {
    fn from(silence: http2::StreamFailure) -> Silence {
        match silence {
            http2::StreamFailure::Refused => Silence::Untaken,
            http2::StreamFailure::Http11Required => Silence::WantsHttp1,
            http2::StreamFailure::ConnectionLost(failure) => {
                failure.and_then(|error| of_tls(&error)).unwrap_or(Silence::Lost)
            }
            http2::StreamFailure::Reset => Refusal::ConnectionTerminated.into(),
            http2::StreamFailure::ProtocolViolation => Refusal::ProtocolError("it does not keep to HTTP/2").into(),
        }
    }
}

/// What a failed read says, if the origin has refused our certificate after its handshake.
fn of_tls(error: &io::Error) -> Option<Silence> {
    let error = late_rejection(error)?;
    Some(Refusal::TlsError(error.to_string()).into())
}

/// Reads the origin's final response head into `caller.response`, sending the rest of the request's body meanwhile
/// and passing interim responses on (RFC 9110 §15.2). The alarm is set to the time that the origin has.
///
/// # Errors
/// See [`Silence`].
pub(super) async fn answer(caller: &mut Caller, ready: &mut Ready, body: &mut Body) -> Result<(), Silence> {
    let timeouts = &caller.worker.proxy.timeouts;
    let (answer, idle) = (timeouts.answer, timeouts.idle);
    let version = caller.head.version();
    let Caller { conn, alarm, response, .. } = caller;
    let mut reader = Reader { seen: 0, interim: 0, version };
    let (mut sending, mut moved) = (!body.has_ended() || ready.conn.has_pending(), body.moved);
    if sending {
        alarm.set(idle);
    }
    poll_fn(|cx| {
        if sending {
            match body.poll_move(cx, conn, &mut ready.conn) {
                Poll::Ready(Ok(())) => {
                    sending = false;
                    alarm.set(answer);
                }
                // The origin may have answered before it stopped reading.
                Poll::Ready(Err(BodyError::Sink(_))) => sending = false,
                Poll::Ready(Err(BodyError::Source(_))) => return Poll::Ready(Err(Silence::End(End::Left))),
                Poll::Ready(Err(BodyError::Malformed(error))) => {
                    return Poll::Ready(Err(Refusal::Malformed(error.0).into()));
                }
                Poll::Pending if body.moved != moved => {
                    moved = body.moved;
                    alarm.set(idle);
                }
                Poll::Pending => {}
            }
        }
        // After the content was looked at: whatever became of it, the caller's end must wake us from here on.
        if conn.stream.poll_hangup(cx).is_ready() {
            return Poll::Ready(Err(Silence::End(End::Left)));
        }
        if let Poll::Ready(read) = reader.poll(cx, &mut ready.conn, response, conn) {
            return Poll::Ready(read);
        }
        // Content that is still to come and does not wait for the origin is the caller's to send.
        let stalled = sending && !ready.conn.has_pending();
        let late = || if stalled { Refusal::BodyTimeout } else { Refusal::AnswerTimeout };
        alarm.poll_expired(cx).map(|()| Err(late().into()))
    })
    .await
}

struct Reader {
    /// How much of the input was looked at already.
    seen: usize,
    interim: u32,
    version: Version,
}

impl Reader {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        origin: &mut Conn,
        response: &mut ResponseHead,
        caller: &mut Conn,
    ) -> Poll<Result<(), Silence>> {
        loop {
            if caller.has_pending() && caller.poll_flush(cx).map_err(|_| Silence::End(End::Left))?.is_pending() {
                return Poll::Pending;
            }
            if let Some(stream) = origin.stream.as_origin() {
                match ready!(stream.poll_response(cx, response)) {
                    Ok(ResponseKind::Final) => return Poll::Ready(Ok(())),
                    Ok(ResponseKind::Interim) => drop(self.is_interim(response, caller)?),
                    Err(silence) => return Poll::Ready(Err(silence.into())),
                }
                continue;
            }
            let input = origin.input.bytes();
            if !input.is_empty() && may_be_complete(input, self.seen) {
                match response.read(input) {
                    // HTTP/2 has no such field (RFC 9113 §8.2.2).
                    Ok(Some(_)) if header_rules::has_too_many_options(response) => {
                        let why = "its Connection has more members than make sense";
                        return Poll::Ready(Err(Refusal::ProtocolError(why).into()));
                    }
                    Ok(Some(length)) => {
                        origin.input.consume(length);
                        self.seen = 0;
                        if !self.is_interim(response, caller)? {
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
                Poll::Ready(Err(error)) => return Poll::Ready(Err(of_tls(&error).unwrap_or_else(|| self.lost()))),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What the end of the connection means, by what has come before it.
    fn lost(&self) -> Silence {
        if self.seen == 0 && self.interim == 0 { Silence::Lost } else { Refusal::ConnectionTerminated.into() }
    }

    /// Passes an interim response on, but to a caller that would take it for the final one (HTTP/1.0).
    fn is_interim(&mut self, response: &ResponseHead, caller: &mut Conn) -> Result<bool, Silence> {
        if response.status() >= 200 || response.status() == 101 {
            return Ok(false);
        }
        self.interim += 1;
        if self.interim > MAX_INTERIM {
            return Err(Refusal::ProtocolError("it sends interim responses without end").into());
        }
        if self.version > Version::Http10 {
            serialize::send_interim(response, self.version, caller).map_err(|_| Silence::End(End::Left))?;
        }
        Ok(true)
    }
}
