//! Unix socket between two processes of the gateway: length-prefixed messages that carry file
//! descriptors (SCM_RIGHTS, unix(7)).
//!
//! A message is its length in 4 bytes, little-endian, and its bytes. Descriptors travel with the
//! first byte of the length.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::PidfdFlags;

/// Maximum number of descriptors of a message; the kernel allows 253 (SCM_MAX_FD).
pub const MAX_FDS: usize = 200;
/// Maximum length of a message, 1 GiB: a bound for the receiver's memory. A sender splits what is
/// longer.
const MAX_MESSAGE: usize = 1 << 30;
/// Length of the length prefix, in bytes: a `u32`.
const LENGTH_PREFIX: usize = 4;

/// One end of a socket pair. Two threads may use an end at one time, one to send and one to
/// receive.
///
/// Blocking: calls belong on a thread of their own, and not on the event loop. Messages of two
/// threads that send at one time would mix.
#[derive(Debug)]
pub struct FdSocket(UnixStream);

impl FdSocket {
    /// Creates both ends: one for this process, and one to start another process with.
    ///
    /// # Errors
    /// If no file descriptors are left.
    pub fn pair() -> io::Result<(FdSocket, OwnedFd)> {
        let (here, there) = UnixStream::pair()?;
        Ok((FdSocket(here), there.into()))
    }

    /// Takes the end that this process was started with as its standard input, and replaces that by
    /// `/dev/null`.
    ///
    /// # Errors
    /// If the standard input is not a connected Unix socket.
    pub fn from_stdin() -> io::Result<FdSocket> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // Fails if the standard input is anything else: only a connected socket has a peer.
        stream.peer_addr()?;
        // While a copy stays open as standard input, the other process sees no end of the stream.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(FdSocket(stream))
    }

    /// A second handle of the same end, for another thread.
    ///
    /// # Errors
    /// If no file descriptors are left.
    pub fn try_clone(&self) -> io::Result<FdSocket> {
        Ok(FdSocket(self.0.try_clone()?))
    }

    /// The process that made the pair, for its other end.
    ///
    /// # Errors
    /// If it has ended, or the system has no pidfd (before Linux 5.3).
    pub fn peer_pidfd(&self) -> io::Result<OwnedFd> {
        let credentials = rustix::net::sockopt::socket_peercred(&self.0)?;
        Ok(rustix::process::pidfd_open(credentials.pid, PidfdFlags::empty())?)
    }

    /// Sets the timeouts of [`FdSocket::receive`] and [`FdSocket::send`], for every handle of this
    /// end. `None`: no timeout.
    ///
    /// # Errors
    /// If the socket is broken.
    pub fn set_timeouts(&self, receive: Option<Duration>, send: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(receive)?;
        self.0.set_write_timeout(send)
    }

    /// Closes the sending side: the other process sees the end of the stream after the messages
    /// sent so far.
    pub fn shutdown_write(&self) {
        // Fails only if the other process has closed it already.
        self.0.shutdown(Shutdown::Write).ok();
    }

    /// Closes both directions: pending and later calls of both processes see the end of the stream.
    pub fn shutdown(&self) {
        // Fails only if the other process has closed it already.
        self.0.shutdown(Shutdown::Both).ok();
    }

    /// Sends a message with these descriptors.
    ///
    /// Blocks while the socket's buffer is full. Descriptors are duplicated into the other process;
    /// those of this one stay open.
    ///
    /// # Errors
    /// If the other process has closed the socket or does not receive in time; `InvalidData` for a
    /// message over 1 GiB or more than [`MAX_FDS`] descriptors.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let length = u32::try_from(message.len()).ok().filter(|length| *length as usize <= MAX_MESSAGE);
        let length = length.ok_or_else(|| invalid("the message is too long"))?.to_le_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = descriptors.len() <= MAX_FDS;
            if !fits || !with.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(invalid("too many descriptors for one message"));
            }
        }
        let parts = [IoSlice::new(&length), IoSlice::new(message)];
        let sent = retry_on_intr(|| sendmsg(&self.0, &parts, &mut with, SendFlags::NOSIGNAL))?;
        // A partial write has sent at least one byte, and the descriptors with it.
        (&self.0).write_all(&length[sent.min(LENGTH_PREFIX)..])?;
        (&self.0).write_all(&message[sent.saturating_sub(LENGTH_PREFIX)..])
    }

    /// Receives the next message with its descriptors; `None` at the end of the stream.
    ///
    /// Blocks until a whole message has arrived. Descriptors are close-on-exec, and belong to the
    /// returned vector.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends within a message, `WouldBlock` at the timeout,
    /// `InvalidData` for a message over 1 GiB or if descriptors were lost.
    pub fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut length = [0; LENGTH_PREFIX];
        let mut descriptors = Vec::new();
        let mut got = 0;
        while got < LENGTH_PREFIX {
            let more = self.receive_some(&mut length[got..], &mut descriptors)?;
            if more == 0 {
                return if got == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            got += more;
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(invalid("the message is too long"));
        }
        let mut message = Vec::new();
        (&self.0).take(length as u64).read_to_end(&mut message)?;
        if message.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((message, descriptors)))
    }

    /// Receives some bytes (recvmsg(2)), and appends the descriptors that came with them.
    fn receive_some(&self, into: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let received =
            retry_on_intr(|| recvmsg(&self.0, &mut [IoSliceMut::new(into)], &mut with, RecvFlags::CMSG_CLOEXEC))?;
        for message in with.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(invalid("descriptors were lost: too many open files"));
        }
        Ok(received.bytes)
    }
}

