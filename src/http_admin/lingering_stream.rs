//! Stream that is closed in order: after its own end it reads what its peer had under way.
//!
//! Bytes that arrive at a closed socket reset the connection, and with it the peer may lose the last bytes of ours: of
//! HTTP/2 the GOAWAY, which crosses with the peer's acknowledgements (RFC 9112 §9.6 describes the same for HTTP/1.1).

use std::future::{Future, Pending, pending};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Timeout, timeout};

/// Longest time that a peer has to close its side: some round trips.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A stream of which `poll_shutdown` ends when the peer has closed its side too, at the latest after [`LINGER_TIMEOUT`].
pub(super) struct LingeringStream<S> {
    stream: S,
    /// End of the patience, from our own end on.
    patience: Option<Pin<Box<Timeout<Pending<()>>>>>,
}

impl<S> LingeringStream<S> {
    pub(super) fn new(stream: S) -> LingeringStream<S> {
        LingeringStream { stream, patience: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LingeringStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let LingeringStream { stream, patience } = self.get_mut();
        if patience.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let patience = patience.get_or_insert_with(|| Box::pin(timeout(LINGER_TIMEOUT, pending())));
        loop {
            if patience.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut unread = [0; 512];
            let mut unread = ReadBuf::new(&mut unread);
            // An error is an end, too.
            if ready!(Pin::new(&mut *stream).poll_read(cx, &mut unread)).is_err() || unread.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_closed_when_its_peer_has_closed_and_its_bytes_are_read() {
        let (stream, mut peer) = duplex(16);
        let mut stream = LingeringStream::new(stream);
        let closing = tokio::spawn(async move { stream.shutdown().await });
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "our end comes first");
        // More than fits in between, so that it is read.
        peer.write_all(&[7; 100]).await.unwrap();
        assert!(!closing.is_finished());
        drop(peer);
        closing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_close_is_left_in_the_end() {
        let (stream, _peer) = duplex(16);
        let began = tokio::time::Instant::now();
        LingeringStream::new(stream).shutdown().await.unwrap();
        assert_eq!(began.elapsed(), LINGER_TIMEOUT);
    }
}
