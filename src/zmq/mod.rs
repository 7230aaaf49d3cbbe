//! ZeroMQ listener: programs ask for slots of a limit over REQ or DEALER sockets, and are answered `go` or `sorry`.
//!
//! The side of a ROUTER socket in ZMTP 3.1 (rfc.zeromq.org/spec/37), with the mechanisms NULL and PLAIN. Nothing is
//! decided here: asks count and wait by [`program_ask`](crate::proxy::program_ask), as those of `/acquire` do.
//!
//! | file | holds |
//! |---|---|
//! | `frames` | frames and messages, bytes in and out |
//! | `handshake` | greeting, mechanism, metadata |
//! | `message` | envelope of a message, the ask in it, the answer |
//! | `peer_conn` | one connection |
//! | `fault_log` | log of faulty peers, once per cause |
//!
//! No crate does this. Of `zeromq` 0.6.0 one message of a peer ends the process: a frame length of 2^63 panics in an
//! allocation, a million empty frames overflow the stack, and a short command panics in `split_to`; it has no PLAIN, and
//! no command but READY. `rzmq` 0.5 has 35 000 lines, a third of them for io_uring with unsafe code, one name and
//! password for a socket, and listens only on sockets that it binds itself, so none could be inherited. ZMTP without
//! them is some 700 lines, fuzzed as the other parsers are.

mod fault_log;
mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handshake;
mod message;
mod peer_conn;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::{io, iter, thread};

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::watch;
use tokio::task::spawn_local;

use self::fault_log::{FaultKind, FaultLog};
use self::peer_conn::PeerConn;
use crate::net::connection_limit::ConnToken;
use crate::net::drain::ConnGuard;
use crate::net::listen::{BACKLOG, ListenAddress, Listener, ListenerKind};
use crate::net::listener_stats::{ConnRejectReason, ListenerStats};
use crate::proxy::program_ask::ProgramPeer;
use crate::proxy::{CurrentSnapshot, Shared};

/// Word for the access log, in place of a method.
const PROTOCOL: &str = "ZMQ";

/// Phase of the accept loop; it only moves down this list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AcceptPhase {
    /// Peers wait in the kernel's queue.
    NotYet,
    /// Peers are accepted.
    Open,
    /// The queue is accepted to its end, and nothing after it.
    Drain,
    /// The queue is left to another process.
    Leave,
}

/// A running listener. Its thread serves the connected peers until they have gone, or the process ends.
pub struct ZmqListener {
    phase: watch::Sender<AcceptPhase>,
}

/// State of the accept loop.
struct AcceptLoop {
    listener: Listener,
    stats: Arc<ListenerStats>,
    shared: Shared,
    current: Arc<CurrentSnapshot>,
    faults: Rc<FaultLog>,
}

/// Starts the thread of a listener on `socket`; peers are accepted from [`ZmqListener::accept`] on.
///
/// Calls `failed` with the cause if the thread ends by a fault: the address would accept nothing from then on.
///
/// # Errors
/// If the system gives no thread, or the socket cannot be adopted.
pub fn open(
    socket: TcpListener,
    shared: Shared,
    current: Arc<CurrentSnapshot>,
    failed: impl FnOnce() + Send + 'static,
) -> io::Result<ZmqListener> {
    let (phase, phases) = watch::channel(AcceptPhase::NotYet);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let serve = move || {
        let guard = FailureCall(Some(failed));
        let opened = new_runtime().and_then(|runtime| {
            let _inside = runtime.enter();
            Ok((Listener::from_socket(socket)?, runtime))
        });
        let (listener, runtime) = match opened {
            Ok((listener, runtime)) => (listener, runtime),
            Err(error) => {
                guard.disarm();
                return drop(ready.send(Err(error)));
            }
        };
        // The receiver is gone only if the start was given up.
        ready.send(Ok(())).ok();
        let stats =
            shared.drain.add_listener(ListenAddress { address: listener.local_addr(), kind: ListenerKind::Proxy });
        let accept = AcceptLoop { listener, stats, shared, current, faults: Rc::default() };
        runtime.block_on(accept.run(phases));
        guard.disarm();
    };
    thread::Builder::new().name("zmq".to_owned()).spawn(serve)?;
    is_ready.recv().map_err(io::Error::other)??;
    Ok(ZmqListener { phase })
}

