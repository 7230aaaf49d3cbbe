//! Relay of `exec --all`: a process outside of the program's namespace, with the sockets in it.
//!
//! Each connection of the program, and of its children, is passed on to the gateway by SOCKS5: to the name
//! that its destination stands for ([`Names`]), or to the address, with the wish that the host be found in
//! its first bytes ([`PASSED_ON`]). So any gateway will do, also one that another user runs. Connections to
//! the gateway itself, of programs that read the variables, pass as they are. Queries of DNS are answered
//! here.
//!
//! Bytes of the program follow the request at once, so that the gateway notices if it hangs up while it
//! waits. A refusal resets its connection.
//!
//! Life: exec starts it, by way of a starter, before it enters the namespace, sends it the sockets, and
//! becomes the program. The relay ends after the program and the last of its connections.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::{PidfdFlags, Resource, Rlimit, getpid, getrlimit, pidfd_open, setrlimit, setsid};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Semaphore;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::timeout;

use super::super::super::variables::CREDENTIALS;
use super::dns::NameServer;
use super::inside::Sockets;
use super::names::Names;
use crate::net::dial;
use crate::net::fd_socket::FdSocket;
use crate::wire::socks5_server::{AuthMethod, Login, PASSED_ON, Reply, VERSION};

/// Time for the relay to start, and for exec to set the namespace up: so long that only a hang is slower.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Time after the end of the program for its last connections: what it has sent, and its children.
const LAST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a client to send its next query over TCP (RFC 7766 §6.2.3 asks for seconds).
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Most queries that are answered at one time; further ones are dropped, and asked again.
const MAX_QUERIES: usize = 256;
/// Longest query: a name has 255 bytes, and clients add options of some hundred.
const MAX_QUERY: usize = 4096;
/// Pause after a socket has failed, so that a lasting failure takes no processor.
const PAUSE: Duration = Duration::from_millis(10);
/// Port of DNS.
const DNS: u16 = 53;
/// Most connections at one time, however many descriptors there are.
const MAX_CONNECTIONS: u64 = 10_000;
/// Descriptors that are no connections.
const OTHER_DESCRIPTORS: u64 = 100;

/// A relay that has started, and waits for its sockets.
pub(super) struct RelayHandle(FdSocket);

impl RelayHandle {
    /// Starts the relay to the gateway at this address.
    ///
    /// # Errors
    /// If the system gives no process.
    pub(super) fn start(gateway: SocketAddr) -> io::Result<RelayHandle> {
        let (near, far) = FdSocket::pair()?;
        near.set_timeouts(Some(READY_TIMEOUT), Some(READY_TIMEOUT))?;
        let mut starter = Command::new(std::env::current_exe()?);
        starter.args(["exec", "--role", "relay-starter", "--"]).arg(gateway.to_string());
        starter.stdin(far).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        starter.status()?;
        Ok(RelayHandle(near))
    }

    /// Sends the relay its sockets, and waits until it uses them. It stays for this process.
    ///
    /// # Errors
    /// If the relay has ended, or the system knows no pidfd (before Linux 5.3).
    pub(super) fn hand_over(self, sockets: &Sockets) -> io::Result<()> {
        let end = pidfd_open(getpid(), PidfdFlags::empty())?;
        let (tcp, udp) = (sockets.tcp.iter().map(AsFd::as_fd), sockets.udp.iter().map(AsFd::as_fd));
        let descriptors: Vec<_> = std::iter::once(end.as_fd()).chain(tcp).chain(udp).collect();
        self.0.send(&[], &descriptors)?;
        match self.0.receive()? {
            Some(_) => Ok(()),
            None => Err(io::Error::other("the relay has ended")),
        }
    }
}

/// Starts the relay and exits, so that its parent is the system's first process.
pub(in super::super) fn run_starter(arguments: &[OsString]) -> ExitCode {
    let mut relay = Command::new(std::env::current_exe().unwrap_or_else(|_| "lockgate".into()));
    relay.args(["exec", "--role", "relay", "--"]).args(arguments);
    if relay.spawn().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The relay: stdin is the socket to exec.
pub(in super::super) fn run(arguments: &[OsString]) -> ExitCode {
    // Away from the terminal and its signals. It fails only for the leader of a process group, which is apart already.
    setsid().ok();
    let gateway = arguments.first().and_then(|text| text.to_str()?.parse().ok());
    match gateway.map(relay) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(_)) | None => ExitCode::FAILURE,
    }
}

