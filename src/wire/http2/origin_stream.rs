//! HTTP/2 stream of one request to an origin.
//!
//! Life of a stream: idle with a promise of room, then handed to `h2` with its head, then answered.
//! A request that failed is told apart by one question: can the origin have acted on it?
//! [`StreamFailure`] and `is_head_sent` answer it, so that a request may be sent again without
//! harm.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::io::ReadBuf;

use super::convert;
use super::h2_conn_state::{HeadFlush, SettingsWait, StreamGuard};
use super::stream_content::{StreamContent, to_io_error};
use crate::time::Time;
use crate::wire::head::EndStream;
use crate::wire::response_head::{HeadLimits, ResponseHead};

/// Reason for a missing response on a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamFailure {
    /// The origin has not processed the request (REFUSED_STREAM, GOAWAY): any request can be sent
    /// again.
    #[error("the origin did not take the request")]
    Refused,
    /// The origin has not processed the request and wants HTTP/1.1 for it (HTTP_1_1_REQUIRED, RFC
    /// 9113 §7).
    #[error("the origin wants HTTP/1.1")]
    Http11Required,
    /// The connection ended, with the error of its transport if there was one.
    #[error("the connection ended")]
    ConnectionLost(Option<Arc<io::Error>>),
    /// The origin reset the stream.
    #[error("the origin gave the request up")]
    Reset,
    /// The origin violates the protocol.
    #[error("the origin does not keep to HTTP/2")]
    ProtocolViolation,
}

/// Kind of a received response head.
pub enum ResponseKind {
    /// Interim response (1xx); the final one follows.
    Interim,
    /// Final response.
    Final,
}

/// HTTP/2 stream of a request to an origin.
pub struct OriginStream {
    /// Progress of the request head.
    stage: RequestStage,
    /// Request head that waits for the next write.
    head: Option<Request<()>>,
    content: StreamContent,
    /// One of the connection's streams, counted until the drop.
    guard: StreamGuard,
    /// True if its connection has carried a request before.
    reused: bool,
}

enum RequestStage {
    /// Nothing sent yet.
    Idle(SendRequest<Bytes>),
    /// Handed to `h2`.
    Sent { answer: ResponseFuture, stream: u32 },
    /// Rejected by the connection.
    Failed,
}

impl OriginStream {
    /// Stream without a request.
    pub(super) fn new(send: SendRequest<Bytes>, guard: StreamGuard) -> OriginStream {
        let reused = guard.0.is_used();
        let content = StreamContent::new(guard.0.stream_meter());
        OriginStream { stage: RequestStage::Idle(send), head: None, content, guard, reused }
    }

    /// True if its connection has carried a request before.
    ///
    /// A failure on a fresh connection speaks against the origin; on a reused one, it may be an
    /// idle timeout that crossed the request.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Handle to wait for the origin's settings, before which its connection cannot be shared.
    ///
    /// With a fresh connection only one stream can be opened before the settings have come.
    pub fn settings(&self) -> SettingsWait {
        self.guard.0.settings()
    }

    /// True if a request can still be sent on it.
    pub fn is_usable(&mut self) -> bool {
        match &mut self.stage {
            RequestStage::Idle(send) => self.guard.0.is_ready(send) && self.guard.0.is_still_ready(),
            RequestStage::Sent { .. } | RequestStage::Failed => false,
        }
    }

    /// Marks the connection as suspect, since the request had no answer in time: it takes no more
    /// until a PING is answered.
    pub fn mark_suspect(&self, now: Time) {
        self.guard.0.mark_suspect(now);
    }

    pub(in crate::wire) fn set_head(&mut self, head: Option<Request<()>>) {
        self.head = head;
    }

    pub(in crate::wire) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// True if any part of the request was sent or may still be: `h2` writes a head that it has
    /// taken as soon as there is room, even if the stream is dropped.
    pub(in crate::wire) fn is_head_sent(&self) -> bool {
        match &self.stage {
            RequestStage::Idle(_) | RequestStage::Failed => false,
            RequestStage::Sent { stream, .. } => self.guard.0.wire.may_be_sent(*stream),
        }
    }

    /// Handle to wait until the head is sent; `None` before `h2` has taken it.
    pub fn head_flush(&self) -> Option<HeadFlush> {
        match &self.stage {
            RequestStage::Idle(_) | RequestStage::Failed => None,
            RequestStage::Sent { stream, .. } => Some(self.guard.0.head_flush(*stream)),
        }
    }

    pub(in crate::wire) fn content(&mut self) -> &mut StreamContent {
        &mut self.content
    }

