//! A connection's bytes, whatever carries them: TCP, TLS, or one of the streams of an HTTP/2 connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::head::EndStream;
use super::http2::{CallerStream, OriginStream};
use super::tcp::Tcp;

mod h2_heads;

/// One end of a connection.
pub struct Stream {
    transport: Transport,
    /// Read, and put back to be read again.
    pushback: Vec<u8>,
}

enum Transport {
    Plain(Tcp),
    /// Its bytes may themselves come through TLS, or by a stream of HTTP/2.
    Tls(Box<TlsStream<Stream>>),
    Caller(Box<CallerStream>),
    Origin(Box<OriginStream>),
    /// It was taken away, see [`Stream::take`].
    Closed,
}

impl From<Transport> for Stream {
    fn from(transport: Transport) -> Stream {
        Stream { transport, pushback: Vec::new() }
    }
}

impl Stream {
    /// A connection whose bytes are what is said on it.
    pub fn plain(tcp: TcpStream) -> Stream {
        Transport::Plain(Tcp::new(tcp)).into()
    }

    /// A connection that was just accepted: what its peer has said already is read without a wait for the poll.
    pub fn accepted(tcp: TcpStream) -> Stream {
        Transport::Plain(Tcp::accepted(tcp)).into()
    }

    /// A connection after its TLS handshake.
    pub fn tls(tls: impl Into<TlsStream<Stream>>) -> Stream {
        Transport::Tls(Box::new(tls.into())).into()
    }

    /// One request of a caller that speaks HTTP/2.
    pub fn caller(stream: CallerStream) -> Stream {
        Transport::Caller(Box::new(stream)).into()
    }

    /// One request to an origin that speaks HTTP/2.
    pub fn origin(stream: Box<OriginStream>) -> Stream {
        Transport::Origin(stream).into()
    }

    /// Takes the stream out; what is left behind has come to its end.
    pub fn take(&mut self) -> Stream {
        std::mem::replace(self, Stream::closed())
    }

    /// One that has come to its end.
    pub fn closed() -> Stream {
        Transport::Closed.into()
    }

    /// The request to an origin that speaks HTTP/2, if it is one.
    pub fn as_origin(&mut self) -> Option<&mut OriginStream> {
        match &mut self.transport {
            Transport::Origin(stream) => Some(stream),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Caller(_) | Transport::Closed => None,
        }
    }

    /// Whether it is one of the streams of an HTTP/2 connection: heads and ends are not in its bytes.
    pub fn is_http2(&self) -> bool {
        matches!(self.transport, Transport::Caller(_) | Transport::Origin(_))
    }

    /// Puts bytes back that are to be read again, before all others.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.pushback.splice(0..0, bytes.iter().copied());
    }

    /// Reads what is there; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        ready!(Pin::new(self).poll_read(cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }

    /// Waits until there is something to read, or the end, without needing room for it. A stream of HTTP/2 says so
    /// at once.
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
            Transport::Caller(_) | Transport::Origin(_) | Transport::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Whether a read may find bytes at once of which [`Stream::poll_readable`] would not tell.
    pub fn may_have_unread(&self) -> bool {
        match &self.transport {
            Transport::Plain(tcp) => tcp.may_have_unread(),
            Transport::Tls(_) | Transport::Caller(_) | Transport::Origin(_) | Transport::Closed => false,
        }
    }

    /// Whether the peer hears of the end by itself when the stream is dropped, as it does of a plain connection that was
    /// read to its end.
    pub fn closes_on_drop(&self) -> bool {
        matches!(self.transport, Transport::Plain(_))
    }

    /// Writes some of `data`; `end`: nothing comes after it, which HTTP/2 says with the last of the bytes.
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

    /// Writes some of `data`; the end of the stream follows at once, and may keep it back so long.
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
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_write_both(&mut self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)])
    }

    /// Pushes out what TLS still holds.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(self), cx)
    }

    /// Says that nothing more will be written (half-close).
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    /// Ends a message: a stream of HTTP/2 says that nothing comes any more. Other messages say by themselves where
    /// they end.
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

    /// Makes the end visible as a broken connection: the peer sees a reset, never a clean end.
    pub fn abort(&mut self) {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.abort(),
            Transport::Tls(tls) => tls.get_mut().0.abort(),
            Transport::Caller(stream) => stream.reset(),
            Transport::Origin(stream) => stream.reset(),
            Transport::Closed => {}
        }
    }

    /// How many bytes the kernel has accepted: TLS says nothing of what has left when a later part of it fails. A stream of
    /// HTTP/2 has no such number.
    pub fn kernel_accepted(&self) -> u64 {
        match &self.transport {
            Transport::Plain(tcp) => tcp.kernel_accepted(),
            Transport::Tls(tls) => tls.get_ref().0.kernel_accepted(),
            Transport::Caller(_) | Transport::Origin(_) | Transport::Closed => 0,
        }
    }

    /// How long what was written may go unacknowledged before the connection counts as broken; `None`: for long.
    pub fn set_user_timeout(&mut self, after: Option<Duration>) {
        if let Some(tcp) = self.tcp_mut() {
            tcp.set_user_timeout(after);
        }
    }

    /// The TCP connection beneath it, if it has one of its own.
    fn tcp_mut(&mut self) -> Option<&mut Tcp> {
        match &mut self.transport {
            Transport::Plain(tcp) => Some(tcp),
            Transport::Tls(tls) => tls.get_mut().0.tcp_mut(),
            Transport::Caller(_) | Transport::Origin(_) | Transport::Closed => None,
        }
    }

    /// Ends when the peer has hung up, whatever of its bytes is still unread.
    pub fn poll_hangup(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.poll_hangup(cx),
            Transport::Tls(tls) => tls.get_mut().0.poll_hangup(cx),
            Transport::Caller(stream) => stream.poll_reset(cx),
            Transport::Origin(stream) => stream.poll_reset(cx),
            Transport::Closed => Poll::Ready(()),
        }
    }

    /// Whether an idle connection can carry another message: nothing was said on it, and it was not closed (RFC 9112
    /// §9.3, §9.5). It costs a system call: tokio knows nothing of what has come since it polled last, and does not
    /// look for a task that has used up its budget, so an unasked-for answer could be taken for the next one.
    pub fn is_reusable(&mut self) -> bool {
        if let Some(tcp) = self.tcp_mut() {
            tcp.force_read();
        }
        let cx = &mut Context::from_waker(Waker::noop());
        match &mut self.transport {
            Transport::Origin(stream) => stream.is_usable(),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Caller(_) | Transport::Closed => {
                self.poll_read(cx, &mut [0_u8; 1]).is_pending()
            }
        }
    }
}

impl Stream {
    /// As [`Stream::is_reusable`], without a system call where nothing is known to have come since the last read: for a
    /// connection that was read from a moment ago.
    pub fn seems_reusable(&mut self) -> bool {
        match &self.transport {
            Transport::Plain(tcp) if self.pushback.is_empty() && !tcp.may_have_input() => true,
            Transport::Plain(_)
            | Transport::Tls(_)
            | Transport::Caller(_)
            | Transport::Origin(_)
            | Transport::Closed => self.is_reusable(),
        }
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
