//! Buffered connection: a stream with its read buffer and its write buffer.
//!
//! Holds no protocol: parsers read [`Conn::input`], and writers append to [`Conn::out`]. Neither
//! buffer exists while a connection is idle ([`Conn::release_buffers`]), so that ten thousand idle
//! connections cost kilobytes each and not tens of them. The input is at most
//! [`MAX_HEAD`](super::head::MAX_HEAD) bytes, unless a connection to an origin allows more.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use super::buffer::{self, Buffer};
use super::head::{EndStream, Version};
use super::stream::Stream;

/// Connection with the bytes read and not used, and the bytes to be written.
///
/// Dropping it closes the stream, and returns the buffers to the pools of the thread.
pub struct Conn {
    /// Byte stream beneath the buffers.
    pub stream: Stream,
    /// Bytes read and not used yet.
    pub input: Buffer,
    /// Output, of which the first `written` bytes have left.
    out: WriteBuffer,
    /// Number of bytes of `out` that were written.
    written: usize,
    /// Number of bytes written on the connection so far. Never reset, unlike `written`.
    total_written: u64,
    /// Set by [`Conn::finish`] and [`Conn::finish_and_close`]; decides how the last bytes are
    /// written.
    after: AfterOutput,
}

/// Write position of a connection, to find out later whether anything was sent since.
///
/// Two equal marks prove that nothing left in between, so that a request can be sent again on
/// another connection without harm. TLS needs the second number: a write that fails in a later
/// record reports no bytes, though earlier records have left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteMark {
    /// Number of bytes that the stream has accepted.
    written: u64,
    /// Number of bytes that the kernel has accepted of those, or of their encrypted form.
    kernel_accepted: u64,
}

/// Continuation after the buffered output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AfterOutput {
    /// More output of the same message.
    More,
    /// End of the message, for HTTP/2 the flag END_STREAM.
    MessageEnd,
    /// End of the connection.
    ConnectionEnd,
}

/// Write buffer that returns to the pool on drop.
///
/// Empty, without memory, while the connection is idle.
struct WriteBuffer(Vec<u8>);

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        self.0.clear();
        buffer::return_write_buffer(std::mem::take(&mut self.0));
    }
}

impl Conn {
    /// Wraps a stream on which nothing was exchanged yet.
    pub fn new(stream: Stream) -> Conn {
        Conn {
            stream,
            input: Buffer::default(),
            out: WriteBuffer(Vec::new()),
            written: 0,
            total_written: 0,
            after: AfterOutput::More,
        }
    }

    /// Write buffer; messages are appended to it.
    ///
    /// Takes a buffer from the pool for the first message. Bytes that were written stay in it until
    /// the flush is complete: only appending is allowed.
    pub fn out(&mut self) -> &mut Vec<u8> {
        if self.out.0.capacity() == 0 {
            self.out.0 = buffer::take_write_buffer();
        }
        &mut self.out.0
    }

    /// Number of bytes that wait to be written.
    ///
    /// Without an HTTP/2 head, which is counted by [`Conn::has_pending`] alone.
    pub fn pending(&self) -> usize {
        self.out.0.len() - self.written
    }

    /// True if anything waits to be written: bytes, or an HTTP/2 head, which is not among the
    /// bytes.
    pub fn has_pending(&self) -> bool {
        self.pending() > 0 || self.stream.has_head()
    }

    /// Counter that grows with everything sent on this connection.
    ///
    /// Number of bytes, and one for the head of an HTTP/2 stream. Only differences mean something:
    /// a response that began can be told from one that did not.
    pub fn total_written(&self) -> u64 {
        self.total_written + u64::from(self.stream.is_head_sent())
    }

    /// Current write position.
    pub fn write_mark(&self) -> WriteMark {
        WriteMark { written: self.total_written(), kernel_accepted: self.stream.kernel_accepted() }
    }

    /// True if another message can begin: the last one was written, and nothing more was read.
    /// Always false for a stream of HTTP/2, which carries one request.
    pub fn is_between_messages(&self) -> bool {
        self.input.is_empty() && self.pending() == 0 && !self.stream.is_http2()
    }

