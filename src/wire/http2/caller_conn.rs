//! HTTP/2 connection of a caller (server side), with many requests at a time.
//!
//! One owner polls the connection for requests; each request is served through its
//! [`CallerStream`]. Polling for the next request also moves the frames of all running ones, so it
//! must go on until the last response has left.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason};
use http::Response;
use tokio::io::ReadBuf;

use super::convert;
use super::frame_observer::FrameObserver;
use super::limits::{CONNECTION_WINDOW, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW};
use super::lower_stream::{LowerStream, Released};
use super::stream_content::{StreamContent, to_io_error};
use super::window_growth::{PingPolicy, StreamMeter, WindowGrowth};
use super::wire_state::WireState;
use crate::wire::head::{EndStream, HeadError, MAX_HEAD, RequestHead};

/// HTTP/2 connection of a caller.
pub struct H2CallerConn<S: LowerStream> {
    /// Server side of `h2`, over the observed stream.
    connection: Connection<FrameObserver<S>, Bytes>,
    /// Findings of the observer; here the abuse score.
    wire: Arc<WireState>,
    /// Windows of the streams.
    windows: WindowGrowth,
    /// PING of `h2`, by which round trips are measured.
    ping: Option<PingPong>,
    /// True while a PING is unanswered.
    is_pinged: bool,
    /// Place of the stream after the connection.
    released: Released<S>,
}

/// Reason for which a connection is ended at once (RFC 9113 §7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KickReason {
    /// Too many frames that cause work for nothing (ENHANCE_YOUR_CALM).
    Abuse,
    /// A violation that `h2` does not see (PROTOCOL_ERROR).
    Violation,
}

/// Request of a caller: its head, and the stream for its content and its response.
pub struct IncomingRequest {
    /// Pseudo-header fields and fields, as `h2` has decoded them.
    head: http::request::Parts,
    /// `Yes` if no content follows.
    end_stream: EndStream,
    /// Stream of the request.
    pub stream: CallerStream,
}

impl<S: LowerStream> H2CallerConn<S> {
    /// Performs the HTTP/2 handshake (preface and SETTINGS). It has no timeout of its own.
    ///
    /// # Errors
    /// If the caller violates the protocol, or closes the connection.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn handshake(stream: S) -> io::Result<H2CallerConn<S>> {
        let observer = FrameObserver::caller(stream);
        let (wire, released) = (observer.wire(), observer.released());
        let mut settings = Builder::new();
        settings
            .initial_window_size(STREAM_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            // Larger heads are answered 431 by `h2`, far larger ones end the connection.
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER);
        let mut connection = settings.handshake(observer).await.map_err(to_io_error)?;
        let (ping, windows) = (connection.ping_pong(), WindowGrowth::new(Arc::clone(&wire), PingPolicy::Patient));
        Ok(H2CallerConn { connection, wire, windows, ping, is_pinged: false, released })
    }

    /// The next request; `None` at the end of the connection. Must be polled for any progress on
    /// the connection.
    ///
    /// # Errors
    /// If the connection broke, or the caller violates the protocol.
    ///
    /// # Cancel safety
    /// A pending call has taken no request.
    pub fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<IncomingRequest>>> {
        // Before the poll that sends what is announced here.
        self.adapt_windows(cx);
        let Some(accepted) = ready!(self.connection.poll_accept(cx)) else { return Poll::Ready(None) };
        let meter = self.windows.meter();
        Poll::Ready(Some(accepted.map_err(to_io_error).map(|(request, respond)| {
            let (head, recv) = request.into_parts();
            let end_stream = EndStream::when(|| recv.is_end_stream());
            let mut data = StreamContent::new(StreamMeter::new(&meter));
            data.set_recv(recv);
            IncomingRequest {
                head,
                end_stream,
                stream: CallerStream { respond, head: None, is_head_sent: false, is_tunnel: false, content: data },
            }
        })))
    }

    /// Widens the streams' windows by what was consumed within a round trip, and narrows them for
    /// more streams.
    fn adapt_windows(&mut self, cx: &mut Context<'_>) {
        let H2CallerConn { connection, windows, ping: Some(ping), is_pinged, .. } = self else { return };
        windows.narrow(cx, |window| connection.set_initial_window_size(window).is_ok());
        if *is_pinged && let Poll::Ready(pong) = ping.poll_pong(cx) {
            *is_pinged = false;
            if pong.is_ok() {
                windows.on_pong(|window| connection.set_initial_window_size(window).is_ok());
            }
        }
        if !*is_pinged && windows.poll_measure(cx).is_ready() {
            *is_pinged = ping.send_ping(Ping::opaque()).is_ok();
        }
    }

    /// Raises the connection's window to the sum of all streams' windows. Before that it is the
    /// initial one of 65 535 bytes (RFC 9113 §6.9.2), so that unwanted content costs no more
    /// memory.
    ///
    /// Called after the first admission of a request; a stream's window is 64 KiB at first.
    pub fn enlarge_window(&mut self) {
        self.connection.set_target_window_size(CONNECTION_WINDOW);
    }

    /// Accepts no new requests; requests that have arrived are served (GOAWAY, RFC 9113 §6.8).
    pub fn send_goaway(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Ends the connection at once.
    ///
    /// Running requests end with the connection.
    pub fn kick(&mut self, reason: KickReason) {
        self.connection.abrupt_shutdown(match reason {
            KickReason::Abuse => Reason::ENHANCE_YOUR_CALM,
            KickReason::Violation => Reason::PROTOCOL_ERROR,
        });
    }

    /// True if the caller's first frame was not SETTINGS (RFC 9113 §3.4).
    pub fn begins_wrongly(&self) -> bool {
        self.wire.begins_wrongly()
    }

    /// Stream beneath the connection, once HTTP/2 is over.
    ///
    /// `None` only if `h2` still has it, which its drop rules out.
    pub fn into_stream(self) -> Option<S> {
        let H2CallerConn { connection, released, .. } = self;
        drop(connection);
        released.take()
    }

    /// Abuse score of the caller: frames that carry neither a message nor window count 1, and those
    /// that cause work for nothing (resets, settings, continuations) 10.
    pub fn abuse_score(&self) -> u64 {
        self.wire.abuse_score()
    }
}