/// Takes the sockets, and serves them until the program has ended.
///
/// # Errors
/// If exec has given up, or the system refuses a runtime.
fn relay(gateway: SocketAddr) -> io::Result<()> {
    let exec = FdSocket::from_stdin()?;
    exec.set_timeouts(Some(READY_TIMEOUT), Some(READY_TIMEOUT))?;
    std::env::set_current_dir("/")?;
    let Some((_, descriptors)) = exec.receive()? else { return Ok(()) };
    let mut descriptors = descriptors.into_iter();
    let Some(program) = descriptors.next() else { return Ok(()) };
    let sockets: Vec<OwnedFd> = descriptors.collect();
    let (tcp, udp) = sockets.split_at(sockets.len() / 2);
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let served = runtime.block_on(async {
        let shared = Rc::new(RelayState::new(gateway)?);
        for socket in tcp {
            let listener = TcpListener::from(socket.try_clone()?);
            listener.set_nonblocking(true)?;
            spawn_local(accept(tokio::net::TcpListener::from_std(listener)?, Rc::clone(&shared)));
        }
        for socket in udp {
            let socket = UdpSocket::from(socket.try_clone()?);
            socket.set_nonblocking(true)?;
            spawn_local(answer_queries(tokio::net::UdpSocket::from_std(socket)?, Rc::clone(&shared)));
        }
        exec.send(&[], &[])?;
        // Dropped, so that exec does not wait for this process.
        drop(exec);
        spawn_blocking(move || retry_on_intr(|| poll(&mut [PollFd::new(&program, PollFlags::IN)], None))).await??;
        let all = u32::try_from(shared.most).unwrap_or(u32::MAX);
        timeout(LAST_TIMEOUT, shared.connections.acquire_many(all)).await.ok();
        Ok(())
    });
    // A lookup may still occupy a thread.
    runtime.shutdown_background();
    served
}

/// State of all connections.
struct RelayState {
    gateway: SocketAddr,
    /// Name and password for the gateway, if there are any.
    login: Option<Vec<u8>>,
    names: Rc<RefCell<Names>>,
    server: NameServer,
    connections: Arc<Semaphore>,
    /// Number of permits in `connections`.
    most: usize,
    queries: Arc<Semaphore>,
}

impl RelayState {
    fn new(gateway: SocketAddr) -> io::Result<RelayState> {
        let names: Rc<RefCell<Names>> = Rc::default();
        let most = most_connections();
        Ok(RelayState {
            gateway,
            login: std::env::var(CREDENTIALS).ok().and_then(|text| login(&text)),
            server: NameServer::new(Rc::clone(&names))?,
            names,
            connections: Arc::new(Semaphore::new(most)),
            most,
            queries: Arc::new(Semaphore::new(MAX_QUERIES)),
        })
    }
}

/// Most connections, for each of which two descriptors are needed. Raises the limit on descriptors as far
/// as the system allows.
fn most_connections() -> usize {
    let Rlimit { maximum, current } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current }.unwrap_or(u64::MAX);
    let pairs = (limit.saturating_sub(OTHER_DESCRIPTORS) / 2).clamp(1, MAX_CONNECTIONS);
    usize::try_from(pairs).unwrap_or(1)
}

/// Message with name and password (RFC 1929 §2); `None` if one is too long or missing.
fn login(credentials: &str) -> Option<Vec<u8>> {
    let (name, password) = credentials.split_once(':').filter(|(name, _)| !name.is_empty())?;
    let (name_length, password_length) = (u8::try_from(name.len()).ok()?, u8::try_from(password.len()).ok()?);
    Some([&[1, name_length], name.as_bytes(), &[password_length], password.as_bytes()].concat())
}

/// Accepts connections of the namespace.
async fn accept(listener: tokio::net::TcpListener, shared: Rc<RelayState>) {
    loop {
        // Fails only if the semaphore is closed, which it never is.
        let Ok(permit) = Arc::clone(&shared.connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Rc::clone(&shared);
                drop(spawn_local(async move {
                    serve(stream, &shared).await;
                    drop(permit);
                }));
            }
            // Descriptors have run out, or the connection has ended.
            Err(_) => pause(PAUSE).await,
        }
    }
}

/// Waits for so long.
async fn pause(time: Duration) {
    // Always elapses, because `pending` never ends.
    let _elapsed = timeout(time, std::future::pending::<()>()).await;
}

/// Serves one connection to its end. Its destination is its local address (TPROXY).
async fn serve(mut stream: TcpStream, shared: &RelayState) {
    let Ok(destination) = stream.local_addr() else { return };
    let passed = if destination == shared.gateway {
        pass_to_gateway(&mut stream, shared).await
    } else if destination.port() == DNS {
        answer_stream(&mut stream, shared).await
    } else {
        pass_on(&mut stream, destination, shared).await
    };
    if passed.is_err() {
        reset(&stream);
    }
}

