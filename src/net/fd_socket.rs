//! Two processes of the gateway talk over a pair of sockets: messages, and descriptors that come with them.

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

/// How many descriptors come with a message at most; the kernel takes 253 (SCM_MAX_FD).
pub const MAX_FDS: usize = 200;
/// A longer message is none: what is longer must be cut by whoever sends it.
const MAX_MESSAGE: usize = 1 << 30;
/// The bytes of a message's length, before it.
const LENGTH_PREFIX: usize = 4;

/// One end of the pair. Both ends may be used by two threads each, one that sends and one that receives.
#[derive(Debug)]
pub struct FdSocket(UnixStream);

impl FdSocket {
    /// Both ends: one for this process, one that another may be started with.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn pair() -> io::Result<(FdSocket, OwnedFd)> {
        let (here, there) = UnixStream::pair()?;
        Ok((FdSocket(here), there.into()))
    }

    /// The end that this process was started with, as its standard input; that is empty from then on.
    ///
    /// # Errors
    /// If its standard input is no such thing.
    pub fn from_stdin() -> io::Result<FdSocket> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // Whatever else it may be has no peer.
        stream.peer_addr()?;
        // As long as it is open there, the other process does not see the end.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(FdSocket(stream))
    }

    /// The same end once more, for another thread.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<FdSocket> {
        Ok(FdSocket(self.0.try_clone()?))
    }

    /// How long to wait at most from here on: for the next message, and for the other process to take one. `None`: for
    /// ever. It holds for every handle of this end.
    ///
    /// # Errors
    /// If the socket is broken.
    pub fn set_timeouts(&self, receive: Option<Duration>, send: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(receive)?;
        self.0.set_write_timeout(send)
    }

    /// All is said: the other process sees the end once it has received what was sent.
    pub fn shutdown_write(&self) {
        // It may have ended already.
        self.0.shutdown(Shutdown::Write).ok();
    }

    /// Nothing is said any more, in either direction: whoever waits here or there sees the end.
    pub fn shutdown(&self) {
        // It may have ended already.
        self.0.shutdown(Shutdown::Both).ok();
    }

    /// Sends a message, and these descriptors with it.
    ///
    /// # Errors
    /// If the other process is gone, does not receive in time, or these are more than may be sent at once.
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
        // The descriptors went with the first byte.
        (&self.0).write_all(&length[sent.min(LENGTH_PREFIX)..])?;
        (&self.0).write_all(&message[sent.saturating_sub(LENGTH_PREFIX)..])
    }

    /// The next message, and the descriptors that came with it; `None` at the end.
    ///
    /// # Errors
    /// If the other process has died in the middle of a message, or sends none in time.
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
            return Err(invalid("descriptors were lost on their way: there are too many open files"));
        }
        Ok(received.bytes)
    }
}

impl From<OwnedFd> for FdSocket {
    /// The end that [`FdSocket::pair`] made for another process.
    fn from(end: OwnedFd) -> FdSocket {
        FdSocket(end.into())
    }
}

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
