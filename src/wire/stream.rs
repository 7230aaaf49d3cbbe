//! Byte stream of a connection: over TCP, over TLS, or a stream of an HTTP/2 connection.
//!
//! One type for all transports, so that the code above has no type parameter and no `dyn`. Plain TCP lies in the enum
//! itself; TLS and streams of HTTP/2 are boxed, which keeps a plain connection small. Bytes that were read too far can
//! be pushed back ([`Stream::put_back`]), and come out of the next read.
//!
//! Heads of HTTP/2 are not among the bytes: they are set and sent by the functions of `h2_heads`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::head::EndStream;
use super::http2::{CallerStream, LowerStream, OriginStream};
use super::tcp::Tcp;

mod h2_heads;
mod reuse_check;

/// One end of a connection.
///
/// Dropping it closes the connection, or resets a stream of HTTP/2 that has not ended.
pub struct Stream {
    transport: Transport,
    /// Pushed-back bytes, read before all others. Empty, without memory, for most connections.
    pushback: Vec<u8>,
}

enum Transport {
    /// TCP without TLS.
    Plain(Tcp),
    /// TLS, itself over TCP, TLS or a stream of HTTP/2.
    Tls(Box<TlsStream<Stream>>),
    /// Server side of one request on an HTTP/2 connection.
    Caller(Box<CallerStream>),
    /// Client side of one request on an HTTP/2 connection.
    Origin(Box<OriginStream>),
    /// Moved out by [`Stream::take`].
    Closed,
}

impl From<Transport> for Stream {
    fn from(transport: Transport) -> Stream {
        Stream { transport, pushback: Vec::new() }
    }
}

impl Stream {
    /// Stream over plain TCP.
    pub fn plain(tcp: TcpStream) -> Stream {
        Transport::Plain(Tcp::new(tcp)).into()
    }

    /// Stream over an accepted TCP connection: reads early bytes without waiting for the poll.
    pub fn accepted(tcp: TcpStream) -> Stream {
        Transport::Plain(Tcp::accepted(tcp)).into()
    }

    /// Stream over TLS, after its handshake.
    pub fn tls(tls: impl Into<TlsStream<Stream>>) -> Stream {
        Transport::Tls(Box::new(tls.into())).into()
    }

    /// HTTP/2 stream of a caller's request.
    pub fn caller(stream: CallerStream) -> Stream {
        Transport::Caller(Box::new(stream)).into()
    }

    /// HTTP/2 stream of a request to an origin.
    pub fn origin(stream: Box<OriginStream>) -> Stream {
        Transport::Origin(stream).into()
    }

    /// Takes the stream out; a closed one stays behind.
    ///
    /// Bytes pushed back go with it.
    pub fn take(&mut self) -> Stream {
        std::mem::replace(self, Stream::closed())
    }

    /// Closed stream.
    ///
    /// Reads find the end at once, writes fail with `BrokenPipe`, and a hang-up is reported.
    pub fn closed() -> Stream {
        Transport::Closed.into()
    }

    /// HTTP/2 stream of a request to an origin, if it is one.
    pub fn as_origin(&mut self) -> Option<&mut OriginStream> {
        match &mut self.transport {
            Transport::Origin(stream) => Some(stream),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Caller(_) | Transport::Closed => None,
        }
    }

    /// True for a stream of an HTTP/2 connection, of which heads and ends are not among the bytes; false once it is a
    /// tunnel.
    pub fn is_http2(&self) -> bool {
        matches!(&self.transport, Transport::Caller(stream) if !stream.is_tunnel())
            || matches!(self.transport, Transport::Origin(_))
    }

