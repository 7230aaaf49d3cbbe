//! Worker pool: one runtime per core that serves connections, each with its own connections to
//! origins.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker, ready};
use std::thread;

use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::new_runtime;
use crate::net::connection_limit::{ConnToken, ConnectionLimit};
use crate::net::dial::is_local;
use crate::net::drain::{ConnGuard, Drain};
use crate::net::listen::{ListenAddress, Listener, ListenerKind};
use crate::net::listener_stats::ListenerStats;
use crate::proxy::metrics::Metrics;
use crate::proxy::task_pool::{NewTask, TaskPool};
use crate::proxy::{ConnAdmission, ConnectionServer, CurrentSnapshot, Shared, Worker};

/// Maximum number of idle tasks that each worker keeps for the next connections, some 5 KiB each.
/// Measured: a new task takes 2 of the 100 µs that a short connection takes.
const MAX_IDLE_TASKS: usize = 64;

/// All workers. The first one runs on the thread that accepts connections; each other has a thread
/// of its own.
pub(super) struct WorkerPool {
    workers: Vec<WorkerHandle>,
    /// Counts open connections.
    drain: Drain,
    /// Bounds open connections, of all callers and of one.
    limit: ConnectionLimit,
    /// Decides which connections are served.
    admission: Arc<ConnAdmission>,
    /// The configuration in force, by which it decides.
    current: Arc<CurrentSnapshot>,
    /// Knows the connection pools of all workers.
    metrics: Arc<Metrics>,
}

/// One worker, as seen by the thread that accepts connections.
struct WorkerHandle {
    /// Number of its open connections, those in its inbox included. `usize::MAX / 2` and more: its
    /// thread has ended.
    connections: Arc<AtomicUsize>,
    inbox: Inbox,
}

/// Inbox of a worker.
enum Inbox {
    /// Of the worker on the accepting thread.
    Local(Rc<LocalQueue>),
    /// Of a worker on another thread. Unbounded: file descriptors bound the number of connections.
    Remote(mpsc::UnboundedSender<AcceptedConn>),
}

/// An accepted connection on its way to a worker, with the counts that hold it until it is closed.
struct AcceptedConn {
    stream: TcpStream,
    peer: SocketAddr,
    /// Counters of the listener that accepted it.
    listener: Arc<ListenerStats>,
    load: LoadGuard,
    /// Held in the process's count of open connections.
    guard: ConnGuard,
    /// Held against the connection limit.
    token: ConnToken,
}

/// Counts one connection in its worker's load until it is dropped.
struct LoadGuard(Arc<AtomicUsize>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WorkerHandle {
    fn new(inbox: Inbox) -> WorkerHandle {
        WorkerHandle { connections: Arc::default(), inbox }
    }

    /// Counts one more connection until the guard is dropped.
    fn load_guard(&self) -> LoadGuard {
        self.connections.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(&self.connections))
    }
}