impl IncomingRequest {
    /// Converts the head to the form common to all versions. `default_scheme`: scheme of a request
    /// that names none.
    ///
    /// # Errors
    /// Violations of RFC 9113 §8.2 and §8.3 that `h2` does not check.
    pub fn read_head(&self, default_scheme: &str, into: &mut RequestHead) -> Result<(), HeadError> {
        convert::read_request(&self.head, self.end_stream, default_scheme, into)
    }
}

/// HTTP/2 stream of a caller's request.
pub struct CallerStream {
    respond: SendResponse<Bytes>,
    /// Response head that waits for the next write.
    head: Option<Response<()>>,
    /// True once `h2` has taken the final response head.
    is_head_sent: bool,
    /// True once the content is that of a tunnel, after the response to a CONNECT.
    is_tunnel: bool,
    /// Content of the request and of the response.
    content: StreamContent,
}

impl CallerStream {
    /// Replaces the waiting head; `None` discards it.
    pub(in crate::wire) fn set_head(&mut self, head: Option<Response<()>>) {
        self.head = head;
    }

    /// True while a head waits for the next write or flush.
    pub(in crate::wire) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// True once the final head cannot be replaced by another response. Messages in a tunnel have heads of their own.
    pub(in crate::wire) fn is_head_sent(&self) -> bool {
        self.is_head_sent && !self.is_tunnel
    }

    /// Makes the content that of a tunnel.
    pub(in crate::wire) fn become_tunnel(&mut self) {
        self.is_tunnel = true;
    }

    /// True if the content is that of a tunnel.
    pub(in crate::wire) fn is_tunnel(&self) -> bool {
        self.is_tunnel
    }

    /// Sends 1xx without content. May be called any number of times before the final head.
    ///
    /// # Errors
    /// If the stream was reset, or the final head was sent.
    pub(in crate::wire) fn send_interim(&mut self, head: Response<()>) -> io::Result<()> {
        self.respond.send_informational(head).map_err(to_io_error)
    }

    pub(in crate::wire) fn content(&mut self) -> &mut StreamContent {
        &mut self.content
    }

    /// Sends the waiting head, if there is one.
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

    /// Ready when there are bytes to read, or the end.
    ///
    /// # Errors
    /// Those of the stream, such as a reset by the caller.
    pub(in crate::wire) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.content.poll_readable(cx)
    }

    /// Sends a waiting head first, in a frame of its own.
    ///
    /// # Errors
    /// Those of the stream, such as a reset by the caller.
    pub(in crate::wire) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        end: EndStream,
    ) -> Poll<io::Result<usize>> {
        self.send_head(EndStream::No)?;
        self.content.poll_write(cx, data, end)
    }

    /// Sends a waiting head without content, so that the caller sees it before the first byte.
    pub(in crate::wire) fn flush(&mut self) -> io::Result<()> {
        self.send_head(EndStream::No)
    }

    /// A response without content and trailers is a single HEADERS frame with END_STREAM.
    pub(in crate::wire) fn end(&mut self) -> io::Result<()> {
        self.send_head(EndStream::when(|| !self.content.has_unsent_trailers()))?;
        self.content.end()
    }

    /// Ready after the caller has reset the stream or closed the connection, or has ended its side of a tunnel.
    ///
    /// END_STREAM is the FIN of a tunnelled connection (RFC 9113 §8.5). Every other request ends with it, and
    /// waits on.
    pub(in crate::wire) fn poll_hangup(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_tunnel && self.content.poll_end(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.is_head_sent { self.content.poll_reset(cx) } else { self.respond.poll_reset(cx).map(drop) }
    }

    /// Resets with INTERNAL_ERROR: the caller must not take a part of the content for the whole.
    pub(in crate::wire) fn reset(&mut self) {
        if self.is_head_sent {
            self.content.reset(Reason::INTERNAL_ERROR);
        } else {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}
