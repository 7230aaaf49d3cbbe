//! TCP listener: binds, and accepts with a back-off when descriptors run out.

use std::future::pending;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::keep_alive;

/// Length of the kernel's accept queue (listen(2)); the kernel cuts it to `net.core.somaxconn`,
/// which is 4096 since Linux 5.4.
pub const BACKLOG: u16 = 4096;
/// First pause after the process ran out of descriptors or memory: long enough for a connection to
/// end.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause: callers notice recovery within a second.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Number of connections accepted in a row after which a shortage counts as over, and the next one
/// is logged again.
const ACCEPTS_TO_RECOVER: u32 = 1000;

/// Kind of a listener: the form in which its callers say where they go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListenerKind {
    /// Callers speak to the gateway itself: to its proxy, or another service of it.
    Proxy,
    /// Callers speak to an origin, and the kernel has led them here.
    Transparent,
}

/// Address to listen on, with the kind of the listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenAddress {
    /// Address; port 0 is any.
    pub address: SocketAddr,
    pub kind: ListenerKind,
}

/// A listening socket.
pub struct Listener {
    /// Non-blocking socket, registered with the runtime that created the listener.
    socket: AsyncFd<TcpListener>,
    /// Bound address, with the real port.
    addr: SocketAddr,
    /// Pauses between failed accepts.
    backoff: AcceptBackoff,
    /// The present pause. Kept here so that dropping `accept` does not end it.
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Called before each pause, to free descriptors.
    on_exhausted: Option<Box<dyn Fn() + Send>>,
}

impl Listener {
    /// Binds with `SO_REUSEADDR`, a backlog of 4096 and, for `[::]`, `IPV6_V6ONLY`. Must be called
    /// inside a runtime.
    ///
    /// # Errors
    /// Names the address and the system's reason: in use, not of this machine, not permitted.
    pub fn bind(addr: SocketAddr) -> io::Result<Listener> {
        Listener::bind_replacing(addr, &[])
    }

    /// Binds as [`Listener::bind`] does, although `others` listen on an overlapping address
    /// (`0.0.0.0` and an address of this machine) and will be closed soon. Until then the kernel
    /// gives each connection to the more specific of both.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind_replacing(addr: SocketAddr, others: &[&TcpListener]) -> io::Result<Listener> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"));
        for other in others {
            SockRef::from(*other).set_reuse_port(true).map_err(named)?;
        }
        let socket = listening_socket(addr, others).map_err(named)?;
        Listener::from_socket(socket)
    }

    /// Wraps a socket that listens already. Must be called inside a runtime.
    ///
    /// # Errors
    /// Names the address and the system's reason.
    pub fn from_socket(socket: TcpListener) -> io::Result<Listener> {
        let local = socket.local_addr();
        let named = |error: io::Error| {
            let addr = local.as_ref().map_or_else(|_| "?".to_owned(), ToString::to_string);
            io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
        };
        socket.set_nonblocking(true).map_err(named)?;
        // Accepted sockets inherit both options, which saves system calls for each of them.
        SockRef::from(&socket).set_tcp_nodelay(true).map_err(named)?;
        keep_alive::enable(&SockRef::from(&socket)).map_err(named)?;
        let addr = socket.local_addr().map_err(named)?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe; an owned socket keeps its descriptor, which is all that it asks for"
        )]
        let socket = AsyncFd::with_interest(socket, Interest::READABLE).map_err(named)?;
        Ok(Listener { socket, addr, backoff: AcceptBackoff::default(), pause: None, on_exhausted: None })
    }

    /// Sets a callback for when the process is out of descriptors or memory. It should free some,
    /// such as idle connections.
    pub fn set_on_exhausted(&mut self, on_exhausted: impl Fn() + Send + 'static) {
        self.on_exhausted = Some(Box::new(on_exhausted));
    }

    /// Lets the listener take connections to any address (`IP_TRANSPARENT`), which TPROXY leads to it.
    /// The option holds for both families.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`: connections that are led here by REDIRECT or DNAT need no such
    /// option.
    pub fn accept_any_destination(&self) -> io::Result<()> {
        SockRef::from(self.socket.get_ref()).set_ip_transparent_v4(true)
    }

    /// Address of the listener, with the port that the system chose if it was bound to port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Duplicates the socket (dup(2)): it listens until both are closed.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn try_clone_socket(&self) -> io::Result<TcpListener> {
        self.socket.get_ref().try_clone()
    }

    /// Accepts a connection from the kernel's queue without waiting; `None` if the queue is empty
    /// or accepting fails.
    pub fn try_accept(&mut self) -> Option<(TcpStream, SocketAddr)> {
        loop {
            match accept_one(self.socket.get_ref()) {
                Ok(accepted) => return Some(accepted),
                Err(error) if concerns_one_connection(&error) => {}
                Err(_) => return None,
            }
        }
    }

    /// Accepts the next connection: non-blocking, with `TCP_NODELAY` and keep-alive, not yet
    /// registered with any runtime, so that another thread's runtime may take it.
    ///
    /// When the process is out of descriptors or memory, it calls
    /// [`on_exhausted`](Listener::set_on_exhausted), pauses (10 ms, doubled up to 1 s), logs once
    /// for each such shortage, and goes on.
    ///
    /// # Cancel safety
    /// Cancel safe: no connection is lost, and the next call continues a pause.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(pause) = &mut self.pause {
                pause.await;
                self.pause = None;
            }
            match self.socket.async_io(Interest::READABLE, accept_one).await {
                Ok(accepted) => {
                    self.backoff.recover();
                    return accepted;
                }
                Err(error) if concerns_one_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    if self.backoff.is_new() {
                        tracing::error!(listener = %self.addr, %error, "cannot accept connections, pausing; if descriptors have run out, raise their limit (LimitNOFILE, ulimit -n)");
                    }
                    if let Some(on_exhausted) = &self.on_exhausted {
                        on_exhausted();
                    }
                    self.pause = Some(Box::pin(sleep(self.backoff.next_pause())));
                }
            }
        }
    }
}

