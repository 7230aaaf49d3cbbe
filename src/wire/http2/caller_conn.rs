//! A caller's connection, on which it makes many requests at one time.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection, SendResponse};
use http::Response;
use tokio::io::ReadBuf;

use super::convert;
use super::frame_observer::FrameObserver;
use super::limits::{CONNECTION_WINDOW, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW};
use super::stream_content::{StreamContent, to_io_error};
use super::wire_state::WireState;
use crate::wire::Stream;
use crate::wire::head::{EndStream, HeadError, MAX_HEAD, RequestHead};

/// A caller's connection.
pub struct H2CallerConn {
    connection: Connection<FrameObserver, Bytes>,
    wire: Arc<WireState>,
}

/// A request that has come on it: its head, and the stream for its content and its answer.
pub struct IncomingRequest {
    head: http::request::Parts,
    /// No content follows.
    end_stream: EndStream,
    /// The stream.
    pub stream: CallerStream,
}

impl H2CallerConn {
    /// Exchanges the first words with a caller that speaks HTTP/2. It has no timeout of its own.
    ///
    /// # Errors
    /// If the caller does not keep to the protocol, or goes.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn handshake(stream: Stream) -> io::Result<H2CallerConn> {
        let (watch, wire) = FrameObserver::caller(stream);
        let mut settings = Builder::new();
        settings
            .initial_window_size(STREAM_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            // Larger ones are answered 431 by `h2`, far larger ones end the connection.
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER);
        let connection = settings.handshake(watch).await.map_err(to_io_error)?;
        Ok(H2CallerConn { connection, wire })
    }

    /// The next request. Must be polled for anything on the connection to move; `None` at its end.
    ///
    /// # Errors
    /// If the connection broke, or the caller does not keep to the protocol.
    pub fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<IncomingRequest>>> {
        let Some(accepted) = ready!(self.connection.poll_accept(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(accepted.map_err(to_io_error).map(|(request, respond)| {
            let (head, recv) = request.into_parts();
            let end_stream = EndStream::when(|| recv.is_end_stream());
            let mut data = StreamContent::default();
            data.set_recv(recv);
            IncomingRequest {
                head,
                end_stream,
                stream: CallerStream { respond, head: None, is_head_sent: false, content: data },
            }
        })))
    }

    /// Lets the caller send as much content at one time as the windows of all its streams hold. Before, it is what every
    /// connection begins with (65 535 bytes, RFC 9113 §6.9.2): unwanted content costs us no more.
    pub fn enlarge_window(&mut self) {
        self.connection.set_target_window_size(CONNECTION_WINDOW);
    }

    /// Takes no new requests; those that have come are served (GOAWAY, RFC 9113 §6.8).
    pub fn send_goaway(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Ends everything, because the caller makes more noise than is bearable.
    pub fn kick(&mut self) {
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    }

    /// The connection itself, when nothing more is said on it.
    pub fn into_stream(self) -> Option<Stream> {
        let H2CallerConn { connection, wire } = self;
        drop(connection);
        wire.take_stream()
    }

    /// How loud the caller has been: frames that carry neither a message nor room for one count 1, and those that make
    /// us work for nothing (resets, settings, continuations) 10.
    pub fn abuse_score(&self) -> u64 {
        self.wire.abuse_score()
    }
}

impl IncomingRequest {
    /// Puts the head into the form in which all heads are looked at. `default_scheme`: that of its connection, for a request that names none.
    ///
    /// # Errors
    /// Whatever of RFC 9113 §8.2 and §8.3 the frames below do not look at.
    pub fn read_head(&self, default_scheme: &str, into: &mut RequestHead) -> Result<(), HeadError> {
        convert::read_request(&self.head, self.end_stream, default_scheme, into)
    }
}

/// One request of a caller's, as a stream.
pub struct CallerStream {
    respond: SendResponse<Bytes>,
    /// Waits to be sent with what comes after it.
    head: Option<Response<()>>,
    is_head_sent: bool,
    content: StreamContent,
}

impl CallerStream {
    pub(in crate::wire) fn set_head(&mut self, head: Option<Response<()>>) {
        self.head = head;
    }

    pub(in crate::wire) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    pub(in crate::wire) fn is_head_sent(&self) -> bool {
        self.is_head_sent
    }

    pub(in crate::wire) fn send_interim(&mut self, head: Response<()>) -> io::Result<()> {
        self.respond.send_informational(head).map_err(to_io_error)
    }

    pub(in crate::wire) fn content(&mut self) -> &mut StreamContent {
        &mut self.content
    }

    /// Sends the head, if it waits.
    fn send_head(&mut self, end: EndStream) -> io::Result<()> {
        if let Some(head) = self.head.take() {
            let send = self.respond.send_response(head, end == EndStream::Yes).map_err(to_io_error)?;
            self.is_head_sent = true;
            self.content.set_send(send, end);
        }
        Ok(())
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

    pub(in crate::wire) fn flush(&mut self) -> io::Result<()> {
        self.send_head(EndStream::No)
    }

    pub(in crate::wire) fn end(&mut self) -> io::Result<()> {
        self.send_head(EndStream::when(|| !self.content.has_unsent_trailers()))?;
        self.content.end()
    }

    /// Ready when the caller has given the request up, or is gone.
    pub(in crate::wire) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_head_sent { self.content.poll_reset(cx) } else { self.respond.poll_reset(cx).map(drop) }
    }

    pub(in crate::wire) fn reset(&mut self) {
        if self.is_head_sent {
            self.content.reset(Reason::INTERNAL_ERROR);
        } else {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}
