//! A stream with what was read from it and what is to be written to it.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use super::buffer::{self, Buffer};
use super::stream::Stream;

/// A connection: its stream, the bytes read and not used, the bytes to be written.
#[derive(Debug)]
pub struct Conn {
    /// The bytes as the peer sees them.
    pub stream: Stream,
    /// Read and not used yet.
    pub input: Buffer,
    out: Vec<u8>,
    /// How much of `out` has left.
    written: usize,
    total: u64,
}

impl Conn {
    /// A connection on which nothing has been said.
    pub fn new(stream: Stream) -> Conn {
        Conn { stream, input: Buffer::default(), out: Vec::new(), written: 0, total: 0 }
    }

    /// Where the next bytes to be written are appended.
    pub fn out(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out = buffer::take_out();
        }
        &mut self.out
    }

    /// How many bytes wait to be written.
    pub fn pending(&self) -> usize {
        self.out.len() - self.written
    }

    /// How many bytes have left on this connection.
    pub fn total_written(&self) -> u64 {
        self.total
    }

    /// Whether a part of what was appended has left and the rest waits: whatever came in its place would be misread.
    pub fn is_midway(&self) -> bool {
        self.written > 0
    }

    /// Takes back what was appended and not written.
    pub fn take_out(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.out);
        out.drain(..std::mem::take(&mut self.written));
        out
    }

    /// Forgets what was appended and not written.
    pub fn discard_out(&mut self) {
        self.out.clear();
        self.written = 0;
    }

    /// Reads more into `input`; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the stream, and `OutOfMemory` when `input` is as full as it may be.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.input.room();
        if room.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let count = ready!(self.stream.poll_read(cx, room))?;
        self.input.filled(count);
        Poll::Ready(Ok(count))
    }

    /// Writes everything that waits to be written.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let count = ready!(self.stream.poll_write(cx, &self.out[self.written..]))?;
            self.advance(count)?;
        }
        self.discard_out();
        self.stream.poll_flush(cx)
    }

    /// Writes what waits, and of `data` behind it as much as goes; how much of `data` went.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_write_through(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.pending();
            let count = if waiting == 0 {
                ready!(self.stream.poll_write(cx, data))?
            } else {
                ready!(self.stream.poll_write_both(cx, &self.out[self.written..], data))?
            };
            if count > waiting {
                self.total += count as u64;
                self.discard_out();
                return Poll::Ready(Ok(count - waiting));
            }
            self.advance(count)?;
        }
    }

    fn advance(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written += count;
        self.total += count as u64;
        Ok(())
    }

    /// [`Conn::poll_flush`] as a future.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Gives back the memory that an idle connection does not need.
    pub fn rest(&mut self) {
        self.input.release();
        if self.pending() == 0 {
            self.written = 0;
            buffer::put_out(std::mem::take(&mut self.out));
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.discard_out();
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

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
        conn.rest();
        drop(conn);
        let mut all = String::new();
        peer.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "head body tail");
    }
}
