//! Proxy listeners: bound, accepted from, and replaced by a reload without losing a connection.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::{io, iter};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};

use super::Error;
use super::listen_error::ListenError;
use super::worker_pool::WorkerPool;
use crate::net::listen::{BACKLOG, ListenAddress, Listener, ListenerKind};
use crate::net::listener_stats::ListenerStats;

/// The open listeners for callers: `[listen] proxy` and `transparent`, in the order of the file.
pub(super) struct Listeners {
    open: RefCell<Vec<BoundListener>>,
    /// Listening sockets from systemd or another process, each with the address that is configured
    /// for it.
    inherited: RefCell<Vec<(SocketAddr, TcpListener)>>,
    /// Channel for [`Error::Accept`], if an accept loop panics.
    failed: mpsc::UnboundedSender<Error>,
}

/// An open listener.
struct BoundListener {
    /// The address in the file; port 0 is any.
    configured: ListenAddress,
    /// The same with the port that the system chose.
    bound: SocketAddr,
    /// A duplicate of the listening socket, for another process.
    socket: TcpListener,
    /// Ends the accept loop.
    close: oneshot::Sender<OnClose>,
    /// Runs the accept loop, until the listener is closed.
    task: JoinHandle<()>,
}

/// Policy for the backlog of a listener that is closed: connections that are complete for the
/// caller, and not yet accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OnClose {
    /// Accept and serve them: closing the socket would reset them.
    Accept,
    /// Leave them to another process that listens on the same socket.
    Leave,
}

/// The listeners of a new configuration: new ones are bound, and accept nothing yet.
pub(super) struct BindPlan(Vec<PlannedListener>);

/// One listener of a [`BindPlan`].
enum PlannedListener {
    /// The listener that is open at this bound address stays.
    Keep(SocketAddr),
    /// A new one.
    Open(PendingListener),
}

/// A listener that is bound, and accepts nothing yet.
struct PendingListener {
    /// As [`BoundListener::configured`].
    configured: ListenAddress,
    listener: Listener,
    /// A duplicate of its socket.
    socket: TcpListener,
}

impl BindPlan {
    /// The addresses in the order of the file, with the ports that the system chose.
    pub(super) fn bound(&self) -> Vec<SocketAddr> {
        let bound = |planned: &PlannedListener| match planned {
            PlannedListener::Keep(bound) => *bound,
            PlannedListener::Open(pending) => pending.listener.local_addr(),
        };
        self.0.iter().map(bound).collect()
    }
}

impl Listeners {
    /// No open listener yet. [`Listeners::plan`] and [`Listeners::bind`] take sockets from
    /// `inherited` before they bind new ones. `failed` gets an [`Error::Accept`] if an accept loop
    /// panics.
    pub(super) fn new(inherited: Vec<(SocketAddr, TcpListener)>, failed: mpsc::UnboundedSender<Error>) -> Listeners {
        Listeners { open: RefCell::default(), inherited: RefCell::new(inherited), failed }
    }

