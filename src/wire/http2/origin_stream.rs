//! One request to an origin that speaks HTTP/2, as a stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::io::ReadBuf;

use super::data::{Data, broken};
use super::link_state::{Departure, PeerSettings, Place};
use super::message;
use crate::time::Time;
use crate::wire::head::ResponseHead;

/// Why there is no answer on a stream.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    /// The origin has not looked at the request, and says so: it can be sent again, whatever it is.
    #[error("the origin did not take the request")]
    Untaken,
    /// It wants HTTP/1.1 for this (RFC 9113 §7), and has not looked at it either.
    #[error("the origin wants HTTP/1.1")]
    WantsHttp1,
    /// The connection is gone, perhaps by a fault of what lies beneath it.
    #[error("the connection ended")]
    Lost(Option<Arc<io::Error>>),
    /// It gave the request up.
    #[error("the origin gave the request up")]
    Reset,
    /// It does not keep to the protocol.
    #[error("the origin does not keep to HTTP/2")]
    Broken,
}

/// What an origin has said.
pub enum Reply {
    /// An interim response (1xx); the final one is still to come.
    Interim,
    /// The final response.
    Final,
}

/// A request to an origin, as a stream.
pub struct OriginStream {
    stage: Stage,
    /// Waits to be sent with what comes after it.
    head: Option<Request<()>>,
    data: Data,
    place: Place,
    /// Its connection has carried a request before.
    reused: bool,
}

enum Stage {
    /// Nothing has been asked.
    Idle(SendRequest<Bytes>),
    /// The request is on its way, or further.
    Asked { answer: ResponseFuture, stream: u32 },
    /// The connection would not take it.
    Failed,
}

impl OriginStream {
    /// A stream on which nothing has been asked.
    pub(super) fn new(send: SendRequest<Bytes>, place: Place) -> OriginStream {
        let reused = place.0.was_used();
        OriginStream { stage: Stage::Idle(send), head: None, data: Data::default(), place, reused }
    }

    /// Whether its connection has carried a request before.
    pub fn was_used(&self) -> bool {
        self.reused
    }

    /// The settings of the origin, before which its connection cannot be shared.
    pub fn settings(&self) -> PeerSettings {
        self.place.0.settings()
    }

    /// Whether a request can still be sent on it.
    pub fn is_good(&mut self) -> bool {
        match &mut self.stage {
            Stage::Idle(send) => self.place.0.is_ready(send) && self.place.0.is_trusted(),
            Stage::Asked { .. } | Stage::Failed => false,
        }
    }

    /// Its request had no answer in time: its connection takes no more of them until the origin has answered a PING.
    pub fn doubt(&self, now: Time) {
        self.place.0.doubt(now);
    }

    pub(in crate::wire) fn set_head(&mut self, head: Option<Request<()>>) {
        self.head = head;
    }

    pub(in crate::wire) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Whether anything of the request has left or may still leave: what `h2` was given it writes as soon as there is room,
    /// also if the stream is dropped before.
    pub(in crate::wire) fn has_departed(&self) -> bool {
        match &self.stage {
            Stage::Idle(_) | Stage::Failed => false,
            Stage::Asked { stream, .. } => self.place.0.seen.may_leave(*stream),
        }
    }

    /// The way of the request's head, once it cannot be taken back.
    pub fn departure(&self) -> Option<Departure> {
        match &self.stage {
            Stage::Idle(_) | Stage::Failed => None,
            Stage::Asked { stream, .. } => Some(self.place.0.departure(*stream)),
        }
    }

    pub(in crate::wire) fn data(&mut self) -> &mut Data {
        &mut self.data
    }

    /// Hands the head to the connection; `is_all`: nothing comes after it.
    pub(in crate::wire) fn depart(&mut self, is_all: bool) -> io::Result<()> {
        let Some(head) = self.head.take() else { return Ok(()) };
        let Stage::Idle(mut send) = std::mem::replace(&mut self.stage, Stage::Failed) else { return Ok(()) };
        let sent = send.send_request(head, is_all).inspect_err(|_| self.place.0.retire());
        let (answer, stream) = sent.map_err(broken)?;
        self.place.0.set_used();
        self.stage = Stage::Asked { stream: stream.stream_id().as_u32(), answer };
        self.data.may_send(stream, is_all);
        Ok(())
    }

    /// Ready when the head is out.
    pub(in crate::wire) fn poll_departed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stage {
            Stage::Asked { stream, .. } => self.place.0.seen.poll_departed(*stream, cx),
            Stage::Idle(_) | Stage::Failed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// The next response head, into `into`.
    ///
    /// # Errors
    /// See [`Silence`].
    pub fn poll_reply(&mut self, cx: &mut Context<'_>, into: &mut ResponseHead) -> Poll<Result<Reply, Silence>> {
        let Stage::Asked { answer, .. } = &mut self.stage else { return Poll::Ready(Err(self.lost())) };
        if let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
            message::read_response(&interim.into_parts().0, false, into).map_err(|_| Silence::Broken)?;
            return Poll::Ready(Ok(Reply::Interim));
        }
        match ready!(Pin::new(answer).poll(cx)) {
            Ok(response) => {
                let (head, recv) = response.into_parts();
                message::read_response(&head, recv.is_end_stream(), into).map_err(|_| Silence::Broken)?;
                self.data.receive(recv);
                Poll::Ready(Ok(Reply::Final))
            }
            Err(error) => Poll::Ready(Err(self.silence(&error))),
        }
    }

    fn silence(&self, error: &h2::Error) -> Silence {
        let Stage::Asked { stream, .. } = &self.stage else { return self.lost() };
        if error.is_remote() && error.is_reset() {
            return match error.reason() {
                Some(Reason::REFUSED_STREAM) => Silence::Untaken,
                Some(Reason::HTTP_1_1_REQUIRED) => Silence::WantsHttp1,
                _ => Silence::Reset,
            };
        }
        if self.place.0.seen.is_left_undone(*stream) {
            return Silence::Untaken;
        }
        if error.is_io() || error.is_go_away() && error.is_remote() {
            return self.lost();
        }
        Silence::Broken
    }

    fn lost(&self) -> Silence {
        Silence::Lost(self.place.0.seen.failure())
    }

    pub(in crate::wire) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.data.poll_read(cx, into)
    }

    pub(in crate::wire) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        is_all: bool,
    ) -> Poll<io::Result<usize>> {
        self.depart(false)?;
        self.data.poll_write(cx, data, is_all)
    }

    pub(in crate::wire) fn end(&mut self) -> io::Result<()> {
        let is_all = !self.data.has_trailers();
        self.depart(is_all)?;
        self.data.end()
    }

    pub(in crate::wire) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.data.poll_reset(cx)
    }

    pub(in crate::wire) fn reset(&mut self) {
        self.data.reset(Reason::CANCEL);
    }
}