    /// Hands the head to `h2`; with [`EndStream::Yes`] nothing follows it.
    ///
    /// The connection is retired if `h2` takes no request.
    ///
    /// # Errors
    /// Those of the connection. Nothing was sent then, and the stream is of no use any more.
    pub(in crate::wire) fn send_head(&mut self, end: EndStream) -> io::Result<()> {
        let Some(head) = self.head.take() else { return Ok(()) };
        let RequestStage::Idle(mut send) = std::mem::replace(&mut self.stage, RequestStage::Failed) else {
            return Ok(());
        };
        let sent = send.send_request(head, end == EndStream::Yes).inspect_err(|_| self.guard.0.retire());
        let (answer, stream) = sent.map_err(to_io_error)?;
        self.guard.0.set_used();
        self.stage = RequestStage::Sent { stream: stream.stream_id().as_u32(), answer };
        self.content.set_send(stream, end);
        Ok(())
    }

    /// Ready when the head is sent.
    ///
    /// # Errors
    /// `BrokenPipe` if no head was handed over, or if the connection ended before the head was
    /// sent.
    pub(in crate::wire) fn poll_head_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stage {
            RequestStage::Sent { stream, .. } => self.guard.0.wire.poll_head_sent(*stream, cx),
            RequestStage::Idle(_) | RequestStage::Failed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Receives the next response head into `into`.
    ///
    /// Interim responses come first, one a call; the final one ends the wait. After
    /// [`ResponseKind::Final`] the content can be read.
    ///
    /// # Errors
    /// See [`StreamFailure`].
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        limits: HeadLimits,
        into: &mut ResponseHead,
    ) -> Poll<Result<ResponseKind, StreamFailure>> {
        let RequestStage::Sent { answer, .. } = &mut self.stage else {
            return Poll::Ready(Err(self.connection_lost()));
        };
        if let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
            convert::read_response(&interim.into_parts().0, EndStream::No, limits, into)
                .map_err(|_| StreamFailure::ProtocolViolation)?;
            return Poll::Ready(Ok(ResponseKind::Interim));
        }
        match ready!(Pin::new(answer).poll(cx)) {
            Ok(response) => {
                let (head, recv) = response.into_parts();
                let end = EndStream::when(|| recv.is_end_stream());
                convert::read_response(&head, end, limits, into).map_err(|_| StreamFailure::ProtocolViolation)?;
                self.content.set_recv(recv);
                Poll::Ready(Ok(ResponseKind::Final))
            }
            Err(error) => Poll::Ready(Err(self.failure(&error))),
        }
    }

    /// Decides in this order: a reset by the origin, a first frame that was not SETTINGS, a GOAWAY that excludes the stream, the end of
    /// the connection; all the rest is a violation of the protocol.
    fn failure(&self, error: &h2::Error) -> StreamFailure {
        let RequestStage::Sent { stream, .. } = &self.stage else { return self.connection_lost() };
        if error.is_remote() && error.is_reset() {
            return match error.reason() {
                Some(Reason::REFUSED_STREAM) => StreamFailure::Refused,
                Some(Reason::HTTP_1_1_REQUIRED) => StreamFailure::Http11Required,
                _ => StreamFailure::Reset,
            };
        }
        if self.guard.0.wire.begins_wrongly() {
            return StreamFailure::ProtocolViolation;
        }
        if self.guard.0.wire.is_unprocessed(*stream) {
            return StreamFailure::Refused;
        }
        if error.is_io() || error.is_go_away() && error.is_remote() {
            return self.connection_lost();
        }
        StreamFailure::ProtocolViolation
    }

    /// With the transport's error, if the observer saw one.
    fn connection_lost(&self) -> StreamFailure {
        StreamFailure::ConnectionLost(self.guard.0.wire.failure())
    }

    pub(in crate::wire) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.content.poll_read(cx, into)
    }

    pub(in crate::wire) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        end: EndStream,
    ) -> Poll<io::Result<usize>> {
        self.send_head(EndStream::No)?;
        self.content.poll_write(cx, data, end)
    }

    pub(in crate::wire) fn end(&mut self) -> io::Result<()> {
        self.send_head(EndStream::when(|| !self.content.has_unsent_trailers()))?;
        self.content.end()
    }

    pub(in crate::wire) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.content.poll_reset(cx)
    }

    /// Resets with CANCEL: the response is no longer wanted (RFC 9113 §7).
    pub(in crate::wire) fn reset(&mut self) {
        self.content.reset(Reason::CANCEL);
    }
}