/// Sleeps for a duration.
async fn sleep(time: Duration) {
    // Always elapses, because `pending` never ends. (`tokio::time::sleep` is disallowed by clippy.)
    let _elapsed = tokio::time::timeout(time, pending::<()>()).await;
}

/// Binds a listening socket, also beside `others` (SO_REUSEPORT).
fn listening_socket(addr: SocketAddr, others: &[&TcpListener]) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if !others.is_empty() {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG.into())?;
    // From here on no other socket can bind the address.
    socket.set_reuse_port(false)?;
    Ok(socket.into())
}

/// Accepts a non-blocking socket with one system call (accept4(2)); `TcpListener::accept` and
/// `set_nonblocking` take two.
fn accept_one(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (stream, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or_else(|| io::Error::from(Errno::CONNABORTED))?;
    Ok((TcpStream::from(stream), peer))
}

/// True if the error concerns only the connection to be accepted, so that the next may succeed
/// (accept(2): "treat them like EAGAIN by retrying").
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::PROTO
                | Errno::PERM
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::TIMEDOUT
        )
    )
}

/// Exponential back-off while the process is out of descriptors or memory.
#[derive(Default)]
struct AcceptBackoff {
    /// The last pause; zero after a successful accept.
    pause: Duration,
    /// Number of connections still to accept in a row before another failure counts as a new
    /// shortage.
    accepts_to_recover: u32,
}

impl AcceptBackoff {
    /// True if the last shortage is over. At the limit every freed descriptor admits one connection
    /// and the next accept fails; all these failures belong to one shortage.
    fn is_new(&self) -> bool {
        self.accepts_to_recover == 0
    }