    /// True if a part of the output was sent and the rest waits: any other output in its place
    /// would be misread.
    pub fn is_partly_sent(&self) -> bool {
        self.written > 0 || self.stream.is_head_sent()
    }

    /// Ends the message: nothing more is appended to it. Only HTTP/2 sends this end; HTTP/1
    /// messages are self-delimiting.
    pub fn finish(&mut self) {
        self.after = if self.stream.is_http2() { AfterOutput::MessageEnd } else { AfterOutput::More };
    }

    /// Ends the message and the connection as soon as all is written: the FIN then leaves in the
    /// packet of the last bytes.
    pub fn finish_and_close(&mut self) {
        self.after = if self.stream.is_http2() { AfterOutput::MessageEnd } else { AfterOutput::ConnectionEnd };
    }

    /// Takes the stream out and pushes unused input back into it. A closed stream stays behind.
    ///
    /// For a tunnel or TLS, which begin where HTTP ends: bytes that were read too far are the first
    /// of the new protocol. Unwritten output stays in the buffer.
    pub fn take_stream(&mut self) -> Stream {
        let mut stream = self.stream.take();
        stream.put_back(self.input.bytes());
        self.input.consume(self.input.bytes().len());
        stream
    }

    /// Takes the output that was not sent.
    ///
    /// The buffer is empty afterwards. Bytes of the same message that have left cannot be taken
    /// back: see [`Conn::is_partly_sent`].
    pub fn take_unsent(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.out.0);
        out.drain(..std::mem::take(&mut self.written));
        out
    }

    /// Discards the output that was not sent.
    ///
    /// A head of HTTP/2 that waits goes with it, so that a response of the gateway's own can take
    /// its place.
    pub fn discard_unsent(&mut self) {
        self.stream.discard_head();
        self.clear_out();
    }

    /// Empties the write buffer and keeps its memory.
    fn clear_out(&mut self) {
        self.out.0.clear();
        self.written = 0;
    }

    /// Reads more into `input`; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the stream, and `OutOfMemory` if `input` has [`MAX_HEAD`](super::head::MAX_HEAD)
    /// bytes, or as many as [`Buffer::allow`] lets it have.
    ///
    /// # Cancel safety
    /// Pending calls change nothing: bytes are stored in the same call that reads them.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.input.room();
        if room.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let count = ready!(self.stream.poll_read(cx, room))?;
        self.input.filled(count);
        Poll::Ready(Ok(count))
    }

    /// Writes all buffered output.
    ///
    /// Continues after the bytes that an earlier, pending call has written. At the end the buffer
    /// is empty and, after [`Conn::finish`] on HTTP/2, the message has ended.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.0.len() {
            let data = &self.out.0[self.written..];
            let count = ready!(match self.after {
                AfterOutput::More => self.stream.poll_write_part(cx, data, EndStream::No),
                AfterOutput::MessageEnd => self.stream.poll_write_part(cx, data, EndStream::Yes),
                AfterOutput::ConnectionEnd => self.stream.poll_write_before_end(cx, data),
            })?;
            self.advance(count)?;
        }
        self.clear_out();
        if self.after == AfterOutput::MessageEnd {
            return Poll::Ready(self.stream.end_message());
        }
        self.stream.poll_flush(cx)
    }

    /// Writes buffered output until a request's head is sent. On HTTP/2 the content behind the head
    /// is written as far as the origin's window allows, and the rest with the next flush.
    ///
    /// On HTTP/1 it is [`Conn::poll_flush`]: the kernel has accepted the head with the bytes behind
    /// it. On HTTP/2 the head is sent only when `h2` has written and flushed its frames, later than
    /// the write returns.
    ///
    /// # Errors
    /// Those of the stream. Content behind a head that was not sent stays, for
    /// [`Conn::take_unsent`].
    pub fn poll_flush_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_last = self.after == AfterOutput::MessageEnd && self.pending() == 0;
        let Some(stream) = self.stream.as_origin() else { return self.poll_flush(cx) };
        let end = EndStream::when(|| is_last && !stream.content().has_unsent_trailers());
        stream.send_head(end)?;
        ready!(stream.poll_head_sent(cx))?;
        // Pending: the content waits for the origin's window, which the head does not need. Broken: the response tells why.
        let _ = self.poll_flush(cx);
        Poll::Ready(Ok(()))
    }

    /// Writes the buffered output and then as much of `data` as possible; returns the number of
    /// bytes of `data` written.
    ///
    /// Saves the copy of content into the buffer: head and content leave with one vectored write on
    /// TCP and TLS. Returns only after at least one byte of `data` was written.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_write_through(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.pending();
            let count = if waiting == 0 {
                ready!(self.stream.poll_write_part(cx, data, EndStream::No))?
            } else {
                ready!(self.stream.poll_write_both(cx, &self.out.0[self.written..], data))?
            };
            if count > waiting {
                self.total_written += count as u64;
                self.clear_out();
                return Poll::Ready(Ok(count - waiting));
            }
            self.advance(count)?;
        }
    }

    /// Counts bytes of the buffer as written.
    ///
    /// # Errors
    /// `WriteZero` if the stream took none.
    fn advance(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written += count;
        self.total_written += count as u64;
        Ok(())
    }

    /// [`Conn::poll_flush`] as a future.
    ///
    /// # Errors
    /// Those of the stream.
    ///
    /// # Cancel safety
    /// Cancel safe: the next flush goes on with the byte after the last one written.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Version of a connection before the first message.
    ///
    /// HTTP/1.0 is known only from a message: until then an HTTP/1 peer is taken for 1.1.
    pub fn version(&self) -> Version {
        if self.stream.is_http2() { Version::Http2 } else { Version::Http11 }
    }

    /// Returns the buffers that an idle connection does not need.
    ///
    /// Keeps a buffer that has bytes in it, so it may be called at any time.
    pub fn release_buffers(&mut self) {
        self.input.release();
        if self.pending() == 0 {
            self.written = 0;
            buffer::return_write_buffer(std::mem::take(&mut self.out.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector, client};

    use super::*;

    /// Near end of a connection after its handshake.
    async fn tls() -> (client::TlsStream<Stream>, impl AsyncReadExt + Unpin) {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let (provider, key) = (Arc::new(ring::default_provider()), own.signing_key.serialize_der());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let chain = vec![own.cert.der().clone()];
        let server = server.unwrap().with_no_client_auth().with_single_cert(chain, PrivateKeyDer::Pkcs8(key.into()));
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = Stream::plain(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let far = listener.accept().await.unwrap().0;
        let accept = TlsAcceptor::from(Arc::new(server.unwrap())).accept(far);
        let (near, far) = tokio::join!(client.connect("localhost".try_into().unwrap(), near), accept);
        (near.unwrap(), far.unwrap())
    }

    #[tokio::test]
    async fn what_the_kernel_has_taken_has_left_though_tls_never_said_so() {
        let (mut tls, mut peer) = tls().await;
        // The first of several records: if a later one fails, the write as a whole fails.
        tls.get_mut().1.writer().write_all(b"one").unwrap();
        let mut conn = Conn::new(Stream::tls(tls));
        let before = conn.write_mark();
        assert_eq!(conn.write_mark(), before, "nothing has left yet");
        conn.stream.flush().await.unwrap();
        assert_eq!(conn.total_written(), 0, "TLS was told to write nothing");
        assert_ne!(conn.write_mark(), before);
        let mut read = [0; 3];
        peer.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one");
    }

    #[tokio::test]
    async fn what_is_appended_leaves_before_what_is_written_through() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut conn = Conn::new(Stream::plain(listener.accept().await.unwrap().0));
        conn.out().extend_from_slice(b"head ");
        let mut sent = 0;
        while sent < 4 {
            sent += poll_fn(|cx| conn.poll_write_through(cx, &b"body"[sent..])).await.unwrap();
        }
        conn.out().extend_from_slice(b" tail");
        conn.flush().await.unwrap();
        conn.release_buffers();
        drop(conn);
        let mut all = String::new();
        peer.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "head body tail");
    }
}