impl From<OwnedFd> for FdSocket {
    /// Takes the end that [`FdSocket::pair`] made for another process.
    fn from(end: OwnedFd) -> FdSocket {
        FdSocket(end.into())
    }
}

/// Error of the kind `InvalidData` with this text.
fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (FdSocket, FdSocket) {
        let (here, there) = FdSocket::pair().unwrap();
        (here, FdSocket(there.into()))
    }

    #[test]
    fn messages_arrive_whole_and_in_order_however_long() {
        let (here, there) = pair();
        let long: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        let sent = long.clone();
        let sender = std::thread::spawn(move || {
            here.send(b"first", &[]).unwrap();
            here.send(&[], &[]).unwrap();
            here.send(&sent, &[]).unwrap();
        });
        assert_eq!(there.receive().unwrap().unwrap().0, b"first");
        assert_eq!(there.receive().unwrap().unwrap().0, b"");
        assert!(there.receive().unwrap().unwrap().0 == long);
        sender.join().unwrap();
        assert!(there.receive().unwrap().is_none(), "the sender is gone");
    }

    #[test]
    fn a_socket_that_is_sent_is_the_same_socket() {
        let (here, there) = pair();
        let listeners: Vec<TcpListener> = (0..5).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let sent: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        here.send(b"sockets", &sent).unwrap();
        let (message, received) = there.receive().unwrap().unwrap();
        assert_eq!(message, b"sockets");
        let received: Vec<TcpListener> = received.into_iter().map(TcpListener::from).collect();
        let addresses = |of: &[TcpListener]| of.iter().map(|one| one.local_addr().unwrap()).collect::<Vec<_>>();
        assert_eq!(addresses(&received), addresses(&listeners));
    }

    #[test]
    fn who_says_nothing_is_not_waited_for_and_half_a_message_is_none() {
        let (here, there) = pair();
        there.set_timeouts(Some(Duration::from_millis(10)), None).unwrap();
        assert_eq!(there.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        (&here.0).write_all(&[9, 0, 0, 0, 1, 2]).unwrap();
        drop(here);
        assert_eq!(there.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn more_descriptors_than_go_with_a_message_are_refused() {
        let (here, _there) = pair();
        let many = [here.0.as_fd(); MAX_FDS + 1];
        assert_eq!(here.send(b"", &many).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