    /// Pushes bytes back, to be read before all others.
    ///
    /// Before bytes that were pushed back earlier.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.pushback.splice(0..0, bytes.iter().copied());
    }

    /// Reads available bytes; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    ///
    /// # Cancel safety
    /// A pending call has read nothing.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        ready!(Pin::new(self).poll_read(cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }

    /// Waits for bytes or for the end, without reading. A stream to an HTTP/2 origin is always ready.
    ///
    /// With TLS, decrypted bytes count, and so does any byte that arrives encrypted, even if it turns out to be no
    /// content (a session ticket): a read may find nothing.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.pushback.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.poll_readable(cx),
            Transport::Tls(tls) => {
                let state = match &mut **tls {
                    TlsStream::Client(tls) => tls.get_mut().1.process_new_packets(),
                    TlsStream::Server(tls) => tls.get_mut().1.process_new_packets(),
                };
                if state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0) {
                    return Poll::Ready(Ok(()));
                }
                tls.get_mut().0.poll_readable(cx)
            }
            Transport::Caller(stream) => stream.poll_readable(cx),
            Transport::Origin(_) | Transport::Closed => Poll::Ready(Ok(())),
        }
    }

    /// True if a read may find bytes that [`Stream::poll_readable`] does not report.
    pub fn may_have_unread(&self) -> bool {
        match &self.transport {
            Transport::Plain(tcp) => tcp.may_have_unread(),
            Transport::Tls(_) | Transport::Caller(_) | Transport::Origin(_) | Transport::Closed => false,
        }
    }

    /// True if dropping the stream sends the end to the peer, as for a plain connection that was read to its end.
    pub fn closes_on_drop(&self) -> bool {
        matches!(self.transport, Transport::Plain(_))
    }

    /// Writes some of `data`; with [`EndStream::Yes`], HTTP/2 marks the end of the message in the frame of the last
    /// byte.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_write_part(&mut self, cx: &mut Context<'_>, data: &[u8], end: EndStream) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Caller(stream) => stream.poll_write(cx, data, end),
            Transport::Origin(stream) => stream.poll_write(cx, data, end),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => Pin::new(self).poll_write(cx, data),
        }
    }

    /// Writes some of `data`, which the kernel may hold back for the end of the stream that follows at once.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_write_before_end(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.poll_write_before_end(cx, data),
            Transport::Caller(_) | Transport::Origin(_) | Transport::Tls(_) | Transport::Closed => {
                Pin::new(self).poll_write(cx, data)
            }
        }
    }

    /// Writes some of `first`, and of `second` after it, with one call if the transport can.
    ///
    /// Streams of HTTP/2 take the first part that is not empty, and no more.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_write_both(&mut self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)])
    }

    /// Flushes bytes buffered by TLS.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(self), cx)
    }

    /// Ends the writing side (half-close).
    ///
    /// The peer sees a FIN; TLS sends `close_notify` before it. A stream of HTTP/2 ends its message, and reading goes
    /// on in all cases.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    /// Ends a message: a stream of HTTP/2 sends END_STREAM or trailers. HTTP/1 messages are self-delimiting.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn end_message(&mut self) -> io::Result<()> {
        match &mut self.transport {
            Transport::Caller(stream) => stream.end(),
            Transport::Origin(stream) => stream.end(),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => Ok(()),
        }
    }

    /// Breaks the connection: the peer sees a reset, never a clean end.
    ///
    /// TCP sends a RST once the stream is dropped (`SO_LINGER` of zero); HTTP/2 sends RST_STREAM, and the connection
    /// goes on. A peer that counts bytes until the close would take a clean end for the end of the body.
    pub fn abort(&mut self) {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.abort(),
            Transport::Tls(tls) => tls.get_mut().0.abort(),
            Transport::Caller(stream) => stream.reset(),
            Transport::Origin(stream) => stream.reset(),
            Transport::Closed => {}
        }
    }

    /// Number of bytes that the kernel has accepted: TLS reports nothing of a write that fails in a later part. 0 for a
    /// stream of HTTP/2.
    pub fn kernel_accepted(&self) -> u64 {
        match &self.transport {
            Transport::Plain(tcp) => tcp.kernel_accepted(),
            Transport::Tls(tls) => tls.get_ref().0.kernel_accepted(),
            Transport::Caller(_) | Transport::Origin(_) | Transport::Closed => 0,
        }
    }

    /// Longest time that written bytes may stay unacknowledged before the connection counts as broken; `None`: the
    /// system's.
    pub fn set_user_timeout(&mut self, after: Option<Duration>) {
        if let Some(tcp) = self.tcp_mut() {
            tcp.set_user_timeout(after);
        }
    }

    /// TCP connection beneath the stream, if it is not shared.
    fn tcp_mut(&mut self) -> Option<&mut Tcp> {
        match &mut self.transport {
            Transport::Plain(tcp) => Some(tcp),
            Transport::Tls(tls) => tls.get_mut().0.tcp_mut(),
            Transport::Caller(_) | Transport::Origin(_) | Transport::Closed => None,
        }
    }

    /// Ready after the peer has hung up, also with unread bytes before it.
    ///
    /// A half-close (FIN) counts as a hang-up. Unread bytes stay in the socket. On HTTP/2: a reset of the stream, the
    /// end of the connection, or the caller's end of a tunnel.
    pub fn poll_hangup(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.poll_hangup(cx),
            Transport::Tls(tls) => tls.get_mut().0.poll_hangup(cx),
            Transport::Caller(stream) => stream.poll_hangup(cx),
            Transport::Origin(stream) => stream.poll_reset(cx),
            Transport::Closed => Poll::Ready(()),
        }
    }
}

impl LowerStream for Stream {
    fn take(&mut self) -> Stream {
        Stream::take(self)
    }

    fn abort(&mut self) {
        Stream::abort(self);
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.pushback.is_empty() {
            let count = self.pushback.len().min(into.remaining());
            into.put_slice(&self.pushback[..count]);
            self.pushback.drain(..count);
            if self.pushback.is_empty() {
                self.pushback = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, into),
            Transport::Caller(stream) => stream.poll_read(cx, into),
            Transport::Origin(stream) => stream.poll_read(cx, into),
            Transport::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, data),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, data),
            Transport::Caller(stream) => stream.poll_write(cx, data, EndStream::No),
            Transport::Origin(stream) => stream.poll_write(cx, data, EndStream::No),
            Transport::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(_) | Transport::Closed => Poll::Ready(Ok(())),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Transport::Caller(stream) => Poll::Ready(stream.flush()),
            Transport::Origin(stream) => Poll::Ready(stream.send_head(EndStream::No)),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Transport::Caller(_) | Transport::Origin(_) => Poll::Ready(self.end_message()),
            Transport::Closed => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Transport::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, parts),
            Transport::Caller(_) | Transport::Origin(_) | Transport::Closed => {
                let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
                self.poll_write_part(cx, first, EndStream::No)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.transport, Transport::Plain(_) | Transport::Tls(_))
    }
}
