//! TCP connection that detects a hang-up of its peer, also behind unread bytes.
//!
//! tokio's `TcpStream` reports "readable" until the bytes were read, so a task cannot wait for the
//! end of a connection that has unread bytes. Here the bytes are made to be forgotten, and a flag,
//! `may_have_unread`, remembers that the next read has to ask the kernel. The flag has two further
//! uses: it saves the wait for the first poll of an accepted connection, and it makes an idle
//! connection's check look at the socket itself.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::poll_proceed;

/// TCP connection.
#[derive(Debug)]
pub(super) struct Tcp {
    stream: TcpStream,
    /// The socket may hold bytes that tokio does not know of: it was made to forget them, see
    /// [`Tcp::poll_hangup`], or has not polled yet, see [`Tcp::accepted`] and [`Tcp::force_read`].
    may_have_unread: bool,
    /// Number of bytes that the kernel has accepted.
    kernel_accepted: u64,
}

impl Tcp {
    /// Connection without bytes that tokio does not know of, such as one that was opened to an
    /// origin.
    pub(super) fn new(stream: TcpStream) -> Tcp {
        Tcp { stream, may_have_unread: false, kernel_accepted: 0 }
    }

    /// Connection with a peer that has most likely sent bytes: the first read does not wait for the
    /// poll. A wrong guess costs one system call.
    pub(super) fn accepted(stream: TcpStream) -> Tcp {
        Tcp { stream, may_have_unread: true, kernel_accepted: 0 }
    }

    /// Number of bytes that the kernel has accepted.
    ///
    /// Accepted bytes are in the send buffer of the socket, and may have left or not. A request of
    /// which the kernel has accepted nothing was certainly not sent.
    pub(super) fn kernel_accepted(&self) -> u64 {
        self.kernel_accepted
    }