    /// The next pause: twice the last one, within [`MIN_PAUSE`] and [`MAX_PAUSE`].
    fn next_pause(&mut self) -> Duration {
        self.accepts_to_recover = ACCEPTS_TO_RECOVER;
        self.pause = (self.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
        self.pause
    }

    /// A connection was accepted.
    fn recover(&mut self) {
        self.accepts_to_recover = self.accepts_to_recover.saturating_sub(1);
        self.pause = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::task::{Context, Poll, Waker};

    use super::*;

    const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[tokio::test]
    async fn an_accepted_connection_is_ready_for_any_runtime() {
        let mut listener = Listener::bind(LOCAL).unwrap();
        let mut caller = TcpStream::connect(listener.local_addr()).unwrap();
        let (mut stream, peer) = listener.accept().await;
        assert_eq!(peer, caller.local_addr().unwrap());
        assert!(stream.nodelay().unwrap() && keep_alive::is_enabled(&SockRef::from(&stream)));
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "it would block a runtime's thread");
        stream.write_all(b"x").unwrap();
        caller.read_exact(&mut [0]).unwrap();
    }

    #[tokio::test]
    async fn a_bind_error_names_the_address_and_the_reason() {
        let first = Listener::bind(LOCAL).unwrap();
        let addr = first.local_addr();
        let error = Listener::bind(addr).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let message = error.to_string();
        assert!(message.starts_with(&format!("cannot listen on {addr}: ")), "{message}");
        assert!(message.to_lowercase().contains("in use"), "{message}");
    }

    #[tokio::test]
    async fn both_families_can_have_the_same_port() {
        let Ok(six) = Listener::bind("[::]:0".parse().unwrap()) else {
            return;
        };
        let four = SocketAddr::new("0.0.0.0".parse().unwrap(), six.local_addr().port());
        Listener::bind(four).unwrap();
    }

    #[tokio::test]
    async fn a_wider_address_can_be_taken_beside_a_narrow_one_and_by_nobody_else() {
        let narrow = Listener::bind(LOCAL).unwrap();
        let wide = SocketAddr::new("0.0.0.0".parse().unwrap(), narrow.local_addr().port());
        assert_eq!(Listener::bind(wide).map(|_| ()).unwrap_err().kind(), ErrorKind::AddrInUse);
        let handle = narrow.try_clone_socket().unwrap();
        let mut wide = Listener::bind_replacing(wide, &[&handle]).unwrap();
        drop((narrow, handle));
        let caller = TcpStream::connect(("127.0.0.1", wide.local_addr().port())).unwrap();
        assert_eq!(wide.accept().await.1, caller.local_addr().unwrap());
        assert!(wide.try_accept().is_none());
        let again = Listener::bind(wide.local_addr()).map(|_| ()).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn an_accept_that_is_dropped_loses_no_connection() {
        let mut listener = Listener::bind(LOCAL).unwrap();
        for _ in 0..3 {
            let mut context = Context::from_waker(Waker::noop());
            let accepting = std::pin::pin!(listener.accept());
            assert!(matches!(accepting.poll(&mut context), Poll::Pending));
        }
        let caller = TcpStream::connect(listener.local_addr()).unwrap();
        assert_eq!(listener.accept().await.1, caller.local_addr().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_was_begun_outlives_the_accept_that_began_it() {
        let mut listener = Listener::bind(LOCAL).unwrap();
        let _caller = TcpStream::connect(listener.local_addr()).unwrap();
        let pause = listener.backoff.next_pause();
        listener.pause = Some(Box::pin(sleep(pause)));
        let begun = tokio::time::Instant::now();
        assert!(tokio::time::timeout(pause / 2, listener.accept()).await.is_err());
        listener.accept().await;
        assert!(begun.elapsed() >= pause, "{:?}", begun.elapsed());
        assert!(listener.backoff.pause.is_zero(), "an accepted connection ends the pauses");
    }

    #[test]
    fn pauses_double_up_to_a_second_and_begin_anew_after_a_success() {
        let mut backoff = AcceptBackoff::default();
        assert!(backoff.is_new());
        let pauses: Vec<u128> = (0..9).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert!(!backoff.is_new());
        backoff.recover();
        assert!(!backoff.is_new(), "one that was let in does not end it");
        assert_eq!(backoff.next_pause(), MIN_PAUSE);
        (0..ACCEPTS_TO_RECOVER).for_each(|_| backoff.recover());
        assert!(backoff.is_new());
    }

    #[test]
    fn only_a_broken_connection_is_passed_over_without_a_pause() {
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PERM] {
            assert!(concerns_one_connection(&errno.into()), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INVAL] {
            assert!(!concerns_one_connection(&errno.into()), "{errno}");
        }
    }
}