impl WorkerPool {
    /// Starts a worker for each core that this process may use, and returns when all are ready.
    ///
    /// # Errors
    /// If the system gives no thread or no runtime.
    pub(super) fn start(proxy: &Arc<CurrentSnapshot>, shared: &Shared) -> io::Result<WorkerPool> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let admission = Arc::new(ConnAdmission::new(shared.connections.clone()));
        let local = LocalQueue::new(Worker::new(proxy), Arc::clone(&admission));
        let mut workers = vec![WorkerHandle::new(Inbox::Local(local))];
        for index in 1..cores {
            let inbox = spawn_worker(index, Arc::clone(proxy), Arc::clone(&admission))?;
            workers.push(WorkerHandle::new(Inbox::Remote(inbox)));
        }
        tracing::debug!(runtimes = cores, "runtimes started");
        let current = Arc::clone(proxy);
        let (drain, limit, metrics) = (shared.drain.clone(), shared.connections.clone(), Arc::clone(&shared.metrics));
        Ok(WorkerPool { workers, drain, limit, admission, current, metrics })
    }

    /// Counters of a new listener.
    pub(super) fn listener_stats(&self, listener: ListenAddress) -> Arc<ListenerStats> {
        self.drain.add_listener(listener)
    }

    /// Returns a function that frees file descriptors for callers: it closes the idle connections
    /// to origins of all workers.
    pub(super) fn close_idle(&self) -> impl Fn() + Send + 'static {
        let metrics = Arc::clone(&self.metrics);
        move || _ = metrics.close_idle()
    }

    /// Accepts the next connection, as soon as `max_connections` allows one more.
    ///
    /// # Cancel safety
    /// Cancel safe: no connection is lost.
    pub(super) async fn accept(&self, listener: &mut Listener) -> (TcpStream, SocketAddr) {
        let mut accepting = pin!(listener.accept());
        poll_fn(|cx| {
            ready!(self.limit.poll_capacity(cx));
            accepting.as_mut().poll(cx)
        })
        .await
    }

    /// Accepts a connection from the listener's backlog; `None` if the backlog is empty or
    /// `max_connections` is reached.
    pub(super) fn try_accept(&self, listener: &mut Listener) -> Option<(TcpStream, SocketAddr)> {
        let room = self.limit.poll_capacity(&mut Context::from_waker(Waker::noop()));
        if room.is_ready() { listener.try_accept() } else { None }
    }

    /// Gives a connection to a worker. Closes it instead, without reading a byte, if `[access]
    /// allow_from` does not contain its peer or too many connections are open; if it must begin with
    /// a PROXY header, the worker decides on that.
    ///
    /// Programs of this machine whose connections the kernel has led here come from loopback, as they do
    /// at other listeners, whichever address they would have shown to their origin.
    pub(super) fn dispatch(&self, stream: TcpStream, mut peer: SocketAddr, stats: &Arc<ListenerStats>) {
        if stats.kind == ListenerKind::Transparent && !peer.ip().is_loopback() && is_local(peer.ip()) {
            peer.set_ip(if peer.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        if let Some(token) = self.admission.accept(&self.current.snapshot(), peer, stats) {
            self.assign(stream, peer, token, stats);
        }
    }

    /// Gives a connection to the worker with the fewest; among equals to the first one, which needs
    /// no thread to be woken.
    fn assign(&self, stream: TcpStream, peer: SocketAddr, token: ConnToken, stats: &Arc<ListenerStats>) {
        let fewest = self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        let Some(worker) = fewest else { return };
        let (load, guard) = (worker.load_guard(), self.drain.conn_guard_by(stats));
        let conn = AcceptedConn { stream, peer, listener: Arc::clone(stats), load, guard, token };
        match &worker.inbox {
            Inbox::Local(queue) => queue.push(conn),
            Inbox::Remote(inbox) => {
                if inbox.send(conn).is_err() {
                    tracing::error!("a worker thread has ended, and its connections with it");
                    // It counts as full from here on.
                    worker.connections.store(usize::MAX / 2, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Starts a worker on a thread of its own, and returns its inbox when its runtime is ready.
///
/// # Errors
/// If the system gives no thread or no runtime.
fn spawn_worker(
    index: usize,
    proxy: Arc<CurrentSnapshot>,
    admission: Arc<ConnAdmission>,
) -> io::Result<mpsc::UnboundedSender<AcceptedConn>> {
    let (inbox, accepted) = mpsc::unbounded_channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let work = move || match new_runtime() {
        Ok(runtime) => {
            // The receiver is gone only if the start was given up; then `accepted` is closed, too.
            ready.send(Ok(())).ok();
            runtime.block_on(run_worker(proxy, admission, accepted));
            runtime.shutdown_background();
        }
        Err(error) => drop(ready.send(Err(error))),
    };
    thread::Builder::new().name(format!("worker-{index}")).spawn(work)?;
    is_ready.recv().map_err(io::Error::other)??;
    Ok(inbox)
}

/// Serves the connections of an inbox until the pool is dropped.
async fn run_worker(
    proxy: Arc<CurrentSnapshot>,
    admission: Arc<ConnAdmission>,
    mut accepted: mpsc::UnboundedReceiver<AcceptedConn>,
) {
    let queue = LocalQueue::new(Worker::new(&proxy), admission);
    while let Some(conn) = accepted.recv().await {
        queue.push(conn);
    }
    queue.tasks.end();
}

/// Queue of accepted connections on a worker's own thread, and the tasks that serve them.
struct LocalQueue {
    worker: Worker,
    admission: Arc<ConnAdmission>,
    tasks: TaskPool<AcceptedConn>,
}

impl LocalQueue {
    fn new(worker: Worker, admission: Arc<ConnAdmission>) -> Rc<LocalQueue> {
        Rc::new(LocalQueue { worker, admission, tasks: TaskPool::new(MAX_IDLE_TASKS) })
    }

    /// Gives the connection to an idle task, or to a new one.
    fn push(self: &Rc<Self>, conn: AcceptedConn) {
        if let Some(task) = self.tasks.submit(conn) {
            spawn_local(Box::pin(serve_loop(Rc::clone(self), task)));
        }
    }
}

/// Loop of a task: registers a connection with the runtime, serves it until it is closed, and takes
/// the next one.
async fn serve_loop(queue: Rc<LocalQueue>, task: NewTask) {
    let mut server = ConnectionServer::new(queue.worker.clone(), Arc::clone(&queue.admission));
    while let Some(conn) = poll_fn(|cx| queue.tasks.poll_take(task, cx)).await {
        let AcceptedConn { stream, peer, listener, load, guard, mut token } = conn;
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => server.serve(stream, peer, &listener, &mut token).await,
            Err(error) => tracing::warn!(%error, "an accepted connection could not be registered with the runtime"),
        }
        drop((load, guard, token));
    }
}