    /// Duplicates of all open sockets, each with its configured address.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub(super) fn sockets(&self) -> io::Result<Vec<(SocketAddr, TcpListener)>> {
        let open = self.open.borrow();
        open.iter().map(|listener| Ok((listener.configured.address, listener.socket.try_clone()?))).collect()
    }

    /// Binds those of the `configured` addresses that are not open yet. Those
    /// that are stay.
    ///
    /// # Errors
    /// Names the address that cannot be bound; nothing has changed then.
    pub(super) fn plan(&self, configured: &[ListenAddress]) -> Result<BindPlan, ListenError> {
        let open = self.open.borrow();
        let mut before: Vec<&BoundListener> = open.iter().collect();
        let mut known = |configured: &ListenAddress| {
            let at = before.iter().position(|listener| listener.configured == *configured)?;
            Some(before.swap_remove(at).bound)
        };
        let known: Vec<_> = configured.iter().map(&mut known).collect();
        // The listeners left in `before` will close; until then they may occupy the port of a new one.
        let conflicting = |new: SocketAddr| {
            let conflicts = |old: &&&BoundListener| new.port() != 0 && old.bound.port() == new.port();
            before.iter().filter(conflicts).map(|old| &old.socket).collect::<Vec<_>>()
        };
        let plan = |(configured, known): (&ListenAddress, Option<SocketAddr>)| {
            if let Some(bound) = known {
                return Ok(PlannedListener::Keep(bound));
            }
            let address = configured.address;
            let bound = match self.take_inherited(address) {
                Some(socket) => Listener::from_socket(socket),
                None => Listener::bind_replacing(address, &conflicting(address)),
            };
            let bound = bound.and_then(|listener| Ok((listener.try_clone_socket()?, listener)));
            let (socket, listener) = bound.map_err(|why| ListenError { key: key_of(configured.kind), address, why })?;
            if configured.kind == ListenerKind::Transparent
                && let Err(error) = listener.accept_any_destination()
            {
                tracing::debug!(%address, %error, "TPROXY cannot lead connections here, REDIRECT can");
            }
            Ok(PlannedListener::Open(PendingListener { configured: *configured, listener, socket }))
        };
        Ok(BindPlan(configured.iter().zip(known).map(plan).collect::<Result<_, _>>()?))
    }

    /// A listening socket for another service than the proxy: the inherited one of this address, or
    /// a new one. `key` of the configuration names the address.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub(super) fn bind(
        &self,
        configured: SocketAddr,
        key: &'static str,
    ) -> Result<(SocketAddr, TcpListener), ListenError> {
        let socket = match self.take_inherited(configured) {
            Some(socket) => Ok(socket),
            None => Listener::bind(configured).and_then(|listener| listener.try_clone_socket()),
        };
        Ok((configured, socket.map_err(|why| ListenError { key, address: configured, why })?))
    }

    /// Takes the inherited socket of an address, if there is one.
    fn take_inherited(&self, configured: SocketAddr) -> Option<TcpListener> {
        let mut inherited = self.inherited.borrow_mut();
        let at = inherited.iter().position(|(known, _)| *known == configured)?;
        // Sockets of one address stay in order: with port 0 several are configured alike.
        Some(inherited.remove(at).1)
    }

    /// Opens the new listeners of a plan, then closes those that it does not keep, and returns when they are closed: no
    /// later connection reaches them, not even if a new listener has the same port on more addresses. `workers` get the
    /// connections.
    pub(super) async fn apply(&self, plan: BindPlan, workers: &Rc<WorkerPool>) {
        for removed in self.replace(plan, workers) {
            let bound = removed.bound;
            // An accept loop that has panicked is reported by its guard.
            removed.close(OnClose::Accept).await.ok();
            tracing::info!(address = %bound, "no longer listening");
        }
        for (address, _socket) in self.inherited.borrow_mut().drain(..) {
            tracing::warn!(%address, "inherited socket closed: [listen] does not name its address");
        }
    }

    /// Opens the new listeners of a plan, and returns those that it does not keep.
    fn replace(&self, plan: BindPlan, workers: &Rc<WorkerPool>) -> Vec<BoundListener> {
        let mut open = self.open.borrow_mut();
        let mut before = std::mem::take(&mut *open);
        for planned in plan.0 {
            match planned {
                PlannedListener::Open(pending) => open.push(self.open(pending, workers)),
                PlannedListener::Keep(bound) => {
                    let at = before.iter().position(|listener| listener.bound == bound);
                    open.extend(at.map(|at| before.swap_remove(at)));
                }
            }
        }
        before
    }

    /// Closes all listeners; the connections in their backlogs are served.
    pub(super) fn close_all(&self) {
        self.open.borrow_mut().drain(..).for_each(|listener| drop(listener.close(OnClose::Accept)));
    }

    /// Closes all listeners of this process. Another process has their sockets, and accepts the
    /// connections in their backlogs.
    pub(super) fn release_all(&self) {
        self.open.borrow_mut().drain(..).for_each(|listener| drop(listener.close(OnClose::Leave)));
    }

    /// Starts the accept loop of a listener.
    fn open(&self, pending: PendingListener, workers: &Rc<WorkerPool>) -> BoundListener {
        let PendingListener { configured, mut listener, socket } = pending;
        let bound = listener.local_addr();
        match configured.kind {
            ListenerKind::Proxy => tracing::info!(address = %bound, "listening"),
            ListenerKind::Transparent => tracing::info!(address = %bound, "listening for redirected connections"),
        }
        let (close, closing) = oneshot::channel();
        let (workers, guard) = (Rc::clone(workers), AcceptGuard { failed: Some(self.failed.clone()), bound });
        let stats = workers.listener_stats(ListenAddress { address: bound, kind: configured.kind });
        listener.set_on_exhausted(workers.close_idle());
        let task = spawn_local(async move {
            if accept_loop(&mut listener, &workers, &stats, closing).await == OnClose::Accept {
                // Bounded, so that callers that connect meanwhile cannot hold up the thread.
                let backlog = iter::from_fn(|| workers.try_accept(&mut listener)).take(BACKLOG.into());
                for (stream, peer) in backlog {
                    workers.dispatch(stream, peer, &stats);
                }
            }
            drop(listener);
            stats.mark_closed();
            guard.disarm();
        });
        BoundListener { configured, bound, socket, close, task }
    }
}

impl BoundListener {
    /// Ends the accept loop, which treats its backlog by `policy`. The listener is closed when the task ends; to
    /// wait for that is optional.
    fn close(self, policy: OnClose) -> JoinHandle<()> {
        // The accept loop may have ended by a panic.
        self.close.send(policy).ok();
        self.task
    }
}

/// Key of the file that names the listener.
fn key_of(kind: ListenerKind) -> &'static str {
    match kind {
        ListenerKind::Proxy => "[listen] proxy",
        ListenerKind::Transparent => "[listen] transparent",
    }
}

/// Accepts connections and gives them to the workers, until the listener is closed. Returns the
/// policy for its backlog.
async fn accept_loop(
    listener: &mut Listener,
    workers: &WorkerPool,
    stats: &Arc<ListenerStats>,
    mut closing: oneshot::Receiver<OnClose>,
) -> OnClose {
    loop {
        tokio::select! {
            biased;
            policy = &mut closing => return policy.unwrap_or(OnClose::Accept),
            (stream, peer) = workers.accept(listener) => workers.dispatch(stream, peer, stats),
        }
    }
}

/// Guard of an accept loop: reports [`Error::Accept`] if a panic drops it.
struct AcceptGuard {
    /// `None`: disarmed.
    failed: Option<mpsc::UnboundedSender<Error>>,
    bound: SocketAddr,
}

impl AcceptGuard {
    /// Drops the guard without a report.
    fn disarm(mut self) {
        self.failed = None;
    }
}

impl Drop for AcceptGuard {
    fn drop(&mut self) {
        // The receiver is gone while the gateway exits.
        if let Some(failed) = self.failed.take() {
            failed.send(Error::Accept(self.bound)).ok();
        }
    }
}