/// A single-threaded runtime: a peer's work is well below what a core can do for all of them.
fn new_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

impl ZmqListener {
    /// Begins to accept peers, those in the kernel's queue first.
    pub fn accept(&self) {
        self.advance(AcceptPhase::Open);
    }

    /// Stops accepting; peers in the kernel's queue are accepted.
    pub fn close(&self) {
        self.advance(AcceptPhase::Drain);
    }

    /// Stops accepting; peers in the kernel's queue are left to the process that has the socket now.
    pub fn release(&self) {
        self.advance(AcceptPhase::Leave);
    }

    fn advance(&self, phase: AcceptPhase) {
        self.phase.send_replace(phase);
    }
}

/// Calls a function when dropped by a panic.
struct FailureCall<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> FailureCall<F> {
    /// Drops the guard without a call.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for FailureCall<F> {
    fn drop(&mut self) {
        if let Some(failed) = self.0.take() {
            failed();
        }
    }
}

impl AcceptLoop {
    /// Accepts in the phases that allow it, then waits until the last peer has gone.
    async fn run(mut self, mut phases: watch::Receiver<AcceptPhase>) {
        let mut phase = AcceptPhase::NotYet;
        while matches!(phase, AcceptPhase::NotYet | AcceptPhase::Open) {
            tokio::select! {
                biased;
                changed = phases.changed() => match changed {
                    Ok(()) => phase = *phases.borrow_and_update(),
                    // The gateway ends without a word, by an error.
                    Err(_) => phase = AcceptPhase::Leave,
                },
                accepted = self.next(), if phase == AcceptPhase::Open => self.start(accepted),
            }
        }
        if phase == AcceptPhase::Drain {
            // Bounded, so that peers that connect meanwhile cannot hold up the thread.
            let backlog: Vec<_> = iter::from_fn(|| self.listener.try_accept()).take(BACKLOG.into()).collect();
            backlog.into_iter().for_each(|accepted| self.start(accepted));
        }
        let AcceptLoop { listener, stats, shared, .. } = self;
        drop(listener);
        stats.mark_closed();
        shared.drain.wait_closed().await;
    }

    /// Accepts the next peer once the limit on connections allows one.
    async fn next(&mut self) -> (TcpStream, SocketAddr) {
        poll_fn(|cx| self.shared.connections.poll_capacity(cx)).await;
        self.listener.accept().await
    }

    /// Starts to serve a peer, if its address is admitted.
    fn start(&self, (stream, peer): (TcpStream, SocketAddr)) {
        let Some(token) = self.admit(peer) else { return };
        let guard = self.shared.drain.conn_guard_by(&self.stats);
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => {
                let program = Arc::new(ProgramPeer::new(Arc::clone(&self.current), peer, PROTOCOL));
                let (current, drain) = (Arc::clone(&self.current), self.shared.drain.clone());
                let conn = PeerConn::new(stream, self.stats.address, program, current, drain, Rc::clone(&self.faults));
                spawn_local(serve(conn, guard, token));
            }
            Err(error) => tracing::warn!(%error, "an accepted connection could not be registered with the runtime"),
        }
    }

    /// A token for a peer of this address; `None`: its connection is closed.
    fn admit(&self, peer: SocketAddr) -> Option<ConnToken> {
        if !self.current.snapshot().may_connect_from(peer.ip()) {
            self.stats.count_rejected(ConnRejectReason::NotAllowed);
            self.faults.log(FaultKind::NotAllowed, peer, "its address is not in [access] allow_from");
            return None;
        }
        let token = self.shared.connections.try_acquire(peer.ip());
        if token.is_none() {
            self.stats.count_rejected(ConnRejectReason::TooMany);
        }
        token
    }
}

/// Serves a peer, which is counted until it has gone.
async fn serve(conn: PeerConn, guard: ConnGuard, token: ConnToken) {
    conn.serve().await;
    drop((guard, token));
}