    /// Adds the bytes of a successful write to `kernel_accepted`, and passes the result on.
    fn count_written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            self.kernel_accepted += count as u64;
        }
        written
    }

    /// Makes the next read ask the kernel instead of tokio's record of readiness.
    pub(super) fn force_read(&mut self) {
        self.may_have_unread = true;
    }

    /// True if a read may find bytes that the poll does not report.
    pub(super) fn may_have_unread(&self) -> bool {
        self.may_have_unread
    }

    /// Waits for bytes or for the end, without reading.
    ///
    /// Ready at once if `may_have_unread` is set, although a read may then find nothing.
    ///
    /// # Errors
    /// Those of the runtime's registration; errors of the socket are reported by the read.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.may_have_unread {
            return Poll::Ready(Ok(()));
        }
        self.stream.poll_read_ready(cx)
    }

    /// False if all bytes that the runtime knows of were read. Costs no system call and none of the
    /// task's budget.
    pub(super) fn may_have_input(&self) -> bool {
        self.may_have_unread || self.stream.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// Ready after the peer has hung up (FIN or RST), also with unread bytes before it.
    ///
    /// Bytes that arrive meanwhile stay in the socket, so that TCP's window holds the peer back.
    /// tokio is made to forget them, or it would report them forever; epoll is edge-triggered, so
    /// the next event, which may be the end, is reported again. The forgotten bytes are remembered
    /// in `may_have_unread`.
    pub(super) fn poll_hangup(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let readiness = match pin!(self.stream.ready(Interest::READABLE)).poll(cx) {
                Poll::Ready(Ok(readiness)) => readiness,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            };
            if readiness.is_read_closed() || readiness.is_error() {
                return Poll::Ready(());
            }
            self.may_have_unread = true;
            let forget = self.stream.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
            debug_assert!(forget.is_err(), "the closure never succeeds");
        }
    }

    /// Writes some of `data`, shortly before the end of the connection: the kernel holds it back,
    /// so that both leave in one segment (tcp(7), `MSG_MORE`; it sends after 200 ms if no end
    /// comes).
    pub(super) fn poll_write_before_end(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let send = || Ok(rustix::net::send(&self.stream, data, flags)?);
            match self.stream.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => return self.count_written(Poll::Ready(sent)),
            }
        }
    }

    /// Longest time that written bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, tcp(7));
    /// `None`: the kernel's default, about a quarter of an hour.
    pub(super) fn set_user_timeout(&self, after: Option<Duration>) {
        // A closed socket needs no timeout.
        let _ = socket2::SockRef::from(&self.stream).set_tcp_user_timeout(after);
    }

    /// Breaks the connection: the peer sees a reset, never a clean end.
    pub(super) fn abort(&self) {
        let socket = socket2::SockRef::from(&self.stream);
        // A closed socket cannot be broken.
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.shutdown(Shutdown::Read);
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.may_have_unread {
            // A peer that sends faster than it is read must not keep its task from ever yielding.
            let budget = ready!(poll_proceed(cx));
            let room = into.initialize_unfilled();
            match rustix::net::recv(&self.stream, &mut *room, RecvFlags::DONTWAIT) {
                Ok((_, count)) => {
                    budget.made_progress();
                    self.may_have_unread = count == room.len();
                    into.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.may_have_unread = false,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.count_written(written)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.count_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    mod hangups;

    use std::future::poll_fn;
    use std::io::Write;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::wire::Stream;

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
    async fn what_is_written_before_the_end_arrives_with_it() {
        let (mut stream, mut peer) = pair().await;
        assert_eq!(poll_fn(|cx| stream.poll_write_before_end(cx, b"last words")).await.unwrap(), 10);
        poll_fn(|cx| stream.poll_shutdown(cx)).await.unwrap();
        let mut all = String::new();
        peer.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "last words");
    }

    #[tokio::test]
    async fn a_connection_is_reusable_only_if_the_kernel_says_so() {
        for (says, is_over) in [(&b"surplus"[..], false), (b"", true)] {
            let (mut stream, peer) = pair().await;
            assert!(stream.is_reusable());
            let mut peer = peer.into_std().unwrap();
            peer.set_nonblocking(false).unwrap();
            // Nothing is awaited from here on: the runtime cannot notice the peer's actions.
            peer.write_all(says).unwrap();
            if is_over {
                peer.shutdown(Shutdown::Both).unwrap();
            }
            assert!(!stream.is_reusable(), "{says:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_asked_whether_it_is_reusable_by_a_task_that_has_used_up_its_budget_too() {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(b"surplus").await.unwrap();
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        while tokio::task::coop::has_budget_remaining() {
            assert!(pin!(tokio::task::coop::consume_budget()).poll(&mut cx).is_ready());
        }
        assert!(!stream.is_reusable());
    }

    #[tokio::test]
    async fn reads_that_do_not_wait_for_the_poll_use_up_the_budget_of_their_task_and_wake_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = Stream::accepted(listener.accept().await.unwrap().0);
        let length = 32 << 10;
        peer.write_all(&vec![7; length]).await.unwrap();
        let (mut read, mut most_at_once) = (0, 0);
        poll_fn(|cx| {
            let mut at_once = 0;
            while read < length {
                // Each read fills its room, so that the next does not wait for the poll either.
                match stream.poll_read(cx, &mut [0; 8]) {
                    Poll::Ready(count) => (read, at_once) = (read + count.unwrap(), at_once + 1),
                    Poll::Pending => return Poll::Pending,
                }
                most_at_once = most_at_once.max(at_once);
            }
            Poll::Ready(())
        })
        .await;
        assert!(most_at_once <= 256, "{most_at_once} reads without a pause; tokio's budget is 128");
    }

    #[tokio::test]
    async fn a_read_that_finds_nothing_costs_no_budget() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut tcp = Tcp::accepted(listener.accept().await.unwrap().0);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            tcp.force_read();
            assert!(Pin::new(&mut tcp).poll_read(&mut cx, &mut ReadBuf::new(&mut [0; 8])).is_pending());
        }
        assert!(tokio::task::coop::has_budget_remaining());
    }

    #[tokio::test]
    async fn a_connection_that_was_just_read_seems_reusable_until_something_is_known() {
        let (mut stream, mut peer) = pair().await;
        assert!(stream.seems_reusable());
        peer.write_all(b"answer").await.unwrap();
        let mut answer = [0; 64];
        assert_eq!(stream.read(&mut answer).await.unwrap(), 6);
        assert!(stream.seems_reusable(), "all of it was read");
        peer.write_all(b"surplus").await.unwrap();
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        while tokio::task::coop::has_budget_remaining() {
            assert!(pin!(tokio::task::coop::consume_budget()).poll(&mut cx).is_ready());
        }
        assert!(!stream.seems_reusable(), "also for a task that has used up its budget");
    }

    #[tokio::test]
    async fn what_goes_unacknowledged_breaks_a_connection_after_a_time_that_can_be_lifted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = Tcp::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        for after in [Some(Duration::from_secs(90)), None] {
            tcp.set_user_timeout(after);
            assert_eq!(socket2::SockRef::from(&tcp.stream).tcp_user_timeout().unwrap(), after);
        }
    }

    #[tokio::test]
    async fn a_reset_is_a_hang_up() {
        let (mut stream, peer) = pair().await;
        assert!(stream.poll_hangup(&mut Context::from_waker(Waker::noop())).is_pending());
        let mut broken = Stream::plain(peer);
        broken.abort();
        drop(broken);
        poll_fn(|cx| stream.poll_hangup(cx)).await;
    }
}