/// Makes the end of a connection a reset.
fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
}

/// Passes a connection to the gateway itself.
async fn pass_to_gateway(stream: &mut TcpStream, shared: &RelayState) -> io::Result<()> {
    let mut gateway = dial::connect_address(shared.gateway).await?;
    let passed = tokio::io::copy_bidirectional(stream, &mut gateway).await;
    if passed.is_err() {
        reset(&gateway);
    }
    passed.map(|_| ())
}

/// Passes a connection on to its destination, through the gateway.
///
/// # Errors
/// If either side breaks, or the gateway refuses.
async fn pass_on(stream: &mut TcpStream, destination: SocketAddr, shared: &RelayState) -> io::Result<()> {
    let mut gateway = dial::connect_address(shared.gateway).await?;
    gateway.set_nodelay(true)?;
    stream.set_nodelay(true)?;
    greet(&mut gateway, shared).await?;
    let name = shared.names.borrow().name_of(destination.ip());
    gateway.write_all(&request(name.as_deref(), destination)).await?;
    let (mut from_program, mut to_program) = stream.split();
    let (mut from_gateway, mut to_gateway) = gateway.split();
    let there = async {
        copy(&mut from_program, &mut to_gateway).await?;
        to_gateway.shutdown().await
    };
    let back = async {
        let mut reply = [0; 10];
        from_gateway.read_exact(&mut reply).await?;
        if reply != Reply::Succeeded.bytes() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        copy(&mut from_gateway, &mut to_program).await?;
        to_program.shutdown().await
    };
    let passed = tokio::try_join!(there, back);
    if passed.is_err() {
        reset(&gateway);
    }
    passed.map(|_| ())
}

/// The handshake up to the request (RFC 1928 §3, RFC 1929).
async fn greet(gateway: &mut TcpStream, shared: &RelayState) -> io::Result<()> {
    let method = if shared.login.is_some() { AuthMethod::Password } else { AuthMethod::None };
    let [_, code] = method.bytes();
    gateway.write_all(&[VERSION, 2, PASSED_ON, code]).await?;
    let mut chosen = [0; 2];
    gateway.read_exact(&mut chosen).await?;
    if chosen != method.bytes() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    if let Some(login) = &shared.login {
        gateway.write_all(login).await?;
        gateway.read_exact(&mut chosen).await?;
        if chosen != Login::ACCEPTED {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    Ok(())
}

/// Request for a connection: to the name, if the destination stands for one.
fn request(name: Option<&str>, destination: SocketAddr) -> Vec<u8> {
    let mut request = vec![VERSION, 1, 0];
    let length = name.and_then(|name| u8::try_from(name.len()).ok());
    match (name.zip(length), destination.ip().to_canonical()) {
        (Some((name, length)), _) => {
            request.extend([3, length]);
            request.extend(name.as_bytes());
        }
        (None, IpAddr::V4(address)) => {
            request.push(1);
            request.extend(address.octets());
        }
        (None, IpAddr::V6(address)) => {
            request.push(4);
            request.extend(address.octets());
        }
    }
    request.extend(destination.port().to_be_bytes());
    request
}

/// Answers queries over UDP.
async fn answer_queries(socket: tokio::net::UdpSocket, shared: Rc<RelayState>) {
    let (socket, mut query) = (Rc::new(socket), vec![0; MAX_QUERY]);
    loop {
        // An error is that of an answer whose receiver is gone.
        let Ok((length, peer)) = socket.recv_from(&mut query).await else {
            pause(PAUSE).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&shared.queries).try_acquire_owned() else { continue };
        let (socket, shared, query) = (Rc::clone(&socket), Rc::clone(&shared), query[..length].to_vec());
        drop(spawn_local(async move {
            if let Some(answer) = shared.server.answer(&query).await {
                socket.send_to(&answer, peer).await.ok();
            }
            drop(permit);
        }));
    }
}

/// Answers queries over TCP, each behind its length (RFC 1035 §4.2.2).
async fn answer_stream(stream: &mut TcpStream, shared: &RelayState) -> io::Result<()> {
    loop {
        let read = async {
            let mut query = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut query).await?;
            Ok::<_, io::Error>(query)
        };
        let Ok(Ok(query)) = timeout(QUERY_TIMEOUT, read).await else { return Ok(()) };
        let Some(answer) = shared.server.answer(&query).await else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
    }
}
