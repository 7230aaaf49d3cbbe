//! Content and trailers of one HTTP/2 stream, in both directions.
//!
//! Flow control is `h2`'s: a read returns its bytes to the peer's window only when they were taken,
//! and a write takes no more than the peer's window has room for. So the memory of a stream is
//! bounded in both directions, by the window and by the send buffer (`limits`).

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::io::ReadBuf;

use super::window_growth::StreamMeter;
use crate::wire::head::EndStream;

/// Content received and sent on a stream, after its heads.
pub(in crate::wire) struct StreamContent {
    /// Counts the bytes that were read.
    meter: StreamMeter,
    /// Receiving side; `None` to an origin before its response head.
    recv: Option<RecvStream>,
    /// Received bytes that were not read yet.
    chunk: Bytes,
    /// Received bytes behind them, which [`StreamContent::poll_end`] has found before the end. At most the stream's
    /// window: they are returned to it when they are read.
    ahead: VecDeque<Bytes>,
    /// Received trailers.
    received_trailers: Option<HeaderMap>,
    /// Sending side; `None` before our head was sent.
    send: Option<SendStream<Bytes>>,
    /// Trailers to be sent after the content.
    unsent_trailers: Option<HeaderMap>,
    /// True after the sending side has ended.
    ended: bool,
}

impl StreamContent {
    /// Content of a stream that begins.
    pub(super) fn new(meter: StreamMeter) -> StreamContent {
        StreamContent {
            meter,
            recv: None,
            chunk: Bytes::new(),
            ahead: VecDeque::new(),
            received_trailers: None,
            send: None,
            unsent_trailers: None,
            ended: false,
        }
    }

    /// Begins to receive, after the peer's head.
    pub(super) fn set_recv(&mut self, recv: RecvStream) {
        self.recv = Some(recv);
    }

    /// Begins to send, after our head. With [`EndStream::Yes`] the head was all.
    pub(super) fn set_send(&mut self, send: SendStream<Bytes>, end: EndStream) {
        self.send = Some(send);
        self.ended = end == EndStream::Yes;
    }

    /// Reads available bytes; nothing at the end of the stream, with its trailers stored.
    ///
    /// # Errors
    /// `ConnectionReset` if the peer has reset the stream, or the error of the transport.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_readable(cx))?;
        let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(())) };
        if self.chunk.is_empty() {
            if let Some(trailers) = ready!(recv.poll_trailers(cx)).map_err(to_io_error)? {
                self.received_trailers = Some(trailers);
            }
            return Poll::Ready(Ok(()));
        }
        let count = self.chunk.len().min(into.remaining());
        into.put_slice(&self.chunk.split_to(count));
        self.meter.on_consumed(count);
        // The window is returned only now: a slow reader stops its stream, and nothing piles up.
        recv.flow_control().release_capacity(count).map_err(to_io_error)?;
        Poll::Ready(Ok(()))
    }

    /// Ready when there are bytes to read, or the end. Takes the next bytes, which stay for reads.
    ///
    /// # Errors
    /// Those of [`StreamContent::poll_read`].
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(())) };
        while self.chunk.is_empty() {
            self.chunk = match self.ahead.pop_front() {
                Some(chunk) => chunk,
                None => match ready!(recv.poll_data(cx)) {
                    Some(chunk) => chunk.map_err(to_io_error)?,
                    None => break,
                },
            };
        }
        Poll::Ready(Ok(()))
    }

    /// Ready after the peer has ended or broken its side, also with unread bytes before it, which stay for reads.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(()) };
        while let Some(Ok(chunk)) = ready!(recv.poll_data(cx)) {
            if !chunk.is_empty() {
                self.ahead.push_back(chunk);
            }
        }
        Poll::Ready(())
    }

    /// Trailers of the peer, once its content was read to the end; `None` at a second call.
    pub(in crate::wire) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.received_trailers.take()
    }

    /// Keeps trailers for [`StreamContent::end`]. The last DATA frame then does not end the stream.
    pub(in crate::wire) fn set_trailers(&mut self, trailers: HeaderMap) {
        self.unsent_trailers = Some(trailers);
    }

    /// True if a HEADERS frame must follow the content.
    pub(in crate::wire) fn has_unsent_trailers(&self) -> bool {
        self.unsent_trailers.is_some()
    }

    /// Writes as much of `data` as the peer's window allows; with [`EndStream::Yes`] nothing follows it.
    ///
    /// # Errors
    /// `BrokenPipe` before the head or after the end, `ConnectionReset` if the peer has reset the
    /// stream.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8], end: EndStream) -> Poll<io::Result<usize>> {
        let Some(send) = self.send.as_mut().filter(|_| !self.ended) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        send.reserve_capacity(data.len());
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(capacity) => drop(capacity.map_err(to_io_error)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = send.capacity().min(data.len());
        let ends = end == EndStream::Yes && count == data.len() && self.unsent_trailers.is_none();
        send.send_data(Bytes::copy_from_slice(&data[..count]), ends).map_err(to_io_error)?;
        self.ended = ends;
        Poll::Ready(Ok(count))
    }

    /// Ends the sending side, with trailers if there are any.
    ///
    /// A second call does nothing. Without trailers it sends an empty DATA frame with END_STREAM.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(send) = &mut self.send else { return Ok(()) };
        self.ended = true;
        match self.unsent_trailers.take() {
            Some(trailers) => send.send_trailers(trailers).map_err(to_io_error),
            None => send.send_data(Bytes::new(), true).map_err(to_io_error),
        }
    }

    /// Ready after the peer has reset the stream or closed the connection.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.send {
            Some(send) => send.poll_reset(cx).map(drop),
            None => Poll::Pending,
        }
    }

    /// Resets the stream.
    pub(super) fn reset(&mut self, reason: Reason) {
        if let Some(send) = &mut self.send {
            send.send_reset(reason);
        }
    }
}

/// Converts an error of a stream to an I/O error.
///
/// Resets and protocol errors become `ConnectionReset`, with `h2`'s error as the source.
pub(super) fn to_io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
