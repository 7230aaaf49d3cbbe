//! A connection's bytes, plain or through TLS, and the sign that its peer has hung up.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// One end of a connection.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    /// Bytes lie in the socket that tokio has been told to forget, see [`Stream::poll_hangup`].
    unread: bool,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// A connection whose bytes are what is said on it.
    pub fn plain(tcp: TcpStream) -> Stream {
        Stream { transport: Transport::Plain(tcp), unread: false }
    }

    /// A connection after its TLS handshake.
    pub fn tls(tls: impl Into<TlsStream<TcpStream>>) -> Stream {
        Stream { transport: Transport::Tls(Box::new(tls.into())), unread: false }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Reads what is there; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.unread {
            match rustix::net::recv(self.tcp(), &mut *into, RecvFlags::DONTWAIT) {
                Ok((_, count)) => {
                    self.unread = count == into.len();
                    return Poll::Ready(Ok(count));
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => self.unread = false,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        let mut into = ReadBuf::new(into);
        match &mut self.transport {
            Transport::Plain(tcp) => ready!(Pin::new(tcp).poll_read(cx, &mut into))?,
            Transport::Tls(tls) => ready!(Pin::new(tls).poll_read(cx, &mut into))?,
        }
        Poll::Ready(Ok(into.filled().len()))
    }

    /// Waits until there is something to read, or the end, without needing room for it.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unread {
            return Poll::Ready(Ok(()));
        }
        self.tcp().poll_read_ready(cx)
    }

    /// Writes some of `data`.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, data),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, data),
        }
    }

    /// Writes some of `first`, and of `second` after it, with one call if the transport can.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_write_both(&mut self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let parts = [IoSlice::new(first), IoSlice::new(second)];
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, &parts),
            Transport::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, &parts),
        }
    }

    /// Pushes out what TLS still holds.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Says that nothing more will be written (half-close).
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    /// Makes the end visible as a broken connection: the peer sees a reset, never a clean end.
    pub fn abort(&self) {
        let socket = socket2::SockRef::from(self.tcp());
        // A socket that is gone already needs no breaking.
        let _ = socket.set_linger(Some(std::time::Duration::ZERO));
        let _ = socket.shutdown(Shutdown::Read);
    }

    /// Ends when the peer has hung up (FIN or RST), whatever of its bytes is still unread.
    ///
    /// Bytes that arrive meanwhile stay in the socket, so the window of TCP holds a talkative peer back. tokio is told
    /// to forget that they are there, or it would report them for ever; epoll is edge-triggered, so the next sign of life,
    /// which may be the end, is reported again. What is so forgotten is remembered in `unread`.
    pub fn poll_hangup(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.tcp().poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let readiness = match pin!(self.tcp().ready(Interest::READABLE)).poll(cx) {
                Poll::Ready(Ok(readiness)) => readiness,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            };
            if readiness.is_read_closed() || readiness.is_error() {
                return Poll::Ready(());
            }
            self.unread = true;
            let forget = self.tcp().try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
            debug_assert!(forget.is_err(), "the closure never succeeds");
        }
    }

    /// Whether an idle connection can carry another message: nothing was said on it, and it was not closed.
    pub fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0_u8; 1];
        self.poll_read(cx, &mut byte).is_pending()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Stream::plain(listener.accept().await.unwrap().0), peer)
    }

    async fn read(stream: &mut Stream) -> Vec<u8> {
        let mut into = [0; 64];
        let count = poll_fn(|cx| stream.poll_read(cx, &mut into)).await.unwrap();
        into[..count].to_vec()
    }

    #[tokio::test]
    async fn a_hang_up_is_seen_behind_bytes_that_nobody_read_and_they_are_not_lost() {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(b"early").await.unwrap();
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        assert!(stream.poll_hangup(&mut Context::from_waker(Waker::noop())).is_pending());
        peer.shutdown().await.unwrap();
        poll_fn(|cx| stream.poll_hangup(cx)).await;
        assert_eq!(read(&mut stream).await, b"early");
        assert_eq!(read(&mut stream).await, b"");
    }

    #[tokio::test]
    async fn bytes_that_come_after_a_watch_for_the_hang_up_are_read() {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(b"one").await.unwrap();
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        assert!(stream.poll_hangup(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(read(&mut stream).await, b"one");
        let two = tokio::spawn(async move {
            peer.write_all(b"two").await.unwrap();
            peer
        });
        assert_eq!(read(&mut stream).await, b"two");
        drop(two.await.unwrap());
        poll_fn(|cx| stream.poll_hangup(cx)).await;
    }

    #[tokio::test]
    async fn a_reset_is_a_hang_up() {
        let (mut stream, peer) = pair().await;
        assert!(stream.poll_hangup(&mut Context::from_waker(Waker::noop())).is_pending());
        let (broken, ()) = (Stream::plain(peer), ());
        broken.abort();
        drop(broken);
        poll_fn(|cx| stream.poll_hangup(cx)).await;
    }
}
