//! A caller's connection, on which it makes many requests at one time.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection, SendResponse};
use http::Response;
use tokio::io::ReadBuf;

use super::data::{Data, broken};
use super::seen::Seen;
use super::watch::Watch;
use super::{CONNECTION_WINDOW, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW, message};
use crate::wire::Stream;
use crate::wire::head::{HeadError, MAX_HEAD, RequestHead};

/// A caller's connection.
pub struct Session {
    connection: Connection<Watch, Bytes>,
    seen: Arc<Seen>,
}

/// A request that has come on it: its head, and the stream for its content and its answer.
pub struct Call {
    head: http::request::Parts,
    /// No content follows.
    ended: bool,
    /// The stream.
    pub stream: CallerStream,
}

impl Session {
    /// Exchanges the first words with a caller that speaks HTTP/2. It has no timeout of its own.
    ///
    /// # Errors
    /// If the caller does not keep to the protocol, or goes.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn begin(stream: Stream) -> io::Result<Session> {
        let (watch, seen) = Watch::caller(stream);
        let mut settings = Builder::new();
        settings
            .initial_window_size(STREAM_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            // Larger ones are answered 431 by `h2`, far larger ones end the connection.
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER);
        let connection = settings.handshake(watch).await.map_err(broken)?;
        Ok(Session { connection, seen })
    }

    /// The next request. Must be polled for anything on the connection to move; `None` at its end.
    ///
    /// # Errors
    /// If the connection broke, or the caller does not keep to the protocol.
    pub fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Call>>> {
        let Some(accepted) = ready!(self.connection.poll_accept(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(accepted.map_err(broken).map(|(request, respond)| {
            let (head, recv) = request.into_parts();
            let ended = recv.is_end_stream();
            let mut data = Data::default();
            data.receive(recv);
            Call { head, ended, stream: CallerStream { respond, head: None, departed: false, data } }
        })))
    }

    /// Lets the caller send as much content at one time as the windows of all its streams hold. Before, it is what every
    /// connection begins with (65 535 bytes, RFC 9113 §6.9.2): unwanted content costs us no more.
    pub fn give_room(&mut self) {
        self.connection.set_target_window_size(CONNECTION_WINDOW);
    }

    /// Takes no new requests; those that have come are served (GOAWAY, RFC 9113 §6.8).
    pub fn close(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Ends everything, because the caller makes more noise than is bearable.
    pub fn throw_out(&mut self) {
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    }

    /// The connection itself, when nothing more is said on it.
    pub fn into_rest(self) -> Option<Stream> {
        let Session { connection, seen } = self;
        drop(connection);
        seen.take_rest()
    }

    /// How loud the caller has been: frames that carry neither a message nor room for one count 1, and those that make
    /// us work for nothing (resets, settings, continuations) 10.
    pub fn noise(&self) -> u64 {
        self.seen.noise()
    }
}

impl Call {
    /// Puts the head into the form in which all heads are looked at. `secure`: it came through TLS.
    ///
    /// # Errors
    /// Whatever of RFC 9113 §8.2 and §8.3 the frames below do not look at.
    pub fn read_head(&self, secure: bool, into: &mut RequestHead) -> Result<(), HeadError> {
        message::read_request(&self.head, self.ended, secure, into)
    }
}

/// One request of a caller's, as a stream.
pub struct CallerStream {
    respond: SendResponse<Bytes>,
    /// Waits to be sent with what comes after it.
    head: Option<Response<()>>,
    departed: bool,
    data: Data,
}

impl CallerStream {
    pub(in crate::wire) fn set_head(&mut self, head: Option<Response<()>>) {
        self.head = head;
    }

    pub(in crate::wire) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    pub(in crate::wire) fn has_departed(&self) -> bool {
        self.departed
    }

    pub(in crate::wire) fn inform(&mut self, head: Response<()>) -> io::Result<()> {
        self.respond.send_informational(head).map_err(broken)
    }

    pub(in crate::wire) fn data(&mut self) -> &mut Data {
        &mut self.data
    }

    /// Sends the head, if it waits.
    fn depart(&mut self, is_all: bool) -> io::Result<()> {
        if let Some(head) = self.head.take() {
            let send = self.respond.send_response(head, is_all).map_err(broken)?;
            self.departed = true;
            self.data.may_send(send, is_all);
        }
        Ok(())
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

    pub(in crate::wire) fn flush(&mut self) -> io::Result<()> {
        self.depart(false)
    }

    pub(in crate::wire) fn end(&mut self) -> io::Result<()> {
        let is_all = !self.data.has_trailers();
        self.depart(is_all)?;
        self.data.end()
    }

    /// Ready when the caller has given the request up, or is gone.
    pub(in crate::wire) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.departed { self.data.poll_reset(cx) } else { self.respond.poll_reset(cx).map(drop) }
    }

    pub(in crate::wire) fn reset(&mut self) {
        if self.departed {
            self.data.reset(Reason::INTERNAL_ERROR);
        } else {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}
