//! A byte stream, plain or TLS, that remembers what it read ahead and when the kernel received it.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::clock;

/// A socket with the kernel's receive stamp of its latest segment, if it is asked for stamps.
struct Stamped {
    tcp: TcpStream,
    stamp: Option<u64>,
}

enum Kind {
    Plain(Stamped),
    Server(Box<StreamOwned<ServerConnection, Stamped>>),
    Caller(Box<StreamOwned<ClientConnection, Stamped>>),
}

/// How a read ended that brought no bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// The peer closed its side in order.
    Closed,
    /// The peer reset the connection, or broke off TLS without saying so.
    Reset,
    /// Nothing came in time.
    Silence,
}

/// A stream with what was read ahead.
pub(crate) struct Stream {
    kind: Kind,
    /// Read, and not yet taken.
    pub(crate) ahead: Vec<u8>,
    /// Time at which the kernel received the latest bytes; the present, if it does not say.
    pub(crate) stamp: u64,
    /// Whether every stamp so far was the kernel's.
    pub(crate) stamped_by_kernel: bool,
}

impl Stream {
    pub(crate) fn plain(tcp: TcpStream) -> Stream {
        Stream::over(Kind::Plain(Stamped { tcp, stamp: None }))
    }

    pub(crate) fn server(session: ServerConnection, tcp: TcpStream) -> Stream {
        Stream::over(Kind::Server(Box::new(StreamOwned::new(session, Stamped { tcp, stamp: None }))))
    }

    pub(crate) fn caller(session: ClientConnection, tcp: TcpStream) -> Stream {
        Stream::over(Kind::Caller(Box::new(StreamOwned::new(session, Stamped { tcp, stamp: None }))))
    }

    fn over(kind: Kind) -> Stream {
        Stream { kind, ahead: Vec::new(), stamp: 0, stamped_by_kernel: true }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.socket().tcp
    }

    fn socket(&self) -> &Stamped {
        match &self.kind {
            Kind::Plain(socket) => socket,
            Kind::Server(tls) => tls.get_ref(),
            Kind::Caller(tls) => tls.get_ref(),
        }
    }

    /// The socket itself, for a stream that is not TLS yet.
    pub(crate) fn into_tcp(self) -> TcpStream {
        match self.kind {
            Kind::Plain(socket) => socket.tcp,
            Kind::Server(_) | Kind::Caller(_) => panic!("a TLS stream has no bare socket to give"),
        }
    }

    /// Writes all, or says why not.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.kind {
            Kind::Plain(socket) => socket.write_all(bytes),
            Kind::Server(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
            Kind::Caller(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    /// Completes the TLS handshake of a caller: the certificates that were shown, or why not.
    pub(crate) fn handshake(&mut self) -> io::Result<Vec<CertificateDer<'static>>> {
        let Kind::Caller(tls) = &mut self.kind else { panic!("only a caller asks who the other side is") };
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(tls.conn.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect())
    }

    /// Reads more into `ahead` until `end`.
    pub(crate) fn more(&mut self, end: Instant) -> Result<usize, Stop> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.tcp().set_read_timeout(Some(left)).expect("a timeout can be set");
        let mut chunk = vec![0; 64 << 10];
        let read = match &mut self.kind {
            Kind::Plain(socket) => socket.read(&mut chunk),
            Kind::Server(tls) => tls.read(&mut chunk),
            Kind::Caller(tls) => tls.read(&mut chunk),
        };
        match read {
            Ok(0) => Err(Stop::Closed),
            Ok(count) => {
                let stamp = self.socket().stamp;
                self.stamped_by_kernel &= stamp.is_some();
                self.stamp = stamp.unwrap_or_else(clock::now);
                self.ahead.extend_from_slice(&chunk[..count]);
                Ok(count)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(Stop::Silence),
            Err(error) if error.kind() == ErrorKind::Interrupted => self.more(end),
            Err(_) => Err(Stop::Reset),
        }
    }

    /// Takes everything up to and with `mark`, reading as needed; `Err` leaves what came in `ahead`.
    pub(crate) fn take_until(&mut self, mark: &[u8], end: Instant) -> Result<Vec<u8>, Stop> {
        let mut searched = 0;
        loop {
            let from = searched.max(mark.len()) - mark.len();
            if let Some(at) = self.ahead[from..].windows(mark.len()).position(|w| w == mark) {
                return Ok(self.ahead.drain(..from + at + mark.len()).collect());
            }
            searched = self.ahead.len();
            self.more(end)?;
        }
    }

    /// Takes exactly `count` bytes, reading as needed; `Err` leaves what came in `ahead`.
    pub(crate) fn take(&mut self, count: usize, end: Instant) -> Result<Vec<u8>, Stop> {
        while self.ahead.len() < count {
            self.more(end)?;
        }
        Ok(self.ahead.drain(..count).collect())
    }

    /// Takes all that comes, and how it ended.
    pub(crate) fn take_rest(&mut self, end: Instant) -> (Vec<u8>, Stop) {
        loop {
            if let Err(stop) = self.more(end) {
                return (std::mem::take(&mut self.ahead), stop);
            }
        }
    }

    /// No more bytes from us; those of the peer are still read. TLS says so first.
    pub(crate) fn finish(&mut self) {
        match &mut self.kind {
            Kind::Plain(_) => {}
            Kind::Server(tls) => {
                tls.conn.send_close_notify();
                // A peer that is gone already is not told; that is what the tests of hang-ups are about.
                tls.flush().ok();
            }
            Kind::Caller(tls) => {
                tls.conn.send_close_notify();
                tls.flush().ok();
            }
        }
        self.tcp().shutdown(Shutdown::Write).ok();
    }

    /// Ends with a reset, so that the peer learns at once and loses what it has not read.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)).ok();
    }
}

impl Read for Stamped {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let mut parts = [IoSliceMut::new(chunk)];
        let message = recvmsg::<()>(self.tcp.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
        self.stamp = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|one| {
                let ControlMessageOwned::ScmTimestampns(at) = one else {
                    return None;
                };
                let nanos = i128::from(at.tv_sec()) * 1_000_000_000 + i128::from(at.tv_nsec());
                u128::try_from(nanos).ok().map(clock::from_unix_nanos)
            })
        });
        Ok(message.bytes)
    }
}

impl Write for Stamped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}
